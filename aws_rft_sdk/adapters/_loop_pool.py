"""One HTTP connection pool for each event loop, closed with its loop.

Connections belong to the loop that opened them, and Strands runs every synchronous agent call in a loop of its own. So
neither one pool for the process nor one for each model call will do.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast

import aiohttp
import openai

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.adapters._http_library import http, tls_context

logger = logging.getLogger(__name__)


class _Pool(openai.DefaultAioHttpClient):
    """An HTTP client that outlives the OpenAI clients that are built around it, since those close what they use.

    aiohttp does the sending: httpx's own pool looks at all of its connections whenever a request comes or goes, which
    with a few dozen rollouts in one loop takes as long as a turn.
    """

    def _init_transport(self, **options: Any) -> http.AsyncBaseTransport:  # type: ignore[override] # httpx's options
        return _Transport(super()._init_transport(**options))

    def _init_proxy_transport(self, proxy: http.Proxy, **options: Any) -> http.AsyncBaseTransport:  # type: ignore[override]
        return _Transport(super()._init_proxy_transport(proxy, **options))

    async def aclose(self) -> None:
        """Do nothing: the pool closes with its loop."""

    async def close_with_loop(self) -> None:
        """Close all connections."""
        await super().aclose()


class _Transport(http.AsyncBaseTransport):
    """Sends requests through aiohttp as httpx would send them."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        inner.client = self._session

    def _session(self) -> aiohttp.ClientSession:
        limits, ssl_context = self._inner.limits, self._inner.ssl_context
        connector = aiohttp.TCPConnector(
            limit=limits.max_connections or 0, keepalive_timeout=limits.keepalive_expiry, ssl=ssl_context
        )
        # The session that `inner` would make keeps cookies: those of one rollout would travel with the next.
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def handle_async_request(self, request: http.Request) -> http.Response:
        """Send one request."""
        # A handler that has computed for a while kept the loop from noticing that idle connections were closed. It
        # notices now: it looks at its sockets in the first of these rounds, and acts on what it saw in the second.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if isinstance(request.stream, http.ByteStream) and len(request.content) > _PIECE:  # aiohttp warns of these
            stream = _Pieces(request.content)
            request = http.Request(
                request.method, request.url, headers=request.headers, stream=stream, extensions=request.extensions
            )
        try:
            return cast(http.Response, await self._inner.handle_async_request(request))
        except aiohttp.ClientResponseError as error:
            problem = str(error)
        # Not as its cause: the error holds the headers of the request, and so its token.
        raise http.RemoteProtocolError(problem)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


_PIECE = 2**20


class _Pieces(http.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), _PIECE):
            yield self._content[start : start + _PIECE]


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Pool, AsyncGenerator[None, None]]] = (
    weakref.WeakKeyDictionary()
)
_of_parents: list[object] = []
"""Pools of the processes that this one was forked from. Kept, since what is deleted closes."""
_lock = threading.Lock()  # loops of several threads enter and leave the dictionary


async def loop_pool() -> _Pool:
    """Return the HTTP client of the running event loop. Its `aclose` does nothing; it is closed with the loop."""
    loop = asyncio.get_running_loop()
    entry = _pools.get(loop)
    if entry is None:
        # No redirects: they would carry the rollout's headers and token to another host.
        pool = _Pool(follow_redirects=False, **pool_options())
        closer = _close_at_shutdown(loop, pool)
        with _lock:
            abandoned = [(other, _pools.pop(other)[0]) for other in list(_pools) if other.is_closed()]
            _pools[loop] = entry = (pool, closer)
        for closed_loop, its_pool in abandoned:
            _close_from_outside(closed_loop, its_pool)
        await anext(closer)
    return entry[0]


async def _close_at_shutdown(loop: asyncio.AbstractEventLoop, pool: _Pool) -> AsyncGenerator[None, None]:
    # A loop closes its suspended async generators before it ends (`loop.shutdown_asyncgens`, which asyncio.run calls):
    # the one documented moment at which asynchronous resources can be closed with their loop.
    try:
        yield
    finally:
        with _lock:
            _pools.pop(loop, None)
        await pool.close_with_loop()


@atexit.register
def _close_at_exit() -> None:
    for loop, (pool, _) in list(_pools.items()):
        _close_from_outside(loop, pool)


def _close_from_outside(loop: asyncio.AbstractEventLoop, pool: _Pool) -> None:
    """Close the pool of a loop that nobody shut down: aiohttp would log an error for each, later."""
    closing = pool.close_with_loop()
    if loop.is_running():  # in a thread that ends with the process
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(closing, loop).result(1)
    elif loop.is_closed():
        try:
            closing.send(None)
        except StopIteration:
            pass  # closed; a closed loop leaves nothing to wait for
        except RuntimeError:  # a turn of another loop must not fail because of this one
            logger.warning("connections of a closed event loop could not be closed", exc_info=True)
    else:
        loop.run_until_complete(closing)


@in_forked_child
def _forget_after_fork() -> None:
    # The loops go on in the parent. Closing connections here would unregister them there: both have the same selector.
    global _lock
    _lock = threading.Lock()
    _of_parents.extend(_pools.values())
    _pools.clear()


def pool_options() -> dict[str, Any]:
    """Return the options of HTTP clients that serve several rollouts. A new dict."""
    # No cookies: those of one rollout must not travel with the next.
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return {"verify": tls_context(), "cookies": cookies, "limits": _LIMITS}


# Many servers close connections that are idle for 5 s, at the very moment when a request may come.
_LIMITS = http.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=4)


def has_default_http_client(client: openai.AsyncOpenAI) -> bool:
    """Whether the HTTP client is the one that `openai` makes when it is given none, hence nobody's own."""
    kind = type(client._client)
    offered = (openai.DefaultAsyncHttpxClient, openai.DefaultAioHttpClient)
    return kind.__module__.partition(".")[0] == "openai" and kind not in offered
