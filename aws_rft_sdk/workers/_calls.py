"""Production traffic: runs the handler as if it were not decorated, and hands its result or its items to the server."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple

from aws_rft_sdk.errors import HandlerError, RolloutTimeoutError
from aws_rft_sdk.lifecycle.kinds import runs_in_loop
from aws_rft_sdk.workers.pool import RolloutPool


class Result(NamedTuple):
    """What the handler returned."""

    value: object


class Items(NamedTuple):
    """What the handler yields. Must be consumed or closed."""

    values: AsyncIterator[Any]


async def call(pool: RolloutPool, payload: object) -> Result | Items:
    """Run a pool's handler for a call that is no rollout. Takes a slot until the function has ended.

    Raises:
        AtCapacityError: All slots are taken.
        ShuttingDownError: The pool begins nothing more.
        RolloutTimeoutError: There was no result within the pool's deadline. Once a generator began, it has none.
        HandlerError: The handler raised, whatever it was; that is the cause. Items raise it too.
    """
    slot = contextlib.ExitStack()
    slot.enter_context(pool.slot())
    channel = _Channel(asyncio.get_running_loop())
    producer = _Producer(pool, channel, slot)
    producer.start(payload)
    try:
        first = await asyncio.wait_for(channel.get(), pool.deadline_seconds)
    except (asyncio.TimeoutError, TimeoutError, asyncio.CancelledError) as error:
        producer.leave()
        if isinstance(error, asyncio.CancelledError):
            raise
        producer.count_as_hung()
        raise RolloutTimeoutError(f"there was no result within {pool.deadline_seconds:g} s") from None
    if isinstance(first, _Raised):
        raise _translated(first)
    if isinstance(first, Result):
        return first
    return Items(_items(channel, producer))


async def _items(channel: _Channel, producer: _Producer) -> AsyncIterator[Any]:
    try:
        while True:
            message = await channel.get()
            if message is _END:
                return
            if isinstance(message, _Raised):
                raise _translated(message)
            yield message.value
    finally:
        producer.leave()


class _Raised(NamedTuple):
    error: BaseException


def _translated(raised: _Raised) -> HandlerError:
    # Not as it is: a server takes some exceptions, cancellation among them, for its own.
    error = HandlerError(f"{type(raised.error).__name__}: {raised.error}")
    error.__cause__ = raised.error
    return error


_BEGIN, _END = object(), object()


class _LeftError(Exception):
    """Nobody waits for the items any more."""


class _Channel:
    """Hands messages to the server's loop, one at a time: a consumer that is slow slows the producer down."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Any] = asyncio.Queue(1)
        self._left = threading.Event()

    async def get(self) -> Any:
        return await self._queue.get()

    def put(self, message: object) -> Future[None]:
        """Return what is done once there was room. Raises `_LeftError` when nobody is there."""
        coroutine = self._queue.put(message)
        try:
            if not self._left.is_set():
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            self._left.set()  # the server's loop is closed
        coroutine.close()
        raise _LeftError

    def leave(self) -> None:
        """In the server's loop: let a producer that waits for room go on, to find that nobody is there."""
        self._left.set()
        while not self._queue.empty():
            self._queue.get_nowait()


class _Producer:
    """Runs the handler where its kind belongs: in the pool's loop, or in a thread of its own."""

    def __init__(self, pool: RolloutPool, channel: _Channel, slot: contextlib.ExitStack) -> None:
        self._pool = pool
        self._channel = channel
        self._slot = slot
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def start(self, payload: object) -> None:
        if runs_in_loop(self._pool.handler):
            self._in_loop(self._await(payload))
        else:
            context = contextvars.copy_context()
            run = threading.Thread(target=context.run, args=(self._call, payload), name="rft-call", daemon=True)
            self._thread = run
            run.start()

    def leave(self) -> None:
        self._channel.leave()
        self._pool.loop.call(self._end)

    def count_as_hung(self) -> None:
        """Keep the slot as rollouts do whose function hangs, for as long as something runs."""
        self._pool.note_hung(self._runs)
        self._slot.close()

    def _runs(self) -> bool:
        in_thread = self._thread is not None and self._thread.is_alive()
        return in_thread or (self._task is not None and not self._task.done())

    def _in_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._pool.loop.call(self._begin, coroutine)

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.ensure_future(coroutine)
        # Not in the coroutine: one that is cancelled before its first step runs none of its code.
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._slot.close()
        if task.cancelled():
            # By its handler, if anybody still waits: who waits must hear of it.
            with contextlib.suppress(_LeftError):
                self._channel.put(_Raised(asyncio.CancelledError()))

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # --- in a thread ---

    def _call(self, payload: Any) -> None:
        with self._slot, contextlib.suppress(_LeftError):
            try:
                result = self._pool.handler(payload)
                if inspect.isawaitable(result) or inspect.isasyncgen(result):
                    self._slot = self._slot.pop_all()  # it goes on in the loop, and takes the slot along
                    self._in_loop(self._await_result(result))
                elif inspect.isgenerator(result):
                    self._iterate(result)
                else:
                    self._channel.put(Result(result)).result()
            except _LeftError:
                raise
            except BaseException as error:
                self._channel.put(_Raised(error)).result()

    def _iterate(self, items: Generator[Any, Any, Any]) -> None:
        with contextlib.closing(items):
            self._channel.put(_BEGIN).result()
            for item in items:
                self._channel.put(Result(item)).result()
        self._channel.put(_END).result()

    # --- in the loop ---

    async def _await(self, payload: Any) -> None:
        await self._await_result(self._pool.handler(payload))

    async def _await_result(self, result: Any) -> None:
        with contextlib.suppress(_LeftError):
            try:
                if inspect.isawaitable(result):
                    result = await result
                if inspect.isasyncgen(result):
                    await self._iterate_async(result)
                else:
                    await self._send(Result(result))
            except (_LeftError, asyncio.CancelledError):
                raise
            except BaseException as error:
                await self._send(_Raised(error))

    async def _iterate_async(self, items: AsyncGenerator[Any, Any]) -> None:
        async with contextlib.aclosing(items):
            await self._send(_BEGIN)
            async for item in items:
                await self._send(Result(item))
        await self._send(_END)

    async def _send(self, message: object) -> None:
        await asyncio.wrap_future(self._channel.put(message))
