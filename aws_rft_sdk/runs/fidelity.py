"""Whether each turn of a trajectory goes on from the turn before it, exactly as the policy saw and said it. Pure.

A trainer puts turns one after the other into one row of tokens. That works only while the history of a request is what
the policy read and answered before, letter by letter. Where it is not, a new row begins, and the policy is trained on
contexts that share less. The cause is nearly always on the agent's side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.capture import check_captured
from aws_rft_sdk.types import Trajectory, Turn


class Cause(str, Enum):
    """Why the history of a request is not what the policy saw."""

    TOOL_JSON_REPAIRED = "tool_json_repaired"
    """The policy wrote arguments of a tool call that are no JSON. The agent sent other ones back."""
    ARGUMENTS_REFORMATTED = "arguments_reformatted"
    """Arguments of a tool call came back with other white space, order of keys or escapes. They mean the same."""
    REASONING_DROPPED = "reasoning_dropped"
    """The policy's reasoning was not sent back."""
    SLIDING_WINDOW = "sliding_window"
    """Old messages are gone."""
    SUMMARY = "summary"
    """Old messages were replaced by a new one."""
    MESSAGE_EDITED = "message_edited"
    """A message has another text."""
    SYSTEM_PROMPT_CHANGED = "system_prompt_changed"
    TOOLS_CHANGED = "tools_changed"
    """The policy is offered other tools, which chat templates write at the beginning."""


@dataclass(frozen=True)
class HistoryBreak:
    """One way in which a turn does not go on from an earlier one."""

    turn: int
    """Index of the turn."""
    after: int
    """Index of the turn that it should go on from."""
    cause: Cause
    message: int | None
    """Position of the first such message in the conversation as it was. None for the tools."""
    before: str
    """What the policy saw or said there."""
    now: str
    """What the request has instead. Empty if it is gone."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields as JSON."""
        return {**asdict(self), "cause": self.cause.value}


@dataclass(frozen=True)
class Fidelity:
    """The histories of one trajectory."""

    trajectory_id: str
    turns: int
    breaks: tuple[HistoryBreak, ...]
    """In the order of the turns. A turn can have several."""
    conversations: int
    """Turns that begin a row without a break: one, and one more for each sub-agent, fresh start or repeated call."""

    @property
    def rows(self) -> int:
        """Rows of tokens that the turns split into, for a trainer that writes each request anew."""
        return self.conversations + len({item.turn for item in self.breaks})

    def to_dict(self) -> dict[str, JSON]:
        """Return the count of rows and the breaks as JSON."""
        return {"rows": self.rows, "breaks": [item.to_dict() for item in self.breaks]}


def check_histories(trajectory: Trajectory) -> Fidelity:
    """Compare each turn with the turn that it goes on from.

    Raises:
        ConfigurationError: The runtime kept no requests.
    """
    check_captured(trajectory)
    seen: list[_Conversation] = []
    breaks: list[HistoryBreak] = []
    followed: set[int] = set()
    begun = 0
    for turn in trajectory.turns:
        now = _Conversation.of(turn)
        before = _nearest(seen, now)
        found = () if before is None else tuple(_breaks(before, now))
        # Only one turn can follow another in a row. If a call was repeated, the second one begins a row.
        begun += not found and (before is None or before.turn in followed)
        followed |= set() if before is None else {before.turn}
        breaks += found
        seen.append(now)
    return Fidelity(trajectory.trajectory_id, len(trajectory.turns), tuple(breaks), begun)


def fidelity_of(trajectory: Trajectory | None) -> Fidelity | None:
    """Return what `check_histories` finds. Returns None without a turn, and if the runtime kept no requests."""
    if trajectory is None or not trajectory.turns:
        return None
    return None if any(turn.request is None for turn in trajectory.turns) else check_histories(trajectory)


class _Call(NamedTuple):
    name: str
    arguments: str

    def says(self, other: _Call) -> bool:
        """Whether both calls mean the same."""
        return self.name == other.name and _parsed(self.arguments) == _parsed(other.arguments)


class _Message(NamedTuple):
    role: str
    text: str
    calls: tuple[_Call, ...]
    call_id: str | None
    """Of the call that a tool's result answers."""
    reasoning: str

    @classmethod
    def of(cls, message: JSON) -> _Message:
        fields: Mapping[str, Any] = message if isinstance(message, Mapping) else {}
        calls = tuple(
            _Call(str(function.get("name")), str(function.get("arguments") or ""))
            for call in fields.get("tool_calls") or ()
            if isinstance(function := call.get("function"), Mapping)
        )
        reasoning = fields.get("reasoning_content") or fields.get("reasoning") or ""
        text = _text(fields.get("content"))
        return cls(str(fields.get("role")), text, calls, fields.get("tool_call_id"), _text(reasoning))

    def says(self, other: _Message) -> bool:
        """Whether both are the same message, perhaps written otherwise."""
        if (self.role, self.text, self.call_id) != (other.role, other.text, other.call_id):
            return False
        names = [[call.name for call in message.calls] for message in (self, other)]
        return names[0] == names[1]


@dataclass(frozen=True)
class _Conversation:
    """A turn: what the policy read, and then what it answered."""

    turn: int
    system: tuple[_Message, ...]
    messages: tuple[_Message, ...]
    answer: _Message
    tools: str

    @classmethod
    def of(cls, turn: Turn) -> _Conversation:
        request: Mapping[str, Any] = turn.request if isinstance(turn.request, Mapping) else {}
        messages = [_Message.of(message) for message in request.get("messages") or ()]
        first = next((i for i, message in enumerate(messages) if message.role not in _SYSTEM), len(messages))
        tools = json.dumps(request.get("tools") or [], default=list, sort_keys=True)
        return cls(turn.index, tuple(messages[:first]), tuple(messages[first:]), _Message.of(turn.message), tools)

    @property
    def whole(self) -> tuple[_Message, ...]:
        """What a next turn should begin with, without the system prompt."""
        return *self.messages, self.answer


_SYSTEM = ("system", "developer")


def _nearest(seen: Iterable[_Conversation], now: _Conversation) -> _Conversation | None:
    """Return the turn that a turn goes on from, the latest of several. Returns None if it goes on from none."""
    best, found = None, (0, 0, -1)
    # The longest first, which is the right one nearly always: shorter ones cannot share more messages.
    for old in sorted(seen, key=lambda old: len(old.messages), reverse=True):
        if len(old.whole) < found[0]:
            break
        kinship = (*_kinship(old, now), old.turn)
        if kinship > found and any(kinship[:2]):
            best, found = old, kinship
    return best


def _kinship(old: _Conversation, now: _Conversation) -> tuple[int, int]:
    """Return how far a turn goes on from an earlier one. (0, 0) if it does not.

    It does if the earlier answer stands in its history, or an assistant's message where that answer should be. The
    first number is how many messages are the same. The second is 2 if all messages stand where they should, 1 if some
    are gone.
    With another system prompt and other tools it is another agent, such as one that summarises the conversation.
    """
    if old.tools != now.tools and old.system != now.system:
        return 0, 0
    count = len(old.messages)
    in_place = [message.role for message in now.messages[: count + 1]] == [message.role for message in old.whole]
    shared = sum(map(_Message.says, old.whole, now.messages))
    if in_place and shared >= max(1, count):
        return shared, 2
    places = [i for i, message in enumerate(now.messages) if message.says(old.answer)]
    tail = max((_common_tail(old.whole, now.messages[: place + 1]) for place in places), default=0)
    return (tail, 1) if tail and now.messages != old.messages else (0, 0)


def _common_tail(old: Sequence[_Message], now: Sequence[_Message]) -> int:
    count = 0
    for before, after in zip(reversed(old), reversed(now), strict=False):
        if not before.says(after):
            break
        count += 1
    return count


def _breaks(old: _Conversation, now: _Conversation) -> Iterator[HistoryBreak]:
    found: dict[Cause, HistoryBreak] = {}
    for cause, place, before, after in _differences(old, now):
        found.setdefault(cause, HistoryBreak(now.turn, old.turn, cause, place, before, after))
    yield from found.values()


def _differences(old: _Conversation, now: _Conversation) -> Iterator[tuple[Cause, int | None, str, str]]:
    if old.tools != now.tools:
        yield Cause.TOOLS_CHANGED, None, old.tools, now.tools
    if [message.text for message in old.system] != [message.text for message in now.system]:
        yield Cause.SYSTEM_PROMPT_CHANGED, 0, _joined(old.system), _joined(now.system)
    base = len(old.system)
    if _kinship(old, now)[1] == 2:
        for place, (before, after) in enumerate(zip(old.whole, now.messages, strict=False), start=base):
            yield from ((cause, place, was, sent) for cause, was, sent in _changes(before, after))
        return
    end = max(
        (place for place, message in enumerate(now.messages) if message.says(old.answer)),
        key=lambda place: _common_tail(old.whole, now.messages[: place + 1]),
    )
    tail = _common_tail(old.whole, now.messages[: end + 1])
    gone, instead = old.whole[: len(old.whole) - tail], now.messages[: end + 1 - tail]
    kept = [message for message in instead if any(message.says(other) for other in gone)]
    new = [message for message in instead if message not in kept]
    gone = tuple(message for message in gone if not any(message.says(other) for other in kept))
    if new:
        yield Cause.SUMMARY, base, _joined(gone), _joined(new)
    elif gone:
        yield Cause.SLIDING_WINDOW, base, _joined(gone), ""
    pairs = zip(old.whole[len(old.whole) - tail :], now.messages[end + 1 - tail : end + 1], strict=True)
    for place, (before, after) in enumerate(pairs, start=base + len(old.whole) - tail):
        yield from ((cause, place, was, sent) for cause, was, sent in _changes(before, after))


def _changes(before: _Message, after: _Message) -> Iterator[tuple[Cause, str, str]]:
    """Yield how one message differs from what it was."""
    if before.reasoning and before.reasoning != after.reasoning:
        yield Cause.REASONING_DROPPED, before.reasoning, after.reasoning
    if (before.role, before.text) != (after.role, after.text) or len(before.calls) != len(after.calls):
        yield Cause.MESSAGE_EDITED, _shown(before), _shown(after)
        return
    for call, sent in zip(before.calls, after.calls, strict=True):
        if call == sent:
            continue
        if call.name == sent.name and _parsed(call.arguments) is None:
            yield Cause.TOOL_JSON_REPAIRED, call.arguments, sent.arguments
        elif call.says(sent):
            yield Cause.ARGUMENTS_REFORMATTED, call.arguments, sent.arguments
        else:
            yield Cause.MESSAGE_EDITED, _shown(before), _shown(after)


def _parsed(arguments: str) -> JSON:
    """Return what arguments say. None if they are no JSON. No arguments are an empty object."""
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None


def _text(content: JSON) -> str:
    """Return a message's text, whether it is written as a text or as blocks. Other blocks are written as JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Iterable) or isinstance(content, Mapping):
        return json.dumps(content, default=dict)
    blocks = (block.get("text") if isinstance(block, Mapping) else None for block in content)
    return "".join(
        text if isinstance(text, str) else json.dumps(block, default=dict, sort_keys=True)
        for text, block in zip(blocks, content, strict=True)
    )


def _shown(message: _Message) -> str:
    calls = (f"{call.name}({call.arguments})" for call in message.calls)
    return "\n".join(filter(None, (message.text, *calls)))


def _joined(messages: Iterable[_Message]) -> str:
    return "\n".join(f"{message.role}: {_shown(message)}" for message in messages)
