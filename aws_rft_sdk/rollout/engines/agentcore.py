"""In an agent that is deployed on Bedrock AgentCore: invoked through boto3, which only this module imports."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NotConnectedError

from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import AGENTCORE_CALL_SECONDS, ROLLOUT_CONCURRENCY
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.failures import FailureKind, describe_error
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.lifecycle.threads import in_daemon_thread
from aws_rft_sdk.rollout.access import Observe
from aws_rft_sdk.rollout.engines._gate import Gate
from aws_rft_sdk.rollout.engines.base import PATIENCE_SECONDS
from aws_rft_sdk.rollout.engines.remote import NO_REWARD_IN_ANSWER, Answer, RemoteEngine, kind_of_status, read_answer
from aws_rft_sdk.rollout.schedule import Pace

logger = logging.getLogger(__name__)

RUNTIME_ARN = re.compile(r"arn:[^:]+:bedrock-agentcore:(?P<region>[^:]+):\d*:runtime/.+")
CALLS_PER_SECOND = 25.0
"""AgentCore's own limit of new sessions, and of data-plane calls to one endpoint."""
_SHORTEST_SESSION_ID = 33
_BUSY = ("ThrottlingException", "ServiceQuotaExceededException", "RetryableConflictException")
_ENDED = ("ResourceNotFoundException",)
"""What AgentCore answers about a session that has ended by itself."""
_STOP_AGAIN = (*_BUSY, "ConflictException", "InternalServerException")
_STOP_ATTEMPTS = 5
_STOP_SECONDS = 30.0
"""For the last sessions to be stopped when the engine ends."""
_LONGEST_ANSWER_SECONDS = int(AGENTCORE_CALL_SECONDS)
"""AgentCore's own limit for a synchronous call."""
_BACKOFF = Backoff(base_seconds=0.5, cap_seconds=20.0)


class AgentCoreEngine(RemoteEngine):
    """Invokes a deployed runtime, a session for each rollout.

    A session is stopped when its rollout is over, is given up or is cancelled, since each one counts against a quota of
    the account until it has been idle for 15 minutes. A session that cannot be stopped is logged and breaks nothing.

    Args:
        arn: The runtime: `arn:aws:bedrock-agentcore:<region>:<account>:runtime/<id>`.
        observe: Looks at a rollout in the job runtime; None when it cannot be asked: then the reward is the one in the
            agent's answer.
        qualifier: Endpoint of the runtime; None for its default.
        concurrency: Calls at once at most.
        deadline_seconds: For each rollout, waiting for a throttled service included; None for no deadline.
        client: A boto3 client of `bedrock-agentcore`; None to make one from the usual sources.
        calls_per_second: Sessions started and stopped, together, at most.
        unreachable_seconds: For how long AgentCore may answer no call. After that `run` raises `UnavailableError`.

    Raises:
        ConfigurationError: The ARN is no runtime's; boto3 is missing, or cannot make a client.
    """

    def __init__(
        self,
        arn: str,
        observe: Observe | None,
        *,
        qualifier: str | None = None,
        concurrency: int = ROLLOUT_CONCURRENCY,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        client: Any = None,
        calls_per_second: float = CALLS_PER_SECOND,
        unreachable_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(observe, deadline_seconds=deadline_seconds)
        match = RUNTIME_ARN.fullmatch(arn)
        if match is None:
            raise ConfigurationError(f"{arn!r} is not the ARN of an AgentCore runtime")
        self._target = {"agentRuntimeArn": arn}
        if qualifier is not None:
            self._target["qualifier"] = qualifier
        self._client = client if client is not None else _make_client(match["region"], concurrency)
        self._gate = Gate("AgentCore", unreachable_seconds=unreachable_seconds)
        self._pace = Pace(calls_per_second)
        self._next = asyncio.Lock()  # so that calls go out in the order in which they came
        self._sessions: set[str] = set()  # that may exist
        self._stops: set[asyncio.Task[None]] = set()
        self._stop_trouble: str | None = None  # why a session could not be stopped; logged once
        self._may_stop = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the sessions that are left, for at most 30 s."""
        if self._stops:
            _, late = await asyncio.wait(self._stops, timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()
            if late:
                logger.warning("sessions=<%d> | not stopped in time; they end when they have been idle", len(late))

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run a rollout in a session of its own, then stop the session. See `RemoteEngine.run`."""
        session_id = trajectory_id.ljust(_SHORTEST_SESSION_ID, "-")
        is_over = True
        try:
            outcome = await super().run(payload, trajectory_id)
            # The agent may have answered early, and nobody can tell when it ends.
            is_over = outcome.error != NO_REWARD_IN_ANSWER
            return outcome
        finally:
            if session_id in self._sessions:
                self._sessions.remove(session_id)
                if is_over:
                    stop = asyncio.create_task(self._stop(session_id))
                    self._stops.add(stop)
                    stop.add_done_callback(self._stops.discard)

    async def deliver(self, payload: Mapping[str, Any], trajectory_id: str, end: float) -> Answer:
        """Invoke the runtime. See `RemoteEngine.deliver`."""
        body = json.dumps(payload).encode()
        session_id = trajectory_id.ljust(_SHORTEST_SESSION_ID, "-")
        attempt = 0
        while True:
            await self._gate.wait(end, for_start=True)
            await self._next_call(end)
            attempt += 1
            began = time.monotonic()
            self._sessions.add(session_id)
            _, answer = in_daemon_thread("rft-agentcore", self._invoke, body, session_id)
            try:
                result = await asyncio.wait_for(answer, end - began)
                self._gate.answered()
                return result
            except ClientError as error:
                self._gate.answered()
                if _code(error) not in _BUSY:
                    return _refused(error)
                delay = _BACKOFF.delay(attempt, _retry_after(error))
                if time.monotonic() + delay >= end:
                    raise AgentUnreachableError(f"AgentCore was busy until the deadline ({_code(error)})") from error
                await asyncio.sleep(delay)
            except NotConnectedError as error:
                self._sessions.discard(session_id)  # nothing was sent
                self._gate.failed(began, str(error))
            except (HTTPClientError, IncompleteReadError) as error:
                unreachable = AgentUnreachableError(f"AgentCore does not answer ({error})")
                return Answer(error=describe_error(unreachable), lost=True)
            except BotoCoreError as error:
                raise AgentUnreachableError(f"AgentCore cannot be called ({error})") from error

    async def _next_call(self, end: float) -> None:
        async with self._next:
            seconds = self._pace.wait_seconds(time.monotonic())
            if time.monotonic() + seconds >= end:
                raise AgentUnreachableError("too many sessions were started and stopped before the deadline")
            await asyncio.sleep(seconds)
            self._pace.started(time.monotonic())

    def _invoke(self, body: bytes, session_id: str) -> Answer:
        answer = self._client.invoke_agent_runtime(
            payload=body,
            runtimeSessionId=session_id,
            contentType="application/json",
            accept="application/json",
            **self._target,
        )
        content = answer["response"].read()
        try:
            result: JSON = json.loads(content)
        except (ValueError, RecursionError):
            result = None
        return read_answer(result)

    async def _stop(self, session_id: str) -> None:
        """Stop a session, as far as that is possible."""
        token = str(uuid.uuid4())
        trouble = ""
        for attempt in range(1, _STOP_ATTEMPTS + 1):
            await self._next_call(math.inf)
            if not self._may_stop:
                return
            try:
                _, stopped = in_daemon_thread("rft-agentcore", self._stop_session, session_id, token)
                return await stopped
            except ClientError as error:
                trouble = str(error)
                if _code(error) in _ENDED:
                    return
                if _code(error) == "AccessDeniedException":
                    self._may_stop = False
                    trouble = f"allow it the action bedrock-agentcore:StopRuntimeSession ({error})"
                if _code(error) not in _STOP_AGAIN:
                    break
            except BotoCoreError as error:
                trouble = str(error)
            await asyncio.sleep(_BACKOFF.delay(attempt))
        if self._stop_trouble is None:
            self._stop_trouble = trouble
            logger.warning("error=<%s> | sessions are not stopped, and run until they have been idle", trouble)

    def _stop_session(self, session_id: str, token: str) -> None:
        self._client.stop_runtime_session(runtimeSessionId=session_id, clientToken=token, **self._target)


def _make_client(region: str, concurrency: int) -> Any:
    try:
        import boto3
    except ImportError as error:
        raise ConfigurationError("the agentcore engine needs boto3; pip install boto3") from error
    # No retries below ours: a call that may have begun a rollout is not made again under the same trajectory.
    config = Config(
        read_timeout=_LONGEST_ANSWER_SECONDS, retries={"total_max_attempts": 1}, max_pool_connections=2 * concurrency
    )
    try:
        return boto3.client("bedrock-agentcore", region_name=region, config=config)
    except BotoCoreError as error:
        raise ConfigurationError(f"no client of bedrock-agentcore can be made: {error}") from error


def _code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


def _refused(error: ClientError) -> Answer:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    kind = kind_of_status(status) or FailureKind.INFRASTRUCTURE
    # After an error of the service, the agent may run all the same.
    is_lost = isinstance(status, int) and status >= 500
    return Answer(error=f"AgentCore answered: {error}", failure=kind, lost=is_lost)


def _retry_after(error: ClientError) -> float | None:
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return parse_retry_after(headers.get("retry-after"))
