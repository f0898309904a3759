"""A rollout as a conversation: what was said in which order, and what each turn took and earned.

An agent sends its whole history with every turn. A conversation shows each message once: in the turn whose request held
it first, or which sampled it. Where a request does not continue an earlier one, a note says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.types import Trajectory

_MOST_HISTORIES = 8  # conversations of one rollout that may go on: those of sub-agents
_SECRET_NAMES = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "api_key", "apikey"}
    | {"x-amz-security-token", "access_token", "refresh_token", "client_secret", "secret", "password", "token"}
)


class ToolCall(NamedTuple):
    """One call of a tool, as the policy wrote it."""

    id: str | None
    name: str
    arguments: str
    """Usually JSON text, as the policy sampled it."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    turn: int
    """Index of the turn that sampled it, or whose request held it first."""
    role: str
    """"system", "user", "assistant" or "tool". Others as the agent sent them."""
    text: str
    """Parts that are no text are named in brackets, such as "[image_url]"."""
    sampled: bool = False
    """Whether the policy sampled it in this rollout. False for what the agent sent."""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    """For a tool's result: the call that it answers."""
    tool: str | None = None
    """For a tool's result: name of the tool. None if it answers no known call."""
    note: str | None = None
    """What happened to the history before this message. None if the request continues the one before."""


@dataclass(frozen=True)
class TurnFacts:
    """What one turn took and earned."""

    index: int
    span_id: str | None
    started_after: float
    """Seconds from the creation of the trajectory until the request arrived."""
    seconds: float
    prompt_tokens: int | None
    response_tokens: int | None
    finish_reason: str | None
    reward: float | None
    """None unless there was one reward for each turn."""
    captured: bool
    """Whether the request and the answer were kept. False for `--capture none`."""


class Step(NamedTuple):
    """What a turn adds to a conversation."""

    messages: list[Mapping[str, Any]]
    """Messages of the request that no earlier turn of this conversation held."""
    answer: Mapping[str, Any] | None
    note: str | None


class Unfolder:
    """Tells turn by turn which messages are new. Give it the turns of one rollout in order.

    Two messages are the same if role, text and calls are; how arguments are spaced and what was thought do not count.
    """

    def __init__(self) -> None:
        self._histories: list[tuple[int, list[int]]] = []
        """Turn and messages of each conversation that may go on, the one that was used last at the end."""
        self._last: list[tuple[Mapping[str, Any] | None, int]] = []
        """Messages of the last request and their keys. Nearly all are in the next request again."""

    def add(self, index: int, request: object, answer: Mapping[str, Any] | None) -> Step:
        """Return what the turn with this index adds."""
        messages = _objects(request.get("messages")) if isinstance(request, Mapping) else []
        last = [*self._last, *[(None, 0)] * (len(messages) - len(self._last))]
        pairs = zip(messages, last, strict=False)
        keys = [key if message == before else _key(message) for message, (before, key) in pairs]
        self._last = list(zip(messages, keys, strict=True))
        best, kept, whole = None, 0, False
        for number, (_, history) in reversed(list(enumerate(self._histories))):
            same = _common(history, keys)
            if best is None or (same == len(history), same) > (whole, kept):
                best, kept, whole = number, same, same == len(history)
        note = None
        if best is not None and not whole:
            turn, history = self._histories[best]
            if kept == len(keys):
                note = f"the agent made the request of turn {turn} again"
            elif kept == 0:
                note = "another conversation begins"
            else:
                gone = len(history) - kept
                lost = "last message is" if gone == 1 else f"last {gone} messages are"
                note = f"the history of turn {turn} was changed: its {lost} not sent"
        elif best is not None:
            del self._histories[best]
        said = [*keys, _key(answer)] if answer is not None else keys
        self._histories = [*self._histories[-(_MOST_HISTORIES - 1) :], (index, said)]
        return Step(messages[kept:], answer, note)


def message_of(response: object) -> Mapping[str, Any] | None:
    """Return the assistant message of a chat completion, None if it holds none."""
    choices = _objects(response.get("choices")) if isinstance(response, Mapping) else []
    message = choices[0].get("message") if choices else None
    return message if isinstance(message, Mapping) else None


def read_conversation(trajectory: Trajectory) -> list[Message]:
    """Return the messages of a trajectory in the order in which they came up."""
    unfolder, names = Unfolder(), dict[str, str]()
    found: list[Message] = []
    for turn in trajectory.turns:
        step = unfolder.add(turn.index, turn.request, message_of(turn.response))
        note = step.note
        for raw, sampled in [*((raw, False) for raw in step.messages), *([(step.answer, True)] * bool(step.answer))]:
            if raw is None:
                continue
            calls = tool_calls(raw)
            names |= {call.id: call.name for call in calls if call.id}
            call_id = _text_or_none(raw.get("tool_call_id"))
            found.append(
                Message(
                    turn=turn.index,
                    role=str(raw.get("role") or "assistant"),
                    text=message_text(raw),
                    sampled=sampled,
                    reasoning=_text_or_none(raw.get("reasoning_content")) or _text_or_none(raw.get("reasoning")) or "",
                    calls=calls,
                    call_id=call_id,
                    tool=names.get(call_id or ""),
                    note=note,
                )
            )
            note = None
    return found


def read_turns(trajectory: Trajectory) -> list[TurnFacts]:
    """Return what each turn of a trajectory took and earned, in order."""
    rewards = trajectory.rewards or ()
    each = rewards if len(rewards) == len(trajectory.turns) > 1 else (None,) * len(trajectory.turns)
    found = []
    for turn, reward in zip(trajectory.turns, each, strict=True):
        choices = _objects(turn.response.get("choices")) if isinstance(turn.response, Mapping) else []
        prompt, response = token_counts(turn.usage)
        found.append(
            TurnFacts(
                index=turn.index,
                span_id=turn.span_id,
                started_after=max(0.0, turn.started_at - trajectory.created_at),
                seconds=turn.seconds,
                prompt_tokens=prompt,
                response_tokens=response,
                finish_reason=_text_or_none(choices[0].get("finish_reason")) if choices else None,
                reward=reward,
                captured=turn.request is not None,
            )
        )
    return found


def first_difference(one: Sequence[Message], other: Sequence[Message]) -> int | None:
    """Return the position of the first message that two conversations do not share. None if they are the same."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        calls = [[(call.name, _normal(call.arguments)) for call in message.calls] for message in (a, b)]
        if (a.role, a.text, a.reasoning, a.sampled) != (b.role, b.text, b.reasoning, b.sampled) or calls[0] != calls[1]:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))


def tools_offered(trajectory: Trajectory) -> list[JSON]:
    """Return the tools that the requests offered, each once, in the order in which they came up. Secrets are masked."""
    found: dict[str, JSON] = {}
    for turn in trajectory.turns:
        tools = turn.request.get("tools") if isinstance(turn.request, Mapping) else None
        for tool in tools if isinstance(tools, list) else []:
            found.setdefault(json.dumps(tool, sort_keys=True), mask_secrets(tool))
    return list(found.values())


def mask_secrets(value: JSON) -> JSON:
    """Return a copy of JSON in which headers and fields that hold credentials by their name are "***"."""
    if isinstance(value, Mapping):
        # What a policy sampled has the name of a credential.
        is_sampled = "logprob" in value
        return {name: item if is_sampled and name == "token" else _masked(name, item) for name, item in value.items()}
    return [mask_secrets(item) for item in value] if isinstance(value, list | tuple) else value


def _masked(name: str, value: JSON) -> JSON:
    if name.lower() in _SECRET_NAMES and isinstance(value, str):
        return "***"
    if name.lower() in ("headers", "extra_headers") and isinstance(value, Mapping):
        return dict.fromkeys(value, "***")
    return mask_secrets(value)


# --- messages as agents and policies write them ----------------------------------------------------------------------


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a chat message. Parts that are no text are named in brackets."""
    content = message.get("content")
    if content is None:
        return _text_or_none(message.get("refusal")) or ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return json.dumps(content)
    return "".join(_part(part) for part in content)


def tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """Return the calls of tools in an assistant message, in order."""
    return tuple(
        ToolCall(
            _text_or_none(call.get("id")), str(function.get("name") or "?"), _as_text(function.get("arguments") or "")
        )
        for call in _objects(message.get("tool_calls"))
        if isinstance(function := call.get("function") or call.get("custom"), Mapping)
    )


def token_counts(usage: object) -> tuple[int | None, int | None]:
    """Return the tokens of request and answer in a policy's `usage`. None for what it does not say."""
    counts = [
        usage.get(name) if isinstance(usage, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
    ]
    prompt, response = (count if type(count) is int and 0 <= count < 1 << 53 else None for count in counts)
    return prompt, response


def _key(message: Mapping[str, Any]) -> int:
    calls = tuple((call.name, _normal(call.arguments)) for call in tool_calls(message))
    return hash((message.get("role") or "assistant", message_text(message), calls, str(message.get("tool_call_id"))))


def _normal(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _part(part: object) -> str:
    if not isinstance(part, Mapping):
        return _as_text(part)
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else f"[{part.get('type') or 'part'}]"


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
