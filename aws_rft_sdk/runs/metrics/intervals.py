"""Confidence intervals over prompts. Pure, seeded, and in plain Python: numpy is no base dependency.

Up to 2,500 prompts they come from a bootstrap. With more prompts the bootstrap's distribution has a closed form.

Prompts are resampled, not rollouts: rollouts of one prompt are alike, so the prompt is what is independent (the cluster
bootstrap; Davison and Hinkley, 1997, on hierarchical data). A figure is a ratio of two sums over prompts, so that means
over prompts and means over rollouts of groups of unequal size are resampled by the same few lines.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from statistics import NormalDist

CONFIDENCE = 0.95
SEED = 0
RESAMPLES = 2_000
MOST_DRAWN = 2_500
"""Prompts that the bootstrap draws from. With more prompts, intervals have the closed form of `expansion_interval`."""
_NORMAL = NormalDist()
_ALIKE = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A figure and where it may be."""

    value: float
    low: float | None
    """Lower end of the interval; None when nothing can be said, as with one prompt."""
    high: float | None


@dataclass(frozen=True)
class Figure:
    """A figure over prompts, `sum(sums) / sum(weights)`: one entry of each for every prompt, in the same order."""

    sums: Sequence[float]
    weights: Sequence[float]
    """0 for a prompt that does not count; 1 in a mean over prompts, the number of rollouts in a mean over rollouts."""
    bounds: tuple[float, float] | None = None
    """Least and greatest value that a prompt can have, None when unknown."""

    @property
    def value(self) -> float | None:
        """The figure itself; None when no prompt counts."""
        weight = math.fsum(self.weights)
        return math.fsum(self.sums) / weight if weight else None

    @property
    def per_prompt(self) -> array[float]:
        """The value of each prompt that counts."""
        pairs = zip(self.sums, self.weights, strict=True)
        return array("d", (total / weight for total, weight in pairs if weight))

    @property
    def counting(self) -> Figure:
        """The same figure without the prompts that do not count."""
        sums, weights = (array("d", compress(column, self.weights)) for column in (self.sums, self.weights))
        return Figure(sums, weights, self.bounds)

    @property
    def cumulants(self) -> tuple[float, float]:
        """Variance and third cumulant of the figure over prompts drawn with replacement, from its linear part."""
        weight = math.fsum(self.weights)
        value = math.fsum(self.sums) / weight
        rest = array("d", (total - value * each for total, each in zip(self.sums, self.weights, strict=True)))
        return math.fsum(e * e for e in rest) / weight**2, math.fsum(e * e * e for e in rest) / weight**3


def mean_over_prompts(values: Sequence[float], bounds: tuple[float, float] | None = None) -> Figure:
    """Return the mean over prompts as a figure. NaN leaves a prompt out."""
    weights = array("d", (value == value for value in values))
    return Figure(array("d", (value if value == value else 0.0 for value in values)), weights, bounds)


def seen_range(values: Sequence[float]) -> tuple[float, float] | None:
    """Return least and greatest value, as bounds where nobody tells the range; None when all are equal."""
    least, greatest = min(values, default=0.0), max(values, default=0.0)
    return (least, greatest) if least < greatest else None


def method_of(prompts: int, resamples: int | None) -> str:
    """Return how intervals over so many prompts are made, "bootstrap" or "expansion"."""
    return "bootstrap" if resamples is not None or prompts <= MOST_DRAWN else "expansion"


def estimate(
    figures: Iterable[Figure], *, confidence: float = CONFIDENCE, resamples: int | None = None, seed: int = SEED
) -> list[Estimate | None]:
    """Return each figure with its interval. All are computed from the same resamples.

    Args:
        figures: Over the same prompts in the same order. With many prompts, one of them is in memory at a time.
        confidence: Share of such intervals that hold the true value, between 0 and 1.
        resamples: Of the bootstrap; None for 2,000, and for the closed form with more than 2,500 prompts.
        seed: The same seed gives the same interval.

    Returns:
        One for each figure, None for a figure without any prompt.
    """
    rest = iter(figures)
    first = next(rest, None)
    if first is None:
        return []
    if method_of(len(first.sums), resamples) == "expansion":
        return [_estimate_alone(figure.counting, confidence, seed) for figure in chain([first], rest)]
    figures = [first, *rest]
    drawn = replicates(figures, resamples=resamples, seed=seed)
    return [_estimate(figure, values, confidence) for figure, values in zip(figures, drawn, strict=True)]


def replicates(figures: Sequence[Figure], *, resamples: int | None = None, seed: int = SEED) -> list[list[float]]:
    """Return each figure over prompts drawn with replacement, as many as there are, again and again.

    A resample in which none of the drawn prompts counts for a figure gives no value for it.
    """
    count = len(figures[0].sums) if figures else 0
    results: list[list[float]] = [[] for _ in figures]
    if not count:
        return results
    positions, rng = range(count), random.Random(seed)
    constant = [figure.weights[0] * count if len(set(figure.weights)) == 1 else None for figure in figures]
    for _ in range(RESAMPLES if resamples is None else resamples):
        drawn = rng.choices(positions, k=count)
        for figure, fixed, values in zip(figures, constant, results, strict=True):
            weight = sum(map(figure.weights.__getitem__, drawn)) if fixed is None else fixed
            if weight:
                values.append(sum(map(figure.sums.__getitem__, drawn)) / weight)
    return results


def percentile_interval(values: Sequence[float], prompts: int, confidence: float) -> tuple[float, float] | None:
    """Return the expanded percentile interval of bootstrap replicates; None with less than two prompts.

    The plain percentile interval is too narrow by sqrt((n - 1) / n) and by using normal instead of t quantiles. The
    levels are moved outwards so that they match the t interval for symmetric data: `z(level') * sqrt((n - 1) / n) =
    t(level, n - 1)`. Source: Hesterberg, What Teachers Should Know about the Bootstrap, arXiv 1411.5279.
    """
    if prompts < 2 or not values:
        return None
    level = _NORMAL.cdf(-_expanded(prompts, confidence))
    ordered = sorted(values)
    return quantile(ordered, level), quantile(ordered, 1 - level)


def expansion_interval(
    value: float, variance: float, third: float, prompts: int, confidence: float
) -> tuple[float, float]:
    """Return where `percentile_interval` goes as resamples become infinite, for many prompts.

    The distribution of a bootstrap mean is normal up to its skewness g, so that its quantile at the normal quantile z
    is `value + s * (z + (z ** 2 - 1) * g / 6)`. Source: the expansion of Cornish and Fisher (1938), to its second term.

    Args:
        value: The figure.
        variance: Of the figure over resamples.
        third: Its third cumulant.
        prompts: As for `percentile_interval`, at least 2.
        confidence: Of the interval.
    """
    deviation, z = math.sqrt(variance), _expanded(prompts, confidence)
    shift = (z * z - 1) * third / (6 * variance)
    return value - deviation * z + shift, value + deviation * z + shift


def _expanded(prompts: int, confidence: float) -> float:
    return t_quantile((1 + confidence) / 2, prompts - 1) * math.sqrt(prompts / (prompts - 1))


def _estimate_alone(figure: Figure, confidence: float, seed: int) -> Estimate | None:
    if len(figure.sums) > MOST_DRAWN:
        return _estimate(figure, None, confidence)
    return estimate([figure], confidence=confidence, seed=seed)[0]  # only few of the many prompts count


def _estimate(figure: Figure, replicated: Sequence[float] | None, confidence: float) -> Estimate | None:
    """Return a figure with its interval; from the closed form without values of resamples."""
    value = figure.value
    if value is None:
        return None
    each = figure.per_prompt
    ends: tuple[float | None, float | None]
    if max(each) - min(each) <= _ALIKE:
        ends = constant_interval(each[0], len(each), figure.bounds, confidence)
    elif replicated is not None:
        ends = percentile_interval(replicated, len(each), confidence) or (None, None)
    else:
        low, high = expansion_interval(value, *figure.cumulants, len(each), confidence)
        least, greatest = figure.bounds or (-math.inf, math.inf)
        ends = max(low, least), min(high, greatest)
    return Estimate(value, *ends)


def constant_interval(
    value: float, prompts: int, bounds: tuple[float, float] | None, confidence: float
) -> tuple[float | None, float | None]:
    """Return the interval of a mean when every prompt has the same value, where a bootstrap would claim certainty.

    If the share of all possible prompts with this value were below `q = (1 - confidence) ** (1 / prompts)`, seeing
    nothing else would be less likely than `1 - confidence`. So the mean is at least `q * value + (1 - q) * low` with
    the lower bound `low`, and likewise upwards. Source: the exact bound of Clopper and Pearson (1934) for n of n; for
    95 % it is near the rule of three, 3 / n. Without bounds nothing can be said.
    """
    if bounds is None:
        return None, None
    share = (1 - confidence) ** (1 / prompts)
    low, high = bounds
    return share * value + (1 - share) * low, share * value + (1 - share) * high


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share of `count` trials. Without trials it is all that is possible."""
    if not count:
        return 0.0, 1.0
    z = 1.959964
    middle, width = share + z * z / (2 * count), z * math.sqrt((share * (1 - share) + z * z / (4 * count)) / count)
    return (middle - width) / (1 + z * z / count), (middle + width) / (1 + z * z / count)


def t_quantile(level: float, degrees: int) -> float:
    """Return a quantile of Student's t distribution, correct to 0.2 % for levels from 0.5 to 0.975.

    Closed forms for one and two degrees of freedom, else the expansion of Abramowitz and Stegun (1964), 26.7.5.
    """
    if degrees == 1:
        return math.tan(math.pi * (level - 0.5))
    if degrees == 2:
        return (2 * level - 1) / math.sqrt(2 * level * (1 - level))
    x = _NORMAL.inv_cdf(level)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / math.pow(degrees, power) for power, term in enumerate(terms, start=1))


def quantile(ordered: Sequence[float], level: float) -> float:
    """Return a quantile of sorted values, between neighbours linearly: type 7 of Hyndman and Fan (1996).

    Args:
        ordered: At least one value, in ascending order.
        level: From 0 to 1.
    """
    position = level * (len(ordered) - 1)
    below = min(int(position), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
