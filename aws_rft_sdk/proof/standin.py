"""A stand-in for the model under training that can talk to any agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.proof.markers import markers_of
from aws_rft_sdk.proof.plausible import plausible_arguments, plausible_value
from aws_rft_sdk.runtime import Call, PolicyError
from aws_rft_sdk.runtime.chat import read_answer

_RENDEZVOUS_SECONDS = 1.0

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
    """Answers plausibly: calls tools once, fills in a form where one is asked for, else says something.

    Whatever it says repeats the marker of the rollout, so that agents which hear of the task only through a tool call
    or another agent carry it too.

    Args:
        tool_calls: How many of the tools offered it calls, all in one turn; 0 for none.
        answered: Told the body and the trajectory of each request that was answered.
    """

    def __init__(self, tool_calls: int = 1, answered: Answered = lambda body, trajectory_id: None) -> None:
        self._tool_calls = tool_calls
        self._answered = answered
        self._expected = 0
        self._waiting = 0
        self._together: asyncio.Event | None = None
        self._holds: dict[str, Hold] = {}

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
        return read_answer(next_message(call.request, markers[-1:], self._tool_calls), call.request)

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


def next_message(request: Mapping[str, Any], markers: tuple[str, ...], tool_calls: int) -> dict[str, Any]:
    """Return what the stand-in says to a chat request.

    Args:
        request: The chat request.
        markers: What to repeat.
        tool_calls: How many tools to call.
    """
    text = " ".join(("example", *(f"({marker})" for marker in markers)))
    schema = _form(request)
    if schema is not None:
        return {"role": "assistant", "content": json.dumps(plausible_value(schema, text))}
    chosen = _tools_to_call(request, tool_calls)
    if not chosen:
        return {"role": "assistant", "content": f"Here is an {text}.\n#### 1"}
    calls = [
        {
            "id": f"call-{index}-{'-'.join(markers) or 'proof'}",
            "type": "function",
            "function": {"name": function["name"], "arguments": plausible_arguments(function, text)},
        }
        for index, function in enumerate(chosen)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _form(request: Mapping[str, Any]) -> object:
    wanted = request.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return {} if isinstance(wanted, Mapping) and wanted.get("type") == "json_object" else None
    inner = wanted.get("json_schema")
    return inner.get("schema", {}) if isinstance(inner, Mapping) else {}


def _tools_to_call(request: Mapping[str, Any], tool_calls: int) -> list[Mapping[str, Any]]:
    offered = [tool.get("function") for tool in request.get("tools") or () if isinstance(tool, Mapping)]
    functions = [function for function in offered if isinstance(function, Mapping) and "name" in function]
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        name = (choice.get("function") or {}).get("name")
        return [function for function in functions if function["name"] == name]
    if choice == "none":
        return []
    if choice in ("required", "any"):
        return functions[:1]
    was_called = any(message.get("role") == "tool" for message in request.get("messages") or ())
    return [] if was_called else functions[:tool_calls]
