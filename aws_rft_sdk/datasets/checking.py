"""Checks a dataset by every rule of its target, all problems in one pass."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from aws_rft_sdk.datasets._checkers import ChatRows, MultiturnRows, Rows
from aws_rft_sdk.datasets._csv import read_csv, undecoded
from aws_rft_sdk.datasets._prompt_rows import NotFinite, PromptRows, scan
from aws_rft_sdk.datasets._storage import TABLES, Progress, byte_order_mark, format_of, is_gzip, open_bytes
from aws_rft_sdk.datasets._text import show
from aws_rft_sdk.datasets.files import read_json, read_rows
from aws_rft_sdk.datasets.report import Findings, Report
from aws_rft_sdk.datasets.rules import RULES, Target
from aws_rft_sdk.datasets.shapes import untabled
from aws_rft_sdk.errors import ConfigurationError, DatasetError

MIN_ROWS, MAX_ROWS = 100, 20_000
DEFAULT_BATCH = {Target.MTRL: 128}
"""Batch size of a job that sets none, for targets where that is known."""
DEFAULT_MAX_TOKENS = {Target.MTRL: 32_768, Target.BEDROCK: 8192, Target.NOVA: 8192, Target.NOVA_MULTITURN: 10_240}
"""Tokens of a sequence: the smallest model's, or what a job takes that sets nothing."""

_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


def check(
    path: str | Path,
    target: Target | str,
    *,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    require_reference: bool = True,
    ignore: Collection[str] = (),
    keep: int = 1000,
    progress: Progress | None = None,
) -> Report:
    """Check a dataset by every rule of its target.

    The file is read once, and a few bytes of each row are kept, so that it may be larger than memory.

    Args:
        path: A jsonl, json, csv or parquet file.
        target: What it is for.
        batch_size: Prompts of a training step. None: 128 for mtrl; others are not checked against it.
        max_tokens: Tokens that a prompt may have. None: 32,768 for mtrl, 10,240 for nova-multiturn, otherwise 8,192.
        require_reference: Whether each row for Bedrock and Nova needs a reference_answer.
        ignore: Ids of rules that are not checked.
        keep: How many problems of each rule are described; all are counted.
        progress: Is told how many bytes have been read.

    Returns:
        All problems, of no rule more than `keep`.

    Raises:
        ConfigurationError: The target or a rule to ignore is unknown, or a number is below 1.
        DatasetError: The file cannot be opened, its format is unknown, or pyarrow is missing for parquet.
    """
    path = Path(path)
    target = _target(target)
    if unknown := sorted(set(ignore) - RULES.keys()):
        raise ConfigurationError(f"no rule is called {', '.join(unknown)}")
    if batch_size is None:
        batch_size = DEFAULT_BATCH.get(target)
    limit = max_tokens if max_tokens is not None else DEFAULT_MAX_TOKENS[target]
    if limit < 1 or keep < 1 or (batch_size is not None and batch_size < 1):
        raise ConfigurationError("batch_size, max_tokens and keep are at least 1")
    suffix = format_of(path)
    findings = Findings(target, ignore, keep)
    if suffix != ".jsonl" or is_gzip(path):
        findings.add("file-format", None, "", f"a {path.suffix.lower()} file, and only jsonl is taken")
    rows = _rows(target, findings, limit, require_reference)
    try:
        count = _check_file(path, suffix, rows, progress)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    rows.finish()
    if count is not None:
        _count(count, batch_size, findings)
    return findings.report(str(path), count or 0, rows.longest_tokens)


def _target(target: Target | str) -> Target:
    try:
        return Target(target)
    except ValueError as error:
        raise ConfigurationError(f"no target {target!r}; use {', '.join(item.value for item in Target)}") from error


def _rows(target: Target, findings: Findings, max_tokens: int, require_reference: bool) -> Rows:
    if target is Target.MTRL:
        return PromptRows(findings, max_tokens)
    if target is Target.NOVA_MULTITURN:
        return MultiturnRows(findings, max_tokens)
    return ChatRows(findings, max_tokens, target, require_reference)


def _check_file(path: Path, suffix: str, rows: Rows, progress: Progress | None) -> int | None:
    """Check all rows; return how many there are, None when none of them can be told from another."""
    mark = byte_order_mark(path)
    if mark == "utf-16":
        rows.findings.add("file-broken", 1, "", "the file is UTF-16; save it as UTF-8")
        return None
    if mark:
        rows.findings.add("file-bom", 1, "", "the file begins with a byte order mark")
    return _check_lines(path, rows, progress) if suffix == ".jsonl" else _check_rows(path, rows, progress)


def _check_lines(path: Path, rows: Rows, progress: Progress | None) -> int:
    """Check a jsonl file; a bad line does not end it. This loop is what the speed of a check is made of."""
    add, check_row = rows.findings.add, rows.row
    number = count = 0
    with (
        open_bytes(path, progress) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines,
    ):
        for number, line in enumerate(lines, start=1):
            text = line.strip(" \t\r\n")
            if not text:
                add("row-blank", number, "", "the line is blank")
                continue
            count += 1
            if not text.isascii() and (start := undecoded(line)):
                add("row-encoding", number, "", f"byte {start} of the line is not UTF-8")
                continue
            try:
                row, end = scan(text, 0)
            except (StopIteration, ValueError, RecursionError) as error:
                add(*_unreadable(error, number, text))
                continue
            if end != len(text):
                add("row-json", number, "", f"more text after the value, at character {end + 1}")
            elif type(row) is not dict:
                add("row-object", number, "", f"{show(row)} is no object")
            elif not row:
                add("row-empty", number, "", "the row has no fields")
            else:
                try:
                    if check_row(number, row, text):
                        _check_keys(number, text, rows, row)
                    if _SUSPECT.search(text):  # half the time that a search for two characters takes
                        _check_values(number, row, rows)
                except RecursionError:
                    add("row-json", number, "", "the value is nested too deeply")
    return count


def _unreadable(error: Exception, line: int, text: str) -> tuple[str, int, str, str]:
    rule, problem = "row-json", str(error)
    if isinstance(error, NotFinite):
        rule, problem = "row-constant", f"{error} is not JSON"
    elif text.startswith("\ufeff"):
        problem = "the line begins with a byte order mark"
    elif isinstance(error, StopIteration):
        problem = f"Expecting value at character {error.value + 1}"
    elif isinstance(error, json.JSONDecodeError):
        problem = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    if line == 1 and text[0] == "[":
        problem += "; a file that is one array ends in .json"
    return rule, line, "", problem


def _check_rows(path: Path, rows: Rows, progress: Progress | None) -> int:
    """Check a file of another format, as far as it can be read."""
    count, add = 0, rows.findings.add
    table = format_of(path) in TABLES and not isinstance(rows, PromptRows)
    try:
        for line, row in _other_rows(path, rows.findings, progress):
            count += 1
            if not row:
                add("row-empty", line, "", "the row has no fields")
                continue
            try:
                whole = untabled(row) if table else dict(row)
                rows.row(line, whole, "")
                _check_values(line, row, rows)
                _find_doubled(line, row, "", rows.findings)
                _check_cell_keys(line, rows, whole)
            except RecursionError:
                add("row-json", line, "", "the value is nested too deeply")
    except DatasetError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        problem = str(error).removeprefix(f"{path}").removeprefix(f", line {error.line}")
        add("file-broken", error.line, "", problem.lstrip(":, "))
    except UnicodeDecodeError as error:
        add("file-broken", None, "", f"not UTF-8 text ({error.reason} at byte {error.start})")
    return count


def _other_rows(path: Path, findings: Findings, progress: Progress | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    suffix = format_of(path)
    if suffix == ".csv":
        return read_csv(path, lambda rule, line, problem: findings.add(rule, line, "", problem), progress)
    if suffix == ".json":
        return read_json(path, progress=progress, decoder=_keys_decoder)
    return read_rows(path, progress=progress)


class _Doubled(dict[str, Any]):
    """An object that has keys twice."""

    keys_twice: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    names = [name for name, _ in pairs]
    doubled = _Doubled(value)
    doubled.keys_twice = tuple(name for name in value if names.count(name) > 1)
    return doubled


class _NotFinite(float):
    """A number that JSON does not have, to be told from those of a table, which has them."""


_keys_decoder = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_NotFinite)


def _check_keys(line: int, text: str, rows: Rows, row: dict[str, Any]) -> None:
    _find_doubled(line, _keys_decoder.decode(text), "", rows.findings)
    _check_cell_keys(line, rows, row)


def _check_cell_keys(line: int, rows: Rows, row: dict[str, Any]) -> None:
    """Look for keys that are twice in an object that a cell holds as text."""
    name, cell = rows.cell(row)
    if '"' in cell:
        try:
            value = _keys_decoder.decode(cell)
        except (ValueError, RecursionError):
            return
        _find_doubled(line, value, name, rows.findings)


def _find_doubled(line: int, value: Any, place: str, findings: Findings) -> None:
    for field, inner in _walk(value, place):
        if isinstance(inner, _Doubled):
            for name in inner.keys_twice:
                findings.add("row-repeated-key", line, f"{field}.{name}".lstrip("."), f"{name!r} is there twice")


def _check_values(line: int, row: Any, rows: Rows) -> None:
    """Look for characters and numbers that JSON does not have, in a row and in the object that a cell holds as text."""
    _check_inside(line, row, "", rows.findings)
    name, cell = rows.cell(row)
    if "\\u" in cell:
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return
        _check_inside(line, value, name, rows.findings)


def _check_inside(line: int, row: Any, place: str, findings: Findings) -> None:
    for field, value in _walk(row, place):
        for text in (value,) if isinstance(value, str) else value if isinstance(value, dict) else ():
            if "\0" in text:
                findings.add("row-text", line, field, "the text holds NUL")
            elif not text.isascii() and not _encodes(text):
                findings.add("row-text", line, field, "the text holds half of a surrogate pair")
        if isinstance(value, _NotFinite):
            findings.add("row-constant", line, field, f"{value} is not JSON")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(value: Any, field: str) -> Iterator[tuple[str, Any]]:
    """Yield everything inside a value with the path to it."""
    yield field, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{field}[{index}]")


def _count(count: int, batch_size: int | None, findings: Findings) -> None:
    if not count:
        findings.add("rows-none", None, "", "the file has no rows")
        return
    if count < MIN_ROWS:
        findings.add("rows-min", None, "", f"{count} rows")
    if count > MAX_ROWS:
        findings.add("rows-max", None, "", f"{count:,} rows")
    if batch_size is not None and count <= batch_size:
        findings.add("rows-batch", None, "", f"{count} rows, and a batch of {batch_size}")
    elif batch_size is not None and count < 10 * batch_size:
        findings.add("rows-few-batches", None, "", f"{count} rows, and a batch of {batch_size}")
