"""An event loop in a thread of its own, that outlives what its tasks raise and tells when one of them blocks it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from aws_rft_sdk.lifecycle.executor import DaemonThreads

logger = logging.getLogger(__name__)

T = TypeVar("T")

BEAT_SECONDS = 1.0
_JOIN_SECONDS = 5.0


class LoopThread:
    """An event loop that runs in a thread until it is stopped.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self.threads = DaemonThreads()
        """What tasks hand to threads runs in these."""
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stopping = False
        self._beat_at = 0.0

    @property
    def stalled_seconds(self) -> float:
        """For how long the loop has not come round; 0 when it does, and before the start."""
        if self._thread is None or self._stopping:
            return 0.0
        late = time.monotonic() - self._beat_at - BEAT_SECONDS
        return late if late > BEAT_SECONDS else 0.0

    def start(self) -> None:
        """Return once the loop runs."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        self._ready.wait()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop."""
        assert self._loop is not None  # noqa: S101 - whoever submits has started it; for the type checker
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, fn: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop, after what was submitted before; not at all once the loop is closed."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            return

    def stop(self) -> None:
        """Cancel what runs in the loop and end it. A task that blocks it is left behind after five seconds."""
        if self._thread is None or self._loop is None:
            return
        self._stopping = True
        self.call(self._loop.stop)
        self._thread.join(_JOIN_SECONDS)
        if self._thread.is_alive():
            logger.error("thread=<%s> | a handler blocks its event loop, which is left behind", self._name)

    def _run(self) -> None:
        loop = self._loop = asyncio.new_event_loop()
        loop.set_default_executor(self.threads)
        self._beat()
        loop.call_soon(self._ready.set)
        try:
            while not self._stopping:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt) as error:
                    # asyncio lets these two out of the loop, whichever task raised them; the other tasks go on.
                    logger.error("error=<%s> | a task of a handler tried to end the process", type(error).__name__)
            _end_tasks(loop)
        finally:
            loop.close()

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        assert self._loop is not None  # noqa: S101 - it runs in it; for the type checker
        self._loop.call_later(BEAT_SECONDS, self._beat)


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_JOIN_SECONDS / 2))
    loop.run_until_complete(loop.shutdown_asyncgens())
