"""Reads csv files row by row, and says of each row where it begins and what is odd about it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from aws_rft_sdk.errors import DatasetError

Note = Callable[[str, int, str], None]
"""Takes a rule that is broken, the line, and the problem. Reading goes on if it returns."""

_EVERY = 1024
_LONGEST_CELL = 1 << 26
"""Characters. More than any model's sequence, and a bound for what is read where a quote is not closed."""


def read_csv(
    path: Path, note: Note, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield rows, each with the line where it begins: a cell in quotes may go over several.

    A row of another length than the header is noted, and yielded with the cells that have a column.

    Raises:
        DatasetError: From here on the text is not CSV.
    """
    # The limit is the process's, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with (
        path.open("rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        reader = csv.reader(_decoded(text, note), strict=True)
        names: list[str] = []
        line = 1
        try:
            for number, cells in enumerate(reader):
                begin, line = line, reader.line_num + 1
                if progress is not None and number % _EVERY == 0:
                    progress(raw.tell())
                if not cells:
                    note("row-blank", begin, "the line is blank")
                elif not names:
                    names = cells
                    _header(names, begin, note)
                else:
                    if len(cells) != len(names):
                        note("row-cells", begin, f"{_cells(len(cells))}, and the header has {len(names)}")
                    yield begin, dict(zip(names, cells, strict=False))
        except csv.Error as error:
            problem = f"not CSV ({error}); look at the quotes of the row that begins here"
            raise DatasetError(f"{path}, line {line}: {problem}", line=line) from error


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _decoded(lines: TextIO, note: Note) -> Iterator[str]:
    """Yield lines, with U+FFFD in place of what is not UTF-8."""
    for number, line in enumerate(lines, start=1):
        if not line.isascii() and (start := undecoded(line)):
            note("row-encoding", number, f"byte {start} of the line is not UTF-8")
            yield line.encode(errors="surrogateescape").decode(errors="replace")
            continue
        yield line


def undecoded(line: str) -> int:
    """Return which byte of a line, from 1, is not UTF-8; 0 where all are.

    Args:
        line: As read with `errors="surrogateescape"`.
    """
    try:
        line.encode()
    except UnicodeEncodeError as error:
        return len(line[: error.start].encode()) + 1
    return 0


def _header(names: list[str], line: int, note: Note) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            note("header-repeated", line, f"{count} columns are called {name!r}")
        elif not name.strip():
            note("header-empty", line, f"column {names.index(name) + 1} has no name")
    if len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in names[0]), None)):
        note("file-delimiter", line, f"the header is one cell, {names[0]!r}, with {mark!r} in it")
