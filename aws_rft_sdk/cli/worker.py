"""`aws-rft worker`: processes that receive rollouts and run the handler."""

from __future__ import annotations

from pathlib import Path

import click

from aws_rft_sdk._loading import load_function
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.cli._worker_options import deadline_option, grace_option, log_to_stderr, outbox_option, using_outbox
from aws_rft_sdk.cli._worker_queues import lambda_package, nova_forge, sqs
from aws_rft_sdk.settings import worker_key
from aws_rft_sdk.workers.command import ANY_HOST, PORT, serve
from aws_rft_sdk.workers.http import MAX_PAYLOAD_BYTES, create_app
from aws_rft_sdk.workers.pool import MAX_ROLLOUTS


@click.group("worker")
def command() -> None:
    """Receive rollouts and run a handler: over HTTP, or from queues."""


@command.command("http")
@click.argument("handler")
@click.option("--host", default=ANY_HOST, show_default=True, help="Address to listen on; containers need the default.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0 for a free one.")
@click.option(
    *("--concurrency", "--max-rollouts", "max_rollouts"),
    default=MAX_ROLLOUTS,
    show_default=True,
    type=click.IntRange(1),
    help="Rollouts at once; beyond it 429.",
)
@deadline_option
@grace_option
@outbox_option
@click.option(
    "--max-payload-bytes", default=MAX_PAYLOAD_BYTES, show_default=True, type=click.IntRange(1), help="Beyond it 413."
)
@click.option(
    "--invocations",
    default="sync",
    show_default=True,
    type=click.Choice(["sync", "async"]),
    help="Whether POST /invocations answers a rollout when it is over, or at once.",
)
@user_code_prints_to_stderr()
@usage_errors
def http(
    handler: str,
    host: str,
    port: int,
    max_rollouts: int,
    deadline_seconds: float,
    grace_seconds: float,
    outbox: Path | None,
    max_payload_bytes: int,
    invocations: str,
) -> None:
    """Run a handler for payloads that arrive over HTTP, until SIGTERM or SIGINT.

    HANDLER is path/to/file.py:function or module:function, decorated with rft_handler. POST /rollout answers at once;
    POST /invocations and GET /ping are what AgentCore asks of a container; GET /health and GET /metrics tell how it is
    doing. RFT_WORKER_KEY in the environment is the key that callers must present as a bearer token.
    """
    log_to_stderr()
    with using_outbox(outbox):
        app = create_app(
            load_function(handler),
            max_rollouts=max_rollouts,
            deadline_seconds=deadline_seconds,
            grace_seconds=grace_seconds,
            api_key=worker_key(),
            max_payload_bytes=max_payload_bytes,
            invocations=invocations,  # type: ignore[arg-type] # click checked the choice
        )
        serve(
            app,
            host=host,
            port=port,
            grace_seconds=grace_seconds,
            announce=lambda url: click.echo(f"worker at {url}", file=own_stdout()),
        )


for _other in (sqs, nova_forge, lambda_package):
    command.add_command(_other)
