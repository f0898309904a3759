"""What a list of messages shows a model, and the rules over all messages of a list."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aws_rft_sdk.datasets._leaks import Seen
from aws_rft_sdk.datasets._text import hint, show

Found = tuple[str, str, str]
"""A rule that is broken, the field, and what is wrong with the value."""

_SYSTEM = ("system", "developer")


def content_text(content: Any) -> str:
    """Return the text of a message's content, parts joined."""
    if type(content) is str:
        return content
    parts = content if isinstance(content, list) else ()
    return "".join([part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)])


def visible_text(messages: Any) -> str:
    """Return all that a model sees of messages, however malformed; messages of equal text read equally."""
    if not isinstance(messages, list):
        return ""
    told = [message for message in messages if isinstance(message, dict)]
    if len(messages) == len(told) == 1:
        return content_text(told[0].get("content"))
    return "\n".join([f"{m.get('role')}: {content_text(m.get('content'))}{m.get('tool_calls') or ''}" for m in told])


def seen_in(messages: Any, field: str) -> list[Seen]:
    """Return what a model sees of text or messages, one by one. Text before the last question may be about others."""
    if not isinstance(messages, list):
        return [Seen(field, content_text(messages))]
    roles = [str(message.get("role")).lower() if isinstance(message, dict) else "" for message in messages]
    last = max((index for index, role in enumerate(roles) if role == "user"), default=0)
    return [
        Seen(
            f"{field}[{index}].content",
            visible_text([message]) + str((isinstance(message, dict) and message.get("tool_calls")) or ""),
            asks=index >= last,
            answers=index < last and roles[index] not in ("user", *_SYSTEM),
        )
        for index, message in enumerate(messages)
    ]


def conversation(messages: Any, field: str) -> list[Found]:
    """Return the rules that messages break together, however malformed each of them is."""
    if not isinstance(messages, list) or not messages:
        return []
    try:
        roles = [message["role"].lower() for message in messages]
    except (AttributeError, KeyError, TypeError):  # a message is malformed
        roles = [str(message.get("role")).lower() if isinstance(message, dict) else "" for message in messages]
    found = [*order(field, *roles)]
    if "tool" in roles or any("tool_calls" in message for message in messages if isinstance(message, dict)):
        found += _matched(messages, roles, field)
    return found


@lru_cache(maxsize=1024)
def order(field: str, *roles: str) -> tuple[Found, ...]:
    """Return what is wrong with the order of roles. Few orders occur in a dataset, so each is looked at once."""
    found = [
        ("system-first", f"{field}[{index}].role", f"a {role} message comes as number {index + 1}")
        for index, role in enumerate(roles)
        if index and role in _SYSTEM
    ]
    if "user" not in roles:
        found.append(("user-missing", field, "no message is the user's"))
    if roles[-1] in ("assistant", "bot"):
        found.append(("last-assistant", f"{field}[{len(roles) - 1}]", "the last message is the assistant's"))
    return tuple(found)


def _matched(messages: list[Any], roles: list[str], field: str) -> list[Found]:
    """Return calls that no message answers, and answers to no call."""
    found: list[Found] = []
    calls, answered = dict[str, tuple[int, int]](), set[str]()
    for index, message in enumerate(messages):
        role = roles[index]
        if role == "assistant":
            for number, call in enumerate(_calls(message)):
                name, made = call.get("id"), (index, number)
                if isinstance(name, str) and calls.setdefault(name, made) is not made:
                    place = f"{field}[{index}].tool_calls[{number}].id"
                    found.append(("tool-call-repeated", place, f"{show(name)} is the id of a call before"))
        elif role == "tool" and isinstance(name := message.get("tool_call_id"), str) and name:
            answered.add(name)
            if name not in calls:
                place = f"{field}[{index}].tool_call_id"
                found.append(("tool-call-unmatched", place, f"no call before has the id {show(name)}"))
    for name, (index, number) in calls.items():
        if name and name not in answered:
            place = f"{field}[{index}].tool_calls[{number}]"
            found.append(("tool-call-unanswered", place, f"no tool message answers the call {show(name)}"))
    return found


def _calls(message: Any) -> list[dict[str, Any]]:
    """Return the tool calls of a message, however malformed."""
    made = message.get("tool_calls") if isinstance(message, dict) else None
    return [call if isinstance(call, dict) else {} for call in made] if isinstance(made, list) else []


def unknown_calls(messages: Any, names: set[str]) -> list[Found]:
    """Return the calls of functions that are none of `names`."""
    found: list[Found] = []
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        for number, call in enumerate(_calls(message)):
            function = call.get("function")
            name = function.get("name") if isinstance(function, dict) else None
            if isinstance(name, str) and name and name not in names:
                place = f"messages[{index}].tool_calls[{number}].function.name"
                found.append(("tool-call-unknown", place, f"{show(name)} is no tool{hint(name, names)}"))
    return found
