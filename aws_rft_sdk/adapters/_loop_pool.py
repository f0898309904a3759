"""One HTTP connection pool for each event loop, closed with its loop.

Connections belong to the loop that opened them, and Strands runs every synchronous agent call in a loop of its own. So
neither one pool for the process nor one for each model call will do.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import openai

if TYPE_CHECKING:
    import httpx

    http = httpx
else:
    # `openai` is built on httpx or on its successor, depending on its version: reach the module through its exports.
    http = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])


class _Pool(openai.DefaultAioHttpClient):
    """An HTTP client that outlives the OpenAI clients that are built around it, since those close what they use.

    aiohttp does the sending: httpx's own pool looks at all of its connections whenever a request comes or goes, which
    with a few dozen rollouts in one loop takes as long as a turn.
    """

    def _init_transport(self, **options: Any) -> http.AsyncBaseTransport:  # type: ignore[override] # httpx's options
        return _without_cookies(super()._init_transport(**options))

    def _init_proxy_transport(self, proxy: http.Proxy, **options: Any) -> http.AsyncBaseTransport:  # type: ignore[override]
        return _without_cookies(super()._init_proxy_transport(proxy, **options))

    async def aclose(self) -> None:
        """Do nothing: the pool closes with its loop."""

    async def close_with_loop(self) -> None:
        """Close all connections."""
        await super().aclose()


def _without_cookies(transport: Any) -> http.AsyncBaseTransport:
    def session() -> aiohttp.ClientSession:
        limits = transport.limits
        connector = aiohttp.TCPConnector(
            limit=limits.max_connections or 0, keepalive_timeout=limits.keepalive_expiry, ssl=transport.ssl_context
        )
        # The session that the transport would make keeps cookies: those of one rollout would travel with the next.
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    transport.client = session
    return cast(http.AsyncBaseTransport, transport)


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Pool, AsyncGenerator[None, None]]] = (
    weakref.WeakKeyDictionary()
)
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
            for closed in [other for other in _pools if other.is_closed()]:
                del _pools[closed]
            _pools[loop] = entry = (pool, closer)
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


def pool_options() -> dict[str, Any]:
    """Return the options of HTTP clients that serve several rollouts. A new dict."""
    # No cookies: those of one rollout must not travel with the next.
    return {"verify": _ssl_context(), "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=()))}


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    # Loading the certificates takes longer than a turn; the context itself may be shared by all loops.
    return http.create_ssl_context()


def has_default_http_client(client: openai.AsyncOpenAI) -> bool:
    """Whether the HTTP client is the one that `openai` makes when it is given none, hence nobody's own."""
    kind = type(client._client)
    offered = (openai.DefaultAsyncHttpxClient, openai.DefaultAioHttpClient)
    return kind.__module__.partition(".")[0] == "openai" and kind not in offered
