"""Rollouts in the background of a `BedrockAgentCoreApp`, which knows how to stay busy and not how to run them.

Without this, `@app.entrypoint` over `@rft_handler` answers a rollout when it is over: right for rollouts shorter than
AgentCore's 15 minutes for a synchronous call. With `in_background` it answers at once, and the app's ping is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar, cast

from aws_rft_sdk._running import Handler
from aws_rft_sdk.shutdown import drain
from aws_rft_sdk.types import RolloutRequest
from aws_rft_sdk.workers.pool import DEADLINE_SECONDS, MAX_ROLLOUTS, RolloutPool

F = TypeVar("F", bound=Callable[..., Any])


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

    A rollout is answered at once with `{"trajectoryId": ..., "repeated": ...}`; the app is busy until its feedback is
    delivered. One that is running or done is not run again. Production traffic goes to the handler as ever.

    Args:
        app: The app whose ping is to be busy.
        max_rollouts: How many may be in progress at once; another one is an `AtCapacityError` of the entry point.
        deadline_seconds: For one rollout; past it, it is reported as an error.
    """

    def decorate(handler: F) -> F:
        return cast(
            F,
            _entry_point(
                handler,
                _Starter(app, RolloutPool(handler, max_rollouts=max_rollouts, deadline_seconds=deadline_seconds)),
            ),
        )

    return decorate


class _Starter:
    """Starts rollouts in a pool, which it starts with the first one: the app's own start is not ours to hook into."""

    def __init__(self, app: TaskApp, pool: RolloutPool) -> None:
        self._app = app
        self._pool = pool
        self._started = False
        self._lock = threading.Lock()

    def start(self, payload: Any) -> dict[str, Any] | None:
        """Return the answer of a rollout, None for production traffic."""
        if RolloutRequest.parse(payload) is None:
            return None
        with self._lock:
            if not self._started:
                self._pool.start()
                self._started = True
        submitted = self._pool.submit(payload)
        if not submitted.repeated:
            task = self._app.add_async_task("rollout", {"trajectoryId": submitted.trajectory_id})
            submitted.ended.add_done_callback(lambda ended: self._app.complete_async_task(task))
        return {"trajectoryId": submitted.trajectory_id, "repeated": submitted.repeated}


def _entry_point(handler: Handler, starter: _Starter) -> Callable[..., Any]:
    """Return a function of the handler's kind, since the app looks at the kind."""
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def async_generator_function(payload: Any) -> AsyncIterator[Any]:
            answer = starter.start(payload)
            if answer is not None:
                yield answer
                return
            async with contextlib.aclosing(handler(payload)) as items:
                async for item in items:
                    yield item

        return async_generator_function
    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def coroutine_function(payload: Any) -> Any:
            answer = starter.start(payload)
            return await handler(payload) if answer is None else answer

        return coroutine_function

    @functools.wraps(handler)
    def function(payload: Any) -> Any:
        answer = starter.start(payload)
        return handler(payload) if answer is None else answer

    return function


@contextlib.asynccontextmanager
async def drained(app: object) -> AsyncIterator[None]:
    """Drain the rollouts of this process when the app ends: `BedrockAgentCoreApp(lifespan=drained)`."""
    yield
    await asyncio.to_thread(drain)
