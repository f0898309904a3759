"""`aws-rft reward`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from aws_rft_sdk._loading import load_function, load_object
from aws_rft_sdk.cli._options import finite, usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.cli._reward_deploy import deploy, undeploy
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.rewards._checks import check_reward
from aws_rft_sdk.rewards.cases import read_cases
from aws_rft_sdk.rewards.lambdas import check_reply, reply_rows, reward_lambda
from aws_rft_sdk.rewards.packaging import HANDLER, MAX_UNZIPPED_BYTES, MAX_ZIP_BYTES, Package, build_package
from aws_rft_sdk.rewards.workbench import BenchReport, bench

_MAX_PAYLOAD_BYTES = 6 * 10**6
_SHOWN = 20

_floor_option = click.option(
    "--floor",
    default=0.0,
    show_default=True,
    type=float,
    callback=finite,
    help="Score of a row that cannot be judged.",
)


@click.group("reward")
def command() -> None:
    """Test a reward, run it as a Lambda function, package it, deploy it.

    REWARD is path/to/file.py:name or module:name: a function or an object that takes a rollout, or a group reward.
    """


command.add_command(deploy)
command.add_command(undeploy)


@command.command("test")
@click.argument("reward")
@click.argument("cases", type=click.Path(exists=True, dir_okay=False))
@click.option("--shaping", type=click.FloatRange(0), help="How far an adversary may rise above an honest failed try.")
@click.option("--range", "limits", type=float, nargs=2, metavar="LOW HIGH", help="What rewards must stay in.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="How often each case is scored.")
@click.option("--max-seconds", default=1.0, show_default=True, type=float, help="Longest time of one call.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def test(
    ctx: click.Context,
    reward: str,
    cases: str,
    shaping: float | None,
    limits: tuple[float, float] | None,
    repeat: int,
    max_seconds: float,
    as_json: bool,
) -> None:
    """Test a reward with CASES and with adversaries made from them.

    CASES has one JSON object on each line: prompt, answer (or messages), ground_truth, expected (a number, [low,
    high] or null), kind (success or failure), group. Exit status: 0 when all is well, 1 on a breach, 2 for bad usage.
    """
    found = read_cases(cases)
    report = bench(_load(reward), found, shaping=shaping, limits=limits, repeat=repeat, max_seconds=max_seconds)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2), file=own_stdout())
    else:
        _print(report)
    ctx.exit(1 if report.breaches else 0)


@command.command("invoke")
@click.argument("reward")
@click.argument("events", type=click.Path(exists=True, dir_okay=False))
@_floor_option
@click.option(
    *("--lambda-handler", "--handler", "is_handler"), is_flag=True, help="REWARD is a Lambda handler already."
)
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def invoke(ctx: click.Context, reward: str, events: str, floor: float, is_handler: bool) -> None:
    """Run a reward as its Lambda function on EVENTS, a JSON file with an event, and print the reply.

    The reply is also checked: one result for each row, ids echoed, finite scores. Exit status: 0 when all rows were
    scored, 1 when some were not or the reply is wrong, 2 for bad usage.
    """
    event = _read_event(events)
    logging.basicConfig(format="%(levelname)s %(message)s")
    loaded = _load(reward)
    reply = loaded(event, None) if is_handler else reward_lambda(loaded, floor=floor)(event)
    problems = check_reply(event, reply)
    rows: Any = [] if problems else reply_rows(reply)
    unscored = sum(map(_is_unscored, rows))
    click.echo(json.dumps(reply, indent=2, default=repr), file=own_stdout())
    for name, size in (("event", Path(events).stat().st_size), ("reply", len(json.dumps(reply, default=repr)))):
        if size > _MAX_PAYLOAD_BYTES:
            problems.append(f"the {name} has {size / 1e6:.1f} MB, Lambda takes 6 MB")
    for problem in problems:
        click.echo(problem, err=True)
    if unscored:
        click.echo(f"{unscored} of {len(rows)} rows cannot be judged", err=True)
    ctx.exit(1 if problems or unscored else 0)


@command.command("package")
@click.argument("reward")
@click.option("--out", default="reward.zip", show_default=True, type=click.Path(dir_okay=False), help="The zip.")
@click.option("--with-deps", is_flag=True, help="Add the packages that Lambda lacks, as pip installs them for Lambda.")
@_floor_option
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def package(ctx: click.Context, reward: str, out: str, with_deps: bool, floor: float) -> None:
    """Build the zip of a Lambda function from REWARD, which is path/to/file.py:name.

    It holds the file, what the file imports from beside it, and our code that it needs. Other packages are added with
    --with-deps, else only named. Exit status: 0 when Lambda takes it, 1 when it is too large, 2 for bad usage.
    """
    reward_lambda(_load(reward), floor=floor)  # what it refuses here, it would refuse in the service
    file, _, name = reward.rpartition(":")
    if not file.endswith(".py"):
        raise ConfigurationError(f"{reward!r} is no file; expected path/to/file.py:name")
    built = build_package(file, name, out, floor=floor, with_deps=with_deps)
    _print_package(built)
    ctx.exit(0 if built.fits else 1)


def _load(reference: str) -> Any:
    reward = load_function(reference, load_object)
    check_reward(reward, reference)
    return reward


def _read_event(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is no JSON: {error}") from error


def _is_unscored(result: Mapping[str, Any]) -> bool:
    metrics = result.get("metrics_list") or []
    return any(metric["name"] == "unscored" and metric["value"] == 1.0 for metric in metrics)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _print(report: BenchReport) -> None:
    console = Console(file=own_stdout(), highlight=False, markup=False, emoji=False, soft_wrap=True)
    wrong = [case for case in report.cases if case.problem]
    checked = sum(case.expected is not None for case in report.cases)
    console.print(f"{len(report.cases)} cases, {checked} with an expected reward, {len(wrong)} wrong")
    console.print(
        f"rewards from {_shown(report.low)} to {_shown(report.high)}; a call takes "
        f"{report.mean_call_seconds * 1e3:.2f} ms, at most {report.longest_call_seconds * 1e3:.0f} ms"
    )
    table = Table("adversary", "attempts", "best", "verdict")
    for row in report.adversaries:
        verdict = row.problem or "held"
        table.add_row(row.adversary, str(row.attempts), _shown(row.best), verdict, style="red" if row.problem else "")
    console.print(table)
    table = Table("component", "counts", "std within groups", "constant groups", "inverted pairs")
    for signal in report.components:
        table.add_row(
            signal.name,
            "yes" if signal.counts else "metric",
            f"{signal.mean_std_within_groups:.3f}",
            f"{signal.constant_groups} of {signal.groups}",
            f"{signal.inverted_pairs} of {signal.pairs}",
        )
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")
    for breach in report.breaches[:_SHOWN]:
        console.print(f"breach: {breach}", style="red")
    if len(report.breaches) > _SHOWN:
        console.print(f"and {len(report.breaches) - _SHOWN} more breaches", style="red")
    if not report.breaches:
        console.print("no breach")


def _print_package(built: Package) -> None:
    console = Console(file=own_stdout(), highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(f"{built.path}: {len(built.files)} files")
    table = Table("", "bytes", "Lambda's limit", "share")
    for name, size, limit in (
        ("zip", built.zip_bytes, MAX_ZIP_BYTES),
        ("unzipped", built.unzipped_bytes, MAX_UNZIPPED_BYTES),
    ):
        table.add_row(name, f"{size:,}", f"{limit:,}", f"{size / limit:.2%}")
    console.print(table)
    console.print(f"handler: {HANDLER}")
    if built.needs:
        console.print(f"add a layer with, or use --with-deps for: {', '.join(built.needs)}", style="yellow")
    console.print("raise the timeout from Lambda's 3 s; give the function a name that contains SageMaker")
