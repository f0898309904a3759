"""Tells how a chat request differs from a recorded one, in words. Pure."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runs.noise import constant_ids, mask

_HOW_ASKED = ("stream", "stream_options")
"""How the answer travels, not what is asked."""
_SHOWN = 160
_BEFORE = 40


@dataclass(frozen=True)
class RequestDifference:
    """One place where a request is not as it was recorded."""

    kind: str
    """`changed`, `new` (not in the recorded request) or `gone` (only there)."""
    where: str
    """Path in the chat request, for example `messages[0].content`."""
    what: str
    """The same in words, for example "the system prompt"."""
    recorded: JSON = None
    """What stood there; None when it is new."""
    now: JSON = None
    """What stands there; None when it is gone."""

    @property
    def size(self) -> int:
        """Characters from the first to the last that differ, of the longer side."""
        if self.kind != "changed":
            return len(_as_text(self.now if self.kind == "new" else self.recorded))
        one, other = _as_text(self.recorded), _as_text(self.now)
        start = _first_difference(one, other)
        one, other = one[start:], other[start:]
        return max(len(one), len(other)) - _first_difference(one[::-1], other[::-1])

    def __str__(self) -> str:
        if self.kind == "new":
            return f"{self.what} is new ({self.where})\n  + now:      {_excerpt(self.now, 0)}"
        if self.kind == "gone":
            return f"{self.what} is gone ({self.where})\n  - recorded: {_excerpt(self.recorded, 0)}"
        start = _first_difference(_as_text(self.recorded), _as_text(self.now))
        return (
            f"{self.what} differs ({self.where})\n"
            f"  - recorded: {_excerpt(self.recorded, start)}\n"
            f"  + now:      {_excerpt(self.now, start)}"
        )


@dataclass(frozen=True)
class RequestComparison:
    """What came of comparing two requests."""

    differences: tuple[RequestDifference, ...]
    """In the order system prompt and messages, tools, settings; empty when the requests say the same."""
    ignored: int = 0
    """Texts that differ in nothing but fresh ids and times."""

    @property
    def size(self) -> int:
        """Characters that differ: the smaller, the more alike the requests are."""
        return sum(difference.size for difference in self.differences)


class Comparable:
    """A chat request, made ready to be compared with many.

    Args:
        request: The chat request.
        at: When it was made, in seconds since the epoch: times near it, in its texts, are the clock's.
    """

    def __init__(self, request: Mapping[str, Any], at: float) -> None:
        fields = {name: value for name, value in request.items() if name not in _HOW_ASKED}
        self.messages: list[Any] = _with_plain_ids(fields.pop("messages", None) or [])
        self.tools: list[Any] = list(fields.pop("tools", None) or [])
        self.settings = fields
        self.at = at

    def equals(self, other: Comparable) -> bool:
        """Whether both say the same, letter by letter."""
        return (self.messages, self.tools, self.settings) == (other.messages, other.tools, other.settings)

    @functools.cached_property
    def text(self) -> str:
        """All of it as one text."""
        return json.dumps([self.messages, self.tools, self.settings], default=str)


def compare_requests(recorded: Comparable, now: Comparable, *, strict: bool = False) -> RequestComparison:
    """Compare a request with the recorded one.

    Args:
        recorded: The one that was recorded.
        now: The one of the replay.
        strict: Whether fresh ids and times count as differences.
    """
    if recorded.equals(now):
        return RequestComparison(())
    return _Walk(recorded, now, strict).result()


class _Walk:
    def __init__(self, recorded: Comparable, now: Comparable, strict: bool) -> None:
        self._recorded, self._now, self._strict = recorded, now, strict
        self._ignored = 0

    def result(self) -> RequestComparison:
        found = [*self._messages(), *self._tools()]
        for name in {**self._recorded.settings, **self._now.settings}:
            before, after = (side.settings.get(name, _ABSENT) for side in (self._recorded, self._now))
            found += self._walk(name, f"the setting {name}", before, after)
        return RequestComparison(tuple(found), self._ignored)

    @functools.cached_property
    def _constant(self) -> frozenset[str]:
        return constant_ids(self._recorded.text, self._now.text)

    def _masked(self, text: str, at: float) -> str:
        return text if self._strict else mask(text, at, self._constant)

    def _messages(self) -> Iterator[RequestDifference]:
        before, after = self._recorded.messages, self._now.messages
        keys = [
            [self._masked(json.dumps(message, sort_keys=True, default=str), side.at) for message in side.messages]
            for side in (self._recorded, self._now)
        ]
        for tag, a, a_end, b, b_end in difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
            if tag == "equal":
                pairs = zip(before[a:a_end], after[b:b_end], strict=True)
                self._ignored += sum(one != other for one, other in pairs)
                continue
            both = min(a_end - a, b_end - b)
            for index in range(both):
                name = _name_of(before, a + index, self._now.messages[b + index])
                yield from self._walk(f"messages[{b + index}]", name, before[a + index], after[b + index])
            for index in range(a + both, a_end):
                yield RequestDifference("gone", f"messages[{index}]", _name_of(before, index), before[index])
            for index in range(b + both, b_end):
                yield RequestDifference("new", f"messages[{index}]", _name_of(after, index), now=after[index])

    def _tools(self) -> Iterator[RequestDifference]:
        before, after = ({_tool_name(tool): tool for tool in side.tools} for side in (self._recorded, self._now))
        if len(before) < len(self._recorded.tools) or len(after) < len(self._now.tools):
            yield from self._walk("tools", "the tools", self._recorded.tools, self._now.tools)
            return
        for name in {**before, **after}:
            where = f"tools[{name}]"
            yield from self._walk(where, f"the tool {name}", before.get(name, _ABSENT), after.get(name, _ABSENT))
        if before.keys() == after.keys() and list(before) != list(after):
            yield RequestDifference("changed", "tools", "the order of the tools", list(before), list(after))

    def _walk(self, where: str, what: str, before: JSON, after: JSON) -> Iterator[RequestDifference]:
        if before is _ABSENT:
            yield RequestDifference("new", where, what, now=after)
        elif after is _ABSENT:
            yield RequestDifference("gone", where, what, before)
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            for name in {**before, **after}:
                yield from self._walk(f"{where}.{name}", what, before.get(name, _ABSENT), after.get(name, _ABSENT))
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from self._walk(f"{where}[{index}]", what, one, other)
        elif before != after or isinstance(before, bool) != isinstance(after, bool):
            if isinstance(before, str) and isinstance(after, str):
                masked = self._masked(before, self._recorded.at) == self._masked(after, self._now.at)
                self._ignored += masked
                if masked:
                    return
            yield RequestDifference("changed", where, what, before, after)


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _with_plain_ids(messages: Sequence[Any]) -> list[Any]:
    """Number the ids of tool calls by their first appearance: agents and clients make some of them up anew."""
    names: dict[str, str] = {}

    def plain(value: object) -> object:
        return names.setdefault(value, f"call {len(names)}") if isinstance(value, str) else value

    changed = []
    for message in messages:
        if isinstance(message, Mapping):
            fields = dict(message)
            calls = fields.get("tool_calls")
            if isinstance(calls, list):
                fields["tool_calls"] = [
                    {**call, "id": plain(call["id"])} if isinstance(call, Mapping) and "id" in call else call
                    for call in calls
                ]
            if "tool_call_id" in fields:
                fields["tool_call_id"] = plain(fields["tool_call_id"])
            message = fields
        changed.append(message)
    return changed


def _tool_name(tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else json.dumps(tool, default=str)


def _name_of(messages: Sequence[Any], index: int, other: Any = None) -> str:
    message = messages[index]
    role = message.get("role") if isinstance(message, Mapping) else None
    if isinstance(other, Mapping) and other.get("role") != role:
        return f"message {index}"
    if role in ("system", "developer"):
        return "the system prompt"
    if role == "tool":
        return f"the result of {_call_of(messages[:index], message.get('tool_call_id'))}"
    if role == "user":
        return "the user's message"
    return "what the agent keeps of an answer" if role == "assistant" else f"message {index}"


def _call_of(messages: Sequence[Any], call_id: object) -> str:
    for message in reversed(messages):
        for call in (message.get("tool_calls") or ()) if isinstance(message, Mapping) else ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if isinstance(function, Mapping) and call.get("id") == call_id:
                return f"{function.get('name')}({_cut(str(function.get('arguments', '')), 80)})"
    return "a tool"


def _first_difference(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _as_text(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _excerpt(value: JSON, around: int) -> str:
    text = _as_text(value)
    start = max(0, around - _BEFORE) if len(text) > _SHOWN else 0
    return ("..." if start else "") + _cut(text[start:], _SHOWN)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
