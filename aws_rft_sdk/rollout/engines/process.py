"""In a pool of processes on this machine, for agents that hold the interpreter's lock."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.rollout.engines.base import DEADLINE_SECONDS, Engine, RolloutOutcome

_LINE_LIMIT = 256 * 1024 * 1024
"""Bytes of one message from a child: an outcome, with the metrics that a handler returned."""
_OVERTIME_SECONDS = 30.0
# Not `-m`: with the working directory first on the path, a json.py there would be taken for the library's.
_CHILD = f"""
import sys
sys.path = [*filter(None, sys.path), {str(Path(__file__).resolve().parents[3])!r}]
from aws_rft_sdk.rollout.engines._child import main
main()
"""


class ProcessEngine(Engine):
    """Runs rollouts in child processes, which load the handler by its name.

    A child that dies fails only the rollouts that it was running, and is replaced. Children end with this process,
    however that ends, and what they have started ends with them.

    Args:
        reference: The handler, as for `load_callable`.
        workers: Processes, at least 1.
        deadline_seconds: For each rollout; None for no deadline.
        overtime_seconds: Past the deadline, for a child to report. One that does not even do that holds the
            interpreter's lock for good: it is killed.
    """

    def __init__(
        self,
        reference: str,
        *,
        workers: int,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        overtime_seconds: float = _OVERTIME_SECONDS,
    ) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers is {workers}; it must be at least 1")
        self._settings = {"handler": reference, "path": sys.path, "deadline_seconds": deadline_seconds}
        self._limit_seconds = None if deadline_seconds is None else deadline_seconds + overtime_seconds
        self._children = [_Child(self._settings) for _ in range(workers)]

    async def __aenter__(self) -> ProcessEngine:
        """Start the children and wait until they have loaded the handler.

        Raises:
            ConfigurationError: They cannot load it.
        """
        try:
            await asyncio.gather(*[child.start() for child in self._children])
        except BaseException as error:
            await self.__aexit__(None, None, None)
            if isinstance(error, AgentUnreachableError):
                raise ConfigurationError(str(error)) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the children."""
        await asyncio.gather(*[child.stop() for child in self._children])

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run the handler in the child with the fewest rollouts. See `Engine.run`."""
        child = min(self._children, key=lambda child: child.load)
        try:
            return await child.run(dict(payload), trajectory_id, self._limit_seconds)
        except AgentUnreachableError as error:
            return RolloutOutcome.broken(error, lost=True)


class _Child:
    """One child process, or its successor."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[RolloutOutcome]] = {}
        self._numbers = itertools.count()
        self._starting = asyncio.Lock()
        self.load = 0
        """Rollouts that it was given and has not answered."""

    async def start(self) -> None:
        """Start the process and wait until it has loaded the handler; nothing if it lives.

        Raises:
            AgentUnreachableError: It cannot.
        """
        async with self._starting:
            if self._process is not None:
                return
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CHILD),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
                # The terminal sends Ctrl-C to all processes of its session; what it means is this one's decision.
                start_new_session=True,
            )
            try:
                await _send(process, self._settings)
                line = await _stream(process).readline()
                answer = json.loads(line) if line.endswith(b"\n") else {"error": "it died while it was started"}
                if "error" in answer:
                    raise AgentUnreachableError(f"a process cannot load the handler: {answer['error']}")
            except BaseException:
                await _end(process)
                raise
            self._process = process
            self._reader = asyncio.create_task(self._read(process))

    async def run(self, payload: dict[str, Any], trajectory_id: str, limit_seconds: float | None) -> RolloutOutcome:
        self.load += 1
        number = next(self._numbers)
        try:
            await self.start()
            answer: asyncio.Future[RolloutOutcome] = asyncio.get_running_loop().create_future()
            self._waiting[number] = answer
            await self._tell({"number": number, "payload": payload, "trajectory_id": trajectory_id})
            try:
                # The future itself is not cancelled, since the child answers a cancellation too.
                await asyncio.wait([answer], timeout=limit_seconds)
            except asyncio.CancelledError:
                await self._tell({"number": number, "cancel": True})
                await asyncio.wait([answer], timeout=_OVERTIME_SECONDS)
                raise
            if not answer.done() and self._process is not None:
                _kill(self._process)
            return await answer
        finally:
            self.load -= 1
            if future := self._waiting.pop(number, None):
                future.cancel()

    async def _tell(self, message: Mapping[str, Any]) -> None:
        if self._process is not None:
            await _send(self._process, message)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        while (line := await _stream(process).readline()).endswith(b"\n"):
            message = json.loads(line)
            future = self._waiting.get(message["number"])
            if future is not None and not future.done():
                future.set_result(RolloutOutcome.of_fields(message["outcome"]))
        lost, self._waiting = self._waiting, {}
        self._process = None
        _kill(process)  # what it has started
        code = await process.wait()
        ended = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        error = AgentUnreachableError(f"the process that ran the rollout {ended}")
        for future in lost.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody has to be waiting

    async def stop(self) -> None:
        """End the process, also one that is still being started. What it is running is lost."""
        async with self._starting:
            process, reader = self._process, self._reader
        if process is not None:
            await _end(process)
        if reader is not None:
            await reader


def _stream(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    return process.stdout


async def _send(process: asyncio.subprocess.Process, message: Mapping[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    process.stdin.write(json.dumps(message).encode() + b"\n")
    try:
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it is dead; whoever reads from it finds out what of


def _kill(process: asyncio.subprocess.Process) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        return


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill(process)
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
