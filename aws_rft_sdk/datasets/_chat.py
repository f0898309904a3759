"""Rules of message lists and of tool schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from aws_rft_sdk.datasets.rules import Target

Note = Callable[[str, str, str], None]
"""Takes rule, field and problem; the line is the caller's."""

_ROLES = {
    Target.BEDROCK: frozenset({"system", "developer", "user", "assistant", "tool"}),
    Target.NOVA: frozenset({"system", "developer", "user", "assistant", "tool", "bot"}),
    Target.NOVA_MULTITURN: frozenset({"system", "user", "assistant", "tool"}),
}
_MESSAGE_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id"})
_KEYS = {Target.BEDROCK: _MESSAGE_KEYS | {"name"}, Target.NOVA: _MESSAGE_KEYS, Target.NOVA_MULTITURN: _MESSAGE_KEYS}
_SYSTEM = ("system", "developer")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN = 60


def show(value: object) -> str:
    """Return a value as JSON, cut to what a line of a report can hold."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def plain_text(messages: Any) -> str | None:
    """Return the text of messages that break no rule at first sight, None where a closer look is needed.

    This is what keeps a check fast: messages of a known role with text, the system's first, a user's last.
    """
    if type(messages) is not list or not messages:
        return None
    texts: list[str] = []
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        role, text = message.get("role"), message.get("content")
        if type(text) is not str or not text or text.isspace():
            return None
        if role != "user" and (texts or role != "system") and (not texts or role != "assistant"):
            return None
        texts.append(text)
    return None if role != "user" else texts[0] if len(texts) == 1 else _join(messages)


def _join(messages: list[Any]) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def visible_text(messages: Any) -> str:
    """Return all that a model sees of messages, however malformed; messages of equal text read equally."""
    if not isinstance(messages, list):
        return ""
    if len(messages) == 1 and isinstance(messages[0], dict):
        return content_text(messages[0].get("content"))
    return "\n".join(
        f"{message.get('role')}: {content_text(message.get('content'))}{_calls(message)}"
        for message in messages
        if isinstance(message, dict)
    )


def _calls(message: dict[str, Any]) -> str:
    return json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""


def content_text(content: Any) -> str:
    """Return the text of a message's content, parts joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def check_messages(messages: Any, field: str, target: Target, note: Note) -> None:
    """Note every rule that a list of messages breaks."""
    if not isinstance(messages, list):
        note("messages-type", field, f"{show(messages)} is no array")
        return
    if not messages:
        note("messages-empty", field, "the array is empty")
        return
    roles, calls = [], set[str]()
    for index, message in enumerate(messages):
        place = f"{field}[{index}]"
        if not isinstance(message, dict):
            note("message-type", place, f"{show(message)} is no object")
            roles.append("")
            continue
        for key in message.keys() - _KEYS[target]:
            note("message-key", f"{place}.{key}", f"the service knows no field {key!r} of a message")
        role = _role(message, place, target, note)
        if role in _SYSTEM and index:
            note("system-first", f"{place}.role", f"a {role} message comes as number {index + 1}")
        _content(message, role, place, note)
        _tool_calls(message, role, place, calls, note)
        roles.append(role)
    if "user" not in roles:
        note("user-missing", field, "no message is the user's")
    if roles[-1] in ("assistant", "bot"):
        note("last-assistant", f"{field}[{len(roles) - 1}]", "the last message is the assistant's")


def _role(message: dict[str, Any], place: str, target: Target, note: Note) -> str:
    if "role" not in message:
        note("role-missing", f"{place}.role", "the message has no role")
        return ""
    role = message["role"]
    if not isinstance(role, str):
        note("role-type", f"{place}.role", f"{show(role)} is no text")
        return ""
    known = role.lower() if target is Target.NOVA else role
    if known not in _ROLES[target]:
        note("role-unknown", f"{place}.role", f"{show(role)} is no role of this service")
    return known.lower()


def _content(message: dict[str, Any], role: str, place: str, note: Note) -> None:
    place = f"{place}.content"
    content = message.get("content")
    if content is None and role == "assistant" and message.get("tool_calls"):
        return
    if "content" not in message:
        note("content-missing", place, "the message has no content")
    elif isinstance(content, str):
        if not content.strip():
            note("content-empty", place, "the text is empty")
    elif not isinstance(content, list):
        note("content-type", place, f"{show(content)} is neither text nor an array of parts")
    elif not content:
        note("content-empty", place, "the array is empty")
    else:
        for index, part in enumerate(content):
            _part(part, f"{place}[{index}]", note)


def _part(part: Any, place: str, note: Note) -> None:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = show(part.get("type")) if isinstance(part, dict) else show(part)
        note("part-type", f"{place}.type" if isinstance(part, dict) else place, f"{kind} is no part of type text")
        return
    for key in part.keys() - {"type", "text"}:
        note("part-key", f"{place}.{key}", f"a text part has no field {key!r}")
    text = part.get("text")
    if not isinstance(text, str) or not text.strip():
        note("part-text", f"{place}.text", f"{show(text)} is no text")


def _tool_calls(message: dict[str, Any], role: str, place: str, calls: set[str], note: Note) -> None:
    if "tool_calls" in message:
        made = message["tool_calls"]
        if not isinstance(made, list) or not made:
            note("tool-calls-type", f"{place}.tool_calls", f"{show(made)} holds no calls")
        elif role != "assistant":
            note("tool-calls-role", f"{place}.tool_calls", f"a message of role {role!r} calls tools")
        else:
            for index, call in enumerate(made):
                calls.update(_tool_call(call, f"{place}.tool_calls[{index}]", note))
    if role == "tool":
        answered = message.get("tool_call_id")
        if not isinstance(answered, str) or not answered:
            note("tool-call-id", f"{place}.tool_call_id", f"{show(answered)} is no id of a call")
        elif answered not in calls:
            note("tool-call-unmatched", f"{place}.tool_call_id", f"no call before has the id {show(answered)}")


def _tool_call(call: Any, place: str, note: Note) -> Iterator[str]:
    if not isinstance(call, dict):
        note("tool-call", place, f"{show(call)} is no object")
        return
    function = call.get("function")
    if not isinstance(function, dict):
        note("tool-call", f"{place}.function", f"{show(function)} is no object")
        function = {"name": "-", "arguments": "{}"}
    if not isinstance(call.get("id"), str) or not call["id"]:
        note("tool-call", f"{place}.id", f"{show(call.get('id'))} is no id")
    else:
        yield call["id"]
    if call.get("type") != "function":
        note("tool-call", f"{place}.type", f"{show(call.get('type'))} is not function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        note("tool-call", f"{place}.function.name", f"{show(function.get('name'))} is no name")
    arguments = function.get("arguments")
    if not is_object_text(arguments):
        note("tool-arguments", f"{place}.function.arguments", f"{show(arguments)} is no JSON object in text")


def is_object_text(value: Any) -> bool:
    """Return whether this is text that parses to a JSON object."""
    if not isinstance(value, str):
        return False
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False


def check_tools(tools: Any, note: Note) -> None:
    """Note every rule that a row's tools break."""
    if not isinstance(tools, list):
        note("tools-type", "tools", f"{show(tools)} is no array")
        return
    if not tools:
        note("tools-empty", "tools", "the array is empty")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            note("tool-type", f"{place}.type", f"{show(tool)} is no tool of type function")
            continue
        function = tool.get("function")
        if not isinstance(function, dict):
            note("tool-type", f"{place}.function", f"{show(function)} is no object")
            continue
        _tool(function, f"{place}.function", names, note)


def _tool(function: dict[str, Any], place: str, names: set[str], note: Note) -> None:
    name, description, parameters = (function.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        note("tool-name", f"{place}.name", f"{show(name)} is no name")
    elif name in names:
        note("tool-name-repeated", f"{place}.name", f"{show(name)} is the name of a tool before")
    else:
        names.add(name)
    if not isinstance(description, str) or not description.strip():
        note("tool-description", f"{place}.description", f"{show(description)} describes nothing")
    if not isinstance(parameters, dict):
        note("tool-parameters", f"{place}.parameters", f"{show(parameters)} is no schema")
    elif parameters.get("type") != "object":
        note("tool-parameters", f"{place}.parameters.type", f"{show(parameters.get('type'))} is not object")
    elif not isinstance(parameters.get("properties"), dict):
        note("tool-parameters", f"{place}.parameters.properties", f"{show(parameters.get('properties'))} is no object")
