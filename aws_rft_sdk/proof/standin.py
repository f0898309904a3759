"""The stand-in for the model in a proof: it keeps account of the tools, and can keep calls waiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.proof.markers import markers_of
from aws_rft_sdk.runtime import Call, Policy, PolicyError
from aws_rft_sdk.runtime.chat import read_answer
from aws_rft_sdk.runtime.stand_in import functions_of, messages_of, next_message

_RENDEZVOUS_SECONDS = 1.0
_MAX_CALLS = 8
"""Of one tool in one rollout: an agent that forgets its conversation would have it called for ever."""

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


class StandIn(Policy):
    """Answers as the policy `standin` does, but calls all tools at once, and always with the same arguments.

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
        names = {str(function["name"]) for function in functions_of(request)}
        self.offered |= names
        results = {self._calls.get(message.get("tool_call_id", "")) for message in messages_of(request, "tool")}
        self.ran |= {name for name in results if name is not None}
        may_call = {name for name in names if not self.skips(name) and self._counts[rollout, name] < _MAX_CALLS}
        text = " ".join(("example", *(f"({marker})" for marker in markers)))
        message = next_message(request, may_call, text)
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
