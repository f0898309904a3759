"""What an answer, an error or the end of a stream says about a turn: whether the policy was sampled."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import aiohttp
import anyio

from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.context import TurnState
from aws_rft_sdk.errors import RFTError

P = TypeVar("P")

# --- the table -------------------------------------------------------------------------------------------------------
#
#   answer                   turn                    sent again   why
#   2xx, read to its end     answered                no
#   2xx, cut or left early   failed, may be sampled  no
#   429, 503                 refused                 yes          turned away before the policy
#   408, 424, 499            failed, may be sampled  no           gateways: the policy was late or broke, a caller left
#   other 3xx and 4xx        refused                 no           the request itself was not accepted
#   other 5xx                failed, may be sampled  no
#   no connection            refused                 yes          nothing was sent
#   no request, a proxy      refused                 no           nothing reached the service
#   any other error          failed, may be sampled  no

_TURNED_AWAY = frozenset({429, 503})
_MAYBE_SAMPLED = frozenset({408, 424, 499})
_NO_CONNECTION = (http.ConnectError, http.ConnectTimeout, http.PoolTimeout)
# Our own errors come before a request, or after a 403.
_NOT_ACCEPTED = (http.UnsupportedProtocol, http.LocalProtocolError, http.ProxyError, RFTError)


def after_status(status: int) -> tuple[TurnState, bool]:
    """Return what an answer with this status makes of a turn, and whether the turn is sent again."""
    if status in _TURNED_AWAY:
        return TurnState.REFUSED, True
    if 200 <= status < 300:
        return TurnState.ANSWERED, False
    refused = 300 <= status < 500 and status not in _MAYBE_SAMPLED
    return TurnState.REFUSED if refused else TurnState.FAILED, False


def after_error(error: BaseException) -> tuple[TurnState, bool]:
    """Return what an error of an HTTP client makes of a turn, and whether the turn is sent again."""
    if isinstance(error, http.HTTPStatusError):  # an event hook of the user's may raise it
        return after_status(error.response.status_code)
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectionError):
        # openai's aiohttp client says ConnectTimeout for all of these, also if a connection broke after the request.
        unsent = isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    else:
        unsent = isinstance(error, _NO_CONNECTION)
    if unsent:
        return TurnState.REFUSED, True
    return TurnState.REFUSED if isinstance(error, _NOT_ACCEPTED) else TurnState.FAILED, False


def is_timeout(error: BaseException) -> bool:
    """Whether an error of an HTTP client says that time ran out."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectionError):
        return isinstance(cause, aiohttp.ServerTimeoutError)
    return isinstance(error, http.TimeoutException)


# --- the end of a streamed answer ------------------------------------------------------------------------------------

_LAST_EVENT = re.compile(rb"[\r\n](?:data: ?\[DONE\]|event: ?response\.(?:completed|incomplete|failed)[\r\n])")
_LONGEST = 32
"""Bytes of the longest of these marks. A mark stands at the beginning of a line, where no text of a model can stand."""
END_SECONDS = 0.05
"""How long the end of an answer is waited for whose last event was read."""


class TurnStream(http.AsyncByteStream, http.SyncByteStream):
    """The bytes of an answer. Reports once how the turn ended: when the reader closes the stream.

    Readers stop at the last event, before the stream itself ends. A connection on which something is left to read is
    not used again, so closing reads the rest.

    Args:
        stream: The bytes.
        end: Called with what has become of the turn.
    """

    def __init__(self, stream: Any, end: Callable[[TurnState], None]) -> None:
        self._stream = stream
        self._end = end
        self._tail = b"\n"
        self._parts: Any = None  # the iterator over them
        self._complete = False  # all that matters was read

    def __iter__(self) -> Iterator[bytes]:
        for part in self._begin(iter(self._stream)):
            self._look_at(part)
            yield part
        self._complete = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._begin(aiter(self._stream)):
            self._look_at(part)
            yield part
        self._complete = True

    def close(self) -> None:
        """Close the stream and report the turn."""
        try:
            self._stream.close()
        finally:
            self._report()

    async def aclose(self) -> None:
        """Close the stream and report the turn."""
        try:
            if self._complete:
                # The last event was read, so the turn is answered. An error here costs only the connection.
                with contextlib.suppress(http.TransportError, RuntimeError), anyio.move_on_after(END_SECONDS):
                    async for _ in self._parts:
                        pass
        finally:
            try:
                await self._stream.aclose()
            finally:
                self._report()

    def _begin(self, parts: P) -> P:
        # Once the stream is read, its connection may serve another rollout: reading on would take its answer.
        if self._parts is not None:
            raise http.StreamConsumed
        self._parts = parts
        return parts

    def _look_at(self, part: bytes) -> None:
        if not self._complete:
            seen = self._tail + part
            self._complete = _LAST_EVENT.search(seen) is not None
            self._tail = seen[-_LONGEST:]

    def _report(self) -> None:
        self._end(TurnState.ANSWERED if self._complete else TurnState.FAILED)
