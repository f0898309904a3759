"""`aws-rft compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from aws_rft_sdk.cli._metrics_table import failures_as_zero_option
from aws_rft_sdk.cli._options import finite, success_threshold_option, usage_errors
from aws_rft_sdk.cli._runs import RecordedRun, damaged_lines, threshold_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics import Difference, RunComparison, compare, mixture_of, named_failures

_SUCCESS = "eval/reward/pass_at_1"
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("compare")
@click.argument("a", metavar="DIR_A", type=_FOLDER)
@click.argument("b", metavar="DIR_B", type=_FOLDER)
@success_threshold_option
@failures_as_zero_option
@click.option("--unpaired", is_flag=True, help="The runs are of different prompts. Intervals are wider then.")
@click.option(
    "--fail-below",
    type=float,
    callback=finite,
    help="Exit with status 1 if B - A is below this, in the unit of --json: -0.02 lets success fall by 2 points.",
)
@click.option("--figure", help=f"The figure that --fail-below looks at, by its name in --json.  [default: {_SUCCESS}]")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.pass_context
@usage_errors
def command(
    ctx: click.Context,
    a: Path,
    b: Path,
    success_threshold: float | None,
    failures_as_zero: bool,
    unpaired: bool,
    fail_below: float | None,
    figure: str | None,
    as_json: bool,
) -> None:
    """Say whether run B is better than run A, or whether the difference may be noise.

    DIR_A and DIR_B are what `aws-rft rollout --out` wrote. The runs are compared prompt by prompt, so they have to be
    of the same dataset. Exit status: 0 whatever is better, 1 when the change is below --fail-below, 2 for bad usage.
    """
    if figure is not None and fail_below is None:
        raise ConfigurationError("--figure is for --fail-below; give both")
    runs = [RecordedRun.read(folder) for folder in (a, b)]
    known = [run.manifest.dataset_sha256 for run in runs if run.manifest is not None]
    if not unpaired and len(set(known)) > 1:
        raise ConfigurationError(
            f"{a} and {b} are runs of different datasets, so prompts cannot be compared one by one; --unpaired "
            "compares their means"
        )
    threshold = threshold_of(success_threshold, a, b)
    options = {"paired": not unpaired, "failures_as_zero": failures_as_zero}
    found = compare(runs[0].table, runs[1].table, success_threshold=threshold, **options)
    failed = None if fail_below is None else _failure(found, figure or _SUCCESS, fail_below)
    if as_json:
        damaged = {"damaged_a": damaged_lines(runs[0].table), "damaged_b": damaged_lines(runs[1].table)}
        report = {"a": str(a), "b": str(b), **found.to_dict(), **damaged}
        click.echo(json.dumps(report, indent=2, allow_nan=False))
    else:
        _print(found, runs, same_dataset_known=len(known) == len(runs))
    if failed:
        click.echo(failed, err=True)
        ctx.exit(1)


def _failure(comparison: RunComparison, figure: str, limit: float) -> str | None:
    """Return what to say when the change of a figure is below a limit, None when it is not.

    Raises:
        ConfigurationError: The comparison has no such figure.
    """
    changes = {row.name: row.difference for row in comparison.differences}
    if figure not in changes:
        raise ConfigurationError(f"--figure is {figure}, which these runs do not have; they have {', '.join(changes)}")
    return f"{figure}: B - A is {changes[figure]:+.4g}, below {limit:g}" if changes[figure] < limit else None


def _print(comparison: RunComparison, runs: Sequence[RecordedRun], *, same_dataset_known: bool) -> None:
    console = Console(highlight=False)
    console.print(f"A is {runs[0].folder}\nB is {runs[1].folder}", markup=False)
    console.print(comparison_table(comparison))
    for difference in comparison.differences[:2]:
        console.print(f"{_name(difference)}: {difference.verdict}", markup=False, style="bold")
        if difference.prompts_needed is not None:
            console.print(f"  {_needed(difference)}", markup=False)
    damages = [str(run.table.damage) for run in runs if run.table.damage]
    for note in [*_notes(comparison, same_dataset_known), *damages]:
        console.print(note, style="yellow", markup=False)


def comparison_table(comparison: RunComparison) -> Table:
    """Return the figures of a comparison, one a row."""
    table = Table()
    for heading in ("", "A", "B", "B - A", f"{comparison.confidence:.0%} interval", "prompts", "better"):
        table.add_column(heading)
    for row in comparison.differences:
        scale, digits, unit = (100, 1, " %") if row.is_share else (1, 4, "")
        known = row.low is not None and row.high is not None
        table.add_row(
            _name(row),
            f"{scale * row.a:.{digits}f}{unit}",
            f"{scale * row.b:.{digits}f}{unit}",
            f"{scale * row.difference:+.{digits}f}",
            f"{scale * (row.low or 0.0):.{digits}f} to {scale * (row.high or 0.0):.{digits}f}" if known else "-",
            str(row.prompts),
            row.better or "noise",
        )
    if len(comparison.differences) > 2:
        table.caption = "of many rows one may stand out by chance; decide on one beforehand"
    return table


def _name(difference: Difference) -> str:
    name = difference.name.rpartition("/")[2]
    if difference.name.startswith("handler/"):
        return difference.name
    if name in ("mean", "pass_at_1"):
        return "mean reward" if name == "mean" else "success"
    return name.replace("pass_at_", "pass@").replace("pass_power_", "pass^")


def _needed(difference: Difference) -> str:
    needed = float(f"{difference.prompts_needed:.1e}")  # two digits: more would look exact
    here = difference.prompts
    return f"a true difference of this size shows in 4 of 5 runs of about {needed:,.0f} prompts; here are {here}"


def _notes(comparison: RunComparison, same_dataset_known: bool) -> list[str]:
    notes = []
    if comparison.paired and not same_dataset_known:
        notes.append(
            "a run does not say of which dataset it is: that prompts of one number are the same is taken for true"
        )
    if comparison.only_in_a or comparison.only_in_b:
        notes.append(
            f"left out: {comparison.only_in_a} prompts that only A has, {comparison.only_in_b} that only B has"
        )
    if comparison.no_reward_a or comparison.no_reward_b:
        notes.append(
            f"without a reward: {comparison.no_reward_a} rollouts of A, {comparison.no_reward_b} of B; they are no "
            "success, and in no mean of rewards"
        )
    for name, failures in (("A", comparison.failures_a), ("B", comparison.failures_b)):
        if failures:
            taken = "counted as 0" if comparison.failures_as_zero else "left out"
            notes.append(f"{taken}: rollouts of {name} that failed or were not reported, {named_failures(failures)}")
    for name, sources in (("A", comparison.sources_a), ("B", comparison.sources_b)):
        if mixed := mixture_of(sources):
            notes.append(f"in {name}, {mixed}")
    return notes
