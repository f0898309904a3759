"""`aws-rft train`."""

from __future__ import annotations

import json
import shlex
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from aws_rft_sdk import training
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.cli._live import LiveFigures
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout, reader_may_leave, user_code_prints_to_stderr
from aws_rft_sdk.cli._sparkline import sparkline
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs.steps import Step
from aws_rft_sdk.rollout.engines.choosing import ENGINES
from aws_rft_sdk.settings import is_main_process
from aws_rft_sdk.training.recipe import Recipe, read_recipe

_SHOWN = {
    "length": "response_length_mean",
    "dead groups": "dead_group_share",
    "entropy": "entropy",
    "validation": "validation_reward_mean",
}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def _write_recipe(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Write a first recipe and end the command: the callback of an option."""
    if path is None:
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(Recipe().to_toml(comments=True))
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"{path} is written. Set `model`, then type: aws-rft train HANDLER DATASET --recipe {path}")
    ctx.exit()


@click.command("train")
@click.argument("handler")
@click.argument("dataset", type=click.Path(exists=True, dir_okay=False))
@click.option("--recipe", type=_FILE, help="TOML file with the hyperparameters.  [default: all defaults]")
@click.option("--model", help="Folder of a model, or its name on the Hugging Face hub.  [default: the recipe's]")
@click.option("--validation", type=_FILE, help="Prompts that the training does not see, to measure the model on.")
@click.option("--policy", help="upstream:URL of a vLLM server that samples.  [default: this process samples]")
@click.option("--engine", type=click.Choice(ENGINES), help="Where rollouts run.  [default: the recipe's]")
@click.option("--out", type=_FOLDER, help="Folder of a new training.  [default: runs/train-<time in UTC>]")
@click.option("--resume", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder to go on with.")
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N prompts only.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--init",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_write_recipe,
    help="Write a first recipe, every field with its rule and default, and end.",
)
@click.pass_context
@user_code_prints_to_stderr()
@usage_errors
def command(
    ctx: click.Context,
    /,
    handler: str,
    dataset: str,
    recipe: Path | None,
    model: str | None,
    resume: Path | None,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a language model on the rewards of HANDLER over DATASET. Needs: pip install 'aws-rft-sdk[train]'.

    HANDLER and DATASET are those of `aws-rft rollout`. The handler runs unchanged: this process samples from the model
    and answers the agent's calls, and TRL updates the model from what was recorded. On several GPUs: accelerate launch
    -m aws_rft_sdk.training HANDLER DATASET ...

    Ctrl-C or SIGTERM ends the training at once. --resume goes on from the last checkpoint.

    Exit status: 0 when trained; 2 for bad usage; 3 when a disk, a port or a server does not work; 130 when interrupted;
    else 1.
    """
    plan, notes = _recipe(recipe, model, resume, out)
    folder = resume or out or Path("runs", datetime.now(timezone.utc).strftime("train-%Y-%m-%dT%H-%M-%SZ"))
    if (policy := given["policy"]) and not policy.startswith("upstream:"):
        raise ConfigurationError(
            f"--policy is {policy!r}. Give upstream:URL, or leave it out to sample in this process"
        )
    is_main = is_main_process()
    for note in notes if is_main else ():
        click.echo(f"note: {note}", err=True)
    began = time.monotonic()
    try:
        with _sigterm_interrupts(), _Progress(folder) if is_main else nullcontext() as progress:
            train = training.train
            with _quiet(is_main):
                where: dict[str, Any] = {"resume": resume} if resume else {"out": folder}
                tell = None if progress is None else progress.tell
                finished = train(handler, dataset, plan, tell=tell, **where, **given)
    except KeyboardInterrupt:
        if is_main:
            again = ["aws-rft", "train", handler, dataset, "--resume", str(folder)]
            again += [part for name, value in given.items() if value for part in (f"--{name}", str(value))]
            has_begun = (folder / "recipe.toml").exists()
            text = f"stopped. Go on from the last checkpoint with: {shlex.join(again)}"
            click.echo(text if has_begun else "stopped before the training began", err=True)
        ctx.exit(128 + signal.SIGINT)
    if not is_main:
        return
    report = _report(finished, time.monotonic() - began)
    with reader_may_leave():
        text = json.dumps(report, indent=2, allow_nan=False) if as_json else "\n".join(_lines(report))
        click.echo(text, file=own_stdout())


def _recipe(path: Path | None, model: str | None, resume: Path | None, out: Path | None) -> tuple[Recipe, list[str]]:
    """Return the recipe that the options name, and notes."""
    if resume is not None:
        if path or model or out:
            raise ConfigurationError(
                "--resume goes on in its folder with its recipe. Leave out --recipe, --model, --out"
            )
        path = resume / "recipe.toml"
    recipe, notes = (Recipe(), []) if path is None else read_recipe(path)
    if model:  # absolute, because the folder keeps the recipe
        recipe = recipe.model_copy(update={"model": str(Path(model).resolve()) if Path(model).is_dir() else model})
    if recipe.model is None:
        raise ConfigurationError("there is no model to train. Give --model, or `model` in [train] of the recipe")
    # A name on the hub has at most one slash.
    if (recipe.model.count("/") > 1 or recipe.model[0] in "./~") and not Path(recipe.model).is_dir():
        raise ConfigurationError(f"there is no folder {recipe.model} with a model")
    return recipe, notes


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C in the body."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet(is_main: bool) -> Iterator[None]:
    """Leave out what the libraries tell developers, and in other processes than the first one also their progress."""
    if not is_main:
        import_module("transformers.utils.logging").disable_progress_bar()  # of the loading of the model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


class _Progress(LiveFigures):
    """Shows a training in the body of a `with`."""

    def __init__(self, folder: Path) -> None:
        super().__init__("  loading the model")
        self._folder: Path | None = folder
        self._rewards: list[float] = []
        self._last = time.monotonic()

    def tell(self, step: Step) -> None:
        """Show a step."""
        if self._folder is not None:
            click.echo(f"records go to {self._folder}", err=True)
            self._folder = None
        now = time.monotonic()
        figures = {"step": f"{step.step:>3}" + (f" of {step.total_steps}" if step.total_steps else "")}
        if step.reward_mean is not None:
            self._rewards.append(step.reward_mean)
            figures["reward"] = f"{step.reward_mean:7.4f} {sparkline(self._rewards, self.encoding)}"
        for label, name in _SHOWN.items():
            if (value := getattr(step, name)) is not None:
                figures[label] = f"{value:.4g}"
        if step.step:  # 0 began with the loading of the model
            figures["seconds"] = f"{now - self._last:.1f}"
        self._last = now
        self.show(figures)


def _report(finished: training.TrainingRun, seconds: float) -> dict[str, JSON]:
    rewards = [step.reward_mean for step in finished.steps if step.reward_mean is not None]
    before, after = finished.validation_before, finished.validation_after
    return {
        "folder": str(finished.folder),
        "steps": sum(step.step > 0 for step in finished.steps),  # 0 is the validation before the training
        "reward": {"first": rewards[0] if rewards else None, "last": rewards[-1] if rewards else None},
        "validation": None if before is None and after is None else {"before": before, "after": after},
        "model": str(finished.model),
        "rollouts": finished.rollouts,
        "failed_rollouts": finished.failed_rollouts,
        "dropped_groups": finished.dropped_groups,
        "dead_groups": finished.dead_groups,
        "rows": finished.rows,
        "broken_rows": finished.broken_rows,
        "seconds": round(seconds, 1),
    }


def _lines(report: dict[str, JSON]) -> Iterator[str]:
    yield f"{report['steps']} steps in {report['seconds']:.0f} s"
    for name, first, last in (("reward", "first", "last"), ("validation", "before", "after")):
        if values := report[name]:
            yield f"{name}: {_figure(values[first])} {first}, {_figure(values[last])} {last}"
    yield f"rollouts: {report['rollouts']}, of which {report['failed_rollouts']} failed and are left out"
    yield f"groups: {report['dropped_groups']} dropped, {report['dead_groups']} with equal rewards"
    where = f". {report['folder']}/broken-rows.jsonl says why" if report["broken_rows"] else ""
    yield f"rows: {report['rows']}, of which {report['broken_rows']} began in a later turn{where}"
    yield f"model: {report['model']}"
    yield f"look at the training: aws-rft job report --events {report['folder']}/steps.jsonl -o report.html"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
