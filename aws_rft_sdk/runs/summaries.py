"""What a look at a run shows: a line for each rollout, and one rollout in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.runs.conversation import Message, TurnFacts
from aws_rft_sdk.runs.fidelity import Fidelity, fidelity_of
from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN
from aws_rft_sdk.types import Trajectory


@dataclass(frozen=True)
class RolloutSummary:
    """One rollout of a list. None stands for what is not known."""

    trajectory_id: str
    group: int | None
    """Position of its prompt in the dataset, from 0. For a database alone: in the order in which prompts came up."""
    sample: int | None
    """Position within its group, from 0. None for a database alone."""
    attempts: int
    superseded: bool
    """Whether a later attempt of the same rollout has a record."""
    reward: float | None
    """The number, or the sum of one for each turn."""
    turns: int | None
    prompt_tokens: int | None
    response_tokens: int | None
    tokens: int | None
    """Both together."""
    seconds: float | None
    started_at: float | None
    """Seconds since the epoch."""
    outcome: str
    """One of `where.OUTCOMES`."""
    error_kind: str | None
    """Value of a `FailureKind`."""
    error: str | None
    prompt: str | None
    """Its first 1,000 characters. None also while the turns were not read."""
    tools: Mapping[str, int] | None
    """Times that each tool was called, by its name. None while the turns were not read."""

    def to_json(self) -> dict[str, JSON]:
        """Return it as plain JSON, by the names of its fields."""
        return {**asdict(self), "tools": thaw(self.tools)}


class CurvePart(NamedTuple):
    """A part of the rollouts of a run, in the order in which they became known."""

    end: int
    """Rollouts up to the end of the part."""
    mean: float
    """Of the rewards."""
    began_at: float | None
    """When the first and the last of them began, in seconds since the epoch. None without a database."""
    ended_at: float | None


class GroupSummary(NamedTuple):
    """The rollouts of one prompt, superseded attempts left out. Figures of rewards are None without any."""

    group: int
    rollouts: int
    rewarded: int
    mean: float | None
    least: float | None
    greatest: float | None
    successes: int
    """Rewards that reach the success threshold."""

    @property
    def is_dead(self) -> bool:
        """Whether there are at least two rewards, all equal."""
        spread = None if self.least is None or self.greatest is None else self.greatest - self.least
        return self.rewarded > 1 and spread is not None and spread <= EQUAL_WITHIN


@dataclass(frozen=True)
class RolloutPage:
    """Some rollouts of a list."""

    rollouts: tuple[RolloutSummary, ...]
    matched: int
    """Rollouts that the filter lets pass."""
    total: int
    """All rollouts of the run, superseded attempts left out unless they were asked for."""


@dataclass(frozen=True)
class Conversation:
    """One rollout in full."""

    summary: RolloutSummary
    job_arn: str | None
    prompt: JSON
    """The whole prompt cell. None if nobody kept it."""
    messages: tuple[Message, ...]
    turns: tuple[TurnFacts, ...]
    tools: tuple[JSON, ...]
    """The tools that were offered to the policy, as OpenAI tool definitions. Secrets in them are masked."""
    rewards: tuple[float, ...] | None
    """What the runtime got: one number, or one for each turn."""
    floor: float | None
    """What the runtime got in place of a reward when infrastructure broke the rollout."""
    metrics: Mapping[str, JSON]
    """Figures that the handler returned, such as the components of the reward."""
    state: JSON
    """Final state of the environment that the handler returned."""
    traceback: str | None
    traceback_of: str | None
    """Trajectory id of the rollout that the traceback is of: the first with the same kind of error. None if there is no
    traceback."""
    notes: tuple[str, ...]
    """What is missing and why, one sentence each."""
    trajectory: Trajectory | None
    """The recorded requests and answers as they are, unmasked. None if there are none."""

    @property
    def fidelity(self) -> Fidelity | None:
        """Where the agent changed the history, computed anew. None if no requests were kept."""
        return fidelity_of(self.trajectory)

    def to_json(self) -> dict[str, JSON]:
        """Return it as plain JSON, without `trajectory`. `docs/show.md` lists the keys."""
        named = ("job_arn", "rewards", "floor", "traceback", "traceback_of")
        return {
            **self.summary.to_json(),
            **{name: getattr(self, name) for name in named},
            "prompt": thaw(self.prompt),
            "metrics": thaw(self.metrics),
            "state": thaw(self.state),
            "tools_offered": list(self.tools),
            "messages": [{**asdict(one), "calls": [call._asdict() for call in one.calls]} for one in self.messages],
            "turn_list": [asdict(turn) for turn in self.turns],
            "fidelity": None if (found := self.fidelity) is None else found.to_dict(),
            "notes": list(self.notes),
        }
