"""What commands about training jobs share: their service, how they print a job, and how they write a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import reader_may_leave
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._sagemaker_answers import parts_of
from aws_rft_sdk.jobs.config import KINDS
from aws_rft_sdk.jobs.services import open_jobs
from aws_rft_sdk.jobs.types import Job

F = TypeVar("F", bound=Callable[..., Any])

SERVICES = click.Choice(list(KINDS))
on_option = click.option("--on", required=True, type=SERVICES, help="The service.")
region_option = click.option("--region", help="AWS region.  [default: the one in which the service fine-tunes]")
endpoint_option = click.option("--endpoint", metavar="URL", help="Another place for the service.  [default: AWS]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def service_options(fn: F) -> F:
    """Add `--on`, `--region` and `--endpoint`."""
    return on_option(region_option(endpoint_option(fn)))


def place_options(fn: F) -> F:
    """Add `--region`, `--endpoint` and `--json` of a command that talks to Lambda and IAM."""
    region = click.option("--region", help="AWS region.  [default: that of the environment or the profile]")
    return region(endpoint_option(json_option(fn)))


def where_words(options: Mapping[str, Any]) -> str:
    """Return `--on`, and `--region` and `--endpoint` if they were given, as they are typed.

    Args:
        options: Those of the command.
    """
    given = [(name, options.get(name)) for name in ("on", "region", "endpoint")]
    return " ".join(f"--{name} {shlex.quote(value)}" for name, value in given if value)


def with_jobs(fn: Callable[..., None]) -> Callable[..., None]:
    """Add `--on`, `--region` and `--endpoint`, and open the service that they say: the argument `jobs`."""

    @service_options
    @usage_errors
    @wraps(fn)
    def run(*args: Any, on: str, region: str | None, endpoint: str | None, **kwargs: Any) -> None:
        with reader_may_leave():
            fn(*args, jobs=open_jobs(on, region, endpoint), **kwargs)

    return run


def job_json(job: Job) -> dict[str, JSON]:
    """Return the service's own fields, and above them what this package makes of them."""
    own = {"status": job.status, "state": job.state, "tuned_model": job.tuned_model, "failure": job.failure}
    return {**job, "job": job.id, **own}


def print_job(job: Job, as_json: bool) -> None:
    """Print a job as a few lines, or as JSON."""
    if as_json:
        click.echo(json.dumps(job_json(job), indent=2, default=str))
        return
    click.echo(f"{job.id}: {job.status}")
    for name, value in parts_of(job).items():
        click.echo(f"{name}: {value}")
    if job.tuned_model:
        click.echo(f"model: {job.tuned_model}")
    if job.failure:
        click.echo(f"failure: {job.failure}")


def out_options(fn: F) -> F:
    """Add `--out` and `--force` of a command that writes a file."""
    kind = click.Path(dir_okay=False, path_type=Path)
    out = click.option("-o", "--out", type=kind, help="The file.  [default: stdout]")
    return out(click.option("--force", is_flag=True, help="Overwrite the file.")(fn))


def write_out(text: str, out: Path | None, force: bool, hint: str) -> None:
    """Write a text to a file and say what to do next. Prints the text alone if there is no file.

    Raises:
        ConfigurationError: The file exists and `force` is false, or it cannot be written.
    """
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        with out.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigurationError(f"{out} exists; choose another name, or overwrite it with --force") from error
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"{out} is written. {hint}")
