"""What learns between the steps of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction


@dataclass(frozen=True)
class Sample:
    """One completion of a prompt.

    Attributes:
        completion: The chat completion as the policy gave it, with token ids and log probabilities if it has them.
        reward: The grader's `aggregate_reward_score`.
        advantage: How far the reward is above the mean of its group, in standard deviations of the group. 0 if all
            rewards of the group are equal.
        metrics: The grader's `metrics_list`, by name.
    """

    completion: Mapping[str, Any]
    reward: float
    advantage: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def message(self) -> Mapping[str, Any]:
        """The assistant message."""
        return self.completion["choices"][0]["message"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Group:
    """The completions of one prompt in one step.

    Attributes:
        row: The row of the training file: `messages`, `reference_answer` and all its other keys.
        samples: The completions, in the order in which they were asked for.
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
        hyperparameters: `n_epochs`, `batch_size` and `learning_rate_multiplier`, as numbers.
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
        state: What was learnt so far. `LocalBedrock` stores it with the step, and gives it to the next one.
        metrics: Figures of the step. `entropy`, `pg_loss` and `grad_norm` are reported with the service's prefix
            `actor_`, all others under their own names.
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
