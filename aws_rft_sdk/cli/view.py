"""`aws-rft view`."""

from __future__ import annotations

import secrets
import webbrowser
from contextlib import ExitStack
from pathlib import Path

import click

from aws_rft_sdk.cli._options import finite, usage_errors
from aws_rft_sdk.cli._output import own_stdout
from aws_rft_sdk.cli._runs import threshold_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.viewer.app import create_app
from aws_rft_sdk.viewer.serving import serve
from aws_rft_sdk.viewer.watching import WatchedRun


@click.command("view")
@click.argument("runs", metavar="RUN [RUN_B]", nargs=-1, required=True)
@click.option(
    "--port", default=0, show_default="any free one", type=click.IntRange(0, 65535), help="Port of 127.0.0.1."
)
@click.option("--key", help="Key of a runtime at a URL.  [default: RFT_RUNTIME_KEY]")
@click.option("--success-threshold", type=float, callback=finite, help="Lowest reward that counts as a success.")
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@usage_errors
def command(runs: tuple[str, ...], port: int, key: str | None, success_threshold: float | None, opens: bool) -> None:
    """Show a run in the browser: overview, groups, rollouts as conversations. Show two runs side by side.

    RUN is the folder of a run, a trajectories.db, or the URL of a local runtime, which may be running. Nothing in a run
    is changed: an index is written beside the database. Only this machine can reach the page, and it asks for the key
    that is in the printed address. Ctrl-C ends the command.
    """
    if len(runs) > 2:
        raise ConfigurationError(f"{len(runs)} runs are named. Name one, or two to compare them")
    with ExitStack() as stack:
        watched = []
        for name in runs:
            folders = [Path(name)] if Path(name).is_dir() else []
            view = RunView.open(name, key=key)
            watched.append(WatchedRun(view, threshold_of(success_threshold, *folders)))
            stack.callback(watched[-1].close)
        secret = secrets.token_urlsafe(16)

        def tell(address: str) -> None:
            click.echo(f"{address}/?key={secret}", file=own_stdout())
            if opens:
                webbrowser.open(f"{address}/?key={secret}")

        serve(lambda stopping: create_app(watched, key=secret, stopping=stopping), port, tell)
