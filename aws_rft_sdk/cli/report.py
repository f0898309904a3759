"""`aws-rft report`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from aws_rft_sdk.cli._options import finite, usage_errors
from aws_rft_sdk.cli._runs import RecordedRun, threshold_of
from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.jobs.expecting import completed_plan, read_plan, read_table
from aws_rft_sdk.runs.preflight.plans import read_prices
from aws_rft_sdk.viewer.report import ReportedRun, write_report

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option("--job", type=_FILE, help="As for aws-rft preflight.")
@click.option("--prices", type=_FILE, help="As for aws-rft preflight.")
@click.option("--samples", default=3, show_default=True, type=click.IntRange(0), help="Rollouts of each kind.")
@click.option("--success-threshold", type=float, callback=finite, help="Lowest reward that counts as a success.")
@usage_errors
def command(
    runs: tuple[Path, ...],
    out: Path,
    job: Path | None,
    prices: Path | None,
    samples: int,
    success_threshold: float | None,
) -> None:
    """Write runs as one HTML page that needs no server and no network, for example to attach to a pull request.

    RUNS are folders of `aws-rft rollout`. Each one after the first is compared with the first. The page has figures
    with their intervals, plots, the verdict of a preflight, what a job would take, how often the agent changed a
    history, and the worst, best, failed and longest rollouts as conversations. It holds what agents and users said:
    look at it before you send it.
    """
    plan = read_plan(job)
    threshold = threshold_of(plan.success_threshold if success_threshold is None else success_threshold, *runs)
    if prices is not None:
        plan = replace(plan, prices=read_prices(read_table(prices)))
    reported = []
    for run in map(RecordedRun.read, runs):
        known = completed_plan(plan, run.manifest, seen=len(set(run.table.prompt)))
        reported.append(ReportedRun(run.folder, run.table, run.manifest, threshold, known))
    page = write_report(reported, samples=samples)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {out}")
