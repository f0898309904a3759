"""A figure of a set of rollouts for a report. The only module that imports matplotlib (extra `report`)."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics.figures import Metrics
from aws_rft_sdk.runs.metrics.groups import Groups
from aws_rft_sdk.runs.metrics.intervals import Estimate
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import RolloutTable

SUFFIXES = (".png", ".svg")
_BLUE, _ORANGE, _GREEN, _GREY = "#1f5fa8", "#d9822b", "#3a8f5c", "#6b7280"
_FEW_VALUES = 12
"""Up to so many different rewards have a bar each: bins would hide that a reward is all or nothing."""
_BINS = 30


def draw(
    records: Iterable[RolloutRecord] | RolloutTable, metrics: Metrics, path: str | Path, *, title: str = ""
) -> None:
    """Draw the distribution of rewards, and pass@k and pass^k with their intervals, into one PNG or SVG file.

    Args:
        records: The rollouts that the metrics are of.
        metrics: Their metrics.
        path: Where to write; replaced if it is there. Its suffix says what.
        title: Stands above both.

    Raises:
        ConfigurationError: matplotlib is not installed, the suffix is neither .png nor .svg, or the file cannot be
            written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"{path} ends in none of {', '.join(SUFFIXES)}")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError as error:
        raise ConfigurationError("plots need matplotlib: pip install 'aws-rft-sdk[report]'") from error
    # A Figure of its own instead of pyplot: no window system is looked for, and nothing global is changed.
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    table = RolloutTable.of(records)
    _draw_rewards(left, Groups(table, metrics.success_threshold, metrics.failures_as_zero).rewards, metrics)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    _draw_pass_k(right, metrics)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
    if title:
        # A folder may be called anything: a dollar sign is no formula.
        figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def _draw_rewards(axes: Any, rewards: array[float], metrics: Metrics) -> None:
    lost = f", {metrics.no_reward} without" if metrics.no_reward else ""
    failed = f", {metrics.left_out} failed" if metrics.left_out else ""
    axes.set_title(f"{len(rewards)} rewards{lost}{failed}, {metrics.prompts} prompts", fontsize=11)
    axes.set_xlabel("reward")
    axes.set_ylabel("rollouts")
    if not rewards:
        _say_nothing(axes, "no rewards")
        return
    if len(set(rewards)) <= _FEW_VALUES:
        _draw_bars(axes, Counter(rewards), metrics.success_threshold)
    else:
        axes.hist(rewards, bins=_BINS, color=_BLUE, edgecolor="white", linewidth=0.5)
        low, high = axes.get_xlim()
        if low <= metrics.success_threshold <= high:
            label = f"success from {metrics.success_threshold:g}"
            axes.axvline(metrics.success_threshold, color=_GREEN, linewidth=1.8, linestyle="--", label=label)
    if metrics.reward.mean is not None:
        axes.axvline(metrics.reward.mean, color=_ORANGE, linewidth=1.8, label=f"mean {metrics.reward.mean:.3g}")
    axes.margins(y=0.14)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _draw_bars(axes: Any, counts: Counter[float], success_threshold: float) -> None:
    values = sorted(counts)
    gaps = [after - before for before, after in itertools.pairwise(values)]
    width = max(0.7 * min(gaps, default=0.5), 0.01 * (values[-1] - values[0]))
    for label, colour, part in (
        (f"below {success_threshold:g}", _BLUE, [value for value in values if value < success_threshold]),
        (f"success, from {success_threshold:g}", _GREEN, [value for value in values if value >= success_threshold]),
    ):
        if part:
            bars = axes.bar(part, [counts[value] for value in part], width=width, color=colour, label=label)
            axes.bar_label(bars, fontsize=8, color=_GREY, padding=2)
    if len(values) == 1:
        axes.set_xlim(values[0] - 1, values[0] + 1)


def _draw_pass_k(axes: Any, metrics: Metrics) -> None:
    axes.set_title(f"pass@k and pass^k, {metrics.confidence:.0%} intervals over prompts", fontsize=11)
    axes.set_xlabel("k rollouts of a prompt")
    axes.set_ylabel("prompts")
    axes.set_ylim(-0.03, 1.03)
    if not metrics.pass_k:
        _say_nothing(axes, "no rollouts")
        return
    ks = [passed.k for passed in metrics.pass_k]
    for label, colour, estimates in (
        ("pass@k: at least one succeeds", _BLUE, [passed.pass_at for passed in metrics.pass_k]),
        ("pass^k: all succeed", _ORANGE, [passed.pass_power for passed in metrics.pass_k]),
    ):
        _draw_curve(axes, ks, estimates, label, colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlim(ks[0] / 1.25, ks[-1] * 1.25)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _draw_curve(axes: Any, ks: list[int], estimates: list[Estimate], label: str, colour: str) -> None:
    values = [found.value for found in estimates]
    axes.plot(ks, values, color=colour, marker="o", markersize=5, linewidth=1.8, label=label)
    known = [(k, found.value, found.low, found.high) for k, found in zip(ks, estimates, strict=True)]
    rows = [(k, value, low, high) for k, value, low, high in known if low is not None and high is not None]
    if not rows:
        return
    at, middle, lows, highs = zip(*rows, strict=True)
    axes.fill_between(at, lows, highs, color=colour, alpha=0.14, linewidth=0)
    # A percentile interval need not hold the value when prompts are very few; a whisker has no negative length.
    below = [max(0.0, value - low) for value, low in zip(middle, lows, strict=True)]
    above = [max(0.0, high - value) for value, high in zip(middle, highs, strict=True)]
    axes.errorbar(at, middle, yerr=[below, above], fmt="none", ecolor=colour, elinewidth=1.2, capsize=3)


def _say_nothing(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_GREY)
