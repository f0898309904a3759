"""Runs what blocks off the event loop: feedback to its end, all else for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import anyio

from aws_rft_sdk._fork import in_forked_child

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


@in_forked_child
def _forget_after_fork() -> None:
    global _executor
    _executor = None  # threads do not survive a fork
