"""`aws-rft prove`."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.proof import Trial, proof_json, proof_lines, proof_table, prove_handler, prove_mixture
from aws_rft_sdk.proof.handlers import DEFAULT_PROMPT


@click.command("prove")
@click.option("--handler", help="path/to/file.py:function or module:function. Default: a mixture of our own agents.")
@click.option("--rollouts", default=96, show_default=True, type=click.IntRange(1), help="Rollouts to run at once.")
@click.option("--threads", default=32, show_default=True, type=click.IntRange(1), help="Threads to run them in.")
@click.option("--prompt", help="Prompt cell for the handler. A marker is added to it.")
@click.option("--dataset", type=click.Path(exists=True, dir_okay=False), help="Prompt cells for it, used in turns.")
@click.option(
    "--outside",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Also call the handler N times without rollout metadata. It uses its production model then.",
)
@click.option("--tool-calls", default=1, show_default=True, type=click.IntRange(0), help="Tools called by each agent.")
@click.option("--faults/--no-faults", default=True, show_default=True, help="Inject 429, 503 and lost answers.")
@click.option("--deferred", is_flag=True, help="The handler's rewards are delivered elsewhere, later.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
@usage_errors
def command(
    ctx: click.Context,
    handler: str | None,
    rollouts: int,
    threads: int,
    prompt: str | None,
    dataset: str | None,
    outside: int,
    tool_calls: int,
    faults: bool,
    deferred: bool,
    as_json: bool,
) -> None:
    """Prove that every turn is recorded once, under its own trajectory.

    Runs many rollouts at once against a local runtime with a stand-in for the model, and looks at every inference call
    that arrives: whose it is by its content, and whose by its headers. With --handler it proves your own agent. Its
    tools are really called.

    Exit status: 0 when no turn is under the wrong trajectory, untracked, outside a rollout or doubled, and each reward
    was delivered; 1 otherwise; 2 for bad usage.
    """
    if handler is None and (prompt or dataset or outside or deferred):
        raise ConfigurationError("--prompt, --dataset, --outside and --deferred are for a --handler")
    if prompt is not None and dataset is not None:
        raise ConfigurationError("give --prompt or --dataset, not both")
    prompts = [prompt or DEFAULT_PROMPT] if dataset is None else list(itertools.islice(read_prompts(dataset), rollouts))
    with _progress(rollouts) as advance, _quiet():
        if handler is None:
            proof = prove_mixture(rollouts=rollouts, threads=threads, progress=advance)
        else:
            trial = Trial(rollouts, threads, outside, faults, deferred)
            proof = prove_handler(handler, prompts, trial, tool_calls=tool_calls, progress=advance)
    console = Console(highlight=False)
    if as_json:
        click.echo(json.dumps(proof_json(proof), indent=2))
    else:
        console.print(proof_table(proof))
        for line in proof_lines(proof):
            console.print(line, markup=False, soft_wrap=True)
    ctx.exit(0 if proof.is_passed else 1)


@contextlib.contextmanager
def _progress(rollouts: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("rollouts", total=rollouts)
        yield lambda: progress.advance(bar)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings about the trouble that is made on purpose out of the result."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
