"""Turns rows of one target into rows of another, by way of what they all say: a question and its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.datasets._interop import chat_row, foreign_shape, take_answer, without_nulls
from aws_rft_sdk.datasets._storage import TABLES, Progress, files_of, format_of
from aws_rft_sdk.datasets.files import read_rows, write_rows
from aws_rft_sdk.datasets.packing import pack_fields, unpack
from aws_rft_sdk.datasets.prompts import prompt_column
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
    answer: JSON = None
    extras: dict[str, JSON] = field(default_factory=dict)
    visible: list[str] = field(default_factory=list)
    """Names among the extras that the model may see."""


def shape_of(row: Mapping[str, Any]) -> Shape:
    """Return the shape that a row's keys tell of; anything with a first column may be mtrl."""
    if "messages" in row:
        return Shape.NOVA if "id" in row else Shape.BEDROCK
    if foreign := foreign_shape(row):
        return Shape(foreign)
    if "metadata" in row and "id" in row:
        return Shape.NOVA_MULTITURN
    if "question" in row and "answer" in row:
        return Shape.QA
    return Shape.MTRL


def convert_rows(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    to: Shape,
    *,
    shape: Shape | None = None,
) -> Iterator[dict[str, JSON]]:
    """Turn rows into rows of another shape, one by one.

    Args:
        rows: Line and row.
        to: The shape to make.
        shape: The shape they have; None: what the first row's keys tell.

    Raises:
        DatasetError: A row has not the shape; `.line` says which.
    """
    for number, (line, row) in enumerate(rows, start=1):
        shape = shape or shape_of(row)
        try:
            item = _PARSERS[shape](row)
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
    """Convert a file to another format, another shape, or both.

    Args:
        source: The file to read, whose suffix tells the format, or a folder of files as `datasets` saves it.
        target: The file to write; its suffix tells the format. It may be the same file.
        to: The shape to make; None leaves rows as they are.
        shape: The shape that the rows have; None: what the first row's keys tell.
        progress: Is told how many bytes have been read.
        split: Which split of a folder. None if it has only one.

    Returns:
        How many rows were written, at least 1.

    Raises:
        ConfigurationError: Rows of the shape cannot be made.
        DatasetError: A file cannot be read or written, there are no rows, a row has not the shape, or a folder has
            several splits and none is chosen.
    """
    makes = None if to is None else shape_to_make(to)
    table = format_of(files_of(source, split)[0]) in TABLES and (to is not None or format_of(target) not in TABLES)
    rows: Iterable[tuple[int, Mapping[str, Any]]] = read_rows(source, progress=progress, split=split)
    if table:
        rows = ((line, untabled(row)) for line, row in rows)
    if makes is None:
        return write_rows(target, (row for _, row in rows))
    return write_rows(target, convert_rows(rows, makes, shape=None if shape is None else Shape(shape)))


def shape_to_make(to: Shape | str) -> Shape:
    """Return the shape of a name, if rows can be made so.

    Raises:
        ConfigurationError: There is no such shape, or it is only read.
    """
    if to not in MADE:
        made = ", ".join(shape.value for shape in MADE)
        raise ConfigurationError(f"no rows of shape {to!r} are made; use one of {made}")
    return Shape(to)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "role" in item for item in value)


_STRUCTURED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("messages", "tools", "conversations"), lambda value: isinstance(value, list)),
    **dict.fromkeys(("prompt", "completion"), _are_messages),
    **dict.fromkeys(("metadata", "reference_answer", "reward_model", "extra_info"), _is_object),
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
    return inner if _STRUCTURED[name](inner) else value


def _parse_mtrl(row: Mapping[str, Any]) -> _Item:
    column = prompt_column(list(row))
    cell = row[column]
    if not isinstance(cell, str):
        raise DatasetError(f"a prompt is text, not {type(cell).__name__}")
    columns = {name: value for name, value in row.items() if name != column}
    answer = take_answer(columns)
    packed = unpack(cell) if cell.lstrip().startswith("{") else None
    if packed is None or packed.question is None:
        return _Item(cell, answer, columns)
    extras = {**columns, **thaw(packed.visible), **thaw(packed.hidden)}
    answer = answer if packed.ground_truth is None else thaw(packed.ground_truth)
    for name in ("question", "ground_truth") if "question" in extras else ("prompt", "input_seq", "ground_truth"):
        extras.pop(name, None)
    return _Item(thaw(packed.question), answer, extras, [name for name in packed.visible if name in extras])


def _parse_chat(row: Mapping[str, Any]) -> _Item:
    extras = {name: value for name, value in row.items() if name not in ("messages", "reference_answer")}
    messages = row["messages"]
    alone = len(messages) == 1 and messages[0]["role"] == "user" and isinstance(messages[0]["content"], str)
    question = messages[0]["content"] if alone else messages
    return _Item(question, row.get("reference_answer"), extras, ["tools"] if "tools" in extras else [])


def _parse_foreign(shape: str, row: Mapping[str, Any]) -> _Item:
    return _parse_chat(chat_row(row, shape))


def _parse_multiturn(row: Mapping[str, Any]) -> _Item:
    metadata = row["metadata"]
    extras = {"id": row["id"], **{name: metadata[name] for name in ("task", "info") if name in metadata}}
    return _Item(metadata["prompt"], metadata.get("answer"), extras)


def _parse_qa(row: Mapping[str, Any]) -> _Item:
    extras = {name: value for name, value in row.items() if name not in ("question", "answer")}
    return _Item(row["question"], row["answer"], extras)


def _make_mtrl(item: _Item, number: int) -> dict[str, JSON]:
    extras = {name: value for name, value in item.extras.items() if name != "ground_truth"}
    _refuse(extras, "question", "visible")
    visible = ["question", *(name for name in item.visible if name in extras)]
    answer = item.answer if item.answer is not None else item.extras.get("ground_truth")
    if answer is not None and item.extras.get("ground_truth") not in (None, answer):
        extras["reference_answer"], answer = answer, item.extras["ground_truth"]
    if answer is None and not extras and isinstance(item.question, str) and _is_plain(item.question):
        return {"prompt": item.question}
    fields = {"question": item.question, **extras, **({} if answer is None else {"ground_truth": answer})}
    return {"prompt": pack_fields(fields, visible)}


def _is_plain(question: str) -> bool:
    """Return whether a prompt of this text alone reads as the question."""
    try:
        return unpack(question).question is None
    except DatasetError:
        return not question.lstrip().startswith("{")


def _make_bedrock(item: _Item, number: int) -> dict[str, JSON]:
    _refuse(item.extras, "messages")
    row: dict[str, JSON] = {"messages": _messages(item.question)}
    extras = dict(item.extras)
    answer = item.answer
    if "reference_answer" in extras:  # as _make_mtrl puts it, where both are known
        answer, extras["ground_truth"] = extras.pop("reference_answer"), item.answer
    if answer is not None:
        row["reference_answer"] = answer if isinstance(answer, str | dict) else json.dumps(answer)
    return {**row, **extras}


def _make_nova(item: _Item, number: int) -> dict[str, JSON]:
    row = _make_bedrock(item, number)
    return {"id": _id(row.pop("id", None), number), **row}


def _make_multiturn(item: _Item, number: int) -> dict[str, JSON]:
    extras = dict(item.extras)
    metadata: dict[str, JSON] = {"prompt": item.question}
    if item.answer is not None:
        metadata["answer"] = item.answer if isinstance(item.answer, str) else json.dumps(item.answer)
    row_id = _id(extras.pop("id", None), number)
    if "task" in extras:
        metadata["task"] = extras.pop("task")
    info = extras.pop("info", None)
    if extras and not isinstance(info, dict | None):
        extras["info"] = info
        info = None
    if info is not None or extras:
        metadata["info"] = {**info, **extras} if isinstance(info, dict) else extras or info
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


def _messages(question: JSON) -> JSON:
    return [{"role": "user", "content": question}] if isinstance(question, str) else question


def _id(value: JSON, number: int) -> str:
    return value if isinstance(value, str) and value else f"row-{number}" if value is None else json.dumps(value)


_PARSERS: dict[Shape, Callable[[Mapping[str, Any]], _Item]] = {
    Shape.MTRL: _parse_mtrl,
    Shape.BEDROCK: _parse_chat,
    Shape.NOVA: _parse_chat,
    Shape.NOVA_MULTITURN: _parse_multiturn,
    Shape.QA: _parse_qa,
    **{shape: partial(_parse_foreign, shape.value) for shape in (Shape.VERL, Shape.TRL, Shape.SHAREGPT)},
}
_MAKERS: dict[Shape, Callable[[_Item, int], dict[str, JSON]]] = {
    Shape.MTRL: _make_mtrl,
    Shape.BEDROCK: _make_bedrock,
    Shape.NOVA: _make_nova,
    Shape.NOVA_MULTITURN: _make_multiturn,
    Shape.QA: _make_qa,
}
MADE = tuple(_MAKERS)
"""The shapes that rows can be turned into."""
