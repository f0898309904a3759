"""Reads the prompt column of a dataset, as the service does: the cell verbatim, all other columns ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from aws_rft_sdk.datasets._text import is_blank
from aws_rft_sdk.datasets.files import read_rows
from aws_rft_sdk.errors import DatasetError

PROMPT_COLUMN = "prompt"


def prompt_column(names: Sequence[str]) -> str:
    """Return the column that the service reads: the one named `prompt`, otherwise the first."""
    return PROMPT_COLUMN if PROMPT_COLUMN in names else names[0]


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
