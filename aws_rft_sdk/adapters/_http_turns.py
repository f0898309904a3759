"""HTTP clients that make one turn of each inference request sent within a rollout.

They stand before an HTTP client, below everything that OpenAI clients offer (streams, parsing, raw answers) and below
the retries of those clients, which can be told apart from new calls only here. So this module alone decides what a turn
carries and when it is sent again. Nothing of the rollout is stored on the clients: the context is read when a request
is sent.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any, Literal, cast

import openai
from openai._base_client import get_platform

from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk.adapters._answers import TurnStream, after_error, after_status, is_timeout
from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.adapters._loop_pool import loop_pool, pool_options
from aws_rft_sdk.adapters._sampling import Sampling, with_sampling
from aws_rft_sdk.context import RFTContext, TurnState
from aws_rft_sdk.errors import RFTError
from aws_rft_sdk.settings import runtime_key_at
from aws_rft_sdk.wire import SPAN_HEADER

Pooled = Literal["never", "in rollouts", "always"]
"""When requests go through the pool of the running loop rather than through the client behind."""

INFERENCE_PATHS = ("/chat/completions", "/completions", "/responses")

MAX_ATTEMPTS = 5
BACKOFF = Backoff(base_seconds=0.5, cap_seconds=20.0)
_RETRY_COUNT_HEADER = "x-stainless-retry-count"
_SHOULD_RETRY_HEADER = "x-should-retry"


# --- one turn --------------------------------------------------------------------------------------------------------


class HttpTurn:
    """One inference request within a rollout, from its beginning to the end of its answer. Not shared."""

    def __init__(self, context: RFTContext, request: http.Request, key: str | None) -> None:
        self.request = request
        self._context = context
        self._attempt = 0
        self._state = TurnState.REFUSED  # nothing is sent yet
        self._ended = False
        turn = context.begin_turn()
        self._span_id = turn.span_id
        request.headers.update(turn.headers)
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"

    @classmethod
    def begin(cls, request: http.Request, sampling: Sampling, *, signs: bool) -> HttpTurn | None:
        """Begin a turn. Returns None outside a rollout, if the request is no inference, or if its sender tracks it.

        Args:
            request: The request. A turn adds its headers.
            sampling: Whose sampling parameters win.
            signs: Whether something authenticates the request as it is sent. Otherwise a runtime that receives
                `RFT_RUNTIME_KEY` gets it here.

        Raises:
            openai.APIConnectionError: The OpenAI client repeats a call by itself, which may sample it twice; or the
                rollout takes no more turns.
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
        if sampling == "job":
            request = with_sampling(request, context.inference_params.sampling())
        try:
            return cls(context, request, None if signs else runtime_key_at(str(request.url)))
        except RFTError as error:  # an OpenAI client sends again after any error that is none of its own
            raise openai.APIConnectionError(message=str(error), request=request) from error

    def begin_attempt(self) -> None:
        """Note that the request is about to be sent: whatever interrupts it now, it may have been sampled."""
        self._attempt += 1
        self._state = TurnState.FAILED

    def pause_after_error(self, error: Exception) -> float:
        """Return the seconds until the request is sent again, or raise the error that ends the turn."""
        self._state, again = after_error(error)
        if again and self._attempt < MAX_ATTEMPTS:
            return BACKOFF.delay(self._attempt)
        # Errors of its own go through an OpenAI client without a retry; all others would be answered with one.
        if is_timeout(error):
            raise openai.APITimeoutError(request=self.request) from error
        if isinstance(error, http.TransportError):
            raise openai.APIConnectionError(request=self.request) from error
        raise error

    def pause_after(self, response: http.Response) -> float | None:
        """Return the seconds until the request is sent again. Returns None if the answer stands."""
        self._state, again = after_status(response.status_code)
        if not again or self._attempt == MAX_ATTEMPTS:
            return None
        return BACKOFF.delay(self._attempt, parse_retry_after(response.headers.get("retry-after")))

    def take(self, response: http.Response) -> http.Response:
        """Return the answer. The turn ends with it, or with its stream."""
        if not response.is_success:
            response.headers[_SHOULD_RETRY_HEADER] = "false"
        if response.is_success and not response.is_closed:
            response.stream = TurnStream(response.stream, self.end)
        else:
            self.end(self._state)
        return response

    def end(self, state: TurnState | None = None) -> None:
        """Count the turn, once. If `state` is None, the turn ends as its last attempt did."""
        if not self._ended:
            self._ended = True
            self._context.end_turn(self._span_id, state or self._state)


# --- clients that stand before others --------------------------------------------------------------------------------


class _Before:
    """An HTTP client that shows and shares all state of another one; mixed in before the class of HTTP clients."""

    _rft_inner: Any

    def __init__(self, inner: http.Client | http.AsyncClient, **state: Any) -> None:
        # Not `super().__init__()`, which would make connections of its own.
        vars(self).update(_rft_inner=inner, **state)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_rft_inner"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._rft_inner, name, value)


class TurnClient(_Before, openai.DefaultHttpxClient):
    """Makes one turn of each inference request that a synchronous client sends within a rollout."""

    _rft_sampling: Sampling

    def __init__(self, inner: http.Client, sampling: Sampling) -> None:
        """Stand before `inner`."""
        super().__init__(inner, _rft_sampling=sampling)

    def send(self, request: http.Request, **options: Any) -> http.Response:
        """Send one request. Within a rollout repeat it only where it cannot have been sampled."""
        turn = HttpTurn.begin(request, self._rft_sampling, signs="auth" in options)
        if turn is None:
            return cast(http.Response, self._rft_inner.send(request, **options))
        options["follow_redirects"] = False
        try:
            while True:
                turn.begin_attempt()
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
            turn.end()
            raise

    def close(self) -> None:
        """Close the client behind."""
        self._rft_inner.close()


class AsyncTurnClient(_Before, openai.DefaultAsyncHttpxClient):
    """Makes one turn of each inference request that an asynchronous client sends within a rollout."""

    _rft_sampling: Sampling
    _rft_pooled: Pooled

    def __init__(self, inner: http.AsyncClient, sampling: Sampling, pooled: Pooled) -> None:
        """Stand before `inner`.

        Args:
            inner: The client whose settings show.
            sampling: Whose sampling parameters win.
            pooled: When requests go through the pool of the running loop rather than through `inner`.
        """
        super().__init__(inner, _rft_sampling=sampling, _rft_pooled=pooled)

    async def send(self, request: http.Request, **options: Any) -> http.Response:
        """Send one request. Within a rollout repeat it only where it cannot have been sampled."""
        turn = HttpTurn.begin(request, self._rft_sampling, signs="auth" in options)
        if turn is None:
            return await self._send_as_it_is(request, **options)
        options["follow_redirects"] = False
        try:
            client = self._rft_inner if self._rft_pooled == "never" else await loop_pool()
            while True:
                turn.begin_attempt()
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
            turn.end()
            raise

    async def _send_as_it_is(self, request: http.Request, **options: Any) -> http.Response:
        client = await loop_pool() if self._rft_pooled == "always" else self._rft_inner
        response: http.Response = await client.send(request, **options)
        if SPAN_HEADER in request.headers and not response.is_closed:
            # The sender counts this turn. Reading to the end lets the connection be used again.
            response.stream = TurnStream(response.stream, lambda state: None)
        return response

    async def aclose(self) -> None:
        """Close the client behind."""
        await self._rft_inner.aclose()


class CallClient(AsyncTurnClient):
    """The HTTP client of one call of a model. Closing it ends what the call left open, and nothing else.

    A model whose caller leaves early drops its answer without closing it.
    """

    _rft_auth: http.Auth | None
    _rft_responses: list[http.Response]

    def __init__(self, inner: http.AsyncClient | None, sampling: Sampling, auth: http.Auth | None = None) -> None:
        """Stand before an HTTP client.

        Args:
            inner: The user's own; None to use the pool of the running loop.
            sampling: Whose sampling parameters win.
            auth: What signs each request. None to send requests as they are.
        """
        super().__init__(inner or _settings(), sampling, "never" if inner else "always")
        vars(self).update(_rft_auth=auth, _rft_responses=[])

    async def send(self, request: http.Request, **options: Any) -> http.Response:
        """Send one request and remember its answer."""
        if self._rft_auth is not None:
            options["auth"] = self._rft_auth
        response = await super().send(request, **options)
        self._rft_responses.append(response)
        return response

    async def aclose(self) -> None:
        """Close the answers that are still open."""
        for response in self._rft_responses:
            await response.aclose()


def sparing_a_thread(client: openai.AsyncOpenAI) -> openai.AsyncOpenAI:
    """Tell a new client its platform, and return it. It would ask in a thread, which takes a fifth of a turn."""
    client._platform = _platform()
    return client


_platform = functools.cache(get_platform)


@functools.cache
def _settings() -> openai.DefaultAsyncHttpxClient:
    """Return a client that OpenAI clients read their settings from. It sends nothing."""
    return openai.DefaultAsyncHttpxClient(**pool_options())
