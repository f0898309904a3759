"""Rules of tool schemas."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from aws_rft_sdk.datasets._text import hint, is_blank, show

Note = Callable[[str, str, str], None]
"""Takes rule, field and problem; the line is the caller's."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})


def check_tools(tools: Any, note: Note) -> set[str]:
    """Note every rule that a row's tools break; return their names."""
    names: set[str] = set()
    if not isinstance(tools, list):
        note("tools-type", "tools", f"{show(tools)} is no array")
        return names
    if not tools:
        note("tools-empty", "tools", "the array is empty")
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            kind = f"{place}.type" if isinstance(tool, dict) else place
            note("tool-type", kind, f"{show(tool)} is no tool of type function")
            continue
        function = tool.get("function")
        if not isinstance(function, dict):
            note("tool-type", f"{place}.function", f"{show(function)} is no object")
            continue
        _tool(function, f"{place}.function", names, note)
    return names


def _tool(function: dict[str, Any], place: str, names: set[str], note: Note) -> None:
    name, description, parameters = (function.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        note("tool-name", f"{place}.name", f"{show(name)} is no name")
    elif name in names:
        note("tool-name-repeated", f"{place}.name", f"{show(name)} is the name of a tool before")
    else:
        names.add(name)
    if not isinstance(description, str) or is_blank(description):
        note("tool-description", f"{place}.description", f"{show(description)} describes nothing")
    place = f"{place}.parameters"
    if not isinstance(parameters, dict):
        note("tool-parameters", place, f"{show(parameters)} is no schema")
    elif parameters.get("type") != "object":
        note("tool-parameters", f"{place}.type", f"{show(parameters.get('type'))} is not object")
    elif not isinstance(parameters.get("properties"), dict):
        note("tool-parameters", f"{place}.properties", f"{show(parameters.get('properties'))} is no object")
    else:
        _members(parameters, place, note)


def _members(schema: dict[str, Any], place: str, note: Note) -> None:
    """Note what is wrong with the properties, the items and the required names of a schema, however deep."""
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        note("tool-property", f"{place}.properties", f"{show(properties)} is no object")
        return
    for name, inner in properties.items():
        _property(inner, f"{place}.properties.{name}", note)
    if "items" in schema:
        _property(schema["items"], f"{place}.items", note)
    if "required" in schema:
        _required(schema["required"], properties, f"{place}.required", note)


def _property(schema: Any, place: str, note: Note) -> None:
    if not isinstance(schema, dict):
        note("tool-property", place, f"{show(schema)} is no schema")
        return
    if "type" in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        for kind in named:
            if not isinstance(kind, str) or kind not in _TYPES:
                note("tool-property", f"{place}.type", f"{show(kind)} is no type of JSON Schema{hint(kind, _TYPES)}")
        if not named:
            note("tool-property", f"{place}.type", "[] names no type")
    if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
        note("tool-property", f"{place}.enum", f"{show(schema['enum'])} names no values")
    _members(schema, place, note)


def _required(names: Any, properties: dict[str, Any], place: str, note: Note) -> None:
    if not isinstance(names, list):
        note("tool-required", place, f"{show(names)} is no array of names")
        return
    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in properties:
            note("tool-required", f"{place}[{index}]", f"{show(name)} is no property{hint(name, properties)}")
        elif name in names[:index]:
            note("tool-required", f"{place}[{index}]", f"{show(name)} is there twice")
