"""A worker over HTTP: the custom agent's `/rollout`, and AgentCore's `/invocations` and `/ping`.

    POST /rollout       202 at once, the rollout runs in the background
    GET  /rollout/<id>  what became of the rollout with this trajectory id
    POST /invocations   AgentCore: a rollout, answered when it is over ("sync") or at once ("async"); or production
                        traffic, answered with what the handler returns, generators as server-sent events
    GET  /ping          AgentCore: "Healthy" or "HealthyBusy"; 503 when this process should be replaced
    GET  /health        figures; 503 while draining or stuck, so that no more payloads come
    GET  /metrics       Prometheus

Errors are answered as `{"errorType": ..., "errorMessage": ...}`, with `field` where one is at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import math
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aws_rft_sdk._checks import check_number, check_seconds
from aws_rft_sdk._decision import Decision
from aws_rft_sdk.errors import (
    AtCapacityError,
    ConfigurationError,
    HandlerError,
    PayloadError,
    RolloutTimeoutError,
    ShuttingDownError,
)
from aws_rft_sdk.failures import failure_kind
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Ended, Handler
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS
from aws_rft_sdk.lifecycle.telling import WORKER_HEADER, tell
from aws_rft_sdk.settings import check_key
from aws_rft_sdk.types import RolloutRequest
from aws_rft_sdk.workers._bodies import READ_SECONDS, Refused, read_json, to_json
from aws_rft_sdk.workers._calls import Items, call
from aws_rft_sdk.workers._memory import Remembered
from aws_rft_sdk.workers.metrics import CONTENT_TYPE, WorkerMetrics
from aws_rft_sdk.workers.outcomes import is_settled
from aws_rft_sdk.workers.pool import MAX_ROLLOUTS, RolloutPool, Submitted

logger = logging.getLogger(__name__)

T = TypeVar("T")

Invocations = Literal["sync", "async"]

MAX_PAYLOAD_BYTES = 10 * 1024 * 1024
_BAD, _DENIED, _UNKNOWN, _BUSY, _CLOSING, _FAULT = (
    "ValidationError",
    "AccessDenied",
    "NotFound",
    "Throttled",
    "Unavailable",
    "InternalServerError",
)
_RETRY_ELSEWHERE_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
"""For which an answer about a running rollout is held, whatever its caller asks for."""


def create_app(
    handler: Handler,
    *,
    max_rollouts: int = MAX_ROLLOUTS,
    deadline_seconds: float = DEADLINE_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
    api_key: str | None = None,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    read_seconds: float = READ_SECONDS,
    invocations: Invocations = "sync",
) -> Starlette:
    """Make the application of a worker, for `workers.serving.serve` or any ASGI server.

    The pool that runs the rollouts is `app.state.pool`; it is started and ended by the application's lifespan.

    Args:
        handler: A function of any kind, decorated with `rft_handler`.
        max_rollouts: How many may be in progress at once, production calls included; beyond it 429.
        deadline_seconds: For one rollout; past it, it is reported as an error. Stay below the job's rollout timeout.
        grace_seconds: For rollouts in progress when the server ends, if they have not been drained before.
        api_key: What callers must present as `Authorization: Bearer <key>` to start rollouts and to ask about them;
            None for no check.
        max_payload_bytes: Larger bodies get 413.
        read_seconds: For a body to arrive; slower ones get 408.
        invocations: Whether `/invocations` answers a rollout when it is over, or at once.

    Raises:
        ConfigurationError: An argument has a value that it cannot have.
    """
    if invocations not in ("sync", "async"):
        raise ConfigurationError(f"invocations is {invocations!r}; it must be 'sync' or 'async'")
    check_seconds("grace_seconds", grace_seconds)
    check_seconds("read_seconds", read_seconds)
    check_number("max_payload_bytes", max_payload_bytes, low=1, whole=True)
    if api_key is not None:
        check_key(api_key, "api_key")
    pool = RolloutPool(handler, max_rollouts=max_rollouts, deadline_seconds=deadline_seconds)
    worker = _Worker(pool, api_key, partial(read_json, max_bytes=max_payload_bytes, read_seconds=read_seconds))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(pool.start)
        try:
            yield
        finally:
            await asyncio.to_thread(pool.drain, grace_seconds)
            await asyncio.to_thread(pool.close)

    invoked = worker.invoke_and_wait if invocations == "sync" else worker.invoke_and_leave
    app = Starlette(
        routes=[
            worker.route("/rollout", worker.rollout, "POST"),
            worker.route("/rollout/{trajectory_id:path}", worker.tell, guarded=True),
            worker.route("/invocations", invoked, "POST"),
            worker.route("/ping", worker.ping),
            worker.route("/health", worker.health),
            worker.route("/metrics", worker.show_metrics),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _refuse_route},
    )
    app.state.pool = pool
    return app


class _Worker:
    """What the routes share."""

    def __init__(self, pool: RolloutPool, api_key: str | None, read: Callable[[Request], Awaitable[Any]]) -> None:
        self._pool = pool
        self._key = None if api_key is None else api_key.encode()
        self._read = read
        self._metrics = WorkerMetrics(pool)
        self._state: tuple[bool, int] = (False, 0)
        self._updated_at = time.time()
        self._id = uuid.uuid4().hex

    def route(
        self,
        path: str,
        answer: Callable[[Request], Awaitable[Response]],
        method: str = "GET",
        *,
        guarded: bool = False,
    ) -> Route:
        """Return a route whose answers are counted, and whose errors are told in one form."""
        guarded = guarded or method == "POST"

        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            try:
                if guarded:
                    self._check_key(request)
                response = await answer(request)
            except Refused as refused:
                response = _refusal(refused)
            except Exception:
                logger.exception("path=<%s> | the request failed in the worker itself", path)
                response = _refusal(Refused(500, _FAULT, "the worker failed; its log says why"))
            self._metrics.requests.labels(path, str(response.status_code)).inc()
            self._metrics.answers.labels(path).observe(time.perf_counter() - began)
            response.headers[WORKER_HEADER] = (
                f"{self._id}-{os.getpid()}"  # a server may fork after the application is made
            )
            return response

        return Route(path, endpoint, methods=[method])

    # --- rollouts ---

    async def rollout(self, request: Request) -> Response:
        return self._accepted(self._submit(await self._read(request)), 202)

    async def invoke_and_leave(self, request: Request) -> Response:
        payload = await self._read(request)
        if not _is_rollout(payload):
            return await self._produce(payload)
        return self._accepted(self._submit(payload), 200)

    async def invoke_and_wait(self, request: Request) -> Response:
        payload = await self._read(request)
        if not _is_rollout(payload):
            return await self._produce(payload)
        submitted = self._submit(payload)
        return _outcome(submitted.trajectory_id, await asyncio.wrap_future(submitted.ended))

    async def tell(self, request: Request) -> Response:
        trajectory_id, job_arn = request.path_params["trajectory_id"], request.query_params.get("jobArn")
        wait_seconds = _wait_seconds(request.query_params.get("wait", "0"))
        found = self._pool.find(trajectory_id, job_arn)
        if not found:
            raise Refused(404, _UNKNOWN, f"this process knows no rollout {trajectory_id}")
        if len(found) > 1:
            text = f"{len(found)} jobs have a rollout {trajectory_id}; say which one is meant: ?jobArn=<ARN of the job>"
            raise Refused(400, _BAD, text, field="jobArn")
        known: Future[Ended] | Remembered | None = found[0]
        if isinstance(known, Future):
            await asyncio.wait([asyncio.wrap_future(known)], timeout=wait_seconds)
            known = Remembered.of(known.result()) if known.done() else None
        told = tell(trajectory_id, None if known is None else known.outcome)
        return Response(to_json(told), media_type="application/json")

    def _submit(self, payload: Any) -> Submitted:
        submitted = _translated(lambda: self._pool.submit(payload))
        if not submitted.repeated:
            submitted.ended.add_done_callback(lambda future: self._metrics.rollouts.observe(future.result().seconds))
        return submitted

    @staticmethod
    def _accepted(submitted: Submitted, status: int) -> Response:
        body = {"status": "accepted", "trajectoryId": submitted.trajectory_id, "repeated": submitted.repeated}
        return JSONResponse(body, status)

    async def _produce(self, payload: Any) -> Response:
        try:
            reply = await call(self._pool, payload)
        except (AtCapacityError, ShuttingDownError) as error:
            raise _unavailable(error) from error
        except RolloutTimeoutError as error:
            raise Refused(504, _FAULT, str(error)) from error
        except HandlerError as error:
            logger.exception("the handler failed in production traffic")
            raise Refused(500, _FAULT, str(error)) from error
        if isinstance(reply, Items):
            return StreamingResponse(_events(reply.values), media_type="text/event-stream")
        return Response(to_json(reply.value), media_type="application/json")

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        # In constant time: how long it takes must not tell how much of a guess is right.
        is_right = hmac.compare_digest(presented.strip().encode("utf-8", "replace"), self._key)
        if scheme.lower() != "bearer" or not is_right:
            raise Refused(401, _DENIED, "present the worker's key as `Authorization: Bearer <key>`")

    # --- how it is doing ---

    async def ping(self, request: Request) -> Response:
        figures = self._pool.figures()
        busy = figures.running > 0
        # While rollouts run, each ping is an update: a platform that sees none for a while takes the session for idle.
        if busy or (busy, figures.started) != self._state:
            self._updated_at = time.time()
        self._state = (busy, figures.started)
        if self._pool.is_stuck:
            return JSONResponse({"status": "Unhealthy", "time_of_last_update": int(self._updated_at)}, 503)
        status = "HealthyBusy" if busy else "Healthy"
        return JSONResponse({"status": status, "time_of_last_update": int(self._updated_at)})

    async def health(self, request: Request) -> Response:
        figures, stuck = self._pool.figures(), self._pool.is_stuck
        status = "stuck" if stuck else "draining" if figures.draining else "ok"
        body = {"status": status, "maxRollouts": self._pool.max_rollouts, **figures._asdict()}
        return JSONResponse(body, 503 if stuck or figures.draining else 200)

    async def show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _is_rollout(payload: Any) -> bool:
    return _translated(lambda: RolloutRequest.parse(payload)) is not None


def _translated(fn: Callable[[], T]) -> T:
    try:
        return fn()
    except PayloadError as error:
        raise Refused(400, _BAD, str(error), field=error.field) from error
    except (AtCapacityError, ShuttingDownError) as error:
        raise _unavailable(error) from error


def _unavailable(error: AtCapacityError | ShuttingDownError) -> Refused:
    if isinstance(error, AtCapacityError):
        return Refused(429, _BUSY, str(error), retry_after_seconds=error.retry_after_seconds)
    return Refused(503, _CLOSING, str(error), retry_after_seconds=_RETRY_ELSEWHERE_SECONDS)


def _outcome(trajectory_id: str, ended: Ended) -> Response:
    """Answer a rollout that is over.

    One that failed and was reported is done: an error status would make a platform deliver it again, and the service
    counts a failed invocation against the job although the reward is there.
    """
    if ended.error is None:
        if not is_settled(ended):
            # A 200 would say that it is done, and nobody would deliver again what has no reward.
            raise Refused(500, _FAULT, "the handler ended and no reward went out: decorate it with rft_handler")
        return Response(to_json(ended.result), media_type="application/json")
    error = {
        "errorType": type(ended.error).__name__,
        "errorMessage": str(ended.error),
        "failure": failure_kind(ended.error).value,
        "trajectoryId": trajectory_id,
    }
    if isinstance(ended.error, ShuttingDownError):
        return _refusal(_unavailable(ended.error))
    if not is_settled(ended):
        return JSONResponse(error, 500)
    decision = ended.context.decision if ended.context is not None else Decision()
    rewards = None if decision.is_refused else decision.rewards
    return JSONResponse({"rewards": rewards, **error})


def _wait_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise Refused(400, _BAD, f"wait is {text!r}; give seconds from 0, such as ?wait=20", field="wait")
    return min(seconds, _LONGEST_WAIT_SECONDS)


async def _events(values: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    try:
        async for value in values:
            yield b"data: " + to_json(value) + b"\n\n"
    except HandlerError as error:
        logger.exception("the handler failed while it streamed")
        cause = error.__cause__
        told = {
            "error": str(cause),
            "error_type": type(cause).__name__,
            "message": "An error occurred during streaming",
        }
        yield b"data: " + to_json(told) + b"\n\n"


def _refusal(refused: Refused) -> Response:
    headers = {}
    if refused.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(refused.retry_after_seconds))
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    return JSONResponse(refused.body(), refused.status, headers)


def _refuse_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = {404: "there is no such path", 405: "the path does not take this method"}.get(status, "refused")
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return JSONResponse(Refused(status, _BAD, text).body(), status, headers)
