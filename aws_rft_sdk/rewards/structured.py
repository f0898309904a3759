"""Rewards for answers that are JSON. jsonschema, which comes with Strands, is imported on use."""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON, freeze, thaw
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.rollout import TextReward

_FENCE = re.compile(r"\A```(?:json)?[ \t]*\r?\n(.*)\n[ \t]*```\Z", re.DOTALL | re.IGNORECASE)


class JsonSchema(TextReward):
    """1.0 when the answer is JSON that the schema allows, else 0.0.

    The answer is the whole text, or the whole of one fenced block: JSON with prose around it is not what a program can
    read. NaN, infinities and an object with one key twice are not JSON here: readers differ in what they make of them.
    Remote references of a schema are not fetched.

    Keywords are looked at in the schema's order, up to the first that is violated. Put `maxLength` before a `pattern`
    and `maxItems` before `uniqueItems`: both may take a time that grows with the square of the answer or worse.

    Args:
        schema: A JSON Schema; its `$schema` says which draft, the newest otherwise.
        match: Also ask that the value equals the ground truth, or what it holds as JSON text.
        parses: Score of JSON that the schema does not allow.

    Raises:
        ConfigurationError: `parses` is not from 0 to 1, or the schema is none, or refers to what it does not hold
            (when that is first used).

    Example:
        >>> JsonSchema({"type": "object", "required": ["city"]}).score('{"city": "Paris"}', None)
        1.0
    """

    def __init__(self, schema: Mapping[str, JSON], *, match: bool = False, parses: float = 0.0) -> None:
        check_number("parses", parses, low=0, high=1)
        if not isinstance(schema, Mapping | bool):
            raise ConfigurationError(f"schema must be an object, not {schema!r:.80}")
        self.schema = freeze(schema)
        try:
            self._text = json.dumps(self.schema)  # as a value, {"const": true} would equal {"const": 1}
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"schema must be JSON: {error}") from error
        self.match = match
        self.parses = parses

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0, `parses` or 0.0; None when it has to match and there is no ground truth."""
        is_valid = _validator(self._text)
        if self.match and ground_truth is None:
            return None
        text = answer_text.strip()
        fenced = _FENCE.match(text)
        try:
            value = json.loads(fenced[1] if fenced else text, parse_constant=_refuse, object_pairs_hook=_object)
            valid = is_valid(value)
        except ConfigurationError:
            raise
        # Also: integers of more digits than Python reads, numbers beyond its floats, nesting without end.
        except (ValueError, RecursionError, OverflowError):
            return 0.0
        if not valid:
            return self.parses
        return float(not self.match or any(_is_same(value, right) for right in _readings(ground_truth)))


def _readings(ground_truth: JSON) -> Iterator[JSON]:
    """Give the value of a ground truth, and the object or array that it holds as text, as datasets have it."""
    yield thaw(ground_truth)
    if isinstance(ground_truth, str):
        try:
            value = json.loads(ground_truth)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict | list):
            yield value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Callable[[Any], bool]:
    try:
        jsonschema = importlib.import_module("jsonschema")
        referencing = importlib.import_module("referencing")
    except ModuleNotFoundError as error:
        raise ConfigurationError("JsonSchema needs jsonschema: pip install jsonschema") from error

    plain = json.loads(schema)
    kind = jsonschema.validators.validator_for(plain, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(plain)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"this is no JSON Schema: {error.message}") from error
    # A registry of our own holds no remote documents and retrieves none.
    validator = kind(plain, registry=referencing.Registry())

    def is_valid(value: Any) -> bool:
        try:
            return bool(validator.is_valid(value))
        except referencing.exceptions.Unresolvable as error:
            raise ConfigurationError(f"the JSON Schema refers to what it does not hold: {error.ref}") from error

    return is_valid


def _is_same(one: JSON, other: JSON) -> bool:
    """Whether two JSON values are equal, where true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)
