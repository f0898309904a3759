"""Advantages of group relative policy optimisation, as pure functions.

A group is the rollouts of one prompt, in any order. A reward that is None marks a rollout that failed or could not be
judged. It takes no part in any figure, and its advantage is 0. `ADVANTAGES` has the methods by the service's names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
    mean, std = _mean_and_std(known)
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


def optimal_baseline(rewards: Sequence[float | None], lengths: Sequence[int]) -> list[float]:
    """Return for each reward its distance from the mean of the group, weighted by length: r - sum(l r) / sum(l).

    A group with fewer than two rewards has advantages of 0. Source: OPO, arXiv 2505.23585.

    Args:
        rewards: Of the rollouts of one group.
        lengths: How many tokens each rollout sampled.
    """
    known = [(r, length) for r, length in zip(rewards, lengths, strict=True) if r is not None]
    total = sum(length for _, length in known)
    if len(known) < 2 or total == 0:
        return [0.0] * len(rewards)
    baseline = math.fsum(r * length for r, length in known) / total
    return [0.0 if r is None else r - baseline for r in rewards]


def reinforce(groups: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """Return for each group (r - mean) / (std + 1e-4), with mean and standard deviation (n - 1) of the whole batch.

    With fewer than two rewards in the batch all advantages are 0. Source: REINFORCE++, arXiv 2501.03262, without its
    penalty for distance from a reference model.
    """
    normalised = iter(group_normalised([reward for rewards in groups for reward in rewards]))
    return [[next(normalised) for _ in rewards] for rewards in groups]


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
    _, std = _mean_and_std(everything)
    return [[0.0 if v is None else v / (std + _EPSILON) for v in group] for group in centred]


def group_policy_gradient(groups: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """Return for each group B / (B - M) (r - mean), with the mean of the group.

    B is the number of groups, M is how many of them teach nothing (see `is_dead`). The factor makes up for the dead
    groups in a loss that is a mean over all groups. Groups with fewer than two rewards count neither in B nor in M.
    Source: GPG, arXiv 2504.02546, with F_norm = 1.
    """
    alive = sum(not is_dead(rewards) for rewards in groups)
    share = sum(len(_known(rewards)) > 1 for rewards in groups) / max(alive, 1)
    advantages = []
    for rewards in groups:
        known = [] if is_dead(rewards) else _known(rewards)
        mean = math.fsum(known) / max(len(known), 1)
        advantages.append([share * (r - mean) if r is not None and known else 0.0 for r in rewards])
    return advantages


def best_over_second(rewards: Sequence[float | None]) -> list[float]:
    """Return (best - second best) / (std + 1e-4) for the best rollout, and 0 for the others.

    It is the gain of each rollout for the best reward of its group: max(all) - max(the others). The standard deviation
    is that of the sample (n - 1). If several rollouts are the best, all advantages are 0. So are those of a group with
    fewer than two rewards. Source: arXiv 2503.19595, for k equal to the size of the group; verl's `grpo_passk`.
    """
    if is_dead(rewards):
        return [0.0] * len(rewards)
    known = sorted(_known(rewards))
    gain = (known[-1] - known[-2]) / (_mean_and_std(known)[1] + _EPSILON)
    return [gain if r == known[-1] else 0.0 for r in rewards]


def returns(rewards: Sequence[float]) -> list[float]:
    """Return for each turn the sum of its reward and those of the turns after it, without a baseline.

    Source: REINFORCE, R. J. Williams, Machine Learning 8 (1992); Sutton and Barto, 2nd edition, section 13.3, with a
    discount of 1.
    """
    return [math.fsum(rewards[turn:]) for turn in range(len(rewards))]


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
    `group_normalised`; the advantage of turn t is the sum of the normalised rewards from t to the end. Source: the sum
    is that of process supervision, arXiv 2402.03300, section 4.1.3. There all rewards of a group share one mean. A mean
    for each turn, as in MT-GRPO, arXiv 2505.11821, keeps an easy first turn from paying for a hard second one.

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


def is_dead(rewards: Sequence[float | None]) -> bool:
    """Return whether a group teaches nothing: it has fewer than two rewards, or all of them are equal."""
    return len(set(_known(rewards))) < 2


def _known(rewards: Sequence[float | None]) -> list[float]:
    return [reward for reward in rewards if reward is not None]


def _mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


# --- the methods by the names of the service --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """What an advantage method may read of one rollout.

    Raises:
        ConfigurationError: The number of rewards is neither 1 nor the number of turns.
    """

    rewards: tuple[float, ...] | None
    """One number for the rollout, or one for each turn in order. None if it failed or could not be judged."""
    turns: int = 1
    """Number of model calls."""
    tokens: int = 1
    """Number of sampled tokens."""

    def __post_init__(self) -> None:
        if self.rewards is not None and len(self.rewards) not in (1, self.turns):
            raise ConfigurationError(
                f"a rollout of {self.turns} turns has {len(self.rewards)} rewards. Give one number for the rollout, or "
                "one for each turn"
            )

    @property
    def reward(self) -> float | None:
        """The sum of the rewards. None if there are none."""
        return None if self.rewards is None else math.fsum(self.rewards)

    @property
    def has_rewards_of_turns(self) -> bool:
        """Whether there is more than one reward."""
        return self.rewards is not None and len(self.rewards) > 1

    @property
    def rewards_of_turns(self) -> tuple[float, ...] | None:
        """One reward for each turn. One number for the whole rollout is the reward of its last turn."""
        if self.rewards is None or len(self.rewards) == self.turns:
            return self.rewards
        return (*(0.0 for _ in range(self.turns - 1)), *self.rewards[: self.turns])


Advantages = list[list[tuple[float, ...]]]
"""One advantage for each turn of each rollout of each group. 0 for the turns of rollouts that failed."""

AdvantageMethod = Callable[[Sequence[Sequence[Scored]]], Advantages]
"""Takes the groups of one step."""


def _of_batch(method: Callable[[list[list[float | None]]], list[list[float]]]) -> AdvantageMethod:
    return lambda groups: _spread(method([[rollout.reward for rollout in group] for group in groups]), groups)


def _of_group(method: Callable[[list[float | None]], list[float]]) -> AdvantageMethod:
    return _of_batch(lambda groups: [method(rewards) for rewards in groups])


def _optimal_baseline(groups: Sequence[Sequence[Scored]]) -> Advantages:
    values = [optimal_baseline([r.reward for r in group], [r.tokens for r in group]) for group in groups]
    return _spread(values, groups)


def _monte_carlo(groups: Sequence[Sequence[Scored]]) -> Advantages:
    return [[_padded(returns(rollout.rewards_of_turns or ()), rollout) for rollout in group] for group in groups]


def _per_turn(groups: Sequence[Sequence[Scored]]) -> Advantages:
    # Without rewards of single turns, the last turns of rollouts with different numbers of turns could not be compared.
    whole = _of_group(group_normalised)
    return [_of_turns(group) if any(r.has_rewards_of_turns for r in group) else whole([group])[0] for group in groups]


def _of_turns(group: Sequence[Scored]) -> list[tuple[float, ...]]:
    values = per_turn([rollout.rewards_of_turns for rollout in group])
    return [_padded(of_rollout, rollout) for of_rollout, rollout in zip(values, group, strict=True)]


def _padded(values: Sequence[float], rollout: Scored) -> tuple[float, ...]:
    return tuple(values) or (0.0,) * rollout.turns


def _spread(values: Sequence[Sequence[float]], groups: Sequence[Sequence[Scored]]) -> Advantages:
    return [
        [(value,) * rollout.turns for value, rollout in zip(of_group, group, strict=True)]
        for of_group, group in zip(values, groups, strict=True)
    ]


ADVANTAGES: Mapping[str, AdvantageMethod] = MappingProxyType(
    {
        "monte_carlo": _monte_carlo,
        "group_based": _of_group(group_normalised),
        "group_based_per_turn": _per_turn,
        "rloo": _of_group(leave_one_out),
        "reinforce_pp": _of_batch(reinforce),
        "reinforce_pp_baseline": _of_batch(reinforce_with_baseline),
        "opo": _optimal_baseline,
        "grpo_passk": _of_group(best_over_second),
        "gpg": _of_batch(group_policy_gradient),
    }
)
"""The advantage methods by the names of the service, which publishes the names and not the formulas. Each function has
the formula of the paper in its own docstring. Methods that know one reward a rollout take the sum of the rewards of its
turns. `monte_carlo` and `reinforce_pp` have no mean of the group, so groups of equal rewards teach something there."""
