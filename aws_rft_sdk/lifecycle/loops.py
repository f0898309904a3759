"""Runs a command's coroutine, whatever the tasks of handlers raise, and does not wait for what they leave running."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from aws_rft_sdk.lifecycle.executor import hosting_handlers

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LEAVE_SECONDS = 1.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, but leave tasks that ignore their cancellation, and threads that hang.

    asyncio lets a SystemExit and a KeyboardInterrupt of any task out of the loop. Here the loop goes on.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed. The first one cancels `work`, the second one is raised at once.
    """
    loop = asyncio.new_event_loop()
    with hosting_handlers(loop):
        task = loop.create_task(work)
        try:
            with _ctrl_c(task) as interrupts:
                return _outlive(loop, task, interrupts)
        finally:
            loop.run_until_complete(_leave(loop))
            loop.close()


def _outlive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T], interrupts: list[int]) -> T:
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done() or interrupts:
                raise
            logger.error("error=<%s> | a task of a handler tried to end the process", type(error).__name__)
        except asyncio.CancelledError:
            if interrupts:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _ctrl_c(task: asyncio.Task[Any]) -> Iterator[list[int]]:
    """Cancel a task at the first SIGINT, and list the signals that have come."""
    interrupts: list[int] = []
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_ours or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if interrupts:
            raise KeyboardInterrupt
        interrupts.append(number)
        task.get_loop().call_soon_threadsafe(task.cancel)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
