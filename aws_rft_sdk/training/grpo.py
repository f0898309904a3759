"""Group relative policy optimisation: the clipped update, as a pure function.

The advantages are in `aws_rft_sdk.advantages`, where the local stand-in of a job finds them too. They keep their names
here.
"""

from __future__ import annotations

from aws_rft_sdk.advantages import (
    ADVANTAGES,
    AdvantageMethod,
    Advantages,
    Scored,
    best_over_second,
    group_normalised,
    group_policy_gradient,
    is_dead,
    leave_one_out,
    optimal_baseline,
    pass_at_k,
    per_turn,
    reinforce,
    reinforce_with_baseline,
    returns,
)

__all__ = [
    "ADVANTAGES",
    "AdvantageMethod",
    "Advantages",
    "Scored",
    "best_over_second",
    "group_normalised",
    "group_policy_gradient",
    "is_dead",
    "leave_one_out",
    "optimal_baseline",
    "pass_at_k",
    "per_turn",
    "ratio_weight",
    "reinforce",
    "reinforce_with_baseline",
    "returns",
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
