"""Connections to another server with OpenAI's API, and the policy that asks it for chat completions."""

from __future__ import annotations

import asyncio
import functools
import ssl
import warnings
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import httpx

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.answers import encode
from aws_rft_sdk.runtime.policies import Call, Passthrough, Policy, PolicyError

_IDLE_CONNECTIONS = 256


class Upstream:
    """Sends requests to an OpenAI-compatible server. Nothing is retried.

    If the server cannot be reached, a `PolicyError` says 503: nothing was sampled, so the call may be repeated. If the
    server breaks off or is too slow, it says 500: the server may have sampled.

    Args:
        base_url: The server's base URL. Usually it ends in `/v1`.
        api_key: Sent as a bearer token. None for no authentication.
        timeout_seconds: How long to wait for the server to connect or to send its next byte.

    Raises:
        ConfigurationError: `base_url` is no http or https URL, or `timeout_seconds` is not above 0.
    """

    def __init__(self, base_url: str, *, api_key: str | None, timeout_seconds: float) -> None:
        check_seconds("timeout_seconds", timeout_seconds)
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"base_url must be an http or https URL, not {base_url!r}")
        self._base_url = base_url.rstrip("/")
        # Not compressed, because the bytes are passed on as they arrive.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = timeout_seconds
        # Proxies of the environment are never for this machine.
        self._trust_env = parts.hostname not in ("localhost", "127.0.0.1", "::1")
        self._encrypts = parts.scheme == "https"
        self._clients: dict[asyncio.AbstractEventLoop, list[httpx.AsyncClient]] = {}
        """The idle clients of each event loop, the latest last."""

    async def post(self, path: str, body: bytes) -> Passthrough:
        """Send a request and return the answer before its body is read. `path` begins with a slash."""
        client = self._take()
        release = functools.partial(self._release, client)
        request = client.build_request("POST", self._base_url + path, content=body, headers=self._headers)
        try:
            response = await client.send(request, stream=True)
        except BaseException as error:
            await release()
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
                name = type(error).__name__
                raise PolicyError(f"the upstream server cannot be reached: {name}", status=503) from error
            if isinstance(error, httpx.HTTPError):
                name = type(error).__name__
                raise PolicyError(f"the upstream server gave no answer: {name}", status=500) from error
            raise
        return Passthrough(
            status=response.status_code,
            content_type=response.headers.get("content-type", "application/json"),
            retry_after=response.headers.get("retry-after"),
            pieces=_pieces(response),
            close=functools.partial(release, response),
        )

    # One client, and so one connection, for each call in progress. httpx searches all connections of a client for each
    # request, which takes longer than all the rest when there are many.

    def _take(self) -> httpx.AsyncClient:
        idle = self._clients.setdefault(asyncio.get_running_loop(), [])
        if idle:
            return idle.pop()
        return httpx.AsyncClient(
            timeout=httpx.Timeout(self._timeout),
            limits=httpx.Limits(max_keepalive_connections=1),
            trust_env=self._trust_env,
            verify=self._ssl_context,
        )

    async def _release(self, client: httpx.AsyncClient, response: httpx.Response | None = None) -> None:
        try:
            if response is not None:
                await response.aclose()
        finally:
            idle = self._clients.get(asyncio.get_running_loop())
            if idle is not None and len(idle) < _IDLE_CONNECTIONS:
                idle.append(client)
            else:
                await client.aclose()

    @functools.cached_property
    def _ssl_context(self) -> ssl.SSLContext | bool:
        # Shared, because loading the certificates takes longer than a call. A server on this machine may need none.
        return httpx.create_ssl_context(trust_env=self._trust_env) if self._encrypts or self._trust_env else False

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        for client in self._clients.pop(asyncio.get_running_loop(), []):
            await client.aclose()


class UpstreamPolicy(Policy):
    """Passes requests to an OpenAI-compatible server, and its answers back byte for byte.

    Errors of the server keep their status and `Retry-After`. No header of the agent's request is passed on, so neither
    its trajectory nor its credentials leave the runtime. Nothing is retried. If the server cannot be reached, the call
    is answered 503: nothing was sampled, so it may be repeated. If the server breaks off, fails within its stream or is
    too slow, the call is answered 500: the server may have sampled. The turn is not recorded then.

    Args:
        base_url: The server's base URL, up to `/chat/completions`. Usually it ends in `/v1`.
        api_key: Sent as a bearer token. None for no authentication.
        model: Name of the model to ask for. None for the model that the agent names.
        timeout_seconds: How long to wait for the server to connect or to send its next byte.
        return_token_ids: Whether to ask for the token ids of prompt and answer and for log-probabilities, whatever the
            agent asks for, so that the recorded turns can be trained on (`training.rows`). vLLM answers them. Start it
            as `docs/training.md` says, or its log-probabilities are not those of the tokens' distribution.
        timeout: Old name of `timeout_seconds`.

    Raises:
        ConfigurationError: `base_url` is no http or https URL, or `timeout_seconds` is not above 0.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_seconds: float = 600.0,
        return_token_ids: bool = False,
        timeout: float | None = None,
    ) -> None:
        if timeout is not None:
            warnings.warn("UpstreamPolicy(timeout=) is now timeout_seconds=", DeprecationWarning, stacklevel=2)
            timeout_seconds = timeout
        self._upstream = Upstream(base_url, api_key=api_key, timeout_seconds=timeout_seconds)
        self._changes: dict[str, JSON] = {} if model is None else {"model": model}
        if return_token_ids:
            self._changes.update(return_token_ids=True, logprobs=True)

    async def answer(self, call: Call) -> Passthrough:
        """Send the request and return the answer before its body is read."""
        return await self._upstream.post("/chat/completions", self._body(call))

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._upstream.aclose()

    def _body(self, call: Call) -> bytes:
        changes: Mapping[str, JSON] = self._changes
        if bool(call.request.get("stream", False)) is not call.stream:
            changes = {**changes, "stream": call.stream}
        return encode({**call.request, **changes}) if changes else call.body


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        raise PolicyError(f"the upstream server broke off: {type(error).__name__}", status=500) from error
