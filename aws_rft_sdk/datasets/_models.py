"""The shapes of rows as pydantic validators, and the rule that each of pydantic's errors breaks.

Each shape is there twice. The plain one fits most rows, has no Python in it, and says yes in half the time. The whole
one says what is wrong with the other rows. Sources stand beside the rules, in `rules`. A shape knows one row; rules
over all rows are in `_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jiter
from pydantic_core import ErrorDetails, PydanticCustomError, SchemaValidator, ValidationError
from pydantic_core import core_schema as cs
from pydantic_core.core_schema import CoreSchema

from aws_rft_sdk.datasets._text import SEEN, hint, show
from aws_rft_sdk.datasets.rules import Target

_NONE: Mapping[str, CoreSchema] = {}


def _keys(*, closed: bool = True, optional: Mapping[str, CoreSchema] = _NONE, **required: CoreSchema) -> CoreSchema:
    """Return the schema of an object. A closed one has no other keys."""
    fields = {name: cs.typed_dict_field(schema) for name, schema in required.items()}
    fields |= {name: cs.typed_dict_field(schema, required=False) for name, schema in optional.items()}
    return cs.typed_dict_schema(fields, extra_behavior="forbid" if closed else "ignore")


def _some(items: CoreSchema) -> CoreSchema:
    return cs.list_schema(items, min_length=1)


def _either(*choices: CoreSchema) -> CoreSchema:
    return cs.union_schema(list(choices), mode="left_to_right")


def _object(value: Any) -> Any:
    """Take an object, or text that is one in JSON."""
    if not isinstance(value, str | dict):
        raise ValueError
    if isinstance(value, str) and not isinstance(jiter.from_json(value.encode(), allow_inf_nan=False), dict):
        raise ValueError
    return value


def _no_field(value: Any) -> Any:
    raise PydanticCustomError("extra_forbidden", "Extra inputs are not permitted")


# Tags of unions are in angle brackets, so that they are told from the names of fields in the place of an error.
_TEXT = cs.str_schema(pattern=SEEN)  # in which something can be seen
_ANY, _STRING = cs.any_schema(), cs.str_schema()
_OBJECT_TEXT = cs.no_info_after_validator_function(_object, _STRING)
_PARTS = _some(_keys(type=cs.literal_schema(["text"]), text=_TEXT))


def _content(messages: CoreSchema = _PARTS, **more: CoreSchema) -> CoreSchema:
    def form(content: Any) -> str:
        return "<parts>" if type(content) is list else "<text>" if content or not more else "<nothing>"

    return cs.tagged_union_schema(
        {"<text>": _TEXT, "<parts>": messages, **{f"<{k}>": v for k, v in more.items()}}, form
    )


_CALLS = _some(
    _keys(
        closed=False,
        id=_TEXT,
        type=cs.literal_schema(["function"]),
        function=_keys(closed=False, name=_TEXT, arguments=_OBJECT_TEXT),
    )
)


def _messages(roles: Sequence[str], *, any_case: bool = False, named: bool = False) -> CoreSchema:
    """Return the schema of messages: those that say something, call tools, or answer a call."""
    # OpenAI's messages may have a name, Nova's may not.
    name = {"name": _TEXT if named else cs.no_info_after_validator_function(_no_field, _ANY)}
    role: CoreSchema = cs.literal_schema(list(roles))
    if any_case:
        role = cs.no_info_before_validator_function(lambda v: v.lower() if isinstance(v, str) else v, role)
    content = _content()

    def kind(message: Any) -> str:
        told = message.get("role") if type(message) is dict else None
        return (
            "<answers>"
            if told == "tool"
            else "<calls>"
            if told == "assistant" and "tool_calls" in message
            else "<says>"
        )

    kinds = {
        "<says>": _keys(role=role, content=content, optional=name),
        "<calls>": _keys(role=_ANY, tool_calls=_CALLS, optional={"content": _content(nothing=_ANY), **name}),
        "<answers>": _keys(role=_ANY, content=content, tool_call_id=_TEXT, optional=name),
    }
    return _some(cs.tagged_union_schema(kinds, kind))


_ROLES = ("system", "developer", "user", "assistant", "tool")
_MULTITURN_ROLES = ("system", "user", "assistant", "tool")
_PLAIN_MESSAGES = _some(_keys(role=cs.literal_schema(["system", "user", "assistant"]), content=_either(_TEXT, _PARTS)))
_ID = {"id": _TEXT}


def _multiturn(prompt: CoreSchema, info: CoreSchema) -> CoreSchema:
    return _keys(id=_TEXT, metadata=_keys(prompt=prompt, optional={"answer": _STRING, "task": _STRING, "info": info}))


def _tools(parameters: CoreSchema) -> CoreSchema:
    name = cs.str_schema(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    function = _keys(closed=False, name=name, description=_TEXT, parameters=parameters)
    return _some(_keys(closed=False, type=cs.literal_schema(["function"]), function=function))


def _plain_schema(depth: int = 2) -> CoreSchema:
    """Return the schema of JSON Schemas of everyday keywords. jsonschema takes 100 times as long to check them."""
    keywords: dict[str, CoreSchema] = {"type": cs.literal_schema(list(TYPES)), "title": _STRING, "description": _STRING}
    keywords |= {"default": _ANY, "enum": _some(_ANY)}
    if depth:
        inner = _plain_schema(depth - 1)
        keywords |= {"properties": cs.dict_schema(_STRING, inner), "items": inner, "required": cs.list_schema(_STRING)}
    return _keys(optional=keywords)


TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_PLAIN_PARAMETERS = _keys(
    type=cs.literal_schema(["object"]),
    properties=cs.dict_schema(_STRING, _plain_schema()),
    optional={"title": _STRING, "description": _STRING, "required": cs.list_schema(_STRING)},
)
CHAT = {
    Target.BEDROCK: SchemaValidator(_keys(closed=False, messages=_messages(_ROLES, named=True), optional=_ID)),
    Target.NOVA: SchemaValidator(
        _keys(closed=False, messages=_messages((*_ROLES, "bot"), any_case=True), optional=_ID)
    ),
}
MULTITURN = SchemaValidator(
    _multiturn(_content(_messages(_MULTITURN_ROLES)), cs.no_info_after_validator_function(_object, _ANY))
)
TOOLS = SchemaValidator(
    _tools(_keys(closed=False, type=cs.literal_schema(["object"]), properties=cs.dict_schema(_STRING, _ANY)))
)
PLAIN_CHAT = SchemaValidator(_keys(closed=False, messages=_PLAIN_MESSAGES, optional=_ID))
PLAIN_MULTITURN = SchemaValidator(_multiturn(_either(_TEXT, _PLAIN_MESSAGES), cs.dict_schema(_STRING, _ANY)))
PLAIN_TOOLS = SchemaValidator(_tools(_PLAIN_PARAMETERS))

# A path without numbers, then pydantic's type of error. The first line that fits says which rule is broken.
_MESSAGE = r"(?:messages|metadata\.prompt)\[\]"
_RULES = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in {
        r"messages missing": "messages-missing",
        r"(messages|metadata\.prompt) too_short": "messages-empty",
        r"messages .*": "messages-type",
        rf"{_MESSAGE} .*": "message-type",
        rf"{_MESSAGE}\.tool_calls extra_forbidden": "tool-calls-role",
        rf"{_MESSAGE}\.tool_call_id extra_forbidden": "tool-call-id-role",
        rf"{_MESSAGE}\.\* extra_forbidden": "message-key",
        rf"{_MESSAGE}\.name .*": "message-name",
        rf"{_MESSAGE}\.role missing": "role-missing",
        rf"{_MESSAGE}\.role .*": "role-unknown",
        rf"{_MESSAGE}\.content missing": "content-missing",
        rf"{_MESSAGE}\.content (string_pattern_mismatch|too_short)": "content-empty",
        rf"{_MESSAGE}\.content .*": "content-type",
        rf"{_MESSAGE}\.content\[\](\.type)? .*": "part-type",
        rf"{_MESSAGE}\.content\[\]\.text .*": "part-text",
        rf"{_MESSAGE}\.content\[\]\.\* extra_forbidden": "part-key",
        rf"{_MESSAGE}\.tool_call_id .*": "tool-call-id",
        rf"{_MESSAGE}\.tool_calls .*": "tool-calls-type",
        rf"{_MESSAGE}\.tool_calls\[\]\.function\.arguments .*": "tool-arguments",
        rf"{_MESSAGE}\.tool_calls\[\].*": "tool-call",
        r"id missing": "id-missing",
        r"id .*": "id-type",
        r"metadata missing": "metadata-missing",
        r"metadata .*": "metadata-type",
        r"metadata\.prompt missing": "prompt-missing",
        r"metadata\.prompt string_pattern_mismatch": "prompt-empty",
        r"metadata\.prompt .*": "prompt-type",
        r"metadata\.\* extra_forbidden": "metadata-key",
        r"metadata\.(answer|task|info) .*": "metadata-value",
        r"\* extra_forbidden": "key-unknown",
        r"tools too_short": "tools-empty",
        r"tools .*": "tools-type",
        r"tools\[\]\.function\.name .*": "tool-name",
        r"tools\[\]\.function\.description .*": "tool-description",
        r"tools\[\]\.function\.parameters.*": "tool-parameters",
        r"tools\[\].*": "tool-type",
    }.items()
)
_PROBLEMS = {
    "dict_type": "is no object",
    "list_type": "is no array",
    "string_type": "is no text",
    "string_pattern_mismatch": "holds nothing that can be seen",
    "too_short": "is empty",
    "value_error": "is no JSON object",
}
_PROBLEMS_OF_RULES = {
    "role-unknown": "is no role of this service",
    "tool-name": "is no name of up to 64 letters, digits, _ and -",
    "content-type": "is neither text nor an array of parts",
    "prompt-type": "is neither text nor messages",
    "tool-arguments": "is no JSON object in text",
    "tool-calls-role": "stands in a message that is not the assistant's",
    "tool-call-id-role": "stands in a message that is not a tool's",
}
_FIELDS = {
    "message-key": ("role", "content", "name", "tool_calls", "tool_call_id"),
    "part-key": ("type", "text"),
    "metadata-key": ("prompt", "answer", "task", "info"),
    "key-unknown": ("id", "metadata"),
}
_CALLING = re.compile(rf"{_MESSAGE}\.tool_call(s|_id)")
_TAGS = ("", "<text>", "<parts>", "<nothing>", "<says>", "<calls>", "<answers>")
_NUMBER = re.compile(r"\[\d+\]")


def broken_rules(shape: SchemaValidator, value: Any, field: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield rule, field and problem for each error of a value; `field` is where the value is in its row."""
    try:
        shape.validate_python(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "string_unicode":  # half of a surrogate pair, which is a problem of its own
                continue
            *steps, last = ("", *detail["loc"])
            extra = detail["type"] == "extra_forbidden"  # the last step is a key of any name then
            parent = _path(field, steps if extra else [*steps, last])
            place = _path(parent, [last]) if extra else parent
            path = _NUMBER.sub("[]", place)
            if extra and not _CALLING.fullmatch(path):
                path = f"{_NUMBER.sub('[]', parent)}.*".removeprefix(".")
            rule = next(rule for pattern, rule in _RULES if pattern.fullmatch(f"{path} {detail['type']}"))
            yield rule, place, _problem(detail, rule)


def _path(before: str, steps: Sequence[int | str]) -> str:
    named = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps if step not in _TAGS]
    return (before + "".join(named)).removeprefix(".")


def _problem(detail: ErrorDetails, rule: str) -> str:
    kind, value = detail["type"], show(detail["input"])
    if kind == "missing":
        return f"there is no {detail['loc'][-1]}"
    if kind == "extra_forbidden" and rule in _FIELDS:
        return f"there is no field {detail['loc'][-1]!r} here{hint(detail['loc'][-1], _FIELDS[rule])}"
    meant = ""
    if kind == "literal_error":
        expected = str(detail["ctx"]["expected"])
        kind, meant = f"is not {expected}", hint(detail["input"], expected.split("'")[1::2])
    return f"{value} {_PROBLEMS_OF_RULES.get(rule) or _PROBLEMS.get(kind, kind)}{meant}"
