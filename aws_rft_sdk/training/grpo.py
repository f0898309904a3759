"""Group relative policy optimisation: advantages and the clipped update, as pure functions.

All functions take the rewards of one group: the rollouts of one prompt, in any order. A reward that is None marks a
rollout that failed or could not be judged. It takes no part in the group's figures, and its advantage is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from aws_rft_sdk.errors import ConfigurationError

_EPSILON = 1e-4
"""Added to the standard deviation, as in TRL, so that a group of nearly equal rewards is not blown up."""


def group_normalised(rewards: Sequence[float | None]) -> list[float]:
    """Return (r - mean) / (std + 1e-4) for each reward.

    The standard deviation is that of the sample (n - 1), as in TRL. A group with fewer than two rewards, or with equal
    rewards, teaches nothing: all advantages are 0. Source: DeepSeekMath, arXiv 2402.03300, section 4.1.2.
    """
    known = _known(rewards)
    if len(known) < 2:
        return [0.0] * len(rewards)
    mean = math.fsum(known) / len(known)
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in known) / (len(known) - 1))
    return [0.0 if r is None else (r - mean) / (std + _EPSILON) for r in rewards]


def leave_one_out(rewards: Sequence[float | None]) -> list[float]:
    """Return for each reward its distance from the mean of the others: r_i - sum(r_j, j != i) / (n - 1).

    A group with fewer than two rewards has advantages of 0. Source: RLOO, arXiv 2402.14740, equation 7.
    """
    known = _known(rewards)
    if len(known) < 2:
        return [0.0] * len(rewards)
    total = math.fsum(known)
    return [0.0 if r is None else r - (total - r) / (len(known) - 1) for r in rewards]


def reinforce_with_baseline(groups: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """Return for each group the advantages of REINFORCE++ with baseline.

    The mean of the group is taken off, then all advantages are divided by the standard deviation (n - 1) of the whole
    batch plus 1e-4. Source: arXiv 2501.03262, section 3.2.
    """
    centred: list[list[float | None]] = []
    for rewards in groups:
        known = _known(rewards)
        mean = math.fsum(known) / len(known) if known else 0.0
        centred.append([None if r is None else (r - mean if len(known) > 1 else 0.0) for r in rewards])
    everything = [value for group in centred for value in group if value is not None]
    if len(everything) < 2:
        return [[0.0] * len(rewards) for rewards in groups]
    mean = math.fsum(everything) / len(everything)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in everything) / (len(everything) - 1))
    return [[0.0 if v is None else v / (std + _EPSILON) for v in group] for group in centred]


def pass_at_k(rewards: Sequence[float | None], k: int, *, threshold: float = 1.0) -> list[float]:
    """Return advantages whose sum follows the gradient of pass@k.

    With n rewards of which c reach `threshold`, a set of k rollouts passes if one of its members does. A success gets
    (1 - m) / s, a failure gets (f - m) / s. Here m = 1 - C(n-c, k) / C(n, k) is the group's pass@k, s is
    sqrt(m (1 - m)), and f = 1 - C(n-c-1, k-1) / C(n-1, k-1) is the chance that a set with this failure passes. Groups
    with m of 0 or 1 have advantages of 0. Source: arXiv 2508.10751, section 2.4.

    Raises:
        ConfigurationError: `k` is below 1 or above the number of rewards.
    """
    known = _known(rewards)
    n, c = len(known), sum(r >= threshold for r in known)
    if not 1 <= k <= n:
        raise ConfigurationError(f"k is {k}. It must be from 1 to the number of rewards in the group, {n}")
    mean = 1 - math.comb(n - c, k) / math.comb(n, k)
    if mean in (0.0, 1.0):
        return [0.0] * len(rewards)
    spread = math.sqrt(mean * (1 - mean))
    failed = 1 - math.comb(n - c - 1, k - 1) / math.comb(n - 1, k - 1)
    return [0.0 if r is None else ((1.0 if r >= threshold else failed) - mean) / spread for r in rewards]


def per_turn(groups: Sequence[Sequence[float] | None]) -> list[list[float]]:
    """Return for each rollout one advantage a turn, from one reward a turn.

    The t-th reward is normalised among the t-th rewards of the group's rollouts that have so many turns, as in
    `group_normalised`; the advantage of turn t is the sum of the normalised rewards from t to the end. Source: arXiv
    2402.03300, section 4.1.3 (process supervision).

    Args:
        groups: For each rollout of one group, its rewards in the order of the turns. None for a failed rollout.

    Returns:
        As many numbers for each rollout as it has rewards. An empty list for a failed rollout.
    """
    longest = max((len(rewards) for rewards in groups if rewards is not None), default=0)
    columns = [
        group_normalised([r[turn] if r is not None and turn < len(r) else None for r in groups])
        for turn in range(longest)
    ]
    return [
        [] if rewards is None else [math.fsum(column[index] for column in columns[t : len(rewards)]) for t in turns]
        for index, rewards in enumerate(groups)
        for turns in [range(len(rewards or ()))]
    ]


def ratio_weight(ratio: float, advantage: float, low: float = 0.2, high: float = 0.2) -> float:
    """Return the factor of a token's log-probability gradient under the clipped objective.

    The objective is min(ratio A, clip(ratio, 1 - low, 1 + high) A). Its gradient is ratio A times that of the
    log-probability, and 0 where the clipped branch is the smaller one. Source: PPO, arXiv 1707.06347, equation 7.

    Args:
        ratio: Probability of the token now, divided by its probability when it was sampled.
        advantage: Of the token's rollout or turn.
        low: How far the ratio may fall before the token stops to count.
        high: How far the ratio may rise.
    """
    is_clipped = ratio > 1 + high if advantage > 0 else ratio < 1 - low
    return 0.0 if is_clipped else ratio * advantage


def is_dead(rewards: Sequence[float | None]) -> bool:
    """Return whether a group teaches nothing: it has fewer than two rewards, or all of them are equal."""
    return len(set(_known(rewards))) < 2


def _known(rewards: Sequence[float | None]) -> list[float]:
    return [reward for reward in rewards if reward is not None]
