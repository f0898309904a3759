"""Threads for functions that may hang, and a thread with an event loop for clients that need one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from aws_rft_sdk._fork import in_forked_child

if TYPE_CHECKING:
    import asyncio

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
    import asyncio
    from concurrent.futures import Future

    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(fn, *args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread, asyncio.wrap_future(future)


def wait_in(loop: asyncio.AbstractEventLoop | None, awaitable: Awaitable[T]) -> T:
    """Run an awaitable in an event loop of another thread, with a copy of the current context. Blocks until it ends.

    Args:
        loop: The loop; None, or one that does not run, for a loop of this process that runs in a thread of its own.
        awaitable: A coroutine or another awaitable that belongs to this loop.
    """
    import asyncio

    async def run() -> T:
        # A loop that is shut down cancels the tasks that it knows, and a reward is not dropped half-way. Its owner, the
        # rollout's own task, waits for this one.
        asyncio.tasks._unregister_task(cast("asyncio.Task[T]", asyncio.current_task()))
        return await awaitable

    running = loop if loop is not None and loop.is_running() else _background_loop()
    return asyncio.run_coroutine_threadsafe(run(), running).result()


_background: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def _background_loop() -> asyncio.AbstractEventLoop:
    global _background
    with _lock:
        if _background is None:
            import asyncio

            _background = asyncio.new_event_loop()
            threading.Thread(target=_background.run_forever, name="rft-feedback-loop", daemon=True).start()
        return _background


@in_forked_child
def _forget_after_fork() -> None:
    # Threads do not survive a fork, and nobody would release the lock.
    global _background, _lock
    _background, _lock = None, threading.Lock()
