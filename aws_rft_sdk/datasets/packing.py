"""Prompt cells: reading their column as the service does, and structure in a cell.

A packed cell is a JSON object as text. The handler gets all of it, the model what `visible` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from aws_rft_sdk._frozen import JSON, FrozenDict
from aws_rft_sdk.datasets._text import is_blank
from aws_rft_sdk.datasets.files import read_rows
from aws_rft_sdk.errors import ConfigurationError, DatasetError

_QUESTIONS = ("question", "prompt", "input_seq")
"""Keys that hold the question in cells of other makers, which name nothing visible."""


@dataclass(frozen=True)
class Packed:
    """A prompt cell, unpacked. As a string it is the question, so that a slip shows the model nothing hidden."""

    visible: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """What a model may see."""
    hidden: Mapping[str, JSON] = field(default_factory=FrozenDict, repr=False)
    """What only the handler may see."""

    @property
    def question(self) -> JSON:
        """The question: text, or a list of messages. None when the cell has none."""
        return next((self.visible[name] for name in _QUESTIONS if name in self.visible), None)

    @property
    def ground_truth(self) -> JSON:
        """What a reward compares with: `ground_truth`, or that of `reward_model` or `reward_spec`. None if absent."""
        holders = (self.hidden, self.hidden.get("reward_model"), self.hidden.get("reward_spec"))
        return next((it["ground_truth"] for it in holders if isinstance(it, Mapping) and "ground_truth" in it), None)

    def __str__(self) -> str:
        question = self.question
        return question if isinstance(question, str) else json.dumps(question, ensure_ascii=False)


def pack(*, question: JSON, ground_truth: JSON = None, visible: Sequence[str] = ("question",), **fields: JSON) -> str:
    """Write a prompt cell. Only the model is kept from the other fields: the dataset and the traces of a job show them.

    Args:
        question: What the model is asked: text, or a list of messages.
        ground_truth: What a reward compares with. None leaves it out.
        visible: Names of the fields that the model may see; the question is among them in any case.
        **fields: Whatever else the handler needs.

    Raises:
        ConfigurationError: ground_truth is to be visible, or a visible name is no field.
        DatasetError: A value is not JSON.
    """
    named: dict[str, JSON] = {"question": question, **fields}
    if ground_truth is not None:
        named["ground_truth"] = ground_truth
    names = ["question", *([visible] if isinstance(visible, str) else visible)]
    if "ground_truth" in names:
        raise ConfigurationError("the ground truth is not for the model to see")
    if unknown := [name for name in names if name not in named]:
        raise ConfigurationError(f"visible names {unknown[0]!r}, and there is no such field")
    shown = {name: value for name, value in named.items() if name in names}
    try:
        return json.dumps({**shown, **named, "visible": list(shown)}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"a packed value is not JSON ({error})") from error


def unpack(cell: str) -> Packed:
    """Read a prompt cell. Of a JSON object that names nothing visible, only `question`, `prompt` or `input_seq` is.

    Raises:
        DatasetError: The cell is no JSON object.
    """
    try:
        fields = json.loads(cell)
        if not isinstance(fields, dict):
            raise ValueError(f"a JSON {type(fields).__name__}, not an object")
        names = fields.pop("visible", None)
        if names is None:
            names = [name for name in _QUESTIONS if name in fields][:1]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("`visible` is no list of names")
        shown = FrozenDict((name, fields[name]) for name in fields if name in names and name != "ground_truth")
        return Packed(shown, FrozenDict((name, fields[name]) for name in fields if name not in shown))
    except json.JSONDecodeError as error:
        raise DatasetError(f"the prompt is no packed cell: not JSON ({error})") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"the prompt is no packed cell: {error}") from error


def prompt_column(names: Sequence[str]) -> str:
    """Return the column that the service reads: the one named `prompt`, otherwise the first."""
    return "prompt" if "prompt" in names else names[0]


def read_prompts(path: str | Path) -> Iterator[str]:
    """Yield the prompt cells of a file, verbatim and in order: the column named `prompt`, otherwise the first.

    Raises:
        DatasetError: The file cannot be read, its format is unknown, a row is malformed, a prompt is empty or no
            string, or there are no rows. The message names file and line.
    """
    column: str | None = None
    for line, row in read_rows(path, choose=lambda names: [prompt_column(names)] if names else []):
        if column is None and row:
            column = prompt_column(list(row))
        prompt = None if column is None else row.get(column)
        if isinstance(prompt, str) and not is_blank(prompt):
            yield prompt
            continue
        if column is None:
            problem = "the row has no columns"
        elif column not in row:
            problem = f"the row has no column {column!r}"
        elif isinstance(prompt, str):
            problem = f"the prompt in column {column!r} is empty"
        else:
            command = f"aws-rft dataset convert {quote(str(path))} prompts.jsonl --to mtrl"
            problem = f"column {column!r} holds {type(prompt).__name__}, and a prompt is a string; type: {command}"
        raise DatasetError(f"{path}, line {line}: {problem}", line=line)
    if column is None:
        raise DatasetError(f"{path}: no rows")
