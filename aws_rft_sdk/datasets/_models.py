"""The shapes of rows as pydantic models, and the rule that each of pydantic's errors breaks.

Sources stand beside the rules, in `rules`. A model knows one row. Rules over all rows are in `_rows`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

import jiter
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import NotRequired, TypedDict

from aws_rft_sdk.datasets._text import SEEN, hint, show
from aws_rft_sdk.datasets.rules import Target

_CLOSED = ConfigDict(extra="forbid")

Text = Annotated[str, StringConstraints(pattern=SEEN)]
"""Text in which something can be seen."""


def _object(value: Any) -> Any:
    if type(value) is not dict and type(jiter.from_json(value.encode(), allow_inf_nan=False)) is not dict:
        raise ValueError
    return value


def _object_or_text(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError
    return _object(value)


ObjectText = Annotated[str, AfterValidator(_object)]
"""Text that is a JSON object."""


def _forbidden(value: Any) -> Any:
    raise PydanticCustomError("extra_forbidden", "Extra inputs are not permitted")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


_Role = Literal["system", "developer", "user", "assistant", "tool"]
_NovaRole = Annotated[Literal["system", "developer", "user", "assistant", "tool", "bot"], BeforeValidator(_lower)]
_MultiturnRole = Literal["system", "user", "assistant", "tool"]
_NoName = Annotated[Any, AfterValidator(_forbidden)]  # OpenAI's messages may have a name, Nova's may not
_R = TypeVar("_R")
_N = TypeVar("_N")


class Part(TypedDict):
    """A part of a message's content."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc] # pydantic reads it, and mypy knows no attribute of a TypedDict
    type: Literal["text"]
    text: Text


def _form(content: Any) -> str:
    return "<parts>" if type(content) is list else "<text>"


def _form_beside_calls(content: Any) -> str:
    return _form(content) if content else "<nothing>"


_TextOrParts = Annotated[Text, Tag("<text>")] | Annotated[list[Part], Field(min_length=1), Tag("<parts>")]
Content = Annotated[_TextOrParts, Discriminator(_form)]


class Function(TypedDict):
    """The function that a tool call names."""

    name: Text
    arguments: ObjectText


class Call(TypedDict):
    """A tool call."""

    id: Text
    type: Literal["function"]
    function: Function


class Says(TypedDict, Generic[_R, _N]):
    """A message of text."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    role: _R
    content: Content
    name: NotRequired[_N]


class Calls(TypedDict, Generic[_N]):
    """A message of the assistant that calls tools. It need not say anything."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    role: Any
    content: NotRequired[Annotated[_TextOrParts | Annotated[Any, Tag("<nothing>")], Discriminator(_form_beside_calls)]]
    tool_calls: Annotated[list[Call], Field(min_length=1)]
    name: NotRequired[_N]


class Answers(TypedDict, Generic[_N]):
    """A message in which a tool answers a call."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    role: Any
    content: Content
    tool_call_id: Text
    name: NotRequired[_N]


def _kind(message: Any) -> str:
    if type(message) is dict:
        role = message.get("role")
        if role == "tool":
            return "<answers>"
        if role == "assistant" and "tool_calls" in message:
            return "<calls>"
    return "<says>"


Message = Annotated[
    Annotated[Says[_R, _N], Tag("<says>")]
    | Annotated[Calls[_N], Tag("<calls>")]
    | Annotated[Answers[_N], Tag("<answers>")],
    Discriminator(_kind),
]


class Chat(TypedDict, Generic[_R, _N]):
    """A row for Bedrock or Nova, apart from what depends on other rows: answers, tools, optional fields."""

    messages: Annotated[list[Message[_R, _N]], Field(min_length=1)]
    id: NotRequired[Text]


Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Message[_MultiturnRole, _NoName]], Field(min_length=1), Tag("<parts>")],
    Discriminator(_form),
]


class Metadata(TypedDict):
    """The metadata of a row for Nova Forge."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    prompt: Prompt
    answer: NotRequired[str]
    task: NotRequired[str]
    info: NotRequired[Annotated[Any, AfterValidator(_object_or_text)]]


class Multiturn(TypedDict):
    """A row for Nova Forge with an environment of one's own."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    id: Text
    metadata: Metadata


_PlainRole = Literal["system", "user", "assistant"]


class PlainMessage(TypedDict):
    """A message as most are."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    role: _PlainRole
    content: Annotated[Text | Annotated[list[Part], Field(min_length=1)], Field(union_mode="left_to_right")]


_PlainMessages = Annotated[list[PlainMessage], Field(min_length=1)]


class PlainChat(TypedDict):
    """A row as most are. What fits breaks no rule of `Chat`, and is looked at in half the time."""

    messages: _PlainMessages
    id: NotRequired[Text]


class PlainMetadata(TypedDict):
    """Metadata as most are."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    prompt: Annotated[Text | _PlainMessages, Field(union_mode="left_to_right")]
    answer: NotRequired[str]
    task: NotRequired[str]
    info: NotRequired[dict[str, Any]]


class PlainMultiturn(TypedDict):
    """A row as most are, of which `Multiturn` has nothing to say."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    id: Text
    metadata: PlainMetadata


class ObjectSchema(TypedDict):
    """The parameters of a tool, as far as Nova's validator looks. `jsonschema` looks further."""

    type: Literal["object"]
    properties: dict[str, Any]


_P = TypeVar("_P")


class ToolFunction(TypedDict, Generic[_P]):
    """What a tool is."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text
    parameters: _P


class Tool(TypedDict, Generic[_P]):
    """A tool of a row."""

    type: Literal["function"]
    function: ToolFunction[_P]


_Type = Literal["string", "number", "integer", "boolean", "object", "array", "null"]


class PlainSchema(TypedDict):
    """A JSON Schema of everyday keywords. What fits needs no look by jsonschema, which takes 100 times as long."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    type: NotRequired[_Type]
    title: NotRequired[str]
    description: NotRequired[str]
    default: NotRequired[Any]
    enum: NotRequired[Annotated[list[Any], Field(min_length=1)]]
    items: NotRequired["PlainSchema"]


class PlainParameters(TypedDict):
    """The parameters of a tool, of the everyday keywords."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    type: Literal["object"]
    title: NotRequired[str]
    description: NotRequired[str]
    required: NotRequired[list[str]]
    properties: dict[str, "PlainSchema"]


Model = TypeAdapter[Any]
CHAT: Mapping[Target, Model] = {
    Target.BEDROCK: TypeAdapter(Chat[_Role, Text]),
    Target.NOVA: TypeAdapter(Chat[_NovaRole, _NoName]),
}
PLAIN_CHAT: Model = TypeAdapter(PlainChat)
PLAIN_MULTITURN: Model = TypeAdapter(PlainMultiturn)
MULTITURN: Model = TypeAdapter(Multiturn)
TOOLS: Model = TypeAdapter(Annotated[list[Tool[ObjectSchema]], Field(min_length=1)])
PLAIN_TOOLS: Model = TypeAdapter(Annotated[list[Tool[PlainParameters]], Field(min_length=1)])

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
_CALLING = ("tool_calls", "tool_call_id")
_NUMBER = re.compile(r"\[\d+\]")


def broken_rules(model: Model, value: Any, field: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield rule, field and problem for each error of a value; `field` is where the value is in its row."""
    try:
        model.validator.validate_python(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "string_unicode":  # half of a surrogate pair, which is a problem of its own
                continue
            steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in detail["loc"]]
            place = (field + "".join(step for step in steps if step[:2] != ".<")).removeprefix(".")
            path = _NUMBER.sub("[]", place)
            if detail["type"] == "extra_forbidden" and detail["loc"][-1] not in _CALLING:
                path = path.removesuffix(str(detail["loc"][-1])) + "*"  # the name may hold anything
            rule = next(rule for pattern, rule in _RULES if pattern.fullmatch(f"{path} {detail['type']}"))
            yield rule, place, _problem(detail, rule)


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
