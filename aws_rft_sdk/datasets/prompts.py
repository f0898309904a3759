"""Reads the prompt column of a dataset, as the service does: the cell verbatim, all other columns ignored."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_rft_sdk.errors import DatasetError

PROMPT_COLUMN = "prompt"

Row = tuple[int, Mapping[str, Any]]
"""Line or row number, from 1, and the columns of the row in their order."""


def read_prompts(path: str | Path) -> Iterator[str]:
    """Read the prompts of a jsonl, json, csv or parquet file, in file order.

    The prompt column is the one named `prompt`, otherwise the first. jsonl, csv and parquet files are streamed.

    Args:
        path: The file; its suffix tells the format.

    Yields:
        Prompt cells, verbatim.

    Raises:
        DatasetError: The file cannot be read, its format is unknown, a row is malformed, a prompt is empty or no
            string, or there are no rows. The message names file and line.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: unknown format {path.suffix!r}; use one of {', '.join(_READERS)}")
    column: str | None = None
    try:
        for line, row in reader(path):
            if column is None:
                column = _prompt_column(path, line, row)
            yield _prompt(path, line, row, column)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if column is None:
        raise DatasetError(f"{path}: no rows")


def _prompt_column(path: Path, line: int, row: Mapping[str, Any]) -> str:
    if not row:
        raise DatasetError(f"{path}, line {line}: the row has no columns", line=line)
    return PROMPT_COLUMN if PROMPT_COLUMN in row else next(iter(row))


def _prompt(path: Path, line: int, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise DatasetError(f"{path}, line {line}: the row has no column {column!r}", line=line)
    prompt = row[column]
    if not isinstance(prompt, str):
        raise DatasetError(
            f"{path}, line {line}: column {column!r} holds {type(prompt).__name__}, and a prompt is a string; "
            "structure goes in as JSON in a string",
            line=line,
        )
    if not prompt.strip():
        raise DatasetError(f"{path}, line {line}: the prompt in column {column!r} is empty", line=line)
    return prompt


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{path}, line {number}: not JSON ({error})", line=number) from error
            yield number, _object(path, number, row)


def _read_json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}, line {error.lineno}: not JSON ({error.msg})", line=error.lineno) from error
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise DatasetError(f"{path}: a .json dataset is an array of objects; one object a line is .jsonl")
    for number, row in enumerate(rows, start=1):
        yield number, _object(path, number, row)


def _object(path: Path, line: int, row: object) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{path}, line {line}: a row is an object, not {type(row).__name__}", line=line)
    return row


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        try:
            for row in rows:
                yield rows.line_num, row
        except csv.Error as error:
            line = rows.line_num + 1  # the reader counts a line once it has understood it
            raise DatasetError(f"{path}, line {line}: not CSV ({error})", line=line) from error


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(f"{path}: parquet needs pyarrow; install aws-rft-sdk[parquet]") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [PROMPT_COLUMN] if PROMPT_COLUMN in names else names[:1]
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowInvalid as error:
        raise DatasetError(f"{path}: not a parquet file ({error})") from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
