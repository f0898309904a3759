"""The command `aws-rft`: arguments to calls to exit codes. One module for each command, loaded when it is used."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
import time
from typing import Any

import click

from aws_rft_sdk import __version__
from aws_rft_sdk.cli._output import UNAVAILABLE, discard_output, this_is_the_whole_program

_COMMANDS = {
    "compare": "Say whether one run is better than another, or whether that may be noise.",
    "dataset": "Check, convert and prepare prompt files.",
    "demo": "Watch an agent learn on this machine, in about a minute.",
    "export": "Write what a runtime captured as a recording to replay.",
    "iam": "Print the IAM policies of a job, and check who lacks what.",
    "job": "Plan, submit, follow and use a training job.",
    "metrics": "Compute the metrics of rollouts from their records.",
    "outbox": "Look at an outbox, and deliver what stands in it.",
    "preflight": "Say whether a training job would learn, before it is paid for.",
    "prove": "Prove that every turn is recorded once, under its own trajectory.",
    "replay": "Run recorded rollouts again without a model; show what differs.",
    "report": "Write runs as one HTML page: figures, plots, a verdict, and some rollouts.",
    "rescore": "Apply another reward to saved rollouts.",
    "reward": "Test a reward, run it as a Lambda function, package it, deploy it.",
    "rollout": "Run a handler over a dataset and report every reward.",
    "runtime": "Serve a local stand-in for the job runtime.",
    "show": "Show the rollouts of a run, or one of them as a conversation.",
    "train": "Train a language model on the rewards of a handler.",
    "view": "Show a run in the browser, or two side by side.",
    "worker": "Receive rollouts and run a handler: over HTTP, or from queues.",
}


_END_SECONDS = 5.0
"""For the interpreter to end, which waits for threads that handlers have left behind."""


class _LazyGroup(click.Group):
    """Loads a command's module only when that command is asked for, so that `--help` is instant."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command. Without arguments it is the whole program, and ends even if a handler hangs in a thread."""
        if args or kwargs:
            return super().__call__(*args, **kwargs)
        this_is_the_whole_program()
        try:
            return super().__call__()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            discard_output()
            with contextlib.suppress(OSError):  # stderr may be on the same disk
                click.echo(f"Error: stdout or a file cannot be written: {error.strerror}", err=True)
            sys.exit(UNAVAILABLE)
        except SystemExit as end:
            # Daemon threads count: Python waits for those of a pool all the same.
            if threading.active_count() > 1:
                threading.Thread(target=_end, args=(end.code,), name="rft-end", daemon=True).start()
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # also while a command is being loaded
            raise click.exceptions.Exit(128 + signal.SIGINT) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"aws_rft_sdk.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


def _end(status: object) -> None:
    time.sleep(_END_SECONDS)
    click.echo("a handler hangs in a thread, which is left behind", err=True)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 1)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aws-rft")
def main() -> None:
    """Make a Strands agent trainable, and be sure of it before you pay for a job."""
