"""What a list of messages shows a model, and the rules over all messages of a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from aws_rft_sdk.datasets._leaks import Seen
from aws_rft_sdk.datasets._text import hint, show

Found = tuple[str, str, str]
"""A rule that is broken, the field, and what is wrong with the value."""

_SYSTEM = ("system", "developer")
_USUAL = frozenset({"system", "user", "assistant", "tool"})


def content_text(content: Any) -> str:
    """Return the text of a message's content, parts joined."""
    if type(content) is str:
        return content
    parts = content if isinstance(content, list) else ()
    return "".join([part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)])


def visible_text(messages: Any) -> str:
    """Return all that a model sees of messages, however malformed. Messages of equal text read equally."""
    if not isinstance(messages, list):
        return ""
    if len(messages) == 1 and isinstance(messages[0], dict):
        return _told(messages[0])
    return "\n".join([f"{m.get('role')}: {_told(m)}" for m in messages if isinstance(m, dict)])


def _told(message: dict[str, Any]) -> str:
    text = content if type(content := message.get("content")) is str else content_text(content)
    return f"{text}{message['tool_calls'] or ''}" if "tool_calls" in message else text


def seen_in(messages: Any, field: str) -> list[Seen]:
    """Return what a model sees of text or messages, one by one. Text before the last question may be about others."""
    if not isinstance(messages, list):
        return [Seen(field, content_text(messages))]
    roles = _roles(messages)
    last = max((index for index, role in enumerate(roles) if role == "user"), default=0)
    return [
        Seen(
            f"{field}[{index}].content",
            _told(message) if isinstance(message, dict) else "",
            asks=index >= last,
            answers=index < last and roles[index] not in ("user", *_SYSTEM),
        )
        for index, message in enumerate(messages)
    ]


def conversation(messages: Any, field: str, tools: set[str] | None = None) -> Sequence[Found]:
    """Return the rules that messages break together, however malformed each of them is.

    Args:
        messages: A list of messages. Anything else breaks no rule here.
        field: Where the messages are in their row.
        tools: Names of the row's tools; None if the row has no tools.
    """
    if not isinstance(messages, list) or not messages:
        return ()
    roles = _roles(messages)
    found = _order(field, *roles)
    if "tool" in roles or ("assistant" in roles and [m for m in messages if isinstance(m, dict) and "tool_calls" in m]):
        return (*found, *_calls(messages, roles, field, tools))
    return found


def _roles(messages: list[Any]) -> list[str]:
    try:
        roles = [message["role"] for message in messages]
        if _USUAL.issuperset(roles):
            return roles
    except (KeyError, TypeError):
        pass  # a message is malformed
    return [str(message.get("role")).lower() if isinstance(message, dict) else "" for message in messages]


@lru_cache(maxsize=1024)
def _order(field: str, *roles: str) -> tuple[Found, ...]:
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


def _calls(messages: list[Any], roles: list[str], field: str, tools: set[str] | None) -> Iterator[Found]:
    """Yield calls that no message answers or that are of no tool, and answers to no call."""
    made: dict[str, tuple[int, int]] = {}
    answered: set[str] = set()
    for index, message in enumerate(messages):
        role = roles[index]
        if role == "tool" and isinstance(name := message.get("tool_call_id"), str) and name:
            answered.add(name)
            if name not in made:
                yield "tool-call-unmatched", f"{field}[{index}].tool_call_id", f"no call before has the id {show(name)}"
        calls = message.get("tool_calls") if role == "assistant" else None
        for number, call in enumerate(calls if isinstance(calls, list) else ()):
            if not isinstance(call, dict):
                continue
            name, function, at = call.get("id"), call.get("function"), (index, number)
            if isinstance(name, str) and made.setdefault(name, at) is not at:
                yield "tool-call-repeated", f"{_at(field, *at)}.id", f"{show(name)} is the id of a call before"
            name = function.get("name") if isinstance(function, dict) else None
            if tools is not None and isinstance(name, str) and name and name not in tools:
                problem = f"{show(name)} is no tool{hint(name, tools)}"
                yield "tool-call-unknown", f"{_at(field, *at)}.function.name", problem
    for name, at in made.items():
        if name and name not in answered:
            yield "tool-call-unanswered", _at(field, *at), f"no tool message answers the call {show(name)}"


def _at(field: str, message: int, call: int) -> str:
    return f"{field}[{message}].tool_calls[{call}]"
