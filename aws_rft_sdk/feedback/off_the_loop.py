"""Runs a blocking call of feedback in a thread. The call always ends, also when its caller is cancelled."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from aws_rft_sdk._fork import in_forked_child

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future, ThreadPoolExecutor

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 64
"""Feedback calls of asynchronous code that may be under way at once in one process."""

_executor: ThreadPoolExecutor | None = None


def _shared_executor() -> ThreadPoolExecutor:
    global _executor
    if _executor is None:
        from concurrent.futures import ThreadPoolExecutor

        _executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="rft-feedback")
    return _executor


async def off_the_loop(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn` in a thread with a copy of the current context. A reward is not dropped half-way, so `fn` always ends.

    Raises:
        CancelledError: The task was cancelled. `fn` has ended all the same; what it raised is the `__cause__`.
        Exception: What `fn` raises.
    """
    import asyncio  # here, for whoever imports `rft_handler` and has no event loop

    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def wake(work: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            loop.call_soon_threadsafe(over.set)

    work = _shared_executor().submit(contextvars.copy_context().run, functools.partial(fn, *args, **kwargs))
    work.add_done_callback(wake)
    try:
        await over.wait()
    except asyncio.CancelledError as error:
        await _shielded(over)
        raise error from work.exception()
    return work.result()


async def _shielded(over: asyncio.Event) -> None:
    import asyncio

    import anyio

    # A cancelled scope of anyio, which servers use, cancels its tasks again at every turn of the loop until it is
    # shielded from.
    with anyio.CancelScope(shield=True):
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()


@in_forked_child
def _forget_after_fork() -> None:
    global _executor
    _executor = None  # threads do not survive a fork
