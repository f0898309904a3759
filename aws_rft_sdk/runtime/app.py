"""The routes of the local runtime, of both generations, as an ASGI application."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aws_rft_sdk.runtime import answers
from aws_rft_sdk.runtime import state as machine
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.auth import Verifier, key_refusal
from aws_rft_sdk.runtime.decode import Headers, read_completion, read_reward
from aws_rft_sdk.runtime.faults import ConnectionGoneError, Faults, strike
from aws_rft_sdk.runtime.inference import RESPONSES_PATH, AnsweredError, Inference
from aws_rft_sdk.runtime.trajectories import Trajectories
from aws_rft_sdk.wire import (
    CHAT_COMPLETIONS_PATH,
    COMPLETE_PATHS,
    ERROR_TYPE_HEADER,
    REWARD_PATHS,
    SAMPLE_PATH,
    SAMPLE_STREAM_PATH,
    Api,
)

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 100_000_000
"""Largest body that is accepted: that of AgentCore, the service that sends rollouts to agents."""
INFERENCE_PATHS = (SAMPLE_PATH, SAMPLE_STREAM_PATH, CHAT_COMPLETIONS_PATH, RESPONSES_PATH)
PING_PATH = "/ping"

Handler = Callable[[str, Headers, bytes, Send], Awaitable[None]]


class _Endpoint:
    """Reads a whole call, has it verified and handled, and answers every failure."""

    def __init__(
        self, verifier: Verifier, route: str, handler: Handler, faults: Faults | None, die: Callable[[], None]
    ) -> None:
        self._verifier = verifier
        self._route = route
        self._handler = handler
        self._faults = faults
        self._die = die

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        try:
            body = await read_body(headers, receive)
            if body is None:
                return  # the caller has hung up
            raw_path = scope.get("raw_path") or scope["path"].encode()
            self._verifier.verify(scope["method"], raw_path, scope["query_string"], headers, body)
            fault = None if self._faults is None else self._faults.draw(self._route, headers, body)
            if fault is None:
                await self._handler(scope["path"], headers, body, send)
            else:
                handle = functools.partial(self._handler, scope["path"], headers, body)
                await strike(fault, handle, send, self._die)
        except Refusal as refusal:
            await answers.send_refusal(send, refusal)
        except (AnsweredError, ConnectionGoneError):
            pass
        except asyncio.CancelledError:
            # The server stops, and its grace period is over.
            logger.warning("path=<%s> | the call was still in progress when the runtime stopped", scope["path"])
            await _say_if_possible(send, Refusal(500, "The runtime was stopped before the call was answered"))
        except Exception as error:
            logger.exception("path=<%s> | the local runtime failed", scope["path"])
            await answers.send_refusal(send, Refusal(500, f"The local runtime failed: {type(error).__name__}: {error}"))


async def _say_if_possible(send: Send, refusal: Refusal) -> None:
    try:
        await answers.send_refusal(send, refusal)
    except RuntimeError:
        pass  # an answer had begun


async def read_body(headers: Headers, receive: Receive) -> bytes | None:
    """Return the body of a call, or None if the caller has hung up.

    Raises:
        Refusal: 400 if the body is larger than `MAX_BODY_BYTES`.
    """
    announced = next((value for name, value in headers if name == b"content-length"), b"0")
    size = int(announced) if announced.isdigit() else 0
    pieces: list[bytes] = []
    while size <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces) if len(pieces) > 1 else pieces[0]
        size = sum(map(len, pieces))
    raise Refusal(400, f"The body is larger than {MAX_BODY_BYTES} bytes")


class Feedback:
    """Serves the calls that seal and reward trajectories.

    Args:
        trajectories: The trajectories.
        strict: See `LocalRuntime`.
        client_tokens: Whether a repeated call is recognised by its client token.
    """

    def __init__(self, trajectories: Trajectories, *, strict: bool, client_tokens: bool) -> None:
        self._trajectories = trajectories
        self._strict = strict
        self._client_tokens = client_tokens

    async def complete(self, path: str, headers: Headers, body: bytes, send: Send) -> None:
        """Answer `/CompleteTrajectory` or `/complete-rollout`.

        Raises:
            Refusal: The call failed. The caller of this method answers it with the error.
        """
        alpha = path == COMPLETE_PATHS[Api.ALPHA]
        call = read_completion(headers, body, alpha=alpha, strict=self._strict)
        entry = self._trajectories.find(call.trajectory_id, call.job_arn, strict=self._strict)
        token = call.token if self._client_tokens else None
        state = machine.complete(entry.state, call.trajectory_id, call.outcome, token)
        await self._trajectories.change(entry, state)
        await answers.send_body(send, b"{}")

    async def reward(self, path: str, headers: Headers, body: bytes, send: Send) -> None:
        """Answer `/UpdateReward` or `/update-reward`.

        Raises:
            Refusal: The call failed. The caller of this method answers it with the error.
        """
        call = read_reward(headers, body, strict=self._strict)
        entry = self._trajectories.find(call.trajectory_id, call.job_arn, strict=self._strict)
        token = call.token if self._client_tokens else None
        state = machine.reward(entry.state, call.trajectory_id, call.rewards, token, strict=self._strict)
        await self._trajectories.change(entry, state)
        await answers.send_body(send, b"{}")


def make_app(
    feedback: Feedback,
    inference: Inference,
    verifier: Verifier,
    local_routes: Sequence[Route],
    faults: Faults | None,
    die: Callable[[], None],
    key: str | None,
    pages: ASGIApp,
) -> ASGIApp:
    """Return the application: the contract's calls, and the routes that only a local runtime has.

    If there is a key, every call must present it. Only `/ping`, the health check, is open, and `pages` ask themselves.
    """
    endpoints = [
        ("inference", INFERENCE_PATHS, inference.serve),
        ("complete", COMPLETE_PATHS.values(), feedback.complete),
        ("reward", REWARD_PATHS.values(), feedback.reward),
    ]
    calls = {
        path: _Endpoint(verifier, name, handler, faults, die) for name, paths, handler in endpoints for path in paths
    }
    other = Starlette(
        routes=[*local_routes, Route(PING_PATH, _ping, methods=["GET"])],
        exception_handlers={HTTPException: functools.partial(_no_route, tuple(calls))},
    )
    other.router.redirect_slashes = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and is_page(scope["path"]):
            await pages(scope, receive, send)
            return
        if key is not None and scope["type"] == "http" and scope["path"] != PING_PATH:
            refusal = key_refusal(key, scope["headers"])
            if refusal is not None:
                await answers.send_refusal(send, refusal)
                return
        # Calls of the contract skip the framework. Its layers would cost as much as all the rest.
        call = calls.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (call or other)(scope, receive, send)

    return app


def is_page(path: str) -> bool:
    """Return whether a path is one of the pages for people."""
    return path == "/" or path == "/view" or path.startswith("/view/")


async def _ping(request: Request) -> Response:
    return Response(json.dumps({"status": "Healthy"}), media_type="application/json")


async def _no_route(paths: tuple[str, ...], request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if request.url.path in paths:
        status = 405
    # Not ResourceNotFoundException: that is the type of an unknown trajectory, and this is a wrong URL.
    code = "UnknownOperationException"
    text = f"There is no {request.method} {request.url.path}; the runtime serves POST {', '.join(paths)}"
    headers = {ERROR_TYPE_HEADER: code}
    return Response(answers.error_body(text, code), status, headers, media_type="application/json")
