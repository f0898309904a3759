"""What rules say of texts: whether anything can be seen in them, what they may have been meant to be."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

_SHOWN = 60
_NEAR, _LIKELY = 0.85, 0.75
# Controls, spaces, and what Unicode has besides that leaves no mark: joiners, directions, fillers, variations, tags.
SEEN = (
    r"[^\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
"""A pattern that finds a character that can be seen. Python's `re` and pydantic's Rust engine both read it."""
_SEEN = re.compile(SEEN)


def show(value: object) -> str:
    """Return a value as JSON, cut to what a line of a report can hold."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def is_blank(text: str) -> bool:
    """Return whether nothing can be seen of a text: white space and characters of no width only."""
    return not "!" <= text < "\x7f" and _SEEN.search(text) is None  # most begin with an ASCII letter


def estimate_tokens(text: str) -> int:
    """Return roughly how many tokens a text has: a token is four ASCII characters, or one other character."""
    if text.isascii():
        return len(text) // 4
    other = len(text) - len(text.encode("ascii", "ignore"))
    return (len(text) - other) // 4 + other


def holds_nothing(value: Any) -> bool:
    """Return whether a value is no answer: null, blank text, or an object or array of such values only.

    `{}`, `[]`, 0 and false are answers: a call without arguments, an empty list, a number, a verdict. Blank text is
    not: a failed export leaves it, and a grader that looks for "" in a completion finds it in every completion.
    """
    if isinstance(value, str):
        return is_blank(value)
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return bool(items) and all(map(holds_nothing, items))
    return value is None


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 row`, `2 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def nearest(name: str, known: Iterable[str], cutoff: float = _NEAR) -> str | None:
    """Return what is known and spelt nearly so, None where nothing is."""
    near = difflib.get_close_matches(name.strip().lower().replace("-", "_"), known, 1, cutoff)
    return near[0] if near and near[0] != name else None


def hint(name: object, known: Iterable[str]) -> str:
    """Return a question after what was meant, to put behind a problem; empty where nothing is near."""
    near = nearest(name, known, _LIKELY) if isinstance(name, str) else None
    return f'; did you mean "{near}"?' if near else ""
