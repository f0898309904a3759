"""A gate that opens when all rollouts stand before it, in threads and in the event loop."""

from __future__ import annotations

import asyncio
import threading


class Everyone:
    """Lets nobody pass before all are there. Made in the event loop."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._missing = count
        self._lock = threading.Lock()
        self._in_threads, self._in_loop = threading.Event(), asyncio.Event()

    def wait(self) -> None:
        self._arrive()
        assert self._in_threads.wait(100)

    async def wait_in_loop(self) -> None:
        self._arrive()
        await self._in_loop.wait()

    def _arrive(self) -> None:
        with self._lock:
            self._missing -= 1
            last = self._missing == 0
        if last:
            self._in_threads.set()
            self._loop.call_soon_threadsafe(self._in_loop.set)
