"""Robust statistics of short, noisy series: levels, spreads and trends that single outliers do not change."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
_MOST_POINTS = 200
"""Points whose pairs are all compared. A longer series is thinned to this, which keeps the cost bounded."""


class Trend(NamedTuple):
    """How a series changes from its begin to its end.

    Attributes:
        change: End minus begin, by Theil and Sen's slope: the median of the slopes of all pairs.
        error: Standard error of `change`.
        significance: Mann and Kendall's z: in a series without a trend it is beyond 2 or -2 in 1 of 20.
        inflation: By how much errors are larger than those of as many independent values, 1 to 2.
    """

    change: float
    error: float
    significance: float
    inflation: float


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of the noise in a series, by the median of its steps, so that trends do not count.

    Where more than half of the steps are 0, the mean takes the place of the median.
    """
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    if not steps:
        return 0.0
    return (_TO_DEVIATION * median(steps) or 1.2533 * sum(steps) / len(steps)) / math.sqrt(2)


def trend(values: Sequence[float]) -> Trend:
    """Return the trend of a series of evenly spaced values, 3 at least.

    Neighbouring values of a smoothed series are alike, so it says less than it has values. Error and significance take
    account of that.
    """
    every = math.ceil(len(values) / _MOST_POINTS)
    if every > 1:
        values = [median(values[at : at + every]) for at in range(0, len(values), every)]
    n = len(values)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    slope = median((values[j] - values[i]) / (j - i) for i, j in pairs)
    signs = sum((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)
    middle = (n - 1) / 2
    rest = [value - slope * (at - middle) for at, value in enumerate(values)]
    level = median(rest)
    deviation = max(_TO_DEVIATION * median(abs(value - level) for value in rest), spread(values))
    inflation = _inflation(values, [value - level for value in rest])
    z = (signs - (signs > 0) + (signs < 0)) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    error = deviation * math.sqrt(12 / n) * inflation
    return Trend(slope * (n - 1), error, z / inflation, inflation)


def _inflation(values: Sequence[float], rest: Sequence[float]) -> float:
    """Return by how much errors grow because neighbours are alike, 1 to 2.

    There are two estimates of the likeness, and the lower one counts: the first is too high for bent curves, the second
    uncertain.
    """
    near, far = _step(values), (_step(values[::2]) + _step(values[1::2])) / 2
    power = sum(value * value for value in rest)
    if not near or not power:
        return 1.0
    by_rest = sum(a * b for a, b in itertools.pairwise(rest)) / power
    likeness = min(max(min(by_rest, (far / near) ** 2 - 1), 0.0), 0.6)
    return math.sqrt((1 + likeness) / (1 - likeness))


def _step(values: Sequence[float]) -> float:
    return sum(abs(b - a) for a, b in itertools.pairwise(values)) / max(len(values) - 1, 1)


def levels(values: Sequence[float], width: int) -> list[float]:
    """Return the medians of all windows of a width."""
    return [median(values[at : at + width]) for at in range(len(values) - width + 1)]
