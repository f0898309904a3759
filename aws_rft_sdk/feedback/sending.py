"""Sends one feedback call: signs it, sends it, and says whether it is worth another attempt. Bounded in time."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aws_rft_sdk import credentials, telemetry, wire
from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk.credentials import Bearer, Credentials, RuntimeKey, SigV4, shared_credentials
from aws_rft_sdk.errors import (
    AccessDeniedError,
    ConfigurationError,
    ServiceConnectionError,
    ServiceError,
    ServiceTimeoutError,
    StatusError,
)
from aws_rft_sdk.settings import Auth, Endpoint, auth_at, runtime_key_for
from aws_rft_sdk.wire import FeedbackRequest

if TYPE_CHECKING:
    import requests

    from aws_rft_sdk.feedback import _requests as transport

TIMEOUT_SECONDS = 30.0
MAX_SECONDS = 60.0
"""Default for a whole call without an outbox: nobody delivers it later."""
MAX_SECONDS_WITH_OUTBOX = 10.0
"""Default for a whole call with an outbox, which goes on trying."""


def warm_up() -> None:
    """Import what the first feedback call needs, about 0.2 s. Call it before a deadline starts. Cheap to repeat."""
    _transport()
    credentials.warm_up()


def _transport() -> Any:
    return importlib.import_module("aws_rft_sdk.feedback._requests")


@dataclass(frozen=True)
class Sender:
    """How the feedback calls of one trajectory are sent."""

    endpoint: Endpoint
    auth: Auth
    subject: str
    """The trajectory id, for messages."""
    credentials: Credentials | None = None
    """Whose keys sign; None for those that the process shares."""
    session: requests.Session | None = None
    """What to send with; None for the session that the process shares."""
    timeout_seconds: float = TIMEOUT_SECONDS
    """For one request and its whole answer."""
    max_seconds: float = MAX_SECONDS
    """For all that one call of a client sends, waits included."""
    backoff: Backoff | None = Backoff()
    """Waits between attempts; None for a single attempt."""

    def deadline(self) -> float:
        """Return the end of the time that a call which begins now may take, on the monotonic clock."""
        return time.monotonic() + self.max_seconds


class Sending:
    """One feedback call on its way.

    Args:
        sender: How it is sent.
        request: The call.
        deadline: On the monotonic clock.

    Raises:
        CredentialsError: The credentials cannot be loaded. Nothing was sent.
        ConfigurationError: `RFT_RUNTIME_KEY` is no key. Nothing was sent.
    """

    def __init__(self, sender: Sender, request: FeedbackRequest, deadline: float) -> None:
        telemetry.inject(request.headers)
        self._sender = sender
        self._request = request
        self._deadline = deadline
        endpoint = sender.endpoint
        self._source = sender.credentials or shared_credentials(network=not endpoint.is_loopback)
        self._generation = self._source.generation
        self._refreshed = False
        if (key := runtime_key_for(endpoint)) is not None:
            self._auth: Any = RuntimeKey(key)
            self._refreshed = True  # a key that is refused stays refused
            return
        has_keys = sender.credentials is not None or not endpoint.is_loopback or self._source.keys() is not None
        auth = auth_at(endpoint, sender.auth, has_keys=has_keys)
        self._auth = {"sigv4": SigV4, "bearer": Bearer}[auth](self._source, endpoint.region) if auth else None

    def attempt(self) -> None:
        """Send the call once.

        Raises:
            ServiceError: The service refuses it, or there was no answer. `may_have_happened` tells whether this
                attempt may have taken effect.
            CredentialsError: There are no credentials. Nothing was sent.
            ConfigurationError: The settings for TLS or proxies are wrong. Nothing was sent.
        """
        http, sender, request = _transport(), self._sender, self._request
        url = sender.endpoint.url
        subject = f"{request.path} for trajectory {sender.subject}"
        seconds = min(sender.timeout_seconds, max(self._deadline - time.monotonic(), 0.001))
        try:
            answer = http.post(
                url + request.path,
                request.headers,
                request.body,
                self._auth,
                session=sender.session,
                direct=sender.endpoint.is_loopback,  # a runtime on this machine needs no proxy
                seconds=seconds,
            )
        except http.ExchangeError as error:
            failure: ServiceError = (
                ServiceTimeoutError(f"{subject}: no answer from {url} within {seconds:.3g} s")
                if error.timed_out
                else ServiceConnectionError(f"{subject}: the exchange with {url} failed ({error})")
            )
            failure.may_have_happened = error.may_have_happened
            raise failure from error.__cause__
        except http.SettingsError as error:
            raise ConfigurationError(
                f"{subject} cannot be sent to {url} ({error}); check the CA bundle and the proxies in the environment"
            ) from error.__cause__
        if not 200 <= answer.status < 300:
            raise _status_error(answer, subject)

    def pause_after(self, error: ServiceError, attempts: int) -> float | None:
        """Return the seconds to wait before the call is sent again. Returns None if it is not sent again.

        After a 403 the credentials are loaded anew, once.
        """
        if isinstance(error, AccessDeniedError) and self._auth is not None and not self._refreshed:
            self._refreshed = True
            self._source.refresh(self._generation)
            return 0.0
        repeatable = not isinstance(error, StatusError) or error.status in wire.RETRIABLE_STATUSES
        backoff = self._sender.backoff
        if not repeatable or backoff is None:
            return None
        seconds = backoff.delay(attempts, error.retry_after_seconds)
        if error.retry_after_seconds is not None:
            # Not at once, even if the service asks for that: time bounds the attempts, and thousands would fit in.
            seconds = max(seconds, backoff.base_seconds / 2)
        return seconds if time.monotonic() + seconds < self._deadline else None


def _status_error(answer: transport.Answer, subject: str) -> StatusError:
    body = wire.error_message(answer.body)
    code = wire.header_text(answer.headers.get(wire.ERROR_TYPE_HEADER))
    request_id = wire.header_text(answer.headers.get(wire.REQUEST_ID_HEADER))
    error = wire.error_class(answer.status)(
        f"{subject} was answered with {answer.status}"
        f"{f' {code}' if code else ''}{f': {body}' if body else ''} (request id {request_id or 'unknown'})",
        status=answer.status,
        code=code,
        request_id=request_id,
        body=body,
        retry_after_seconds=parse_retry_after(answer.headers.get("Retry-After")),
    )
    error.may_have_happened = answer.status in wire.AMBIGUOUS_STATUSES
    return error
