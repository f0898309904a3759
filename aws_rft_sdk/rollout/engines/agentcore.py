"""In an agent that is deployed on Bedrock AgentCore: invoked through boto3, which only this module imports."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.lifecycle.threads import in_daemon_thread
from aws_rft_sdk.rollout.access import Observe
from aws_rft_sdk.rollout.engines.base import DEADLINE_SECONDS
from aws_rft_sdk.rollout.engines.remote import Answer, RemoteEngine, read_answer
from aws_rft_sdk.runs.records import describe_error

RUNTIME_ARN = re.compile(r"arn:[^:]+:bedrock-agentcore:(?P<region>[^:]+):\d*:runtime/.+")
_SHORTEST_SESSION_ID = 33
_BUSY = ("ThrottlingException", "ServiceQuotaExceededException", "RetryableConflictException")
_LONGEST_ANSWER_SECONDS = 900
"""AgentCore's own limit for a synchronous call."""
_BACKOFF = Backoff(base_seconds=0.5, cap_seconds=20.0)


class AgentCoreEngine(RemoteEngine):
    """Invokes a deployed runtime, a session for each rollout.

    Args:
        arn: The runtime: `arn:aws:bedrock-agentcore:<region>:<account>:runtime/<id>`.
        observe: Looks at a rollout in the job runtime; None when it cannot be asked: then the reward is the one in the
            agent's answer.
        qualifier: Endpoint of the runtime; None for its default.
        concurrency: Calls at once at most.
        deadline_seconds: For each rollout, waiting for a throttled service included; None for no deadline.
        client: A boto3 client of `bedrock-agentcore`; None to make one from the usual sources.

    Raises:
        ConfigurationError: The ARN is no runtime's; boto3 is missing, or cannot make a client.
    """

    def __init__(
        self,
        arn: str,
        observe: Observe | None,
        *,
        qualifier: str | None = None,
        concurrency: int = 96,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        client: Any = None,
    ) -> None:
        super().__init__(observe, deadline_seconds=deadline_seconds)
        match = RUNTIME_ARN.fullmatch(arn)
        if match is None:
            raise ConfigurationError(f"{arn!r} is not the ARN of an AgentCore runtime")
        self._fixed = {"agentRuntimeArn": arn, "contentType": "application/json", "accept": "application/json"}
        if qualifier is not None:
            self._fixed["qualifier"] = qualifier
        self._client = client if client is not None else _make_client(match["region"], concurrency)

    async def deliver(self, payload: Mapping[str, Any], trajectory_id: str) -> Answer:
        """Invoke the runtime. See `RemoteEngine.deliver`."""
        body = json.dumps(payload).encode()
        session_id = trajectory_id.ljust(_SHORTEST_SESSION_ID, "-")
        attempt = 0
        while True:
            attempt += 1
            try:
                _, answer = in_daemon_thread("rft-agentcore", self._invoke, body, session_id)
                return await answer
            except ClientError as error:
                if error.response["Error"]["Code"] not in _BUSY:
                    return Answer(error=f"AgentCore answered: {error}")
                await asyncio.sleep(_BACKOFF.delay(attempt, _retry_after(error)))
            except (HTTPClientError, IncompleteReadError) as error:
                unreachable = AgentUnreachableError(f"AgentCore does not answer ({error})")
                return Answer(error=describe_error(unreachable), lost=True)
            except BotoCoreError as error:
                raise AgentUnreachableError(f"AgentCore cannot be called ({error})") from error

    def _invoke(self, body: bytes, session_id: str) -> Answer:
        answer = self._client.invoke_agent_runtime(payload=body, runtimeSessionId=session_id, **self._fixed)
        content = answer["response"].read()
        try:
            result: JSON = json.loads(content)
        except (ValueError, RecursionError):
            result = None
        return read_answer(result)


def _make_client(region: str, concurrency: int) -> Any:
    try:
        import boto3
    except ImportError as error:
        raise ConfigurationError("the agentcore engine needs boto3; pip install boto3") from error
    # No retries below ours: a call that may have begun a rollout is not made again under the same trajectory.
    config = Config(
        read_timeout=_LONGEST_ANSWER_SECONDS, retries={"total_max_attempts": 1}, max_pool_connections=concurrency
    )
    try:
        return boto3.client("bedrock-agentcore", region_name=region, config=config)
    except BotoCoreError as error:
        raise ConfigurationError(f"no client of bedrock-agentcore can be made: {error}") from error


def _retry_after(error: ClientError) -> float | None:
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return parse_retry_after(headers.get("retry-after"))
