"""`aws-rft report`."""

from __future__ import annotations

from pathlib import Path

import click

from aws_rft_sdk.cli._options import finite, usage_errors
from aws_rft_sdk.cli._runs import threshold_of
from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.jobs.expecting import completed_plan, read_plan
from aws_rft_sdk.runs.manifest import read_manifest
from aws_rft_sdk.viewer.report import ReportedRun, write_report


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option("--job", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="As for aws-rft preflight.")
@click.option("--samples", default=3, show_default=True, type=click.IntRange(0), help="Rollouts of each kind.")
@click.option("--success-threshold", type=float, callback=finite, help="Lowest reward that counts as a success.")
@usage_errors
def command(runs: tuple[Path, ...], out: Path, job: Path | None, samples: int, success_threshold: float | None) -> None:
    """Write runs as one HTML page that needs no server and no network, for example to attach to a pull request.

    RUNS are folders of `aws-rft rollout`. Each one after the first is compared with the first. The page has figures
    with their intervals, plots, the verdict of a preflight, and the worst, best, failed and longest rollouts as
    conversations. It holds what agents and users said: look at it before you send it.
    """
    threshold, plan = threshold_of(success_threshold, *runs), read_plan(job)
    manifests = [read_manifest(folder) for folder in runs]
    pairs = zip(runs, manifests, strict=True)
    reported = [ReportedRun(folder, threshold, completed_plan(plan, manifest)) for folder, manifest in pairs]
    page = write_report(reported, manifests, samples=samples)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {out}")
