"""JSON values: reading them strictly, comparing them, and JSON Schema. jsonschema is imported on use."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.errors import ConfigurationError


def parse_json(text: str) -> JSON:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON: also if it holds NaN, an infinity, an object with one key twice, or an integer of
            more digits than Python reads.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def is_same(one: JSON, other: JSON, *, subset: bool = False) -> bool:
    """Say whether two JSON values are equal, where true is not 1.

    Args:
        one: A value.
        other: The value that is asked for.
        subset: Objects of `one` may have keys that `other` lacks. A null in `other` also stands for a missing key.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = other.keys() if subset else one.keys() | other.keys()
        missing = None if subset else _MISSING
        return all(is_same(one.get(key, missing), other.get(key, _MISSING), subset=subset) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(is_same(*pair, subset=subset) for pair in zip(one, other, strict=True))
    return bool(one == other)


_MISSING = object()


def schema_text(name: str, schema: object) -> str:
    """Return a JSON Schema as JSON text.

    Raises:
        ConfigurationError: It is no JSON object, nor true or false.
    """
    if not isinstance(schema, Mapping | bool):
        raise ConfigurationError(f"{name} must be an object, not {schema!r:.80}")
    try:
        return json.dumps(thaw(schema))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} must be JSON: {error}") from error


@functools.lru_cache(maxsize=64)
def validator(schema: str) -> Callable[[JSON], bool]:
    """Return the function that says whether a value is valid under a JSON Schema.

    Args:
        schema: As JSON text: as a value, `{"const": true}` would equal `{"const": 1}`.

    Raises:
        ConfigurationError: It is no JSON Schema, or jsonschema is not installed. The function raises it if the schema
            refers to what it does not hold: remote documents are not fetched.
    """
    try:
        jsonschema = importlib.import_module("jsonschema")
        referencing = importlib.import_module("referencing")
    except ModuleNotFoundError as error:
        raise ConfigurationError("a JSON Schema needs jsonschema: pip install jsonschema") from error

    plain = json.loads(schema)
    kind = jsonschema.validators.validator_for(plain, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(plain)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"this is no JSON Schema: {error.message}") from error
    # A registry of our own holds no remote documents and retrieves none.
    checker: Any = kind(plain, registry=referencing.Registry())

    def is_valid(value: JSON) -> bool:
        try:
            return bool(checker.is_valid(value))
        except referencing.exceptions.Unresolvable as error:
            raise ConfigurationError(f"the JSON Schema refers to what it does not hold: {error.ref}") from error
        except (RecursionError, OverflowError):  # nesting without end, numbers beyond floats
            return False

    return is_valid
