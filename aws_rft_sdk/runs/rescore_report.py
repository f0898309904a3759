"""Compares the rewards of saved rollouts with others for the same rollouts. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN, Groups
from aws_rft_sdk.runs.rescoring import RescoredRollout, RescoreStatus
from aws_rft_sdk.runs.table import RolloutTable


@dataclass(frozen=True)
class RewardFigures:
    """Figures of one reward over the rollouts. A mean or share of nothing is None."""

    rewarded: int
    """Rollouts with a reward; the others count in no figure."""
    mean: float | None
    success_share: float | None
    """Share of the rewarded rollouts whose reward reaches the success threshold."""
    groups: int
    """Groups with at least two rewards."""
    zero_variance_groups: int
    """Those of them whose rewards are all equal: they teach nothing."""


@dataclass(frozen=True)
class ComponentFigures:
    """A component of the other reward over the rollouts that have it."""

    name: str
    counts: bool
    """Whether it is part of the reward; False for a metric."""
    rollouts: int
    mean: float


@dataclass(frozen=True)
class RescoreReport:
    """The recorded rewards beside others. Rollouts that lack one of the two are left out where both are compared."""

    rollouts: tuple[RescoredRollout, ...] = field(repr=False)
    """In the order of the dataset, group by group."""
    success_threshold: float
    old: RewardFigures
    new: RewardFigures
    compared: int
    """Rollouts that have both rewards."""
    up: int
    """Those of them whose reward rose, by more than 1e-9."""
    down: int
    spearman: float | None
    """Rank correlation of both rewards, ties at their mean rank; None for fewer than two rollouts, or when one reward
    is the same for all."""
    same_success_share: float | None
    """Share of the compared rollouts that both rewards call a success, or neither."""
    groups_now_varying: tuple[int, ...]
    """Prompts, by index, whose rewards were all equal and no longer are: these begin to teach."""
    groups_now_equal: tuple[int, ...]
    """Prompts, by index, whose rewards differed and are all equal now."""
    components: tuple[ComponentFigures, ...]

    @property
    def changed(self) -> int:
        """Compared rollouts whose reward is another one."""
        return self.up + self.down

    @property
    def counts(self) -> dict[str, int]:
        """How many rollouts have each status, by its value; without those that none has."""
        found = Counter(rollout.status for rollout in self.rollouts)
        return {status.value: found[status] for status in RescoreStatus if found[status]}

    def with_status(self, status: RescoreStatus) -> tuple[RescoredRollout, ...]:
        """Return the rollouts of one status, in order."""
        return tuple(rollout for rollout in self.rollouts if rollout.status is status)

    def biggest_changes(self, count: int = 10) -> list[RescoredRollout]:
        """Return the rollouts whose reward changed most, the greatest change first, equal ones in their order."""
        changed = [rollout for rollout in self.rollouts if abs(_change(rollout)) > EQUAL_WITHIN]
        return sorted(changed, key=lambda rollout: -abs(_change(rollout)))[:count]

    def to_json(self) -> dict[str, JSON]:
        """Return it as plain JSON, each rollout included."""
        return {
            "success_threshold": self.success_threshold,
            "counts": self.counts,
            "old": vars(self.old),
            "new": vars(self.new),
            "compared": self.compared,
            "changed": self.changed,
            "up": self.up,
            "down": self.down,
            "spearman": self.spearman,
            "same_success_share": self.same_success_share,
            "groups_now_varying": list(self.groups_now_varying),
            "groups_now_equal": list(self.groups_now_equal),
            "components": [vars(component) for component in self.components],
            "rollouts": [rollout.to_json() for rollout in self.rollouts],
        }


def rescore_report(rollouts: Iterable[RescoredRollout], success_threshold: float = SUCCESS_THRESHOLD) -> RescoreReport:
    """Compare the recorded rewards with the others.

    Args:
        rollouts: What `rescore` yields.
        success_threshold: Lowest reward that counts as a success, of both.
    """
    rollouts = tuple(rollouts)
    pairs = [(one.old, one.new) for one in rollouts if one.old is not None and one.new is not None]
    before = Groups(RolloutTable.of(rollout.record for rollout in rollouts), success_threshold)
    after = Groups(RolloutTable.of(rollout.new_record for rollout in rollouts), success_threshold)
    return RescoreReport(
        rollouts=rollouts,
        success_threshold=success_threshold,
        old=_figures(before),
        new=_figures(after),
        compared=len(pairs),
        up=sum(new - old > EQUAL_WITHIN for old, new in pairs),
        down=sum(old - new > EQUAL_WITHIN for old, new in pairs),
        spearman=spearman([old for old, _ in pairs], [new for _, new in pairs]),
        same_success_share=_mean([(old >= success_threshold) == (new >= success_threshold) for old, new in pairs]),
        groups_now_varying=_turned(before, after),
        groups_now_equal=_turned(after, before),
        components=_components(rollouts),
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the rank correlation of two equally long series, from -1 to 1, ties at their mean rank.

    Returns:
        None for fewer than two values, or when one of the series is constant.
    """
    ranks, other_ranks = _ranks(one), _ranks(other)
    middle = (len(one) + 1) / 2
    spread = math.sqrt(sum((rank - middle) ** 2 for rank in ranks) * sum((rank - middle) ** 2 for rank in other_ranks))
    if not spread:
        return None
    return sum((a - middle) * (b - middle) for a, b in zip(ranks, other_ranks, strict=True)) / spread


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(sorted(values), start=1):
        places[value].append(place)
    return [fmean((places[value][0], places[value][-1])) for value in values]


def _figures(groups: Groups) -> RewardFigures:
    rewarded = sum(groups.rewarded)
    return RewardFigures(
        rewarded=rewarded,
        mean=math.fsum(groups.total) / rewarded if rewarded else None,
        success_share=sum(groups.successes) / rewarded if rewarded else None,
        groups=sum(group.spread is not None for group in groups),
        zero_variance_groups=sum(group.has_no_variance for group in groups),
    )


def _turned(before: Groups, after: Groups) -> tuple[int, ...]:
    """Return the prompts whose groups had no variance before and have some after."""
    return tuple(
        group.prompt_index
        for group, now in zip(before, after, strict=True)
        if group.has_no_variance and now.spread is not None and not now.has_no_variance
    )


def _components(rollouts: Sequence[RescoredRollout]) -> tuple[ComponentFigures, ...]:
    values: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for rollout in rollouts:
        for component in rollout.result.components if rollout.result is not None else ():
            values[component.name, component.counts].append(component.value)
    return tuple(ComponentFigures(name, counts, len(found), fmean(found)) for (name, counts), found in values.items())


def _change(rollout: RescoredRollout) -> float:
    return 0.0 if rollout.old is None or rollout.new is None else rollout.new - rollout.old


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
