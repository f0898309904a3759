"""Checks the parameters of a call against botocore's model of the service, as the service does.

Clients are checked by `jobs/_shapes.py`. This is other code on purpose: a mistake of the one is seen by the other.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal


def read_json(body: bytes) -> dict[str, JSON]:
    """Return the parameters that a body holds.

    Raises:
        Refusal: The body is no JSON object.
    """
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not JSON", code="SerializationException") from None
    if not isinstance(found, dict):
        raise Refusal(400, "The body is not a JSON object", code="SerializationException")
    return found


def check(service: str, operation: str, parameters: Mapping[str, JSON], *, code: str = "ValidationException") -> None:
    """Return if the service's model allows the parameters of a call.

    Args:
        service: botocore's name of the service.
        operation: For example `CreateJob`.
        parameters: As they arrived.
        code: Error type of the answer.

    Raises:
        Refusal: 400. The text names every member that is wrong, and what it must be.
    """
    shape = _model(service).operation_model(operation).input_shape
    wrong = [] if shape is None else list(_problems(shape, parameters, ""))
    if wrong:
        noun = "validation error" if len(wrong) == 1 else "validation errors"
        raise Refusal(400, f"{len(wrong)} {noun} detected: {'; '.join(wrong)}", code=code)


@functools.cache
def _model(service: str) -> Any:
    import botocore.session

    return botocore.session.Session().get_service_model(service)


def operations(service: str) -> frozenset[str]:
    """Return the names of all operations of a service."""
    return frozenset(_model(service).operation_names)


_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}


def _problems(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind: str = shape.type_name
    wanted: Any = _PYTHON_TYPES.get(kind, object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{path or 'the request'} must be of the type {kind}"
        return
    secret = bool(shape.metadata.get("sensitive"))
    shown = "The value" if secret else f"Value '{str(value)[:80]}'"
    yield from (f"{shown} at '{path}' failed to satisfy constraint: {rule}" for rule in _broken(shape, value))
    if kind == "structure":
        known = shape.members
        yield from (f"{_join(path, name)} is missing" for name in shape.required_members if name not in value)
        for name, item in value.items():
            if name not in known:
                yield f"{_join(path, name)[:120]} is unknown"
            elif item is not None:
                yield from _problems(known[name], item, _join(path, name))
        if getattr(shape, "is_tagged_union", False) and len(value) != 1:
            yield f"{path} must have exactly one member"
    elif kind == "list":
        for number, item in enumerate(value):
            yield from _problems(shape.member, item, f"{path}.{number + 1}.member")
    elif kind == "map":
        for key, item in value.items():
            yield from _problems(shape.key, key, f"{path}.key")
            yield from _problems(shape.value, item, _join(path, key))


def _broken(shape: Any, value: JSON) -> Iterator[str]:
    limits = shape.metadata
    is_sized = shape.type_name in ("string", "list", "map")
    noun = "have length" if is_sized else "be"
    size = len(value) if is_sized else value
    if "min" in limits and size < limits["min"]:
        yield f"Member must {noun} greater than or equal to {limits['min']}"
    if "max" in limits and size > limits["max"]:
        yield f"Member must {noun} less than or equal to {limits['max']}"
    if shape.type_name == "string":
        if shape.enum and value not in shape.enum:
            yield f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"
        pattern = limits.get("pattern")
        if pattern and not _compiled(pattern).fullmatch(value):
            yield f"Member must satisfy regular expression pattern: {pattern}"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the model. It is one of Java, whose Unicode classes Python lacks: tags have some."""
    has_classes = r"\p{" in pattern
    python = re.sub(r"\\p\{[LN]\}", r"\\w", pattern).replace(r"\p{Z}", r"\s")
    python = re.sub(r"\\p\{[MSP]\}", r"\\S", python)  # wider
    return re.compile(python, re.DOTALL if has_classes else re.ASCII | re.DOTALL)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
