"""`aws-rft show`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.cli._chat import echo, print_conversation, print_difference, print_table, visible
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import reader_may_leave
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.conversation import first_difference
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.where import Comparison, Where, both, needs_turns, parse_where

_STEP = 1000


@click.command("show")
@click.argument("run")
@click.argument("trajectory_id", metavar="[ID]", required=False)
@click.option("--worst", "order", flag_value="reward", help="The lowest rewards first.")
@click.option("--best", "order", flag_value="-reward", help="The highest rewards first.")
@click.option("--failed", is_flag=True, help="Only rollouts that did not complete.")
@click.option("--group", type=click.IntRange(0), help="Only the rollouts of this prompt, from 0.")
@click.option("--where", metavar="FILTER", help="Only these, for example 'reward<0.5 and tool=calculator'.")
@click.option("--sort", metavar="FIELD", help="The least first; -FIELD for the greatest first.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(0), help="Lines of the table.")
@click.option("--superseded", is_flag=True, help="Show attempts too that a later one replaced.")
@click.option("--full", is_flag=True, help="Fold nothing: whole tool results, prompts and tool definitions.")
@click.option("--spans", is_flag=True, help="Show the span id of each turn.")
@click.option("--diff", "other", metavar="ID", help="Compare with this rollout, from where they part.")
@click.option("--db", type=click.Path(path_type=Path), help="The trajectories of a folder, if they are not in it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@usage_errors
def command(
    run: str,
    trajectory_id: str | None,
    order: str | None,
    failed: bool,
    group: int | None,
    where: str | None,
    sort: str | None,
    limit: int,
    superseded: bool,
    full: bool,
    spans: bool,
    other: str | None,
    db: Path | None,
    as_json: bool,
) -> None:
    r"""Show the rollouts of a run, or one of them as a conversation.

    RUN is a folder that `aws-rft rollout --out` wrote or still writes, a database of the local runtime, or the URL of a
    running one. ID may be the beginning of a trajectory_id. An index is kept beside the database.

    \b
    Fields of --where: reward, turns, tokens, seconds, group, sample, attempts, metrics.NAME,
      outcome, error, tool, id, prompt, and text, text.system, .user, .assistant, .call, .tool.
    Operators: < <= > >= = != and ~ (contains). Join them with and, or, not and brackets.
      none is a missing value: error=none.

    Exit status: 0, 2 for bad usage, 3 when the runtime does not answer.
    """
    if sort and order:
        raise ConfigurationError("--sort, --worst and --best contradict each other; give one of them")
    if trajectory_id is None and (other or full or spans):
        raise ConfigurationError("--diff, --full and --spans are about one rollout; name it: aws-rft show RUN ID")
    if trajectory_id is not None and (order or sort or failed or superseded or where is not None or group is not None):
        raise ConfigurationError("--where, --sort and the like are about the table; leave out ID to see it")
    chosen = _filter(where, failed, group)
    with RunView.open(run, db=db) as view, reader_may_leave():
        if trajectory_id is not None:
            view.update(turns=False)
            _show(view, trajectory_id, other, full=full, spans=spans, as_json=as_json)
            return
        _update(view, turns=as_json or not view.has_records or needs_turns(chosen))
        page = view.rollouts(chosen, sort=order or sort or "", limit=limit, superseded=superseded)
        notes = view.notes()
        if as_json:
            counts = {"run": run, "total": page.total, "matched": page.matched, "notes": notes}
            _print_json({**counts, "rollouts": [one.to_json() for one in page.rollouts]})
            return
        print_table(page)
        for note in notes:
            echo(f"note: {visible(note)}", fg="yellow")


def _filter(where: str | None, failed: bool, group: int | None) -> Where | None:
    return both(
        parse_where(where) if where is not None else None,
        Comparison("outcome", "!=", "completed") if failed else None,
        Comparison("group", "=", float(group)) if group is not None else None,
    )


def _show(view: RunView, shortened: str, other: str | None, *, full: bool, spans: bool, as_json: bool) -> None:
    one = view.conversation(view.find(shortened))
    if other is None:
        if as_json:
            _print_json(one.to_json())
        else:
            print_conversation(one, full=full, spans=spans)
        return
    second = view.conversation(view.find(other))
    place = first_difference(one.messages, second.messages)
    if as_json:
        same = len(one.messages) if place is None else place
        _print_json({"same_messages": same, "parts": place is not None, "rollouts": [one.to_json(), second.to_json()]})
    else:
        print_difference(one, second, place, full=full, spans=spans)


def _update(view: RunView, *, turns: bool) -> None:
    """Bring the index up to date. Shows a bar on stderr, if that is a terminal, as the first look takes a while."""
    columns = (TextColumn("first look"), BarColumn(), TextColumn("{task.completed:,.0f} rollouts"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("index")
        done = view.update(turns=False)
        while turns and not done.is_done:
            progress.update(task, total=done.rollouts, completed=done.read)
            before, done = done, view.update(most=_STEP)
            if done == before:
                break
        if turns:
            view.update()


def _print_json(value: JSON) -> None:
    click.echo(json.dumps(value, indent=2))
