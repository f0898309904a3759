"""Rollouts by prompt. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import groupby, starmap
from typing import Any, NamedTuple

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics.passk import pass_at_k, pass_power_k
from aws_rft_sdk.runs.table import COMPLETED, RolloutTable

EQUAL_WITHIN = 1e-9
"""Rewards of a group that differ by less are equal: a trainer adds more than this before it divides by their spread."""

_GREATEST = 1e100
"""Of rewards: the squares of greater ones, which a spread needs, may be beyond floats."""


class Group(NamedTuple):
    """The rollouts of one prompt that count: those that completed, or all that ended where failures count as 0."""

    prompt_index: int
    samples: int
    successes: int
    rewarded: int
    """Rollouts that count and have a reward. Without any, the figures below are NaN."""
    total: float
    """Sum of the rewards."""
    std: float
    least: float
    greatest: float

    @property
    def mean(self) -> float | None:
        """Mean of the rewards, None without any."""
        return self.total / self.rewarded if self.rewarded else None

    @property
    def spread(self) -> float | None:
        """Greatest reward minus least, None with less than two: one reward says nothing about a spread."""
        return self.greatest - self.least if self.rewarded > 1 else None

    @property
    def has_no_variance(self) -> bool:
        """Whether there are at least two rewards, all equal: the advantage of each is zero."""
        return self.rewarded > 1 and self.greatest - self.least <= EQUAL_WITHIN


class Groups:
    """The groups of a settled table in columns, in the order of the dataset. One `Group` for each when iterated over.

    Args:
        table: The rollouts.
        success_threshold: Lowest reward that counts as a success.
        failures_as_zero: Whether rollouts that failed or were not reported count, with a reward of 0. Otherwise they
            are left out: what the runtime was sent for them is no score.

    Raises:
        ConfigurationError: A reward is too large for figures to be computed.
    """

    def __init__(self, table: RolloutTable, success_threshold: float, failures_as_zero: bool = False) -> None:
        self.prompt_index, self.samples = array("I"), array("I")
        self.ended = array("I")
        """Rollouts that have ended, those that do not count included."""
        self.successes, self.rewarded = array("I"), array("I")
        self.total, self.std, self.least, self.greatest = array("d"), array("d"), array("d"), array("d")
        self.rewards = array("d")
        """Of the rollouts that count and have one, group by group."""
        self._table = table
        start = 0
        for prompt, members in groupby(table.prompt):
            end = start + sum(1 for _ in members)
            rewards, statuses = table.reward[start:end], table.status[start:end]
            completed = statuses.count(COMPLETED)
            if completed < end - start:
                rewards = _without_failures(rewards, statuses, failures_as_zero)
            self.prompt_index.append(prompt)
            self.ended.append(end - start)
            self.samples.append(end - start if failures_as_zero else completed)
            self._add([reward for reward in rewards if reward == reward], success_threshold)  # all but NaN
            start = end

    def _add(self, rewards: list[float], success_threshold: float) -> None:
        least, greatest = (min(rewards), max(rewards)) if rewards else (math.nan, math.nan)
        if max(-least, greatest) > _GREATEST:
            named = least if -least > greatest else greatest
            raise ConfigurationError(
                f"a reward of prompt {self.prompt_index[-1]} is {named:g}; metrics take rewards up to {_GREATEST:g}"
            )
        self.successes.append(sum(reward >= success_threshold for reward in rewards))
        self.rewarded.append(len(rewards))
        self.rewards.extend(rewards)
        self.total.append(math.fsum(rewards))
        self.std.append(std(rewards) if rewards else math.nan)
        self.least.append(least)
        self.greatest.append(greatest)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Group]:
        return starmap(Group, zip(*self._columns, strict=True))

    @property
    def _columns(self) -> tuple[array[Any], ...]:
        rewards = (self.total, self.std, self.least, self.greatest)
        return self.prompt_index, self.samples, self.successes, self.rewarded, *rewards

    @property
    def means(self) -> array[float]:
        """Mean reward of each group, NaN without any."""
        return ratios(self.total, self.rewarded)

    def pass_at(self, k: int) -> array[float]:
        """pass@k of each group, NaN with less than k that count. A rollout without a reward did not succeed."""
        return self._pass(pass_at_k, k)

    def pass_power(self, k: int) -> array[float]:
        """pass^k of each group, NaN with less than k that count. A rollout without a reward did not succeed."""
        return self._pass(pass_power_k, k)

    def _pass(self, estimator: Callable[[int, int, int], float], k: int) -> array[float]:
        cached = lru_cache(maxsize=None)(lambda samples, successes: estimator(samples, successes, k))
        pairs = zip(self.samples, self.successes, strict=True)
        return array("d", (cached(*pair) if pair[0] >= k else math.nan for pair in pairs))

    def reported(self, name: str) -> tuple[array[float], array[int]]:
        """Return the sum of a number that the handler reports, and how many rollouts have it, for each group."""
        sums, counts = array("d", bytes(8 * len(self))), array("I", bytes(4 * len(self)))
        if name not in self._table.metrics:
            return sums, counts
        for row, value in zip(*self._table.metrics[name], strict=True):
            sums[self._place_of_row[row]] += value
            counts[self._place_of_row[row]] += 1
        return sums, counts

    @cached_property
    def _place_of_row(self) -> array[int]:
        places = array("I")
        for place, ended in enumerate(self.ended):
            places.extend([place] * ended)
        return places


def _without_failures(rewards: array[float], statuses: array[int], as_zero: bool) -> array[float]:
    instead = 0.0 if as_zero else math.nan
    pairs = zip(rewards, statuses, strict=True)
    return array("d", (reward if status == COMPLETED else instead for reward, status in pairs))


def ratios(sums: Sequence[float], counts: Sequence[int]) -> array[float]:
    """Return the mean of each group, NaN where there is nothing."""
    pairs = zip(sums, counts, strict=True)
    return array("d", (total / count if count else math.nan for total, count in pairs))


def std(values: Sequence[float]) -> float:
    """Return the standard deviation of a population (divided by n) of at least one value."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
