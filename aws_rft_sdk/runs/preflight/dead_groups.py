"""How many groups of a size that was not sampled would teach nothing. Pure."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN
from aws_rft_sdk.runs.metrics.intervals import Estimate, estimate, mean_over_prompts

_SHARE = (0.0, 1.0)
_UNSEEN = 2
_GRID = 40
"""Steps of the search for a beta distribution, in each direction."""


def dead_group_share(groups: Sequence[Sequence[float]], size: int) -> Estimate | None:
    """Return the expected share of groups of `size` rollouts whose rewards are all equal, with its 95 % interval.

    Prompts with at least `size` rewards have an unbiased estimate: the chance that `size` of the n rewards, drawn
    without replacement, are equal. It is the sum of C(m, size) / C(n, size) over the different rewards, each of which
    was seen m times. The plug-in estimate p ** size + (1 - p) ** size would say too much, by Jensen's inequality. The
    interval is a bootstrap over prompts.

    If too few prompts have so many rewards, the share is extrapolated from the largest size n that most of them have.
    The value is that of the beta distribution of success that fits best. The interval makes no such assumption: it goes
    from a ** (size / n) + b ** (size / n), which is least by Jensen's inequality, to a + b. Here a is the chance that
    all n rewards of a prompt are the greatest reward of the run, and b is that of any other n equal rewards. Both ends
    have the sampling error of n on top.

    Args:
        groups: Rewards of each prompt, in any order.
        size: Rollouts of a group, at least 2.

    Returns:
        None if no prompt has two rewards.
    """
    counts = sorted((len(rewards) for rewards in groups if len(rewards) > 1), reverse=True)
    if not counts:
        return None
    sampled = counts[len(counts) // 2]  # half of the prompts have at least so many
    if sampled >= size:
        return _unbiased(groups, size)
    measured = _unbiased(groups, sampled)
    if measured is None or measured.low is None or measured.high is None:
        return measured
    top = max(max(rewards) for rewards in groups if rewards)
    right = fmean(_all_equal(rewards, sampled, top) for rewards in groups if len(rewards) >= sampled)
    wrong = max(0.0, measured.value - right)
    scale = size / sampled
    least = _least(measured.low, right, wrong, scale)
    value = _beta_share(groups, top, size)
    return Estimate(min(max(value, least), measured.value), least, measured.high)


def _unbiased(groups: Sequence[Sequence[float]], size: int) -> Estimate | None:
    shares = array("d", (_equal_share(rewards, size) if len(rewards) >= size else math.nan for rewards in groups))
    found = estimate([mean_over_prompts(shares, _SHARE)])[0]
    if found is None or found.low is None or found.high is None:
        return found
    # A bootstrap cannot draw what it has not seen, so the ends move as if there were two more prompts, at 0 or at 1.
    # In simulations with 16 prompts, of which few are always dead, one more was not enough.
    count = sum(share == share for share in shares)
    low, high = found.low * count, found.high * count + _UNSEEN
    return Estimate(found.value, low / (count + _UNSEEN), high / (count + _UNSEEN))


def _equal_share(rewards: Sequence[float], size: int) -> float:
    seen = Counter(round(reward / EQUAL_WITHIN) for reward in rewards)
    return sum(math.comb(count, size) for count in seen.values()) / math.comb(len(rewards), size)


def _all_equal(rewards: Sequence[float], size: int, value: float) -> float:
    count = sum(abs(reward - value) <= EQUAL_WITHIN for reward in rewards)
    return math.comb(count, size) / math.comb(len(rewards), size)


def _least(total: float, right: float, wrong: float, scale: float) -> float:
    """Return the least share at `scale` times the size, when the shares at the size itself add up to `total`."""
    known = right + wrong
    if known <= 0:
        return 0.0
    right, wrong = total * right / known, total * wrong / known
    return float(right**scale + wrong**scale)


def _beta_share(groups: Sequence[Sequence[float]], top: float, size: int) -> float:
    """Return the expected share at a size for the beta distribution of success that fits the groups best."""
    seen = Counter((sum(abs(r - top) <= EQUAL_WITHIN for r in rewards), len(rewards)) for rewards in groups if rewards)
    best = max(_candidates(), key=lambda beta: _likelihood(seen, *beta))
    return math.exp(_log_beta(best[0] + size, best[1]) - _log_beta(*best)) + math.exp(
        _log_beta(best[0], best[1] + size) - _log_beta(*best)
    )


def _candidates() -> Iterator[tuple[float, float]]:
    """Yield parameters: means from 0 to 1, and each with little to much difference between prompts."""
    for step in range(1, _GRID):
        for power in range(_GRID):
            mean, strength = step / _GRID, 10 ** (power / 8 - 1.5)
            yield mean * strength, (1 - mean) * strength


def _likelihood(seen: Mapping[tuple[int, int], int], a: float, b: float) -> float:
    return math.fsum(
        count * (_log_beta(a + right, b + total - right) - _log_beta(a, b)) for (right, total), count in seen.items()
    )


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
