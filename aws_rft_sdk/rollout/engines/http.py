"""In a worker that is running: payloads go over HTTP, exactly as the service's forwarder sends them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from aws_rft_sdk._backoff import parse_retry_after
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.rollout.access import Observe
from aws_rft_sdk.rollout.engines.base import DEADLINE_SECONDS
from aws_rft_sdk.rollout.engines.remote import Answer, RemoteEngine, read_answer
from aws_rft_sdk.runs.records import describe_error

ROLLOUT_PATH = "/rollout"
"""Of the documented custom agent: answers at once and runs in the background."""
INVOCATIONS_PATH = "/invocations"
"""Of an AgentCore container: may answer when the rollout is over."""
SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"

_CONNECT_SECONDS = 10.0
_BUSY = (429, 503)
_PAUSE_SECONDS = 1.0
"""After a refusal that does not say for how long."""
_LONGEST_PAUSE_SECONDS = 60.0
"""Whatever a worker asks for: all rollouts wait for it."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.LocalProtocolError)
_SHOWN = 300


class HttpEngine(RemoteEngine):
    """Sends payloads to a worker and waits until the runtime has the reward.

    A worker that answers 429 or 503 is called again, by all rollouts, only after the time that it asks for. Calls that
    fail in another way are not repeated: the worker may have begun.

    Args:
        url: The worker: `http://host:port` for its `/rollout`, or a URL that ends in `/rollout` or `/invocations`.
        observe: Looks at a rollout in the runtime.
        deadline_seconds: For each rollout, waiting for a busy worker included; None for no deadline.
        headers: Sent with each call, for example a key of the worker.

    Raises:
        ConfigurationError: `url` is no HTTP URL; the runtime cannot be asked, and a worker's `/rollout` tells nothing.
    """

    def __init__(
        self,
        url: str,
        observe: Observe | None,
        *,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(observe, deadline_seconds=deadline_seconds)
        self._url = _full_url(url)
        if observe is None and not self._url.endswith(INVOCATIONS_PATH):
            raise ConfigurationError(
                f"{self._url} answers before a rollout is over, and the runtime does not tell how it ended; use a "
                f"local runtime (aws-rft runtime), or a worker's {INVOCATIONS_PATH}"
            )
        self._headers = dict(headers or {})
        self._client: httpx.AsyncClient | None = None
        self._not_before = 0.0

    async def __aenter__(self) -> HttpEngine:
        """Open the connections."""
        # No time limit on answers: the deadline of the rollout is one.
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        # Idle ones are closed before workers do that, often after 5 s: a call that crosses it would be lost.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=128, keepalive_expiry=2.0)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def deliver(self, payload: Mapping[str, Any], trajectory_id: str) -> Answer:
        """Call the worker. See `RemoteEngine.deliver`."""
        if self._client is None:
            raise RuntimeError("this engine was not entered; use it in an async with statement")
        headers = {"Content-Type": "application/json"}
        if self._url.endswith(INVOCATIONS_PATH):
            headers[SESSION_HEADER] = trajectory_id
        body = json.dumps(payload)  # in ASCII, as httpx does not: a prompt may hold half of a surrogate pair
        while True:
            while time.monotonic() < self._not_before:  # noqa: ASYNC110 - a time is waited for, which others may move
                await asyncio.sleep(self._not_before - time.monotonic())
            try:
                answer = await self._client.post(self._url, content=body, headers=headers)
            except httpx.HTTPError as error:
                # What cannot be sent is quoted by the library, and may be the key.
                text = "" if isinstance(error, httpx.LocalProtocolError) else str(error)
                unreachable = AgentUnreachableError(f"{self._url} does not answer ({text or type(error).__name__})")
                if isinstance(error, _NOT_SENT):
                    raise unreachable from (error if text else None)
                return Answer(error=describe_error(unreachable), lost=True)
            if answer.status_code not in _BUSY:
                return _read(answer)
            asked = parse_retry_after(answer.headers.get("Retry-After"))
            until = time.monotonic() + (_PAUSE_SECONDS if asked is None else min(asked, _LONGEST_PAUSE_SECONDS))
            self._not_before = max(self._not_before, until)


def _full_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not the URL of a worker, such as http://127.0.0.1:8080")
    url = url.rstrip("/")
    return url if parts.path.rstrip("/") else url + ROLLOUT_PATH


def _read(answer: httpx.Response) -> Answer:
    try:
        value: JSON = json.loads(answer.content)
    except (ValueError, RecursionError):
        value = None
    if answer.is_success:
        return read_answer(value)
    told = {"message": answer.text[:_SHOWN]} if value is None else value
    return read_answer(told, f"the worker answered {answer.status_code}")
