"""How things are measured here: contenders take turns, and what is compared is compared round by round."""

from __future__ import annotations

import gc
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

Contender = Callable[[], float]
"""Runs one round and returns its figure: seconds for one operation, or operations per second."""


@dataclass(frozen=True)
class Effort:
    """How much is done. Medians settle with `rounds`, a round's own figure with `scale`."""

    rounds: int = 15
    scale: float = 1.0
    folder: Path | None = None
    """Where databases are put; None for the system's temporary folder."""
    gateway: str = "rllm-model-gateway"
    """The command of the gateway that is compared with."""

    def count(self, full: int) -> int:
        """Return how often something is done that is done `full` times at scale 1."""
        return max(1, round(full * self.scale))


class Spread(NamedTuple):
    """What several rounds gave."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up the figures of all rounds."""
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True)
class Result:
    """One comparison: what the floor takes, what we take, and the figure that the target is about."""

    name: str
    floor: Spread
    ours: Spread
    unit: str
    """Of `floor` and `ours`."""
    figure: Spread
    """Ratio ours / floor, or difference ours - floor, of each round."""
    kind: Literal["ratio", "difference"]
    target: float | None
    """Bound for the median of `figure`; None where there is none."""
    bound: Literal["at most", "at least"] = "at most"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met, None without one."""
        if self.target is None:
            return None
        return self.figure.median <= self.target if self.bound == "at most" else self.figure.median >= self.target

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        spreads = {name: getattr(self, name)._asdict() for name in ("floor", "ours", "figure")}
        plain = {name: getattr(self, name) for name in ("name", "unit", "kind", "target", "bound", "met", "note")}
        return {**plain, **spreads}


@dataclass
class Group:
    """Measurements of one kind and what else they found out."""

    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def interleave(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Run all contenders once without counting, then in turn, `rounds` times, each time another one first."""
    names = list(contenders)
    for name in names:
        contenders[name]()
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()  # nobody pays for what another left behind
            figures[name].append(contenders[name]())
    return figures


def ratio(
    name: str,
    floor: Sequence[float],
    ours: Sequence[float],
    *,
    unit: str,
    scale: float = 1.0,
    target: float | None,
    bound: Literal["at most", "at least"] = "at most",
    inverted: bool = False,
    note: str = "",
) -> Result:
    """Compare by the ratio of each round.

    Args:
        name: What is compared.
        floor: Figures of the floor, round by round.
        ours: Ours of the same rounds.
        unit: Unit of both.
        scale: What both are multiplied with to have this unit.
        target: Bound for the median of the ratios.
        bound: On which side of it the median must be.
        inverted: Whether the ratio is floor / ours: how many times faster we are.
        note: What a reader should know.
    """
    ratios = [f / o if inverted else o / f for f, o in zip(floor, ours, strict=True)]
    scaled = [Spread.of([value * scale for value in values]) for values in (floor, ours)]
    return Result(name, scaled[0], scaled[1], unit, Spread.of(ratios), "ratio", target, bound, note)


def difference(
    name: str,
    floor: Sequence[float],
    ours: Sequence[float],
    *,
    unit: str,
    scale: float = 1.0,
    target: float | None,
    note: str = "",
) -> Result:
    """Compare by the difference of each round. See `ratio`."""
    scaled_floor, scaled_ours = [v * scale for v in floor], [v * scale for v in ours]
    over = [o - f for f, o in zip(scaled_floor, scaled_ours, strict=True)]
    return Result(
        name, Spread.of(scaled_floor), Spread.of(scaled_ours), unit, Spread.of(over), "difference", target, note=note
    )


def table(results: Sequence[Result]) -> str:
    """Return a table of results in Markdown, each figure as median (minimum to maximum)."""
    rows = [("measurement", "floor", "ours", "figure", "target", "met")]
    for result in results:
        mark = "x" if result.kind == "ratio" else f" {result.unit}"
        sign = "" if result.kind == "ratio" else "+"
        target = "-" if result.target is None else f"{result.bound} {sign}{_short(result.target)}{mark}"
        met = {None: "-", True: "yes", False: "NO"}[result.met]
        rows.append(
            (
                result.name,
                _spread(result.floor, f" {result.unit}"),
                _spread(result.ours, f" {result.unit}"),
                _spread(result.figure, mark, sign),
                target,
                met,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine in words that fit any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {platform.system()}, Python {platform.python_version()}"


def _spread(spread: Spread, unit: str, sign: str = "") -> str:
    return f"{sign}{_short(spread.median)}{unit} ({_short(spread.minimum)} to {_short(spread.maximum)})"


def _short(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
