"""Rules of a row's tools: pydantic looks at their form, jsonschema at their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from aws_rft_sdk.datasets._messages import Found
from aws_rft_sdk.datasets._models import EVERYDAY_SCHEMA, TOOLS, TYPES, broken_rules
from aws_rft_sdk.datasets._text import hint, show

_LEAF = frozenset({"type", "title", "description", "format", "default", "enum"})
"""Keywords that say nothing of other schemas. Most properties have no others."""
_ELSEWHERE = (".type", ".properties")
"""What `TOOLS` says of parameters."""


def look_at_tools(tools: Any) -> tuple[list[Found], set[str]]:
    """Return every rule that a row's tools break, and their names."""
    found, names = [*broken_rules(TOOLS, tools, "tools")], set[str]()
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        function, place = tool.get("function") if isinstance(tool, dict) else None, f"tools[{index}].function"
        name, parameters = map(function.get, ("name", "parameters")) if isinstance(function, dict) else (None, None)
        if isinstance(name, str):
            if name in names:
                found.append(("tool-name-repeated", f"{place}.name", f"{show(name)} is the name of a tool before"))
            names.add(name)
        if isinstance(parameters, dict):
            if not EVERYDAY_SCHEMA.isinstance_python(parameters):
                found += _invalid(parameters, f"{place}.parameters")
            found += _unusable(parameters, f"{place}.parameters")
    return found, names


@cache
def _validator() -> Any:
    from jsonschema import Draft7Validator  # takes as long to import as all of this package

    keywords = {**Draft7Validator.META_SCHEMA["properties"], "enum": {"type": "array", "minItems": 1}}
    schema = {name: value for name, value in Draft7Validator.META_SCHEMA.items() if name != "$id"}
    return Draft7Validator({**schema, "properties": keywords})  # without its id, so that "#" is this schema


def _invalid(schema: dict[str, Any], place: str) -> Iterator[Found]:
    """Yield what JSON Schema refuses in a schema."""
    for error in _validator().iter_errors(schema):
        while error.context:  # of several schemas that may fit, the one that fits longest was meant
            error = max(error.context, key=lambda inner: len(inner.absolute_path))
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
        if path in _ELSEWHERE or error.validator == "uniqueItems":  # `_unusable` says which item is there twice
            continue
        last = path.rpartition(".")[2]
        rule = "tool-required" if last.startswith("required") else "tool-property"
        meant = last if last in ("type", "required", "enum") else "valid value"
        known = hint(error.instance, TYPES) if last == "type" else ""
        yield rule, f"{place}{path}", f"{show(error.instance)} is no {meant} of JSON Schema{known}"


def _unusable(schema: Any, place: str) -> Iterator[Found]:
    """Yield what JSON Schema takes and no service can use."""
    if not isinstance(schema, dict):
        return
    properties = schema["properties"] if isinstance(schema.get("properties"), dict) else {}
    required = schema["required"] if isinstance(schema.get("required"), list) else []
    for index, name in enumerate(required):
        if isinstance(name, str) and name not in properties:
            yield "tool-required", f"{place}.required[{index}]", f"{show(name)} is no property{hint(name, properties)}"
        elif name in required[:index]:
            yield "tool-required", f"{place}.required[{index}]", f"{show(name)} is there twice"
    for name, inner in properties.items():
        if isinstance(inner, dict) and not _LEAF.issuperset(inner):
            yield from _unusable(inner, f"{place}.properties.{name}")
    if "items" in schema:
        yield from _unusable(schema["items"], f"{place}.items")
