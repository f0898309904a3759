"""Charts as SVG. They have no style of their own and no script: classes name what the style sheet draws."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 320, 110
_LEFT, _BOTTOM = 32, 16


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram."""

    low: float
    high: float
    count: int
    href: str = ""
    """Where a click leads. Empty for nowhere."""


def bins_of(values: Mapping[float, int], most: int = 20) -> list[Bin]:
    """Return values in bins of equal width, each with its upper end excluded but for the last one.

    Values of few kinds, such as 0 and 1, have a bin for each kind.

    Args:
        values: How often each value was seen.
        most: Bins at most.
    """
    known = sorted(value for value in values if math.isfinite(value))
    if len(known) <= most:
        return [Bin(value, value, values[value]) for value in known]
    low, high = known[0], known[-1]
    # The difference of the ends may be more than a float holds.
    edges = [*(low * (1 - part / most) + high * (part / most) for part in range(most)), high]
    counts = [0] * most
    for value in known:
        counts[min(most - 1, bisect_right(edges, value) - 1)] += values[value]
    return [Bin(edges[number], edges[number + 1], count) for number, count in enumerate(counts)]


def histogram(bins: Sequence[Bin], label: str) -> Markup:
    """Return bars, one for each bin. Those with `href` are links."""
    if not bins:
        return Markup("")
    most = max(item.count for item in bins) or 1
    width = (_WIDTH - _LEFT) / len(bins)
    parts = [_axis(f"{most:,}", "0")]
    for number, item in enumerate(bins):
        height = (_HEIGHT - _BOTTOM - 6) * item.count / most
        x, y = _LEFT + width * number, _HEIGHT - _BOTTOM - height
        name = f"{item.low:.4g}" if item.low == item.high else f"{item.low:.4g} to {item.high:.4g}"
        bar = Markup(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {:,}</title></rect>'
        ).format(x + 0.5, y, max(0.5, width - 1), height, name, item.count)
        link = f"{label} {name}: {item.count:,} rollouts"
        parts.append(Markup('<a href="{}" aria-label="{}">{}</a>').format(item.href, link, bar) if item.href else bar)
    ends = Markup('<text x="{}" y="{}">{:.4g}</text><text x="{}" y="{}" text-anchor="end">{:.4g}</text>')
    parts.append(ends.format(_LEFT, _HEIGHT - 4, bins[0].low, _WIDTH, _HEIGHT - 4, bins[-1].high))
    # Links in an image could not be reached.
    return _svg(parts, label, "group" if any(item.href for item in bins) else "img")


def curve(points: Sequence[tuple[float, float]], label: str) -> Markup:
    """Return a line through points that are sorted by their first number."""
    if not points:
        return Markup("")
    values = [value for _, value in points]
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1
    height = high / 2 - low / 2  # halves, since the whole may be more than a float holds
    first, last = points[0][0], points[-1][0]
    span = last - first or 1
    places = [
        (
            _LEFT + (_WIDTH - _LEFT - 4) * (x - first) / span,
            4 + (_HEIGHT - _BOTTOM - 8) * (1 - (value / 2 - low / 2) / height),
        )
        for x, value in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = Markup("").join(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2"><title>{:.4g}</title></circle>').format(x, y, value)
        for (x, y), value in zip(places, values, strict=True)
    )
    return _svg([_axis(f"{high:.3g}", f"{low:.3g}"), Markup('<polyline points="{}"/>').format(line), dots], label)


def bar(share: float, label: str) -> Markup:
    """Return one bar that is filled from the left by a share from 0 to 1."""
    width = 80 * min(1.0, max(0.0, share if math.isfinite(share) else 0.0))
    return Markup(
        '<svg class="inline" viewBox="0 0 80 10" role="img" aria-label="{}"><rect class="rest" width="80" height="10"/>'
        '<rect class="bar" width="{:.1f}" height="10"/></svg>'
    ).format(label, width)


def _axis(high: str, low: str) -> Markup:
    return Markup(
        '<text x="{0}" y="12" text-anchor="end">{1}</text><text x="{0}" y="{2}" text-anchor="end">{3}</text>'
        '<line x1="{4}" y1="{2}" x2="{5}" y2="{2}"/>'
    ).format(_LEFT - 4, high, _HEIGHT - _BOTTOM, low, _LEFT, _WIDTH)


def _svg(parts: Iterable[Markup], label: str, role: str = "img") -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="{}" aria-label="{}">')
    head = head.format(_WIDTH, _HEIGHT, role, label)
    return head + Markup("").join(map(escape, parts)) + Markup("</svg>")
