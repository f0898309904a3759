"""Checks a dataset by every rule of its target, all problems in one pass."""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from aws_rft_sdk.agent_rft import MODELS
from aws_rft_sdk.datasets._csv import read_csv
from aws_rft_sdk.datasets._prompt_rows import PromptRows
from aws_rft_sdk.datasets._rows import ChatRows, MultiturnRows, Rows
from aws_rft_sdk.datasets._storage import TABLES, Progress, byte_order_mark, format_of, is_gzip, open_bytes
from aws_rft_sdk.datasets._strict import DECODER, oddities, parse
from aws_rft_sdk.datasets._text import plural, show
from aws_rft_sdk.datasets.files import Row, read_json, read_rows
from aws_rft_sdk.datasets.report import Findings, Report, beside
from aws_rft_sdk.datasets.rules import RULES, Target
from aws_rft_sdk.datasets.shapes import untabled
from aws_rft_sdk.errors import ConfigurationError, DatasetError

MIN_ROWS, MAX_ROWS = 100, 20_000
DEFAULT_BATCH = {Target.MTRL: 128}
"""Batch size of a job that sets none, for targets where that is known."""
_SMALLEST = min(model.context_tokens for model in MODELS.values())
DEFAULT_MAX_TOKENS = {Target.MTRL: _SMALLEST, Target.BEDROCK: 8192, Target.NOVA: 8192, Target.NOVA_MULTITURN: 10_240}
"""Tokens of a sequence: the smallest model's, or what a job takes that sets nothing."""

_MTRL_FORMATS = (".parquet", ".jsonl", ".json", ".csv")
_JSON = re.compile(r"\S")
_OPENINGS = (b"{", b"[", b"[{")
"""First lines of JSON that was printed to be read by people."""


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
    """Check a dataset by every rule of its target, row by row. About 100 bytes of each row are kept.

    Args:
        path: A jsonl, json, csv or parquet file.
        target: What it is for.
        batch_size: Prompts of a training step. None: 128 for mtrl; others are not checked against it.
        max_tokens: Tokens that a prompt may have. None: 32,768 for mtrl, 10,240 for nova-multiturn, otherwise 8,192.
        require_reference: Whether each row for Bedrock and Nova needs a reference_answer.
        ignore: Ids of rules that are not checked.
        keep: How many problems of each rule are described; all are counted.
        progress: Is told how many bytes have been read.

    Raises:
        ConfigurationError: The target or a rule to ignore is unknown, or a number is below 1.
        DatasetError: The file cannot be opened, its format is unknown, or pyarrow is missing for parquet.
    """
    path = Path(path)
    try:
        target = Target(target)
    except ValueError as error:
        raise ConfigurationError(f"no target {target!r}; use {', '.join(item.value for item in Target)}") from error
    if unknown := sorted(set(ignore) - RULES.keys()):
        raise ConfigurationError(f"no rule is called {', '.join(unknown)}")
    if batch_size is None:
        batch_size = DEFAULT_BATCH.get(target)
    limit = max_tokens if max_tokens is not None else DEFAULT_MAX_TOKENS[target]
    if limit < 1 or keep < 1 or (batch_size is not None and batch_size < 1):
        raise ConfigurationError("batch_size, max_tokens and keep are at least 1")
    suffix = format_of(path)
    findings = Findings(path, target, ignore, keep)
    taken = _MTRL_FORMATS if target is Target.MTRL else (".jsonl",)
    if path.suffix.lower() not in taken:
        findings.add("file-format", None, "", f"a {path.suffix.lower()} file, and only {', '.join(taken)} is taken")
    if target in (Target.BEDROCK, Target.NOVA):
        rows: Rows = ChatRows(findings, limit, require_reference)
    else:
        rows = (PromptRows if target is Target.MTRL else MultiturnRows)(findings, limit)
    try:
        count = _check_whole(path, suffix, findings)
        if count is None:
            count = (_check_lines if suffix == ".jsonl" else _check_rows)(path, rows, progress)
            _count(count, batch_size, findings)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    rows.finish()
    return findings.report(count, rows.longest_tokens)


def _check_whole(path: Path, suffix: str, findings: Findings) -> int | None:
    """Find UTF-16, and that a jsonl file is one array or that each row goes over several lines.

    Returns:
        How many rows the file has then. None if its rows can be looked at one by one.
    """
    mark = byte_order_mark(path)
    if mark == "utf-16":
        findings.add("file-broken", 1, "", "the file is UTF-16; save it as UTF-8")
        return 0
    if mark:
        findings.add("file-bom", 1, "", "the file begins with a byte order mark")
    if suffix != ".jsonl":
        return None
    with open_bytes(path) as file:
        first = next((bare for line in file if (bare := line.removeprefix(codecs.BOM_UTF8).strip())), b"")
        if first[:1] not in (b"{", b"["):
            return None
        with contextlib.suppress(ValueError, RecursionError):  # a first line that is no JSON: looked at below
            if isinstance(parse(first)[0], dict):
                return None
        text = (first + b"\n" + file.read()).decode(errors="replace")
    values, broken = _values(text)
    begun = broken and first in _OPENINGS
    source, out = quote(str(path)), beside(path, "rows")
    if values == [[]]:
        findings.add("rows-none", 1, "", "the file is an array without rows")
        return 0
    if first[:1] == b"[" and (len(values) == 1 or begun):
        count = len(values[0]) if values else 0
        rule, is_what = "file-array", "one JSON array" + (f" of {plural(count, 'row')}" if count else "")
        renamed = quote(str(path.with_name(path.name.replace(".jsonl", ".json"))))
        fix = f"mv {source} {renamed} && aws-rft dataset convert {renamed} {out}"
        fix = f"mend the JSON there, then {fix}" if broken else fix
    elif begun or (not broken and all(isinstance(value, dict) for value in values)):
        count, lines = len(values), len(text.splitlines())
        rule, is_what = "file-pretty", f"pretty-printed, {plural(count, 'object')} on {plural(lines, 'line')}"
        fix = f"gzip -dc {source} | jq -c . > {out}" if is_gzip(path) else f"jq -c . {source} > {out}"
    else:
        return None
    findings.add(rule, 1, "", f"the file is {is_what}, and jsonl holds one object a line{broken}", fix)
    return count


def _values(text: str) -> tuple[list[Any], str]:
    """Return the JSON values that stand one after the other in a text, and what is wrong where one is none."""
    values: list[Any] = []
    end, decoder = 0, json.JSONDecoder()
    while start := _JSON.search(text, end):
        try:
            value, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError) as error:
            return values, f"; not JSON either ({error})"
        values.append(value)
    return values, ""


def _check_lines(path: Path, rows: Rows, progress: Progress | None) -> int:
    """Check a jsonl file; a bad line does not end it. This loop is what the speed of a check is made of."""
    add, check_row, count = rows.add, rows.row, 0
    with open_bytes(path, progress) as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                line = line[3:]
            if line.isspace() or not line:
                add("row-blank", number, "", "the line is blank")
                continue
            count += 1
            try:
                row, rows.odd = parse(line)
                if not isinstance(row, dict):
                    add("row-object", number, "", f"{show(row)} is no object")
                elif not row:
                    add("row-empty", number, "", "the row has no fields")
                else:
                    if rows.odd:
                        rows.note(number, oddities(row, ""))
                    check_row(number, row)
            except UnicodeDecodeError as error:
                add("row-encoding", number, "", f"byte {error.start + 1} of the line is not UTF-8")
            except json.JSONDecodeError as error:
                problem = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
                mark = line.startswith(codecs.BOM_UTF8)
                add("row-json", number, "", "the line begins with a byte order mark" if mark else problem)
            except (ValueError, RecursionError) as error:  # numbers that Python refuses to read, or nesting
                deep = isinstance(error, RecursionError)
                add("row-json", number, "", "the value is nested too deeply" if deep else str(error))
    return count


def _check_rows(path: Path, rows: Rows, progress: Progress | None) -> int:
    """Check a file of another format, as far as it can be read."""
    count, add, suffix = 0, rows.add, format_of(path)
    table = suffix in TABLES and not isinstance(rows, PromptRows)
    found: Iterator[Row]
    if suffix == ".csv":
        found = read_csv(path, lambda rule, line, problem: add(rule, line, "", problem), progress)
    else:
        found = read_json(path, progress, DECODER) if suffix == ".json" else read_rows(path, progress=progress)
    try:
        for line, row in found:
            count += 1
            if not row:
                add("row-empty", line, "", "the row has no fields")
                continue
            try:
                rows.note(line, oddities(row, ""))
                rows.row(line, untabled(row) if table else dict(row))
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


def _count(count: int, batch_size: int | None, findings: Findings) -> None:
    rows, batches = plural(count, "row"), count / batch_size if batch_size else math.inf
    for rule, broken, problem in (
        ("rows-none", count == 0, "the file has no rows"),
        ("rows-min", 0 < count < MIN_ROWS, f"{rows}, and at least {MIN_ROWS} are wanted"),
        ("rows-max", count > MAX_ROWS, f"{rows}, and at most {MAX_ROWS:,} are taken"),
        ("rows-batch", 0 < batches <= 1, f"{rows}, and a batch of {batch_size}"),
        ("rows-few-batches", 1 < batches < 10, f"{rows}, and a batch of {batch_size}"),
    ):
        if broken:
            findings.add(rule, None, "", problem)
