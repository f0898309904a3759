"""Threads for functions that may hang."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def in_daemon_thread(
    name: str, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[threading.Thread, asyncio.Future[T]]:
    """Start `fn` in a thread of its own with a copy of the current context. Await the future for what it returns.

    For functions that may hang: in a pool, they would starve the others and keep the process from ending. When the
    future is cancelled the thread goes on, and what comes of it is ignored.

    Returns:
        The thread, and the future of the running loop, which has what `fn` returns or raises.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(fn, *args, **kwargs)
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop is closed, so nobody waits any more

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread, future
