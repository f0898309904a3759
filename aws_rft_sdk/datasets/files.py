"""Reads and writes rows of jsonl, json, csv and parquet files; reads arrow files and folders of files too."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, TextIO

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._arrow import Choose, read_table, write_parquet
from aws_rft_sdk.datasets._csv import read_csv
from aws_rft_sdk.datasets._storage import TEXTS, Progress, byte_order_mark, files_of, format_of, is_gzip, open_bytes
from aws_rft_sdk.errors import DatasetError

Row = tuple[int, Mapping[str, Any]]
"""Where a row is, from 1, and its columns in their order. In a jsonl or csv file, where is the line at which the row
begins. In any other file, it is the number of the row."""

_BUFFER = 1 << 20
_LARGEST_ARRAY = 1 << 30
"""Bytes of JSON in a .json file, which is read as a whole."""


def read_rows(
    path: str | Path,
    *,
    choose: Choose | None = None,
    progress: Progress | None = None,
    split: str | None = None,
) -> Iterator[Row]:
    """Read a file, or a split of a folder, row by row and in order.

    Cells of a csv file are strings. Cells of a parquet or arrow file are what they are there. Blank lines of a jsonl or
    csv file are passed over. A csv row of another length than the header is malformed. A csv file whose header has no
    comma but a semicolon, a tab or a bar is read with that delimiter. A .json file is held in memory.

    Args:
        path: The file, whose suffix tells the format, or a folder as `files_of` takes it.
        choose: For parquet, makes the columns to read out of all there are; None for all. Other formats ignore it.
        progress: Is told how many bytes have been read.
        split: Which split of a folder. None if it has only one.

    Yields:
        Line or row number in its file, and the row.

    Raises:
        DatasetError: A file cannot be read, its format is unknown, or a row is malformed. `.line` says where.
    """
    done = 0

    def told(read: int) -> None:
        if progress is not None:
            progress(done + read)

    for file in files_of(path, split):
        suffix = format_of(file)
        try:
            if suffix in TEXTS and byte_order_mark(file) == "utf-16":
                raise DatasetError(f"{file}: the file is UTF-16; save it as UTF-8", line=1)
            yield from _READERS[suffix](file, choose, told)
            done += file.stat().st_size
        except OSError as error:
            raise DatasetError(f"{file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise DatasetError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error


_HINTS = {
    "{": "; write each object on one line: jq -c . {} > rows.jsonl",
    "[": "; a file that is one array must end in .json",
}


def _read_jsonl(path: Path, progress: Progress | None) -> Iterator[Row]:
    with open_bytes(path, progress) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                hint = _HINTS.get(line.strip(), "").format(quote(str(path)))
                raise DatasetError(f"{path}, line {number}: not JSON ({error}){hint}", line=number) from error
            yield number, _object(path, number, row)


def read_json(
    path: Path, *, progress: Progress | None = None, decoder: json.JSONDecoder | None = None
) -> Iterator[Row]:
    """Read a .json file as `read_rows` does, with a decoder of one's own. The array is held in memory."""
    pieces: list[bytes] = []
    with open_bytes(path, progress) as file:
        while piece := file.read(_BUFFER):
            pieces.append(piece)
            if len(pieces) * _BUFFER > _LARGEST_ARRAY:
                raise DatasetError(
                    f"{path}: an array above 1 GiB is not read as a whole; write one object a line: "
                    f"jq -c '.[]' {quote(str(path))} > rows.jsonl"
                )
    text = b"".join(pieces).decode("utf-8-sig")
    if not text.lstrip().startswith("["):
        problem = (
            "starts with something else; a file of one object a line must end in .jsonl" if text.strip() else "is empty"
        )
        raise DatasetError(f"{path}: a .json dataset is an array of objects, and this file {problem}")
    try:
        rows = (decoder or json.JSONDecoder()).decode(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}, line {error.lineno}: not JSON ({error.msg})", line=error.lineno) from error
    except (ValueError, RecursionError) as error:  # numbers or nesting that Python refuses to read
        raise DatasetError(f"{path}: not JSON that can be read ({error})", line=1) from error
    for number, row in enumerate(rows, start=1):
        yield number, _object(path, number, row)


def _object(path: Path, line: int, row: object) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        hint = _HINTS["["] if isinstance(row, list) else ""
        raise DatasetError(f"{path}, line {line}: a row is an object, not {type(row).__name__}{hint}", line=line)
    return row


_PASSED_OVER = frozenset({"row-blank", "header-empty", "file-delimiter"})
"""Odd things in a csv file that leave no doubt about its rows."""


def _read_csv(path: Path, progress: Progress | None) -> Iterator[Row]:
    def note(rule: str, line: int, problem: str) -> None:
        if rule not in _PASSED_OVER:
            raise DatasetError(f"{path}, line {line}: {problem}", line=line)

    yield from read_csv(path, note, progress)


_READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".jsonl": lambda path, choose, progress: _read_jsonl(path, progress),
    ".json": lambda path, choose, progress: read_json(path, progress=progress),
    ".csv": lambda path, choose, progress: _read_csv(path, progress),
    ".parquet": read_table,
    ".arrow": read_table,
}


def write_rows(path: str | Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    """Write rows to a file, which appears, or is replaced, when the last row is written.

    In csv and parquet, an object or an array is written as JSON text, since their cells hold no structure. In csv,
    numbers and booleans are JSON text too, and None is an empty cell. Rows of these two are held in memory.

    Args:
        path: The file; its suffix tells the format. A name that ends in .gz is compressed.
        rows: JSON objects.

    Returns:
        How many rows were written, at least 1.

    Raises:
        DatasetError: There are no rows, the file cannot be written, its format is unknown, or a row does not fit it.
            What stood under this name before stands there still.
    """
    path = Path(path)
    suffix = format_of(path)
    if suffix not in _WRITERS:
        raise DatasetError(f"{path}: {suffix} files are only read; write .parquet")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        try:
            count = _WRITERS[suffix](part, path, rows)
            if not count:
                raise DatasetError(f"{path}: not written, since there are no rows to write")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    return count


@contextlib.contextmanager
def _text_file(part: Path, path: Path, newline: str) -> Iterator[TextIO]:
    with contextlib.ExitStack() as stack:
        raw: io.BufferedWriter | gzip.GzipFile = stack.enter_context(part.open("wb"))
        if is_gzip(path):  # without name and time, so that equal rows make equal files
            raw = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0))
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=newline))


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
    with _text_file(part, path, "\n") as file:
        for count, row in enumerate(rows, start=1):
            file.write(encode_row(path, count, row) + "\n")
    return count


def _write_json(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    count = 0
    with _text_file(part, path, "\n") as file:
        for count, row in enumerate(rows, start=1):
            file.write(("[\n" if count == 1 else ",\n") + encode_row(path, count, row))
        file.write("\n]\n")
    return count


def _write_csv(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    kept = list(rows)
    with _text_file(part, path, "") as file:
        writer = csv.DictWriter(file, _names(kept))
        writer.writeheader()
        for number, row in enumerate(kept, start=1):
            try:
                writer.writerow({name: _cell(value) for name, value in row.items()})
            except UnicodeEncodeError as error:
                raise DatasetError(f"{path}: row {number} is no UTF-8 text ({error.reason})", line=number) from error
    return len(kept)


def _write_parquet(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    kept = list(rows)
    if kept:
        write_parquet(part, path, {name: [_flat(row.get(name)) for row in kept] for name in _names(kept)})
    return len(kept)


def _names(rows: list[Mapping[str, JSON]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


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
