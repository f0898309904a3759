"""Rollouts in the background of a `BedrockAgentCoreApp`, which knows how to stay busy and not how to run them.

Without this, `@app.entrypoint` over `@rft_handler` answers a rollout when it is over: right for rollouts shorter than
AgentCore's 15 minutes for a synchronous call. With `in_background` it answers at once, and the app's ping is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar, cast

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Handler
from aws_rft_sdk.lifecycle.executor import hosting_handlers, in_sdk_thread
from aws_rft_sdk.lifecycle.shutdown import drain
from aws_rft_sdk.types import RolloutRequest
from aws_rft_sdk.workers.pool import MAX_ROLLOUTS, RolloutPool

F = TypeVar("F", bound=Callable[..., Any])

# The pool runs a rollout in a copy of the context in which it was submitted.
_request_context: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("rft_request_context", default=())


class TaskApp(Protocol):
    """What is needed of the app: `BedrockAgentCoreApp` has it."""

    def add_async_task(self, name: str, metadata: dict[str, Any] | None = None) -> int:
        """Make the ping busy."""

    def complete_async_task(self, task_id: int) -> bool:
        """Take that back."""


def in_background(
    app: TaskApp, *, max_rollouts: int = MAX_ROLLOUTS, deadline_seconds: float = DEADLINE_SECONDS
) -> Callable[[F], F]:
    """Decorate a handler so that its rollouts run in the background: `@app.entrypoint`, then this, then `@rft_handler`.

    A rollout is answered at once with `{"status": "accepted", "trajectoryId": ..., "repeated": ...}`; the app is busy
    until its feedback is delivered. One that is running or done is not run again. Production traffic goes to the
    handler as ever. A second argument of the handler that is named `context` is the app's request context.

    Args:
        app: The app whose ping is to be busy.
        max_rollouts: How many may be in progress at once; another one is an `AtCapacityError` of the entry point.
        deadline_seconds: For one rollout; past it, it is reported as an error.

    Raises:
        ConfigurationError: At the decoration: the handler needs arguments that the app does not give.
    """

    def decorate(handler: F) -> F:
        run = _with_context(handler) if _takes_context(handler) else handler
        pool = RolloutPool(run, max_rollouts=max_rollouts, deadline_seconds=deadline_seconds)
        return cast(F, _entry_point(handler, _Starter(app, pool)))

    return decorate


def _takes_context(handler: Callable[..., Any]) -> bool:
    """Whether the app will give a request context: it goes by the name of the second argument."""
    try:
        signature = inspect.signature(handler)
        takes_context = list(signature.parameters)[1:2] == ["context"]
        signature.bind(*("payload", "context")[: 1 + takes_context])
    except TypeError as error:
        raise ConfigurationError(
            f"the handler is called with the payload, and the request context if its second argument is named "
            f"`context`; {error}"
        ) from error
    return takes_context


def _with_context(handler: Callable[..., Any]) -> Handler:
    """Return the handler as a function of the payload alone, of any kind: a pool looks at what it returns, too."""
    return lambda payload: handler(payload, *_request_context.get())


class _Starter:
    """Starts rollouts in a pool, and keeps the app busy meanwhile."""

    def __init__(self, app: TaskApp, pool: RolloutPool) -> None:
        self._app = app
        self._pool = pool

    def start(self, payload: Any, context: tuple[Any, ...]) -> dict[str, Any] | None:
        """Return the answer of a rollout, None for production traffic."""
        if RolloutRequest.parse(payload) is None:
            return None
        token = _request_context.set(context)
        try:
            submitted = self._pool.submit(payload)
        finally:
            _request_context.reset(token)
        if not submitted.repeated:
            task = self._app.add_async_task("rollout", {"trajectoryId": submitted.trajectory_id})
            submitted.ended.add_done_callback(lambda ended: self._app.complete_async_task(task))
        return {"status": "accepted", "trajectoryId": submitted.trajectory_id, "repeated": submitted.repeated}


def _entry_point(handler: Callable[..., Any], starter: _Starter) -> Callable[..., Any]:
    """Return a function of the handler's kind, since the app looks at the kind."""
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def async_generator_function(payload: Any, *context: Any) -> AsyncIterator[Any]:
            answer = starter.start(payload, context)
            if answer is not None:
                yield answer
                return
            async with contextlib.aclosing(handler(payload, *context)) as items:
                async for item in items:
                    yield item

        return async_generator_function
    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def coroutine_function(payload: Any, *context: Any) -> Any:
            answer = starter.start(payload, context)
            return await handler(payload, *context) if answer is None else answer

        return coroutine_function

    @functools.wraps(handler)
    def function(payload: Any, *context: Any) -> Any:
        answer = starter.start(payload, context)
        return handler(payload, *context) if answer is None else answer

    return function


@contextlib.asynccontextmanager
async def drained(app: object) -> AsyncIterator[None]:
    """Drain the rollouts of this process when the app ends: `BedrockAgentCoreApp(lifespan=drained)`.

    Until then, the app's event loop has threads that hung tools cannot use up.
    """
    with hosting_handlers(asyncio.get_running_loop()):
        yield
        await in_sdk_thread(drain)
