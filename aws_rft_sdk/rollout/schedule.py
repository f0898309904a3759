"""Which rollout begins next, when, and whether any more begin. Pure: time is passed in."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.errors import BreakerError, ConfigurationError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs.records import RolloutRecord

DEFAULT_RETRIES = "infrastructure=2"
DEFAULT_RETRY_BUDGET = "20%"
BREAKER = 32
"""Rollouts of a run that all fail for the same reason before the command ends the run."""


class Planned(NamedTuple):
    """One attempt at one rollout. Ordered as attempts begin, where several may."""

    prompt_index: int
    sample_index: int
    attempt: int
    """Attempts at this rollout, this one included."""
    prompt: str

    @property
    def key(self) -> tuple[int, int]:
        """Which rollout of the run this is: prompt and sample."""
        return self[:2]


class Schedule:
    """Hands out rollouts so that whole groups finish early: group by group, and repetitions before new rollouts.

    Args:
        prompts: Prompt cells; read as rollouts begin.
        group_size: Rollouts of each prompt.
        done: Prompt and sample of rollouts that need not run.
        attempts: How often rollouts were tried before, by prompt and sample; those not named, never.
        retries: Repetitions of one rollout at most, as for `parse_retries`.
        retry_budget: Repetitions of all rollouts together at most, rounded up; None for no limit.
    """

    def __init__(
        self,
        prompts: Iterable[str],
        group_size: int,
        *,
        done: Container[tuple[int, int]] = frozenset(),
        attempts: dict[tuple[int, int], int] | None = None,
        retries: int | str | Mapping[str, int] = 0,
        retry_budget: float | None = None,
    ) -> None:
        self._before = attempts or {}
        self._fresh = self._plan(prompts, group_size, done)
        self._again: list[Planned] = []
        self._retries = parse_retries(retries)
        self._budget = math.inf if retry_budget is None else retry_budget

    def _plan(self, prompts: Iterable[str], group_size: int, done: Container[tuple[int, int]]) -> Iterator[Planned]:
        for prompt_index, prompt in enumerate(prompts):
            for sample_index in range(group_size):
                if (prompt_index, sample_index) not in done:
                    attempt = self._before.get((prompt_index, sample_index), 0) + 1
                    yield Planned(prompt_index, sample_index, attempt, prompt)

    def next(self) -> Planned | None:
        """Return the rollout that begins next, None when there is none at the moment."""
        if self._again:
            return heapq.heappop(self._again)
        return next(self._fresh, None)

    def failed(self, planned: Planned, kind: FailureKind) -> bool:
        """Plan a failed rollout again, if retries and budget allow it. Returns whether they do.

        Each repetition counts, whatever it was for: with `infrastructure=2,agent=1`, a rollout that infrastructure
        broke once is not repeated for what its agent raises then.
        """
        tried = planned.attempt - self._before.get(planned.key, 0)
        if tried > self._retries[kind] or self._budget <= 0:
            return False
        self._budget -= 1
        heapq.heappush(self._again, planned._replace(attempt=planned.attempt + 1))
        return True


class Breaker:
    """Ends a run whose first rollouts all fail for the same reason: kind and type of the error.

    A rollout counts once, however often it is repeated. The first one that completes, or fails for another reason,
    disarms the breaker for good.

    Args:
        limit: Rollouts after which it trips; None for never.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._first: RolloutRecord | None = None
        self._failed: set[tuple[int, int]] = set()

    def note(self, record: RolloutRecord) -> BreakerError | None:
        """Note an attempt that has ended, and return what to end the run with; None to go on."""
        if self._limit is None:
            return None
        self._first = self._first or record
        if record.ended_well or record.reason != self._first.reason:
            self._limit = None
            return None
        self._failed.add(record.key)
        if len(self._failed) < self._limit:
            return None
        kind, error = self._first.failure, self._first.error or "no error was raised"
        return BreakerError(
            f"the first {len(self._failed)} rollouts all failed for the same reason, {kind.value if kind else '?'}: "
            "no more were begun. Mend it, or go on all the same with --no-breaker (in Python, breaker=None). "
            f"The first one: {self._first.traceback or error}"
        )


class Pace:
    """Spaces the starts of rollouts evenly.

    Args:
        starts_per_second: At most; None for no limit.
    """

    def __init__(self, starts_per_second: float | None) -> None:
        self._gap = 0.0 if starts_per_second is None else 1.0 / starts_per_second
        self._next_at = -math.inf

    def wait_seconds(self, now: float) -> float:
        """Return how long the next start has to wait, 0 for not at all."""
        return max(0.0, self._next_at - now)

    def started(self, now: float) -> None:
        """Note a start."""
        # Not from `now`, so that a late start does not slow all later ones; but no burst after a pause either.
        due = self._next_at + self._gap
        self._next_at = due if due > now else now + self._gap


def parse_retries(value: int | str | Mapping[str, int]) -> dict[FailureKind, int]:
    """Return how often a rollout may be repeated after a failure of each kind.

    Args:
        value: One number for every kind, or numbers by kind; also as text: `N`, or `KIND=N[,KIND=N]`. A kind that is
            not named is not repeated.

    Raises:
        ConfigurationError: It has another form, names a kind that there is not, or a number is below 0.
    """
    kinds = {kind.value: kind for kind in FailureKind}
    given: Any = value
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        try:
            given = {kind.strip(): int(count) for kind, _, count in parts} if parts[0][1] else int(value)
        except ValueError as error:
            form = "a number, or numbers by kind such as infrastructure=2,model=1"
            raise ConfigurationError(f"retries is {value!r}; it must be {form}") from error
    by_kind = given if isinstance(given, Mapping) else dict.fromkeys(kinds, given)
    for kind, count in by_kind.items():
        if kind not in kinds:
            raise ConfigurationError(f"retries names the kind {kind!r}; the kinds are {', '.join(kinds)}")
        check_number(f"retries for {kinds[kind].value}", count, low=0, whole=True)
    return {kinds[kind]: by_kind.get(kind, 0) for kind in kinds}


def parse_share(name: str, value: int | str, rollouts: int) -> float:
    """Return a number of rollouts that is given as a count, or as a share of all rollouts such as `20%`.

    Args:
        name: Of the option, for the message.
        value: What was given.
        rollouts: Rollouts of the run.

    Raises:
        ConfigurationError: It is neither, or below 0.
    """
    text = str(value)
    try:
        # Multiplied first: 29 % of 100 are 29, and 0.29 * 100 is less.
        count = float(text[:-1]) * rollouts / 100 if text.endswith("%") else int(text)
    except ValueError:
        count = -1
    if not 0 <= count < math.inf:
        raise ConfigurationError(f"{name} is {text!r}. Give a count such as 10, or a share such as 20%")
    return count
