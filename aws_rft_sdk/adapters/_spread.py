"""An HTTP transport whose cost does not grow with the number of requests in progress.

A pool of httpx looks at all of its connections whenever a request comes or goes, and asks the system about each idle
one. With a few dozen rollouts in one loop that takes as long as a turn.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

_IDLE_SECONDS = 5.0
"""How long httpx keeps a connection that nobody uses."""


class Spread:
    """Sends each request over an HTTP transport of its own, and so a connection; mixed in before the base class.

    Args:
        make: Makes a transport.
        library: Where its classes are from, httpx or its successor.
        max_connections: Requests in progress at once, others wait.
        max_idle: Transports that are kept for later requests.

    Concurrency: for one event loop.
    """

    def __init__(self, make: Callable[[], Any], library: ModuleType, max_connections: int, max_idle: int) -> None:
        self._make = make
        self._http = library
        self._free = asyncio.Semaphore(max_connections)
        self._max_idle = max_idle
        # By scheme, host and port; the one used last at the end, with the time of that.
        self._idle: dict[tuple[Any, ...], deque[tuple[Any, float]]] = {}
        self._idle_count = 0
        self._all: set[Any] = set()

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request. Its transport is free again when the answer is closed."""
        await self._wait_for_turn(request)
        origin = (request.url.scheme, request.url.host, request.url.port)
        transport = self._take(origin)
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            await self._release(origin, transport)
            raise
        release = functools.partial(self._release, origin, transport)
        response.stream = _stream_class(self._http)(response.stream, release)
        return response

    async def _wait_for_turn(self, request: Any) -> None:
        if not self._free.locked():
            await self._free.acquire()  # at once
            return
        seconds = request.extensions.get("timeout", {}).get("pool")
        try:
            await asyncio.wait_for(self._free.acquire(), seconds)
        except asyncio.TimeoutError:
            raise self._http.PoolTimeout(f"no connection was free within {seconds} s") from None

    def _take(self, origin: tuple[Any, ...]) -> Any:
        idle = self._idle.get(origin)
        if idle:
            self._idle_count -= 1
            return idle.pop()[0]
        transport = self._make()
        self._all.add(transport)
        return transport

    async def _release(self, origin: tuple[Any, ...], transport: Any) -> None:
        self._free.release()
        now = time.monotonic()
        idle = self._idle.setdefault(origin, deque())
        idle.append((transport, now))
        self._idle_count += 1
        old: list[Any] = []
        while self._idle_count > self._max_idle or idle[0][1] < now - _IDLE_SECONDS:
            # The one at hand at the latest: others of this origin are older.
            old.append(idle.popleft()[0])
            self._idle_count -= 1
            if not idle:
                del self._idle[origin]
                break
        # Only now: while one is closed, other requests come and go.
        for one in old:
            self._all.discard(one)
            await one.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        self._idle.clear()
        self._idle_count = 0
        while self._all:
            await self._all.pop().aclose()


class _Stream:
    """The body of an answer, with whose end the transport is free again."""

    def __init__(self, stream: Any, release: Callable[[], Any]) -> None:
        self._stream = stream
        self._release: Callable[[], Any] | None = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        release, self._release = self._release, None
        try:
            await self._stream.aclose()
        finally:
            if release is not None:
                await release()


@functools.cache
def _stream_class(library: Any) -> type[Any]:
    return type("SpreadStream", (_Stream, library.AsyncByteStream), {})


@functools.cache
def spread_class(library: Any) -> type[Any]:
    """Return `Spread` as a transport of `library`."""
    return type("SpreadTransport", (Spread, library.AsyncBaseTransport), {})
