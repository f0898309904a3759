"""A process of `ProcessEngine`: reads payloads from stdin, one JSON object a line, and writes outcomes to stdout.

It is a module to run, not to import. The first line tells what to load; the answer tells whether that worked.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO, NoReturn

from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.failures import describe_error
from aws_rft_sdk.lifecycle import loops
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.rollout.engines.local import LocalEngine

_PR_SET_PDEATHSIG = 1


class _Child:
    """Serves one parent until its end of stdin is closed."""

    def __init__(self, engine: LocalEngine, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._engine = engine
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = threading.Lock()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Run what arrives; never returns, since the parent's end is this process's end."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="rft-child-reader", daemon=True).start()
        await asyncio.Event().wait()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for line in self._incoming:
                message = json.loads(line)
                if not message.get("cancel"):
                    # From this thread, since a handler may block the loop: before this, the work can go elsewhere.
                    self._send({"number": message["number"]})
                loop.call_soon_threadsafe(self._receive, message)
        finally:
            # The parent has closed the engine, or died. Nothing is reported then: whoever resumes the run looks at what
            # the runtime has, and a reward that arrives after that would belong to a rollout that is run again. Or this
            # process is out of memory, or a handler has closed the pipes: another process has to take over.
            _end()

    def _receive(self, message: dict[str, Any]) -> None:
        number = message["number"]
        if message.get("cancel"):
            if task := self._tasks.get(number):
                task.cancel()
            return
        task = asyncio.ensure_future(self._run(number, message["payload"], message["trajectory_id"]))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _run(self, number: int, payload: dict[str, Any], trajectory_id: str) -> None:
        try:
            outcome = await self._engine.run(payload, trajectory_id)
        except UnavailableError as error:
            # All further rollouts would fail here, and at once, which attracts more. Another process has to take over.
            sys.stderr.write(f"{describe_error(error)}\n")
            _end()
        except BaseException as error:
            outcome = RolloutOutcome.broken(error)
        try:
            self._send({"number": number, "outcome": outcome.to_fields(), "hung": self._engine.hung})
        except BaseException:
            _end()

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            send(self._outgoing, message)


def send(outgoing: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message."""
    outgoing.write(json.dumps(message).encode() + b"\n")
    outgoing.flush()


def _end() -> NoReturn:
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what handlers have started
    os._exit(0)


def _end_with_parent() -> None:
    # The end of stdin tells as much, but not to a process in which a handler holds the interpreter's lock.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Serve the parent over stdin and stdout."""
    _end_with_parent()
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    # What handlers print must not come between the messages, and what they read must not take them.
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if hasattr(os, "register_at_fork"):
        # Processes that handlers fork would keep both pipes open, and the parent waiting for their end.
        kept = (incoming.fileno(), outgoing.fileno())
        os.register_at_fork(after_in_child=lambda: [os.dup2(null, fd) for fd in kept])
    settings = json.loads(incoming.readline() or "{}")
    if not settings:
        return
    try:
        sys.path[:] = settings["path"]
        handler = load_callable(settings["handler"])
    except BaseException as error:  # also of a script that ends when it is imported
        traceback.print_exc()
        send(
            outgoing, {"error": describe_error(error), "is_usage": isinstance(error, (ConfigurationError, ImportError))}
        )
        return
    send(outgoing, {"ready": True})
    engine = LocalEngine(handler, deadline_seconds=settings["deadline_seconds"])
    loops.run(_Child(engine, incoming, outgoing).serve())  # also if a callback of a handler would end the loop


if __name__ == "__main__":
    main()
