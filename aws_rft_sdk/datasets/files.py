"""Reads and writes rows of jsonl, json, csv and parquet files, a few in memory at a time."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._csv import read_csv
from aws_rft_sdk.datasets._json_array import ArrayError, read_array
from aws_rft_sdk.datasets._parquet import ParquetTarget, read_parquet
from aws_rft_sdk.errors import DatasetError

Row = tuple[int, Mapping[str, Any]]
"""Where a row is, from 1, and its columns in their order: in a jsonl or csv file the line where it begins, in a json or
parquet file its number."""

Progress = Callable[[int], None]
"""Is told now and then how many bytes of a file have been read."""

TABLES = (".csv", ".parquet")
"""Formats whose cells hold no structure: objects and arrays stand in them as JSON text."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_EVERY = 1024
_BATCH = 4096


def format_of(path: str | Path) -> str:
    """Return the suffix of a file whose format is known.

    Raises:
        DatasetError: It is none of .jsonl, .json, .csv, .parquet.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise DatasetError(f"{path}: unknown format {Path(path).suffix!r}; use one of {', '.join(_READERS)}")
    return suffix


def read_rows(
    path: str | Path,
    *,
    choose: Callable[[Sequence[str]], Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> Iterator[Row]:
    """Read a file row by row, in file order.

    Cells of a csv file are strings; of a parquet file what they are there. Blank lines of a jsonl or csv file are
    passed over. A csv row of another length than the header is malformed.

    Args:
        path: The file; its suffix tells the format.
        choose: For parquet, makes the columns to read out of all there are; None for all. Other formats ignore it.
        progress: Is told how many bytes have been read.

    Yields:
        Line or row number, and the row.

    Raises:
        DatasetError: The file cannot be read, its format is unknown, or a row is malformed. `.line` says where.
    """
    path = Path(path)
    reader = _READERS[format_of(path)]
    try:
        if reader is read_parquet:
            yield from read_parquet(path, choose, progress)
        elif byte_order_mark(path) == "utf-16":
            raise DatasetError(f"{path}: the file is UTF-16; save it as UTF-8", line=1)
        else:
            yield from reader(path, progress=progress)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def byte_order_mark(path: Path) -> str:
    """Return which encoding the first bytes of a file tell of: utf-8, utf-16, or, empty, none.

    Raises:
        DatasetError: It is a pipe, whose first bytes would be lost to the next reader.
    """
    if path.is_fifo():
        raise DatasetError(f"{path}: a pipe can be read only once; write it to a file first")
    with path.open("rb") as file:
        first = file.read(3)
    return "utf-8" if first == codecs.BOM_UTF8 else "utf-16" if first[:2] in _UTF16 else ""


def _read_jsonl(path: Path, *, progress: Progress | None = None) -> Iterator[Row]:
    done = 0
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if progress is not None:
                done += len(line)  # of text in Latin letters characters are bytes, near enough for a bar
                if number % _EVERY == 0:
                    progress(done)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{path}, line {number}: not JSON ({error})", line=number) from error
            yield number, _object(path, number, row)


def read_json(
    path: Path, *, progress: Progress | None = None, decoder: json.JSONDecoder | None = None
) -> Iterator[Row]:
    """Read a .json file as `read_rows` does, with a decoder of one's own."""
    with path.open("rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
        try:
            for number, row in enumerate(read_array(file, decoder), start=1):
                if progress is not None and number % _EVERY == 0:
                    progress(raw.tell())
                yield number, _object(path, number, row)
        except ArrayError as error:
            if str(error) == "no array":
                raise DatasetError(
                    f"{path}: a .json dataset is an array of objects; one object a line is .jsonl"
                ) from error
            raise DatasetError(f"{path}, line {error.line}: {error}", line=error.line) from error


def _object(path: Path, line: int, row: object) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{path}, line {line}: a row is an object, not {type(row).__name__}", line=line)
    return row


_PASSED_OVER = frozenset({"row-blank", "header-empty", "file-delimiter"})
"""Odd things in a csv file that leave no doubt about its rows."""


def _read_csv(path: Path, *, progress: Progress | None = None) -> Iterator[Row]:
    def note(rule: str, line: int, problem: str) -> None:
        if rule not in _PASSED_OVER:
            raise DatasetError(f"{path}, line {line}: {problem}", line=line)

    yield from read_csv(path, note, progress)


_READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": read_json,
    ".csv": _read_csv,
    ".parquet": read_parquet,
}


def write_rows(path: str | Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    """Write rows to a file, which appears, or is replaced, when the last row is written.

    In csv and parquet, an object or an array is written as JSON text, since their cells hold no structure; in csv,
    so are numbers and booleans, and None is an empty cell. The columns are those of the first 4,096 rows.

    Args:
        path: The file; its suffix tells the format.
        rows: JSON objects.

    Returns:
        How many rows were written. 0 writes an empty file, except parquet, which has no columns then and is refused.

    Raises:
        DatasetError: The file cannot be written, its format is unknown, or a row does not fit it. What stood under
            this name before stands there still.
    """
    path = Path(path)
    suffix = format_of(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        try:
            count = _WRITERS[suffix](part, path, rows)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    return count


def encode_row(path: Path, number: int, row: Mapping[str, JSON]) -> str:
    """Return one line of JSON that UTF-8 can hold.

    Raises:
        DatasetError: A value is not JSON, NaN and infinities included.
    """
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: row {number} is not JSON ({error})", line=number) from error
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)  # half a surrogate pair can only be written escaped
    return text


def _write_jsonl(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    count = 0
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for count, row in enumerate(rows, start=1):
            file.write(encode_row(path, count, row) + "\n")
    return count


def _write_json(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    count = 0
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for count, row in enumerate(rows, start=1):
            file.write(("[\n" if count == 1 else ",\n") + encode_row(path, count, row))
        file.write("\n]\n" if count else "[]\n")
    return count


def _write_csv(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    count = 0
    with part.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for columns, batch in _batches(path, rows):
            if writer is None:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
            for row in batch:
                count += 1
                try:
                    writer.writerow({name: _cell(value) for name, value in row.items()})
                except UnicodeEncodeError as error:
                    raise DatasetError(f"{path}: row {count} is no UTF-8 text ({error.reason})", line=count) from error
    return count


def _write_parquet(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    count = 0
    with contextlib.closing(ParquetTarget(part, path)) as target:
        for columns, batch in _batches(path, rows):
            count += len(batch)
            target.write(columns, [{name: _flat(value) for name, value in row.items()} for row in batch])
    if not count:
        raise DatasetError(f"{path}: no rows, so a parquet file would have no columns")
    return count


def _batches(path: Path, rows: Iterable[Mapping[str, JSON]]) -> Iterator[tuple[list[str], list[Mapping[str, JSON]]]]:
    columns: dict[str, None] | None = None
    iterator, done = iter(rows), 0
    while batch := list(itertools.islice(iterator, _BATCH)):
        if columns is None:
            columns = dict.fromkeys(name for row in batch for name in row)
        for number, row in enumerate(batch, start=done + 1):
            if not row.keys() <= columns.keys():
                new = ", ".join(map(repr, row.keys() - columns.keys()))
                raise DatasetError(f"{path}: row {number} has a column that no row had before: {new}", line=number)
        done += len(batch)
        yield list(columns), batch


def _flat(value: JSON) -> JSON:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _cell(value: JSON) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_WRITERS: dict[str, Callable[[Path, Path, Iterable[Mapping[str, JSON]]], int]] = {
    ".jsonl": _write_jsonl,
    ".json": _write_json,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
