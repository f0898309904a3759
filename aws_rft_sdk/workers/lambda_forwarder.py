"""The Lambda function between the job service and a worker: checks a payload and hands it on, over HTTP or SQS.

`handler` is the function's entry point; `aws-rft worker lambda-package` makes its zip. It answers `{}` once the worker
has the rollout, else `{"errorType": ..., "errorMessage": ...}`; the reward goes from the worker to the service.
Light to import: the standard library alone and, for a queue, botocore on use, which every Lambda function has.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast
from urllib.parse import SplitResult, urlsplit

from aws_rft_sdk import wire
from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, PayloadError
from aws_rft_sdk.settings import WORKER_QUEUE_VARIABLE, WORKER_URL_VARIABLE, environment, worker_key
from aws_rft_sdk.types import RolloutRequest
from aws_rft_sdk.workers._aws import aws_client
from aws_rft_sdk.workers._payloads import read_rollout

logger = logging.getLogger(__name__)

VALIDATION, INTERNAL, DENIED = "ValidationError", "InternalServerError", "AccessDenied"

SOCKET_SECONDS = 120.0
"""For the answer of an HTTP worker, as in the documented template. Less when the function has less time left."""
CONNECT_SECONDS = 5.0
DEFAULT_BUDGET_SECONDS = 60.0
"""For all attempts, when nobody says how much time the function has."""
RESERVE_SECONDS = 0.5
"""Of the function's time, for the answer."""

_PATH = "/rollout"
_SAID_BYTES = 4096
"""Of an error's body."""
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
# What SQS takes as a message group and as a deduplication id.
_QUEUE_ID = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
_FINAL_QUEUE_ERRORS = {
    "InvalidMessageContents": VALIDATION,
    "InvalidParameterValue": VALIDATION,  # above all: the message is too long
    "AccessDenied": DENIED,
    "AccessDeniedException": DENIED,
    "InvalidClientTokenId": DENIED,
    "AWS.SimpleQueueService.NonExistentQueue": INTERNAL,
    "QueueDoesNotExist": INTERNAL,
}


class LambdaContext(Protocol):
    """What is used of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how many milliseconds the function has left."""


class _FinalError(Exception):
    """The rollout cannot be handed on, and trying again would not change that."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _LaterError(Exception):
    """The worker did not take the rollout now."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Forwarder:
    """Hands rollouts on to a worker. `handler` is one that is configured by the environment.

    The worker must know a repeated delivery, as ours do: after a lost answer the same rollout is sent again.

    Args:
        clock: Monotonic clock in seconds.
        sleep: Waits for some seconds.
        make_client: Makes the SQS client of a queue URL.
        backoff: Waits between attempts.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        make_client: Callable[[str], Any] | None = None,
        backoff: Backoff = Backoff(),
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._make_client = make_client or (lambda url: aws_client("sqs", queue_url=url, attempts=1))
        self._backoff = backoff
        self._clients: dict[str, Any] = {}  # kept while Lambda keeps the process

    def __call__(self, event: JSON, context: LambdaContext | None = None) -> dict[str, JSON]:
        """Check a payload and hand it on. Never raises: what goes wrong is the answer."""
        try:
            budget = DEFAULT_BUDGET_SECONDS
            if context is not None and hasattr(context, "get_remaining_time_in_millis"):  # by hand, anything may come
                budget = context.get_remaining_time_in_millis() / 1000
            deadline = self._clock() + budget - RESERVE_SECONDS
            request, payload = read_event(event)
            self._hand_on(request, _encoded(payload), deadline)
        except PayloadError as error:
            return _error(VALIDATION, str(error))
        except _FinalError as error:
            logger.error("error_type=<%s>, error=<%s> | the rollout is not handed on", error.kind, error)
            return _error(error.kind, str(error))
        except ConfigurationError as error:
            logger.error("error=<%s> | the forwarder is not set up", error)
            return _error(INTERNAL, str(error))
        except Exception as error:
            # The text of a foreign error may quote anything; its traceback is for the function's own log.
            logger.exception("the rollout is not handed on")
            return _error(INTERNAL, f"the forwarder failed with {type(error).__name__}; its log tells more")
        return {}

    def _hand_on(self, request: RolloutRequest, body: str, deadline: float) -> None:
        url, queue_url = environment(WORKER_URL_VARIABLE), environment(WORKER_QUEUE_VARIABLE)
        if (url is None) == (queue_url is None):
            raise ConfigurationError(f"set one of {WORKER_URL_VARIABLE} and {WORKER_QUEUE_VARIABLE}, and not both")
        attempt = 0
        while True:
            attempt += 1
            try:
                remaining = deadline - self._clock()
                if url is not None:
                    self._post(_worker_url(url), body, remaining)
                else:
                    self._enqueue(str(queue_url), request, body)
                return
            except _LaterError as error:
                delay = self._backoff.delay(attempt, error.retry_after)
                if self._clock() + delay >= deadline:
                    raise _FinalError(INTERNAL, f"not handed on after {attempt} attempts: {error}") from error
                logger.warning("attempt=<%d>, error=<%s> | handed on again in %.2f s", attempt, error, delay)
            self._sleep(delay)

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def _post(self, url: SplitResult, body: str, remaining: float) -> None:
        key = worker_key()
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        try:
            # A redirect would carry the key elsewhere, so it is not followed.
            status, said, retry_after = _send(url, body.encode(), headers, max(0.1, min(SOCKET_SECONDS, remaining)))
        except (OSError, http.client.HTTPException) as error:
            raise _LaterError(f"the worker does not answer ({type(error).__name__})") from error
        if status // 100 == 2:
            return
        text = f"the worker answered {status}: {said.replace(key, '<removed>') if key else said}"
        if status in _RETRIED:
            raise _LaterError(text, parse_retry_after(retry_after))
        if status in (401, 403):
            raise _FinalError(DENIED, text)
        raise _FinalError(VALIDATION if 400 <= status < 500 else INTERNAL, text)

    # --- SQS ---------------------------------------------------------------------------------------------------------

    def _enqueue(self, queue_url: str, request: RolloutRequest, body: str) -> None:
        import botocore.exceptions

        if queue_url not in self._clients:
            self._clients[queue_url] = self._make_client(queue_url)
        try:
            self._clients[queue_url].send_message(
                QueueUrl=queue_url, MessageBody=body, **fifo_fields(queue_url, request.trajectory_id)
            )
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _FINAL_QUEUE_ERRORS:
                raise _FinalError(_FINAL_QUEUE_ERRORS[code], f"the queue refuses the message: {code}") from error
            raise _LaterError(f"the queue answered {code}") from error
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
            raise _FinalError(DENIED, "the function has no AWS credentials") from error
        except botocore.exceptions.BotoCoreError as error:
            raise _LaterError(f"the queue does not answer ({type(error).__name__})") from error


def read_event(event: JSON) -> tuple[RolloutRequest, Mapping[str, JSON]]:
    """Check an event as the documented template does, in every spelling, and return it read and as it is to be sent.

    Raises:
        PayloadError: It is no rollout, or the prompt is empty, or a field is missing or malformed.
    """
    request = read_rollout(event)
    fields = cast(wire.Payload, wire.read_payload(event))  # whatever is no rollout was refused above
    if fields.inference_params is None:
        path = fields.paths["inference_params"]
        raise PayloadError(f"{path} is missing; it must be an object", field=path)
    return request, fields.source


def _encoded(payload: Mapping[str, JSON]) -> str:
    try:
        return json.dumps(payload, allow_nan=False)
    except (TypeError, ValueError) as error:  # NaN, which Python takes for JSON, or an event that was made by hand
        raise PayloadError(f"the event is not JSON: {error}", field="") from error


def fifo_fields(queue_url: str, identity: str) -> dict[str, str]:
    """Return what a message to a FIFO queue needs: group and deduplication id, both the rollout's. Else nothing."""
    if not queue_url.endswith(".fifo"):
        return {}
    if not _QUEUE_ID.fullmatch(identity):
        identity = hashlib.sha256(identity.encode()).hexdigest()
    return {"MessageGroupId": identity, "MessageDeduplicationId": identity}


def _worker_url(url: str) -> SplitResult:
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or not _has_port(parts)
    ):
        raise ConfigurationError(f"{WORKER_URL_VARIABLE} must be a URL such as https://host/rollout, without user")
    return parts if parts.path not in ("", "/") else parts._replace(path=_PATH)


def _has_port(url: SplitResult) -> bool:
    try:
        return url.port != 0
    except ValueError:
        return False


def _send(url: SplitResult, body: bytes, headers: dict[str, str], seconds: float) -> tuple[int, str, str | None]:
    """Return status, what an error says, and `Retry-After`.

    Each call makes a connection of its own: what Lambda has frozen between two calls may be dead.
    """
    secure = url.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    # With a port, or the end of an IPv6 address would be taken for one.
    connection = connect(str(url.hostname), url.port or (443 if secure else 80), timeout=min(CONNECT_SECONDS, seconds))
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.settimeout(seconds)
        connection.request("POST", f"{url.path}?{url.query}" if url.query else url.path, body, headers)
        answer = connection.getresponse()
        # Of a worker that has taken the rollout nothing more is awaited.
        said = "" if answer.status // 100 == 2 else _said(answer.read1(_SAID_BYTES))
        return answer.status, said, answer.headers.get("Retry-After")


def _said(body: bytes) -> str:
    """Return what a worker says of its error, made safe to hand on."""
    try:
        said = json.loads(body)["errorMessage"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return wire.error_message(body)
    return wire.error_message(json.dumps({"message": str(said)}).encode())


def _error(kind: str, message: str) -> dict[str, JSON]:
    return {"errorType": kind, "errorMessage": message[: wire.MESSAGE_MAX_LENGTH]}


handler = Forwarder()
"""Entry point of the function: `aws_rft_sdk.workers.lambda_forwarder.handler`."""
