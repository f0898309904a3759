"""Reads an uploaded training file as the service does."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_rft_sdk._frozen import JSON

MIN_ROWS, MAX_ROWS = 100, 20_000
_ROLES = ("system", "user", "assistant")
_SHOWN = 5

Row = dict[str, JSON]


class DatasetError(ValueError):
    """The file cannot be trained on. The message names the lines."""


def read_rows(content: bytes) -> list[Row]:
    """Return the rows of a JSON Lines file.

    Every line holds one prompt: an object with `messages`. Other keys are kept for the grader.

    Raises:
        DatasetError: A line is no such row, or there are fewer than 100 or more than 20,000 rows.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"the file is not UTF-8: {error.reason} at byte {error.start}") from None
    if lines[-1].strip() == "":
        del lines[-1]
    problems: list[str] = []
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_read_row(line))
        except DatasetError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f", and {len(problems) - _SHOWN} more lines" if len(problems) > _SHOWN else ""
        raise DatasetError("; ".join(problems[:_SHOWN]) + more)
    if not MIN_ROWS <= len(rows) <= MAX_ROWS:
        raise DatasetError(f"the file has {len(rows)} rows; a job needs {MIN_ROWS:,} to {MAX_ROWS:,}")
    return rows


def _read_row(line: str) -> Row:
    if not line.strip():
        raise DatasetError("the line is empty")
    try:
        row = json.loads(line, parse_constant=_no_constant)
        json.dumps(row, allow_nan=False)  # 1e400 is read as infinity, which no grader could be sent
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"no JSON ({error})") from None
    if not isinstance(row, dict):
        raise DatasetError(f"a {type(row).__name__} instead of an object")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DatasetError("messages is missing or is not a non-empty list")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    if not isinstance(row.get("id", ""), str):
        raise DatasetError("id is not text")
    return row


def _no_constant(name: str) -> JSON:
    raise ValueError(f"{name} is not JSON")


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, Mapping):
        raise DatasetError(f"{where} is not an object")
    if message.get("role") not in _ROLES:
        raise DatasetError(f"{where}.role is {message.get('role')!r:.40}; it must be one of {', '.join(_ROLES)}")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DatasetError(f"{where}.content is neither text nor a list of parts like {{type: text, text: ...}}")
