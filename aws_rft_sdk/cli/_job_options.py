"""Options that say which service of training jobs a command talks to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from aws_rft_sdk.jobs.config import KINDS

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
