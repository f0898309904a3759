"""Turns rows of one target into rows of another, by way of what they all say: a question and its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.datasets._interop import chat_row, shape_of, take_answer, without_nulls
from aws_rft_sdk.datasets._storage import TABLES, Progress, files_of, format_of
from aws_rft_sdk.datasets.files import read_rows, write_rows
from aws_rft_sdk.datasets.packing import Packed, pack, prompt_column, unpack
from aws_rft_sdk.errors import ConfigurationError, DatasetError


class Shape(str, Enum):
    """How rows are made."""

    MTRL = "mtrl"
    """A column of prompts; what is not text goes into it packed."""
    BEDROCK = "bedrock"
    """`messages`, `reference_answer` and any other fields."""
    NOVA = "nova"
    """The same with an `id` in each row."""
    NOVA_MULTITURN = "nova-multiturn"
    """`id` and `metadata` of prompt, answer, task and info."""
    QA = "qa"
    """`question` and `answer`, as GSM8K has them."""
    VERL = "verl"
    """`prompt` of messages and `reward_model.ground_truth`. Only read, as are the next two."""
    TRL = "trl"
    """`prompt` of messages, and `ground_truth`, `answer`, `solution` or `completion`."""
    SHAREGPT = "sharegpt"
    """`conversations` of `from` and `value`. The answer is what the model says last."""


@dataclass
class _Item:
    """What a row says, in any shape."""

    question: JSON
    """Text, or messages."""
    answer: JSON
    extras: dict[str, JSON]
    visible: list[str] = field(default_factory=list)
    """Names among the extras that the model may see."""


def convert_rows(
    rows: Iterable[tuple[int, Mapping[str, Any]]], to: Shape, *, shape: Shape | None = None
) -> Iterator[dict[str, JSON]]:
    """Turn rows, each with its line, into rows of the shape `to`, one by one.

    If `shape` is None, the first row's keys tell which shape they have. A row that has not the shape is a DatasetError.
    """
    for number, (line, row) in enumerate(rows, start=1):
        shape = shape or Shape(shape_of(row))
        try:
            item = _PARSERS.get(shape, _parse_chat)(dict(chat_row(row, shape.value)))
            if item.question in (None, "", []):
                raise DatasetError("there is no question in it")
            yield _MAKERS[to](item, number)
        except (DatasetError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise DatasetError(f"line {line} is no row of shape {shape.value}: {reason}", line=line) from error


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Shape | str | None = None,
    shape: Shape | str | None = None,
    progress: Progress | None = None,
    split: str | None = None,
) -> int:
    """Convert a file to another format, another shape, or both. Return how many rows were written, at least 1.

    Args:
        source: The file to read, whose suffix tells the format, or a folder of files as `datasets` saves it.
        target: The file to write; its suffix tells the format. It may be the same file.
        to: The shape to make; None leaves rows as they are.
        shape: The shape that the rows have; None: what the first row's keys tell.
        progress: Is told how many bytes have been read.
        split: Which split of a folder. None if it has only one.

    Raises:
        ConfigurationError: Rows of the shape cannot be made, or `shape` is unknown.
        DatasetError: A file cannot be read or written, there are no rows, a row has not the shape, or a folder has
            several splits and none is chosen.
    """
    makes = None if to is None else known_shape("to", to, MADE)
    reads = None if shape is None else known_shape("shape", shape, list(Shape))
    table = format_of(files_of(source, split)[0]) in TABLES and (to is not None or format_of(target) not in TABLES)
    rows = read_rows(source, progress=progress, split=split)
    if table:
        rows = ((line, untabled(row)) for line, row in rows)
    if makes is None:
        return write_rows(target, (row for _, row in rows))
    return write_rows(target, convert_rows(rows, makes, shape=reads))


def known_shape(argument: str, name: Shape | str, known: Collection[Shape]) -> Shape:
    """Return the shape of a name. A ConfigurationError names the argument if the shape is not a known one."""
    if name not in known:
        names = ", ".join(shape.value for shape in known)
        raise ConfigurationError(f"{argument} is {name!r}; use one of {names}")
    return Shape(name)


_STRUCTURED: dict[str, type] = {
    **dict.fromkeys(("messages", "tools", "conversations", "prompt", "completion"), list),
    **dict.fromkeys(("metadata", "reference_answer", "reward_model", "extra_info"), dict),
}
"""What fields hold, if it is no text."""


def untabled(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a csv or parquet row with the structure that its cells hold as JSON text, in the fields known for it."""
    return {name: _structure(name, value) if name in _STRUCTURED else value for name, value in row.items()}


def _structure(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value if name == "reference_answer" else without_nulls(value)
    if value[:1] not in ("{", "["):
        return value
    try:
        inner = json.loads(value)
    except (ValueError, RecursionError):
        return value
    if name in ("prompt", "completion") and not (inner and all(isinstance(it, dict) and "role" in it for it in inner)):
        return value  # text that happens to be JSON
    return inner if isinstance(inner, _STRUCTURED[name]) else value


# Each parser may change the columns that it is given. What it does not take out is extra.


def _parse_mtrl(columns: dict[str, Any]) -> _Item:
    cell = columns.pop(prompt_column(list(columns)))
    if not isinstance(cell, str):
        raise DatasetError(f"a prompt is text, not {type(cell).__name__}")
    answer, packed = take_answer(columns), _packed(cell)
    if packed is None:
        return _Item(cell, answer, columns)
    extras = {**columns, **thaw(packed.visible), **thaw(packed.hidden)}
    answer = answer if packed.ground_truth is None else thaw(packed.ground_truth)
    for name in ("question", "ground_truth") if "question" in extras else ("prompt", "input_seq", "ground_truth"):
        extras.pop(name, None)
    return _Item(thaw(packed.question), answer, extras, [name for name in packed.visible if name in extras])


def _packed(cell: str) -> Packed | None:
    """Return a cell unpacked. Return None if all of it is the question."""
    packed = unpack(cell) if cell.lstrip().startswith("{") else None
    return None if packed is None or packed.question is None else packed


def _parse_chat(columns: dict[str, Any]) -> _Item:
    messages, answer = columns.pop("messages"), columns.pop("reference_answer", None)
    alone = len(messages) == 1 and messages[0]["role"] == "user" and isinstance(messages[0]["content"], str)
    visible = ["tools"] if "tools" in columns else []
    return _Item(messages[0]["content"] if alone else messages, answer, columns, visible)


def _parse_multiturn(columns: dict[str, Any]) -> _Item:
    metadata = columns["metadata"]
    extras = {"id": columns["id"], **{name: metadata[name] for name in ("task", "info") if name in metadata}}
    return _Item(metadata["prompt"], metadata.get("answer"), extras)


def _parse_qa(columns: dict[str, Any]) -> _Item:
    return _Item(columns.pop("question"), columns.pop("answer"), columns)


def _make_mtrl(item: _Item, number: int) -> dict[str, JSON]:
    _refuse(item.extras, "question", "visible")
    extras = dict(item.extras)
    truth = extras.pop("ground_truth", None)
    answer = item.answer if truth is None else truth
    if not extras and answer is None and isinstance(item.question, str) and _is_plain(item.question):
        return {"prompt": item.question}
    visible = [name for name in item.visible if name in extras]
    if item.answer not in (None, answer):
        extras["reference_answer"] = item.answer
    return {"prompt": pack(question=item.question, ground_truth=answer, visible=visible, **extras)}


def _is_plain(question: str) -> bool:
    """Return whether a prompt of this text alone reads as the question."""
    try:
        return _packed(question) is None
    except DatasetError:
        return False


def _make_bedrock(item: _Item, number: int) -> dict[str, JSON]:
    _refuse(item.extras, "messages")
    question, answer, extras = item.question, item.answer, dict(item.extras)
    row: dict[str, JSON] = {
        "messages": [{"role": "user", "content": question}] if isinstance(question, str) else question
    }
    if "reference_answer" in extras:  # as _make_mtrl puts it, where both are known
        answer, extras["ground_truth"] = extras.pop("reference_answer"), item.answer
    if answer is not None:
        row["reference_answer"] = answer if isinstance(answer, dict) else _text(answer)
    return {**row, **extras}


def _make_nova(item: _Item, number: int) -> dict[str, JSON]:
    row = _make_bedrock(item, number)
    return {"id": _id(row.pop("id", None), number), **row}


def _make_multiturn(item: _Item, number: int) -> dict[str, JSON]:
    extras = dict(item.extras)
    row_id, info = _id(extras.pop("id", None), number), extras.pop("info", None)
    metadata: dict[str, JSON] = {"prompt": item.question}
    if item.answer is not None:
        metadata["answer"] = _text(item.answer)
    if "task" in extras:
        metadata["task"] = extras.pop("task")
    if extras:
        info = {**(info or {}), **extras} if isinstance(info, dict | None) else {**extras, "info": info}
    if info is not None:
        metadata["info"] = info
    return {"id": row_id, "metadata": metadata}


def _make_qa(item: _Item, number: int) -> dict[str, JSON]:
    if not isinstance(item.question, str):
        raise DatasetError("a question of several messages does not fit question and answer")
    _refuse(item.extras, "question", "answer")
    return {"question": item.question, "answer": item.answer, **item.extras}


def _refuse(extras: Mapping[str, JSON], *names: str) -> None:
    """Refuse fields that what a row is made of would take the place of."""
    for name in names:
        if name in extras:
            raise DatasetError(f"a field {name!r} has no place beside the row's own; rename it or leave it out")


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _id(value: JSON, number: int) -> str:
    return f"row-{number}" if value in (None, "") else _text(value)


_PARSERS: dict[Shape, Callable[[dict[str, Any]], _Item]] = {
    Shape.MTRL: _parse_mtrl,
    Shape.NOVA_MULTITURN: _parse_multiturn,
    Shape.QA: _parse_qa,
}
"""Rows of all other shapes are messages, or made into messages."""
_MAKERS: dict[Shape, Callable[[_Item, int], dict[str, JSON]]] = {
    Shape.MTRL: _make_mtrl,
    Shape.BEDROCK: _make_bedrock,
    Shape.NOVA: _make_nova,
    Shape.NOVA_MULTITURN: _make_multiturn,
    Shape.QA: _make_qa,
}
MADE = tuple(_MAKERS)
"""The shapes that rows can be turned into."""
