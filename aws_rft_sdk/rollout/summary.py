"""Sums up rollouts. Pure; every figure can be recomputed from the records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from aws_rft_sdk.rollout.metrics import SUCCESS_THRESHOLD as SUCCESS_THRESHOLD
from aws_rft_sdk.rollout.records import RolloutRecord, RolloutStatus


@dataclass(frozen=True)
class Summary:
    """Figures over a set of rollouts. A share or mean of nothing is None."""

    rollouts: int
    unreported: int
    mean_reward: float | None
    """Over the rollouts that have a reward, floor rewards included."""
    success_share: float | None
    """Share of all rollouts whose reward reaches the success threshold."""
    failed_share: float | None
    """Share of the rollouts that did not complete: failed or unreported."""
    mean_turns: float | None
    max_turns: int
    unsure_turns: int
    """Turns that failed and may have been sampled all the same."""
    equal_groups_share: float | None
    """Share of the groups whose rewards are all equal: they teach nothing. Groups of one are not counted."""


def summarize(records: Iterable[RolloutRecord], success_threshold: float = SUCCESS_THRESHOLD) -> Summary:
    """Sum up `records`, in any order.

    Args:
        records: Rollouts that have ended.
        success_threshold: Lowest reward that counts as a success.
    """
    records = list(records)
    groups: dict[int, list[float | None]] = defaultdict(list)
    for record in records:
        groups[record.prompt_index].append(record.reward)
    compared = [rewards for rewards in groups.values() if len(rewards) > 1]
    return Summary(
        rollouts=len(records),
        unreported=sum(record.status is RolloutStatus.UNREPORTED for record in records),
        mean_reward=_mean([record.reward for record in records if record.reward is not None]),
        success_share=_mean(
            [float(record.reward is not None and record.reward >= success_threshold) for record in records]
        ),
        failed_share=_mean([float(record.status is not RolloutStatus.COMPLETED) for record in records]),
        mean_turns=_mean([float(record.turns) for record in records]),
        max_turns=max((record.turns for record in records), default=0),
        unsure_turns=sum(record.unsure_turns for record in records),
        equal_groups_share=_mean([float(len(set(rewards)) == 1) for rewards in compared]),
    )


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None
