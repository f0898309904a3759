"""Which rollout begins next, and when. Pure: time is passed in."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from aws_rft_sdk.errors import ConfigurationError

DEFAULT_RETRY_BUDGET = "20%"


class Planned(NamedTuple):
    """One attempt at one rollout. Ordered as attempts begin, where several may."""

    prompt_index: int
    sample_index: int
    attempt: int
    """Attempts at this rollout, this one included."""
    prompt: str


class Schedule:
    """Hands out rollouts so that whole groups finish early: group by group, and repetitions before new rollouts.

    Args:
        prompts: Prompt cells; read as rollouts begin.
        group_size: Rollouts of each prompt.
        done: Prompt and sample of rollouts that need not run.
        attempts: How often rollouts were tried before, by prompt and sample; those not named, never.
        retries: Repetitions of one rollout at most.
        retry_budget: Repetitions of all rollouts together at most; None for no limit.
    """

    def __init__(
        self,
        prompts: Iterable[str],
        group_size: int,
        *,
        done: Container[tuple[int, int]] = frozenset(),
        attempts: dict[tuple[int, int], int] | None = None,
        retries: int = 0,
        retry_budget: int | None = None,
    ) -> None:
        self._before = attempts or {}
        self._fresh = self._plan(prompts, group_size, done)
        self._again: list[Planned] = []
        self._retries = retries
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

    def failed(self, planned: Planned) -> bool:
        """Plan a failed rollout again, if retries and budget allow it. Returns whether they do."""
        tried = planned.attempt - self._before.get((planned.prompt_index, planned.sample_index), 0)
        if tried > self._retries or self._budget < 1:
            return False
        self._budget -= 1
        heapq.heappush(self._again, planned._replace(attempt=planned.attempt + 1))
        return True


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


def parse_retry_budget(value: int | str, rollouts: int) -> int:
    """Return how many repetitions a run may make. A share of the rollouts is rounded up.

    Raises:
        ConfigurationError: See `parse_share`.
    """
    return math.ceil(parse_share("retry-budget", value, rollouts))


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
