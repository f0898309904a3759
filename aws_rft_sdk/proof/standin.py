"""A stand-in for the model under training that can talk to any agent."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.proof.markers import markers_of
from aws_rft_sdk.runtime import Call, PolicyError
from aws_rft_sdk.runtime.chat import read_answer

_RENDEZVOUS_SECONDS = 1.0
_MAX_CALLS = 8
"""Of one tool in one rollout: an agent that forgets its conversation would have it called for ever."""
_OTHER_AGENT = re.compile(r"^Agent name: (.+?)\.(?:\s|$)", re.MULTILINE)
_EARLIER_AGENTS = re.compile(r"^Previous agents who worked on this: (.+)$", re.MULTILINE)
"""What Strands tells the agents of a Swarm about each other."""

_MAX_DEPTH = 12
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

Answered = Callable[[bytes, str | None], None]


class Hold:
    """Keeps one call waiting for its answer."""

    def __init__(self) -> None:
        self.arrived: Future[None] = Future()
        """Done once the call is there."""
        self._released: Future[None] = Future()

    def release(self) -> None:
        """Let the call go on; doing it twice is fine."""
        if not self._released.done():
            self._released.set_result(None)

    async def keep(self) -> None:
        """Be kept waiting."""
        if not self.arrived.done():
            self.arrived.set_result(None)
        await asyncio.wrap_future(self._released)


class StandIn:
    """Answers plausibly: calls each tool once, fills in a form where one is asked for, else says something.

    Whatever it says repeats the marker of the rollout, so that agents which hear of the task only through a tool call
    or another agent carry it too.

    Args:
        skip_tools: Tools that it does not call: names, or patterns with `*`.
        answered: Told the body and the trajectory of each request that was answered.
    """

    def __init__(self, skip_tools: Sequence[str] = (), answered: Answered = lambda body, trajectory_id: None) -> None:
        self._skip_tools = skip_tools
        self._answered = answered
        self._expected = 0
        self._waiting = 0
        self._together: asyncio.Event | None = None
        self._holds: dict[str, Hold] = {}
        self._calls: dict[str, str] = {}  # names of tools by the id of the call
        self._counts: Counter[tuple[str | None, str]] = Counter()
        self.offered: set[str] = set()
        """Names of all tools that were offered."""
        self.ran: set[str] = set()
        """Names of the tools whose result came back, and of those that the agent demanded to be called."""

    def skips(self, tool: str) -> bool:
        """Whether it does not call a tool."""
        return any(fnmatchcase(tool, pattern) for pattern in self._skip_tools)

    def gather(self, calls: int) -> None:
        """Keep the next calls back until so many are there at once, or one second has passed.

        That makes sure that rollouts overlap, which is when headers get mixed up. Call it while nothing is running.
        """
        self._expected, self._waiting, self._together = calls, 0, None

    def hold(self, marker: str) -> Hold:
        """Keep the next call of a rollout waiting; then it is answered 503."""
        self._holds[marker] = hold = Hold()
        return hold

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return the next message of a conversation."""
        markers = markers_of(call.body)
        hold = self._holds.pop(markers[-1], None) if markers else None
        if hold is not None:
            await hold.keep()
            raise PolicyError("this call was held until its rollout was cancelled", status=503)
        await self._meet()
        self._answered(call.body, call.trajectory_id)
        rollout = markers[-1] if markers else call.trajectory_id
        return read_answer(self._next_message(call.request, markers[-1:], rollout), call.request)

    def _next_message(
        self, request: Mapping[str, Any], markers: tuple[str, ...], rollout: str | None
    ) -> dict[str, Any]:
        """Return the next message, and keep account of the tools."""
        names = {str(function["name"]) for function in _functions(request)}
        self.offered |= names
        results = {self._calls.get(message.get("tool_call_id", "")) for message in _messages(request, "tool")}
        self.ran |= {name for name in results if name is not None}
        may_call = {name for name in names if not self.skips(name) and self._counts[rollout, name] < _MAX_CALLS}
        message = next_message(request, markers, may_call)
        for call in message.get("tool_calls", ()):
            name = call["function"]["name"]
            self._calls[call["id"]] = name
            self._counts[rollout, name] += 1
            if request.get("tool_choice") not in (None, "auto"):
                self.ran.add(name)  # such a call may end the conversation: it is the answer
        return message

    async def _meet(self) -> None:
        if self._waiting >= self._expected:
            return
        if self._together is None:
            self._together = asyncio.Event()
        together = self._together
        self._waiting += 1
        if self._waiting == self._expected:
            together.set()
        try:
            await asyncio.wait_for(together.wait(), _RENDEZVOUS_SECONDS)
        except asyncio.TimeoutError:
            self._waiting = self._expected
            together.set()


def next_message(request: Mapping[str, Any], markers: tuple[str, ...], tools: Collection[str]) -> dict[str, Any]:
    """Return what the stand-in says to a chat request.

    Args:
        request: The chat request.
        markers: What to repeat.
        tools: Names of the tools that may be called, unless the request demands others.
    """
    text = " ".join(("example", *(f"({marker})" for marker in markers)))
    schema = _form(request)
    if schema is not None:
        return {"role": "assistant", "content": json.dumps(plausible_value(schema, text))}
    chosen = _tools_to_call(request, tools)
    if not chosen:
        return {"role": "assistant", "content": f"Here is an {text}.\n#### 1"}
    return {"role": "assistant", "content": None, "tool_calls": [_tool_call(tool, text, request) for tool in chosen]}


def _form(request: Mapping[str, Any]) -> object:
    wanted = request.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return {} if isinstance(wanted, Mapping) and wanted.get("type") == "json_object" else None
    inner = wanted.get("json_schema")
    return inner.get("schema", {}) if isinstance(inner, Mapping) else {}


def _tools_to_call(request: Mapping[str, Any], tools: Collection[str]) -> list[Mapping[str, Any]]:
    functions = _functions(request)
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        name = (choice.get("function") or {}).get("name")
        return [function for function in functions if function["name"] == name]
    called = {call["function"]["name"] for message in _messages(request, "assistant") for call in _calls_of(message)}
    left = [function for function in functions if function["name"] in tools and function["name"] not in called]
    if choice in ("required", "any"):
        return left[:1] or functions[-1:]
    if choice == "none":
        return []
    return [function for function in left if not (_hands_over(function) and _next_agent(request) == "")]


def _tool_call(function: Mapping[str, Any], text: str, request: Mapping[str, Any]) -> dict[str, Any]:
    arguments = plausible_value(function.get("parameters"), text)
    arguments = arguments if isinstance(arguments, dict) else {}
    if _hands_over(function) and _next_agent(request):
        arguments["agent_name"] = _next_agent(request)
    call = {"name": function["name"], "arguments": json.dumps(arguments)}
    return {"id": f"call-{uuid.uuid4().hex}", "type": "function", "function": call}


def _hands_over(function: Mapping[str, Any]) -> bool:
    """Whether a tool hands the task to another agent that it takes the name of, as that of a Strands Swarm does."""
    parameters = function.get("parameters")
    return isinstance(parameters, Mapping) and "agent_name" in (parameters.get("properties") or {})


def _next_agent(request: Mapping[str, Any]) -> str | None:
    """Return an agent of the Swarm that has not worked yet, "" when all have, None when the request names none."""
    text = "\n".join(_text_of(message) for message in _messages(request, "user"))
    earlier = {name for names in _EARLIER_AGENTS.findall(text) for name in names.split(" → ")}
    others = _OTHER_AGENT.findall(text)
    return next((name for name in others if name not in earlier), "") if others else None


def _functions(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    offered = [tool.get("function") for tool in request.get("tools") or () if isinstance(tool, Mapping)]
    return [function for function in offered if isinstance(function, Mapping) and "name" in function]


def _messages(request: Mapping[str, Any], role: str) -> list[Mapping[str, Any]]:
    return [message for message in request.get("messages") or () if message.get("role") == role]


def _calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [call for call in message.get("tool_calls") or () if isinstance(call.get("function"), Mapping)]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    return "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


# --- values that fit a JSON schema ---------------------------------------------------------------------------------


def plausible_value(schema: object, text: str = "example") -> Any:
    """Return a value that fits a JSON schema.

    The usual vocabulary is understood (types, enum, const, required, references, combinations, bounds); patterns are
    not. Optional properties are left out.

    Args:
        schema: The schema; one that is no object fits anything.
        text: What free strings say.
    """
    root = schema if isinstance(schema, Mapping) else {}
    return _value(root, root, text, 0)


def _value(schema: object, root: Mapping[str, Any], text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return text
    if "$ref" in schema:
        return _value(_resolve(str(schema["$ref"]), root), root, text, depth + 1)
    if "const" in schema:
        return schema["const"]
    for name in ("enum", "examples"):
        if isinstance(schema.get(name), Sequence) and schema[name]:
            return schema[name][0]
    for name in ("anyOf", "oneOf"):
        if schema.get(name):
            return _value(schema[name][0], root, text, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= _resolve(str(part["$ref"]), root) if "$ref" in part else part
        return _value(merged, root, text, depth + 1)
    return _typed(schema, root, text, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], text: str, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties") or {}
        return {name: _value(properties.get(name), root, text, depth + 1) for name in schema.get("required") or ()}
    if kind == "array":
        return [_value(schema.get("items"), root, text, depth + 1) for _ in range(max(1, schema.get("minItems") or 0))]
    if kind in ("integer", "number"):
        return _number(schema)
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    return text[: schema["maxLength"]] if isinstance(schema.get("maxLength"), int) else text


def _number(schema: Mapping[str, Any]) -> float:
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if isinstance(schema.get("exclusiveMinimum"), int | float):
        lowest = schema["exclusiveMinimum"] + 1
    if isinstance(schema.get("exclusiveMaximum"), int | float):
        highest = schema["exclusiveMaximum"] - 1
    value = 1 if lowest is None else max(1, lowest)
    return value if highest is None else min(value, highest)


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    target: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        target = target.get(key) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else {}
