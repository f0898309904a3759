"""`aws-rft replay`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aws_rft_sdk._loading import load_function
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.loops import run
from aws_rft_sdk.runs.recorded import changed_sources, choose_records, find_reference
from aws_rft_sdk.runs.replay_report import ReplayedRollout, ReplayReport
from aws_rft_sdk.runs.replaying import DEADLINE_SECONDS, replay_rollouts


@click.command("replay")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("handler", required=False)
@click.option("--handler", "named", help="The same as HANDLER.")
@click.option("--only", multiple=True, metavar="ID", help="Replay this rollout only; may be repeated.")
@click.option("--limit", type=click.IntRange(1), help="Replay the first N rollouts only, in the dataset's order.")
@click.option("--concurrency", default=16, show_default=True, type=click.IntRange(1), help="Rollouts in flight.")
@click.option(
    "--deadline-seconds",
    default=DEADLINE_SECONDS,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="For one rollout.",
)
@click.option("--strict", is_flag=True, help="Let fresh ids and times in texts count as differences.")
@click.option("--once", is_flag=True, help="Do not replay rollouts that differ a second time.")
@click.option("--db", type=click.Path(exists=True, dir_okay=False), help="The trajectories, if not those in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(
    ctx: click.Context,
    folder: Path,
    handler: str | None,
    named: str | None,
    only: tuple[str, ...],
    limit: int | None,
    concurrency: int,
    deadline_seconds: float,
    strict: bool,
    once: bool,
    db: str | None,
    as_json: bool,
) -> None:
    """Run agent, tools and reward of recorded rollouts again, without a model, and show the first turn that differs.

    DIR is the folder of a run; nothing is written to it. HANDLER is as for `aws-rft rollout`. The default is the one
    that the run names. Inference is answered from the record. Tools
    run for real. Exit status: 0 when every replay is as it was recorded, 1 when one differs, 2 for bad usage.
    """
    if handler and named:
        raise ConfigurationError("HANDLER and --handler both name a handler. Give one of them")
    total = len(choose_records(folder, only, limit))
    fn = load_function(find_reference(folder, handler or named))

    async def collect() -> list[ReplayedRollout]:
        found = []
        with _progress() as progress:
            bar = progress.add_task("replays", total=total)
            async with contextlib.aclosing(
                replay_rollouts(
                    folder,
                    fn,
                    only=only,
                    limit=limit,
                    concurrency=concurrency,
                    deadline_seconds=deadline_seconds,
                    strict=strict,
                    confirm=not once,
                    db=db,
                )
            ) as stream:
                async for rollout in stream:
                    found.append(rollout)
                    progress.update(bar, completed=len(found))
        return found

    rollouts = run(collect())
    report = ReplayReport.of(rollouts, changed_sources(folder, fn))
    text = json.dumps(report.to_json(), indent=2, default=str) if as_json else str(report)
    click.echo(text, file=own_stdout())
    ctx.exit(0 if report.same else 1)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
