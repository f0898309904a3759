"""The policy that is another server: any with OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import httpx

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.answers import encode
from aws_rft_sdk.runtime.policies import Call, Passthrough, PolicyError

_IDLE_CONNECTIONS = 256


class UpstreamPolicy:
    """Hands requests on to an OpenAI-compatible server, and its answers back byte for byte.

    Errors of the server pass through with their status and `Retry-After`. The headers of the agent's request are not
    handed on: neither those that name the trajectory nor its credentials. Nothing is retried. A server that cannot be
    connected to is answered 503 (nothing was sampled, so the call may be repeated); one that breaks off or is too slow
    500 (it may have sampled).

    Args:
        base_url: The server's base URL, ending where `/chat/completions` begins: usually in `/v1`.
        api_key: Sent as a bearer token. None for no authentication.
        model: Name of the model to ask for. None for the one that the agent names.
        timeout: Seconds to wait for the server to connect or to send the next byte.

    Raises:
        ConfigurationError: `base_url` is no http or https URL.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, model: str | None = None, timeout: float = 600.0
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"base_url must be an http or https URL, not {base_url!r}")
        self._url = base_url.rstrip("/") + "/chat/completions"
        # Not compressed, because what arrives is handed on as it is.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._model = model
        self._timeout = timeout
        # Proxies of the environment are for the world outside, never for this machine.
        self._trust_env = parts.hostname not in ("localhost", "127.0.0.1", "::1")
        self._encrypts = parts.scheme == "https"
        self._clients: dict[asyncio.AbstractEventLoop, list[httpx.AsyncClient]] = {}
        """Those that nobody uses at the moment, the latest last."""

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Do nothing: a server sees requests only."""

    async def answer(self, call: Call) -> Passthrough:
        """Send the request on and return the answer, whose body is still to be read."""
        client = self._take()
        release = functools.partial(self._release, client)
        request = client.build_request("POST", self._url, content=self._body(call), headers=self._headers)
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

    def _body(self, call: Call) -> bytes:
        changes: Mapping[str, JSON] = {}
        if self._model is not None:
            changes = {"model": self._model}
        if bool(call.request.get("stream", False)) is not call.stream:
            changes = {**changes, "stream": call.stream}
        return encode({**call.request, **changes}) if changes else call.body

    # One client for each call in progress, and so one connection for each: httpx looks at all connections of a client
    # whenever a request comes or goes, which with many of them takes longer than everything else.

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
        # Shared, since loading the certificates takes longer than a call. A server on this machine may need none.
        return httpx.create_ssl_context(trust_env=self._trust_env) if self._encrypts or self._trust_env else False

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        for client in self._clients.pop(asyncio.get_running_loop(), []):
            await client.aclose()


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        raise PolicyError(f"the upstream server broke off: {type(error).__name__}", status=500) from error
