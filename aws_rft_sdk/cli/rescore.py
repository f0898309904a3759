"""`aws-rft rescore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aws_rft_sdk._loading import load_function, load_object
from aws_rft_sdk.cli._options import success_threshold_option, usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.cli._runs import threshold_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.rescore_report import RescoreReport, RewardFigures, rescore_report
from aws_rft_sdk.runs.rescoring import (
    RescoreStatus,
    configured,
    rescore,
    write_new_records,
    write_new_run,
)
from aws_rft_sdk.runs.truth import TruthFinder, cell_truth, column_truth

_SHOWN_PROMPTS = 20


@click.command("rescore")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--reward", required=True, help="path/to/file.py:name or module:name of a reward, or a class of them.")
@click.option("--config", metavar="JSON", help="Arguments of the reward, or of its class, as a JSON object.")
@click.option(
    "--ground-truth",
    metavar="NAME",
    help="Field of the prompt cell with the ground truth, or column of --dataset. Default: a packed cell's, else the "
    "field ground_truth or answer.",
)
@click.option("--dataset", type=click.Path(exists=True, dir_okay=False), help="The file that the rollouts ran over.")
@click.option("--failed", "include_failed", is_flag=True, help="Score rollouts whose handler failed, too.")
@click.option("--limit", type=click.IntRange(1), help="Score the first N rollouts only, in the dataset's order.")
@click.option("--concurrency", default=1, show_default=True, type=click.IntRange(1), help="Rewards at work at once.")
@success_threshold_option
@click.option("--db", type=click.Path(exists=True, dir_okay=False), help="The trajectories, if not those in DIR.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A new folder for records with the rewards, as `aws-rft metrics` and `compare` read it; a file if it ends in "
    ".jsonl.",
)
@click.option("--show", default=10, show_default=True, type=click.IntRange(0), help="Rollouts listed of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, with every rollout.")
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(
    ctx: click.Context,
    folder: Path,
    reward: str,
    config: str | None,
    ground_truth: str | None,
    dataset: str | None,
    include_failed: bool,
    limit: int | None,
    concurrency: int,
    success_threshold: float | None,
    db: str | None,
    out: Path | None,
    show: int,
    as_json: bool,
) -> None:
    """Apply another reward to saved rollouts, and compare it with the recorded one.

    DIR is what `aws-rft rollout --out` named; nothing is written to it. No agent and no model run. Exit status: 0 when
    the reward could be applied to all rollouts, 1 when it raised, a conversation is missing, or it judged none, 2 for
    bad usage.
    """
    if out is not None and out.exists():
        raise ConfigurationError(f"{out} exists already; choose another name")
    threshold = threshold_of(success_threshold, folder)
    truth = _truth(ground_truth, dataset)
    made = configured(load_function(reward, load_object), _config(config), reward)
    rollouts = rescore(
        folder, made, truth=truth, include_failed=include_failed, concurrency=concurrency, limit=limit, db=db
    )
    report = rescore_report(rollouts, threshold)
    if out is not None and out.suffix == ".jsonl":
        write_new_records(report.rollouts, out)
    elif out is not None:
        write_new_run(report.rollouts, out, of=folder, reward=reward, success_threshold=threshold)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2, default=str), file=own_stdout())
    else:
        _print(report, show)
        if out is not None:
            click.echo(f"{len(report.rollouts)} records in {out}", file=own_stdout())
    broken = report.with_status(RescoreStatus.RAISED) or report.with_status(RescoreStatus.MISSING)
    ctx.exit(1 if broken or not report.with_status(RescoreStatus.SCORED) else 0)


def _truth(name: str | None, dataset: str | None) -> TruthFinder:
    if dataset is None:
        return cell_truth(name)
    if name is None:
        raise ConfigurationError("--dataset needs --ground-truth, the name of the column")
    return column_truth(dataset, name)


def _config(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"--config is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"--config must be a JSON object, not {type(value).__name__}")
    return value


def _print(report: RescoreReport, show: int) -> None:
    console = Console(file=own_stdout(), highlight=False)
    counts = ", ".join(f"{count} {status}" for status, count in report.counts.items())
    console.print(f"{len(report.rollouts)} rollouts: {counts}", markup=False)
    table = Table("", "recorded", "new")
    for name, of_old, of_new in zip(
        ("rollouts with a reward", "mean", f"success (>= {report.success_threshold:g})", "groups with equal rewards"),
        _cells(report.old),
        _cells(report.new),
        strict=True,
    ):
        table.add_row(name, of_old, of_new)
    console.print(table)
    console.print(
        f"{report.changed} of {report.compared} rewards changed: {report.up} up, {report.down} down; rank correlation "
        f"{_number(report.spearman)}, same verdict on success {_percent(report.same_success_share)}"
    )
    for name, prompts in (("now differ", report.groups_now_varying), ("are now equal", report.groups_now_equal)):
        if prompts:
            listed = ", ".join(map(str, prompts[:_SHOWN_PROMPTS])) + (", ..." if len(prompts) > _SHOWN_PROMPTS else "")
            console.print(f"{len(prompts)} groups whose rewards {name}: prompts {listed}", markup=False)
    if report.components:
        table = Table("component", "counts", "rollouts", "mean")
        for part in report.components:
            table.add_row(Text(part.name), "yes" if part.counts else "metric", str(part.rollouts), f"{part.mean:.4f}")
        console.print(table)
    if changes := report.biggest_changes(show):
        table = Table("biggest changes", "prompt", "sample", "recorded", "new")
        for rollout in changes:
            place = (str(rollout.record.prompt_index), str(rollout.record.sample_index))
            table.add_row(Text(rollout.record.trajectory_id), *place, _number(rollout.old), _number(rollout.new))
        console.print(table)
    _print_unscored(console, report, show)


def _print_unscored(console: Console, report: RescoreReport, show: int) -> None:
    for status in (RescoreStatus.UNJUDGED, RescoreStatus.RAISED, RescoreStatus.MISSING):
        rollouts = report.with_status(status)
        for rollout in rollouts[:show]:
            place = f"prompt {rollout.record.prompt_index}, sample {rollout.record.sample_index}"
            note = f": {rollout.note}" if rollout.note else ""
            console.print(f"{status.value}: {rollout.record.trajectory_id} ({place}){note}", markup=False)
        if len(rollouts) > show:
            console.print(f"{status.value}: and {len(rollouts) - show} more", markup=False)


def _cells(figures: RewardFigures) -> tuple[str, str, str, str]:
    equal = f"{figures.zero_variance_groups} of {figures.groups}"
    return str(figures.rewarded), _number(figures.mean), _percent(figures.success_share), equal


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
