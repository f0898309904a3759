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
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import openai

from aws_rft_sdk.adapters._spread import spread_class

# `openai` is built on httpx or on its successor, depending on its version: reach the module through its exports.
http = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])


class _Pool(openai.DefaultAsyncHttpxClient):
    """An HTTP client that outlives the OpenAI clients that are built around it, since those close what they use."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.openai_clients: weakref.WeakKeyDictionary[object, tuple[dict[str, Any], openai.AsyncOpenAI]] = (
            weakref.WeakKeyDictionary()
        )

    def _init_transport(self, **options: Any) -> Any:  # type: ignore[override] # hands on whatever httpx says
        # Should a later version make its transport in another way, the pool works as all of them do.
        make, limits = functools.partial(super()._init_transport, **options), options["limits"]
        return spread_class(http)(make, http, limits.max_connections, limits.max_keepalive_connections)

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
        hooks = {"response": [_read_to_the_end]}
        pool = _Pool(verify=_ssl_context(), cookies=cookies, follow_redirects=False, event_hooks=hooks)
        closer = _close_at_shutdown(loop, pool)
        with _lock:
            for closed in [other for other in _pools if other.is_closed()]:
                del _pools[closed]
            _pools[loop] = entry = (pool, closer)
        await anext(closer)
    return entry[0]


async def loop_client(owner: object, arguments: Mapping[str, Any]) -> openai.AsyncOpenAI:
    """Return an OpenAI client on the pool of the running loop that repeats nothing by itself.

    Making one takes a tenth of a turn. So it is kept for as long as the loop and `owner` live and the arguments stay
    the same; another owner with the same arguments gets a client of its own.
    """
    pool = await loop_pool()
    kept = pool.openai_clients.get(owner)
    if kept is None or kept[0] != arguments:
        client = openai.AsyncOpenAI(**{**arguments, "http_client": pool, "max_retries": 0})
        kept = pool.openai_clients[owner] = (dict(arguments), client)
    return kept[1]


async def _close_at_shutdown(loop: asyncio.AbstractEventLoop, pool: _Pool) -> AsyncGenerator[None, None]:
    # A loop closes its suspended async generators before it ends (`loop.shutdown_asyncgens`, which asyncio.run calls):
    # the one documented moment at which asynchronous resources can be closed with their loop.
    try:
        yield
    finally:
        with _lock:
            _pools.pop(loop, None)
        await pool.close_with_loop()


def has_default_http_client(client: openai.AsyncOpenAI) -> bool:
    """Whether the HTTP client is the one that `openai` makes when it is given none, hence nobody's own."""
    kind = type(client._client)
    offered = (openai.DefaultAsyncHttpxClient, getattr(openai, "DefaultAioHttpClient", None))
    return kind.__module__.partition(".")[0] == "openai" and kind not in offered


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    # Loading the certificates takes longer than a turn; the context itself may be shared by all loops.
    context: ssl.SSLContext = http.create_ssl_context()
    return context


# --- streams ---------------------------------------------------------------------------------------------------------

_DONE = b"\ndata: [DONE]"
_COMPLETED = b"\nevent: response.completed"
_END_SECONDS = 1.0


async def _read_to_the_end(response: Any) -> None:
    response.stream = _stream_class()(response.stream)


@functools.cache
def _stream_class() -> type[Any]:
    return type("WholeStream", (_WholeStream, http.AsyncByteStream), {})


class _WholeStream:
    """A stream of events that is read to its very end as soon as its closing mark is there.

    Its readers stop at the mark, and a connection on which something is left to read is not used again. Marks stand at
    the beginning of a line, where nothing that a model says can stand.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._tail = b"\n"
        self._completing = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        async for part in parts:
            if self._is_last(part):
                rest = await self._rest(parts)
                await self._stream.aclose()
                yield part
                if rest:
                    yield rest
                return
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _is_last(self, part: bytes) -> bool:
        seen = self._tail + part
        self._tail = seen[-len(_COMPLETED) :]
        if _DONE in seen:
            return True
        if not self._completing and _COMPLETED in seen:
            self._completing = True
            seen = seen[seen.index(_COMPLETED) + 1 :]
        return self._completing and (b"\n\n" in seen or b"\r\n\r\n" in seen)

    @staticmethod
    async def _rest(parts: AsyncIterator[bytes]) -> bytes:
        try:
            with anyio.move_on_after(_END_SECONDS):
                return b"".join([part async for part in parts])
        except http.TransportError:
            pass
        return b""  # all that matters is there; the connection is given up
