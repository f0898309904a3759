"""`aws-rft job`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.cli._job_options import (
    endpoint_option,
    job_json,
    json_option,
    on_option,
    out_options,
    print_job,
    with_jobs,
    write_out,
)
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, reader_may_leave, user_code_prints_to_stderr
from aws_rft_sdk.cli.job_guard import guard_command
from aws_rft_sdk.cli.job_recipe import recipe_command
from aws_rft_sdk.cli.job_sagemaker import COMMANDS
from aws_rft_sdk.cli.job_watch import report_command, watch_command
from aws_rft_sdk.errors import ConfigurationError, JobConfigError, JobServiceError, ServiceError
from aws_rft_sdk.jobs.bedrock import BedrockJobs, whole
from aws_rft_sdk.jobs.nova import NovaJobs, reply_text
from aws_rft_sdk.jobs.planning import Plan, service_words
from aws_rft_sdk.jobs.planning import plan as make_plan
from aws_rft_sdk.jobs.planning import submit as submit_job
from aws_rft_sdk.jobs.reading import init_text, read_job
from aws_rft_sdk.jobs.sagemaker import AgentRFT, deploy_commands
from aws_rft_sdk.jobs.services import Created, Jobs

_DOCUMENT = "JobConfigDocument"
"""Parameter whose text is JSON."""
_EVALUATION = click.option(
    "--evaluation",
    is_flag=True,
    help="For SageMaker: evaluate the base model by [evaluation] of FILE, instead of training.",
)
_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group("job")
def command() -> None:
    """Plan, submit, follow and use a training job."""


for item in (watch_command, report_command, guard_command, recipe_command, *COMMANDS):
    command.add_command(item)


@command.command("init")
@on_option
@out_options
@usage_errors
def init(on: str, out: Path | None, force: bool) -> None:
    """Write a first file of a job, every field with its rule, default and source."""
    write_out(init_text(on), out, force, f"Fill in the names, then type: aws-rft job plan {out}")


@command.command("plan")
@_FILE
@click.option(
    "--run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of `aws-rft rollout` with the base policy: also say what it scored.",
)
@click.option(
    "--check-schema", is_flag=True, help="For SageMaker: ask the service for its schema, and check the document by it."
)
@_EVALUATION
@endpoint_option
@json_option
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def plan(
    ctx: click.Context,
    file: Path,
    run: Path | None,
    check_schema: bool,
    evaluation: bool,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Check FILE and print what `submit` would send, create and need. Nothing is sent.

    Exit status: 0, or 2 if the file has problems. They are printed all at once.
    """
    found = make_plan(file, run=run, endpoint=endpoint, check_schema=check_schema, evaluation=evaluation)
    with reader_may_leave():
        if as_json:
            _echo(json.dumps(found.to_json(), indent=2, allow_nan=False))
        else:
            click.echo(_plan_text(found), file=own_stdout(), nl=False)
    ctx.exit(2 if found.problems else 0)


@command.command("submit")
@_FILE
@_EVALUATION
@endpoint_option
@json_option
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def submit(ctx: click.Context, file: Path, evaluation: bool, endpoint: str | None, as_json: bool) -> None:
    """Upload the data of FILE, deploy the grader if FILE names a reward, and create the job.

    For SageMaker the document of the job is checked against the service's schema first.

    Each thing is printed as it is created. If the command stops half-way, it prints what exists and the commands that
    remove it. Exit status: 0, or 2 if the file has problems; then nothing was sent.
    """
    made: list[Created] = []
    job = read_job(file)

    def tell(item: Created) -> None:
        made.append(item)
        with nullcontext() if as_json else reader_may_leave():  # `| head` must not stop it half-way
            click.echo(f"{item.kind} {item.id}", file=sys.stderr if as_json else own_stdout())

    try:
        done = submit_job(
            job, endpoint=endpoint, evaluation=evaluation, created=tell, say=lambda what: click.echo(what, err=True)
        )
    except BaseException as error:
        if isinstance(error, JobConfigError) and not made:
            if not as_json:
                raise
            _echo(json.dumps({"problems": [item._asdict() for item in error.problems]}, indent=2))  # type: ignore[attr-defined]
            ctx.exit(2)
        _print_half_done(made, error, as_json, service_words(job, endpoint))
        raise
    if as_json:
        ids = {"job": done.job.id, "file": next(iter(done.files.values()), None), "files": dict(done.files)}
        _echo(json.dumps({**ids, "grader": done.grader, "status": done.job.status, "state": done.job.state}))
    else:
        _echo(f"follow it with: aws-rft job watch {done.job.id} {done.where}")


def _echo(text: str) -> None:
    click.echo(text, file=own_stdout())


def _print_half_done(made: list[Created], error: BaseException, as_json: bool, where: str) -> None:
    """Print what exists although the command failed. `where` names the service on a command line."""
    unsure = isinstance(error, KeyboardInterrupt) or (isinstance(error, ServiceError) and error.may_have_happened)
    if as_json:
        _echo(json.dumps({"created": [item._asdict() for item in made], "unsure": unsure}))
        return
    for item in made:
        click.echo(f"{item.kind} {item.id} exists. Remove it with: {item.remove}", err=True)
    if unsure:
        click.echo(
            f"The last call may have taken effect all the same. See what is there with: aws-rft job list {where}",
            err=True,
        )
    elif not made:
        click.echo("Nothing was created.", err=True)


@command.command("list")
@with_jobs
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Most jobs to list.")
@json_option
def list_jobs(jobs: Jobs, limit: int, as_json: bool) -> None:
    """List the jobs, in the service's order."""
    found = list(islice(jobs.list(), limit))
    if as_json:
        click.echo(json.dumps([job_json(job) for job in found], indent=2, default=str))
        return
    for job in found:  # no table: it would cut ids that somebody copies
        click.echo(f"{job.id}  {job.status}  {job.tuned_model or '-'}")


@command.command("status")
@click.argument("job")
@with_jobs
@json_option
def status(job: str, jobs: Jobs, as_json: bool) -> None:
    """Say how JOB is."""
    print_job(jobs.get(job), as_json)


@command.command("stop")
@click.argument("job")
@with_jobs
@json_option
def stop(job: str, jobs: Jobs, as_json: bool) -> None:
    """Stop JOB, for good. Safe to repeat."""
    print_job(jobs.cancel(job) if isinstance(jobs, BedrockJobs) else jobs.stop(job), as_json)


@command.command("checkpoints")
@click.argument("job")
@with_jobs
@json_option
def checkpoints(job: str, jobs: Jobs, as_json: bool) -> None:
    """List the checkpoints of JOB. Each is a model to chat with, on SageMaker one for `resume` or `iterate`."""
    if isinstance(jobs, NovaJobs):
        raise ConfigurationError("--on nova has no checkpoints; use --on bedrock or --on sagemaker")
    found = jobs.checkpoints(job)
    if as_json:
        click.echo(
            json.dumps([{**item, "id": item.id, "step": item.step, "model": item.model} for item in found], indent=2)
        )
        return
    for item in found:
        click.echo(f"step {item.step if item.step is not None else '-'}: {item.model}")


@command.command("delete-file")
@click.argument("file")
@with_jobs
def delete_file(file: str, jobs: Jobs) -> None:
    """Delete an uploaded FILE, by its id. Safe to repeat."""
    _bedrock(jobs, "uploaded files").delete_file(file)
    click.echo(f"{file} is deleted")


@command.command("deploy")
@click.argument("job")
@click.option("--name", required=True, help="Of the deployment, unique in your account.")
@with_jobs
@json_option
def deploy(job: str, name: str, jobs: Jobs, as_json: bool) -> None:
    """Deploy the model that JOB of Nova has tuned, and wait until it can be called. JOB may also be the model's ARN.

    Safe to repeat. `aws-rft job undeploy NAME` removes the deployment. For SageMaker, the commands that deploy the
    model are printed, and none is run.
    """
    if isinstance(jobs, AgentRFT):
        found = deploy_commands(jobs.get(job), name)
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(found))
        return
    made = _nova(jobs).deploy(job, name)
    click.echo(json.dumps({**made, "id": made.id, "status": made.status}, default=str) if as_json else made.id)


@command.command("undeploy")
@click.argument("deployment")
@with_jobs
def undeploy(deployment: str, jobs: Jobs) -> None:
    """Delete a DEPLOYMENT of a tuned Nova model, by its ARN or name. Safe to repeat."""
    _nova(jobs).undeploy(deployment)
    click.echo(f"{deployment} is deleted")


@command.command("chat")
@click.argument("model")
@click.argument("message", required=False)
@click.option("--system", help="The system message.")
@click.option("--stream", is_flag=True, help="Print the answer as it arrives.")
@with_jobs
@json_option
def chat(
    model: str,
    message: str | None,
    system: str | None,
    stream: bool,
    jobs: Jobs,
    as_json: bool,
) -> None:
    """Ask MODEL a question and print its answer.

    MODEL is a model, a tuned one, a checkpoint or a job that has succeeded; for Nova a deployment. Without MESSAGE the
    question is read from stdin. With --json the service's own answer is printed, or with --stream one event a line.
    """
    text = message if message is not None else sys.stdin.read()
    if not text.strip():
        raise click.UsageError("the message is empty; give MESSAGE, or write it to stdin")
    messages: list[Mapping[str, JSON]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    answer: Any
    if isinstance(jobs, NovaJobs):
        answer = jobs.converse(model, messages, stream=stream)
    else:
        answer = _ask(_bedrock(jobs, "models to chat with"), model, messages, stream)
        answer = whole(answer) if stream else answer
    for part in answer if stream else [answer]:
        if as_json:
            click.echo(json.dumps(part if isinstance(part, Mapping) else part.to_dict(), default=str))
        else:
            click.echo(_text_of(part), nl=not stream)
    if stream and not as_json:
        click.echo()


def _ask(jobs: BedrockJobs, model: str, messages: list[Mapping[str, JSON]], stream: bool) -> Any:
    try:
        return jobs.chat(model, messages, stream=stream)
    except JobServiceError as error:
        if error.status not in (400, 404):
            raise
        try:
            job = jobs.get(model)  # ids say nothing about what they name
        except JobServiceError:
            raise error from None
    return jobs.chat(job, messages, stream=stream)


def _text_of(part: Any) -> str:
    """Return the text of an answer of a model, or of one event of a stream."""
    if isinstance(part, Mapping):
        return reply_text(part)
    said = next((getattr(choice, "delta", None) or choice.message for choice in part.choices), None)
    return (said and said.content) or ""


def _bedrock(jobs: Jobs, what: str) -> BedrockJobs:
    if isinstance(jobs, BedrockJobs):
        return jobs
    on = "nova" if isinstance(jobs, NovaJobs) else "sagemaker"
    raise ConfigurationError(f"--on {on} has no {what}; use --on bedrock")


def _nova(jobs: Jobs) -> NovaJobs:
    if isinstance(jobs, NovaJobs):
        return jobs
    if isinstance(jobs, AgentRFT):
        raise ConfigurationError("`deploy` makes nothing on SageMaker; remove what its commands made by hand")
    raise ConfigurationError("a model tuned with --on bedrock needs no deployment: aws-rft job chat MODEL --on bedrock")


def _plan_text(found: Plan) -> str:
    console = Console(file=own_stdout(), highlight=False, markup=False, emoji=False, soft_wrap=True)
    with console.capture() as text:  # a console ends the program itself if its reader leaves
        _print_plan(console, found)
    return text.get()


def _print_plan(console: Console, found: Plan) -> None:
    for number, request in enumerate(found.requests, 1):
        console.print(f"{number}. {request.service} {request.operation}", style="bold")
        told = {**request.parameters, _DOCUMENT: "the text of:"} if request.document else request.parameters
        console.print(json.dumps(told, indent=2))
        if request.document:
            console.print(json.dumps(request.document, indent=2))
    if found.creates:
        console.print("This creates:", style="bold")
    for item in found.creates:
        console.print(", ".join(f"{key} {value}" for key, value in item.items()))
    if found.statements:
        console.print("The caller needs these IAM statements:", style="bold")
        console.print(json.dumps(list(found.statements), indent=2))
    if found.baseline:
        _print_baseline(console, found.baseline)
    if found.estimates:
        console.print(str(found.estimates))
    for note in found.notes:
        console.print(f"note: {note}", style="yellow")
    for problem in found.problems:
        value = json.dumps(problem.value, ensure_ascii=False)
        console.print(
            f"problem: {problem.path or 'the file'} is {value}: {problem.rule} ({problem.source})", style="red"
        )
    console.print(f"Nothing was sent. Requests go to {found.endpoint}." if not found.problems else "Nothing was sent.")


def _print_baseline(console: Console, baseline: Mapping[str, JSON]) -> None:
    mean, (low, high) = baseline["mean_reward"], baseline["mean_reward_interval"] or (None, None)
    shown = "no reward" if mean is None else f"a mean reward of {mean:.3f}"
    shown += "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    console.print(
        f"The policy in {baseline['folder']}: {shown}, {baseline['rollouts']} rollouts of {baseline['prompts']} prompts"
    )
    for hint in baseline["hints"]:
        console.print(f"{hint['rule']}: {hint['text']}", style="yellow")
