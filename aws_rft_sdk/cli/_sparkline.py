"""A curve as one line of text."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.:-=+*#"
_WIDTH = 40


def sparkline(values: Sequence[float], encoding: str, *, low: float | None = None, high: float | None = None) -> str:
    """Return a bar for each of the last 40 values.

    Args:
        values: The curve.
        encoding: Of the terminal or file. Bars that it cannot express become ASCII characters.
        low: The value of the lowest bar. None for the smallest value.
        high: The value of the highest bar. None for the largest value.
    """
    recent = values[-_WIDTH:]
    low = min(recent, default=0.0) if low is None else low
    high = max(recent, default=0.0) if high is None else high
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    try:
        _BARS.encode(encoding)
        bars = _BARS
    except (UnicodeEncodeError, LookupError):
        bars = _ASCII_BARS
    return "".join(bars[max(0, min(len(bars) - 1, round((value - low) * scale)))] for value in recent)
