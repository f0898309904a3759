"""How good a set of rollouts is, in the service's names and definitions. Pure: all comes from the records.

The names are those of evaluation and training jobs (`eval/reward/*`, `eval/turns/*`, `eval/tokens/*`, `analysis/*`);
where the service leaves a definition open, docs/metrics.md says how it is read here. Standard deviations and variances
are those of a population (divided by n, numpy's default), so that the variance of all rewards is the mean variance
within groups plus the variance across groups when groups are of one size.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, compress
from statistics import fmean

from aws_rft_sdk._frozen import FrozenDict
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics.groups import Groups, std
from aws_rft_sdk.runs.metrics.intervals import (
    CONFIDENCE,
    SEED,
    Estimate,
    Figure,
    estimate,
    mean_over_prompts,
    method_of,
    quantile,
    seen_range,
)
from aws_rft_sdk.runs.metrics.passk import ks_up_to
from aws_rft_sdk.runs.records import RolloutRecord, RolloutStatus
from aws_rft_sdk.runs.table import STATUSES, RolloutTable

SUCCESS_THRESHOLD = 1.0
"""The service's default for `success_threshold`."""
_PASS_BOUNDS = (0.0, 1.0)


@dataclass(frozen=True)
class Spread:
    """Four figures of a set of numbers. All None without any number, `std` None without a second."""

    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: array[float] | array[int]) -> Spread:
        """Describe `values`, in any order."""
        if not values:
            return cls()
        return cls(fmean(values), std(values) if len(values) > 1 else None, min(values), max(values))


@dataclass(frozen=True)
class PassK:
    """pass@k and pass^k for one k, means over prompts."""

    k: int
    pass_at: Estimate
    pass_power: Estimate
    prompts: int
    left_out: int
    """Prompts with fewer than k rollouts, which say nothing about k."""


@dataclass(frozen=True)
class GroupFigures:
    """What the groups say. `compared` are those with at least two rewards."""

    compared: int
    within: Spread
    """Mean, std, min and max of each compared group, averaged over groups."""
    std_across: float | None
    """Of the groups' means; None with less than two."""
    variance_across: float | None
    mean_spread: float | None
    """Mean over compared groups of greatest minus least reward."""
    zero_variance: int
    """Compared groups whose rewards are all equal: they teach nothing."""
    zero_variance_right: int
    """Of these: equal rewards that reach the success threshold."""
    zero_variance_wrong: int
    """Of these: equal rewards of zero or less, below the threshold."""
    zero_variance_other: int
    """Of these: equal rewards in between."""
    zero_variance_zero_reward: int
    """Of these: equal rewards of exactly 0, as the service counts them."""
    arrived: int
    """Groups of which every rollout has a reward."""
    completion_ratio: float | None
    """`arrived` by the prompts that were to be run."""
    valid_ratio: float | None
    """Groups with a variance by the prompts that were to be run; None when no group could be compared."""
    valid_mean: float | None
    """Mean reward of the rollouts of groups with a variance."""

    @property
    def zero_variance_share(self) -> float | None:
        """Of the compared groups; None without any."""
        return self.zero_variance / self.compared if self.compared else None


@dataclass(frozen=True)
class Tokens:
    """Tokens of turns, of those rollouts whose policy counted them."""

    rollouts: int
    prompt_mean: float | None
    response: Spread
    limit: int | None
    """Most tokens that a response was allowed; None when that is not known."""
    at_limit_share: float | None
    """Share of these rollouts with a response as long as `limit`, or as the longest one when that is not known."""


@dataclass(frozen=True)
class HandlerMetric:
    """A number that the handler reports in `RolloutResult.metrics`, over the rollouts that have it."""

    name: str
    rollouts: int
    mean: Estimate
    min: float
    max: float


@dataclass(frozen=True)
class Seconds:
    """Time of rollouts. All None without any."""

    mean: float | None = None
    p50: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Metrics:
    """Figures over a set of rollouts. A share or mean of nothing is None, never 0 and never NaN."""

    rollouts: int
    completed: int
    failed: int
    unreported: int
    no_reward: int
    """Rollouts without a reward: not in any mean of rewards, no success in pass@k and pass^k."""
    superseded: int
    """Records that a later record of the same rollout replaces."""
    retried: int
    """Rollouts that were begun more than once."""
    unsure_turns: int
    """Turns that failed and may have been sampled all the same."""
    prompts: int
    expected_prompts: int
    rollouts_per_prompt: int
    smallest_group: int
    success_threshold: float
    confidence: float
    succeeded: int
    """Rollouts whose reward reaches the success threshold."""
    below_threshold: int
    """Rollouts whose reward does not. With `succeeded` and `no_reward`: all."""
    mean_reward: Estimate | None
    """Over the rollouts that have a reward."""
    reward: Spread
    zero_share: float | None
    """Share of the rewards that are exactly 0."""
    pass_k: tuple[PassK, ...]
    groups: GroupFigures
    turns: Spread
    tokens: Tokens | None
    """None when no policy counted them."""
    seconds: Seconds
    interval_method: str
    """How intervals were made: "bootstrap", or "expansion", its closed form for many prompts."""
    reported: tuple[HandlerMetric, ...] = ()
    """Numbers that the handler reports, by name. Texts, truth values and nested values are left out."""
    sources: Mapping[str, int] = field(default_factory=FrozenDict)
    """Rollouts of each version of SDK and handler, as text. More than one where a run mixes versions."""

    @property
    def not_completed_share(self) -> float | None:
        """Share of the rollouts that failed or were not reported."""
        return (self.failed + self.unreported) / self.rollouts if self.rollouts else None

    @property
    def success(self) -> Estimate | None:
        """pass@1: the mean over prompts of the share of rollouts that succeed."""
        return self.pass_k[0].pass_at if self.pass_k and self.pass_k[0].k == 1 else None

    def to_dict(self) -> dict[str, float | int | None]:
        """Return every figure under its flat name, in an order that does not change. None where there is nothing."""
        return {
            **_reward_names(self),
            **_pass_names(self.pass_k),
            **_run_names(self),
            **_analysis_names(self.groups),
            **_reported_names(self.reported),
        }


def measure(
    records: Iterable[RolloutRecord] | RolloutTable,
    *,
    success_threshold: float = SUCCESS_THRESHOLD,
    ks: Sequence[int] | None = None,
    prompts: int | None = None,
    group_size: int | None = None,
    max_tokens: int | None = None,
    confidence: float = CONFIDENCE,
    resamples: int | None = None,
    seed: int = SEED,
) -> Metrics:
    """Compute every figure of a set of rollouts.

    Args:
        records: Rollouts that have ended; of several records of one rollout the last counts. Otherwise in any order.
            A table (`RolloutTable.read`) takes a tenth of the memory.
        success_threshold: Lowest reward that counts as a success.
        ks: For pass@k and pass^k, each at least 1. None for 1, 2, 4, ... and the size of the largest group.
        prompts: Prompts that were to be run. None for those up to the last one of which a rollout has ended.
        group_size: Rollouts of each prompt that were to be run. None for the size of the largest group.
        max_tokens: Most tokens that a response was allowed, to see what was cut off. None when that is not known.
        confidence: Of the intervals, between 0 and 1.
        resamples: Of the bootstrap; None for 2,000, and for its closed form with more than 2,500 prompts.
        seed: Of the bootstrap. The same records and seed give the same intervals.

    Raises:
        ConfigurationError: A k is below 1, the confidence is not between 0 and 1, or a reward is too large.
    """
    if any(k < 1 for k in ks or ()):
        raise ConfigurationError(f"k is {min(ks or ())}; it must be at least 1")
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence is {confidence:g}; it must be between 0 and 1")
    table = RolloutTable.of(records)
    groups = Groups(table, success_threshold)
    rewards = array("d", (reward for reward in table.reward if reward == reward))
    largest = max(groups.samples, default=0)
    expected_prompts = max(table.prompt, default=-1) + 1 if prompts is None else prompts
    rollouts_per_prompt = largest if group_size is None else group_size
    names = sorted(table.metrics)
    usable = sorted({k for k in (ks_up_to(largest) if ks is None else ks) if k <= largest})
    found = estimate(
        chain(_reward_figures(groups, rewards, usable), map(partial(_reported_figure, table, groups), names)),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    statuses = Counter(table.status)
    succeeded = sum(groups.successes)
    return Metrics(
        rollouts=len(table),
        completed=statuses[STATUSES.index(RolloutStatus.COMPLETED)],
        failed=statuses[STATUSES.index(RolloutStatus.FAILED)],
        unreported=statuses[STATUSES.index(RolloutStatus.UNREPORTED)],
        no_reward=len(table) - len(rewards),
        superseded=table.superseded,
        retried=sum(attempts > 1 for attempts in table.attempts),
        unsure_turns=sum(table.unsure_turns),
        prompts=len(groups),
        expected_prompts=expected_prompts,
        rollouts_per_prompt=rollouts_per_prompt,
        smallest_group=min(groups.samples, default=0),
        success_threshold=success_threshold,
        confidence=confidence,
        succeeded=succeeded,
        below_threshold=len(rewards) - succeeded,
        mean_reward=found[0],
        reward=Spread.of(rewards),
        zero_share=sum(reward == 0 for reward in rewards) / len(rewards) if rewards else None,
        pass_k=tuple(_pass_k(groups, usable, found[1 : 1 + 2 * len(usable)])),
        groups=_group_figures(groups, success_threshold, expected_prompts, rollouts_per_prompt),
        turns=Spread.of(table.turns),
        tokens=_tokens(table, max_tokens),
        seconds=_seconds(table.seconds),
        interval_method=method_of(len(groups), resamples),
        reported=tuple(map(partial(_reported, table), names, found[1 + 2 * len(usable) :])),
        sources=table.source_counts(),
    )


def _reward_figures(groups: Groups, rewards: Sequence[float], ks: Sequence[int]) -> Iterator[Figure]:
    """Yield the mean reward, and pass@k and pass^k of each k."""
    yield Figure(groups.total, groups.rewarded, seen_range(rewards))
    for k in ks:
        yield mean_over_prompts(groups.pass_at(k), _PASS_BOUNDS)
        yield mean_over_prompts(groups.pass_power(k), _PASS_BOUNDS)


def _pass_k(groups: Groups, ks: Sequence[int], passes: Sequence[Estimate | None]) -> Iterator[PassK]:
    for k, at, power in zip(ks, passes[::2], passes[1::2], strict=True):
        if at is not None and power is not None:
            counted = sum(samples >= k for samples in groups.samples)
            yield PassK(k, at, power, counted, len(groups) - counted)


def _reported_figure(table: RolloutTable, groups: Groups, name: str) -> Figure:
    return Figure(*groups.reported(name), seen_range(table.metrics[name][1]))


def _reported(table: RolloutTable, name: str, mean: Estimate) -> HandlerMetric:
    values = table.metrics[name][1]
    return HandlerMetric(name, len(values), mean, min(values), max(values))


def _group_figures(
    groups: Groups, success_threshold: float, expected_prompts: int, rollouts_per_prompt: int
) -> GroupFigures:
    columns = [array("d") for _ in range(5)]
    flat, valid, valid_rewards = array("d"), array("d"), 0
    for group in groups:
        if group.spread is None:
            continue
        for column, value in zip(
            columns, (group.total / group.rewarded, group.std, group.least, group.greatest, group.spread), strict=True
        ):
            column.append(value)
        if group.has_no_variance:
            flat.append(group.greatest)
        else:
            valid.append(group.total)
            valid_rewards += group.rewarded
    right = sum(reward >= success_threshold for reward in flat)
    wrong = sum(reward < success_threshold and reward <= 0 for reward in flat)
    means = array("d", (mean for mean in groups.means if mean == mean))
    across = std(means) if len(means) > 1 else None
    arrived = sum(rewarded >= rollouts_per_prompt for rewarded in groups.rewarded)
    *within, mean_spread = map(_mean, columns)
    return GroupFigures(
        compared=len(columns[0]),
        within=Spread(*within),
        std_across=across,
        variance_across=None if across is None else across**2,
        mean_spread=mean_spread,
        zero_variance=len(flat),
        zero_variance_right=right,
        zero_variance_wrong=wrong,
        zero_variance_other=len(flat) - right - wrong,
        zero_variance_zero_reward=sum(reward == 0 for reward in flat),
        arrived=arrived,
        completion_ratio=arrived / expected_prompts if expected_prompts else None,
        valid_ratio=len(valid) / expected_prompts if columns[0] and expected_prompts else None,
        valid_mean=math.fsum(valid) / valid_rewards if valid_rewards else None,
    )


def _tokens(table: RolloutTable, limit: int | None) -> Tokens | None:
    prompts, responses = sum(table.prompt_turns), sum(table.response_turns)
    if not prompts and not responses:
        return None
    longest = array("I", compress(table.response_most, table.response_turns))
    top = limit if limit is not None else max(longest, default=0)
    response = Spread()
    if responses:
        total, squares = sum(table.response_tokens), sum(table.response_squares)
        # In whole numbers, so that nothing is lost by the subtraction.
        deviation = math.sqrt(responses * squares - total**2) / responses if responses > 1 else None
        least = min(compress(table.response_least, table.response_turns))
        response = Spread(total / responses, deviation, least, max(longest))
    known = zip(table.prompt_turns, table.response_turns, strict=True)
    return Tokens(
        rollouts=sum(bool(of_prompts or of_responses) for of_prompts, of_responses in known),
        prompt_mean=sum(table.prompt_tokens) / prompts if prompts else None,
        response=response,
        limit=limit,
        at_limit_share=sum(count >= top for count in longest) / len(longest) if longest else None,
    )


def _seconds(seconds: array[float]) -> Seconds:
    if not seconds:
        return Seconds()
    ordered = sorted(seconds)
    return Seconds(fmean(ordered), quantile(ordered, 0.5), quantile(ordered, 0.99), ordered[-1])


def _mean(values: array[float]) -> float | None:
    return fmean(values) if values else None


def _reward_names(of: Metrics) -> dict[str, float | int | None]:
    within = of.groups.within
    return {
        "eval/reward/mean": of.reward.mean,
        "eval/reward/mean_low": None if of.mean_reward is None else of.mean_reward.low,
        "eval/reward/mean_high": None if of.mean_reward is None else of.mean_reward.high,
        "eval/reward/valid_mean": of.groups.valid_mean,
        "eval/reward/std": of.reward.std,
        "eval/reward/min": of.reward.min,
        "eval/reward/max": of.reward.max,
        "eval/reward/zero_frac": of.zero_share,
        "eval/reward/num_prompts": of.prompts,
        "eval/reward/rollouts_per_prompt": of.rollouts_per_prompt,
        "eval/reward/success_threshold": of.success_threshold,
        "eval/reward/succeeded_rollouts": of.succeeded,
        "eval/reward/failed_rollouts": of.below_threshold,
        "eval/reward/mean_within_groups": within.mean,
        "eval/reward/std_within_groups": within.std,
        "eval/reward/min_within_groups": within.min,
        "eval/reward/max_within_groups": within.max,
        "eval/reward/std_across_groups": of.groups.std_across,
    }


def _pass_names(pass_k: Iterable[PassK]) -> dict[str, float | int | None]:
    names: dict[str, float | int | None] = {}
    for passed in pass_k:
        for name, value in (("pass_at", passed.pass_at), ("pass_power", passed.pass_power)):
            key = f"eval/reward/{name}_{passed.k}"
            names |= {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
        names[f"eval/reward/pass_left_out_{passed.k}"] = passed.left_out
    return names


def _run_names(of: Metrics) -> dict[str, float | int | None]:
    tokens = of.tokens or Tokens(0, None, Spread(), None, None)
    return {
        "eval/turns/mean": of.turns.mean,
        "eval/turns/min": of.turns.min,
        "eval/turns/max": of.turns.max,
        "eval/tokens/prompt_mean": tokens.prompt_mean,
        "eval/tokens/response_mean": tokens.response.mean,
        "eval/tokens/response_std": tokens.response.std,
        "eval/tokens/response_min": tokens.response.min,
        "eval/tokens/response_max": tokens.response.max,
        "eval/tokens/at_limit_frac": tokens.at_limit_share,
        "eval/tokens/rollouts": tokens.rollouts,
        "eval/seconds/mean": of.seconds.mean,
        "eval/seconds/p50": of.seconds.p50,
        "eval/seconds/p99": of.seconds.p99,
        "eval/seconds/max": of.seconds.max,
        "eval/rollouts/total": of.rollouts,
        "eval/rollouts/completed": of.completed,
        "eval/rollouts/failed": of.failed,
        "eval/rollouts/unreported": of.unreported,
        "eval/rollouts/no_reward": of.no_reward,
        "eval/rollouts/superseded": of.superseded,
        "eval/rollouts/retried": of.retried,
        "eval/rollouts/unsure_turns": of.unsure_turns,
    }


def _analysis_names(groups: GroupFigures) -> dict[str, float | int | None]:
    return {
        "analysis/batch_completion_ratio": groups.completion_ratio,
        "analysis/batch_valid_ratio": groups.valid_ratio,
        "analysis/compared_groups": groups.compared,
        "analysis/zero_adv_groups": groups.zero_variance,
        "analysis/zero_adv_nonzero_reward": groups.zero_variance - groups.zero_variance_zero_reward,
        "analysis/zero_adv_zero_reward": groups.zero_variance_zero_reward,
        "analysis/zero_adv_all_right": groups.zero_variance_right,
        "analysis/zero_adv_all_wrong": groups.zero_variance_wrong,
        "analysis/zero_adv_other": groups.zero_variance_other,
        "analysis/reward_variance_across_groups": groups.variance_across,
        "analysis/mean_group_reward_spread": groups.mean_spread,
    }


def _reported_names(reported: Iterable[HandlerMetric]) -> dict[str, float | int | None]:
    names: dict[str, float | int | None] = {}
    for of in reported:
        mean, at = of.mean, f"handler/{of.name}"
        names |= {f"{at}/mean": mean.value, f"{at}/mean_low": mean.low, f"{at}/mean_high": mean.high}
        names |= {f"{at}/min": of.min, f"{at}/max": of.max, f"{at}/rollouts": of.rollouts}
    return names
