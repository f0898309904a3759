"""What a judge's reply means, and where verdicts are kept."""

from __future__ import annotations

import ast
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.extract import strip_thoughts
from aws_rft_sdk.rewards.judge_rubrics import EXPLANATION, TOP_GRADE


class _Object(list[tuple[str, JSON]]):
    """A JSON object with its keys in order, also those that stand twice."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, strict=False)
_OBJECT = re.compile(r"""\{(?=\s*["'])""")
_PYTHON = {"true": "True", "false": "False", "null": "None"}
_GRADE = re.compile(r"\+?(\d{1,3})(?:\.0+)?(?:\s*(?:/|out of|of)\s*10)?\.?")
_GRADE_KEYS = ("grade", "score", "value", "rating")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_verdict(text: str, schema: Mapping[str, JSON]) -> dict[str, JSON]:
    """Read a verdict from what a judge wrote.

    Thoughts, fences, text around the object, more keys than asked for, objects in objects, grades as text ("8/10"),
    Python's notation and a comma too many do no harm. The explanation may be missing. Returns the keys of the schema
    with values that it allows. Raises `ValueError`, whose text tells the judge what is wrong, if there is no verdict or
    there are two.
    """
    wanted = schema["properties"]
    verdict: dict[str, JSON] = {}
    explanations: list[str] = []
    for key, value in _entries(_objects(text), wanted):
        if key == EXPLANATION:
            explanations.append(value if isinstance(value, str) else json.dumps(value))
        elif key in wanted and verdict.setdefault(key, read := _read(key, value, wanted[key])) != read:
            raise ValueError(f"there are two different values of {key}, {verdict[key]!r} and {read!r}")
    verdict[EXPLANATION] = "\n".join(explanations)
    if missing := [key for key in wanted if key not in verdict]:
        raise ValueError(f"{', '.join(missing)} missing")
    return {key: verdict[key] for key in wanted}


def _objects(text: str) -> list[JSON]:
    try:
        return [_DECODER.decode(text.strip())]  # a thought in the explanation is a quotation
    except (ValueError, RecursionError):
        said = strip_thoughts(text)
    if said is None:
        raise ValueError("the reply ends in a thought")
    found: list[JSON] = []
    at = 0
    while opening := _OBJECT.search(said, at):
        value, at = _object_at(said, opening.start())
        found.append(value)
    if not found:
        raise ValueError("there is no JSON object")
    return found


def _object_at(text: str, start: int) -> tuple[JSON, int]:
    """Return the object that begins at `start`, and where it ends."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        problem = f"the JSON object is broken: {error}"
    end = text.rfind("}") + 1
    literal = re.sub(r"\b(?:true|false|null)\b", lambda match: _PYTHON[match[0]], text[start:end])
    try:  # single quotes and a last comma are Python
        return _DECODER.decode(json.dumps(ast.literal_eval(literal))), end
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(problem) from None


def _entries(value: JSON, wanted: Mapping[str, JSON], key: str = "") -> Iterator[tuple[str, JSON]]:
    """Yield every key of an object and of the objects inside it, with its value."""
    if key == EXPLANATION or not isinstance(value, list):
        yield key, value
        return
    for inner in value:
        if isinstance(value, _Object):
            name = re.sub(r"[\s-]+", "_", inner[0].strip().lower())
            is_grade_of_key = name in _GRADE_KEYS and name not in wanted
            yield from _entries(inner[1], wanted, key if is_grade_of_key else name)
        else:
            yield from _entries(inner, wanted, key)


def _read(name: str, value: JSON, wanted: Mapping[str, JSON]) -> JSON:
    text = str(value).strip().lower()
    if wanted["type"] == "boolean":
        if text in _TRUTH:
            return _TRUTH[text]
        raise ValueError(f"{name} must be true or false, not {value!r:.80}")
    grade = _GRADE.fullmatch(text)
    if grade is None or int(grade[1]) > TOP_GRADE:
        raise ValueError(f"{name} must be a whole number from 0 to {TOP_GRADE}, not {value!r:.80}")
    return int(grade[1])


class VerdictCache:
    """A file of verdicts by key. The first verdict under a key stays.

    Every call opens the file and closes it again, so threads, processes and forks can share a cache. The file and its
    folders are created when they are first needed. All methods raise `ConfigurationError` if the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def get(self, key: str) -> str | None:
        """Return the verdict under a key. Returns None if there is none."""
        verdict: str | None = self._execute("SELECT max(verdict) FROM verdicts WHERE key = ?", key)[0]
        return verdict

    def put(self, key: str, verdict: str) -> str:
        """Keep a verdict unless there is one already, and return the one that is kept."""
        self._execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", key, verdict)
        return self.get(key) or verdict

    def discard(self, key: str, verdict: str) -> None:
        """Forget a verdict that cannot be used, unless another one stands in its place by now."""
        self._execute("DELETE FROM verdicts WHERE key = ? AND verdict = ?", key, verdict)

    def close(self) -> None:
        """Do nothing. No call leaves the file open."""

    def __len__(self) -> int:
        return int(self._execute("SELECT count(*) FROM verdicts")[0])

    def _execute(self, statement: str, *values: str) -> Any:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=30.0, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = NORMAL")  # a verdict that a power cut takes can be had again
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) WITHOUT ROWID"
                )
                return connection.execute(statement, values).fetchone()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the verdict cache {self.path} cannot be used: {error}") from error
