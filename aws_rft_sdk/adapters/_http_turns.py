"""HTTP clients that stand before others and make one turn of each inference request sent within a rollout.

They work where a request is handed to an HTTP client, below everything that OpenAI clients and what is built on them
offer (streams, parsing, raw answers), and below the client's own retries, which can only be told apart from new calls
here. Nothing of the rollout is stored on them: the context is read when a request is sent.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any, Literal, cast

import openai

from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk.adapters._loop_pool import loop_pool
from aws_rft_sdk.context import RFTContext, TurnState
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError
from aws_rft_sdk.wire import SPAN_HEADER

Sampling = Literal["request", "model"]

INFERENCE_PATHS = ("/chat/completions", "/completions", "/responses")

MAX_ATTEMPTS = 5
BACKOFF = Backoff(base_seconds=0.5, cap_seconds=20.0)
NOT_SAMPLED_STATUSES = frozenset({429, 503})
"""Answers that say the request was turned away before it reached the policy."""
_RETRY_COUNT_HEADER = "x-stainless-retry-count"
_SHOULD_RETRY_HEADER = "x-should-retry"
_STREAM_END = b"\ndata: [DONE]"


def check_sampling(sampling: object) -> None:
    """Raise ConfigurationError unless `sampling` is "request" or "model"."""
    if sampling not in ("request", "model"):
        raise ConfigurationError(f"sampling is {sampling!r}; it must be 'request' or 'model'")


# --- clients that stand before others --------------------------------------------------------------------------------


class Proxy:
    """An HTTP client that shows and shares all state of another one; mixed in before the class of HTTP clients."""

    _rft_inner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_rft_inner"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._rft_inner, name, value)

    def close(self) -> None:
        """Close the client behind, if it is a synchronous one."""
        self._rft_inner.close()

    async def aclose(self) -> None:
        """Close the client behind, if it is an asynchronous one."""
        await self._rft_inner.aclose()


def stand_before(inner: Any, kind: type[Proxy], **state: Any) -> Any:
    """Return an HTTP client of the library of `inner` that behaves like `inner` save for what `kind` does otherwise."""
    base = next(c for c in type(inner).__mro__ if c.__module__.partition(".")[0] in ("httpx", "httpx2"))
    proxy = object.__new__(_proxy_class(cast(Any, kind), base))
    for name, value in {"_rft_inner": inner, **state}.items():
        object.__setattr__(proxy, name, value)
    return proxy


@functools.cache
def _proxy_class(kind: Any, base: Any) -> type[Any]:
    return type(f"{kind.__name__}{base.__name__}", (kind, base), {"__module__": __name__, "__doc__": kind.__doc__})


class TurnClient(Proxy):
    """Makes one turn of each inference request that a synchronous client sends within a rollout."""

    _rft_sampling: Sampling

    def send(self, request: Any, **options: Any) -> Any:
        """Send one request; within a rollout repeat it only where it cannot have been sampled."""
        turn = HttpTurn.begin(request, self._rft_sampling)
        if turn is None:
            return self._rft_inner.send(request, **options)
        options["follow_redirects"] = False
        try:
            while True:
                try:
                    response = self._rft_inner.send(turn.request, **options)
                except Exception as error:
                    seconds = turn.pause_after_error(error)
                else:
                    pause = turn.pause_after(response)
                    if pause is None:
                        return turn.take(response)
                    response.close()
                    seconds = pause
                time.sleep(seconds)
        except BaseException:
            turn.end(answered=False)
            raise


class AsyncTurnClient(Proxy):
    """Makes one turn of each inference request that an asynchronous client sends within a rollout."""

    _rft_sampling: Sampling
    _rft_pooled: Literal["never", "in rollouts", "always"]
    """When requests go through the pool of the running loop rather than through the client behind."""

    async def send(self, request: Any, **options: Any) -> Any:
        """Send one request; within a rollout repeat it only where it cannot have been sampled."""
        turn = HttpTurn.begin(request, self._rft_sampling)
        if turn is None:
            pooled = self._rft_pooled == "always"
            return await (await loop_pool() if pooled else self._rft_inner).send(request, **options)
        options["follow_redirects"] = False
        try:
            client = self._rft_inner if self._rft_pooled == "never" else await loop_pool()
            while True:
                try:
                    response = await client.send(turn.request, **options)
                except Exception as error:
                    seconds = turn.pause_after_error(error)
                else:
                    pause = turn.pause_after(response)
                    if pause is None:
                        return turn.take(response)
                    await response.aclose()
                    seconds = pause
                await asyncio.sleep(seconds)
        except BaseException:
            turn.end(answered=False)
            raise


# --- one turn --------------------------------------------------------------------------------------------------------


class HttpTurn:
    """One inference request within a rollout, from its beginning to the end of its answer. Not shared."""

    def __init__(self, context: RFTContext, request: Any) -> None:
        self.request = request
        self._http = _library_of(request)
        self._context = context
        self._attempt = 0
        self._refused = False  # the last attempt cannot have been sampled
        self._ended = False
        turn = context.begin_turn()
        self._span_id = turn.span_id
        request.headers.update(turn.headers)

    @classmethod
    def begin(cls, request: Any, sampling: Sampling) -> HttpTurn | None:
        """Begin a turn for a request, None if it is none: outside a rollout, no inference, or tracked by its sender.

        Raises:
            openai.APIConnectionError: The OpenAI client repeats a call on its own account, which may sample it twice;
                or the rollout is reported and takes no more turns.
        """
        context = RFTContext.current()
        if context is None or request.method != "POST" or not request.url.path.endswith(INFERENCE_PATHS):
            return None
        if SPAN_HEADER in request.headers:
            return None
        if request.headers.get(_RETRY_COUNT_HEADER, "0") != "0":
            # What may be repeated was repeated here. Clients that know no exception to their retries end up here.
            raise openai.APIConnectionError(
                message="not sent again: the call may have been sampled; its error came before", request=request
            )
        if sampling == "request":
            request = with_sampling(request, context.inference_params.sampling())
        try:
            return cls(context, request)
        except NoActiveRolloutError as error:
            # An OpenAI client passes its own errors on. It answers all others with retries, and drops their message.
            raise openai.APIConnectionError(message=str(error), request=request) from error

    def pause_after_error(self, error: Exception) -> float:
        """Return the seconds until the request is sent again, or raise the error that ends the turn."""
        self._attempt += 1
        no_connection = (self._http.ConnectError, self._http.ConnectTimeout, self._http.PoolTimeout)
        self._refused = isinstance(error, no_connection)
        if self._refused and self._attempt < MAX_ATTEMPTS:
            return BACKOFF.delay(self._attempt)
        # Errors of its own go through an OpenAI client without a retry; all others would be answered with one.
        if isinstance(error, self._http.TimeoutException):
            raise openai.APITimeoutError(request=self.request) from error
        if isinstance(error, self._http.TransportError):
            raise openai.APIConnectionError(request=self.request) from error
        raise error

    def pause_after(self, response: Any) -> float | None:
        """Return the seconds until the request is sent again, None when the answer stands."""
        self._attempt += 1
        self._refused = response.status_code in NOT_SAMPLED_STATUSES
        if not self._refused or self._attempt == MAX_ATTEMPTS:
            return None
        return BACKOFF.delay(self._attempt, parse_retry_after(response.headers.get("retry-after")))

    def take(self, response: Any) -> Any:
        """Return the answer, of which the end, when it comes, ends the turn."""
        if not response.is_success:
            response.headers[_SHOULD_RETRY_HEADER] = "false"
            self.end(answered=False)
        elif response.is_closed:
            self.end(answered=True)
        else:
            response.stream = _stream_before(response.stream, self._http, self.end)
        return response

    def end(self, *, answered: bool) -> None:
        """Count the turn, once."""
        if not self._ended:
            self._ended = True
            failure = TurnState.REFUSED if self._refused else TurnState.FAILED
            self._context.end_turn(self._span_id, TurnState.ANSWERED if answered else failure)


def with_sampling(request: Any, params: dict[str, float]) -> Any:
    """Return a request whose JSON body asks for these sampling parameters, by their Python names."""
    if not params:
        return request
    try:
        body = json.loads(request.content)
    except (ValueError, RuntimeError):  # no JSON, or a body that is still to be produced
        return request
    if not isinstance(body, dict):
        return request
    for name, value in params.items():
        body[_spelling(name, request.url.path, body)] = value
    headers = request.headers.copy()
    del headers["content-length"]
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return _library_of(request).Request(
        request.method, request.url, headers=headers, content=content, extensions=request.extensions
    )


def _spelling(name: str, path: str, body: dict[str, Any]) -> str:
    if name != "max_tokens":
        return name
    if path.endswith("/responses"):
        return "max_output_tokens"
    return "max_completion_tokens" if "max_completion_tokens" in body else name


def _library_of(request: Any) -> ModuleType:
    """Return the library, httpx or its successor, that a request was made with."""
    return importlib.import_module(type(request).__module__.partition(".")[0])


# --- the end of a streamed answer ------------------------------------------------------------------------------------


class _TurnStream:
    """Bytes of an answer whose end, or the moment at which the reader leaves, ends the turn."""

    def __init__(self, stream: Any, end: Callable[..., None]) -> None:
        self._stream = stream
        self._end = end
        self._tail = b"\n"
        self._complete = False

    def _see(self, chunk: bytes) -> None:
        # Readers stop at the closing mark, before the stream itself ends.
        seen = self._tail + chunk
        self._complete = self._complete or _STREAM_END in seen
        self._tail = seen[-len(_STREAM_END) :]

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._see(chunk)
            yield chunk
        self._complete = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._see(chunk)
            yield chunk
        self._complete = True

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._end(answered=self._complete)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._end(answered=self._complete)


def _stream_before(stream: Any, library: ModuleType, end: Callable[..., None]) -> Any:
    base = next(
        (kind for kind in (library.AsyncByteStream, library.SyncByteStream) if isinstance(stream, kind)), object
    )
    return _stream_class(base)(stream, end)


@functools.cache
def _stream_class(base: Any) -> type[Any]:
    return type("TurnStream", (_TurnStream, base), {})
