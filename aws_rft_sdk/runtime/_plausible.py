"""Values that fit a JSON schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

_MAX_DEPTH = 12
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
_MORE = 9
"""How far a number is drawn above the lowest one that fits."""
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def plausible_value(schema: object = None, text: str = "example", random: Random | None = None) -> Any:
    """Return a value that fits a JSON schema.

    The usual vocabulary is understood: types, enum, const, required, references, combinations, bounds. Patterns are
    not. Optional properties are left out.

    Args:
        schema: The schema. One that is no object fits anything.
        text: What free strings say.
        random: Draws among the values that fit. None for the first or lowest one, always the same.
    """
    root = schema if isinstance(schema, Mapping) else {}
    return _Values(root, text, random).value(root, 0)


class _Values:
    def __init__(self, root: Mapping[str, Any], text: str, random: Random | None) -> None:
        self._root = root
        self._text = text
        self._random = random

    def value(self, schema: object, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return self._text
        if "$ref" in schema:
            return self.value(self._resolve(schema), depth + 1)
        if "const" in schema:
            return schema["const"]
        for name in ("enum", "examples"):
            if isinstance(schema.get(name), Sequence) and schema[name]:
                return self._one_of(schema[name])
        for name in ("anyOf", "oneOf", "allOf"):
            if schema.get(name):
                parts = schema[name] if name == "allOf" else schema[name][:1]
                rest = {key: value for key, value in schema.items() if key != name}
                return self.value(_merged(rest, *map(self._resolve, parts)), depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((name for name in kind if name != "null"), "null")
        if kind == "object" or (kind is None and "properties" in schema):
            properties = schema.get("properties") or {}
            return {name: self.value(properties.get(name), depth + 1) for name in schema.get("required") or ()}
        if kind == "array":
            length = min(max(1, schema.get("minItems") or 0), schema.get("maxItems", math.inf))
            return [self.value(schema.get("items"), depth + 1) for _ in range(length)]
        if kind in ("integer", "number"):
            return self._number(schema)
        if kind in ("boolean", "null"):
            return self._one_of((True, False)) if kind == "boolean" else None
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = self._text.ljust(schema.get("minLength") or 0, ".")
        return text[: schema["maxLength"]] if isinstance(schema.get("maxLength"), int) else text

    def _number(self, schema: Mapping[str, Any]) -> float:
        """Return a whole multiple of `multipleOf`, or of 1, near 1. Between bounds without one, their middle."""
        bounds: dict[str, float] = {name: schema[name] for name in _BOUNDS if type(schema.get(name)) in (int, float)}
        step = bounds.get("multipleOf") or 1
        least, most = -math.inf, math.inf
        if "minimum" in bounds:
            least = math.ceil(bounds["minimum"] / step)
        if "exclusiveMinimum" in bounds:
            least = max(least, math.floor(bounds["exclusiveMinimum"] / step) + 1)
        if "maximum" in bounds:
            most = math.floor(bounds["maximum"] / step)
        if "exclusiveMaximum" in bounds:
            most = min(most, math.ceil(bounds["exclusiveMaximum"] / step) - 1)
        if least > most:
            ends = [value for name, value in bounds.items() if name != "multipleOf"]
            return sum(ends) / len(ends)
        first = int(min(max(1, least), most))
        return step * (first if self._random is None else self._random.randint(first, int(min(first + _MORE, most))))

    def _one_of(self, values: Sequence[Any]) -> Any:
        return values[0] if self._random is None else self._random.choice(values)

    def _resolve(self, schema: object) -> Mapping[str, Any]:
        """Return the schema that a reference points to, or `schema` itself if it is no reference."""
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema if isinstance(schema, Mapping) else {}
        target: Any = self._root
        for key in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            target = target.get(key) if isinstance(target, Mapping) else None
        return target if isinstance(target, Mapping) else {}


def _merged(*schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return one schema that asks for what all of them ask for."""
    merged: dict[str, Any] = {}
    for schema in schemas:
        properties = {**merged.get("properties", {}), **schema.get("properties", {})}
        required = [*merged.get("required", ()), *schema.get("required", ())]
        merged |= schema
        merged |= {"properties": properties} if properties else {}
        merged |= {"required": list(dict.fromkeys(required))} if required else {}
    return merged
