"""`aws-rft export`."""

from __future__ import annotations

from pathlib import Path

import click

from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import TrajectoryReader, write_recordings


@click.command("export")
@click.argument("db", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@usage_errors
def command(db: Path, out: Path) -> None:
    """Write the trajectories captured in DB to OUT as a recording, one trajectory a line.

    `aws-rft runtime --policy replay:OUT` answers from it.
    """
    if out.exists() and out.samefile(db):
        raise ConfigurationError(f"{out} is the database itself; choose another file")
    with TrajectoryReader(db) as trajectories:
        try:
            count = write_recordings(trajectories, out)
        except OSError as error:
            raise ConfigurationError(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"{count} trajectories written to {out}")
