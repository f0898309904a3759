"""Checks the parameters of an AWS call against botocore's model of the service.

botocore itself checks only types, minima and required members. The model also has maxima, enumerations, patterns and
unions, which the service checks when the call has been sent.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import botocore.session

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.jobs.types import Problem

BOTOCORE = "botocore service model bedrock 2023-04-20"
_EXAMPLES = {
    "JobName": "gsm8k-first",
    "CustomModelName": "gsm8k-first",
    "ModelDeploymentName": "gsm8k-first",
    "RoleArn": "arn:aws:iam::123456789012:role/nova-rft",
    "LambdaArn": "arn:aws:lambda:us-east-1:123456789012:function:gsm8k",
    "BaseModelIdentifier": "amazon.nova-2-lite-v1:0:256k",
    "S3Uri": "s3://bucket/folder/train.jsonl",
    "KmsKeyId": "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012",
    "SubnetId": "subnet-0123456789abcdef0",
    "SecurityGroupId": "sg-0123456789abcdef0",
}
"""A value of a shape with a pattern, for the user to imitate."""
FUNCTION_NAME = "[a-zA-Z0-9_-]{1,64}"
"""A name of a Lambda function. The shape of Lambda's model also takes ARNs."""
# Both match the same names. Python needs time that doubles with every hyphen to see that the first one does not match.
_SLOW, _FAST = r"(-*[a-zA-Z0-9\+\-\.])*", r"[a-zA-Z0-9\+\-\.]*"
_CATEGORIES = {"L": r"\w", "N": r"\w", "Z": r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"}
"""Characters of Unicode's categories in tags, as Python's `re` spells them."""


def shape_problems(service: str, operation: str, parameters: Mapping[str, JSON]) -> list[Problem]:
    """Return everything that is wrong with the parameters of a call, in the order of the parameters.

    Args:
        service: boto3's name of the service, for example `bedrock`.
        operation: For example `CreateModelCustomizationJob`.
        parameters: What boto3's method gets.
    """
    model = _service_model(service)
    source = f"botocore service model {service} {model.api_version}"
    found = _walk(model.operation_model(operation).input_shape, parameters, "")
    return [Problem(path, value, rule, source) for path, value, rule in found]


def shape_of(name: str, service: str = "bedrock") -> Any:
    """Return a shape of botocore's model of a service, for example `JobName`."""
    return _service_model(service).shape_for(name)


def broken_rule(shape: str, value: JSON, service: str = "bedrock") -> str | None:
    """Return the first rule of a shape of a service that a value breaks. Returns None if it keeps all of them."""
    return next((rule for _, _, rule in _walk(shape_of(shape, service), value, "")), None)


def value_problems(shape: str, value: JSON, path: str) -> list[Problem]:
    """Return what is wrong with the value of one field, by a shape of Bedrock."""
    rule = broken_rule(shape, value)
    return [Problem(path, value, rule, BOTOCORE)] if rule else []


@functools.cache
def _service_model(service: str) -> Any:
    return botocore.session.Session().get_service_model(service)


_Found = Iterator[tuple[str, JSON, str]]


def _walk(shape: Any, value: JSON, path: str) -> _Found:
    found = _check(shape, value, path)
    return ((where, "<hidden>", rule) for where, _, rule in found) if shape.metadata.get("sensitive") else found


def _check(shape: Any, value: JSON, path: str) -> _Found:
    is_type, noun = _TYPES.get(shape.type_name, (None, ""))
    if is_type is not None and not is_type(value):
        shown = value if isinstance(value, str | int | list | dict | None) else repr(value)
        kind = "null" if value is None else repr(value) if isinstance(value, float) else type(value).__name__
        yield path, shown, f"must be {noun}, and not {kind}"
        return
    if problem := _problem(shape, value):
        yield path, value, problem
    if shape.type_name == "structure":
        yield from _structure(shape, value, path)
    elif shape.type_name == "list":
        for number, item in enumerate(value):
            yield from _walk(shape.member, item, f"{path}[{number}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from _walk(shape.key, key, f"{path}.{key}")
            yield from _walk(shape.value, item, f"{path}.{key}")


def _structure(shape: Any, value: Mapping[str, JSON], path: str) -> _Found:
    prefix = f"{path}." if path else ""
    members = shape.members
    for name in shape.required_members:
        if name not in value:
            yield prefix + name, None, f"is missing{_like(members[name])}"
    for name, item in value.items():
        if name in members:
            yield from _walk(members[name], item, prefix + name)
        else:
            near = difflib.get_close_matches(str(name), members, 1, 0.5) or [", ".join(members)]
            yield f"{prefix}{name}", item, f"is unknown. Known: {near[0]}"
    if shape.is_tagged_union and len(value) != 1:
        yield path, sorted(map(str, value)), f"must have exactly one of {', '.join(members)}"


def _problem(shape: Any, value: JSON) -> str | None:
    """Return which limit of its shape a value of the right type breaks."""
    limits = shape.metadata
    low, high = limits.get("min", -math.inf), limits.get("max", math.inf)
    if shape.type_name in ("string", "list", "map"):
        unit = {"string": "characters", "list": "items", "map": "pairs"}[shape.type_name]
        if not low <= len(value) <= high:
            return f"has {len(value)} {unit}, and must have {_range(low, high)}{_like(shape)}"
    elif shape.type_name in ("integer", "long", "float", "double") and not low <= value <= high:
        return f"must be {_range(low, high)}"
    choices = getattr(shape, "enum", ())
    if choices and value not in choices:
        return f"must be one of {', '.join(choices)}"
    pattern = limits.get("pattern") if shape.type_name == "string" else None
    if pattern and not _python_pattern(pattern).fullmatch(value):
        return f"must match the pattern {pattern}" if shape.name not in _EXAMPLES else f"is malformed{_like(shape)}"
    return None


@functools.cache
def _python_pattern(pattern: str) -> re.Pattern[str]:
    if "\\p{" not in pattern:
        return re.compile(pattern.replace(_SLOW, _FAST), re.ASCII)
    for category, characters in _CATEGORIES.items():
        pattern = pattern.replace(f"\\p{{{category}}}", characters)
    return re.compile(pattern)


def _range(low: float, high: float) -> str:
    if low == high:
        return f"exactly {low}"
    if math.isinf(high):
        return f"at least {low}"
    return f"at most {high}" if math.isinf(low) else f"from {low} to {high}"


def _like(shape: Any) -> str:
    example = _EXAMPLES.get(shape.name)
    return f". Write it like {example}" if example else ""


def _is_integer(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: JSON) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


_INTEGER: tuple[Callable[[JSON], bool], str] = (_is_integer, "an integer")
_NUMBER: tuple[Callable[[JSON], bool], str] = (_is_number, "a finite number")
_TYPES: dict[str, tuple[Callable[[JSON], bool], str]] = {
    "structure": (lambda value: isinstance(value, Mapping), "a table"),
    "map": (lambda value: isinstance(value, Mapping), "a table"),
    "list": (lambda value: isinstance(value, Sequence) and not isinstance(value, str | bytes), "a list"),
    "string": (lambda value: isinstance(value, str), "a string"),
    "boolean": (lambda value: isinstance(value, bool), "true or false"),
    **{"integer": _INTEGER, "long": _INTEGER, "float": _NUMBER, "double": _NUMBER},
}
"""How values of a shape's type are told from others, and what to call them. Types that are absent are not checked."""
