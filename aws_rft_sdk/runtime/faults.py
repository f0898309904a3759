"""Trouble on purpose: what a network and a busy service do to calls, in doses and the same ones every time.

Whether a call is hit depends on the seed, the route, the trajectory and how often this trajectory has called that
route - not on the order in which calls of different trajectories arrive. So a run with a hundred rollouts at once meets
the same faults each time.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from starlette.types import Message, Send

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.decode import Headers
from aws_rft_sdk.wire import TRAJECTORY_HEADERS

RouteName = Literal["inference", "complete", "reward", "feedback", "*"]
FaultKind = Literal["status", "reset", "slow", "cut", "skew"]

_TRAJECTORY_HEADERS = tuple(name.lower().encode() for name in TRAJECTORY_HEADERS)


@dataclass(frozen=True)
class Fault:
    """One kind of trouble, where it strikes and how often.

    Raises:
        ConfigurationError: A value is not one that the field can have.
    """

    kind: FaultKind
    """"status" answers with an error; "reset" breaks the connection without an answer; "slow" waits; "cut" breaks the
    connection in the middle of the answer; "skew" refuses the signature as one of a wrong clock does."""
    route: RouteName = "*"
    """"feedback" means "complete" and "reward"."""
    probability: float = 1.0
    """Share of the calls that are hit, from 0 to 1."""
    attempts: tuple[int, ...] | None = None
    """Which calls of a trajectory on the route may be hit, counted from 1; None for all."""
    after: bool = False
    """Whether "status", "reset" and "slow" strike after the call took effect (its answer is lost) or before."""
    status: int = 500
    """HTTP status for "status"."""
    retry_after: float | None = None
    """Seconds in the `Retry-After` header for "status"; None for no such header."""
    seconds: float = 1.0
    """How long "slow" waits."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ConfigurationError(
                f"a fault's kind must be one of {', '.join(get_args(FaultKind))}, not {self.kind!r}"
            )
        if self.route not in get_args(RouteName):
            raise ConfigurationError(
                f"a fault's route must be one of {', '.join(get_args(RouteName))}, not {self.route!r}"
            )
        if not 0 <= self.probability <= 1 or not 400 <= self.status <= 599 or self.seconds < 0:
            raise ConfigurationError(
                "a fault's probability must be from 0 to 1, its status from 400 to 599, its seconds at least 0"
            )
        if self.attempts is not None:
            object.__setattr__(self, "attempts", tuple(self.attempts))

    def concerns(self, route: str, attempt: int) -> bool:
        """Whether it may strike this call of a trajectory on this route ("inference", "complete" or "reward")."""
        if self.attempts is not None and attempt not in self.attempts:
            return False
        return self.route in ("*", route) or (self.route == "feedback" and route != "inference")


class Faults:
    """The trouble that a runtime makes.

    Args:
        faults: Of those that strike a call, the first counts.
        seed: Equal seeds make equal trouble.

    Raises:
        ConfigurationError: One is no `Fault`, a list of them for example.
    """

    def __init__(self, *faults: Fault, seed: int = 0) -> None:
        for fault in faults:
            if not isinstance(fault, Fault):
                raise ConfigurationError(f"faults are given one by one, each a Fault, not {fault!r:.80}")
        self._faults = faults
        self._seed = seed
        self._attempts: Counter[tuple[str, str]] = Counter()
        self.injected: Counter[tuple[str, str]] = Counter()
        """How many calls were hit, by route and kind."""

    @classmethod
    def from_toml(cls, path: str | Path) -> Faults:
        """Read a file with an optional `seed` and a table `[[fault]]` for each `Fault`, keys named like its fields.

        Raises:
            ConfigurationError: The file cannot be read, or a key or value is unknown.
        """
        toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
        try:
            content = toml.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"faults cannot be read from {path}: {error}") from error
        if unknown := set(content) - {"seed", "fault"}:
            raise ConfigurationError(f"{path}: unknown keys {', '.join(sorted(unknown))}; known are seed and [[fault]]")
        return cls(*[_read_fault(table, str(path)) for table in content.get("fault", [])], seed=content.get("seed", 0))

    def draw(self, route: str, headers: Headers, body: bytes) -> Fault | None:
        """Return what strikes a call, None for nothing. Counts the call."""
        trajectory_id = _trajectory_of(headers, body)
        self._attempts[route, trajectory_id] += 1
        attempt = self._attempts[route, trajectory_id]
        for index, fault in enumerate(self._faults):
            lot = random.Random(f"{self._seed} {index} {route} {trajectory_id} {attempt}").random()
            if fault.concerns(route, attempt) and lot < fault.probability:
                self.injected[route, fault.kind] += 1
                return fault
        return None


def _read_fault(table: Mapping[str, Any], path: str) -> Fault:
    known = {field.name for field in fields(Fault)}
    if unknown := set(table) - known:
        raise ConfigurationError(f"{path}: unknown keys {', '.join(sorted(unknown))} in [[fault]]")
    if "kind" not in table:
        raise ConfigurationError(f"{path}: a [[fault]] needs a kind")
    try:
        return Fault(**table)
    except TypeError as error:
        raise ConfigurationError(f"{path}: a value in [[fault]] is of a wrong type: {error}") from error


def _trajectory_of(headers: Headers, body: bytes) -> str:
    for name, value in headers:
        if name in _TRAJECTORY_HEADERS:
            return value.decode("latin-1")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(content.get("TrajectoryId", "")) if isinstance(content, dict) else ""


async def strike(fault: Fault, handle: Callable[[Send], Awaitable[None]], send: Send) -> None:
    """Handle a call with a fault in it.

    Args:
        fault: What strikes.
        handle: Handles the call, given where to send its answer.
        send: Where the answer goes: the server's own, because through it the connection is found.

    Raises:
        Refusal: The call is to be answered with an error.
    """
    if fault.kind == "skew":
        raise Refusal(403, "Signature expired or not yet valid: its date is more than 5 minutes from the runtime's")
    if fault.kind == "cut":
        await handle(_Cut(send))
        return
    if fault.after:
        answer = _Held()
        await handle(answer)
        await _act(fault, send)
        for message in answer.messages:  # only a slow answer comes this far
            await send(message)
    elif not await _act(fault, send):
        await handle(send)


async def _act(fault: Fault, send: Send) -> bool:
    """Do what the fault does; return whether the call is over."""
    if fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
        return False
    if fault.kind == "reset":
        await reset(send)
        raise ConnectionGoneError
    seconds = fault.retry_after
    text = (
        f"This answer was made up by the runtime's faults, {'after' if fault.after else 'before'} the call took effect"
    )
    raise Refusal(fault.status, text, retry_after=None if seconds is None else f"{seconds:g}")


class ConnectionGoneError(Exception):
    """The connection was broken on purpose: there is nobody to answer."""


class _Held:
    """Keeps an answer back."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)


class _Cut:
    """Lets the first half of an answer's first piece through, then breaks the connection."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        body = message.get("body", b"")
        if message["type"] == "http.response.start":
            await self._send(message)
        elif body:
            await self._send({**message, "body": body[: len(body) // 2], "more_body": True})
            await asyncio.sleep(0.01)  # what was written has to leave before the reset throws it away
            await reset(self._send)
            raise ConnectionGoneError


async def reset(send: Send) -> None:
    """Break the connection of the call in progress, so that the caller sees a reset.

    Args:
        send: The server's own `send` of that call. ASGI has no message for this, so uvicorn's object behind it is
            used; with another server nothing happens.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        return
    peer = transport.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    # The server learns of it one round of the event loop later, and complains about a call without an answer before.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
