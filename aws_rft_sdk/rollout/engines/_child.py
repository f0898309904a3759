"""A process of `ProcessEngine`: reads payloads from stdin, one JSON object a line, and writes outcomes to stdout.

It is a module to run, not to import. The first line tells what to load; the answer tells whether that worked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

from aws_rft_sdk.rollout.engines.base import Outcome, describe_error
from aws_rft_sdk.rollout.engines.local import LocalEngine
from aws_rft_sdk.rollout.loading import load_callable
from aws_rft_sdk.rollout.records import RolloutStatus


class _Child:
    """Serves one parent until its end of stdin is closed."""

    def __init__(self, engine: LocalEngine, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._engine = engine
        self._incoming = incoming
        self._outgoing = outgoing
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Run what arrives; never returns, since the parent's end is this process's end."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="rft-child-reader", daemon=True).start()
        await asyncio.Event().wait()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        for line in self._incoming:
            loop.call_soon_threadsafe(self._receive, json.loads(line))
        # The parent has closed the engine, or died. Nothing is reported then: whoever resumes the run looks at what the
        # runtime has, and a reward that arrives after that would belong to a rollout that is run again.
        os._exit(0)

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
        except asyncio.CancelledError:
            outcome = Outcome(RolloutStatus.UNREPORTED, error="CancelledError: ")
        except Exception as error:
            outcome = Outcome(RolloutStatus.UNREPORTED, error=describe_error(error))
        send(self._outgoing, {"number": number, "outcome": outcome.to_fields()})


def send(outgoing: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message."""
    outgoing.write(json.dumps(message).encode() + b"\n")
    outgoing.flush()


def main() -> None:
    """Serve the parent over stdin and stdout."""
    # The terminal sends Ctrl-C to all processes; what it means is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    # What handlers print must not come between the messages, and what they read must not take them.
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    settings = json.loads(incoming.readline() or "{}")
    if not settings:
        return
    try:
        sys.path[:] = settings["path"]
        handler = load_callable(settings["handler"])
    except Exception as error:
        traceback.print_exc()
        send(outgoing, {"error": describe_error(error)})
        return
    send(outgoing, {"ready": True})
    engine = LocalEngine(handler, deadline_seconds=settings["deadline_seconds"])
    asyncio.run(_Child(engine, incoming, outgoing).serve())


if __name__ == "__main__":
    main()
