"""Options that say which service of training jobs a command talks to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import reader_may_leave
from aws_rft_sdk.jobs.config import KINDS
from aws_rft_sdk.jobs.services import open_jobs

F = TypeVar("F", bound=Callable[..., Any])

SERVICES = click.Choice(list(KINDS))
on_option = click.option("--on", required=True, type=SERVICES, help="The service.")
region_option = click.option("--region", help="AWS region.  [default: the one in which the service fine-tunes]")
endpoint_option = click.option("--endpoint", metavar="URL", help="Another place for the service.  [default: AWS]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def service_options(fn: F) -> F:
    """Add `--on`, `--region` and `--endpoint`."""
    return on_option(region_option(endpoint_option(fn)))


def with_jobs(fn: Callable[..., None]) -> Callable[..., None]:
    """Add `--on`, `--region` and `--endpoint`, and open the service that they say: the argument `jobs`."""

    @service_options
    @usage_errors
    @wraps(fn)
    def run(*args: Any, on: str, region: str | None, endpoint: str | None, **kwargs: Any) -> None:
        with reader_may_leave():
            fn(*args, jobs=open_jobs(on, region, endpoint), **kwargs)

    return run
