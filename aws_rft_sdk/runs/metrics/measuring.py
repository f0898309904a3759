"""How good a set of rollouts is. Pure: all comes from the records.

Standard deviations and variances are those of a population (divided by n, numpy's default), so that the variance of all
rewards is the mean variance within groups plus the variance across groups when groups are of one size.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, compress
from statistics import fmean

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import RolloutStatus
from aws_rft_sdk.runs.metrics.figures import GroupFigures, HandlerMetric, Metrics, PassK, Seconds, Spread, Tokens
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
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import STATUSES, RolloutTable

SUCCESS_THRESHOLD = 1.0
"""The service's default for `success_threshold`."""
_PASS_BOUNDS = (0.0, 1.0)


def measure(
    records: Iterable[RolloutRecord] | RolloutTable,
    *,
    success_threshold: float = SUCCESS_THRESHOLD,
    ks: Sequence[int] | None = None,
    prompts: int | None = None,
    group_size: int | None = None,
    max_tokens: int | None = None,
    failures_as_zero: bool = False,
    confidence: float = CONFIDENCE,
    resamples: int | None = None,
    seed: int = SEED,
) -> Metrics:
    """Compute every figure of a set of rollouts.

    Rollouts that failed or were not reported are left out of rewards, pass@k and groups, and counted in `failures`:
    what the runtime was sent for them is no score.

    Args:
        records: Rollouts that have ended; of several records of one rollout the last counts. Otherwise in any order.
            A table (`RolloutTable.read`) takes a tenth of the memory.
        success_threshold: Lowest reward that counts as a success.
        ks: For pass@k and pass^k, each at least 1. None for 1, 2, 4, ... and the size of the largest group.
        prompts: Prompts that were to be run. None for those up to the last one of which a rollout has ended.
        group_size: Rollouts of each prompt that were to be run. None for the size of the largest group.
        max_tokens: Most tokens that a response was allowed, to see what was cut off. None when that is not known.
        failures_as_zero: Whether rollouts that failed or were not reported count with a reward of 0 instead.
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
    groups = Groups(table, success_threshold, failures_as_zero)
    rewards = groups.rewards
    largest = max(groups.samples, default=0)
    expected_prompts = max(table.prompt, default=-1) + 1 if prompts is None else prompts
    rollouts_per_prompt = max(groups.ended, default=0) if group_size is None else group_size
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
        failures=table.failure_counts(),
        failures_as_zero=failures_as_zero,
        no_reward=sum(groups.samples) - len(rewards),
        superseded=table.superseded,
        retried=sum(attempts > 1 for attempts in table.attempts),
        unsure_turns=sum(table.unsure_turns),
        with_foreign_calls=sum(count > 0 for count in table.foreign_calls),
        prompts=len(groups),
        expected_prompts=expected_prompts,
        rollouts_per_prompt=rollouts_per_prompt,
        smallest_group=min(groups.ended, default=0),
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
