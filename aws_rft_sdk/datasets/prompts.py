"""Reads the prompt column of a dataset, as the service does: the cell verbatim, all other columns ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from aws_rft_sdk.datasets._text import is_blank
from aws_rft_sdk.datasets.files import read_rows
from aws_rft_sdk.errors import DatasetError

PROMPT_COLUMN = "prompt"


def prompt_column(names: Sequence[str]) -> str:
    """Return the column that the service reads: the one named `prompt`, otherwise the first."""
    return PROMPT_COLUMN if PROMPT_COLUMN in names else names[0]


def read_prompts(path: str | Path) -> Iterator[str]:
    """Read the prompts of a jsonl, json, csv or parquet file, in file order.

    The prompt column is the one named `prompt`, otherwise the first. Files are streamed.

    Args:
        path: The file; its suffix tells the format.

    Yields:
        Prompt cells, verbatim.

    Raises:
        DatasetError: The file cannot be read, its format is unknown, a row is malformed, a prompt is empty or no
            string, or there are no rows. The message names file and line.
    """
    path = Path(path)
    column: str | None = None
    for line, row in read_rows(path, choose=lambda names: [prompt_column(names)] if names else []):
        if column is None:
            if not row:
                raise DatasetError(f"{path}, line {line}: the row has no columns", line=line)
            column = prompt_column(list(row))
        yield _prompt(path, line, row, column)
    if column is None:
        raise DatasetError(f"{path}: no rows")


def _prompt(path: Path, line: int, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise DatasetError(f"{path}, line {line}: the row has no column {column!r}", line=line)
    prompt = row[column]
    if not isinstance(prompt, str):
        raise DatasetError(
            f"{path}, line {line}: column {column!r} holds {type(prompt).__name__}, and a prompt is a string; to write "
            f"structure as JSON in a string: aws-rft dataset convert {quote(str(path))} prompts.jsonl --to mtrl",
            line=line,
        )
    if is_blank(prompt):
        raise DatasetError(f"{path}, line {line}: the prompt in column {column!r} is empty", line=line)
    return prompt
