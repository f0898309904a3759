r"""Rollouts for a terminal: a table, a conversation as a chat, two of them side by side.

What policies and tools write is hostile. So control characters, marks that turn the direction of text, and other
characters without a picture are shown as escapes such as `\x1b`, and long texts are folded.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.runs.conversation import Message, TurnFacts
from aws_rft_sdk.runs.summaries import Conversation, RolloutPage, RolloutSummary
from aws_rft_sdk.viewer.texts import INVISIBLE

_SHORT_ID = 8
_FOLDED = {"tool": (10, 600), "system": (10, 600)}
_LONG = (200, 20_000)
"""Lines and characters that are shown of other messages: a guard against one that has a megabyte."""
_SIDE_BY_SIDE = 100  # columns of the terminal
_HEADER = ("id", "group", "reward", "turns", "tokens", "seconds", "outcome", "error")
_NUMBERS = range(1, 6)
_COLORS = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}


def visible(text: str) -> str:
    """Return a text that does nothing to a terminal: what has no picture is shown as an escape."""
    return INVISIBLE.sub(_escaped, text.replace("\r\n", "\n"))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str | None, most: int = 200) -> str:
    """Return the beginning of a text in one line, for a cell of a table."""
    return "" if text is None else visible(" ".join(text[: 4 * most].split()))[:most]


def folded(text: str, role: str, *, full: bool = False) -> str:
    """Return a text as it is shown: visible, and without its end if it is long, unless `full`."""
    lines, characters = _FOLDED.get(role, _LONG)
    shown = text if full else "\n".join(text[:characters].split("\n")[:lines])
    left = len(text) - len(shown)
    return visible(shown) + (f"\n... {left:,} more characters; --full shows them" if left else "")


def echo(text: str = "", **style: JSON) -> None:
    """Print text that may hold characters which stdout cannot show. They are shown as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(click.style(text.encode(encoding, "backslashreplace").decode(encoding), **style))


# --- the table -------------------------------------------------------------------------------------------------------


def print_table(page: RolloutPage) -> None:
    """Print a line for each rollout, and how many more there are."""
    rows = [_HEADER, *(_cells(one) for one in page.rollouts)]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(_HEADER))]
    left = max(Console().width - sum(widths) - 2 * len(widths), 20)
    for row, prompt in zip(rows, ["prompt", *(one_line(one.prompt) for one in page.rollouts)], strict=True):
        cells = [_padded(cell, width, place) for place, (cell, width) in enumerate(zip(row, widths, strict=True))]
        echo("  ".join([*cells, set_cell_size(prompt, left)]).rstrip(), bold=row is _HEADER)
    shown, more = len(page.rollouts), page.matched - len(page.rollouts)
    of = f" that match, of {page.total:,}" if page.matched != page.total else ""
    echo(f"{shown:,} of {page.matched:,} rollouts{of}" + (f"; --limit {page.matched} shows all" if more > 0 else ""))


def _cells(one: RolloutSummary) -> tuple[str, ...]:
    begun = one.trajectory_id.startswith("not-started-")
    group = "-" if one.group is None else f"{one.group}" + ("" if one.sample is None else f"/{one.sample}")
    return (
        visible(one.trajectory_id if begun else one.trajectory_id[:_SHORT_ID]),
        *(group, _number(one.reward), _number(one.turns), _number(one.tokens)),
        "-" if one.seconds is None else f"{one.seconds:.2f}",
        *(one.outcome, one_line(one.error_kind or one.error, 40)),
    )


def _padded(cell: str, width: int, place: int) -> str:
    room = " " * (width - cell_len(cell))
    return room + cell if place in _NUMBERS else cell + room


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.6g}"


# --- one rollout -----------------------------------------------------------------------------------------------------


def print_conversation(found: Conversation, *, full: bool, spans: bool) -> None:
    """Print a rollout as a chat."""
    _print_head(found.summary, found)
    if found.tools:
        echo(f"tools offered  {', '.join(map(_tool_name, found.tools))}")
    for definition in found.tools if full else ():
        echo(_indented(_as_json(definition)))
    turns = {turn.index: turn for turn in found.turns}
    for message in found.messages:
        echo()
        for text, style in _message_lines(message, turns, full=full, spans=spans):
            echo(text, **style)
    if not found.messages and found.turns:
        echo()
        for turn in found.turns:
            echo(_turn_line(turn, spans))
    _print_breaks(found, full=full)
    if found.state is not None:
        echo(f"\nfinal state\n{_indented(folded(_as_json(found.state), 'tool', full=full))}")
    if found.summary.error:
        echo(f"\nerror ({found.summary.error_kind or 'of an unknown kind'})", fg="red", bold=True)
        echo(_indented(folded(found.summary.error, "user", full=full)))
    if found.traceback:
        other = found.traceback_of if found.traceback_of != found.summary.trajectory_id else None
        echo(f"traceback of {visible(other)}, the first rollout with this kind of error" if other else "traceback")
        echo(_indented(visible(found.traceback)))
    for note in found.notes:
        echo(f"note: {visible(note)}", fg="yellow")


def _print_breaks(found: Conversation, *, full: bool) -> None:
    """Print where the agent changed the history. Nothing, if it changed nothing."""
    fidelity = found.fidelity
    if fidelity is None or not fidelity.breaks:
        return
    echo(f"\nhistory changed: the turns split into {fidelity.rows} training rows (docs/fidelity.md)", fg="yellow")
    for one in fidelity.breaks:
        echo(f"  turn {one.turn} does not go on from turn {one.after}: {one.cause.value}")
        for name, text in (("was", one.before), ("now", one.now)):
            echo(f"    {name}  {_indented(folded(text, 'tool', full=full)).lstrip()}")


def _tool_name(tool: JSON) -> str:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return one_line(str(function.get("name")) if isinstance(function, Mapping) else "?")


def _print_head(one: RolloutSummary, found: Conversation) -> None:
    echo(f"rollout {visible(one.trajectory_id)}", bold=True)
    place = [f"group {one.group}"] if one.group is not None else []
    place += [f"sample {one.sample}"] if one.sample is not None else []
    place += [f"attempt {one.attempts}"] if one.attempts > 1 else []
    place += ["replaced by a later attempt"] if one.superseded else []
    echo(f"{one.outcome}{''.join(f', {part}' for part in place)}")
    rewards = found.rewards or ()
    each = f" (of {len(rewards)} turns: {', '.join(map(_number, rewards[:50]))})" if len(rewards) > 1 else ""
    floor = f"  (the runtime got the floor {_number(found.floor)})" if found.floor is not None else ""
    echo(f"reward         {_number(one.reward)}{each}{floor}")
    if found.metrics:
        parts = (f"{one_line(name)} {_metric(value)}" for name, value in found.metrics.items())
        echo(f"components     {', '.join(parts)}")
    tokens = f"{_number(one.prompt_tokens)} prompt and {_number(one.response_tokens)} response tokens"
    seconds = "-" if one.seconds is None else f"{one.seconds:.2f}"
    echo(f"took           {_number(one.turns)} turns, {seconds} s, {tokens}")


def _metric(value: JSON) -> str:
    return _number(value) if isinstance(value, int | float) else one_line(json.dumps(thaw(value)))


def _message_lines(
    message: Message, turns: Mapping[int, TurnFacts], *, full: bool, spans: bool
) -> Iterator[tuple[str, dict[str, JSON]]]:
    if message.note:
        yield f"(before turn {message.turn}: {message.note})", {"fg": "red"}
    who = one_line(message.role)
    if message.role == "tool":
        who = f"tool {one_line(message.tool or '') or '(no call of it is known)'} answers"
    if message.sampled and message.turn in turns:
        who = f"{_turn_line(turns[message.turn], spans)}: {who}"
    yield f"--- {who}", {"fg": _COLORS.get(message.role), "bold": True}
    if message.reasoning:
        yield _indented("(thinks) " + folded(message.reasoning, "assistant", full=full)), {"dim": True}
    if message.text:
        yield _indented(folded(message.text, message.role, full=full)), {}
    for call in message.calls:
        yield _indented(f"-> {one_line(call.name)}({folded(call.arguments, 'tool', full=full)})"), {"fg": "yellow"}


def _turn_line(turn: TurnFacts, spans: bool) -> str:
    tokens = f", {_number(turn.prompt_tokens)}+{_number(turn.response_tokens)} tokens" if turn.prompt_tokens else ""
    ended = f", ended by {one_line(turn.finish_reason)}" if turn.finish_reason else ""
    earned = "" if turn.reward is None else f", reward {_number(turn.reward)}"
    span = f", span {one_line(turn.span_id) or 'none'}" if spans else ""
    times = f"after {turn.started_after:.2f} s, took {turn.seconds:.2f} s"
    return f"turn {turn.index}, {times}{tokens}{ended}{earned}{span}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _as_json(value: JSON) -> str:
    return json.dumps(thaw(value), indent=2, ensure_ascii=False)


# --- two rollouts ----------------------------------------------------------------------------------------------------


def print_difference(one: Conversation, other: Conversation, place: int | None, *, full: bool, spans: bool) -> None:
    """Print two rollouts from the message at which they part: side by side, or below each other if it is narrow.

    Args:
        one: The first.
        other: The second.
        place: Position of that message. None if all messages are the same.
        full: Whether to fold nothing. Then they stand below each other.
        spans: Whether to show span ids.
    """
    console = Console(highlight=False, emoji=False)
    for found in (one, other):
        _print_head(found.summary, found)
        echo()
    if place is None:
        echo(f"all {len(one.messages)} messages are the same")
        return
    same = f"the first {place} messages are the same" if place != 1 else "the first message is the same"
    echo(f"{same}; from here on they part" if place else "no message is the same", bold=True)
    sides = [_blocks(found, place, full=full, spans=spans) for found in (one, other)]
    if console.width < _SIDE_BY_SIDE or full:
        for found, blocks in zip((one, other), sides, strict=True):
            echo(f"\n=== {visible(found.summary.trajectory_id)}", bold=True)
            for block in blocks:
                echo(block)
        return
    table = Table(expand=True, show_lines=True)
    for found in (one, other):
        table.add_column(Text(visible(found.summary.trajectory_id)), ratio=1, overflow="fold")
    for left, right in zip_longest(*sides, fillvalue=""):
        table.add_row(Text(left), Text(right))
    console.print(table)


def _blocks(found: Conversation, place: int, *, full: bool, spans: bool) -> Sequence[str]:
    turns = {turn.index: turn for turn in found.turns}
    blocks = [_message_lines(message, turns, full=full, spans=spans) for message in found.messages[place:]]
    shown = ["\n".join(text for text, _ in block) for block in blocks]
    error = found.summary.error
    return [*shown, *([f"error: {folded(error, 'tool', full=full)}"] if error else [])]
