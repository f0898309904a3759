"""Runs calls of judges outside the rollout in progress, and coroutines off the caller's event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from aws_rft_sdk._fork import in_forked_child

T = TypeVar("T")


def unbound(fn: Callable[[], T]) -> T:
    """Call a function where no context variable is set, the rollout in progress included."""
    return contextvars.Context().run(fn)


def run_in_thread(fn: Callable[[], T], timeout_seconds: float) -> T:
    """Call a blocking function in a thread of its own and wait for it.

    A function that is not done in time goes on by itself: nothing can end it. Its own timeouts have to.

    Raises:
        TimeoutError: It was not done in time; in Python 3.10 the one of `concurrent.futures`.
        BaseException: Whatever the function raises.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(unbound(fn))
        except BaseException as error:  # the caller gets it
            future.set_exception(error)

    threading.Thread(target=run, name="rft-judge-call", daemon=True).start()
    return future.result(timeout_seconds)


def run_in_judges_loop(make: Callable[[], Coroutine[Any, Any, T]], timeout_seconds: float) -> T:
    """Run a coroutine in the judges' loop and wait for it, whether or not a loop runs in this thread."""

    async def within() -> T:
        return await asyncio.wait_for(make(), timeout_seconds)

    future = unbound(lambda: asyncio.run_coroutine_threadsafe(within(), _judges_loop()))
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class _LoopThread:
    """One event loop for all judges of a process, so that clients may keep their connections from call to call."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="rft-judge", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self.loop.close()


_running: _LoopThread | None = None
_running_lock = threading.Lock()


def _judges_loop() -> asyncio.AbstractEventLoop:
    global _running
    with _running_lock:
        if _running is None:
            _running = _LoopThread()
            atexit.register(_running.stop)
        return _running.loop


@in_forked_child
def _forget_after_fork() -> None:
    global _running, _running_lock
    if _running is not None:
        atexit.unregister(_running.stop)  # its thread did not come along
    _left_behind.append(_running)
    _running, _running_lock = None, threading.Lock()


_left_behind: list[_LoopThread | None] = []
"""Loops of a parent process, kept so that nothing closes what they share with it."""
