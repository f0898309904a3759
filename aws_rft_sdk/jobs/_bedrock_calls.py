"""Calls of Bedrock's OpenAI-compatible API: authenticated as they are sent, repeated where that is safe."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Literal, TypeVar

import openai

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._checks import check_type
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import is_loopback_url
from aws_rft_sdk.adapters._http_library import http, tls_context
from aws_rft_sdk.credentials import Keys, is_signed, mint_token, shared_credentials, sign
from aws_rft_sdk.errors import (
    ConfigurationError,
    RFTError,
    ServiceFaultError,
    ServiceTimeoutError,
    ThrottledError,
    TransportError,
)
from aws_rft_sdk.jobs._bedrock_answers import id_of, read_list, read_object, unreadable
from aws_rft_sdk.jobs._refusals import refusal
from aws_rft_sdk.settings import bedrock_key, mantle_url

T = TypeVar("T")

Repeat = Literal["always", "unless late", "unsent"]
"""Which failed calls are sent again: all, all but those that timed out, or only those that cannot have taken effect.

429 is always sent again, after the time that the service asks for."""

SERVICE = "bedrock-mantle"
"""Name that requests are signed for, and prefix of the IAM actions."""
ATTEMPTS = 6
BACKOFF = Backoff(base_seconds=0.25, cap_seconds=20.0)
CALL_SECONDS = 60.0
_PATIENCE_SECONDS = 90.0
"""A call that times out is not repeated once this time has passed since it was first sent."""
_PAGE = 100
_NO_KEYS = Keys("NOCREDENTIALS0000000", "none")
"""What signs requests to a stand-in on this machine where there are no credentials. No account has these keys."""


def client_for(region: str, base_url: str | None, auth: str) -> openai.OpenAI:
    """Return an OpenAI client whose requests are authenticated as they are sent.

    Raises:
        ConfigurationError: `auth` is unknown, or see `settings.mantle_url`.
    """
    if auth not in ("token", "sigv4"):
        raise ConfigurationError(f"auth is {auth!r:.80}; it must be 'token' or 'sigv4'")
    url = mantle_url(region, base_url)
    local = is_loopback_url(url)
    sender = openai.DefaultHttpxClient(
        auth=_Auth(region, signs=auth == "sigv4", local=local),
        follow_redirects=False,  # a redirect would carry the token to another host
        trust_env=not local,  # no proxy stands before this machine
        verify=tls_context(),
    )
    return openai.OpenAI(base_url=url, api_key="set as the request is sent", http_client=sender)


class _Auth(http.Auth):
    """Signs each request with the credentials of that moment, or gives it a token made from them.

    A request that is refused is sent once more, at a newer time and with credentials that are loaded anew.
    """

    requires_request_body = True  # a signature covers the body, so a multipart body is read into memory first

    def __init__(self, region: str, *, signs: bool, local: bool) -> None:
        self._region, self._signs, self._local = region, signs, local
        self._credentials = shared_credentials(network=not local)

    def auth_flow(self, request: http.Request) -> Generator[http.Request, http.Response, None]:
        key = None if self._signs else bedrock_key()
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"
            yield request
            return
        generation = self._credentials.generation
        self._authenticate(request, self._keys())
        response = yield request
        if response.status_code in (401, 403):
            self._credentials.refresh(generation)
            self._authenticate(request, self._keys())
            yield request

    def _keys(self) -> Keys | None:
        return self._credentials.keys() if self._local else self._credentials.require_keys()

    def _authenticate(self, request: http.Request, keys: Keys | None) -> None:
        region = self._region
        for name in ("authorization", "x-amz-date", "x-amz-security-token"):
            request.headers.pop(name, None)
        if self._signs:
            # Only what identifies the request is signed; a proxy may change the rest.
            headers = {name: value for name, value in request.headers.items() if is_signed(name)}
            about = (request.method, str(request.url), headers, request.content)
            request.headers.update(sign(*about, keys=keys or _NO_KEYS, region=region, service=SERVICE))
            return
        if keys is None:
            token = mint_token(_NO_KEYS, region, service="bedrock")
        else:
            token = self._credentials.bearer_token(region, "bedrock")
        request.headers["Authorization"] = f"Bearer {token}"


class Mantle:
    """Calls of the API through an OpenAI client, which may be shared by threads."""

    def __init__(self, client: openai.OpenAI, *, owned: bool) -> None:
        check_type("client", client, openai.OpenAI, "an openai.OpenAI")
        self.client = client.with_options(max_retries=0)  # `ask` repeats, and knows what is safe
        self.close = weakref.finalize(self, client.close) if owned else lambda: None

    def ask(self, operation: str, call: Callable[[openai.OpenAI], T], *, repeat: Repeat = "always") -> T:
        """Make a call, and repeat it up to five times where that is safe.

        Args:
            operation: IAM action of the call, without the service's prefix.
            call: Makes the call.
            repeat: What may be sent again.

        Raises:
            RFTError: See `refusal`.
        """
        begun = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call(self.client)
            except (openai.OpenAIError, http.HTTPError, RFTError) as error:
                refused = refusal(error, f"{SERVICE}:{operation}")
            except json.JSONDecodeError:  # openai does not translate it
                refused = unreadable(operation)
            late = isinstance(refused, ServiceTimeoutError) and time.monotonic() - begun > _PATIENCE_SECONDS
            if attempt == ATTEMPTS or late or not _may_repeat(refused, repeat):
                break
            time.sleep(BACKOFF.delay(attempt, refused.retry_after_seconds))
        raise refused from None  # the original's text may quote our token

    def send(
        self,
        operation: str,
        method: Literal["get", "post", "delete"],
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, JSON] | None = None,
        repeat: Repeat = "always",
    ) -> dict[str, JSON]:
        """Make a call and return the object that answers it, as it came. Arguments and errors are those of `ask`."""

        def make(client: openai.OpenAI) -> dict[str, JSON]:
            # As text: the types of openai know neither the Lambda grader nor what the service may add.
            options: Any = {"timeout": CALL_SECONDS, "params": dict(params or {})}
            if method == "get":
                return read_object(client.get(path, cast_to=str, options=options), operation)
            call = client.post if method == "post" else client.delete
            return read_object(call(path, cast_to=str, body=body, options=options), operation)

        return self.ask(operation, make, repeat=repeat)

    def items(self, operation: str, path: str) -> Iterator[Mapping[str, JSON]]:
        """Yield the objects of all pages, each once, in the order in which they come.

        `has_more` is not believed: pages are asked for until one brings nothing new. A page that repeats part of
        another one, and a service that begins again from its first page, cause no repetition and no endless loop.
        """
        seen, cursors = set[str](), set[str]()
        params: dict[str, str | int] = {"limit": _PAGE}
        while True:
            page = self.send(operation, "get", path, params=params)
            rows = read_list(page, operation)
            known = len(seen)
            for row in rows:
                if id_of(row) not in seen:
                    seen.add(id_of(row))
                    yield row
            cursor = rows[-1].get("id") if rows else None
            if not isinstance(cursor, str) or cursor in cursors or not (len(seen) > known or page.get("has_more")):
                return
            cursors.add(cursor)
            params["after"] = cursor


def _may_repeat(error: RFTError, repeat: Repeat) -> bool:
    if not isinstance(error, TransportError | ServiceFaultError | ThrottledError):
        return False
    may = repeat == "always" or (repeat == "unless late" and not isinstance(error, ServiceTimeoutError))
    return may or not error.may_have_happened
