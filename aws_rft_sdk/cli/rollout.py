"""`aws-rft rollout`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from aws_rft_sdk.cli._metrics_table import print_metrics
from aws_rft_sdk.cli._options import finite, limit_options, usage_errors
from aws_rft_sdk.cli._output import own_stdout, reader_may_leave, user_code_prints_to_stderr
from aws_rft_sdk.cli._progress import RunProgress
from aws_rft_sdk.cli._runs import metrics_json
from aws_rft_sdk.rollout.engines.choosing import ENGINES
from aws_rft_sdk.rollout.interrupts import INTERRUPTED
from aws_rft_sdk.rollout.options import DEFAULTS
from aws_rft_sdk.rollout.policies import POLICY_HELP
from aws_rft_sdk.rollout.running import DatasetRun, RunStatus, run

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN_ERRORS = 5
_EXIT_STATUSES = {RunStatus.COMPLETED: 0, RunStatus.FAILED: 1, RunStatus.INTERRUPTED: INTERRUPTED}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False)


def _option(name: str, text: str, **attributes: Any) -> Callable[[F], F]:
    """Return an option of `run`. It has no default here, so that `run` sees whether it was given."""
    default = DEFAULTS[name[2:].replace("-", "_")]  # type: ignore[literal-required] # a name of an option
    return click.option(name, help=text if default is None else f"{text}  [default: {default}]", **attributes)


@click.command("rollout")
@click.argument("handler", required=False)
@click.argument("dataset", required=False, type=click.Path(exists=True, dir_okay=False))
@_option(
    "--engine",
    "Where rollouts run. auto: http for a URL, agentcore for the ARN of a runtime, else local.",
    type=click.Choice(ENGINES),
)
@_option("--group-size", "Rollouts of each prompt.", type=int)
@_option("--concurrency", "Rollouts in flight.  [default: 16; deployed agents: 96]", type=int)
@_option("--starts-per-second", "Rollouts begun per second.  [default: any; deployed agents: 5]", type=float)
@_option("--workers", "Processes or actors of the engines process and ray.", type=int)
@_option("--address", "Ray cluster, as for ray.init.  [default: RAY_ADDRESS, else one on this machine]")
@_option("--requirements", "requirements.txt or pyproject.toml that pip installs on the Ray nodes.", type=_FILE)
@click.option("--show-output", is_flag=True, default=None, help="Show what handlers on a Ray cluster print.")
@_option("--deadline-seconds", "For each rollout.", type=float)
@limit_options
@_option("--retries", "Repetitions of a failed rollout: N, or KIND=N,... by kind of failure.")
@_option("--retry-budget", "Repetitions in the whole run: a count, or a share of all rollouts.")
@click.option("--breaker/--no-breaker", default=None, help="End a run whose first 32 rollouts fail for one reason.")
@_option("--fail-over", "Rollouts that may fail before the exit status is 1: N, or P% of all.")
@_option("--limit", "Use the first N prompts only.", type=int)
@_option("--policy", f"{POLICY_HELP} Default: `policy` in a policy.py beside the handler's file.")
@_option("--endpoint", "A runtime that is already running, instead of one of our own.")
@_option("--key", "Key of that runtime. Others see it in the process list; RFT_RUNTIME_KEY keeps it from them.")
@_option("--job-arn", "Job to report under; needed with an --endpoint that is not a local runtime.")
@_option("--qualifier", "Endpoint of the AgentCore runtime.")
@click.option("--out", type=_FOLDER, help="Folder for the records of a new run.  [default: runs/<time in UTC>]")
@click.option("--discard", is_flag=True, help="Keep no folder: print the figures only.")
@click.option(
    "--resume",
    type=_FOLDER,
    help="Folder of a run to go on with, in its settings. What is missing or failed runs again.",
)
@click.option("--accept-changes", is_flag=True, help="Resume although dataset, handler or settings have changed.")
@_option("--temperature", "Sent in the payload.", type=float)
@_option("--top-p", "Sent in the payload.", type=float)
@_option("--max-tokens", "Sent in the payload.", type=int)
@_option("--success-threshold", "Lowest reward that counts as a success.", type=float, callback=finite)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(
    ctx: click.Context, /, handler: str | None, dataset: str | None, as_json: bool, breaker: bool | None, **given: Any
) -> None:
    """Run a handler over a dataset and report every reward, as a training job would.

    HANDLER is path/to/file.py:function or module:function, decorated with rft_handler; or the URL of a worker that is
    running; or the ARN of an AgentCore runtime. DATASET is a jsonl, json, csv or parquet file with a `prompt` column,
    else its first column. With --resume, both may be left out.

    Ctrl-C or SIGTERM: no more rollouts begin and those in flight are finished. The second one cancels them, the third
    ends the command at once.

    Exit status: 0 when all rollouts completed, or no more failed than --fail-over allows; 1 when more failed or were
    not reported; 2 for bad usage; 3 when a disk, a port, a cluster or a worker does not work; 130 when interrupted.
    """
    options = {name: value for name, value in given.items() if value is not None}
    if breaker is not None:
        options["breaker"] = DEFAULTS["breaker"] if breaker else None
    with RunProgress() as progress:
        finished = run(handler, dataset, listener=progress, **options)
    with reader_may_leave():
        if as_json:
            click.echo(json.dumps(_report(finished), indent=2, allow_nan=False), file=own_stdout())
        else:
            console = Console(file=own_stdout(), highlight=False, soft_wrap=True, markup=False)
            with console.capture() as captured:  # rich would answer a closed pipe with exit status 1
                _print(console, finished)
            click.echo(captured.get(), nl=False, file=own_stdout())
    if finished.status is RunStatus.FAILED:
        allowed = finished.options["fail_over"]
        click.echo(f"{finished.failed} of {finished.total} rollouts failed; --fail-over allows {allowed}", err=True)
    ctx.exit(_EXIT_STATUSES[finished.status or RunStatus.FAILED])


def _report(finished: DatasetRun) -> dict[str, Any]:
    table = finished.table
    return {
        **metrics_json(finished.metrics, table),
        "folder": None if finished.folder is None else str(finished.folder),
        "status": finished.status,
        "hung": finished.hung,
        "errors": [{"error": error, "count": count} for error, count in table.common_errors(_SHOWN_ERRORS)],
        "tracebacks": [first._asdict() for first in table.first_tracebacks()],
    }


def _print(console: Console, finished: DatasetRun) -> None:
    table = finished.table
    print_metrics(console, finished.metrics, total=finished.total)
    if table.damage:
        console.print(str(table.damage), style="yellow")
    for first in table.first_tracebacks()[:_SHOWN_ERRORS]:
        console.print(f"\nfirst failure of the kind {first.failure or 'unknown'}:\n{first.traceback}", style="dim")
    for error, count in table.common_errors(_SHOWN_ERRORS):
        console.print(f"{count} x {error}", style="red")
    if finished.hung:
        console.print(f"threads in which a handler or a tool still hangs: {finished.hung}", style="yellow")
    if finished.folder:
        console.print(f"records in {finished.folder}")
