"""SIGINT and SIGTERM while a run goes on: finish, then cancel, then whatever the signal means."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

from aws_rft_sdk.lifecycle import loops

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as shells have it."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles the two signals in the body of a `with`, in the main thread. In other threads it handles none.

    Args:
        tell: Is called in the event loop with the number of the signal, 1 or 2. The third ends the process at once; in
            a notebook, it raises KeyboardInterrupt.
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.count = 0
        """Signals that came."""
        self._tell = tell
        self._before: dict[int, Any] = {}
        self._is_notebook = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stopping: asyncio.Event | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # Not `loop.add_signal_handler`: a handler that blocks the loop would keep the third signal away.
            self._before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def run(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine to its end in a new event loop.

        Args:
            work: Makes the coroutine. The first signal sets the event that is its argument, the second one cancels it.
        """
        # Not in an `except` block: tracebacks of handlers would begin with its error.
        if not _has_running_loop():
            loops.run(self._guarded(work))
            return
        self._is_notebook = True
        # This thread's loop is running, so ours needs another thread. Signals still arrive in this one.
        thread = ThreadPoolExecutor(1, "rft-run")
        try:
            thread.submit(loops.run, self._guarded(work)).result()
        finally:
            thread.shutdown(wait=False)

    async def _guarded(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        self._stopping, self._task = asyncio.Event(), asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        try:
            await work(self._stopping)
        except asyncio.CancelledError:
            if self.count < 2:
                raise
        finally:
            self._loop = None

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._loop is None:
            raise KeyboardInterrupt
        if self.count < 3:
            self._loop.call_soon_threadsafe(self._act, self.count)
        elif self._is_notebook:
            raise KeyboardInterrupt
        else:
            os._exit(INTERRUPTED)

    def _act(self, count: int) -> None:
        if count == 1 and self._stopping is not None:
            self._stopping.set()
        elif self._task is not None:
            self._task.cancel()
        self._tell(count)  # last, since it may fail: the terminal may be gone


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
