"""Tables of a job's file: what a field must be, in words, and what is wrong with a table as it was written."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._text import hint
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._shapes import broken_rule, shape_of
from aws_rft_sdk.jobs.types import OURS, Problem

_WIDTH = 100
"""Of a line of comment."""
_SECRET_NAME = re.compile(
    r"secret|token(?!s)|passw|credential|authorization|api_?key|access_?key|private_?key", re.IGNORECASE
)
_SECRET = re.compile(
    r"(sagemaker|bedrock)-api-key-|\b(ABSK|sk-|hf_|ghp_)[A-Za-z0-9_-]{12}|\bA[SK]IA[0-9A-Z]{12}|\bbearer\s"
    r"|^[A-Za-z0-9/+]{40}$",  # the last is the form of AWS's secret access keys
    re.IGNORECASE,
)


class Table(BaseModel):
    """A table of the file. A value of another type is refused rather than converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Form(NamedTuple):
    """What a text must be, in words."""

    words: str


@dataclass(frozen=True)
class Shape:
    """A value that must fit a shape of botocore's model of a service. Its limits are there, and nowhere else.

    Attributes:
        name: Of the shape, for example `JobName`.
        words: What the value must be. Without them, the choices or the range of the shape are told.
        service: boto3's name of the service.
    """

    name: str
    words: str = ""
    service: str = "bedrock"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: JSON) -> JSON:
        if rule := broken_rule(self.name, value, self.service):
            raise ValueError(rule)
        return value

    def in_words(self, number: str) -> str:
        """Return what the value must be. `number` says which kind of number."""
        shape = shape_of(self.name, self.service)
        if choices := getattr(shape, "enum", None):
            return " or ".join(f'"{value}"' for value in choices)
        return self.words or f"{number} from {shape.metadata['min']:g} to {shape.metadata['max']:g}"


def setting(
    source: str, text: str, *, sample: Any = None, example: Any = None, default: Any = None, rule: str = ""
) -> Any:
    """Define a field. A first file has the sample; without one it has the example as a comment.

    The rule says in words what the value must be. It is for fields whose type does not say it.
    """
    about = {"source": source, "sample": sample, "example": example, "rule": rule}
    return Field(default, description=text, json_schema_extra=about)


def table_of(field: FieldInfo) -> type[Table] | None:
    """Return the table that a field is. Returns None for a value."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None)


def source_of(field: FieldInfo | None) -> str:
    """Return where the rule of a field is documented."""
    extra = field and field.json_schema_extra
    return str(extra["source"]) if isinstance(extra, dict) else OURS


def rule_of(field: FieldInfo) -> str:
    """Return in words what the value of a field must be."""
    extra = field.json_schema_extra
    told = str(extra["rule"]) if isinstance(extra, dict) else ""
    return told or words_of(field.annotation, field.metadata)


def words_of(kind: Any, about: Iterable[Any] = ()) -> str:
    """Return in words what a value of a type, perhaps annotated, must be."""
    if get_origin(kind) is Annotated:
        kind, *about = get_args(kind)
    facts = [fact for item in about for fact in (item.metadata if isinstance(item, FieldInfo) else [item])]
    number = "a whole number" if kind is int else "a finite number"
    for fact in facts:
        if isinstance(fact, Form):
            return fact.words
        if isinstance(fact, Shape):
            return fact.in_words(number)
        if hasattr(fact, "ge"):
            most = next((f" to {other.le:g}" for other in facts if hasattr(other, "le")), None)
            return f"{number} from {fact.ge:g}{most}" if most else f"{number} of at least {fact.ge:g}"
        if hasattr(fact, "gt"):
            return f"{number} above {fact.gt:g}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(words_of(one) for one in get_args(kind) if one is not NoneType)
    if isinstance(kind, type) and issubclass(kind, Table):
        return "a table"
    if get_origin(kind) is Literal:
        return " or ".join(map(json.dumps, get_args(kind)))
    return "true or false"


def table_problems(kind: type[Table], raw: JSON) -> list[Problem]:
    """Return one problem for each path of a table that has a wrong value, a wrong name or nothing.

    Args:
        kind: What the table must be.
        raw: The table as it was written.
    """
    try:
        kind.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
    else:
        return []
    found: dict[str, Problem] = {}
    for item in errors:  # for a union pydantic has an error for each member
        parts: list[str] = []
        value, table = raw, kind
        for part in item["loc"]:
            if isinstance(part, int):  # a table in a list of tables
                parts[-1] += f"[{part}]"
                value = value[part]
                continue
            parts.append(part)
            value, field = value_at(value, [part]), table.model_fields.get(part)
            inner = field and table_of(field)
            if not inner:
                break
            table = inner
        path = ".".join(parts)
        if field is None:
            rule, source = _unknown(kind, table, parts), OURS
        else:
            rule, source = f"must be {rule_of(field)}", source_of(field)
            rule = f"is missing; it {rule}" if item["type"] == "missing" else rule
        found.setdefault(path, Problem(path, shown(value, path), rule, source))
    return list(found.values())


def _unknown(kind: type[Table], table: type[Table], parts: list[str]) -> str:
    """Return what is wrong with a name that a table does not have, and what was meant."""
    name, rule = (
        parts[-1],
        f"is no field of [{'.'.join(parts[:-1])}]" if len(parts) > 1 else "is no name that fits here",
    )
    if near := hint(name, table.model_fields):
        return rule + near
    fields = {other: getattr(table_of(field), "model_fields", ()) for other, field in kind.model_fields.items()}
    others = [other for other, names in fields.items() if name in names]
    if others:
        return f"{rule}; it belongs to [{others[0]}]"
    return rule + (
        hint(name, {n for names in fields.values() for n in names}) or f"; it has {', '.join(table.model_fields)}"
    )


def value_at(value: JSON, path: Iterable[str]) -> JSON:
    """Return what stands at a path. Returns None if nothing does."""
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class Values:
    """The values of a file that are right by themselves, however wrong the others are."""

    def __init__(self, kind: type[Table], raw: Mapping[str, JSON], problems: Iterable[Problem]) -> None:
        self.kind, self.raw, self.wrong = kind, raw, {problem.path for problem in problems}

    def written(self, path: str) -> bool:
        """Whether the file has a value there, right or wrong."""
        return value_at(self.raw, path.split(".")) is not None

    def get(self, path: str) -> Any:
        """Return a value, the default if the file has none. Returns None for a wrong one."""
        if any(path == wrong or path.startswith(f"{wrong}.") for wrong in self.wrong):
            return None
        value = value_at(self.raw, path.split("."))
        field = field_at(self.kind, path)
        if value is not None or field is None or field.is_required():
            return value
        default = field.get_default()
        return default.model_dump(exclude_none=True) if isinstance(default, Table) else default


def field_at(kind: type[Table] | None, path: str) -> FieldInfo | None:
    """Return the definition of the field at a path. Returns None if there is none."""
    field = None
    for part in path.split("."):
        field = kind.model_fields.get(part) if kind else None
        kind = table_of(field) if field else None
    return field


def one_of(values: Values, table: str, *names: str, source: str = OURS) -> Iterator[Problem]:
    """Yield the problem that a table does not have exactly one of some fields."""
    given = [name for name in names if values.written(f"{table}.{name}")]
    if len(given) != 1 and isinstance(values.get(table), dict):
        rule = f"give exactly one of {', '.join(names)}" + (f", not {' and '.join(given)}" if given else "")
        found = {name: values.get(f"{table}.{name}") for name in given} or None
        yield Problem(table, found, rule, source)


def fits(kind: Any, value: JSON) -> bool:
    """Return whether a value is of a type, perhaps annotated."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def shown(value: JSON, path: str = "") -> JSON:
    """Return a value as JSON can hold it, without what looks like a secret by itself or by the names in its path."""
    if isinstance(value, Mapping):
        return {str(key): shown(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item, path) for item in value]
    if value is not None and (_SECRET_NAME.search(path) or _SECRET.search(str(value))):
        return "***"
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value)


def read_toml(path: Path) -> dict[str, JSON] | Problem:
    """Return what a TOML file says, or why it is none.

    Raises:
        ConfigurationError: The file cannot be read from the disk.
    """
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        read: dict[str, JSON] = toml.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Problem("", None, f"line {line} is not UTF-8; save the file as UTF-8", "TOML 1.0")
    except (ValueError, RecursionError) as error:
        return Problem("", None, f"the file is no TOML: {error}", "TOML 1.0")
    return read


def comment(text: str) -> list[str]:
    """Return a text as lines of comment."""
    return [f"# {line}" for line in textwrap.wrap(re.sub(r"\s+", " ", text), _WIDTH - 2)]


def about_field(field: FieldInfo) -> list[str]:
    """Return as lines of comment what a field is for, its rule, its default and its source."""
    inner = table_of(field)
    rule = "a table with " + ", ".join(inner.model_fields) if inner else rule_of(field)
    default = field.get_default()
    ends = (
        "Required." if field.is_required() else "" if default in (None, [], {}) else f"Default: {json.dumps(default)}."
    )
    return comment(f"{field.description} {rule[0].upper()}{rule[1:]}. {ends} Source: {source_of(field)}.")
