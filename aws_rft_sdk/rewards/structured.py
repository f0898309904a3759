"""Rewards for answers that are JSON. jsonschema, which comes with Strands, is imported on use."""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aws_rft_sdk._frozen import JSON, freeze, thaw
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_number
from aws_rft_sdk.rewards.rollout import TextReward

_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL | re.IGNORECASE)


class JsonSchema(TextReward):
    """1.0 when the answer is JSON that the schema allows, else 0.0.

    The answer is the whole text, or the whole of one fenced block: JSON with prose around it is not what a program can
    read. NaN, infinities and an object with one key twice are not JSON here: readers differ in what they make of them.
    Remote references of a schema are not fetched.

    Args:
        schema: A JSON Schema; its `$schema` says which draft, the newest otherwise.
        match: Also ask that the value equals the ground truth.
        parses: Score of JSON that the schema does not allow.

    Raises:
        ConfigurationError: `parses` is not from 0 to 1, or the schema is none (when it is first used).

    Example:
        >>> JsonSchema({"type": "object", "required": ["city"]}).score('{"city": "Paris"}', None)
        1.0
    """

    def __init__(self, schema: Mapping[str, JSON], *, match: bool = False, parses: float = 0.0) -> None:
        check_number("parses", parses, low=0, high=1)
        self.schema = freeze(schema)
        self.match = match
        self.parses = parses

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0, `parses` or 0.0; None when it has to match and there is no ground truth."""
        is_valid = _validator(self.schema)
        if self.match and ground_truth is None:
            return None
        text = answer_text.strip()
        fenced = _FENCE.match(text)
        try:
            value = json.loads(fenced[1] if fenced else text, parse_constant=_refuse, object_pairs_hook=_object)
            valid = is_valid(value)
        except (ValueError, RecursionError):  # also: integers of more digits than Python reads, nesting without end
            return 0.0
        if not valid:
            return self.parses
        return float(not self.match or _is_same(value, thaw(ground_truth)))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


@functools.lru_cache(maxsize=64)
def _validator(schema: JSON) -> Callable[[Any], bool]:
    jsonschema = importlib.import_module("jsonschema")
    referencing = importlib.import_module("referencing")

    plain = thaw(schema)
    kind = jsonschema.validators.validator_for(plain, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(plain)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"this is no JSON Schema: {error.message}") from error
    # A registry of our own holds no remote documents and retrieves none.
    validator = kind(plain, registry=referencing.Registry())
    is_valid: Callable[[Any], bool] = validator.is_valid
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
