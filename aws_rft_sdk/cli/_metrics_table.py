"""Metrics for people: a table, and what it means below."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aws_rft_sdk.runs.metrics.figures import Metrics, Spread
from aws_rft_sdk.runs.metrics.hints import hints, named_failures
from aws_rft_sdk.runs.metrics.intervals import Estimate

failures_as_zero_option = click.option(
    "--failures-as-zero",
    is_flag=True,
    help="Count rollouts that failed or were not reported with a reward of 0, instead of leaving them out.",
)


def print_metrics(console: Console, metrics: Metrics, *, total: int | None = None) -> None:
    """Print the table of metrics and the hints.

    Args:
        console: Where to.
        metrics: What to print.
        total: Rollouts that were to be run, None when that is not known.
    """
    console.print(metrics_table(metrics, total=total))
    if metrics.pass_k:
        console.print(pass_table(metrics))
    if metrics.reported:
        console.print(reported_table(metrics))
    for hint in hints(metrics):
        console.print(f"{hint.rule}: {hint.text}", style="yellow", markup=False)


def metrics_table(metrics: Metrics, *, total: int | None = None) -> Table:
    """Return all but pass@k and pass^k as a table."""
    groups, seconds = metrics.groups, metrics.seconds
    ended = str(metrics.rollouts) if total in (None, metrics.rollouts) else f"{metrics.rollouts} of {total}"
    table = Table(show_header=False)
    table.add_row("rollouts", f"{ended}, {_counted(metrics.prompts, 'prompt')}, {_group_sizes(metrics)} each")
    table.add_row("mean reward", _estimate(metrics.mean_reward))
    table.add_row("reward", _spread(metrics.reward, "std", "min", "max"))
    table.add_row("reward of 0", percent(metrics.zero_share))
    share = None if metrics.success is None else metrics.success.value
    table.add_row(f"success (reward >= {metrics.success_threshold:g})", percent(share))
    table.add_row("did not complete", percent(metrics.not_completed_share))
    table.add_row("not reported", str(metrics.unreported))
    if metrics.failures:
        taken = "counted as 0" if metrics.failures_as_zero else "left out"
        table.add_row(taken, Text(named_failures(metrics.failures)))
    if metrics.no_reward:
        table.add_row("without a reward", str(metrics.no_reward))
    if metrics.retried:
        table.add_row("begun more than once", str(metrics.retried))
    if groups.compared:
        table.add_row("within groups", _spread(groups.within, "mean", "std", "min", "max"))
        table.add_row("std across groups", number(groups.std_across))
    table.add_row("groups with equal rewards", _zero_variance(metrics))
    table.add_row("turns", _spread(metrics.turns, "mean", "min", "max", digits=2))
    if metrics.unsure_turns:
        table.add_row("turns perhaps sampled twice", str(metrics.unsure_turns))
    if metrics.with_foreign_calls:
        table.add_row(
            "asked the production model",
            f"{metrics.with_foreign_calls} of {metrics.rollouts} rollouts; see aws-rft prove",
        )
    if metrics.tokens is not None:
        table.add_row("prompt tokens of a turn", f"{number(metrics.tokens.prompt_mean, 1)} mean")
        table.add_row(
            "response tokens of a turn", _spread(metrics.tokens.response, "mean", "std", "min", "max", digits=1)
        )
    if seconds.mean is not None:
        parts = ((seconds.mean, "mean"), (seconds.p50, "p50"), (seconds.p99, "p99"), (seconds.max, "max"))
        table.add_row("seconds", ", ".join(f"{number(value, 3)} {name}" for value, name in parts))
    return table


def pass_table(metrics: Metrics) -> Table:
    """Return pass@k and pass^k as a table, a row for each k."""
    table = Table()
    table.add_column("k", justify="right")
    table.add_column("pass@k")
    table.add_column("pass^k")
    left_out = any(passed.left_out for passed in metrics.pass_k)
    if left_out:
        table.add_column("prompts left out", justify="right")
    for passed in metrics.pass_k:
        cells = [str(passed.k), _share(passed.pass_at), _share(passed.pass_power)]
        table.add_row(*cells, *([str(passed.left_out)] if left_out else []))
    closed = ", in closed form" if metrics.interval_method == "expansion" else ""
    table.caption = f"in brackets: {metrics.confidence:.0%} interval over prompts{closed}"
    return table


def reported_table(metrics: Metrics) -> Table:
    """Return the numbers that the handler reports as a table, a row for each."""
    table = Table("reported by the handler", "mean", "min", "max", "rollouts")
    for of in metrics.reported:
        table.add_row(Text(of.name), _estimate(of.mean), number(of.min), number(of.max), str(of.rollouts))
    return table


def percent(share: float | None) -> str:
    """Return a share as text."""
    return "-" if share is None else f"{100 * share:.2f} %"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as text."""
    return "-" if value is None else f"{value:.{digits}f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _group_sizes(metrics: Metrics) -> str:
    smallest, largest = metrics.smallest_group, metrics.rollouts_per_prompt
    return str(largest) if smallest == largest else f"{smallest} to {largest}"


def _zero_variance(metrics: Metrics) -> str:
    groups = metrics.groups
    if not groups.compared:
        return "-"
    parts = [
        f"{count} {word}"
        for count, word in (
            (groups.zero_variance_right, "all right"),
            (groups.zero_variance_wrong, "all wrong"),
            (groups.zero_variance_other, "in between"),
        )
        if count
    ]
    return percent(groups.zero_variance_share) + (f" ({', '.join(parts)})" if parts else "")


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return "-"
    ends = "" if found.low is None else f" [{number(found.low)}, {number(found.high)}]"
    return f"{number(found.value)}{ends}"


def _share(found: Estimate) -> str:
    ends = "" if found.low is None or found.high is None else f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{100 * found.value:.1f} %{ends}"


def _spread(spread: Spread, *names: str, digits: int = 4) -> str:
    values = {"mean": spread.mean, "std": spread.std, "min": spread.min, "max": spread.max}
    known = [f"{number(values[name], digits)} {name}" for name in names if values[name] is not None]
    return ", ".join(known) or "-"
