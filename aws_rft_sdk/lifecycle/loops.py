"""Runs a command's coroutine, and does not wait for what handlers have left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_LEAVE_SECONDS = 1.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, but leave tasks that ignore their cancellation, and threads of the loop.

    A handler that ignores it, or awaits `asyncio.to_thread`, leaves one behind at its deadline.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(_leave(loop))
        loop.close()


async def _leave(loop: asyncio.AbstractEventLoop) -> None:
    rest: set[asyncio.Future[Any]] = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    for task in rest:
        task.cancel()
    left = await _unfinished(rest)
    # After the tasks, as asyncio does: with the generators the connections are closed that tasks may still use.
    left |= await _unfinished({asyncio.ensure_future(loop.shutdown_asyncgens())})
    if left:
        # Kept to the end of the process, by a frame that is never left: collected, they would print tracebacks.
        threading.Thread(target=_keep, args=(left,), name="rft-left", daemon=True).start()


async def _unfinished(work: set[asyncio.Future[Any]]) -> set[asyncio.Future[Any]]:
    return (await asyncio.wait(work, timeout=_LEAVE_SECONDS))[1] if work else set()


def _keep(left: set[asyncio.Future[Any]]) -> None:
    threading.Event().wait()
