"""`aws-rft preflight`."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import click
from rich.console import Console

from aws_rft_sdk._loading import load_function, load_object
from aws_rft_sdk.cli._options import finite, usage_errors
from aws_rft_sdk.cli._output import own_stdout, quiet_logs, user_code_prints_to_stderr
from aws_rft_sdk.cli._progress import RunProgress
from aws_rft_sdk.cli._runs import RecordedRun, threshold_of
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError, RFTError
from aws_rft_sdk.jobs.expecting import completed_plan, read_plan, read_table
from aws_rft_sdk.proof import Trial, prove_handler
from aws_rft_sdk.proof.handlers import DEFAULT_PROMPT
from aws_rft_sdk.rewards.cases import read_cases
from aws_rft_sdk.rewards.workbench import bench
from aws_rft_sdk.rollout import run
from aws_rft_sdk.rollout.interrupts import INTERRUPTED
from aws_rft_sdk.rollout.options import RunOptions
from aws_rft_sdk.rollout.policies import POLICY_HELP
from aws_rft_sdk.rollout.running import RunStatus
from aws_rft_sdk.runs import replay_rollouts
from aws_rft_sdk.runs.manifest import is_deployed
from aws_rft_sdk.runs.preflight import Checks, Preflight, TrainingPlan, Verdict, preflight
from aws_rft_sdk.runs.preflight.estimates import estimate_job
from aws_rft_sdk.runs.preflight.histories import read_histories
from aws_rft_sdk.runs.preflight.plans import read_prices
from aws_rft_sdk.runs.records import DATABASE_FILE
from aws_rft_sdk.runs.replay_report import ReplayStatus

_PROMPTS = 64
_REPLAYED = 32
_PROVED = 16
_EXIT = {Verdict.GO: 0, Verdict.WARN: 0, Verdict.NO_GO: 1, Verdict.UNKNOWN: 3}
_COLOURS = {Verdict.GO: "green", Verdict.WARN: "yellow", Verdict.NO_GO: "red", Verdict.UNKNOWN: "magenta"}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("preflight")
@click.argument("handler", required=False)
@click.argument("dataset", required=False, type=_FILE)
@click.option("--job", type=_FILE, help="File of the job, or a recipe: batch, group size, limits are read from it.")
@click.option("--run", "folder", type=_FOLDER, help="Folder of a run of the base policy, instead of a new one.")
@click.option("--prompts", default=_PROMPTS, show_default=True, type=click.IntRange(1), help="To sample.")
@click.option("--samples", type=click.IntRange(1), help="Rollouts of each prompt.  [default: 8 at most]")
@click.option("--policy", help=f"{POLICY_HELP} Default: `policy` in a policy.py beside the handler's file.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the new run.  [default: runs/<time in UTC>]")
@click.option("--group-size", type=click.IntRange(2), help="Rollouts of a prompt in a training step.  [default: 8]")
@click.option("--batch-size", type=click.IntRange(1), help="Prompts of a training step.")
@click.option("--context-tokens", type=click.IntRange(1), help="Most tokens that the model takes.")
@click.option("--success-threshold", type=float, callback=finite, help="Lowest reward that counts as a success.")
@click.option(
    "--prices", type=_FILE, help="TOML: prices of a million tokens, as prefill = 0.1, sample = 0.4, train = 1."
)
@click.option("--reward", type=(str, _FILE), metavar="REWARD CASES", help="Also test a reward, as aws-rft reward test.")
@click.option("--checks/--no-checks", default=True, help="Prove attribution, and compute rewards a second time.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(
    ctx: click.Context,
    handler: str | None,
    dataset: Path | None,
    job: Path | None,
    folder: Path | None,
    prompts: int,
    samples: int | None,
    policy: str | None,
    out: str | None,
    group_size: int | None,
    batch_size: int | None,
    context_tokens: int | None,
    success_threshold: float | None,
    prices: Path | None,
    reward: tuple[str, Path] | None,
    checks: bool,
    as_json: bool,
) -> None:
    """Say whether a training job would learn, before it is paid for: go, go with warnings, or no-go.

    Runs HANDLER with the base policy over a sample of the prompts in DATASET, or reads the run in --run. HANDLER is as
    for `aws-rft rollout`. With HANDLER, it also proves that its model calls reach their trajectories, and replays some
    rollouts to see whether the reward says the same again.

    It also says, without judging, what the job would take, whether the agent changed histories, and what adversaries
    earn from a REWARD.

    Exit status: 0 for go and for warnings, 1 for no-go, 3 when the sample cannot tell, 2 for bad usage.
    """
    plan = read_plan(job)
    if prices is not None:
        plan = replace(plan, prices=read_prices(read_table(prices)))
    given = {"group_size": group_size, "batch_size": batch_size, "context_tokens": context_tokens}
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    tried = None if reward is None else (load_function(reward[0], load_object), read_cases(reward[1]))
    peak = None
    if folder is None:
        if handler is None or dataset is None:
            raise ConfigurationError("name a HANDLER and a DATASET, or a run with --run")
        plan, ran = _run_base(
            handler, dataset, plan, prompts, out, policy=policy, samples=samples, success_threshold=success_threshold
        )
        if ran is None:
            ctx.exit(INTERRUPTED)
        folder, peak = ran, _peak_bytes()
    recorded = RecordedRun.read(folder)
    plan = completed_plan(plan, recorded.manifest, dataset, seen=len(set(recorded.table.prompt)))
    measured = Checks() if handler is None or not checks or is_deployed(handler) else _check(handler, folder, dataset)
    threshold = threshold_of(plan.success_threshold if success_threshold is None else success_threshold, folder)
    found = preflight(recorded.table, plan, measured, success_threshold=threshold)
    estimates = estimate_job(recorded.table, plan, peak)
    histories = read_histories(folder / DATABASE_FILE)
    tested = None if tried is None else bench(*tried)
    if as_json:
        said = {
            **found.to_dict(),
            "folder": str(folder),
            "estimates": estimates.to_dict(),
            "fidelity": None if histories is None else histories.to_dict(),
            "reward_test": None if tested is None else tested.to_json(),
        }
        click.echo(json.dumps(said, indent=2), file=own_stdout())
    else:
        notes = [*str(estimates).splitlines(), *([] if histories is None else [str(histories)])]
        if tested is not None:
            notes += [f"reward test: {breach}" for breach in tested.breaches] or ["reward test: no breach"]
        _print(Console(file=own_stdout(), highlight=False, markup=False, soft_wrap=True), found, notes)
    ctx.exit(_EXIT[found.verdict])


def _run_base(
    handler: str,
    dataset: Path,
    plan: TrainingPlan,
    prompts: int,
    out: str | None,
    *,
    policy: str | None,
    samples: int | None,
    success_threshold: float | None,
) -> tuple[TrainingPlan, Path | None]:
    """Run a sample of the prompts. Return the plan with the count of all prompts, and the folder.

    The folder is None if the run was interrupted.
    """
    cells = list(read_prompts(dataset))
    sample = Random(0).sample(cells, min(prompts, len(cells)))
    options: RunOptions = {"policy": policy, "group_size": samples or min(plan.group_size, 8), "fail_over": "100%"}
    threshold = plan.success_threshold if success_threshold is None else success_threshold
    if threshold is not None:
        options["success_threshold"] = threshold
    if plan.max_tokens is not None:
        options["max_tokens"] = plan.max_tokens
    with RunProgress() as progress:
        done = run(handler, sample, out=out, listener=progress, **options)
    return replace(plan, prompts=len(cells)), None if done.status is RunStatus.INTERRUPTED else done.folder


def _peak_bytes() -> int:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _check(handler: str, folder: Path, dataset: Path | None) -> Checks:
    """Prove the handler, and replay rollouts of the run. What cannot be done is said on stderr, and is not known."""
    cells = [DEFAULT_PROMPT] if dataset is None else list(read_prompts(dataset))[:_PROVED]
    untracked = foreign = repeated = None
    with quiet_logs():
        try:
            proof = prove_handler(handler, cells, Trial(rollouts=_PROVED, threads=_PROVED))
            said = proof.verdict
            foreign = len(said.foreign)
            untracked = len(said.wrong) + len(said.untracked) + len(said.stray) + len(said.duplicates)
        except RFTError as error:
            click.echo(f"attribution was not proved: {error}", err=True)
        try:
            repeated = asyncio.run(_repeat(handler, folder))
        except RFTError as error:
            click.echo(f"rewards were not computed again: {error}", err=True)
    return Checks(untracked_calls=untracked, foreign_calls=foreign, repeated_rewards=repeated)


async def _repeat(handler: str, folder: Path) -> tuple[int, int]:
    """Return how many rollouts were replayed to their end, and how many of them got another reward."""
    repeated = changed = 0
    async for rollout in replay_rollouts(folder, handler, limit=_REPLAYED, confirm=False):
        if rollout.recorded_rewards is not None and rollout.status in (ReplayStatus.SAME, ReplayStatus.REWARD_CHANGED):
            repeated += 1
            changed += rollout.status is ReplayStatus.REWARD_CHANGED
    return repeated, changed


def _print(console: Console, found: Preflight, notes: Sequence[str]) -> None:
    for reason in found.reasons:
        console.print(f"{reason.verdict.value:<8}", style=_COLOURS[reason.verdict], end="")
        console.print(f"{reason.rule:<22}{reason.text}{_interval(reason.interval)}")
        if reason.advice:
            limit = "" if reason.threshold is None else f"threshold {reason.threshold:g}, "
            console.print(f"{'':<30}{reason.advice} ({limit}{reason.source})", style="dim")
    for note in notes:
        console.print(note, style="dim")
    console.print(f"\n{found.verdict.value}", style=f"bold {_COLOURS[found.verdict]}")


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"  [{interval[0]:.3g}, {interval[1]:.3g}]"
