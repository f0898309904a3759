"""Rules of a row's tools: pydantic looks at their form, jsonschema at their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft7Validator

from aws_rft_sdk.datasets._messages import Found
from aws_rft_sdk.datasets._models import PLAIN_TOOLS, TOOLS, TYPES, broken_rules
from aws_rft_sdk.datasets._text import hint, show


class Tools:
    """Checks the tools of rows. Good ones that stand in one row after the other are looked at once."""

    def __init__(self) -> None:
        self._good: Any = None
        self.names: set[str] = set()
        """Names of the tools that were checked last."""

    def problems(self, tools: Any) -> list[Found]:
        """Return every rule that the tools break."""
        if tools == self._good and tools:
            return []
        self._good = tools
        if PLAIN_TOOLS.isinstance_python(tools):
            functions = [tool["function"] for tool in tools]
            self.names = {function["name"] for function in functions}
            if len(self.names) == len(tools) and all(_are_named(function["parameters"]) for function in functions):
                return []
        self.names = set()
        found = list(broken_rules(TOOLS, tools, "tools"))
        for index, tool in enumerate(tools if isinstance(tools, list) else ()):
            function = tool.get("function") if isinstance(tool, dict) else None
            if isinstance(function, dict):
                found += self._function(function, f"tools[{index}].function")
        if found:
            self._good = None
        return found

    def _function(self, function: dict[str, Any], place: str) -> Iterator[Found]:
        name, parameters = function.get("name"), function.get("parameters")
        if isinstance(name, str):
            if name in self.names:
                yield "tool-name-repeated", f"{place}.name", f"{show(name)} is the name of a tool before"
            self.names.add(name)
        if isinstance(parameters, dict):
            yield from _schema(parameters, f"{place}.parameters")


def _are_named(schema: dict[str, Any]) -> bool:
    """Return whether `required` names properties, each once, however deep."""
    required, properties = schema.get("required", ()), schema.get("properties", {})
    return (
        all(name in properties for name in required)
        and len(set(required)) == len(required)
        and all(_are_named(inner) for inner in properties.values() if "properties" in inner or "required" in inner)
        and ("items" not in schema or _are_named(schema["items"]))
    )


@cache
def _validator() -> Draft7Validator:
    return Draft7Validator(Draft7Validator.META_SCHEMA)


def _schema(schema: dict[str, Any], place: str) -> Iterator[Found]:
    """Yield what is wrong with a schema: what JSON Schema refuses, then what it takes and no service can use."""
    for error in _validator().iter_errors(schema):
        while error.context:  # of several schemas that may fit, the one that fits longest was meant
            error = max(error.context, key=lambda inner: len(inner.absolute_path))
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
        rule = "tool-required" if path.rstrip("[]0123456789").endswith(".required") else "tool-property"
        if path not in (".type", ".properties"):  # the parameters themselves, which the model has looked at
            known = hint(error.instance, TYPES) if path.endswith(".type") else ""
            yield rule, f"{place}{path}", f"{show(error.instance)} is no {_meant(path)} of JSON Schema{known}"
    yield from _unusable(schema, place)


def _meant(path: str) -> str:
    last = path.rpartition(".")[2]
    return last if last in ("type", "required", "enum") else "valid value"


def _unusable(schema: Any, place: str) -> Iterator[Found]:
    if not isinstance(schema, dict):
        return
    properties, required = schema.get("properties"), schema.get("required")
    properties = properties if isinstance(properties, dict) else {}
    if schema.get("enum") == []:
        yield "tool-property", f"{place}.enum", "[] names no values"
    for index, name in enumerate(required if isinstance(required, list) else ()):
        if isinstance(name, str) and name not in properties:
            yield "tool-required", f"{place}.required[{index}]", f"{show(name)} is no property{hint(name, properties)}"
    for name, inner in properties.items():
        yield from _unusable(inner, f"{place}.properties.{name}")
    yield from _unusable(schema.get("items"), f"{place}.items")
