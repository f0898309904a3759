"""The policies that answer inference. See also `recordings` and `upstream`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.chat import AnswerError, read_answer

_WORKERS = 256


class PolicyError(Exception):
    """Raise it in a policy to choose the status of the answer. The turn is not recorded.

    Args:
        message: Text of the answer, cut to 1,024 characters.
        status: HTTP status from 400 to 599.
        retry_after_seconds: Value of the `Retry-After` header. None for no such header.
    """

    def __init__(self, message: str, status: int = 400, *, retry_after_seconds: float | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"status is {status}. A policy can refuse with 400 to 599")
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class Call(NamedTuple):
    """One inference call as a policy sees it."""

    request: dict[str, JSON]
    """The chat request, parsed."""
    body: bytes
    """The chat request as JSON."""
    stream: bool
    """Whether the caller wants an event stream. Matters only to a policy that returns a `Passthrough`."""
    trajectory_id: str | None
    """None for a call outside of any trajectory."""
    turn: int
    """Number of turns of the trajectory that began before this one."""


class Passthrough(NamedTuple):
    """The answer of another server, passed on byte for byte."""

    status: int
    content_type: str
    retry_after: str | None
    pieces: AsyncIterator[bytes]
    """The body. Raises a `PolicyError` if the server breaks off."""
    close: Callable[[], Awaitable[None]]


class Policy(Protocol):
    """Answers inference. A class of your own may inherit from it, and then needs only `answer`."""

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Take note of a new trajectory. Called once for each trajectory, in the order of their creation."""
        return

    async def answer(self, call: Call) -> Mapping[str, JSON] | Passthrough:
        """Return a chat completion, or the answer of another server.

        Raises:
            PolicyError: The runtime answers with its status. It answers any other exception with 500.
        """

    async def aclose(self) -> None:
        """Release everything that was opened in the running event loop."""
        return


PolicyFunction = Callable[[dict[str, Any]], Any]


class CallablePolicy(Policy):
    """Answers with a function of the chat request.

    Args:
        fn: Gets the parsed chat request, a dict that it may keep and change. Returns an assistant message in OpenAI
            chat format, or its text, or a whole chat completion (which may have `usage`, `logprobs` or token ids). A
            coroutine function runs in the server's event loop. Any other function runs in one of up to 256 threads, so
            it may block, and it must be safe to call concurrently.

    Raises:
        ConfigurationError: `fn` is not callable.
    """

    def __init__(self, fn: PolicyFunction) -> None:
        if not callable(fn):
            raise ConfigurationError(f"policy must be callable or a policy object, not {type(fn).__name__}")
        self._fn = fn
        call = getattr(fn, "__call__", None)  # noqa: B004 - asked whether it is async, not whether it is callable
        self._is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)
        self._workers: Workers | None = None

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return the function's answer to the request."""
        if self._is_async:
            value = await self._fn(call.request)
        else:
            if self._workers is None:
                self._workers = Workers(_WORKERS, "aws-rft-policy")
            value = await self._workers.run(functools.partial(self._fn, call.request))
            if inspect.isawaitable(value):
                value = await value
        try:
            return read_answer(value, call.request)
        except AnswerError as error:
            raise PolicyError(f"the policy's answer cannot be used: {error}", status=500) from error

    async def aclose(self) -> None:
        """Let the threads end, without waiting for calls in progress."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def make_policy(policy: Policy | PolicyFunction | None) -> Policy | None:
    """Return a policy object. Wraps a plain function, and returns None for None."""
    if policy is None or (hasattr(policy, "answer") and hasattr(policy, "begin") and hasattr(policy, "aclose")):
        return policy
    return CallablePolicy(policy)


_Task = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Workers:
    """Threads for functions that may block. A thread is made when all others are busy, up to `limit`.

    An executor's futures are locked twice and handed over twice per call, so this is faster. The threads are daemons,
    so a policy that hangs does not keep the process alive.

    Concurrency: call it from one event loop at a time.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def run(self, fn: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call `fn` in a thread. The future has its result or its exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._tasks.put((fn, loop, future))
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()
        return future

    def close(self) -> None:
        """Let the threads end, without waiting for calls in progress."""
        for _ in range(self._count):
            self._tasks.put(None)
        self._count = 0

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            fn, loop, future = task
            try:
                settle = functools.partial(_settle, future, fn(), None)
            except StopIteration as error:  # a future cannot hold it
                settle = functools.partial(_settle, future, None, RuntimeError(f"StopIteration: {error}"))
            except Exception as error:
                settle = functools.partial(_settle, future, None, error)
            self._idle.release()
            try:
                loop.call_soon_threadsafe(settle)
            except RuntimeError:  # the loop is closed, so no call waits any more
                return
            # An idle thread must not keep the objects of its last call alive.
            del task, fn, loop, future, settle


def _settle(future: asyncio.Future[Any], value: object, error: Exception | None) -> None:
    if future.done():
        return  # cancelled in the meantime
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
