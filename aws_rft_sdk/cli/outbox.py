"""`aws-rft outbox`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aws_rft_sdk._decision import TrajectoryOutcome
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.feedback.ledger import Entry
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.feedback.redrive import deliver_pending
from aws_rft_sdk.settings import OUTBOX_VARIABLE


@click.group("outbox")
def command() -> None:
    """Look at an outbox, and deliver what stands in it. PATH defaults to RFT_OUTBOX."""


@command.command("status")
@click.argument("path", required=False, type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the ledger and what has not ended well as JSON.")
@click.pass_context
@usage_errors
def status(ctx: click.Context, path: str | None, as_json: bool) -> None:
    """Print the ledger: what has become of each trajectory received.

    Exit status: 0 when nothing is pending or was refused for good, 1 when something is or was.
    """
    outbox = _existing(path)
    entries = outbox.entries()
    ledger = outbox.ledger()
    shown = [
        entry
        for entry in entries
        if entry.decision.is_refused or entry.outcome in (TrajectoryOutcome.PENDING, TrajectoryOutcome.OPEN)
    ]
    if as_json:
        click.echo(json.dumps({**ledger._asdict(), "entries": [_fields(entry) for entry in shown]}, indent=2))
    else:
        _print(ledger._asdict(), shown)
    ctx.exit(1 if ledger.pending or any(entry.decision.is_refused for entry in entries) else 0)


@command.command("drain")
@click.argument("path", required=False, type=click.Path(dir_okay=False))
@click.pass_context
@usage_errors
def drain_command(ctx: click.Context, path: str | None) -> None:
    """Deliver everything that is pending, once each, whether it is due or not.

    Exit status: 0 when nothing is left, 1 when something is, or was refused for good.
    """
    outbox = _existing(path)
    result = deliver_pending(outbox)
    pending = outbox.count_pending()
    refused = f", {result.refused} refused for good" if result.refused else ""
    click.echo(f"{result.delivered} delivered, {pending} still pending{refused}")
    ctx.exit(1 if pending or result.refused else 0)


def _existing(path: str | None) -> Outbox:
    outbox = shared_outbox(path)
    if outbox is None:
        raise ConfigurationError(f"which outbox? give its path or set {OUTBOX_VARIABLE}")
    if not Path(outbox.path).is_file():
        raise ConfigurationError(f"there is no outbox {outbox.path}")
    return outbox


def _fields(entry: Entry) -> dict[str, object]:
    return {
        "trajectory_id": entry.metadata.trajectory_id,
        "job_arn": entry.metadata.job_arn,
        "outcome": entry.outcome.value,
        "rewards": entry.rewards,
        "seal": entry.decision.seal.value,
        "reward": entry.decision.reward.value,
        "failed_deliveries": entry.attempts,
        "age_seconds": round(time.time() - entry.received_at, 1),
        "last_error": entry.last_error,
    }


def _print(ledger: dict[str, int], shown: list[Entry]) -> None:
    console = Console(highlight=False)
    parts = " + ".join(f"{count} {name}" for name, count in ledger.items() if name != "received")
    console.print(f"{ledger['received']} received = {parts}")
    if not shown:
        return
    table = Table("trajectory", "outcome", "rewards", "failed deliveries", "age", "last error")
    for entry in shown:
        fields = _fields(entry)
        cells = (
            str(fields["trajectory_id"]),
            str(fields["outcome"]),
            "-" if entry.rewards is None else ", ".join(f"{reward:g}" for reward in entry.rewards),
            str(entry.attempts),
            f"{fields['age_seconds']} s",
            entry.last_error or "-",
        )
        table.add_row(*map(Text, cells))  # not markup: an id or an error text may hold anything
    console.print(table)
