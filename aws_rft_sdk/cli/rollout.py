"""`aws-rft rollout`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aws_rft_sdk._running import Handler
from aws_rft_sdk.cli._options import POLICY_HELP, load_function, parse_policy, usage_errors
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout import RolloutRecord, Summary, run_rollouts, summarize
from aws_rft_sdk.rollout.driver import Start
from aws_rft_sdk.rollout.records import RecordWriter
from aws_rft_sdk.rollout.starting import start_at_endpoint, start_in
from aws_rft_sdk.rollout.summary import SUCCESS_THRESHOLD
from aws_rft_sdk.runtime import LocalRuntime, Policy
from aws_rft_sdk.types import InferenceParams

DATABASE_FILE = "trajectories.db"
_SHOWN_ERRORS = 5


@click.command("rollout")
@click.argument("handler")
@click.argument("dataset", type=click.Path(exists=True, dir_okay=False))
@click.option("--group-size", default=1, show_default=True, type=click.IntRange(1), help="Rollouts of each prompt.")
@click.option("--concurrency", default=16, show_default=True, type=click.IntRange(1), help="Rollouts in flight.")
@click.option("--limit", type=click.IntRange(1), help="Use the first N prompts only.")
@click.option("--policy", help=f"{POLICY_HELP} Default: `policy` in a policy.py beside the handler's file.")
@click.option("--endpoint", help="A runtime that is already running, instead of one of our own.")
@click.option("--job-arn", help="Job to report under; needed with an --endpoint that is not a local runtime.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the records.")
@click.option("--temperature", default=1.0, show_default=True, type=click.FloatRange(0), help="Sent in the payload.")
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="Sent in the payload.")
@click.option("--max-tokens", default=4096, show_default=True, type=click.IntRange(1), help="Sent in the payload.")
@click.option(
    "--success-threshold",
    default=SUCCESS_THRESHOLD,
    show_default=True,
    type=float,
    help="Lowest reward that counts as a success.",
)
@click.pass_context
@usage_errors
def command(
    ctx: click.Context,
    handler: str,
    dataset: str,
    group_size: int,
    concurrency: int,
    limit: int | None,
    policy: str | None,
    endpoint: str | None,
    job_arn: str | None,
    out: Path | None,
    temperature: float,
    top_p: float,
    max_tokens: int,
    success_threshold: float,
) -> None:
    """Run a handler over a dataset and report every reward, as a training job would.

    HANDLER is path/to/file.py:function or module:function, decorated with rft_handler. DATASET is a jsonl, json, csv or
    parquet file with a `prompt` column, else its first column. Exit status: 0 when all rollouts were reported, 1 when
    some were not, 2 for bad usage.
    """
    if policy and endpoint:
        raise ConfigurationError("--policy is for a runtime of our own; with --endpoint, the runtime has its policy")
    prompts = list(itertools.islice(read_prompts(dataset), limit))
    fn = load_function(handler)
    params = InferenceParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    total = len(prompts) * group_size
    with contextlib.ExitStack() as stack:
        # All that may be refused comes before the first file is written.
        if endpoint:
            start = start_at_endpoint(endpoint, params, job_arn)
            writer = stack.enter_context(RecordWriter(out)) if out else None
        else:
            runtime = LocalRuntime(_policy(policy, handler), db=out / DATABASE_FILE if out else ":memory:")
            writer = stack.enter_context(RecordWriter(out)) if out else None
            start = start_in(stack.enter_context(runtime), params, job_arn)
        records = asyncio.run(
            _run(fn, prompts, start, group_size=group_size, concurrency=concurrency, total=total, writer=writer)
        )
    summary = summarize(records, success_threshold)
    console = Console(highlight=False)
    console.print(_table(summary, total, success_threshold))
    errors = Counter(record.error.replace(record.id, "<id>") for record in records if record.error)
    for error, count in errors.most_common(_SHOWN_ERRORS):
        console.print(f"{count} x {error}", style="red", markup=False)
    if out:
        console.print(f"records in {out}", markup=False)
    ctx.exit(1 if summary.unreported or summary.rollouts < total else 0)


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


async def _run(
    handler: Handler,
    prompts: list[str],
    start: Start,
    *,
    group_size: int,
    concurrency: int,
    total: int,
    writer: RecordWriter | None,
) -> list[RolloutRecord]:
    records: list[RolloutRecord] = []
    console = Console(stderr=True)
    stopping = asyncio.Event()
    with _interrupts(stopping, console), _progress(console) as progress:
        bar = progress.add_task("rollouts", total=total, rate="", mean="")
        rewards: list[float] = []
        try:
            async for record in run_rollouts(
                handler, prompts, start, group_size=group_size, concurrency=concurrency, stopping=stopping
            ):
                records.append(record)
                if writer is not None:
                    writer.write(record)
                if record.reward is not None:
                    rewards.append(record.reward)
                elapsed = progress.tasks[bar].elapsed or 0.0
                progress.update(
                    bar,
                    completed=len(records),
                    rate=f"{len(records) / elapsed:.1f}/s" if elapsed else "",
                    mean=f"mean reward {sum(rewards) / len(rewards):.4f}" if rewards else "no reward yet",
                )
        except asyncio.CancelledError:
            console.print(f"cancelled: {len(records)} of {total} rollouts ended")
    return records


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


def _table(summary: Summary, total: int, success_threshold: float) -> Table:
    table = Table(show_header=False)
    ended = str(summary.rollouts) if summary.rollouts == total else f"{summary.rollouts} of {total}"
    turns = "-" if summary.mean_turns is None else f"{summary.mean_turns:.2f} mean, {summary.max_turns} max"
    table.add_row("rollouts", ended)
    table.add_row("mean reward", "-" if summary.mean_reward is None else f"{summary.mean_reward:.4f}")
    table.add_row(f"success (reward >= {success_threshold:g})", _percent(summary.success_share))
    table.add_row("failed", _percent(summary.failed_share))
    table.add_row("not reported", str(summary.unreported))
    table.add_row("turns", turns)
    if summary.unsure_turns:
        table.add_row("turns perhaps sampled twice", str(summary.unsure_turns))
    table.add_row("groups with equal rewards", _percent(summary.equal_groups_share))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
