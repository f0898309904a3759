"""Threads for functions that may block, called from one event loop.

Lighter than an executor's futures, which are locked twice and handed over twice per call; and made of daemon threads,
so that a policy that hangs does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable
from typing import Any

_Task = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Workers:
    """At most `limit` threads, made when all others are busy.

    Concurrency: for calls from an event loop; one loop at a time.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def run(self, fn: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have `fn` called in a thread; the future gives what it returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._tasks.put((fn, loop, future))
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()
        return future

    def close(self) -> None:
        """Let the threads end; calls in progress are not waited for."""
        for _ in range(self._count):
            self._tasks.put(None)
        self._count = 0

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            fn, loop, future = task
            try:
                settle = functools.partial(_settle, future, fn(), None)
            except StopIteration as error:  # no future can hold it
                settle = functools.partial(_settle, future, None, RuntimeError(f"StopIteration: {error}"))
            except Exception as error:
                settle = functools.partial(_settle, future, None, error)
            self._idle.release()
            try:
                loop.call_soon_threadsafe(settle)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            # Nothing of a call may live on in an idle thread.
            del task, fn, loop, future, settle


def _settle(future: asyncio.Future[Any], value: object, error: Exception | None) -> None:
    if future.done():
        return  # cancelled in the meantime
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
