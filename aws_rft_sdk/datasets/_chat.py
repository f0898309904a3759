"""Rules of message lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aws_rft_sdk.datasets._leaks import Seen
from aws_rft_sdk.datasets._text import hint, is_blank, is_object_text, show
from aws_rft_sdk.datasets._tools import Note
from aws_rft_sdk.datasets.rules import Target

_ROLES = {
    Target.BEDROCK: frozenset({"system", "developer", "user", "assistant", "tool"}),
    Target.NOVA: frozenset({"system", "developer", "user", "assistant", "tool", "bot"}),
    Target.NOVA_MULTITURN: frozenset({"system", "user", "assistant", "tool"}),
}
_MESSAGE_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id"})
_KEYS = {Target.BEDROCK: _MESSAGE_KEYS | {"name"}, Target.NOVA: _MESSAGE_KEYS, Target.NOVA_MULTITURN: _MESSAGE_KEYS}
_SYSTEM = ("system", "developer")


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
        if type(text) is list:
            text = _only_text(text)
        if type(text) is not str or (not "!" <= text < "\x7f" and is_blank(text)):
            return None
        if role != "user" and (texts or role != "system") and (not texts or role != "assistant"):
            return None
        if len(messages) > 1:
            text = f"{role}: {text}"
        texts.append(text)
    return None if role != "user" else "\n".join(texts)


def _only_text(parts: list[Any]) -> Any:
    """Return the text of the one good part that there is, None otherwise."""
    part = parts[0] if len(parts) == 1 else None
    return part.get("text") if type(part) is dict and len(part) == 2 and part.get("type") == "text" else None


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


def seen_in(messages: Any, field: str) -> list[Seen]:
    """Return what a model sees of text or messages, one by one; what is before the last question may be of others."""
    if not isinstance(messages, list):
        return [Seen(field, content_text(messages))]
    roles = [str(message.get("role")).lower() if isinstance(message, dict) else "" for message in messages]
    last = max((index for index, role in enumerate(roles) if role == "user"), default=0)
    return [
        Seen(
            f"{field}[{index}].content",
            visible_text([message]) + (_calls(message) if isinstance(message, dict) else ""),
            asks=index >= last,
            answers=index < last and roles[index] not in ("user", *_SYSTEM),
        )
        for index, message in enumerate(messages)
    ]


def check_messages(messages: Any, field: str, target: Target, note: Note) -> None:
    """Note every rule that a list of messages breaks."""
    if not isinstance(messages, list):
        note("messages-type", field, f"{show(messages)} is no array")
        return
    if not messages:
        note("messages-empty", field, "the array is empty")
        return
    roles, calls, answered = [], dict[str, str](), set[str]()
    for index, message in enumerate(messages):
        place = f"{field}[{index}]"
        if not isinstance(message, dict):
            note("message-type", place, f"{show(message)} is no object")
            roles.append("")
            continue
        for key in message.keys() - _KEYS[target]:
            note("message-key", f"{place}.{key}", f"a message has no field {key!r}{hint(key, _KEYS[target])}")
        role = _role(message, place, target, note)
        if role in _SYSTEM and index:
            note("system-first", f"{place}.role", f"a {role} message comes as number {index + 1}")
        _content(message, role, place, note)
        if "name" in message and "name" in _KEYS[target] and not _is_text(message["name"]):
            note("message-name", f"{place}.name", f"{show(message['name'])} is no name")
        _tool_calls(message, role, place, calls, note)
        _answer(message, role, place, calls, answered, note)
        roles.append(role)
    for call, place in calls.items():
        if call not in answered:
            note("tool-call-unanswered", place, f"no tool message answers the call {show(call)}")
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
        problem = f"{show(role)} is no role of this service{hint(role, _ROLES[target])}"
        note("role-unknown", f"{place}.role", problem)
    return known.lower()


def _content(message: dict[str, Any], role: str, place: str, note: Note) -> None:
    place = f"{place}.content"
    content = message.get("content")
    if content in (None, "") and role == "assistant" and message.get("tool_calls"):
        return
    if "content" not in message:
        note("content-missing", place, "the message has no content")
    elif isinstance(content, str):
        if is_blank(content):
            note("content-empty", place, f"nothing can be seen of {show(content)}")
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
        note("part-key", f"{place}.{key}", f"a text part has no field {key!r}{hint(key, ('type', 'text'))}")
    text = part.get("text")
    if not _is_text(text):
        note("part-text", f"{place}.text", f"{show(text)} is no text")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not is_blank(value)


def _tool_calls(message: dict[str, Any], role: str, place: str, calls: dict[str, str], note: Note) -> None:
    """Note what is wrong with the calls of a message, and add their ids and places to `calls`."""
    if "tool_calls" not in message:
        return
    made = message["tool_calls"]
    place = f"{place}.tool_calls"
    if not isinstance(made, list) or not made:
        note("tool-calls-type", place, f"{show(made)} holds no calls")
    elif role != "assistant":
        note("tool-calls-role", place, f"a message of role {role!r} calls tools")
    else:
        for index, call in enumerate(made):
            for name in _tool_call(call, f"{place}[{index}]", note):
                if name in calls:
                    note("tool-call-repeated", f"{place}[{index}].id", f"{show(name)} is the id of a call before")
                calls.setdefault(name, f"{place}[{index}]")


def _answer(
    message: dict[str, Any], role: str, place: str, calls: dict[str, str], answered: set[str], note: Note
) -> None:
    """Note what is wrong with the call that a message answers, and add its id to `answered`."""
    name, place = message.get("tool_call_id"), f"{place}.tool_call_id"
    if role != "tool":
        if "tool_call_id" in message:
            note("tool-call-id-role", place, f"a message of role {role!r} answers a call")
    elif not _is_text(name):
        note("tool-call-id", place, f"{show(name)} is no id of a call")
    elif name not in calls:
        note("tool-call-unmatched", place, f"no call before has the id {show(name)}")
    else:
        answered.add(str(name))


def calls_of(messages: Any) -> Iterator[tuple[str, str]]:
    """Yield the places of calls in messages, however malformed, and the names of the functions called."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        made = message.get("tool_calls") if isinstance(message, dict) else None
        for number, call in enumerate(made if isinstance(made, list) else ()):
            function = call.get("function") if isinstance(call, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if isinstance(name, str) and name:
                yield f"messages[{index}].tool_calls[{number}].function.name", name


def _tool_call(call: Any, place: str, note: Note) -> Iterator[str]:
    if not isinstance(call, dict):
        note("tool-call", place, f"{show(call)} is no object")
        return
    function = call.get("function")
    if not isinstance(function, dict):
        note("tool-call", f"{place}.function", f"{show(function)} is no object")
        function = {"name": "-", "arguments": "{}"}
    if not _is_text(call.get("id")):
        note("tool-call", f"{place}.id", f"{show(call.get('id'))} is no id")
    else:
        yield call["id"]
    if call.get("type") != "function":
        note("tool-call", f"{place}.type", f"{show(call.get('type'))} is not function")
    if not _is_text(function.get("name")):
        note("tool-call", f"{place}.function.name", f"{show(function.get('name'))} is no name")
    arguments = function.get("arguments")
    if not is_object_text(arguments):
        note("tool-arguments", f"{place}.function.arguments", f"{show(arguments)} is no JSON object in text")
