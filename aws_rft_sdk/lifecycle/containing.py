"""Keeps exceptions of rollouts out of event loops that cannot take them.

asyncio lets SystemExit and KeyboardInterrupt out of the loop, whichever task raises them. That would end all other
rollouts. A coroutine that awaits a GeneratorExit may await nothing more, so it could not report. A future of asyncio
takes no StopIteration, so whoever awaits it would wait for good (until Python 3.12).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.errors import HandlerError

T = TypeVar("T")

TaskFactory = Callable[..., "asyncio.Future[Any]"]

_NOT_IN_TASKS = (SystemExit, KeyboardInterrupt, GeneratorExit)


def contained(error: BaseException) -> BaseException:
    """Return an error itself, or a `HandlerError` if event loops cannot take it."""
    if not isinstance(error, (*_NOT_IN_TASKS, StopIteration)):
        return error
    instead = HandlerError(f"{type(error).__name__}: {error}")
    instead.__cause__ = error
    return instead


def containing(before: TaskFactory | None) -> TaskFactory:
    """Return a task factory for event loops. Tasks that begin within a rollout raise what `contained` returns.

    Args:
        before: The loop's own factory, which makes the tasks. None for asyncio's.
    """

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
        if RFTContext.current() is not None and asyncio.iscoroutine(coro):
            coro = _Contained(coro)
        return asyncio.Task(coro, loop=loop, **options) if before is None else before(loop, coro, **options)

    return make


class _Contained(Coroutine[Any, Any, T]):
    # No coroutine function: one that is cancelled before its first step would never begin, nor close, the inner one.

    def __init__(self, inner: Coroutine[Any, Any, T]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        except _NOT_IN_TASKS as error:
            raise contained(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._inner.throw(*error)
        except _NOT_IN_TASKS as raised:
            raise contained(raised) from raised

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:  # whoever looks at a task's coroutine sees the frames of the inner one
        return getattr(self._inner, name)
