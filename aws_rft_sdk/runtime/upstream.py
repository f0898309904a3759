"""The policy that is another server: any with OpenAI's chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import httpx

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.answers import encode
from aws_rft_sdk.runtime.policies import Call, Passthrough, PolicyError


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
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Do nothing: a server sees requests only."""

    async def answer(self, call: Call) -> Passthrough:
        """Send the request on and return the answer, whose body is still to be read."""
        client = self._client()
        request = client.build_request("POST", self._url, content=self._body(call), headers=self._headers)
        try:
            response = await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise PolicyError(f"the upstream server cannot be reached: {type(error).__name__}", status=503) from error
        except httpx.HTTPError as error:
            raise PolicyError(f"the upstream server gave no answer: {type(error).__name__}", status=500) from error
        return Passthrough(
            status=response.status_code,
            content_type=response.headers.get("content-type", "application/json"),
            retry_after=response.headers.get("retry-after"),
            pieces=_pieces(response),
            close=response.aclose,
        )

    def _body(self, call: Call) -> bytes:
        changes: Mapping[str, JSON] = {}
        if self._model is not None:
            changes = {"model": self._model}
        if bool(call.request.get("stream", False)) is not call.stream:
            changes = {**changes, "stream": call.stream}
        return encode({**call.request, **changes}) if changes else call.body

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(
                timeout=httpx.Timeout(self._timeout, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
                trust_env=self._trust_env,
            )
        return self._clients[loop]

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        raise PolicyError(f"the upstream server broke off: {type(error).__name__}", status=500) from error
