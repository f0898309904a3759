"""Values that fit a JSON schema, for calling tools and filling forms that nobody has seen before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_MAX_DEPTH = 12
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def plausible_value(schema: object, text: str = "example") -> Any:
    """Return a value that fits a JSON schema.

    The usual vocabulary is understood (types, enum, const, required, references, combinations, bounds); patterns are
    not. Optional properties are left out.

    Args:
        schema: The schema; one that is no object fits anything.
        text: What free strings say.
    """
    root = schema if isinstance(schema, Mapping) else {}
    return _value(root, root, text, 0)


def _value(schema: object, root: Mapping[str, Any], text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return text
    if "$ref" in schema:
        return _value(_resolve(str(schema["$ref"]), root), root, text, depth + 1)
    if "const" in schema:
        return schema["const"]
    for name in ("enum", "examples"):
        if isinstance(schema.get(name), Sequence) and schema[name]:
            return schema[name][0]
    for name in ("anyOf", "oneOf"):
        if schema.get(name):
            return _value(schema[name][0], root, text, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= _resolve(str(part["$ref"]), root) if "$ref" in part else part
        return _value(merged, root, text, depth + 1)
    return _typed(schema, root, text, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], text: str, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties") or {}
        return {name: _value(properties.get(name), root, text, depth + 1) for name in schema.get("required") or ()}
    if kind == "array":
        return [_value(schema.get("items"), root, text, depth + 1) for _ in range(max(1, schema.get("minItems") or 0))]
    if kind in ("integer", "number"):
        return _number(schema)
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    return text[: schema["maxLength"]] if isinstance(schema.get("maxLength"), int) else text


def _number(schema: Mapping[str, Any]) -> float:
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if isinstance(schema.get("exclusiveMinimum"), int | float):
        lowest = schema["exclusiveMinimum"] + 1
    if isinstance(schema.get("exclusiveMaximum"), int | float):
        highest = schema["exclusiveMaximum"] - 1
    value = 1 if lowest is None else max(1, lowest)
    return value if highest is None else min(value, highest)


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    target: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        target = target.get(key) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else {}


def plausible_arguments(function: Mapping[str, Any], text: str) -> str:
    """Return arguments for a tool of a chat request, as the JSON that a model writes."""
    value = plausible_value(function.get("parameters"), text)
    return json.dumps(value if isinstance(value, dict) else {})
