"""The agent of a job: a handler in this process, an HTTP server, or a Lambda forwarder."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import LAMBDA_CALL_SECONDS
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.answers import Refusal, encode
from aws_rft_sdk.runtime.bedrock.functions import Functions, LambdaHandler
from aws_rft_sdk.runtime.policies import Workers

Handler = Callable[[dict[str, Any]], Any]
"""A decorated handler. It gets the payload, and may be a coroutine function."""
Forwarder = LambdaHandler

INVOCATIONS_PATH = "/invocations"
SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
_THREADS = 256
_FORWARDER = "forwarder"
_SHOWN = 200
_THROTTLED_ATTEMPTS = 3  # as AWS's clients make them
_BACKOFF = Backoff()


class AgentError(Exception):
    """The call of the agent failed. The text says how."""


class Agent(Protocol):
    """What a job calls to run a rollout.

    Concurrency: call it in the server's event loop.
    """

    async def call(self, payload: Mapping[str, JSON]) -> None:
        """Call the agent with a payload, and wait for its answer.

        Raises:
            AgentError: The call failed.
        """

    async def aclose(self) -> None:
        """Release threads and connections."""


def make_agent(
    handler: Handler | None = None, agent_url: str | None = None, forwarder: Forwarder | None = None
) -> Agent:
    """Return the agent of a job.

    Args:
        handler: A decorated handler, called in this process.
        agent_url: URL of an agent over HTTP. A URL without a path means `/invocations`, as AgentCore calls it.
        forwarder: A Lambda handler that gets the payload as its event, and answers `{}` or `{"errorType": ...,
            "errorMessage": ...}`.

    Raises:
        ConfigurationError: Not exactly one of them is given, or the given one cannot be called.
    """
    given = {"handler": handler, "agent_url": agent_url, "forwarder": forwarder}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ConfigurationError(
            f"give exactly one of handler, agent_url and forwarder, not {' and '.join(names) or 'none'}"
        )
    if agent_url is not None:
        return _HttpAgent(agent_url)
    if not callable(given[names[0]]):
        raise ConfigurationError(f"{names[0]} must be a function of the payload, not {given[names[0]]!r:.80}")
    return _LocalAgent(handler) if handler is not None else _ForwardedAgent(forwarder)  # type: ignore[arg-type]


class _LocalAgent:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        call = getattr(handler, "__call__", None)  # noqa: B004 - asked whether it is async, not whether it is callable
        kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        self._is_async = any(is_kind(fn) for is_kind in kinds for fn in (handler, call))
        self._workers: Workers | None = None
        self._loop: _LoopThread | None = None

    async def call(self, payload: Mapping[str, JSON]) -> None:
        copied = json.loads(json.dumps(payload))  # as it would arrive over a network
        try:
            if self._is_async:
                if self._loop is None:
                    self._loop = _LoopThread()
                await self._loop.run(self._await(copied))
                return
            if self._workers is None:
                self._workers = Workers(_THREADS, "aws-rft-agent")
            await self._workers.run(functools.partial(self._run, copied))
        except Exception as error:
            raise AgentError(f"the handler raised {type(error).__name__}: {error}"[:_SHOWN]) from error

    # A handler that ends its process must not end the thread that it runs in.

    async def _await(self, payload: dict[str, JSON]) -> None:
        try:
            answer = self._handler(payload)
            if inspect.isasyncgen(answer):
                async for _ in answer:
                    pass
            else:
                await answer
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"the handler ended its process: {type(error).__name__}({error})") from None

    def _run(self, payload: dict[str, JSON]) -> None:
        try:
            answer = self._handler(payload)
            if inspect.isgenerator(answer):
                for _ in answer:
                    pass
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"the handler ended its process: {type(error).__name__}({error})") from None

    async def aclose(self) -> None:
        if self._workers is not None:
            self._workers.close()
        if self._loop is not None:
            self._loop.close()
        self._workers = self._loop = None


class _LoopThread:
    """An event loop of its own for the handler: one that blocks must not stop the server."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="aws-rft-agent", daemon=True).start()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run a coroutine. Cancelling the future cancels the coroutine."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """Cancel what runs, and end the thread. A handler that blocks is not waited for."""
        self._loop.call_soon_threadsafe(self._loop.stop)


class _HttpAgent:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"agent_url must be a URL like http://127.0.0.1:8080{INVOCATIONS_PATH}, not {url!r:.200}"
            )
        self._url = url if parts.path.strip("/") else url.rstrip("/") + INVOCATIONS_PATH
        self._trust_env = parts.hostname not in ("localhost", "127.0.0.1", "::1")
        self._client: httpx.AsyncClient | None = None

    async def call(self, payload: Mapping[str, JSON]) -> None:
        if self._client is None:
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(timeout=None, limits=limits, trust_env=self._trust_env)  # noqa: S113
        # AgentCore demands ids of at least 33 characters, which a UUID has.
        headers = {"Content-Type": "application/json", SESSION_HEADER: payload["metadata"]["rolloutId"]}
        attempt = 1
        while True:
            try:
                response = await self._client.post(self._url, content=encode(payload), headers=headers)
            except httpx.HTTPError as error:
                raise AgentError(
                    f"the connection to the agent failed ({type(error).__name__}: {error})"[:_SHOWN]
                ) from error
            if response.status_code != HTTPStatus.TOO_MANY_REQUESTS or attempt == _THROTTLED_ATTEMPTS:
                break
            await asyncio.sleep(_BACKOFF.delay(attempt, parse_retry_after(response.headers.get("Retry-After"))))
            attempt += 1
        if response.status_code >= 400:
            raise AgentError(f"the agent answered {response.status_code}: {response.text}"[:_SHOWN])
        _check_answer(response.content)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        self._client = None


class _ForwardedAgent:
    def __init__(self, forwarder: Forwarder) -> None:
        self._functions = Functions({_FORWARDER: forwarder}, timeout_seconds=LAMBDA_CALL_SECONDS, region="us-west-2")

    async def call(self, payload: Mapping[str, JSON]) -> None:
        try:
            invocation = await self._functions.invoke(_FORWARDER, encode(payload))
        except Refusal as refusal:
            raise AgentError(f"the forwarder was not invoked: {refusal}"[:_SHOWN]) from refusal
        if invocation.error is not None:
            raise AgentError(f"the forwarder failed: {invocation.payload.decode(errors='replace')}"[:_SHOWN])
        _check_answer(invocation.payload)

    async def aclose(self) -> None:
        self._functions.close()


def _check_answer(body: bytes) -> None:
    """Return if an answer does not report an error. Any other content is allowed."""
    try:
        answer = json.loads(body)
    except ValueError:
        return
    if isinstance(answer, dict) and answer.get("errorType"):
        text = f"the agent answered {answer['errorType']}: {answer.get('errorMessage', '')}"
        raise AgentError(text[:_SHOWN])
