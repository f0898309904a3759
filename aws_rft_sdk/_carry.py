"""Functions that run within the context variables of another time and place."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def carry(fn: Callable[P, R]) -> Callable[P, R]:
    """Return `fn` so that it runs within the context variables of this moment, and so does the work that it returns.

    That work is a coroutine or another awaitable, or a generator of either kind: its body runs later than the call.
    """
    snapshot = contextvars.copy_context()

    @functools.wraps(fn)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A copy for each call, since one Context cannot be entered twice at once.
        context = snapshot.copy()
        return cast(R, _kept_within(context, context.run(fn, *args, **kwargs)))

    if not inspect.iscoroutinefunction(fn):
        return carried

    @functools.wraps(fn)
    async def carried_coroutine(*args: Any, **kwargs: Any) -> Any:
        return await cast(Any, carried)(*args, **kwargs)

    return cast(Callable[P, R], carried_coroutine)


def _kept_within(context: contextvars.Context, result: object) -> object:
    if inspect.isgenerator(result):
        return _steps(context, result)
    if inspect.isasyncgen(result):
        return _async_steps(context, result)
    if inspect.isawaitable(result) and not isinstance(result, asyncio.Future):  # tasks have a context of their own
        return _awaiting(context, result)
    return result


@types.coroutine
def _steps(context: contextvars.Context, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Like `yield from steps`, with each step run within `context`."""
    step: Callable[[], Any] = functools.partial(next, steps)
    while True:
        try:
            item = context.run(step)
        except StopIteration as stop:
            return stop.value
        try:
            step = functools.partial(steps.send, (yield item))
        except BaseException as error:  # thrown in, or GeneratorExit when nobody wants more
            step = functools.partial(steps.throw, error)


async def _awaiting(context: contextvars.Context, work: Awaitable[Any]) -> Any:
    return await _steps(context, cast(Any, context.run(work.__await__)))


async def _async_steps(context: contextvars.Context, items: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    step: Awaitable[Any] = items.__anext__()
    while True:
        try:
            item = await _awaiting(context, step)
        except StopAsyncIteration:
            return
        try:
            step = items.asend((yield item))
        except GeneratorExit:  # nobody wants more; the event loop may have closed `items` already
            await _awaiting(context, items.aclose())
            raise
        except BaseException as error:
            step = items.athrow(error)
