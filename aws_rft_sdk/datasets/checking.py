"""Checks a dataset by every rule of its target, all problems in one pass."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from aws_rft_sdk.datasets._chat import show
from aws_rft_sdk.datasets._checkers import ChatRows, MultiturnRows, PromptRows, scanner
from aws_rft_sdk.datasets.files import TABLES, Progress, format_of, read_rows
from aws_rft_sdk.datasets.report import Findings, Report
from aws_rft_sdk.datasets.rules import RULES, Target
from aws_rft_sdk.datasets.shapes import untabled
from aws_rft_sdk.errors import ConfigurationError, DatasetError

MIN_ROWS, MAX_ROWS = 100, 20_000
DEFAULT_BATCH = {Target.MTRL: 128}
"""Batch size of a job that sets none, for targets where that is known."""
DEFAULT_MAX_TOKENS = {Target.MTRL: 32_768, Target.BEDROCK: 8192, Target.NOVA: 8192, Target.NOVA_MULTITURN: 10_240}
"""Tokens of a sequence: the smallest model's, or what a job takes that sets nothing."""

_BOM = b"\xef\xbb\xbf"
_EVERY = 4096
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
    if suffix != ".jsonl":
        findings.add("file-format", None, "", f"a {suffix} file, and only jsonl is taken")
    rows = _rows(target, findings, limit, require_reference, suffix)
    count = _check_lines(path, rows, findings, progress) if suffix == ".jsonl" else _check_rows(path, rows, progress)
    rows.finish()
    _count(count, batch_size, findings)
    return findings.report(str(path), count, rows.longest_tokens)


def _target(target: Target | str) -> Target:
    try:
        return Target(target)
    except ValueError as error:
        raise ConfigurationError(f"no target {target!r}; use {', '.join(item.value for item in Target)}") from error


def _rows(
    target: Target, findings: Findings, max_tokens: int, require_reference: bool, suffix: str
) -> ChatRows | MultiturnRows | PromptRows:
    if target is Target.MTRL:
        rows = PromptRows(findings, max_tokens)
        rows.tables = suffix == ".csv"
        return rows
    if target is Target.NOVA_MULTITURN:
        return MultiturnRows(findings, max_tokens)
    return ChatRows(findings, max_tokens, target, require_reference)


class _Constant(ValueError):
    """A line has a number that JSON does not have."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Constant(name)


def _check_lines(
    path: Path, rows: ChatRows | MultiturnRows | PromptRows, findings: Findings, progress: Progress | None
) -> int:
    """Check a jsonl file; a bad line does not end it. This loop is what the speed of a check is made of."""
    decode, check_row = scanner(json.JSONDecoder(parse_constant=_refuse_constant)), rows.row
    number = count = done = 0
    for number, raw in enumerate(_raw_lines(path), start=1):
        if progress is not None:
            done += len(raw)
            if number % _EVERY == 0:
                progress(done)
        if number == 1 and raw.startswith(_BOM):
            findings.add("file-bom", 1, "", "the file begins with a byte order mark")
            raw = raw[len(_BOM) :]
        try:
            text = raw.decode().strip(" \t\r\n")
        except UnicodeDecodeError as error:
            count += 1
            findings.add("row-encoding", number, "", f"byte {error.start + 1} of the line is not UTF-8")
            continue
        if not text:
            findings.add("row-blank", number, "", "the line is blank")
            continue
        count += 1
        try:
            row, end = decode(text, 0)
        except (StopIteration, ValueError, RecursionError) as error:
            rule, problem = _unreadable(error)
            findings.add(rule, number, "", problem)
            continue
        if end != len(text):
            findings.add("row-json", number, "", f"more text after the value, at character {end + 1}")
        elif type(row) is not dict:
            findings.add("row-object", number, "", f"{show(row)} is no object")
        elif not row:
            findings.add("row-empty", number, "", "the row has no fields")
        else:
            if check_row(number, row) != text.count('":'):
                _check_keys(number, text, findings)
            if _SUSPECT.search(text):  # half the time that a search for two characters takes
                _check_text(number, row, findings)
    return count


def _unreadable(error: Exception) -> tuple[str, str]:
    if isinstance(error, _Constant):
        return "row-constant", f"{error} is not JSON"
    if isinstance(error, StopIteration):
        return "row-json", f"Expecting value at character {error.value + 1}"
    if isinstance(error, json.JSONDecodeError):
        return "row-json", f"{error.msg} at character {error.pos + 1}"
    return "row-json", str(error)


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error


def _check_rows(path: Path, rows: ChatRows | MultiturnRows | PromptRows, progress: Progress | None) -> int:
    """Check a file of another format, as far as it can be read."""
    count = 0
    table = path.suffix.lower() in TABLES and not isinstance(rows, PromptRows)
    try:
        for line, row in read_rows(path, progress=progress):
            count += 1
            if not row:
                rows.findings.add("row-empty", line, "", "the row has no fields")
                continue
            rows.row(line, untabled(row) if table else dict(row))
            _check_text(line, row, rows.findings)
    except DatasetError as error:
        if not path.is_file() or isinstance(error.__cause__, ImportError):
            raise
        rows.findings.add("file-broken", error.line, "", str(error).removeprefix(f"{path}").lstrip(":, "))
    return count


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


_keys_decoder = json.JSONDecoder(object_pairs_hook=_pairs)


def _check_keys(line: int, text: str, findings: Findings) -> None:
    for field, value in _walk(_keys_decoder.decode(text), ""):
        if isinstance(value, _Doubled):
            for name in value.keys_twice:
                findings.add("row-repeated-key", line, f"{field}.{name}".lstrip("."), f"{name!r} is there twice")


def _check_text(line: int, row: Any, findings: Findings) -> None:
    for field, value in _walk(row, ""):
        if isinstance(value, str):
            if "\0" in value:
                findings.add("row-text", line, field, "the text holds NUL")
            elif not value.isascii() and not _encodes(value):
                findings.add("row-text", line, field, "the text holds half of a surrogate pair")


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
