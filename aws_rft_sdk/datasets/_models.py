"""The shapes of rows as pydantic validators, and the rule that each of pydantic's errors breaks.

A shape knows one row. Rules over several messages are in `_messages`, rules over all rows in `_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jiter
from pydantic_core import ErrorDetails, SchemaValidator, ValidationError
from pydantic_core import core_schema as cs
from pydantic_core.core_schema import CoreSchema

from aws_rft_sdk.datasets._text import SEEN, hint, show
from aws_rft_sdk.datasets.rules import RULES, Target

_NONE: Mapping[str, CoreSchema] = {}


def _keys(*, closed: bool = True, optional: Mapping[str, CoreSchema] = _NONE, **required: CoreSchema) -> CoreSchema:
    """Return the schema of an object. A closed object has no other keys."""
    fields = {name: cs.typed_dict_field(schema) for name, schema in required.items()}
    fields |= {name: cs.typed_dict_field(schema, required=False) for name, schema in optional.items()}
    return cs.typed_dict_schema(fields, extra_behavior="forbid" if closed else "ignore")


def _some(items: CoreSchema) -> CoreSchema:
    return cs.list_schema(items, min_length=1)


def _object(value: Any) -> Any:
    """Take an object, or text that is an object in JSON."""
    parsed = jiter.from_json(value.encode(), allow_inf_nan=False) if isinstance(value, str) else value
    if not isinstance(parsed, dict):
        raise ValueError
    return value


# Tags of unions begin with "<": they stand in the place of an error and are no fields.
_TEXT = cs.str_schema(pattern=SEEN)
_ANY, _STRING = cs.any_schema(), cs.str_schema()
_FUNCTION = cs.literal_schema(["function"])
_PARTS = _some(_keys(type=cs.literal_schema(["text"]), text=_TEXT))


def _content(parts: CoreSchema = _PARTS) -> CoreSchema:
    return cs.union_schema([(_TEXT, "<text>"), (parts, "<parts>")], mode="left_to_right")


_CONTENT = _content()
_PERHAPS = cs.tagged_union_schema(
    {"<content>": _CONTENT, "<nothing>": _ANY}, lambda content: "<content>" if content else "<nothing>"
)
_CALL = _keys(closed=False, name=_TEXT, arguments=cs.no_info_after_validator_function(_object, _STRING))
_CALLS = _some(_keys(closed=False, id=_TEXT, type=_FUNCTION, function=_CALL))


def _kind(message: Any) -> str:
    role = str(message.get("role")).lower() if isinstance(message, dict) else ""
    return "<answers>" if role == "tool" else "<calls>" if role == "assistant" and "tool_calls" in message else "<says>"


def _messages(role: CoreSchema, more: Mapping[str, CoreSchema] = _NONE) -> CoreSchema:
    """Return the schema of messages: those that say something, call tools, or answer a call."""
    kinds = {
        "<says>": _keys(role=role, content=_CONTENT, optional=more),
        "<calls>": _keys(role=role, tool_calls=_CALLS, optional={"content": _PERHAPS, **more}),
        "<answers>": _keys(role=role, content=_CONTENT, tool_call_id=_TEXT, optional=more),
    }
    return _some(cs.tagged_union_schema(kinds, _kind))


def _chat(messages: CoreSchema) -> SchemaValidator:
    return SchemaValidator(_keys(closed=False, optional={"messages": messages, "id": _TEXT}))


_ROLES = ["system", "developer", "user", "assistant", "tool"]
_ANY_CASE = cs.chain_schema([cs.str_schema(to_lower=True), cs.literal_schema([*_ROLES, "bot"])])
CHAT = {  # OpenAI's messages may have a name, Nova's may not
    Target.BEDROCK: _chat(_messages(cs.literal_schema(_ROLES), {"name": _TEXT})),
    Target.NOVA: _chat(_messages(_ANY_CASE)),
}
_SAYS = _keys(role=cs.literal_schema(["system", "user", "assistant"]), content=_CONTENT)
PLAIN_CHAT = _chat(cs.list_schema(_SAYS, min_length=1, fail_fast=True))
"""What most rows without tools are, for speed: it has no Python in it."""
_METADATA = _keys(
    prompt=_content(_messages(cs.literal_schema(["system", "user", "assistant", "tool"]))),
    optional={"answer": _STRING, "task": _STRING, "info": cs.no_info_after_validator_function(_object, _ANY)},
)
MULTITURN = SchemaValidator(_keys(id=_TEXT, metadata=_METADATA))
_NAME = cs.str_schema(pattern=r"^[A-Za-z0-9_-]{1,64}$")
_PARAMETERS = _keys(closed=False, type=cs.literal_schema(["object"]), properties=cs.dict_schema(_STRING, _ANY))
_TOOL = _keys(closed=False, name=_NAME, description=_TEXT, parameters=_PARAMETERS)
TOOLS = SchemaValidator(_some(_keys(closed=False, type=_FUNCTION, function=_TOOL)))

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_INNER = cs.definition_reference_schema("schema")
_KEYWORDS: dict[str, CoreSchema] = {
    "type": cs.literal_schema(list(TYPES)),
    **dict.fromkeys(("title", "description", "format"), _STRING),
    "default": _ANY,
    "enum": _some(_ANY),
    "properties": cs.dict_schema(_STRING, _INNER),
    "required": cs.list_schema(_STRING),
    "additionalProperties": cs.bool_schema(strict=True),
    "items": _INNER,
    "anyOf": _some(_INNER),
}
_SCHEMA = {**_keys(optional=_KEYWORDS), "ref": "schema"}
EVERYDAY_SCHEMA = SchemaValidator(cs.definitions_schema(_INNER, [_SCHEMA]))
"""JSON Schemas of everyday keywords. jsonschema takes 100 times as long to find that they are good."""

# Where an error is, without numbers, and pydantic's type of error where it matters.
_RULES = {
    "messages too_short": "messages-empty",
    "messages": "messages-type",
    "messages[]": "message-type",
    "messages[].tool_calls extra_forbidden": "tool-calls-role",
    "messages[].tool_call_id extra_forbidden": "tool-call-id-role",
    "messages[].name": "message-name",
    "messages[].role missing": "role-missing",
    "messages[].role": "role-unknown",
    "messages[].content missing": "content-missing",
    "messages[].content string_pattern_mismatch": "content-empty",
    "messages[].content too_short": "content-empty",
    "messages[].content": "content-type",
    "messages[].content[]": "part-type",
    "messages[].content[].text": "part-text",
    "messages[].tool_call_id": "tool-call-id",
    "messages[].tool_calls": "tool-calls-type",
    "messages[].tool_calls[]": "tool-call",
    "messages[].tool_calls[].function.arguments": "tool-arguments",
    "id missing": "id-missing",
    "id": "id-type",
    "metadata missing": "metadata-missing",
    "metadata": "metadata-type",
    "metadata.prompt missing": "prompt-missing",
    "metadata.prompt string_pattern_mismatch": "prompt-empty",
    "metadata.prompt too_short": "messages-empty",
    "metadata.prompt": "prompt-type",
    **{f"metadata.{name}": "metadata-value" for name in ("answer", "task", "info")},
    "tools too_short": "tools-empty",
    "tools": "tools-type",
    "tools[]": "tool-type",
    "tools[].function.name": "tool-name",
    "tools[].function.description": "tool-description",
    "tools[].function.parameters": "tool-parameters",
}
_CLOSED = {
    "": ("key-unknown", ("id", "metadata")),
    "metadata": ("metadata-key", ("prompt", "answer", "task", "info")),
    "messages[]": ("message-key", ("role", "content", "name", "tool_calls", "tool_call_id")),
    "messages[].content[]": ("part-key", ("type", "text")),
}
"""The rule that another field breaks, and the fields that there may be."""
_NUMBER = re.compile(r"\[\d+\]")


def broken_rules(shape: SchemaValidator, value: Any, field: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield rule, field and problem for each error of a value; `field` is where the value is in its row."""
    try:
        shape.validate_python(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            kind, last = detail["type"], detail["loc"][-1:]
            # Content is text or parts, and errors of the other form were not meant.
            other = kind == "list_type" if last == ("<parts>",) else isinstance(detail["input"], list)
            meant = not other or last not in (("<parts>",), ("<text>",))
            if meant and kind != "string_unicode":  # half of a surrogate pair is a problem of its own
                yield _broken(detail, field)


def _broken(detail: ErrorDetails, field: str) -> tuple[str, str, str]:
    kind, steps = detail["type"], detail["loc"]
    if kind == "extra_forbidden":  # the last step is a name of any kind
        extra, steps = str(steps[-1]), steps[:-1]
    parts = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps if not str(step).startswith("<")]
    place = (field + "".join(parts)).removeprefix(".")
    path = _NUMBER.sub("[]", place).replace("metadata.prompt[", "messages[")
    if kind == "extra_forbidden":
        place = f"{place}.{extra}".removeprefix(".")
        if rule := _RULES.get(f"{path}.{extra} {kind}", ""):
            return rule, place, RULES[rule].meaning
        rule, fields = _CLOSED[path]
        return rule, place, f"there is no field {extra!r} here{hint(extra, fields)}"
    rule = _RULES.get(f"{path} {kind}", "")
    while not rule:
        rule, path = _RULES.get(path, ""), path.rpartition(".")[0]
    if kind == "missing":
        return rule, place, f"there is no {steps[-1]}"
    meant = hint(detail["input"], detail["ctx"]["expected"].split("'")[1::2]) if kind == "literal_error" else ""
    return rule, place, f"{RULES[rule].meaning}: {show(detail['input'])}{meant}"
