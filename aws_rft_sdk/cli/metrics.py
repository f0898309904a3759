"""`aws-rft metrics`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from aws_rft_sdk.cli._metrics_table import failures_as_zero_option, print_metrics
from aws_rft_sdk.cli._options import success_threshold_option, usage_errors
from aws_rft_sdk.cli._runs import RecordedRun, metrics_json, threshold_of
from aws_rft_sdk.runs.metrics import draw, measure


@click.command("metrics")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@success_threshold_option
@failures_as_zero_option
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Most tokens of a response, to see what was cut off.  [default: that of the run]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures and hints as JSON.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw rewards, pass@k and pass^k into this .png or .svg file. Needs the extra `report`.",
)
@usage_errors
def command(
    folder: Path,
    success_threshold: float | None,
    failures_as_zero: bool,
    max_tokens: int | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Compute the metrics of rollouts from their records, in the service's names.

    DIR is what `aws-rft rollout --out` wrote, also while it still writes. Exit status: 0, or 2 for bad usage.
    """
    run = RecordedRun.read(folder)
    found = measure(
        run.table,
        success_threshold=threshold_of(success_threshold, folder),
        prompts=run.prompts,
        group_size=run.group_size,
        max_tokens=max_tokens or run.max_tokens,
        failures_as_zero=failures_as_zero,
    )
    if plot is not None:
        draw(run.table, found, plot, title=folder.resolve().name)
    if as_json:
        report = metrics_json(found, run.table)
        click.echo(json.dumps(report, indent=2, allow_nan=False))
        return
    console = Console(highlight=False)
    print_metrics(console, found, total=run.total)
    if run.table.damage:
        console.print(str(run.table.damage), style="yellow", markup=False)
    if plot is not None:
        console.print(f"drawn in {plot}", markup=False)
