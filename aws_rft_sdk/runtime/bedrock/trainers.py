"""What learns between the steps of a job of `LocalBedrock` or `LocalJobs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction


@dataclass(frozen=True)
class Sample:
    """One completion of a prompt. In a multi-turn job: one model call of a rollout.

    Attributes:
        completion: The chat completion as the policy gave it, with token ids and log probabilities if it has them.
        reward: The grader's `aggregate_reward_score`. In a multi-turn job: the reward of the rollout.
        advantage: How far the reward is above the mean of its group, in standard deviations of the group. 0 if all
            rewards of the group are equal. In a multi-turn job: of the turn, by the job's `advantage_method`.
        metrics: The grader's `metrics_list`, by name. Empty in a multi-turn job.
        rollout: Index of the rollout in its group. 0 in a job with one turn.
        turn: Index of the model call in its rollout. 0 in a job with one turn.
    """

    completion: Mapping[str, Any]
    reward: float
    advantage: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    rollout: int = 0
    turn: int = 0

    @property
    def message(self) -> Mapping[str, Any]:
        """The assistant message."""
        return self.completion["choices"][0]["message"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Group:
    """The completions of one prompt in one step.

    Attributes:
        row: The row of the training file: `messages`, `reference_answer` and all its other keys. In a multi-turn job:
            `prompt`, the cell as text.
        samples: The completions, in the order in which they were asked for. In a multi-turn job: those of each rollout
            in the order of its turns.
    """

    row: Mapping[str, JSON]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class TrainingStep:
    """Everything that one training step learns from.

    Attributes:
        job_id: The job.
        step: Number of the step, from 1.
        total_steps: Steps of the whole job.
        hyperparameters: `n_epochs`, `batch_size` and `learning_rate_multiplier`, as numbers. In a multi-turn job: all
            hyperparameters of the job that are numbers, and `learning_rate_multiplier`, which is the job's
            `learning_rate` divided by the model's default.
        seed: The job's seed.
        groups: One group for each row of the batch.
    """

    job_id: str
    step: int
    total_steps: int
    hyperparameters: Mapping[str, float]
    seed: int
    groups: Sequence[Group]


class Update(NamedTuple):
    """What a trainer made of a step.

    Attributes:
        state: What was learnt so far. The server stores it with the step, and gives it to the next one.
        metrics: Figures of the step. `LocalBedrock` reports `entropy`, `pg_loss` and `grad_norm` with the service's
            prefix `actor_`, all others under their own names. `LocalJobs` reports all with the prefix `trainer/`.
    """

    state: bytes
    metrics: Mapping[str, float] = {}


class Trainer(Protocol):
    """Learns between the steps of jobs. It keeps nothing itself: what was learnt is in the state.

    So a checkpoint is a stored state, and a restarted server goes on from the state of the last step. If the server
    dies in the middle of a step, the step is done again from the state before it.

    Concurrency: the methods are called from several threads, one for each job.
    """

    def policy(self, state: bytes | None) -> Policy | PolicyFunction:
        """Return the policy with what was learnt. None is the base model, which has learnt nothing."""

    def step(self, state: bytes | None, step: TrainingStep) -> Update:
        """Learn from the groups of one step, and return the new state.

        The same state and the same step must give the same update. The job fails if this raises.
        """
