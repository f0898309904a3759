"""The figures of a set of rollouts, as values, and under the service's flat names. Pure.

The names are those of evaluation and training jobs (`eval/reward/*`, `eval/turns/*`, `eval/tokens/*`, `analysis/*`);
where the service leaves a definition open, docs/metrics.md says how it is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from aws_rft_sdk._frozen import FrozenDict
from aws_rft_sdk.runs.metrics.groups import std
from aws_rft_sdk.runs.metrics.intervals import Estimate


@dataclass(frozen=True)
class Spread:
    """Four figures of a set of numbers. All None without any number, `std` None without a second."""

    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
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
    """Prompts with fewer than k rollouts that count, which say nothing about k."""


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
    """Groups of which every rollout counts and has a reward."""
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
    failures: Mapping[str, int]
    """Rollouts that failed or were not reported, by kind of failure, the most first; "unknown" in old records."""
    failures_as_zero: bool
    """Whether these count with a reward of 0. Otherwise they are in no figure of rewards, pass@k or groups."""
    no_reward: int
    """Rollouts that count and have no reward: not in any mean of rewards, no success in pass@k and pass^k."""
    superseded: int
    """Records that a later record of the same rollout replaces."""
    retried: int
    """Rollouts that were begun more than once."""
    unsure_turns: int
    """Turns that failed and may have been sampled all the same."""
    with_foreign_calls: int
    """Rollouts during which a `runtime_model` called its production model."""
    prompts: int
    expected_prompts: int
    rollouts_per_prompt: int
    smallest_group: int
    success_threshold: float
    confidence: float
    succeeded: int
    """Rollouts whose reward reaches the success threshold."""
    below_threshold: int
    """Rollouts whose reward does not. With `succeeded`, `no_reward` and `left_out`: all."""
    mean_reward: Estimate | None
    """Over the rollouts that count and have a reward."""
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
    def left_out(self) -> int:
        """Rollouts that do not count, because they failed or were not reported."""
        return 0 if self.failures_as_zero else self.failed + self.unreported

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
        "eval/rollouts/left_out": of.left_out,
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
