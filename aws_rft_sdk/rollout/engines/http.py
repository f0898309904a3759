"""In a worker that is running: payloads go over HTTP, exactly as the service's forwarder sends them."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from aws_rft_sdk._backoff import parse_retry_after
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.failures import describe_error
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.lifecycle.telling import WORKER_HEADER, read_told
from aws_rft_sdk.rollout.access import Observe
from aws_rft_sdk.rollout.engines._gate import Gate
from aws_rft_sdk.rollout.engines.base import PATIENCE_SECONDS
from aws_rft_sdk.rollout.engines.remote import Answer, RemoteEngine, Standing, read_answer
from aws_rft_sdk.types import RolloutRequest

ROLLOUT_PATH = "/rollout"
"""Of the documented custom agent: answers at once and runs in the background."""
INVOCATIONS_PATH = "/invocations"
"""Of an AgentCore container: may answer when the rollout is over."""
SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"

_CONNECT_SECONDS = 10.0
_ACCEPT_SECONDS = 60.0
"""For the whole answer of `/rollout`, which a worker gives at once."""
_PULSE_SECONDS = 10.0
"""Between two looks at whether a worker that tells nothing about rollouts can still be reached."""
_BUSY = (429, 503)
_NO_WORD = (429, 500, 502, 503, 504)
"""Answers that do not tell whether a worker knows `GET /rollout/<id>`."""
_PAUSE_SECONDS = 1.0
"""After a refusal that does not say for how long."""
_LONGEST_PAUSE_SECONDS = 60.0
"""Whatever a worker asks for: all rollouts wait for it."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
_BROKEN = (httpx.HTTPError, asyncio.TimeoutError)
_SHOWN = 300


class HttpEngine(RemoteEngine):
    """Sends payloads to a worker and waits until the worker or the runtime tells how the rollout ended.

    Before the deadline of a rollout, a call that certainly was not sent is made again, and so is a call that was
    answered with 429 or 503. All rollouts wait together: for as long as a busy worker asks for, and at most 2 s after a
    call that was not answered. Any other failed call is not made again, since the worker may have begun.

    A worker of this package is asked at `GET /rollout/<id>` what became of a rollout. If its process has ended and the
    runtime shows no new turn for 5 s, the rollout is lost. Of any other worker, only the runtime tells.

    Args:
        url: The worker: `http://host:port` for its `/rollout`, or a URL that ends in `/rollout` or `/invocations`.
        observe: Looks at a rollout in the runtime; None if the runtime cannot be asked.
        deadline_seconds: For each rollout, waiting for a busy or unreachable worker included; None for no deadline.
        headers: Sent with each call, for example a key of the worker.
        unreachable_seconds: For how long the worker may answer no call. After that `run` raises `UnavailableError`.

    Raises:
        ConfigurationError: `url` is no HTTP URL. On entry: the runtime cannot be asked, and neither can the worker's
            `/rollout`.
    """

    hold_seconds = 20.0
    """For which a worker of this package is asked to hold its answer about a rollout that is running."""
    tell_seconds = 10.0
    """For that answer to arrive beyond the time for which it is held."""

    def __init__(
        self,
        url: str,
        observe: Observe | None,
        *,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        headers: Mapping[str, str] | None = None,
        unreachable_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(observe, deadline_seconds=deadline_seconds)
        self._url = _full_url(url)
        self._is_invoked = self._url.endswith(INVOCATIONS_PATH)
        self._rollouts = self._url.removesuffix(INVOCATIONS_PATH) + ROLLOUT_PATH if self._is_invoked else self._url
        self._headers = dict(headers or {})
        self._client: httpx.AsyncClient | None = None
        self._gate = Gate(self._url, unreachable_seconds=unreachable_seconds)
        self._accept_seconds = min(_ACCEPT_SECONDS, unreachable_seconds)
        self._tells: bool | None = None  # about rollouts; None until it was asked
        self._given_to: dict[str, str] = {}  # the process of the worker that has accepted a rollout, by trajectory id
        self._heard_at: dict[str, float] = {}  # when a process of the worker answered last
        self._asked_at = -math.inf

    async def __aenter__(self) -> HttpEngine:
        """Open the connections."""
        # The time limits on answers are ours.
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        # Idle ones are closed before workers do that, often after 5 s: a call that crosses it would be lost.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=128, keepalive_expiry=2.0)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, headers=self._headers)
        if self._observe is None and not self._is_invoked:
            await self.ask({}, "of-no-rollout", time.monotonic() + _CONNECT_SECONDS)
            if self._tells is False:
                await self._client.aclose()
                raise ConfigurationError(
                    f"{self._url} answers before a rollout is over, and neither worker nor runtime tells how it "
                    f"ended; use a local runtime (aws-rft runtime), or a worker's {INVOCATIONS_PATH}"
                )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run a rollout in the worker. See `RemoteEngine.run`."""
        try:
            return await super().run(payload, trajectory_id)
        finally:
            self._given_to.pop(trajectory_id, None)

    async def deliver(self, payload: Mapping[str, Any], trajectory_id: str, end: float) -> Answer:
        """Call the worker. See `RemoteEngine.deliver`."""
        headers = {"Content-Type": "application/json"}
        if self._is_invoked:
            headers[SESSION_HEADER] = trajectory_id
        body = json.dumps(payload)  # in ASCII, as httpx does not: a prompt may hold half of a surrogate pair
        while True:
            began = await self._gate.wait(end, for_start=True)
            limit = end - began if self._is_invoked else min(self._accept_seconds, end - began)
            sent: list[str] = []
            trace = {"trace": functools.partial(_note_sent, sent)}
            call = asyncio.ensure_future(
                self._call("POST", self._url, limit, content=body, headers=headers, extensions=trace)
            )
            try:
                await self._wait_for(call, payload, trajectory_id, end)
                answer = await call
            except httpx.LocalProtocolError as error:  # it quotes what cannot be sent, which may be the key
                raise AgentUnreachableError(f"{self._url} does not answer ({type(error).__name__})") from None
            except _BROKEN as error:
                if not sent:
                    self._gate.failed(began, _text(error))
                    continue
                if time.monotonic() >= end:
                    raise asyncio.TimeoutError from error
                self._failed(error, began)
                unreachable = AgentUnreachableError(f"{self._url} does not answer ({_text(error)})")
                return Answer(error=describe_error(unreachable), lost=True)
            finally:
                call.cancel()
            if answer.status_code not in _BUSY:
                self._given_to[trajectory_id] = answer.headers.get(WORKER_HEADER, "")
                return _read(answer)
            asked = parse_retry_after(answer.headers.get("Retry-After"))
            self._gate.busy(_PAUSE_SECONDS if asked is None else min(asked, _LONGEST_PAUSE_SECONDS))

    async def _wait_for(
        self, call: asyncio.Future[httpx.Response], payload: Mapping[str, Any], trajectory_id: str, end: float
    ) -> None:
        """Wait for the end of a call, or until the worker tells about the rollout in another way.

        The connection of a call that takes minutes may be dead without a sign.

        Raises:
            TimeoutError: Nobody need wait for this call.
        """
        while self._is_invoked and not (await asyncio.wait([call], timeout=self._accept_seconds))[0]:
            if not self._tells:
                await self.ask(payload, trajectory_id, end)
            if self._tells:
                raise asyncio.TimeoutError

    async def ask(self, payload: Mapping[str, Any], trajectory_id: str, end: float) -> RolloutOutcome | Standing:
        """Ask the worker about a rollout. See `RemoteEngine.ask`."""
        if self._tells is False and time.monotonic() - self._asked_at < _PULSE_SECONDS:
            return Standing.NOT_TOLD
        began = time.monotonic()
        try:
            began = self._asked_at = await self._gate.wait(end, for_start=False)
            wait = max(0.0, min(self.hold_seconds, end - began)) if self._tells else 0.0
            query = {"wait": f"{wait:.3f}", **_job_of(payload)}
            # On a new connection, so that a balancer may choose another process.
            headers = {"Connection": "close"} if self._tells else {}
            url = f"{self._rollouts}/{quote(trajectory_id, safe='')}"
            limit = wait + min(self.tell_seconds, max(1.0, end - began))
            answer = await self._call("GET", url, limit, params=query, headers=headers)
        except AgentUnreachableError:
            return Standing.NO_ANSWER
        except _BROKEN as error:
            self._failed(error, began, is_asked=True)
            return Standing.NOT_TOLD if self._tells is False else Standing.NO_ANSWER
        return self._read_told(answer, trajectory_id)

    def _read_told(self, answer: httpx.Response, trajectory_id: str) -> RolloutOutcome | Standing:
        process = answer.headers.get(WORKER_HEADER)
        if answer.status_code == 200:
            try:
                told = read_told(_json(answer), trajectory_id)
            except ValueError:
                pass
            else:
                self._tells = True
                return Standing.RUNNING if told is None else told
        elif answer.status_code == 404 and (process is not None or self._tells):
            self._tells = True
            given_to = self._given_to.get(trajectory_id)
            is_alive = time.monotonic() - self._heard_at.get(given_to or "", -math.inf) < self.after_error_seconds
            return Standing.NO_ANSWER if is_alive and process != given_to else Standing.UNKNOWN
        if self._tells:
            return Standing.NO_ANSWER
        if answer.status_code not in _NO_WORD:
            self._tells = False
        return Standing.NO_ANSWER if self._tells is None and self._observe is None else Standing.NOT_TOLD

    def _failed(self, error: Exception, began: float, *, is_asked: bool = False) -> None:
        """Note a call without an answer, unless the worker may just take long to give one."""
        if not isinstance(error, asyncio.TimeoutError):
            # A call that waits for the end of a rollout is in order until its connection breaks.
            self._gate.failed(began if isinstance(error, _NOT_SENT) else time.monotonic(), _text(error))
            return
        takes_long = self._is_invoked and not is_asked
        # A worker that is not of this package may serve one call at a time.
        may_block = not self._tells and (self._is_invoked or self._tells is False)
        if not takes_long and not may_block:
            self._gate.failed(began, "no answer in time")

    async def _call(self, method: str, url: str, limit: float, **options: Any) -> httpx.Response:
        """Make a call whose answer must be complete after `limit` seconds."""
        if self._client is None:
            raise RuntimeError("this engine was not entered; use it in an async with statement")
        call = self._client.request(method, url, **options)
        answer = await asyncio.wait_for(call, None if limit == math.inf else limit)
        self._gate.answered()
        if process := answer.headers.get(WORKER_HEADER):
            self._heard_at[process] = time.monotonic()
        return answer


def _full_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not the URL of a worker, such as http://127.0.0.1:8080")
    url = url.rstrip("/")
    return url if parts.path.rstrip("/") else url + ROLLOUT_PATH


def _job_of(payload: Mapping[str, Any]) -> dict[str, str]:
    request = RolloutRequest.parse(payload)
    return {} if request is None else {"jobArn": request.job_arn}


async def _note_sent(sent: list[str], event: str, info: Mapping[str, Any]) -> None:
    """Note that a request has begun to go out: a hook of httpx."""
    if event.endswith("send_request_headers.started"):
        sent.append(event)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _json(answer: httpx.Response) -> JSON:
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None


def _read(answer: httpx.Response) -> Answer:
    value = _json(answer)
    if answer.is_success:
        return read_answer(value)
    return read_answer({"message": answer.text[:_SHOWN]} if value is None else value, answer.status_code)
