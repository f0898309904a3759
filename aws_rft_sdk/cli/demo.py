"""`aws-rft demo`."""

from __future__ import annotations

import json
import signal
import time
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as View

from aws_rft_sdk.cli._live import LiveFigures
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, quiet_logs, user_code_prints_to_stderr
from aws_rft_sdk.cli._sparkline import sparkline
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs.report import reward_svg
from aws_rft_sdk.jobs.steps import Step
from aws_rft_sdk.runs.metrics.intervals import wilson
from aws_rft_sdk.training.learning import CONTROLS, MUST_FAIL, Course, learn
from aws_rft_sdk.training.softmax import softmax


@click.command("demo")
@click.option("--controls", is_flag=True, help="Also train with faults made on purpose, which must not learn.")
@click.option("--seed", default=0, show_default=True, type=int, help="Draws the problems and the policy's decisions.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.  [default: runs/demo-<time>]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(ctx: click.Context, controls: bool, seed: int, out: Path | None, as_json: bool) -> None:
    """Watch an agent learn on this machine, in about a minute.

    A Strands agent solves word problems with a calculator over the local runtime. The policy behind it is no language
    model: it is a table of 45 numbers, which says how likely each move is in each state. GRPO changes the table, and
    reads nothing but what the runtime recorded and the rewards that it received.

    With --controls the same training runs with a constant reward, with random rewards, with trajectory ids shuffled
    among the rollouts, and with 30 % of the rewards lost.

    Exit status: 0 if the training learned and the first three controls did not, 130 if interrupted, else 1.
    """
    folder = out or Path("runs", datetime.now(timezone.utc).strftime("demo-%Y-%m-%dT%H-%M-%SZ"))
    if (folder / "rewarded").exists():
        raise ConfigurationError(f"{folder} has a demo already; give another folder with --out")
    began = time.monotonic()
    courses: dict[str, Course] = {}
    try:
        for name in ("rewarded", *(CONTROLS if controls else ())):
            with quiet_logs(), _Progress(name, folder / name) as progress:
                control = None if name == "rewarded" else name
                courses[name] = learn(folder / name, control=control, seed=seed, tell=progress.tell)
    except KeyboardInterrupt:
        click.echo(f"stopped. What was recorded until now is in {folder}", err=True)
        ctx.exit(128 + signal.SIGINT)
    seconds = time.monotonic() - began
    curves = folder / "curves.svg"
    curves.write_text(reward_svg({name: course.steps for name, course in courses.items()}), encoding="utf-8")
    if as_json:
        runs = {name: {"before": c.before, "after": c.after, "rollouts": c.rollouts} for name, c in courses.items()}
        click.echo(json.dumps({"runs": runs, "seconds": round(seconds, 1)}, indent=2), file=own_stdout())
    else:
        _print(Console(file=own_stdout(), highlight=False, markup=False), courses, folder, seconds)
    wrong = [name for name, course in courses.items() if course.learned == (name in MUST_FAIL) and name != CONTROLS[3]]
    for name in wrong:
        click.echo(f"{name} {'learned, and must not' if name in MUST_FAIL else 'did not learn'}", err=True)
    ctx.exit(1 if wrong else 0)


class _Progress(LiveFigures):
    """Shows a run in the body of a `with`."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__("  solving the held-out problems before the training")
        self._folder = folder
        self._rewards: list[float] = []
        self._last = time.monotonic()
        click.echo(f"{name.replace('_', ' ')}: records go to {folder}", err=True)

    def tell(self, step: Step, rollouts: int) -> None:
        """Show a step, and append it to the run's `steps.jsonl`."""
        with (self._folder / "steps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(step.to_json()) + "\n")
        success, now = step.reward_mean or 0.0, time.monotonic()
        low, high = wilson(success, rollouts)
        self._rewards.append(success)
        curve = sparkline(self._rewards, self.encoding, low=0.0, high=1.0)
        figures = {"step": f"{step.step:>2} of {step.total_steps}", "success": f"{success:4.0%} {curve}"}
        figures |= {"interval": f"{low:.0%} to {high:.0%}", "entropy": f"{step.entropy or 0:.2f}"}
        if step.step > 1:  # the first one began after the held-out problems
            figures["rollouts/s"] = f"{rollouts / (now - self._last):.0f}"
        self._last = now
        self.show(figures)


def _print(console: Console, courses: dict[str, Course], folder: Path, seconds: float) -> None:
    view = View("run", "before", "after", "95 % interval", "training", box=None, pad_edge=False)
    for name, course in courses.items():
        low, high = wilson(course.after, course.held_out)
        curve = sparkline([step.reward_mean or 0.0 for step in course.steps], console.encoding, low=0.0, high=1.0)
        view.add_row(name, f"{course.before:.0%}", f"{course.after:.0%}", f"{low:.0%} to {high:.0%}", curve)
    console.print(f"success on {courses['rewarded'].held_out} held-out problems")
    console.print(view)
    console.print("\nthe policy: how likely each move is, before > after, in %")
    course = courses["rewarded"]
    table = View("state", *next(iter(course.table_before.values())), box=None, pad_edge=False)
    for state, before in course.table_before.items():
        then, now = softmax(list(before.values())), softmax(list(course.table_after[state].values()))
        table.add_row(state, *(f"{a:.0%} > {b:.0%}".replace("%", "") for a, b in zip(then, now, strict=True)))
    console.print(table)
    rollouts = sum(course.rollouts for course in courses.values())
    run, compared = folder / "rewarded", f"{folder}/rewarded/before {folder}/rewarded/after"
    for line in (
        f"\n{rollouts} rollouts in {seconds:.0f} s. Records in {folder}, curves in {folder / 'curves.svg'}",
        f"compare before and after: aws-rft compare {compared}",
        f"look at the training: aws-rft job report --events {run / 'steps.jsonl'} -o report.html",
    ):
        console.print(line, soft_wrap=True)
