"""`aws-rft job watch` and `aws-rft job report`."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.cli._job_options import SERVICES, endpoint_option, region_option, service_options, where_words
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import reader_may_leave
from aws_rft_sdk.cli._sparkline import sparkline
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.jobs._sagemaker_answers import parts_of
from aws_rft_sdk.jobs.alarms import Alarm, alarms
from aws_rft_sdk.jobs.config import KINDS
from aws_rft_sdk.jobs.report import report_csv, report_html
from aws_rft_sdk.jobs.services import open_jobs
from aws_rft_sdk.jobs.steps import Step, read_steps
from aws_rft_sdk.jobs.types import Checkpoint
from aws_rft_sdk.jobs.watching import POLL_SECONDS, EventService, Service, Watched, watch

_SHOWN = {
    "reward": "reward_mean",
    "entropy": "entropy",
    "gradient norm": "grad_norm",
    "length": "response_length_mean",
    "advantage": "advantage_mean",
    "validation": "validation_reward_mean",
}


@click.command("watch")
@click.argument("job")
@service_options
@click.option("--json", "as_json", is_flag=True, help="Print one record a line: the metrics of a step.")
@click.option("--poll-seconds", type=float, default=POLL_SECONDS, show_default=True, help="Pause between two looks.")
@click.pass_context
@usage_errors
def watch_command(
    ctx: click.Context,
    job: str,
    on: str,
    region: str | None,
    endpoint: str | None,
    as_json: bool,
    poll_seconds: float,
) -> None:
    """Follow JOB until it ends: its steps, checkpoints and alarms.

    Interrupting the command never touches the job. Nova tells no steps, so there is only the status, and --json prints
    the job each time it changes. With --json alarms go to stderr. Exit status: 0 if the job succeeds, 1 if it fails or
    is cancelled, 130 if interrupted.
    """
    service = open_jobs(on, region, endpoint)
    console = Console(highlight=False, markup=False)
    live = console.is_terminal and not as_json
    now: Watched | None = None
    try:
        with reader_may_leave(), Live(console=console, auto_refresh=False) if live else nullcontext() as view:
            for now in watch(service, job, poll_seconds=poll_seconds):
                lines = _json_lines(now, service) if as_json else _lines(now)
                for line in lines:
                    console.print(Text(line)) if live else click.echo(line)
                if view is not None:
                    view.update(_view(now, console.encoding), refresh=True)
    except KeyboardInterrupt:
        again = f"aws-rft job watch {shlex.quote(job)} {where_words(ctx.params)}"
        click.echo(f"The job goes on. Watch it again with: {again}", err=True)
        ctx.exit(128 + signal.SIGINT)
    if now is not None and now.job.finished and now.job.state != "succeeded":
        reason = f": {now.job.failure}" if now.job.failure else ""
        click.echo(_printable(f"job {job} is {now.job.status}{reason}"), err=True)
        ctx.exit(1)


def _json_lines(now: Watched, service: Service) -> Iterator[str]:
    if now.step is not None:
        yield json.dumps(now.step.to_json(), allow_nan=False)
    elif not isinstance(service, EventService):
        yield json.dumps({"job": now.job.id, "status": now.job.status, **_parts(now)}, allow_nan=False)
    for alarm in now.new_alarms:
        click.echo(_alarm_line(alarm), err=True)


def _lines(now: Watched) -> Iterator[str]:
    """Yield what is new as text."""
    if now.step is not None:
        yield _step_line(now, now.step)
    elif now.event is not None:
        yield _printable(now.event.message)
    else:
        parts = "".join(f", {name} {status}" for name, status in _parts(now).items())
        yield _printable(f"job {now.job.id} is {now.job.status}{parts}")
    for checkpoint in now.new_checkpoints:
        yield _printable(
            f"checkpoint of step {'-' if checkpoint.step is None else checkpoint.step}: {checkpoint.model}"
        )
    yield from map(_alarm_line, now.new_alarms)


def _step_line(now: Watched, step: Step) -> str:
    figures = [f"{label} {value:.4g}" for label, name in _SHOWN.items() if (value := getattr(step, name)) is not None]
    total = f" of {step.total_steps}" if step.total_steps else ""
    left = now.seconds_left or 0.0
    return f"step {step.step}{total}: {', '.join(figures)}" + (f", {_duration(left)} left" if left else "")


def _alarm_line(alarm: Alarm) -> str:
    return _printable(f"ALARM {alarm.kind} at step {alarm.step}: {alarm.evidence}. {alarm.advice} ({alarm.source})")


def _parts(now: Watched) -> dict[str, JSON]:
    """Return the status of each part of the job, and what it has used so far, as far as the service says."""
    if found := parts_of(now.job):
        return found
    details = now.job.get("statusDetails") or {}
    parts = {name.removesuffix("Details"): part.get("status") for name, part in details.items()}
    tokens = now.job.get("trained_tokens")
    return {**parts, "trained_tokens": tokens} if tokens else parts


def _view(now: Watched, encoding: str) -> Group:
    table = Table.grid(padding=(0, 2))
    last = now.steps[-1] if now.steps else None
    table.add_row("job", Text(_printable(f"{now.job.id} is {now.job.status}")))
    if last is not None:
        left = now.seconds_left or 0.0
        done = f"{last.step} of {last.total_steps}" if last.total_steps else str(last.step)
        table.add_row("step", done + (f", {_duration(left)} left" if left else ""))
    for label, name in _SHOWN.items():
        values = [value for step in now.steps if (value := getattr(step, name)) is not None]
        if values:
            table.add_row(label, f"{values[-1]:<8.4g} {sparkline(values, encoding)}")
    for name, status in _parts(now).items():
        table.add_row(name, Text(_printable(str(status))))
    if now.checkpoints:
        table.add_row("checkpoints", Text(_printable(", ".join(map(_checkpoint_name, now.checkpoints)))))
    raised = [Text(f"{alarm.kind} at step {alarm.step}: {alarm.evidence}", style="red") for alarm in now.alarms]
    return Group(table, *raised)


def _checkpoint_name(checkpoint: Checkpoint) -> str:
    return checkpoint.model if checkpoint.step is None else f"step {checkpoint.step}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _printable(text: str) -> str:
    """Return a text of the service without what would control the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


@click.command("report")
@click.argument("job", required=False)
@click.option(
    "--events",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of saved events or records, in place of JOB: JSON Lines, a JSON array, a page of an API, or a log.",
)
@click.option("--on", type=SERVICES, help="The service of JOB.")
@region_option
@endpoint_option
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as HTML.")
@click.option("--csv", "csv_out", type=click.Path(dir_okay=False, path_type=Path), help="Write the steps as CSV.")
@click.option(
    "--max-response-tokens", type=click.IntRange(1), help="The job's limit for a response, to find truncation."
)
@click.option("--json", "as_json", is_flag=True, help="Print the number of steps, and the alarms, as JSON.")
@usage_errors
def report_command(
    job: str | None,
    events: Path | None,
    on: str | None,
    region: str | None,
    endpoint: str | None,
    out: Path | None,
    csv_out: Path | None,
    max_response_tokens: int | None,
    as_json: bool,
) -> None:
    """Say what is wrong with JOB, or with the steps that a file has, and write a report.

    Exit status: 0 with and without alarms.
    """
    if (job is None) == (events is None):
        raise ConfigurationError("give either JOB with --on, or --events FILE")
    configuration: dict[str, JSON] = {}
    checkpoints: tuple[Checkpoint, ...] = ()
    if events is not None:
        steps = read_steps(events)
    elif job is None or on is None:
        raise ConfigurationError(f"--on is missing; type --on {' or --on '.join(KINDS)}")
    else:
        service = open_jobs(on, region, endpoint)
        configuration, steps = dict(service.get(job)), []
        if isinstance(service, EventService):
            steps, checkpoints = read_steps(service.events(job)), tuple(service.checkpoints(job))
    found = alarms(steps, max_response_tokens=max_response_tokens)
    title = f"Job {job}" if job is not None else f"Run in {events}"
    if out is not None:
        _write(out, report_html(title, steps, found, configuration=configuration, checkpoints=checkpoints))
    if csv_out is not None:
        _write(csv_out, report_csv(steps))
    if not steps:
        click.echo("there are no steps: no record has the number of a step and a metric", err=True)
    if as_json:
        click.echo(json.dumps({"steps": len(steps), "alarms": [alarm._asdict() for alarm in found]}, indent=2))
        return
    click.echo(f"{_printable(title)}: {len(steps)} steps, {len(found) or 'no'} alarm{'s' * (len(found) != 1)}")
    for alarm in found:
        click.echo(_alarm_line(alarm))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"{path} is written", err=True)
