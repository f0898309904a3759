"""Whether one run is better than another, or whether that may be noise. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress
from operator import attrgetter, methodcaller
from statistics import NormalDist, fmean
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN, Groups, ratios, std
from aws_rft_sdk.runs.metrics.intervals import (
    CONFIDENCE,
    SEED,
    Estimate,
    Figure,
    constant_interval,
    estimate,
    expansion_interval,
    mean_over_prompts,
    method_of,
    percentile_interval,
    replicates,
)
from aws_rft_sdk.runs.metrics.measuring import SUCCESS_THRESHOLD
from aws_rft_sdk.runs.metrics.passk import ks_up_to
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import RolloutTable

POWER = 0.8
"""Probability of seeing a difference that is there, in the count of prompts needed (Cohen's convention)."""
_SHARE_BOUNDS = (-1.0, 1.0)
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Difference:
    """One figure in both runs. B minus A throughout: positive when B is greater."""

    name: str
    """As in `Metrics.to_dict`."""
    is_share: bool
    """Whether the figure is a share between 0 and 1, whose differences are told in points of a hundred."""
    a: float
    b: float
    """Means over the prompts that count."""
    difference: float
    low: float | None
    """Lower end of the interval, None when nothing can be said."""
    high: float | None
    prompts: int
    """Prompts that count, of the smaller run when they are not paired."""
    prompts_needed: int | None
    """Prompts with which a difference of this size would probably be told from noise; None when there is none."""

    @property
    def better(self) -> str | None:
        """The run that is better, "A" or "B"; None when the difference may be noise."""
        if self.low is None or self.high is None:
            return None
        return "B" if self.low > 0 else "A" if self.high < 0 else None

    @property
    def verdict(self) -> str:
        """What that means, in a sentence."""
        scale, unit = (100, " points") if self.is_share else (1, "")
        digits = 1 if self.is_share else 4
        seen = f"{scale * self.difference:+.{digits}f}{unit}"
        if self.low is None or self.high is None:
            if abs(self.difference) <= EQUAL_WITHIN:
                return f"no difference on any prompt of {self.prompts}"
            return f"{seen}, but too few prompts ({self.prompts}) to tell it from noise"
        ends = [scale * end for end in (self.low, self.high)]
        if self.better == "A":  # told from the side of the better run
            ends = [-end for end in reversed(ends)]
        interval = f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
        if self.better is None:
            return f"the difference may be noise: {seen} {interval}"
        return f"{self.better} is better by {scale * abs(self.difference):.{digits}f}{unit} {interval}"


@dataclass(frozen=True)
class RunComparison:
    """Two runs of the same prompts, or of different ones when they are not paired."""

    paired: bool
    success_threshold: float
    confidence: float
    interval_method: str
    """As in `Metrics`."""
    prompts: int
    """Prompts in both runs; in the smaller one when they are not paired."""
    only_in_a: int
    """Prompts that B does not have, left out; 0 when they are not paired."""
    only_in_b: int
    failures_a: Mapping[str, int]
    """Rollouts that failed or were not reported, by kind, as in `Metrics`."""
    failures_b: Mapping[str, int]
    failures_as_zero: bool
    """Whether these count with a reward of 0. Otherwise they are left out."""
    no_reward_a: int
    """Rollouts that count and have no reward, as in `Metrics`."""
    no_reward_b: int
    sources_a: Mapping[str, int]
    """Rollouts of each version of SDK and handler, as in `Metrics`."""
    sources_b: Mapping[str, int]
    differences: tuple[Difference, ...]
    """Success (pass@1) first, then the mean reward, pass@k and pass^k for greater k, and what both handlers report."""

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as a JSON object, without NaN."""
        rows = [{**asdict(row), "better": row.better, "verdict": row.verdict} for row in self.differences]
        return {**asdict(self), "differences": rows}


def compare(
    a: Iterable[RolloutRecord] | RolloutTable,
    b: Iterable[RolloutRecord] | RolloutTable,
    *,
    paired: bool = True,
    success_threshold: float = SUCCESS_THRESHOLD,
    failures_as_zero: bool = False,
    confidence: float = CONFIDENCE,
    resamples: int | None = None,
    seed: int = SEED,
) -> RunComparison:
    """Compare two runs, prompt by prompt.

    A pair is a prompt with the same `prompt_index` in both: whether that is the same prompt, the caller knows. Prompts
    of one run only are left out and counted. Groups may differ in size. Rollouts that failed or were not reported are
    left out and counted by kind. A completed rollout without a reward is no success; a prompt without any reward in one
    of the runs is left out of the mean reward.

    Args:
        a: Rollouts of the first run; of several records of one rollout the last counts.
        b: Rollouts of the second run.
        paired: False for runs of different prompts. Intervals are wider then.
        success_threshold: Lowest reward that counts as a success.
        failures_as_zero: Whether rollouts that failed or were not reported count with a reward of 0 instead.
        confidence: Of the intervals, between 0 and 1.
        resamples: Of the bootstrap; None for 2,000, and for its closed form with more than 2,500 prompts.
        seed: Of the bootstrap.

    Raises:
        ConfigurationError: The runs have no prompt in common, or none with a rollout that counts in both; one is empty;
            the confidence is not between 0 and 1; or a reward is too large.
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence is {confidence:g}; it must be between 0 and 1")
    tables = [RolloutTable.of(records) for records in (a, b)]
    if not all(map(len, tables)):
        raise ConfigurationError(f"no rollout has ended in {'B' if len(tables[0]) else 'A'}")
    runs = [Groups(table, success_threshold, failures_as_zero) for table in tables]
    places: Sequence[Sequence[int]] = [range(len(run)) for run in runs]
    if paired:
        places = _common(runs[0].prompt_index, runs[1].prompt_index)
        if not places[0]:
            raise ConfigurationError("the runs have no prompt in common; --unpaired compares runs of different prompts")
    interval, figures = _Interval(confidence, resamples, seed), _figures(tables, runs, places)
    if paired:
        rows = interval.paired(figures, runs, places)
    else:
        rows = [row for figure in figures if (row := interval.unpaired(figure, runs)) is not None]
    if not rows:
        raise ConfigurationError(
            f"no rollout completed in both runs{' of any prompt' if paired else ''}, so there is nothing to compare; "
            "--failures-as-zero counts those that failed as 0"
        )
    counted = list(map(len, places))
    return RunComparison(
        paired=paired,
        success_threshold=success_threshold,
        confidence=confidence,
        interval_method=method_of(max(counted), resamples),
        prompts=min(counted),
        only_in_a=len(runs[0]) - counted[0],
        only_in_b=len(runs[1]) - counted[1],
        failures_a=tables[0].failure_counts(),
        failures_b=tables[1].failure_counts(),
        failures_as_zero=failures_as_zero,
        no_reward_a=sum(runs[0].samples) - sum(runs[0].rewarded),
        no_reward_b=sum(runs[1].samples) - sum(runs[1].rewarded),
        sources_a=tables[0].source_counts(),
        sources_b=tables[1].source_counts(),
        differences=tuple(rows),
    )


def _common(a: Sequence[int], b: Sequence[int]) -> tuple[array[int], array[int]]:
    """Return where the numbers stand that are in both of two ascending sequences."""
    places = array("I"), array("I")
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            places[0].append(i)
            places[1].append(j)
        i, j = i + (a[i] <= b[j]), j + (a[i] >= b[j])
    return places


@dataclass(frozen=True)
class _Figure:
    name: str
    is_share: bool
    value: Callable[[Groups], array[float]]
    """Of each group, NaN where there is none."""
    bounds: tuple[float, float] | None
    """Of the difference of one prompt."""


def _figures(tables: Sequence[RolloutTable], runs: Sequence[Groups], places: Sequence[Sequence[int]]) -> list[_Figure]:
    # Nobody tells the range of a reward; what was seen stands in for it.
    rewards = [
        end
        for run, where in zip(runs, places, strict=True)
        for column in (run.least, run.greatest)
        for end in _range(array("d", map(column.__getitem__, where)))
    ]
    largest = [max(map(run.samples.__getitem__, where)) for run, where in zip(runs, places, strict=True)]
    figures = [
        _Figure("eval/reward/pass_at_1", True, methodcaller("pass_at", 1), _SHARE_BOUNDS),
        _Figure("eval/reward/mean", False, attrgetter("means"), _difference_bounds(rewards)),
    ]
    for k in ks_up_to(min(largest))[1:]:
        figures.append(_Figure(f"eval/reward/pass_at_{k}", True, methodcaller("pass_at", k), _SHARE_BOUNDS))
        figures.append(_Figure(f"eval/reward/pass_power_{k}", True, methodcaller("pass_power", k), _SHARE_BOUNDS))
    for name in sorted(tables[0].metrics.keys() & tables[1].metrics.keys()):
        values = [end for table in tables for end in _range(table.metrics[name][1])]
        figures.append(_Figure(f"handler/{name}", False, partial(_reported, name), _difference_bounds(values)))
    return figures


def _reported(name: str, groups: Groups) -> array[float]:
    return ratios(*groups.reported(name))


def _range(values: Sequence[float]) -> tuple[float, ...]:
    known = array("d", (value for value in values if value == value))
    return (min(known), max(known)) if known else ()


def _difference_bounds(values: Sequence[float]) -> tuple[float, float] | None:
    seen = max(values) - min(values) if values else 0.0
    return (-seen, seen) if seen else None


@dataclass(frozen=True)
class _Interval:
    confidence: float
    resamples: int | None
    seed: int

    def paired(
        self, figures: Sequence[_Figure], runs: Sequence[Groups], places: Sequence[Sequence[int]]
    ) -> list[Difference]:
        sides: list[tuple[array[float], array[float]]] = []

        def changes() -> Iterator[Figure]:
            for figure in figures:
                one, two = (
                    array("d", map(figure.value(run).__getitem__, where))
                    for run, where in zip(runs, places, strict=True)
                )
                change = array("d", (last - first for first, last in zip(one, two, strict=True)))
                known = bytes(value == value for value in change)
                sides.append((array("d", compress(one, known)), array("d", compress(two, known))))
                yield mean_over_prompts(change, figure.bounds)

        found = estimate(changes(), confidence=self.confidence, resamples=self.resamples, seed=self.seed)
        return [
            self._difference(figure, one, two, change, _variance([b - a for a, b in zip(one, two, strict=True)]))
            for figure, (one, two), change in zip(figures, sides, found, strict=True)
            if change is not None
        ]

    def unpaired(self, figure: _Figure, runs: Sequence[Groups]) -> Difference | None:
        one, two = (array("d", (value for value in figure.value(run) if value == value)) for run in runs)
        if not one or not two:
            return None
        low, high = self._ends(figure, one, two)
        change = Estimate(fmean(two) - fmean(one), low, high)
        return self._difference(figure, one, two, change, _variance(one) + _variance(two))

    def _ends(self, figure: _Figure, one: array[float], two: array[float]) -> tuple[float | None, float | None]:
        difference, fewest = fmean(two) - fmean(one), min(len(one), len(two))
        if max(map(_width, (one, two))) <= EQUAL_WITHIN:
            return constant_interval(difference, fewest, figure.bounds, self.confidence)
        if method_of(max(len(one), len(two)), self.resamples) == "expansion" and fewest > 1:
            (of_one, third_one), (of_two, third_two) = (mean_over_prompts(side).cumulants for side in (one, two))
            return expansion_interval(difference, of_one + of_two, third_two - third_one, fewest, self.confidence)
        # Two seeds: with one, runs of the same number of prompts would be resampled alike, as if they were paired. Each
        # run keeps its seed when both change places, so that the interval is the same with the signs turned.
        seeds = (0, 1) if one <= two else (1, 0)
        drawn = [
            replicates([mean_over_prompts(values)], resamples=self.resamples, seed=2 * self.seed + side)[0]
            for side, values in zip(seeds, (one, two), strict=True)
        ]
        changes = [last - first for first, last in zip(*drawn, strict=False)]
        return percentile_interval(changes, fewest, self.confidence) or (None, None)

    def _difference(
        self, figure: _Figure, one: array[float], two: array[float], change: Estimate, variance: float
    ) -> Difference:
        return Difference(
            name=figure.name,
            is_share=figure.is_share,
            a=fmean(one),
            b=fmean(two),
            difference=change.value,
            low=change.low,
            high=change.high,
            prompts=min(len(one), len(two)),
            prompts_needed=prompts_needed(change.value, variance, self.confidence),
        )


def _variance(values: Sequence[float]) -> float:
    return std(values) ** 2 * len(values) / (len(values) - 1) if len(values) > 1 else 0.0


def _width(values: Sequence[float]) -> float:
    return max(values) - min(values)


def prompts_needed(difference: float, spread: float, confidence: float = CONFIDENCE) -> int | None:
    """Return roughly how many prompts tell a difference from noise with a probability of 80 %.

    `((z(1 - alpha / 2) + z(power)) / difference) ** 2 * spread`, at least 2. Source: the sample size of a z test, as in
    Miller, Adding Error Bars to Evals, arXiv 2411.00640, on power. It takes the difference that was seen for the true
    one, so it is rough, and too low when luck made the difference large.

    Args:
        difference: Mean difference; None is returned for 0.
        spread: Variance of the differences of paired prompts; the sum of both runs' variances when they are not paired.
        confidence: Of the interval that must not hold 0.
    """
    if abs(difference) <= EQUAL_WITHIN:
        return None
    z = _NORMAL.inv_cdf((1 + confidence) / 2) + _NORMAL.inv_cdf(POWER)
    return max(2, math.ceil((z / difference) ** 2 * spread))
