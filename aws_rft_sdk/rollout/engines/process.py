"""In a pool of processes on this machine, for agents that hold the interpreter's lock."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError, UnavailableError
from aws_rft_sdk.failures import describe_error
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.rollout.engines.base import PATIENCE_SECONDS, Engine
from aws_rft_sdk.rollout.engines.places import Places

logger = logging.getLogger(__name__)

_LINE_LIMIT = 256 * 1024 * 1024
"""Bytes of one message from a child: an outcome, with the metrics that a handler returned."""
_OVERTIME_SECONDS = 30.0
_START_SECONDS = 300.0
"""For a child to load the handler. Large frameworks take minutes on a slow disk."""
_MOST_DISPATCHES = 3
"""Of one payload. It may be what the children die of that do not acknowledge it."""
# Not `-m`: with the working directory first on the path, a json.py there would be taken for the library's.
_CHILD = f"""
import sys
sys.path = [*filter(None, sys.path), {str(Path(__file__).resolve().parents[3])!r}]
from aws_rft_sdk.rollout.engines._child import main
main()
"""


class ProcessEngine(Engine):
    """Runs rollouts in child processes, which load the handler by its name.

    A child that dies fails only the rollouts that it was running, and is replaced. A child that cannot be replaced gets
    no work for a while, then a new try. Rollouts that a dead child had not acknowledged run in other children. When a
    rollout that was lost with its child is repeated, it runs alone in a child, so that a handler that kills its process
    does so to no neighbour twice. Up to `workers` more children are started for that. Children end with this process,
    however that ends, and what they have started ends with them.

    Args:
        reference: The handler, as for `load_callable`.
        workers: Processes, at least 1.
        deadline_seconds: For each rollout; None for no deadline.
        overtime_seconds: How long a child may be silent: past the deadline of a rollout, or before it acknowledges a
            payload. It is killed then, since it is stopped or holds the interpreter's lock for good.
        patience_seconds: How long rollouts wait while no child works. The run ends then.
    """

    def __init__(
        self,
        reference: str,
        *,
        workers: int,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        overtime_seconds: float = _OVERTIME_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers is {workers}; it must be at least 1")
        settings = {"handler": reference, "path": sys.path, "deadline_seconds": deadline_seconds}
        self._limit_seconds = None if deadline_seconds is None else deadline_seconds + overtime_seconds
        self._children = [_Child(settings, overtime_seconds) for _ in range(workers)]
        self._places: Places[_Child] = Places(patience_seconds=patience_seconds)
        self._suspects: set[str] = set()
        """Prompts of rollouts that were lost with their child. One of them has killed it."""
        self._cells = [_Child(settings, overtime_seconds) for _ in range(workers)]
        # The last one first, so that no more of them are started than are needed at once.
        self._idle_cells: asyncio.LifoQueue[_Child] = asyncio.LifoQueue()
        for cell in self._cells:
            self._idle_cells.put_nowait(cell)

    @property
    def hung(self) -> int:
        """See `Engine.hung`. Each child tells with each rollout that ends."""
        return sum(child.hung for child in (*self._children, *self._cells))

    async def __aenter__(self) -> ProcessEngine:
        """Start the children and wait until they have loaded the handler. It is enough that one of them can.

        Raises:
            ConfigurationError: `reference` names no handler, or its module imports what is not installed.
            UnavailableError: None can be started, or the module raises another error in all of them.
        """
        try:
            started = await asyncio.gather(*[child.start() for child in self._children], return_exceptions=True)
            errors = [error for error in started if error is not None]
            if len(errors) == len(self._children):
                kind = ConfigurationError if isinstance(errors[0].__cause__, ConfigurationError) else UnavailableError
                raise kind(str(errors[0])) from errors[0]
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        for child, error in zip(self._children, started, strict=True):
            self._places.add(child, None if error is None else str(error))
        if errors:
            # What fails in some only is no fault of the handler: memory or processes are short, and may not stay so.
            logger.warning("children=<%d of %d>, error=<%s> | to be tried again", len(errors), len(started), errors[0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the children."""
        await asyncio.gather(*[child.stop() for child in (*self._children, *self._cells)])

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run the handler in the child with the fewest rollouts. See `Engine.run`.

        Raises:
            UnavailableError: No child works.
        """
        prompt = str(payload.get("prompt"))
        dispatches = 0
        while True:
            alone = prompt in self._suspects
            child = await (self._idle_cells.get() if alone else self._places.acquire())
            work, failure = None, None
            try:
                await child.start()
                dispatches += 1
                work = await child.give(payload, trajectory_id)
                self._places.answered(child)
                outcome = await child.outcome_of(work, self._limit_seconds)
                self._suspects.discard(prompt)
                return outcome
            except AgentUnreachableError as error:
                failure = str(error)
                if work is not None:
                    self._suspects.add(prompt)
                    return RolloutOutcome.broken(error, lost=True)
                if dispatches == _MOST_DISPATCHES:
                    return RolloutOutcome.broken(error)
                self._suspects.discard(prompt)  # if its cell cannot start, it runs among the others
            finally:
                if alone:
                    self._idle_cells.put_nowait(child)
                else:
                    self._places.release(child, failure)


class _Work(NamedTuple):
    """A rollout in a child."""

    number: int
    taken: asyncio.Future[None]
    """Until then, the handler certainly does not run."""
    ended: asyncio.Future[RolloutOutcome]


class _Child:
    """One child process, or its successor."""

    def __init__(self, settings: Mapping[str, Any], overtime_seconds: float) -> None:
        self._settings = settings
        self._overtime_seconds = overtime_seconds
        self._starting: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._work: dict[int, _Work] = {}
        self._numbers = itertools.count()
        self._heard = 0.0
        """When it last said something. Time of the event loop."""
        self._killed_for: str | None = None
        self.hung = 0
        """Threads that hung when it last told about a rollout."""

    async def start(self) -> None:
        """Start the process and wait until it has loaded the handler; nothing if it lives. All who wait share one try.

        Raises:
            AgentUnreachableError: It cannot. The cause is a ConfigurationError if the reference or an import is wrong.
        """
        if self._process is None:
            if self._starting is None:
                self._starting = asyncio.create_task(self._start())
                self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._starting)

    async def _start(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CHILD),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
                # The terminal sends Ctrl-C to all processes of its session; what it means is this one's decision.
                start_new_session=True,
            )
            try:
                _send(process, self._settings)
                line = await asyncio.wait_for(_stream(process).readline(), _START_SECONDS)
                answer = json.loads(line) if line.endswith(b"\n") else {"error": "it died while it was started"}
                if told := answer.get("error"):
                    is_usage = answer.get("is_usage", False)
                    raise AgentUnreachableError(f"a process cannot load the handler: {told}") from (
                        ConfigurationError(told) if is_usage else None
                    )
            except BaseException:
                await _end(process)
                raise
            self._process, self._killed_for, self._heard = process, None, asyncio.get_running_loop().time()
            self._reader = asyncio.create_task(self._read(process))
        except asyncio.TimeoutError:
            raise AgentUnreachableError(f"a process has not loaded the handler after {_START_SECONDS:g} s") from None
        except OSError as error:
            raise AgentUnreachableError(f"no process can be started: {describe_error(error)}") from error
        finally:
            self._starting = None

    async def give(self, payload: Mapping[str, Any], trajectory_id: str) -> _Work:
        """Give it a rollout, and wait until it has acknowledged it.

        Raises:
            AgentUnreachableError: It died before that. The handler has not been called.
        """
        if self._process is None:
            raise AgentUnreachableError("the process that was to run the rollout has died")
        loop = asyncio.get_running_loop()
        work = _Work(next(self._numbers), loop.create_future(), loop.create_future())
        self._work[work.number] = work
        _send(self._process, {"number": work.number, "payload": dict(payload), "trajectory_id": trajectory_id})
        given = loop.time()
        async with self._cancelling(work):
            while not work.taken.done():
                silent_seconds = loop.time() - max(given, self._heard)
                if silent_seconds >= self._overtime_seconds:
                    self._kill(f"it took no payload for {self._overtime_seconds:g} s")
                    break
                await asyncio.wait([work.taken], timeout=self._overtime_seconds - silent_seconds)
            await asyncio.wait([work.taken])
        work.taken.result()
        return work

    async def outcome_of(self, work: _Work, limit_seconds: float | None) -> RolloutOutcome:
        """Wait for the end of a rollout that was given.

        Raises:
            AgentUnreachableError: The process died.
        """
        async with self._cancelling(work):
            # The future itself is not cancelled, since the child answers a cancellation too.
            await asyncio.wait([work.ended], timeout=limit_seconds)
        if not work.ended.done():
            self._kill(f"it did not end a rollout {self._overtime_seconds:g} s past its deadline")
        return await work.ended

    @asynccontextmanager
    async def _cancelling(self, work: _Work) -> AsyncIterator[None]:
        """Cancel the rollout when the caller is cancelled, and wait until its handler has reported that."""
        try:
            yield
        except asyncio.CancelledError:
            if self._process is not None:
                _send(self._process, {"number": work.number, "cancel": True})
            await asyncio.wait([work.ended], timeout=_OVERTIME_SECONDS)
            raise

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        try:
            while (line := await _stream(process).readline()).endswith(b"\n"):
                self._heard = asyncio.get_running_loop().time()
                self._receive(json.loads(line))
        except Exception as error:  # a line beyond the limit, or one that the handler has written
            self._kill(f"it sent what cannot be read ({describe_error(error)})")
        self._process, self.hung = None, 0
        lost, self._work = self._work, {}
        _kill(process)  # what it has started
        code = await process.wait()
        ended = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        reason = f": {self._killed_for}" if self._killed_for else ""
        for work in lost.values():
            for future in (work.taken, work.ended):
                if not future.done():
                    future.set_exception(AgentUnreachableError(f"the process that ran the rollout {ended}{reason}"))
                    future.exception()  # nobody has to be waiting

    def _receive(self, message: Mapping[str, Any]) -> None:
        work = self._work[message["number"]]
        if "outcome" in message:
            work.ended.set_result(RolloutOutcome.of_fields(message["outcome"]))
            self.hung = message["hung"]
            del self._work[work.number]
        else:
            work.taken.set_result(None)

    def _kill(self, reason: str) -> None:
        if self._process is not None:
            self._killed_for = self._killed_for or reason
            _kill(self._process)

    async def stop(self) -> None:
        """End the process, also one that is still being started. What it is running is lost."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._process is not None:
            await _end(self._process)
        if self._reader is not None:
            await self._reader


def _stream(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    return process.stdout


def _send(process: asyncio.subprocess.Process, message: Mapping[str, Any]) -> None:
    # It is not waited for: a process that is stopped reads nothing, and `_Child._read` notices one that is dead.
    assert process.stdin is not None  # noqa: S101 - it was asked for
    process.stdin.write(json.dumps(message).encode() + b"\n")


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
