"""The rollouts of a step in their groups: which of them count, and the figures of the step. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean, pstdev

from aws_rft_sdk.advantages import Advantages
from aws_rft_sdk.runs.metrics.passk import pass_at_k
from aws_rft_sdk.training.collecting import Sample

_NO_ADVANTAGE = 1e-9
"""Advantages of equal rewards are that close to 0, and not always 0."""

Group = list[Sample]
"""The rollouts of one prompt."""


def in_groups(samples: Sequence[Sample], size: int) -> list[Group]:
    """Return samples that come one prompt after the other in groups of `size`."""
    return [list(samples[start : start + size]) for start in range(0, len(samples), size)]


def without_small(groups: Sequence[Group]) -> list[Group]:
    """Return the same groups. In one with fewer than two rewards, no rollout has a reward or rows any more."""
    return [group if _counts(group) else [_left_out(sample) for sample in group] for group in groups]


def figures_of(
    groups: Sequence[Group], advantages: Advantages, *, success_threshold: float, pass_k: Iterable[int]
) -> dict[str, float]:
    """Return the figures of a step: by the names of `Step`, and by the service's names where it has one.

    Args:
        groups: All rollouts of the step.
        advantages: Of each turn of each rollout.
        success_threshold: Lowest reward that counts as a success.
        pass_k: The k of pass@k. Those above the number of rewards of a group are left out for that group.
    """
    samples = list(chain.from_iterable(groups))
    rewards = [reward for sample in samples if (reward := sample.scored.reward) is not None]
    kept = [(group, values) for group, values in zip(groups, advantages, strict=True) if _counts(group)]
    trained = [sample for group, _ in kept for sample in group if sample.datums]
    alive = [group for group, values in kept if any(abs(v) > _NO_ADVANTAGE for v in chain.from_iterable(values))]
    valid = [r for group in alive for sample in group if (r := sample.scored.reward) is not None]
    datums, tokens = sum(s.datums for s in trained), sum(s.tokens for s in trained)
    sampled = sum(s.scored.tokens for s in trained)
    figures: dict[str, float | None] = {
        **_spread("reward_", rewards),
        "advantage_mean": _mean([v for group, values in kept for v in _of_known(group, values)]),
        "response_length_mean": _mean([n for s in samples for n in s.responses]),
        "response_length_max": max((n for s in samples for n in s.responses), default=None),
        "truncated_share": _share(sum(s.truncated for s in samples), sum(len(s.responses) for s in samples)),
        "dead_group_share": _share(len(kept) - len(alive), len(kept)),
        "training/num_groups": len(groups),
        "training/num_trajectories": len(samples),
        "training/num_datums": datums,
        "training/datums_per_trajectory": _share(datums, len(trained)),
        "training/total_tokens": tokens,
        "training/trainable_token_positions": sampled,
        "training/nontrainable_token_positions": tokens - sampled,
        "training/trainable_token_ratio": _share(sampled, tokens),
        "training/action_tokens_mean": _share(sampled, len(trained)),
        "training/failed_rollouts": sum(sample.problem is not None for sample in samples),
        "training/dropped_groups": len(groups) - len(kept),
        "training/broken_prefixes": datums - len(trained),
        "rollout/reward/valid_mean": _mean(valid),
        "rollout/reward/zero_frac": _share(rewards.count(0.0), len(rewards)),
        **_spread("rollout/turns/", [float(sample.scored.turns) for sample in samples if sample.problem is None]),
        "analysis/batch_completion_ratio": _share(len(rewards), len(samples)),
        "analysis/batch_valid_ratio": _share(len(alive), len(groups)),
        "analysis/zero_adv_groups": len(kept) - len(alive),
        **{f"rollout/reward/pass_at_{k}": _pass_at(groups, k, success_threshold) for k in pass_k},
    }
    return {name: value for name, value in figures.items() if value is not None}


def _counts(group: Group) -> bool:
    return sum(sample.scored.rewards is not None for sample in group) > 1


def _left_out(sample: Sample) -> Sample:
    return replace(sample, scored=replace(sample.scored, rewards=None), rows=(), datums=0)


def _of_known(group: Group, values: Sequence[Sequence[float]]) -> Iterable[float]:
    return [v for s, of_turns in zip(group, values, strict=True) if s.scored.rewards is not None for v in of_turns]


def _spread(prefix: str, values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {}
    return {
        f"{prefix}mean": fmean(values),
        f"{prefix}std": pstdev(values),
        f"{prefix}min": min(values),
        f"{prefix}max": max(values),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _pass_at(groups: Sequence[Group], k: int, threshold: float) -> float | None:
    known = [[r for s in group if (r := s.scored.reward) is not None] for group in groups]
    return _mean([pass_at_k(len(r), sum(x >= threshold for x in r), k) for r in known if len(r) >= k])
