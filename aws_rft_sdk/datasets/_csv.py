"""Reads csv files row by row, and says of each row where it begins and what is odd about it."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from aws_rft_sdk.datasets._storage import Progress, open_bytes
from aws_rft_sdk.errors import DatasetError

Note = Callable[[str, int, str], None]
"""Takes a rule that is broken, the line, and the problem. Reading goes on if it returns."""

_LONGEST_CELL = 1 << 26
"""Characters. More than any model's sequence, and a bound for what is read where a quote is not closed."""
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_NO_HEADER = re.compile(r"[\r\n]*$|sep=.\s*$", re.IGNORECASE)
"""A blank line, or one that only Excel reads."""
_QUOTED = re.compile(r'"[^"]*"')


def read_csv(path: Path, note: Note, progress: Progress | None = None) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield rows, each with the line where it begins: a cell in quotes may go over several.

    If the header has no comma, but semicolons, tabs or bars, that is noted, and they divide the cells. A row of another
    length than the header is noted, and yielded with the cells that have a column. Text that is not CSV from some line
    on is a DatasetError.
    """
    # The limit is the process's, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with (
        open_bytes(path, progress) as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        lines = _decoded(text, note)
        head = []  # up to the header
        for first in lines:
            head.append(first)
            if not _NO_HEADER.match(first):
                break
            head[-1] = "\n"
        delimiter = _delimiter(path, "".join(head[-1:]), len(head), note)
        reader = csv.reader(itertools.chain(head, lines), delimiter=delimiter, strict=True)
        names: list[str] = []
        line = 1
        try:
            for cells in reader:
                begin, line = line, reader.line_num + 1
                if not cells:
                    note("row-blank", begin, "the line is blank")
                elif not names:
                    names = cells
                    _check_header(names, begin, note)
                else:
                    if len(cells) != len(names):
                        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                        note("row-cells", begin, f"{count}, and the header has {len(names)}")
                    yield begin, dict(zip(names, cells, strict=False))
        except csv.Error as error:
            problem = f"not CSV ({error}); look at the quotes of the row that begins here"
            raise DatasetError(f"{path}, line {line}: {problem}", line=line) from error


def _delimiter(path: Path, header: str, line: int, note: Note) -> str:
    bare = _QUOTED.sub("", header)
    marks = [mark for mark in _DELIMITERS if mark in bare]
    if "," in bare or not marks:
        return ","
    names = " or ".join(f"{_DELIMITERS[mark]} ({mark!r})" for mark in marks)
    if len(marks) > 1:
        problem = f"the cells may be divided by {names}; save them with commas"
        raise DatasetError(f"{path}, line {line}: {problem}", line=line)
    note("file-delimiter", line, f"the cells are divided by {names}, not by commas")
    return marks[0]


def _decoded(lines: Iterable[str], note: Note) -> Iterator[str]:
    """Yield lines that were read with surrogateescape, with U+FFFD for what is not UTF-8."""
    for number, line in enumerate(lines, start=1):
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                start = len(line[: error.start].encode()) + 1
                note("row-encoding", number, f"byte {start} of the line is not UTF-8")
                line = line.encode(errors="surrogateescape").decode(errors="replace")
        yield line


def _check_header(names: list[str], line: int, note: Note) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            note("header-repeated", line, f"{count} columns are called {name!r}")
        elif not name.strip():
            note("header-empty", line, f"column {names.index(name) + 1} has no name")
