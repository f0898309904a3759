"""How a request to a rollout's runtime is authenticated, at the moment when it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.credentials import Keys, is_signed, shared_credentials, sign
from aws_rft_sdk.settings import Auth, Endpoint, auth_at, runtime_key_for

T = TypeVar("T")

Secret = Keys | str | None
"""Keys for a signature, or a bearer token or key. None if requests go unsigned."""

_OF_A_SIGNATURE = ("x-amz-date", "x-amz-security-token")


class RuntimeAuth(http.Auth):
    """Signs each request with the credentials of that moment, and once more with newer ones after a 403.

    A 403 is no sampling. Credentials are read for each request and never kept. A runtime that receives
    `RFT_RUNTIME_KEY` gets that key instead, and is asked once.

    Args:
        endpoint: The runtime.
        auth: How requests are authenticated where the endpoint may receive that.
    """

    requires_request_body = True

    def __init__(self, endpoint: Endpoint, auth: Auth) -> None:
        self._endpoint = endpoint
        self._auth: Auth = auth
        self._credentials = shared_credentials(network=not endpoint.is_loopback)

    async def check(self) -> None:
        """Raise CredentialsError if there are no credentials and the endpoint is not on this machine."""
        await self._ask(self._secret)

    async def async_auth_flow(self, request: http.Request) -> AsyncGenerator[http.Request, http.Response]:
        """Sign a request, which `check` has found credentials for."""
        await request.aread()
        secret = await self._ask(self._secret)
        self._sign(request, secret)
        response = yield request
        if response.status_code == 403 and secret is not None and runtime_key_for(self._endpoint) is None:
            newer = await self._ask(lambda: self._newer_secret(secret))
            self._sign(request, newer)
            yield request

    def _sign(self, request: http.Request, secret: Secret) -> None:
        """Put a signature on a request, in place of one that it may carry."""
        if isinstance(secret, str):
            request.headers["Authorization"] = f"Bearer {secret}"
        elif secret is not None:
            for name in _OF_A_SIGNATURE:
                request.headers.pop(name, None)
            # Only what identifies the request is signed; a proxy may change the rest.
            headers = {name: value for name, value in request.headers.items() if is_signed(name)}
            url, region = str(request.url), self._endpoint.region
            request.headers.update(sign(request.method, url, headers, request.content, keys=secret, region=region))

    def _secret(self) -> Secret:
        if (key := runtime_key_for(self._endpoint)) is not None:
            return key
        keys = self._credentials.keys() if self._endpoint.is_loopback else self._credentials.require_keys()
        auth = auth_at(self._endpoint, self._auth, has_keys=keys is not None)
        return self._credentials.bearer_token(self._endpoint.region) if auth == "bearer" else keys

    def _newer_secret(self, refused: Secret) -> Secret:
        # Of many calls that were refused at once, the first renews.
        if self._secret() == refused:
            self._credentials.refresh()
        return self._secret()

    async def _ask(self, question: Callable[[], T]) -> T:
        # Away from this machine's runtime, credentials may come over the network, which must not stop the event loop.
        return question() if self._endpoint.is_loopback else await asyncio.to_thread(question)
