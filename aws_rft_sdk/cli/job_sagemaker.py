"""The commands of `aws-rft job` that only multi-turn RL jobs on SageMaker have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.cli._job_options import json_option, print_job, where_words, with_jobs
from aws_rft_sdk.cli.compare import comparison_table
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._sagemaker_answers import phase_of
from aws_rft_sdk.jobs._sagemaker_file import is_remote
from aws_rft_sdk.jobs.evaluations import Evaluated
from aws_rft_sdk.jobs.reading import read_job
from aws_rft_sdk.jobs.sagemaker import AgentRFT
from aws_rft_sdk.jobs.services import Jobs, SageMakerRequests, requests_of
from aws_rft_sdk.jobs.types import Job, refuse
from aws_rft_sdk.jobs.watching import POLL_SECONDS

_name = click.option("--name", required=True, help="Of the new job, unique in your account and region.")
_checkpoint = click.option("--checkpoint", metavar="ARN", help="A model package.  [default: the last one of JOB]")
_poll = click.option("--poll-seconds", type=float, default=POLL_SECONDS, show_default=True, help="Pause between looks.")
_set = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A change, for example hyperparameters.learning_rate=5e-6 or max_runtime_seconds=86400. May be repeated.",
)


def _agent_rft(jobs: Jobs, what: str) -> AgentRFT:
    if isinstance(jobs, AgentRFT):
        return jobs
    raise ConfigurationError(f"only jobs on SageMaker have {what}; use --on sagemaker")


def read_settings(settings: Sequence[str]) -> dict[str, JSON]:
    """Return what `--set` says. A dot leads into a table. Values are JSON, and texts where they are none.

    Raises:
        ConfigurationError: One has no name or no value.
    """
    found: dict[str, JSON] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ConfigurationError(
                f"--set is {setting!r}; write it as NAME=VALUE, for example max_runtime_seconds=3600"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        table, _, key = name.rpartition(".")
        inner = found.setdefault(table, {}) if table else found
        if not isinstance(inner, dict):
            raise ConfigurationError(
                f"--set {setting!r} is a value of {table}, and another --set says {table} as a whole"
            )
        inner[key] = value
    return found


@click.command("delete")
@click.argument("job")
@with_jobs
def delete(job: str, jobs: Jobs) -> None:
    """Delete JOB, which has ended. Its model packages stay. Safe to repeat."""
    _agent_rft(jobs, "`delete`").delete(job)
    click.echo(f"{job} is deleted")


@click.command("logs")
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until JOB has ended.")
@_poll
@with_jobs
@json_option
def logs(job: str, follow: bool, poll_seconds: float, jobs: Jobs, as_json: bool) -> None:
    """Print the log of JOB. There is none before JOB has started; --follow waits for it."""
    for line in _agent_rft(jobs, "logs").logs(job, follow=follow, poll_seconds=poll_seconds):
        if as_json:
            click.echo(json.dumps(line._asdict()))
        else:
            at = datetime.fromtimestamp(line.at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            text = "".join(char if char.isprintable() or char == "\t" else " " for char in line.text)
            click.echo(f"{at} {text}")


@click.command("resume")
@click.argument("job")
@_name
@_set
@_checkpoint
@with_jobs
@json_option
def resume(job: str, name: str, settings: Sequence[str], checkpoint: str | None, jobs: Jobs, as_json: bool) -> None:
    """Go on with JOB, which failed or was stopped, at the step after its last resumable checkpoint.

    Base model, hyperparameters and datasets stay. Safe to repeat with the same name.
    """
    found = _agent_rft(jobs, "`resume`").resume(job, name, read_settings(settings), checkpoint=checkpoint)
    _print_new(found, as_json)


@click.command("iterate")
@click.argument("job")
@_name
@_set
@_checkpoint
@with_jobs
@json_option
def iterate(job: str, name: str, settings: Sequence[str], checkpoint: str | None, jobs: Jobs, as_json: bool) -> None:
    """Begin a new run from the weights that JOB has tuned. All but the base model may change.

    Optimizer and steps begin anew. Safe to repeat with the same name.
    """
    found = _agent_rft(jobs, "`iterate`").iterate(job, name, read_settings(settings), checkpoint=checkpoint)
    _print_new(found, as_json)


def _print_new(job: Job, as_json: bool) -> None:
    print_job(job, as_json)
    if not as_json:
        click.echo(f"follow it with: aws-rft job watch {job.id} {where_words(click.get_current_context().params)}")


@click.command("evaluate")
@click.argument("job")
@click.option("--dataset", metavar="URI", help="Prompts: S3 URI or dataset ARN.  [default: the validation data of JOB]")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The job's file. Its [evaluation] says dataset and hyperparameters.",
)
@click.option("--name", help="What the names of the evaluations begin with.  [default: JOB's name]")
@click.option("--model", metavar="ARN", help="Model package to compare.  [default: the tuned model of JOB]")
@_set
@_poll
@with_jobs
@json_option
def evaluate(
    job: str,
    dataset: str | None,
    file: Path | None,
    name: str | None,
    model: str | None,
    settings: Sequence[str],
    poll_seconds: float,
    jobs: Jobs,
    as_json: bool,
) -> None:
    """Evaluate the base model and the tuned model of JOB with its agent, one after the other, and compare them.

    --set takes hyperparameters of an evaluation, for example eval_group_size=4. Prompts are compared one by one where
    MLflow has the traces of the rollouts. Safe to repeat: evaluations that exist are waited for or read.
    """
    service = _agent_rft(jobs, "`evaluate`")
    given = {} if file is None else _of_file(service, file)
    if dataset is not None:
        given["dataset"] = dataset
    hyperparameters = {**given.pop("hyperparameters", {}), **read_settings(settings)}
    found = service.evaluate(
        job,
        name=name,
        model_package=model,
        hyperparameters=hyperparameters,
        poll_seconds=poll_seconds,
        changed=lambda item: click.echo(f"{item.id}: {item.status}, {phase_of(item)}", err=True),
        **given,
    )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print_evaluated(found)


def _of_file(jobs: AgentRFT, path: Path) -> dict[str, JSON]:
    """Return the arguments of `evaluate` that a job's file says. A local dataset is uploaded."""
    read = read_job(path)
    refuse(read.problems, f"{path} has problems")
    asked = requests_of(read)
    if not isinstance(asked, SageMakerRequests) or asked.config.evaluation is None:
        raise ConfigurationError(f"{path} has no [evaluation] of a job on SageMaker. Add one with a dataset")
    values = asked.config.evaluation.model_dump(exclude_none=True)
    dataset, seconds = values.pop("dataset"), values.pop("max_runtime_seconds")
    if not is_remote(dataset):
        dataset = jobs.upload(read.local(dataset), asked.folder, check=False).id  # `read_job` has checked it
    return {"dataset": dataset, "max_runtime_seconds": seconds, "hyperparameters": values}


def _print_evaluated(found: Evaluated) -> None:
    console = Console(highlight=False)
    console.print(f"A is the base model, {found.base.id}\nB is the tuned model, {found.tuned.id}", markup=False)
    if found.comparison is not None:
        console.print(comparison_table(found.comparison))
        for row in found.comparison.differences[:2]:
            console.print(f"{row.name.rpartition('/')[2]}: {row.verdict}", markup=False, style="bold")
    else:
        table = Table("", "A", "B")
        for name in sorted({*found.base_metrics, *found.tuned_metrics}):
            values = (metrics.get(name) for metrics in (found.base_metrics, found.tuned_metrics))
            table.add_row(name, *("-" if value is None else f"{value:.4g}" for value in values))
        console.print(table)
    if found.note:
        console.print(found.note, style="yellow", markup=False)


COMMANDS = (delete, logs, resume, iterate, evaluate)
