"""What came of a replay, as values and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runs.request_diff import RequestDifference

_SHOWN_DIFFERENCES = 5


class ReplayStatus(str, Enum):
    """How the replay of a rollout ended, compared with the rollout."""

    SAME = "same"
    """Every request, the reward and the error are the recorded ones."""
    DIVERGED = "diverged"
    """A request differs. What came after it says little: the agent was given answers to other questions."""
    WENT_ON = "went on"
    """Every recorded turn is the same, and the agent asked for one more, for which there is no answer."""
    STOPPED_EARLY = "stopped early"
    """Recorded turns were not asked for; those that were are the same."""
    ERROR_CHANGED = "error changed"
    """The turns are the same, and the handler raised what it did not, or did not raise what it did."""
    REWARD_CHANGED = "reward changed"
    """The turns are the same, and the reward is another one."""
    NOT_STARTED = "not started"
    """The recorded rollout never began, so there is nothing to replay. Not counted as a difference."""
    MISSING = "missing"
    """There is a record of the rollout, and its turns or its prompt cannot be read. Counted as a difference."""


@dataclass(frozen=True)
class ReplayedRollout:
    """One rollout and its replay."""

    trajectory_id: str
    """That of the recorded rollout."""
    prompt_index: int
    sample_index: int
    status: ReplayStatus
    turn: int | None = None
    """The first turn that differs, was not asked for, or is one too many, from 0; None where no turn differs."""
    differences: tuple[RequestDifference, ...] = ()
    """How the request of that turn differs."""
    recorded_rewards: tuple[float, ...] | None = None
    """What the runtime got: one number, or one for each turn; None when it got none."""
    rewards: tuple[float, ...] | None = None
    """The same of the replay."""
    recorded_turns: int = 0
    """Turns with an answer to give."""
    turns: int = 0
    """Requests of the replay."""
    recorded_error: str | None = None
    error: str | None = None
    """Type and message of what the replay raised; None when it raised nothing."""
    steady: bool | None = None
    """Whether a second replay came out as the first. False: the agent is not deterministic, so the difference may have
    nothing to do with the code. None when there was no second one."""
    ignored: int = 0
    """Texts that differ in nothing but fresh ids and times, not counted as differences."""
    note: str | None = None
    """What else there is to know; None for nothing."""

    @property
    def id(self) -> str:
        """The former name of `trajectory_id`."""
        return self.trajectory_id

    @property
    def differs(self) -> bool:
        """Whether the replay is not the rollout again."""
        return self.status not in (ReplayStatus.SAME, ReplayStatus.NOT_STARTED)

    def __str__(self) -> str:
        lines = [
            f"rollout {self.trajectory_id} (prompt {self.prompt_index}, sample {self.sample_index}): {self._headline()}"
        ]
        for difference in self.differences[:_SHOWN_DIFFERENCES]:
            lines += str(difference).splitlines()
        if len(self.differences) > _SHOWN_DIFFERENCES:
            lines.append(f"and {len(self.differences) - _SHOWN_DIFFERENCES} more differences in this request")
        if kind_of(self.recorded_error) != kind_of(self.error):
            lines.append(f"error {self.recorded_error or 'none'} -> {self.error or 'none'}")
        if self.status is not ReplayStatus.MISSING and self.recorded_rewards != self.rewards:
            lines.append(f"reward {_shown(self.recorded_rewards)} -> {_shown(self.rewards)}")
        if self.steady is False:
            lines.append("a second replay came out otherwise: the agent is not deterministic")
        if self.note:
            lines.append(self.note)
        return "\n  ".join(lines)

    def _headline(self) -> str:
        if self.turn is None:
            return self.status.value
        where = {
            ReplayStatus.DIVERGED: f"at turn {self.turn} of 0 to {self.recorded_turns - 1}",
            ReplayStatus.WENT_ON: f"to turn {self.turn}, and the last recorded one is {self.recorded_turns - 1}",
            ReplayStatus.STOPPED_EARLY: f"without turn {self.turn} of 0 to {self.recorded_turns - 1}",
        }
        return f"{self.status.value} {where.get(self.status, f'at turn {self.turn}')}"

    def to_json(self) -> dict[str, JSON]:
        """Return it as plain JSON."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["status"] = self.status.value
        plain["differences"] = [vars(difference) for difference in self.differences]
        return plain


@dataclass(frozen=True)
class ReplayReport:
    """A replay of many rollouts. Its text is for people: `assert report.same, str(report)`."""

    rollouts: tuple[ReplayedRollout, ...] = field(repr=False)
    """In the order of the dataset, group by group."""
    changed_sources: tuple[str, ...] = ()
    """The handler's source files that are not as they were when the rollouts ran, as far as that is known."""

    @classmethod
    def of(cls, rollouts: Iterable[ReplayedRollout], changed_sources: Sequence[str] = ()) -> ReplayReport:
        """Return the report of some rollouts."""
        return cls(tuple(rollouts), tuple(changed_sources))

    @property
    def same(self) -> bool:
        """Whether something was replayed, and nothing differs."""
        return not self.differing and any(rollout.status is ReplayStatus.SAME for rollout in self.rollouts)

    @property
    def differing(self) -> tuple[ReplayedRollout, ...]:
        """The rollouts whose replay differs, in order."""
        return tuple(rollout for rollout in self.rollouts if rollout.differs)

    @property
    def counts(self) -> dict[str, int]:
        """How many rollouts have each status, by its value; without those that none has."""
        found = Counter(rollout.status for rollout in self.rollouts)
        return {status.value: found[status] for status in ReplayStatus if found[status]}

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items()) or "none"
        lines = [f"{len(self.rollouts)} rollouts replayed: {counts}"]
        for alike in group_alike(self.differing):
            if len(alike) > 1:
                lines.append(f"{len(alike)} rollouts differ in the same place. The first of them:")
            lines.append(str(alike[0]))
        if ignored := sum(rollout.ignored for rollout in self.rollouts):
            lines.append(f"{ignored} texts differ in fresh ids and times only, and count as the same")
        if self.changed_sources:
            lines.append(f"source files changed since the rollouts ran: {', '.join(self.changed_sources)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, JSON]:
        """Return it as plain JSON."""
        return {
            "same": self.same,
            "counts": self.counts,
            "changed_sources": list(self.changed_sources),
            "rollouts": [rollout.to_json() for rollout in self.rollouts],
        }


def group_alike(rollouts: Iterable[ReplayedRollout]) -> list[list[ReplayedRollout]]:
    """Group rollouts whose replays differ in one way and in one place, in the order of their first ones."""
    groups: dict[object, list[ReplayedRollout]] = {}
    for rollout in rollouts:
        first = rollout.differences[0] if rollout.differences else None
        # What a tool was called with is part of the words; another call of the tool is still the same place.
        place = None if first is None else (first.kind, first.what.partition("(")[0], first.where.partition("[")[0])
        groups.setdefault((rollout.status, place, kind_of(rollout.error), rollout.steady), []).append(rollout)
    return list(groups.values())


def kind_of(error: str | None) -> str | None:
    """Return the type of an error; None for no error. Messages quote ids and addresses of the run."""
    return None if error is None else error.partition(":")[0]


def _shown(rewards: tuple[float, ...] | None) -> str:
    if rewards is None:
        return "none"
    return f"{rewards[0]:g}" if len(rewards) == 1 else f"[{', '.join(f'{reward:g}' for reward in rewards)}]"
