"""Reads and writes rows of jsonl, json, csv and parquet files; reads arrow files and folders of files too."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from shlex import quote
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._arrow import Choose, read_table, write_parquet
from aws_rft_sdk.datasets._csv import read_csv
from aws_rft_sdk.datasets._storage import TEXTS, Progress, byte_order_mark, create_text, files_of, format_of, open_bytes
from aws_rft_sdk.errors import DatasetError

Row = tuple[int, Mapping[str, Any]]
"""Where a row is, from 1, and its columns in their order. In a jsonl or csv file, where is the line at which the row
begins. In any other file, it is the number of the row."""

_BUFFER = 1 << 20
_LARGEST_ARRAY = 1 << 30
"""Bytes of JSON in a .json file, which is read as a whole."""
_HINTS = {
    "{": "; write each object on one line: jq -c . {} > rows.jsonl",
    "[": "; a file that is one array must end in .json",
}


def read_rows(
    path: str | Path, *, choose: Choose | None = None, progress: Progress | None = None, split: str | None = None
) -> Iterator[Row]:
    """Read a file, or a split of a folder, row by row and in order. A .json file is held in memory.

    Cells of a csv file are strings. Blank lines are passed over. A csv file whose header has no comma but a semicolon,
    a tab or a bar is read with it.

    Args:
        path: The file, whose suffix tells the format, or a folder as `files_of` takes it.
        choose: For parquet and arrow, makes the columns to read out of all there are. None: all.
        progress: Is told how many bytes have been read.
        split: Which split of a folder. None if it has only one.

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
            yield from _READERS[suffix](file, told) if suffix in TEXTS else read_table(file, choose, told)
            done += file.stat().st_size
        except OSError as error:
            raise DatasetError(f"{file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise DatasetError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _read_jsonl(path: Path, progress: Progress | None) -> Iterator[Row]:
    with open_bytes(path, progress) as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                hint = _HINTS.get(line.strip(), "").format(quote(str(path)))
                raise DatasetError(f"{path}, line {number}: not JSON ({error}){hint}", line=number) from error
            yield number, _object(path, number, row)


def read_json(path: Path, progress: Progress | None = None, decoder: json.JSONDecoder | None = None) -> Iterator[Row]:
    """Read a .json file as `read_rows` does, with a decoder of one's own. The array is held in memory."""
    data = bytearray()
    with open_bytes(path, progress) as file:
        while piece := file.read(_BUFFER):
            data += piece
            if len(data) > _LARGEST_ARRAY:
                jq = f"jq -c '.[]' {quote(str(path))} > rows.jsonl"
                raise DatasetError(f"{path}: an array above 1 GiB is not read; write one object a line: {jq}")
    text = data.decode("utf-8-sig")
    if not text.lstrip().startswith("["):
        problem = "is another; one object a line must end in .jsonl" if text.strip() else "is empty"
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


def _read_csv(path: Path, progress: Progress | None) -> Iterator[Row]:
    def note(rule: str, line: int, problem: str) -> None:
        if rule not in ("row-blank", "header-empty", "file-delimiter"):  # with these the rows can still be read
            raise DatasetError(f"{path}, line {line}: {problem}", line=line)

    return read_csv(path, note, progress)


def write_rows(path: str | Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    """Write rows to a file, which appears, or is replaced, when the last row is written.

    The suffix of `path` tells the format. A file whose name ends in .gz is compressed. Cells of csv and parquet hold no
    structure: an object or an array is written as JSON text, in csv a number too, and None is an empty cell there. Rows
    of these two are held in memory.

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


def _write_json(begin: str, between: str, end: str, part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    count = 0
    with create_text(part, path) as file:
        for count, row in enumerate(rows, start=1):
            file.write((between if count > 1 else begin) + _encode(path, count, row))
        file.write(end)
    return count


def _encode(path: Path, number: int, value: object) -> str:
    """Return one line of JSON that UTF-8 can hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)  # half a surrogate pair can only be written escaped
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: row {number} is not JSON ({error})", line=number) from error
    return text


def _write_csv(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    names, cells = _table(path, rows, lambda value: value is None or isinstance(value, str))
    with create_text(part, path) as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for number, row in enumerate(cells, start=1):
            try:
                writer.writerow(row)
            except UnicodeEncodeError as error:
                raise DatasetError(f"{path}: row {number} is no UTF-8 text ({error.reason})", line=number) from error
    return len(cells)


def _write_parquet(part: Path, path: Path, rows: Iterable[Mapping[str, JSON]]) -> int:
    names, cells = _table(path, rows, lambda value: not isinstance(value, dict | list))
    if cells:
        write_parquet(part, path, {name: [row.get(name) for row in cells] for name in names})
    return len(cells)


def _table(
    path: Path, rows: Iterable[Mapping[str, JSON]], is_cell: Callable[[object], bool]
) -> tuple[list[str], list[dict[str, JSON]]]:
    """Return the names of all columns, and the rows. JSON text replaces every value that is no cell."""
    cells = [
        {name: value if is_cell(value) else _encode(path, number, value) for name, value in row.items()}
        for number, row in enumerate(rows, start=1)
    ]
    return list(dict.fromkeys(name for row in cells for name in row)), cells


_READERS: dict[str, Callable[[Path, Progress], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": read_json,
    ".csv": _read_csv,
}
_WRITERS: dict[str, Callable[[Path, Path, Iterable[Mapping[str, JSON]]], int]] = {
    ".jsonl": partial(_write_json, "", "\n", "\n"),
    ".json": partial(_write_json, "[\n", ",\n", "\n]\n"),
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
