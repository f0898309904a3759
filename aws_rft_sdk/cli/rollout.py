"""`aws-rft rollout`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aws_rft_sdk.cli._loop import run
from aws_rft_sdk.cli._metrics_table import print_metrics
from aws_rft_sdk.cli._options import POLICY_HELP, load_function, parse_policy, success_threshold_option, usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.cli._runs import threshold_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.engines import DEADLINE_SECONDS
from aws_rft_sdk.rollout.engines.choosing import ENGINES, EngineChoice
from aws_rft_sdk.rollout.schedule import DEFAULT_RETRY_BUDGET
from aws_rft_sdk.rollout.session import RunOptions, Session, open_session
from aws_rft_sdk.runs.metrics import measure
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import COMPLETED, RolloutTable
from aws_rft_sdk.runtime import Policy
from aws_rft_sdk.types import InferenceParams

_SHOWN_ERRORS = 5
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ABOVE_ZERO = click.FloatRange(0, min_open=True)


@click.command("rollout")
@click.argument("handler")
@click.argument("dataset", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(ENGINES),
    help="Where rollouts run. auto: http for a URL, agentcore for the ARN of a runtime, else local.",
)
@click.option("--group-size", default=1, show_default=True, type=click.IntRange(1), help="Rollouts of each prompt.")
@click.option("--concurrency", type=click.IntRange(1), help="Rollouts in flight.  [default: 16; deployed agents: 96]")
@click.option(
    "--starts-per-second", type=_ABOVE_ZERO, help="Rollouts begun per second.  [default: any; deployed agents: 5]"
)
@click.option("--workers", type=click.IntRange(1), help="Processes or actors of the engines process and ray.")
@click.option("--address", help="Ray cluster, as for ray.init.  [default: RAY_ADDRESS, else one on this machine]")
@click.option(
    "--requirements", type=_FILE, help="requirements.txt or pyproject.toml that pip installs on the Ray nodes."
)
@click.option("--show-output", is_flag=True, help="Show what handlers on a Ray cluster print.")
@click.option(
    "--deadline-seconds", default=DEADLINE_SECONDS, show_default=True, type=_ABOVE_ZERO, help="For each rollout."
)
@click.option(
    "--retries", default=0, show_default=True, type=click.IntRange(0), help="Repetitions of a failed rollout."
)
@click.option(
    "--retry-budget",
    default=DEFAULT_RETRY_BUDGET,
    show_default=True,
    help="Repetitions in the whole run: a count, or a share of all rollouts.",
)
@click.option("--limit", type=click.IntRange(1), help="Use the first N prompts only.")
@click.option("--policy", help=f"{POLICY_HELP} Default: `policy` in a policy.py beside the handler's file.")
@click.option("--endpoint", help="A runtime that is already running, instead of one of our own.")
@click.option("--job-arn", help="Job to report under; needed with an --endpoint that is not a local runtime.")
@click.option("--qualifier", help="Endpoint of the AgentCore runtime.")
@click.option("--out", type=_FOLDER, help="Folder for the records of a new run.")
@click.option("--resume", type=_FOLDER, help="Folder of a run to go on with: what is missing or failed runs again.")
@click.option("--accept-changes", is_flag=True, help="Resume although dataset, handler or settings have changed.")
@click.option("--temperature", default=1.0, show_default=True, type=click.FloatRange(0), help="Sent in the payload.")
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="Sent in the payload.")
@click.option("--max-tokens", default=4096, show_default=True, type=click.IntRange(1), help="Sent in the payload.")
@success_threshold_option
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(ctx: click.Context, /, handler: str, **given: Any) -> None:
    """Run a handler over a dataset and report every reward, as a training job would.

    HANDLER is path/to/file.py:function or module:function, decorated with rft_handler; or the URL of a worker that is
    running; or the ARN of an AgentCore runtime. DATASET is a jsonl, json, csv or parquet file with a `prompt` column,
    else its first column. Ctrl-C finishes what is in flight; twice, it cancels that. Exit status: 0 when all rollouts
    were reported, 1 when some were not, 2 for bad usage.
    """
    options = _options(handler, **given)
    options.check()
    fn = None if options.choice.is_deployed else load_function(handler)
    policy = None if options.endpoint else _policy(options.policy, handler)
    with open_session(options, fn, policy) as session:
        run(_run(session))
    metrics = measure(
        session.table,
        success_threshold=options.success_threshold,
        prompts=len(session.prompts),
        group_size=options.group_size,
        max_tokens=options.params.max_tokens,
    )
    console = Console(file=own_stdout(), highlight=False)
    print_metrics(console, metrics, total=session.total)
    if session.table.damage:
        console.print(str(session.table.damage), style="yellow", markup=False)
    for error, count in session.table.common_errors(_SHOWN_ERRORS):
        console.print(f"{count} x {error}", style="red", markup=False)
    if options.folder:
        console.print(f"records in {options.folder}", markup=False)
    ctx.exit(1 if metrics.unreported or metrics.rollouts < session.total else 0)


def _options(
    handler: str,
    *,
    engine: str,
    concurrency: int | None,
    starts_per_second: float | None,
    workers: int | None,
    deadline_seconds: float,
    qualifier: str | None,
    address: str | None,
    requirements: Path | None,
    show_output: bool,
    temperature: float,
    top_p: float,
    max_tokens: int,
    resume: Path | None,
    success_threshold: float | None,
    **others: Any,
) -> RunOptions:
    choice = EngineChoice.of(
        engine,
        handler,
        concurrency=concurrency,
        starts_per_second=starts_per_second,
        deadline_seconds=deadline_seconds,
        workers=workers,
        qualifier=qualifier,
        address=address,
        requirements=requirements,
        show_output=show_output,
    )
    params = InferenceParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    threshold = threshold_of(success_threshold, *([resume] if resume is not None else []))
    return RunOptions(choice=choice, params=params, resume=resume, success_threshold=threshold, **others)


def _policy(option: str | None, handler: str) -> Policy:
    if option:
        return parse_policy(option)
    file = Path(handler.rpartition(":")[0])
    beside = file.with_name("policy.py")
    if file.suffix == ".py" and beside.is_file():
        return parse_policy(f"callable:{beside}:policy")
    raise ConfigurationError(
        "nobody answers inference: give --policy, give --endpoint, or put a policy.py with a function `policy` "
        "beside the handler's file"
    )


async def _run(session: Session) -> None:
    console = Console(stderr=True)
    stopping = asyncio.Event()
    mean = _Mean(session.table)
    ended = 0
    with _interrupts(stopping, console), _progress(console) as progress:
        bar = progress.add_task("rollouts", total=session.total, completed=mean.count, rate="", mean="")
        try:
            async with contextlib.aclosing(session.run(stopping)) as records:
                async for record in records:
                    ended += 1
                    mean.add(record)
                    elapsed = progress.tasks[bar].elapsed or 0.0
                    progress.update(
                        bar,
                        completed=mean.count,
                        rate=f"{ended / elapsed:.1f}/s" if elapsed else "",
                        mean=str(mean),
                    )
        except asyncio.CancelledError:
            console.print(f"cancelled: {mean.count} of {session.total} rollouts ended")


class _Mean:
    """The mean reward so far, where a repeated rollout replaces its failure."""

    def __init__(self, table: RolloutTable) -> None:
        rows = zip(table.keys, table.reward, table.status, strict=True)
        self._replaceable = {key: reward for key, reward, status in rows if status != COMPLETED}
        self.count = len(table)
        """Rollouts that have ended."""
        known = array("d", (reward for reward in table.reward if reward == reward))
        self._sum, self._counted = sum(known), len(known)

    def add(self, record: RolloutRecord) -> None:
        """Note a rollout."""
        before = self._replaceable.pop(record.key, None)
        self.count += before is None
        reward = math.nan if record.reward is None else record.reward
        if not record.ended_well:
            self._replaceable[record.key] = reward
        for value, sign in ((before, -1), (reward, 1)):
            if value is not None and value == value:
                self._sum += sign * value
                self._counted += sign

    def __str__(self) -> str:
        return f"mean reward {self._sum / self._counted:.4f}" if self._counted else "no reward yet"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[mean]}"),
        TimeRemainingColumn(),
        console=console,
    )


@contextlib.contextmanager
def _interrupts(stopping: asyncio.Event, console: Console) -> Iterator[None]:
    """Finish what is in flight at the first SIGINT or SIGTERM, cancel it at the second."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupted() -> None:
        if stopping.is_set() and task is not None:
            task.cancel()
            return
        console.print("stopping: rollouts in flight are finished; interrupt again to cancel them")
        stopping.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, interrupted)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
