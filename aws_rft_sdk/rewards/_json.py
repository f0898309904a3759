"""JSON values: comparing them, and JSON Schema by jsonschema, which is imported on use."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.errors import ConfigurationError

_MISSING = object()


def is_same(one: JSON, other: JSON, *, subset: bool = False) -> bool:
    """Say whether two JSON values are equal, where true is not 1.

    With `subset`, objects of `one` may have keys that `other` lacks. A null in `other` also stands for a missing key.
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


def held(value: JSON) -> JSON:
    """Return the object or array that a text holds as JSON. Anything else is returned as it is."""
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, dict | list) else value


def schema_text(name: str, schema: object) -> str:
    """Return a JSON Schema as JSON text. Raises ConfigurationError if it is no JSON object, nor true or false."""
    if not isinstance(schema, Mapping | bool):
        raise ConfigurationError(f"{name} must be an object, not {schema!r:.80}")
    try:
        return json.dumps(thaw(schema))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} must be JSON: {error}") from error


@functools.lru_cache(maxsize=64)
def validator(schema: str) -> Callable[[JSON], bool]:
    """Return the function that says whether a value is valid under a JSON Schema.

    The schema is JSON text: as a value, `{"const": true}` would equal `{"const": 1}`. Raises ConfigurationError if it
    is no JSON Schema or jsonschema is not installed. The function raises it if the schema refers to what it lacks.
    """
    try:
        jsonschema, referencing = importlib.import_module("jsonschema"), importlib.import_module("referencing")
    except ModuleNotFoundError as error:
        raise ConfigurationError("a JSON Schema needs jsonschema: pip install jsonschema") from error
    plain = json.loads(schema)
    kind = jsonschema.validators.validator_for(plain, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(plain)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"this is no JSON Schema: {error.message}") from error
    checker: Any = kind(plain, registry=referencing.Registry())  # a registry of our own retrieves no remote documents

    def is_valid(value: JSON) -> bool:
        try:
            return bool(checker.is_valid(value))
        except referencing.exceptions.Unresolvable as error:
            raise ConfigurationError(f"the JSON Schema refers to what it does not hold: {error.ref}") from error
        except (RecursionError, OverflowError):  # nesting without end, numbers beyond floats
            return False

    return is_valid
