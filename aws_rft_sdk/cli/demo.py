"""`aws-rft demo`."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as View

from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.jobs.steps import Step
from aws_rft_sdk.training.learning import CONTROLS, MUST_FAIL, Course, learn, wilson
from aws_rft_sdk.training.softmax import softmax

_BARS = " ▁▂▃▄▅▆▇█"


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

    Exit status: 0 if the training learned and the first three controls did not, else 1.
    """
    folder = out or Path("runs", datetime.now(timezone.utc).strftime("demo-%Y-%m-%dT%H-%M-%SZ"))
    began, courses = time.monotonic(), {}
    for name in ("rewarded", *(CONTROLS if controls else ())):
        click.echo(f"{name.replace('_', ' ')}: records go to {folder / name}", err=True)
        control = None if name == "rewarded" else name
        courses[name] = learn(folder / name, control=control, seed=seed, tell=_Progress())
        (folder / name / "steps.jsonl").write_text(
            "".join(json.dumps(step.to_json()) + "\n" for step in courses[name].steps), encoding="utf-8"
        )
    seconds = time.monotonic() - began
    if as_json:
        runs = {name: {"before": c.before, "after": c.after, "rollouts": c.rollouts} for name, c in courses.items()}
        click.echo(json.dumps({"runs": runs, "seconds": round(seconds, 1)}, indent=2), file=own_stdout())
    else:
        _print(Console(file=own_stdout(), highlight=False), courses, folder, seconds)
    wrong = [name for name, course in courses.items() if course.learned == (name in MUST_FAIL) and name != CONTROLS[3]]
    for name in wrong:
        click.echo(f"{name} {'learned, and must not' if name in MUST_FAIL else 'did not learn'}", err=True)
    ctx.exit(1 if wrong else 0)


class _Progress:
    """A line for each step, on stderr."""

    def __init__(self) -> None:
        self._rewards: list[float] = []
        self._began = time.monotonic()

    def __call__(self, step: Step) -> None:
        self._rewards.append(step.reward_mean or 0.0)
        click.echo(
            f"  step {step.step:>2} of {step.total_steps}  reward {self._rewards[-1]:.2f}  "
            f"{_sparkline(self._rewards):<{step.total_steps or 0}}  entropy {step.entropy or 0:.2f}",
            err=True,
        )


def _sparkline(values: list[float]) -> str:
    return "".join(_BARS[round(max(0.0, min(1.0, value)) * (len(_BARS) - 1))] for value in values)


def _print(console: Console, courses: dict[str, Course], folder: Path, seconds: float) -> None:
    view = View("run", "before", "after", "95 % interval", "mean reward of the steps", box=None, pad_edge=False)
    for name, course in courses.items():
        low, high = wilson(course.after, course.held_out)
        line = _sparkline([step.reward_mean or 0.0 for step in course.steps])
        view.add_row(name, f"{course.before:.0%}", f"{course.after:.0%}", f"{low:.0%} to {high:.0%}", line)
    console.print(f"success on {courses['rewarded'].held_out} held-out problems")
    console.print(view)
    console.print("\nthe policy: how likely each move is, before and after")
    course = courses["rewarded"]
    moves = list(next(iter(course.table_before.values())))
    table = View("state", *moves, box=None, pad_edge=False)
    for state, before in course.table_before.items():
        then, now = softmax(list(before.values())), softmax(list(course.table_after[state].values()))
        table.add_row(state, *(f"{a:.2f} > {b:.2f}" for a, b in zip(then, now, strict=True)))
    console.print(table)
    rollouts = sum(course.rollouts for course in courses.values())
    console.print(f"\n{rollouts} rollouts in {seconds:.0f} s. Records in {folder}")
    console.print(f"compare before and after: aws-rft compare {folder}/rewarded/before {folder}/rewarded/after")
