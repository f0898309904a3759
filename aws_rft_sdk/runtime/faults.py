"""Trouble on purpose: what a network and a busy service do to calls, in doses, and the same trouble every time.

The seed, the route, the trajectory and the number of the call decide whether a fault strikes. The order in which calls
of different trajectories arrive does not. So a run with a hundred rollouts at once meets the same faults each time.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import socket
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import InitVar, dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from starlette.types import Message, Send

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.decode import Headers
from aws_rft_sdk.wire import TRAJECTORY_HEADERS

RouteName = Literal["inference", "complete", "reward", "feedback", "files", "jobs", "functions", "*"]
FaultKind = Literal["status", "reset", "slow", "drip", "cut", "skew", "die"]

_TRAJECTORY_HEADERS = tuple(name.lower().encode() for name in TRAJECTORY_HEADERS)


@dataclass(frozen=True)
class Fault:
    """One kind of trouble, where it strikes, and how often.

    Raises:
        ConfigurationError: A field has a value that it cannot have. The text names the field.
    """

    kind: FaultKind
    """What the caller meets:

    - "status": an error answer.
    - "reset": a broken connection and no answer.
    - "slow": an answer that arrives late.
    - "drip": an answer whose body arrives one byte at a time.
    - "cut": an answer that breaks off in its middle. The call took effect.
    - "skew": a refused signature, as from a machine whose clock is wrong.
    - "die": the runtime dies like a killed process. All connections break, calls in progress are lost, and the port
      refuses connections until `LocalRuntime.restart`.
    """
    route: RouteName = "*"
    """The calls that may be struck. "feedback" means "complete" and "reward". "files", "jobs" and
    "functions" are those of `LocalBedrock`. "jobs" is every call of `LocalJobs`, and its runtime has the others."""
    probability: float = 1.0
    """Share of these calls that are struck, from 0 to 1."""
    attempts: tuple[int, ...] | None = None
    """The calls of a trajectory on its route that may be struck, counted from 1. None for all."""
    after: bool = False
    """For "status", "reset", "slow" and "die": whether the call takes effect before the fault strikes."""
    status: int = 500
    """HTTP status for "status"."""
    retry_after_seconds: float | None = None
    """Value of the `Retry-After` header for "status". None for no such header."""
    seconds: float = 1.0
    """How long "slow" waits, and how long "drip" waits between two bytes."""
    retry_after: InitVar[float | None] = None
    """Old name of `retry_after_seconds`."""

    def __post_init__(self, retry_after: float | None) -> None:
        if retry_after is not None:
            warnings.warn("Fault(retry_after=) is now retry_after_seconds=", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "retry_after_seconds", retry_after)
        _check_word("kind", self.kind, get_args(FaultKind))
        _check_word("route", self.route, get_args(RouteName))
        check_number("a fault's probability", self.probability, low=0, high=1)
        check_number("a fault's status", self.status, low=400, high=599, whole=True)
        check_number("a fault's seconds", self.seconds, low=0)
        if self.retry_after_seconds is not None:
            check_number("a fault's retry_after_seconds", self.retry_after_seconds, low=0)
        if not isinstance(self.after, bool):
            raise ConfigurationError(f"a fault's after must be True or False, not {self.after!r:.80}")
        if self.attempts is not None:
            if not isinstance(self.attempts, list | tuple | set | range):
                raise ConfigurationError(f"a fault's attempts must be like (1, 2) or None, not {self.attempts!r:.80}")
            for attempt in self.attempts:
                check_number("each of a fault's attempts", attempt, low=1, whole=True)
            object.__setattr__(self, "attempts", tuple(self.attempts))

    def concerns(self, route: str, attempt: int) -> bool:
        """Whether it may strike this call of a trajectory on this route ("inference", "complete" or "reward")."""
        if self.attempts is not None and attempt not in self.attempts:
            return False
        return self.route in ("*", route) or (self.route == "feedback" and route in ("complete", "reward"))


def _check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigurationError(f"a fault's {name} must be one of {', '.join(words)}, not {value!r:.80}")


class Faults:
    """The trouble that a runtime makes.

    Args:
        faults: If several strike a call, the first one counts.
        seed: The same seed makes the same trouble.

    Raises:
        ConfigurationError: One of `faults` is no `Fault`, for example a list of them.
    """

    def __init__(self, *faults: Fault, seed: int = 0) -> None:
        for fault in faults:
            if not isinstance(fault, Fault):
                raise ConfigurationError(f"faults are given one by one, each a Fault, not {fault!r:.80}")
        self._faults = faults
        self._seed = seed
        self._attempts: Counter[tuple[str, str]] = Counter()
        self.injected: Counter[tuple[str, str]] = Counter()
        """Number of calls that were struck, by route and kind."""

    @classmethod
    def from_toml(cls, path: str | Path) -> Faults:
        """Read a file with an optional `seed` and a table `[[fault]]` for each `Fault`. Its keys are `Fault`'s fields.

        Raises:
            ConfigurationError: The file cannot be read, or holds an unknown key or value. The text names file and
                fault.
        """
        toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
        try:
            content = toml.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"faults cannot be read from {path}: {error}") from error
        if unknown := set(content) - {"seed", "fault"}:
            raise ConfigurationError(f"{path}: unknown keys {', '.join(sorted(unknown))}; known are seed and [[fault]]")
        tables = content.get("fault", [])
        if not isinstance(tables, list):
            raise ConfigurationError(f"{path}: fault is not a list of tables; begin each fault with a line [[fault]]")
        faults = [_read_fault(table, f"{path}, [[fault]] {number}") for number, table in enumerate(tables, 1)]
        return cls(*faults, seed=content.get("seed", 0))

    def draw(self, route: str, headers: Headers, body: bytes) -> Fault | None:
        """Count a call, and return the fault that strikes it, or None."""
        trajectory_id = _trajectory_of(headers, body)
        self._attempts[route, trajectory_id] += 1
        attempt = self._attempts[route, trajectory_id]
        for index, fault in enumerate(self._faults):
            lot = random.Random(f"{self._seed} {index} {route} {trajectory_id} {attempt}").random()
            if fault.concerns(route, attempt) and lot < fault.probability:
                self.injected[route, fault.kind] += 1
                return fault
        return None


def _read_fault(table: object, where: str) -> Fault:
    if not isinstance(table, dict) or "kind" not in table:
        raise ConfigurationError(f'{where} needs a kind, for example kind = "reset"')
    if unknown := set(table) - set(inspect.signature(Fault).parameters):
        raise ConfigurationError(f"{where} has unknown keys: {', '.join(sorted(unknown))}")
    try:
        return Fault(**table)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _trajectory_of(headers: Headers, body: bytes) -> str:
    for name, value in headers:
        if name in _TRAJECTORY_HEADERS:
            return value.decode("latin-1")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(content.get("TrajectoryId", "")) if isinstance(content, dict) else ""


class ConnectionGoneError(Exception):
    """The fault broke the connection, so nothing can be answered."""


async def strike(fault: Fault, handle: Callable[[Send], Awaitable[None]], send: Send, die: Callable[[], None]) -> None:
    """Handle a call that a fault strikes.

    Args:
        fault: The fault.
        handle: Handles the call. Gets the function that its answer goes to.
        send: The server's own function for the answer. The connection is found through it.
        die: Makes the runtime die.

    Raises:
        Refusal: The call is answered with this error.
        ConnectionGoneError: The connection is broken.
    """
    if fault.kind == "skew":
        raise Refusal(403, "Signature expired or not yet valid: its date is more than 5 minutes from the runtime's")
    if fault.kind in ("cut", "drip"):
        await handle(_cut(send) if fault.kind == "cut" else _drip(send, fault.seconds))
        return
    answer = list[Message]()
    if fault.after:
        await handle(_keep_in(answer))
    if fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
    elif fault.kind == "status":
        seconds = fault.retry_after_seconds
        when = "after" if fault.after else "before"
        text = f"This answer was made up by the runtime's faults, {when} the call took effect"
        raise Refusal(fault.status, text, retry_after=None if seconds is None else f"{seconds:g}")
    else:
        if fault.kind == "die":
            die()
        await reset(send)
        raise ConnectionGoneError
    if not fault.after:
        await handle(send)
    for message in answer:
        await send(message)


def _keep_in(messages: list[Message]) -> Send:
    async def keep(message: Message) -> None:
        messages.append(message)

    return keep


def _drip(send: Send, seconds: float) -> Send:
    async def drip(message: Message) -> None:
        body = message.get("body", b"")
        for position in range(len(body) - 1):
            await send({**message, "body": body[position : position + 1], "more_body": True})
            await asyncio.sleep(seconds)
        await send({**message, "body": body[-1:]} if body else message)

    return drip


def _cut(send: Send) -> Send:
    gone = False

    async def cut(message: Message) -> None:
        nonlocal gone
        body = message.get("body", b"")
        if body and not gone:
            gone = True
            await send({**message, "body": body[: len(body) // 2], "more_body": True})
            await asyncio.sleep(0.01)  # the bytes have to leave before the reset throws them away
            await reset(send)
        elif not gone:
            await send(message)

    return cut


async def reset(send: Send) -> None:
    """Break the connection of the call in progress, so that the caller sees a reset.

    Args:
        send: The server's own `send` of that call. ASGI has no message for a reset, so this uses the transport of
            uvicorn's object behind it.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        return
    abort(transport)
    # uvicorn learns of it one round of the event loop later. Before that it would log a call without an answer.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def abort(transport: asyncio.Transport) -> None:
    """Break a connection at once, without sending the rest of its data. The peer sees a reset."""
    peer = transport.get_extra_info("socket")
    if not transport.is_closing():
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
