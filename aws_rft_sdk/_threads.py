"""Runs what blocks off the event loop: feedback to its end, all else for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar, cast

import anyio

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 64
"""Feedback calls of asynchronous code that may be on their way at once in one process."""

_executor: ThreadPoolExecutor | None = None


async def off_the_loop(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn` in a thread with a copy of the current context, to its end even if the task is cancelled meanwhile.

    Raises:
        CancelledError: The task was cancelled; `fn` has ended all the same, and what it raised is the `__cause__`.
        Exception: What `fn` raises.
    """
    global _executor
    if _executor is None:
        _executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="rft-feedback")
    context = contextvars.copy_context()
    work = asyncio.get_running_loop().run_in_executor(_executor, lambda: context.run(fn, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    # Scopes of anyio, which servers use, would cancel anew at every turn of the loop; a shield makes them wait.
    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error  # a reward is not dropped half-way; the cancellation goes on below
    if cancelled is not None:
        raise cancelled from work.exception()
    return work.result()


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


def _forget_after_fork() -> None:
    global _executor
    _executor = None  # threads do not survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
