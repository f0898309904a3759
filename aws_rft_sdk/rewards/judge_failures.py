"""Why a judge gave no verdict, and what an error of a provider means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from aws_rft_sdk._backoff import parse_retry_after


class Failure(str, Enum):
    """Why there is no verdict."""

    THROTTLED = "throttled"
    """The service asked to wait, to the last attempt."""
    UNAVAILABLE = "unavailable"
    """No connection, or the service had a fault of its own, to the last attempt."""
    TIMEOUT = "timeout"
    """No answer in time, to the last attempt."""
    MALFORMED = "malformed"
    """What came was no object of the schema, to the last attempt."""
    REFUSED = "refused"
    """The service turned the request away, or the model declined."""
    NO_REFERENCE = "no reference"
    """The judge needs a ground truth and the rollout has none. The judge was not asked."""
    NO_COMPARISON = "no comparison"
    """There is nothing to compare an answer with. The judge was not asked."""
    ERROR = "error"
    """Anything else; the detail says what."""


class CallFailedError(Exception):
    """One call of a judge failed. Stays within this package: callers of a judge get a `Failure`."""

    def __init__(self, failure: Failure, detail: str, *, retry: bool = False, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail
        self.retry = retry
        self.retry_after = retry_after


_TIMEOUTS = {"TimeoutError", "APITimeoutError", "TimeoutException", "ReadTimeoutError", "ConnectTimeoutError"}
_NO_CONNECTION = {"APIConnectionError", "ConnectionError", "TransportError", "HTTPClientError"}
_THROTTLES = {"ModelThrottledException"}
_REFUSALS = {"ContextWindowOverflowException"}
_NO_JSON = {"JSONDecodeError", "UnicodeDecodeError", "APIResponseValidationError"}


def call_failed(error: BaseException, handled: BaseException | None) -> CallFailedError:
    """Return what an error of a provider means: by status first, then by the names of its classes, never by text.

    Args:
        error: What the call raised.
        handled: What the caller was handling when it made the call, and so is no part of the call's own story.
    """
    if isinstance(error, CallFailedError):
        return error
    links = list(_chain(error, handled))
    statuses = [status for link in links if (status := _status(link)) is not None]
    retry_after = next((seconds for link in links if (seconds := _retry_after(link)) is not None), None)
    if statuses:
        status = statuses[-1]  # nearest to the wire
        # Without its text: a service may quote the key and the prompt.
        detail = " ".join([type(error).__name__, str(status), *(code for link in links if (code := _code(link)))])
        if status == 429:
            return CallFailedError(Failure.THROTTLED, detail, retry=True, retry_after=retry_after)
        if status in (408, 409, 424) or status >= 500:
            return CallFailedError(Failure.UNAVAILABLE, detail, retry=True, retry_after=retry_after)
        return CallFailedError(Failure.REFUSED, detail)
    detail = f"{type(error).__name__}: {error}"[:300]
    names = {kind.__name__ for link in links for kind in type(link).__mro__}
    for known, failure, retry in (
        (_THROTTLES, Failure.THROTTLED, True),
        (_REFUSALS, Failure.REFUSED, False),
        (_TIMEOUTS, Failure.TIMEOUT, True),
        (_NO_CONNECTION, Failure.UNAVAILABLE, True),
        (_NO_JSON, Failure.MALFORMED, True),
    ):
        if names & known:
            return CallFailedError(failure, detail, retry=retry)
    return CallFailedError(Failure.ERROR, detail)


def _chain(error: BaseException | None, handled: BaseException | None) -> Iterator[BaseException]:
    seen = {id(handled)}
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)  # openai
    response = getattr(error, "response", None)
    if status is None and isinstance(response, Mapping):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) and status >= 400 else None  # a success is no cause


def _code(error: BaseException) -> str | None:
    code = getattr(error, "code", None)  # openai
    response = getattr(error, "response", None)
    if code is None and isinstance(response, Mapping):  # botocore
        code = response.get("Error", {}).get("Code")
    return code if isinstance(code, str) else None


def _retry_after(error: BaseException) -> float | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        headers: Any = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    else:
        headers = getattr(response, "headers", None) or {}
    return parse_retry_after(headers.get("retry-after"))
