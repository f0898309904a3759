"""What all workers on the command line share."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import click

from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS
from aws_rft_sdk.settings import OUTBOX_VARIABLE, overridden

_SECONDS = click.FloatRange(0, min_open=True)

deadline_option = click.option(
    "--deadline-seconds",
    default=DEADLINE_SECONDS,
    show_default=True,
    type=_SECONDS,
    help="For one rollout. Past it, it is reported as an error.",
)
grace_option = click.option(
    "--grace-seconds",
    default=GRACE_SECONDS,
    show_default=True,
    type=_SECONDS,
    help="From SIGTERM to the end of the process.",
)
outbox_option = click.option(
    "--outbox",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Feedback goes to this file before it is sent; like {OUTBOX_VARIABLE}.",
)


def using_outbox(path: Path | None) -> contextlib.AbstractContextManager[None]:
    """Name the outbox in the environment, where every handler finds it that names none of its own."""
    return overridden({OUTBOX_VARIABLE: str(path.absolute())}) if path is not None else contextlib.nullcontext()


def log_to_stderr() -> None:
    """Show what this package says; of others only warnings, since they would write a line for each turn."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aws_rft_sdk").setLevel(logging.INFO)
