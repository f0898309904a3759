"""Options that commands of training jobs share: the service they talk to, and the file they write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aws_rft_sdk.errors import ConfigurationError
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
