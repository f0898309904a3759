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

import openai

# `openai` is built on httpx or on its successor, depending on its version: reach the module through its exports.
http = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])


class _Pool(openai.DefaultAsyncHttpxClient):
    """An HTTP client that outlives the OpenAI clients that are built around it, since those close what they use."""

    async def aclose(self) -> None:
        """Do nothing: the pool closes with its loop."""

    async def close_with_loop(self) -> None:
        await super().aclose()


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Pool, AsyncGenerator[None, None]]] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()  # loops of several threads enter and leave the dictionary


async def loop_pool() -> _Pool:
    """Return the HTTP client of the running event loop. Its `aclose` does nothing; it is closed with the loop."""
    loop = asyncio.get_running_loop()
    entry = _pools.get(loop)
    if entry is None:
        # No cookies: those of one rollout must not travel with the next.
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        # No redirects: they would carry the rollout's headers and token to another host.
        pool = _Pool(verify=_ssl_context(), cookies=cookies, follow_redirects=False)
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


def _has_default_http_client(client: openai.AsyncOpenAI) -> bool:
    """Whether the HTTP client is the one that `openai` makes when it is given none, hence nobody's own."""
    kind = type(client._client)
    offered = (openai.DefaultAsyncHttpxClient, getattr(openai, "DefaultAioHttpClient", None))
    return kind.__module__.partition(".")[0] == "openai" and kind not in offered


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    # Loading the certificates takes longer than a turn; the context itself may be shared by all loops.
    context: ssl.SSLContext = http.create_ssl_context()
    return context
