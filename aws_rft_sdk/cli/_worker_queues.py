"""`aws-rft worker sqs`, `nova-forge` and `lambda-package`."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from aws_rft_sdk._loading import load_function
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.cli._worker_options import deadline_option, grace_option, log_to_stderr, outbox_option, using_outbox
from aws_rft_sdk.lifecycle.shutdown import end_at
from aws_rft_sdk.rewards.packaging import HANDLER
from aws_rft_sdk.settings import WORKER_KEY_VARIABLE, WORKER_QUEUE_VARIABLE, WORKER_URL_VARIABLE
from aws_rft_sdk.workers import nova_forge as forge
from aws_rft_sdk.workers import sqs as queues
from aws_rft_sdk.workers._aws import aws_client
from aws_rft_sdk.workers.command import flush, flush_seconds
from aws_rft_sdk.workers.packaging import build_forwarder
from aws_rft_sdk.workers.pool import MAX_ROLLOUTS

_SECONDS = click.FloatRange(0, min_open=True)
_EXIT_SECONDS = 2.0
"""Past the grace period the process is ended, since the interpreter would wait for feedback that is on its way."""


def _shared_options(max_rollouts: int, visibility_seconds: float) -> Callable[[Any], Any]:
    options = (
        click.option(
            *("--concurrency", "--max-rollouts", "max_rollouts"),
            default=max_rollouts,
            show_default=True,
            type=click.IntRange(1),
            help="Rollouts at once.",
        ),
        deadline_option,
        click.option(
            "--visibility-seconds",
            default=visibility_seconds,
            show_default=True,
            type=click.FloatRange(1, 43_200),
            help="Until another worker gets what one held that was killed.",
        ),
        click.option(
            "--wait-seconds", default=20, show_default=True, type=click.IntRange(0, 20), help="For one long poll."
        ),
        click.option("--dead-letter-queue", metavar="URL", help="For messages that cannot be used."),
        grace_option,
    )

    def add(fn: Any) -> Any:
        for option in reversed(options):
            fn = option(fn)
        return fn

    return add


@click.command("sqs")
@click.argument("queue_url")
@click.argument("handler")
@click.option(
    "--max-receives",
    default=queues.MAX_RECEIVES,
    show_default=True,
    type=click.IntRange(1),
    help="Of one message, before it counts as poison. A redrive policy of the queue decides instead.",
)
@_shared_options(MAX_ROLLOUTS, queues.VISIBILITY_SECONDS)
@outbox_option
@user_code_prints_to_stderr()
@usage_errors
def sqs(
    queue_url: str,
    handler: str,
    max_receives: int,
    max_rollouts: int,
    deadline_seconds: float,
    visibility_seconds: float,
    wait_seconds: int,
    dead_letter_queue: str | None,
    grace_seconds: float,
    outbox: Path | None,
) -> None:
    """Run the rollouts that arrive in an SQS queue with HANDLER: path/to/file.py:function or module:function.

    Each message is a payload in any known spelling. It is deleted once the reward is out, or safe in the outbox.
    SIGTERM and SIGINT end the worker in good order.
    """
    log_to_stderr()
    with using_outbox(outbox), _until_signalled(grace_seconds) as until:
        worker = queues.SqsWorker(
            queue_url,
            load_function(handler),
            max_rollouts=max_rollouts,
            deadline_seconds=deadline_seconds,
            visibility_seconds=visibility_seconds,
            wait_seconds=wait_seconds,
            max_receives=max_receives,
            dead_letter_queue_url=dead_letter_queue,
        )
        click.echo(f"receiving rollouts from {queue_url}", file=own_stdout())
        reserve = flush_seconds(grace_seconds)
        try:
            worker.run(until, grace_seconds - reserve)
        finally:
            flush(time.monotonic() + reserve)


@click.command("nova-forge")
@click.argument("handler")
@click.option("--rollout-requests", required=True, metavar="URL", help="Queue that rollouts come in.")
@click.option("--rollout-responses", required=True, metavar="URL", help="Queue that scores go out by.")
@click.option("--generate-requests", required=True, metavar="URL", help="Queue that turns are asked for by.")
@click.option("--generate-responses", required=True, metavar="URL", help="Queue that turns are answered in.")
@click.option("--table", required=True, help="DynamoDB table with the string key task_id.")
@click.option("--create-table", is_flag=True, help="Create the table if it is not there.")
@click.option("--turn-seconds", default=forge.TURN_SECONDS, show_default=True, type=_SECONDS, help="For one turn.")
@click.option(
    "--max-attempts",
    default=forge.MAX_ATTEMPTS,
    show_default=True,
    type=click.IntRange(1),
    help="Of one rollout, before its request counts as poison. A redrive policy decides instead.",
)
@click.option("--db", type=click.Path(dir_okay=False), help="SQLite file that every turn is captured in.")
@_shared_options(forge.MAX_ROLLOUTS, forge.VISIBILITY_SECONDS)
@user_code_prints_to_stderr()
@usage_errors
def nova_forge(
    handler: str,
    rollout_requests: str,
    rollout_responses: str,
    generate_requests: str,
    generate_responses: str,
    table: str,
    create_table: bool,
    turn_seconds: float,
    max_attempts: int,
    db: str | None,
    max_rollouts: int,
    deadline_seconds: float,
    visibility_seconds: float,
    wait_seconds: int,
    dead_letter_queue: str | None,
    grace_seconds: float,
) -> None:
    """Run the rollouts of a Nova Forge trainer with HANDLER: path/to/file.py:function or module:function.

    The handler's model calls go over the generate queues, its reward goes out as the rollout response. SIGTERM and
    SIGINT end the worker in good order.
    """
    log_to_stderr()
    tasks = forge.TaskTable(
        table,
        aws_client("dynamodb", queue_url=rollout_requests, connections=max_rollouts + 50),
        lease_seconds=visibility_seconds,
    )
    if create_table:
        tasks.create()
    worker = forge.NovaForgeWorker(
        forge.NovaForgeQueues(rollout_requests, rollout_responses, generate_requests, generate_responses),
        load_function(handler),
        tasks,
        max_rollouts=max_rollouts,
        deadline_seconds=deadline_seconds,
        turn_seconds=turn_seconds,
        visibility_seconds=visibility_seconds,
        wait_seconds=wait_seconds,
        max_attempts=max_attempts,
        dead_letter_queue_url=dead_letter_queue,
        db=db,
    )
    with _until_signalled(grace_seconds) as until:
        click.echo(f"receiving rollouts from {rollout_requests}", file=own_stdout())
        worker.run(until, grace_seconds)


@click.command("lambda-package")
@click.option("--out", default="forwarder.zip", show_default=True, type=click.Path(dir_okay=False), help="The zip.")
@usage_errors
def lambda_package(out: str) -> None:
    """Build the zip of the Lambda function that hands rollouts on to a worker, over HTTP or SQS.

    The same version gives the same bytes.
    """
    built = build_forwarder(out)
    click.echo(f"{built.path}: {len(built.files)} files, {built.zip_bytes:,} bytes, unzipped {built.unzipped_bytes:,}")
    click.echo(f"handler: {HANDLER}; runtime: Python 3.10 or newer; timeout: 600 s")
    click.echo(
        f"environment: {WORKER_URL_VARIABLE} of an HTTP worker, and {WORKER_KEY_VARIABLE} if it wants a key; or "
        f"{WORKER_QUEUE_VARIABLE}"
    )


@contextlib.contextmanager
def _until_signalled(grace_seconds: float) -> Iterator[threading.Event]:
    """Return an event that SIGTERM and SIGINT set. A second signal ends the process as usual, and so does time."""
    until = threading.Event()
    watched = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in watched}

    def end(number: int, frame: FrameType | None) -> None:
        end_at(time.monotonic() + grace_seconds + _EXIT_SECONDS, 0)
        # In a thread: this one may hold the event's lock where the signal has interrupted it.
        threading.Thread(target=until.set, name="rft-until", daemon=True).start()
        for watched_number, handler in before.items():
            signal.signal(watched_number, handler)

    for number in watched:
        signal.signal(number, end)
    try:
        yield until
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
