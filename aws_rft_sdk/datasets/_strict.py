"""Reads JSON fast, and finds what is odd where something is: repeated keys, NaN, NUL, half of a surrogate pair."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jiter


class _Doubled(dict[str, Any]):
    """An object that has keys twice."""

    keys_twice: list[str]


class _NotFinite(float):
    """A number that JSON does not have. Tables may hold infinities, so that a plain float says nothing."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    doubled = _Doubled(value)
    doubled.keys_twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    return doubled


def _float(text: str) -> float:
    value = float(text)
    return _NotFinite(value) if math.isinf(value) else value


DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_NotFinite, parse_float=_float)
"""Reads what `oddities` looks at: it keeps what is odd instead of refusing it."""
_OF_TEXT = frozenset({"messages", "prompt", "tools", "visible"})


def parse(data: bytes) -> tuple[Any, bool]:
    """Return a JSON value, and whether `oddities` has to look at it.

    Raises:
        ValueError: The data is not JSON in UTF-8. `UnicodeDecodeError` and `json.JSONDecodeError` are kinds of it.
        RecursionError: The value is nested too deeply.
    """
    try:
        value = jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError:
        value = math.inf
    if _overflows(value):  # jiter makes an infinity of 1e999
        return DECODER.decode(data.decode()), True
    return value, b"\\u0000" in data


def _overflows(value: Any) -> bool:
    """Return whether a value holds an infinity. Messages, prompts and tools are of text."""
    if type(value) is dict:
        for name, item in value.items():
            if type(item) is not str and name not in _OF_TEXT and _overflows(item):
                return True
    elif type(value) is list:
        return any(map(_overflows, value))
    return type(value) is float and math.isinf(value)


def oddities(value: Any, field: str) -> Iterator[tuple[str, str, str]]:
    """Yield rule, field and problem of everything odd inside a value."""
    if isinstance(value, dict):
        for name in value.keys_twice if isinstance(value, _Doubled) else ():
            yield "row-repeated-key", f"{field}.{name}".lstrip("."), f"{name!r} is there twice"
        for name, item in value.items():
            yield from _odd_text(str(name), field)
            yield from oddities(item, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from oddities(item, f"{field}[{index}]")
    elif isinstance(value, str):
        yield from _odd_text(value, field)
    elif isinstance(value, _NotFinite):
        yield "row-constant", field, f"{value} is not JSON"


def _odd_text(text: str, field: str) -> Iterator[tuple[str, str, str]]:
    if "\0" in text:
        yield "row-text", field, "the text holds NUL"
    elif not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield "row-text", field, "the text holds half of a surrogate pair"
