"""`aws-rft prove`."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from aws_rft_sdk.agent_rft import ROLLOUT_CONCURRENCY
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, quiet_logs, user_code_prints_to_stderr
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.proof import CauseKind, Trial, proof_json, proof_lines, proof_table, prove_handler, prove_mixture
from aws_rft_sdk.proof.handlers import DEADLINE_SECONDS, DEFAULT_PROMPT


class _NotUsable(click.ClickException):
    """A handler that cannot be run at all: one line, without the usage of the command, which was right."""

    exit_code = 2


@click.command("prove")
@click.argument("handler", required=False)
@click.option("--handler", "named", help="The same as HANDLER.")
@click.option(
    "--rollouts",
    default=ROLLOUT_CONCURRENCY,
    show_default=True,
    type=click.IntRange(1),
    help="Rollouts to run at once.",
)
@click.option(
    "--concurrency", "--threads", "threads", default=32, show_default=True, type=click.IntRange(1), help="Threads."
)
@click.option("--prompt", help="Prompt cell for the handler. A marker is added to it.")
@click.option("--dataset", type=click.Path(exists=True, dir_okay=False), help="Prompt cells for it, used in turns.")
@click.option(
    "--outside",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Also call the handler N times without rollout metadata. It uses its production model then.",
)
@click.option(
    "--deadline",
    default=DEADLINE_SECONDS,
    show_default=True,
    type=click.FloatRange(0, 86400, min_open=True),
    help="Seconds that a rollout may take. When one takes longer, no further ones are started.",
)
@click.option("--skip-tool", multiple=True, metavar="NAME", help="Do not call this tool. May hold *; repeatable.")
@click.option("--skip-agent", multiple=True, metavar="NAME", help="This agent need not be reached. Repeatable.")
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="Host, model id or agent that rollouts may ask besides the policy, and really ask. Repeatable.",
)
@click.option("--faults/--no-faults", default=True, show_default=True, help="Inject 429, 503 and lost answers.")
@click.option("--deferred", is_flag=True, help="The handler's rewards are delivered elsewhere, later.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(
    ctx: click.Context,
    handler: str | None,
    named: str | None,
    rollouts: int,
    threads: int,
    prompt: str | None,
    dataset: str | None,
    outside: int,
    deadline: float,
    skip_tool: tuple[str, ...],
    skip_agent: tuple[str, ...],
    allow: tuple[str, ...],
    faults: bool,
    deferred: bool,
    as_json: bool,
) -> None:
    """Prove that every model call inside a rollout is a turn that is recorded once, under its own trajectory.

    Runs many rollouts of HANDLER (path/to/file.py:function or module:function) at once against a local runtime with a
    stand-in for the model, which calls every tool. Looks at every call of a model, whoever makes it, and at every
    inference call that arrives: whose it is by its content, and whose by its headers. Your tools are really called;
    connections to model providers are refused inside rollouts. Without HANDLER it proves a mixture of our own agents.

    Exit status: 0 proved; 1 not proved; 2 bad usage, a handler that cannot be imported, or one that is not decorated.
    """
    if handler is not None and named is not None:
        raise ConfigurationError("give HANDLER or --handler, not both")
    handler = handler or named
    trial = Trial(rollouts, threads, outside, faults, deferred, deadline, skip_tool, skip_agent, allow)
    if handler is None and (prompt or dataset or trial != Trial(rollouts, threads)):
        raise ConfigurationError("without HANDLER there are no options but --rollouts, --threads and --json")
    if prompt is not None and dataset is not None:
        raise ConfigurationError("give --prompt or --dataset, not both")
    prompts = [prompt or DEFAULT_PROMPT] if dataset is None else list(itertools.islice(read_prompts(dataset), rollouts))
    with _progress(rollouts) as advance, quiet_logs():
        if handler is None:
            proof = prove_mixture(rollouts=rollouts, threads=threads, progress=advance)
        else:
            try:
                proof = prove_handler(handler, prompts, trial, progress=advance)
            except ConfigurationError as error:
                raise _NotUsable(str(error)) from error
    for cause in proof.causes:
        if cause.kind is CauseKind.NOT_DECORATED:
            raise _NotUsable(f"{handler}: {cause.what}; {cause.fix}")
    console = Console(file=own_stdout(), highlight=False)
    if as_json:
        click.echo(json.dumps(proof_json(proof), indent=2), file=own_stdout())
    else:
        console.print(proof_table(proof))
        for line in proof_lines(proof):
            console.print(line, markup=False, soft_wrap=True)
    ctx.exit(0 if proof.is_passed else 1)


@contextlib.contextmanager
def _progress(rollouts: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rollouts", total=rollouts)
        yield lambda: progress.advance(bar)
