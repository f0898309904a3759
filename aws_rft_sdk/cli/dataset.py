"""`aws-rft dataset`."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aws_rft_sdk import datasets
from aws_rft_sdk.cli._options import finite, usage_errors
from aws_rft_sdk.cli._runs import RecordedRun, dataset_of, threshold_of
from aws_rft_sdk.datasets import Lengths, Report, Severity, Shape, Stats, Target
from aws_rft_sdk.datasets._text import plural
from aws_rft_sdk.datasets.preparing import DATASETS
from aws_rft_sdk.datasets.shapes import MADE
from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.runs.difficulty import Difficulty, Keep, judge_prompts

_FILE = click.Path(exists=True, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)
_TO = click.Choice([shape.value for shape in MADE])
_SPLIT = click.option("--split", metavar="NAME", help="Which split of a folder, if it has several.")
_SEED = click.option("--seed", default=0, show_default=True, type=int, help="The same seed gives the same rows.")


@click.group("dataset")
def command() -> None:
    """Check, convert and prepare prompt files: jsonl, json, csv, parquet; read .gz, and folders of arrow or parquet."""


@command.command("check")
@click.argument("file", type=_FILE)
@click.option(
    "--for", "target", required=True, type=click.Choice([item.value for item in Target]), help="What the file is for."
)
@click.option("--batch-size", type=click.IntRange(1), help="Prompts of a training step. Default for mtrl: 128.")
@click.option("--max-tokens", type=click.IntRange(1), help="Tokens that a prompt may have, by a rough count.")
@click.option("--no-reference", is_flag=True, help="The reward needs no reference_answer.")
@click.option("--ignore", multiple=True, metavar="RULE", help="Leave out a rule; may be given several times.")
@click.option("--show", default=5, show_default=True, type=click.IntRange(1), help="Places shown of each rule.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, up to 1,000 places of each rule.")
@click.pass_context
@usage_errors
def check(
    ctx: click.Context,
    file: Path,
    target: str,
    batch_size: int | None,
    max_tokens: int | None,
    no_reference: bool,
    ignore: tuple[str, ...],
    show: int,
    as_json: bool,
) -> None:
    """Check FILE by every rule of a target, and print all problems with their lines.

    Exit status: 0 when there are no errors (warnings may be), 1 when there are, 2 for bad usage.
    """
    with _bar("checking", file) as progress:
        report = datasets.check(
            file,
            target,
            batch_size=batch_size,
            max_tokens=max_tokens,
            require_reference=not no_reference,
            ignore=ignore,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print_report(report, show)
    ctx.exit(0 if report.ok else 1)


@command.command("convert")
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("out", type=_OUT)
@click.option(
    "--from",
    "shape",
    type=click.Choice([shape.value for shape in Shape]),
    help="How the rows of IN are made; the first row tells, if left out.",
)
@click.option("--to", type=_TO, help="How to make the rows; as they are, if left out.")
@_SPLIT
@usage_errors
def convert(source: Path, out: Path, shape: str | None, to: str | None, split: str | None) -> None:
    """Convert IN to OUT: another format (the suffix tells), another kind of rows, or both.

    IN may be a folder that Hugging Face's datasets saved, or one of parquet files. Rows of qa have `question` and
    `answer`, as GSM8K does.
    """
    if shape and not to:
        raise click.UsageError("--from says how to read rows that --to makes into others; give --to as well")
    with _bar("converting", source) as progress:
        count = datasets.convert(source, out, to=to, shape=shape, progress=progress, split=split)
    click.echo(_rows(count, out))


@command.command("prepare")
@click.argument("name", metavar="|".join(DATASETS), type=click.Choice(DATASETS))
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("folder", metavar="OUT_DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--shots", default=0, type=click.IntRange(0, 8), help="gsm8k: solved examples in a prompt. Default: 0.")
@click.option("--to", default=Shape.MTRL.value, show_default=True, type=_TO, help="How to make the rows.")
@_SEED
@_SPLIT
@usage_errors
def prepare(name: str, source: Path, folder: Path, shots: int, to: str, seed: int, split: str | None) -> None:
    """Write train.jsonl and validation.jsonl, 90 and 10 percent of the rows of IN, into OUT_DIR.

    IN is a file of a known dataset, as its authors publish it. gsm8k: `question`, and `answer` that ends in #### and a
    number. finqa: train.json or dev.json. pandalm: `instruction`, `input`, `response1`, `response2`, and verdicts
    in `annotator1` and so on, or `output_sequence`.
    """
    with _bar("preparing", source) as progress:
        counts = datasets.prepare(name, source, folder, shots=shots, seed=seed, to=to, progress=progress, split=split)
    for file, count in counts.items():
        click.echo(_rows(count, folder / file))


@command.command("split")
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("first", type=_OUT)
@click.argument("second", type=_OUT)
@click.option("--share", default=0.1, show_default=True, type=float, help="Of different prompts, for SECOND.")
@_SEED
@usage_errors
def split(source: Path, first: Path, second: Path, share: float, seed: int) -> None:
    """Split IN at random into FIRST and SECOND. Rows of one prompt stay together."""
    with _bar("splitting", source) as progress:
        counts = datasets.split(source, first, second, share=share, seed=seed, progress=progress)
    for name, count in zip((first, second), counts, strict=True):
        click.echo(_rows(count, name))


@command.command("sample")
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("out", type=_OUT)
@click.option("--rows", required=True, type=click.IntRange(1), help="How many.")
@_SEED
@usage_errors
def sample(source: Path, out: Path, rows: int, seed: int) -> None:
    """Write rows of IN, chosen at random and in their order, to OUT."""
    with _bar("sampling", source) as progress:
        count = datasets.sample(source, out, rows=rows, seed=seed, progress=progress)
    click.echo(_rows(count, out) + (f", which is all of {source}" if count < rows else ""))


@command.command("dedupe")
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("out", type=_OUT)
@usage_errors
def dedupe(source: Path, out: Path) -> None:
    """Write IN to OUT without rows whose prompt was there before."""
    with _bar("comparing", source) as progress:
        count, left_out = datasets.dedupe(source, out, progress=progress)
    click.echo(f"{_rows(count, out)}, {left_out} left out")


@command.command("filter")
@click.argument("source", metavar="[IN]", required=False, type=_FILE)
@click.option(
    "--run",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run of these prompts, with several rollouts of each.",
)
@click.option("--keep", required=True, help="mixed: prompts whose rewards differ; or a band of success, as 0.2..0.8.")
@click.option("--out", "-o", default="kept.jsonl", show_default=True, type=_OUT, help="Where the kept rows go.")
@click.option("--success-threshold", type=float, callback=finite, help="Lowest reward that counts as a success.")
@usage_errors
def keep_rows(source: Path | None, folder: Path, keep: str, out: Path, success_threshold: float | None) -> None:
    """Write those rows of IN to a file that a run shows to be neither too easy nor too hard.

    IN is the run's dataset if it is left out. A row counts as the run's prompt with the same text. Rows that the run
    did not sample are left out. Rewards that are all equal teach nothing, so `mixed` keeps what teaches. A fixed band
    is a habit of the field, and no source was found that measured it.
    """
    rule = Keep.parse(keep)
    run = RecordedRun.read(folder)
    dataset = dataset_of(folder, run.manifest)
    prompts = list(datasets.read_prompts(dataset))
    threshold = threshold_of(success_threshold, folder)
    judged = judge_prompts(run.table, prompts, rule, success_threshold=threshold)
    source = source or dataset
    cells = list(datasets.read_prompts(source))
    counts = Counter(judged.get(cell, Difficulty.NOT_MEASURED) for cell in cells)
    if not counts[Difficulty.KEPT]:
        raise DatasetError(f"no row would be left: {_difficulties(counts)}. Nothing was written")
    rows = (row for (_, row), cell in zip(datasets.read_rows(source), cells, strict=True) if judged.get(cell) is _KEPT)
    click.echo(f"{_rows(datasets.write_rows(out, rows), out)} of {len(cells)}; left out: {_difficulties(counts)}")


_KEPT = Difficulty.KEPT


def _difficulties(counts: Counter[Difficulty]) -> str:
    return ", ".join(f"{counts[kind]} {kind.value}" for kind in Difficulty if kind is not _KEPT)


@command.command("stats")
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@usage_errors
def stats(file: Path, as_json: bool) -> None:
    """Print lengths, duplicates and how the answers of FILE are spread."""
    with _bar("counting", file) as progress:
        figures = datasets.stats(file, progress=progress)
    if as_json:
        click.echo(json.dumps(figures.as_json(), indent=2))
    else:
        _print_stats(figures)


def _rows(count: int, path: Path) -> str:
    return f"{plural(count, 'row')} in {path}"


@contextlib.contextmanager
def _bar(what: str, path: Path) -> Iterator[Callable[[int], None]]:
    """Show on stderr how much of a file has been read."""
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=size)
        yield lambda done: progress.update(task, completed=done)


def _print_report(report: Report, show: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for rule, places in groupby(report.problems, key=lambda problem: problem.rule):
        shown = list(places)
        count = report.counts[rule]
        style = "red" if shown[0].severity is Severity.ERROR else "yellow"
        console.print(f"{shown[0].severity.value} {rule}, {count} x: {shown[0].fix}", style=style, markup=False)
        for problem in shown[:show]:
            line = "" if problem.line is None else f"line {problem.line}"
            place = ", ".join(part for part in (line, problem.field) if part)
            console.print(f"  {place}: {problem.problem}" if place else f"  {problem.problem}", markup=False)
        if count > show:
            console.print(f"  and {count - min(show, len(shown))} more")
    console.print(
        f"{plural(report.rows, 'row')} for {report.target.value}: {plural(report.errors, 'error')}, "
        f"{plural(report.warnings, 'warning')}; longest prompt about {plural(report.longest_tokens, 'token')}"
    )


def _print_stats(figures: Stats) -> None:
    console = Console(highlight=False)
    table = Table(show_header=False)
    table.add_row("rows", str(figures.rows))
    table.add_row("duplicates", str(figures.duplicate_rows))
    table.add_row("characters", _lengths(figures.prompt_chars))
    table.add_row("tokens, about", _lengths(figures.prompt_tokens))
    table.add_row("without answer", str(figures.without_answer))
    table.add_row("different answers", str(figures.distinct_answers))
    table.add_row("most frequent answer", f"{100 * figures.top_share:.2f} %")
    console.print(table)
    answers = Table("answer", "rows")
    for answer, count in figures.top_answers:
        answers.add_row(json.dumps(answer, ensure_ascii=False), str(count))
    if figures.top_answers:
        console.print(answers)


def _lengths(lengths: Lengths) -> str:
    return (
        f"{lengths.minimum} to {lengths.maximum}, median {lengths.median}, mean {lengths.mean:.1f}, "
        f"95 % up to {lengths.p95}"
    )
