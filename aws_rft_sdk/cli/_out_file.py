"""Options and messages of commands that write one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aws_rft_sdk.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])


def out_options(fn: F) -> F:
    """Add `--out` and `--force`."""
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
