"""`aws-rft export`."""

from __future__ import annotations

import click

from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.runtime import read_trajectories, write_recordings


@click.command("export")
@click.argument("db", type=click.Path(exists=True, dir_okay=False))
@click.argument("out", type=click.Path(dir_okay=False))
@usage_errors
def command(db: str, out: str) -> None:
    """Write the trajectories captured in DB to OUT as a recording, one trajectory a line.

    `aws-rft runtime --policy replay:OUT` answers from it.
    """
    click.echo(f"{write_recordings(read_trajectories(db), out)} trajectories written to {out}")
