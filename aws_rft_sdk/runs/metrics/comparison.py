"""Whether one run is better than another, or whether that may be noise. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import NormalDist, fmean, variance
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN, Group, group_rollouts
from aws_rft_sdk.runs.metrics.intervals import (
    CONFIDENCE,
    SEED,
    constant_interval,
    estimate,
    mean_over_prompts,
    percentile_interval,
    replicates,
)
from aws_rft_sdk.runs.metrics.measuring import SUCCESS_THRESHOLD
from aws_rft_sdk.runs.metrics.passk import ks_up_to
from aws_rft_sdk.runs.records import RolloutRecord, latest_records

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
class Comparison:
    """Two runs of the same prompts, or of different ones when they are not paired."""

    paired: bool
    success_threshold: float
    confidence: float
    prompts: int
    """Prompts in both runs; in the smaller one when they are not paired."""
    only_in_a: int
    """Prompts that B does not have, left out; 0 when they are not paired."""
    only_in_b: int
    no_reward_a: int
    """Rollouts without a reward, as in `Metrics`."""
    no_reward_b: int
    differences: tuple[Difference, ...]
    """Success (pass@1) first, then the mean reward, then pass@k and pass^k for greater k."""

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as a JSON object, without NaN."""
        rows = [{**asdict(row), "better": row.better, "verdict": row.verdict} for row in self.differences]
        return {**asdict(self), "differences": rows}


def compare(
    a: Iterable[RolloutRecord],
    b: Iterable[RolloutRecord],
    *,
    paired: bool = True,
    success_threshold: float = SUCCESS_THRESHOLD,
    confidence: float = CONFIDENCE,
    resamples: int | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare two runs, prompt by prompt.

    A pair is a prompt with the same `prompt_index` in both: whether that is the same prompt, the caller knows. Prompts
    of one run only are left out and counted. Groups may differ in size. A rollout without a reward is no success; a
    prompt without any reward in one of the runs is left out of the mean reward.

    Args:
        a: Rollouts of the first run; of several records of one rollout the last counts.
        b: Rollouts of the second run.
        paired: False for runs of different prompts. Intervals are wider then.
        success_threshold: Lowest reward that counts as a success.
        confidence: Of the intervals, between 0 and 1.
        resamples: Of the bootstrap; None for 2,000, and fewer with more than 2,500 prompts.
        seed: Of the bootstrap.

    Raises:
        ConfigurationError: The runs have no prompt in common, one is empty, or the confidence is not between 0 and 1,
            or a reward is too large.
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence is {confidence:g}; it must be between 0 and 1")
    runs = [group_rollouts(latest_records(records), success_threshold) for records in (a, b)]
    if not all(runs):
        raise ConfigurationError(f"no rollout has ended in {'B' if runs[0] else 'A'}")
    missing = [sum(group.samples - len(group.rewards) for group in run) for run in runs]
    indexes = [{group.prompt_index for group in run} for run in runs]
    common = indexes[0] & indexes[1]
    if paired:
        if not common:
            raise ConfigurationError("the runs have no prompt in common; --unpaired compares runs of different prompts")
        runs = [[group for group in run if group.prompt_index in common] for run in runs]
    bootstrap = _Bootstrap(confidence, resamples, seed)
    figures = _figures(runs)
    if paired:
        rows = bootstrap.paired(figures, runs)
    else:
        rows = [row for figure in figures if (row := bootstrap.unpaired(figure, runs)) is not None]
    return Comparison(
        paired=paired,
        success_threshold=success_threshold,
        confidence=confidence,
        prompts=min(map(len, runs)),
        only_in_a=len(indexes[0] - common) if paired else 0,
        only_in_b=len(indexes[1] - common) if paired else 0,
        no_reward_a=missing[0],
        no_reward_b=missing[1],
        differences=tuple(rows),
    )


@dataclass(frozen=True)
class _Figure:
    name: str
    is_share: bool
    value: Callable[[Group], float | None]
    bounds: tuple[float, float] | None
    """Of the difference of one prompt."""


def _figures(runs: Sequence[Sequence[Group]]) -> list[_Figure]:
    rewards = [reward for run in runs for group in run for reward in group.rewards]
    # Nobody tells the range of a reward; what was seen stands in for it.
    seen = max(rewards) - min(rewards) if rewards else 0.0
    figures = [
        _Figure("eval/reward/pass_at_1", True, partial(Group.pass_at, k=1), _SHARE_BOUNDS),
        _Figure("eval/reward/mean", False, lambda group: group.mean, (-seen, seen) if seen else None),
    ]
    for k in ks_up_to(min(max(group.samples for group in run) for run in runs))[1:]:
        figures.append(_Figure(f"eval/reward/pass_at_{k}", True, partial(Group.pass_at, k=k), _SHARE_BOUNDS))
        figures.append(_Figure(f"eval/reward/pass_power_{k}", True, partial(Group.pass_power, k=k), _SHARE_BOUNDS))
    return figures


@dataclass(frozen=True)
class _Bootstrap:
    confidence: float
    resamples: int | None
    seed: int

    def paired(self, figures: Sequence[_Figure], runs: Sequence[Sequence[Group]]) -> list[Difference]:
        pairs = [
            [_pair(figure.value(one), figure.value(two)) for one, two in zip(*runs, strict=True)] for figure in figures
        ]
        changes = [[None if pair is None else pair[1] - pair[0] for pair in row] for row in pairs]
        found = estimate(
            [mean_over_prompts(row, figure.bounds) for figure, row in zip(figures, changes, strict=True)],
            confidence=self.confidence,
            resamples=self.resamples,
            seed=self.seed,
        )
        differences = []
        for figure, row, change in zip(figures, pairs, found, strict=True):
            known = [pair for pair in row if pair is not None]
            if change is None:
                continue
            spread = variance(two - one for one, two in known) if len(known) > 1 else 0.0
            differences.append(
                Difference(
                    name=figure.name,
                    is_share=figure.is_share,
                    a=fmean(one for one, _ in known),
                    b=fmean(two for _, two in known),
                    difference=change.value,
                    low=change.low,
                    high=change.high,
                    prompts=len(known),
                    prompts_needed=prompts_needed(change.value, spread, self.confidence),
                )
            )
        return differences

    def unpaired(self, figure: _Figure, runs: Sequence[Sequence[Group]]) -> Difference | None:
        one, two = ([value for value in map(figure.value, run) if value is not None] for run in runs)
        if not one or not two:
            return None
        difference, fewest = fmean(two) - fmean(one), min(len(one), len(two))
        # Two seeds: with one, runs of the same number of prompts would be resampled alike, as if they were paired. Each
        # run keeps its seed when both change places, so that the interval is the same with the signs turned.
        sides = (0, 1) if one <= two else (1, 0)
        drawn = [
            replicates([mean_over_prompts(values)], resamples=self.resamples, seed=2 * self.seed + side)[0]
            for side, values in zip(sides, (one, two), strict=True)
        ]
        changes = [last - first for first, last in zip(*drawn, strict=False)]
        if max(changes) - min(changes) <= EQUAL_WITHIN:
            low, high = constant_interval(difference, fewest, figure.bounds, self.confidence)
        else:
            low, high = percentile_interval(changes, fewest, self.confidence) or (None, None)
        spread = sum(variance(values) if len(values) > 1 else 0.0 for values in (one, two))
        return Difference(
            name=figure.name,
            is_share=figure.is_share,
            a=fmean(one),
            b=fmean(two),
            difference=difference,
            low=low,
            high=high,
            prompts=fewest,
            prompts_needed=prompts_needed(difference, spread, self.confidence),
        )


def _pair(a: float | None, b: float | None) -> tuple[float, float] | None:
    return None if a is None or b is None else (a, b)


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
