"""Starts rollouts as the service does: creates the trajectory, and the payload that its agent receives."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.runtime import answers
from aws_rft_sdk.runtime.policies import Policy
from aws_rft_sdk.runtime.trajectories import Trajectories
from aws_rft_sdk.types import InferenceParams, RolloutRequest, TrajectoryStatus

LOCAL_ROLLOUTS_PATH = "/local/rollouts"
"""No part of the contract. `POST` starts a rollout. `GET` describes the runtime, or one rollout."""


class RolloutStarter:
    """Starts rollouts in one runtime.

    Args:
        trajectories: Where trajectories are created.
        policy: Returns the current policy, which is told about each new trajectory.
        endpoint: Base URL that payloads name.
        region: AWS region that payloads name.
        default_job_arn: Job of the rollouts that name none.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        policy: Callable[[], Policy | None],
        endpoint: str,
        region: str,
        default_job_arn: str,
    ) -> None:
        self._trajectories = trajectories
        self._policy = policy
        self._endpoint = endpoint
        self._region = region
        self._default_job_arn = default_job_arn

    def start(
        self, prompt: JSON, job_arn: str | None, inference_params: InferenceParams | Mapping[str, Any] | None
    ) -> dict[str, JSON]:
        """See `LocalRuntime.new_rollout`. Blocks, so never call it in the server's event loop."""
        trajectory_id = str(uuid.uuid4())
        metadata = {
            "jobArn": job_arn or self._default_job_arn,
            "rolloutId": trajectory_id,
            "endpoint": self._endpoint,
            "region": self._region,
        }
        payload: dict[str, JSON] = {"prompt": prompt, "metadata": metadata}
        if params := _read_params(payload, inference_params):
            payload["inferenceParams"] = params
        try:
            json.dumps(prompt, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise PayloadError(f"prompt cannot be written as JSON: {error}", field="prompt") from error
        policy = self._policy()
        self._trajectories.open(
            trajectory_id,
            metadata["jobArn"],
            prompt,
            announce=lambda: policy.begin(trajectory_id, prompt) if policy is not None else None,
        )
        return payload

    def observe(self, trajectory_id: str) -> dict[str, JSON] | None:
        """See `LocalRuntime.observe`."""
        entry = self._trajectories.get(trajectory_id)
        if entry is None:
            return None
        state = entry.state
        known: dict[str, JSON] = {"status": state.status.value, "rewards": state.rewards, "turns": state.turns}
        if state.status in (TrajectoryStatus.REWARD_RECEIVED, TrajectoryStatus.FAILED):
            turns = self._trajectories.answers(entry)
            ends = [started_at + duration for started_at, duration, _ in turns]
            known["usage"] = [_usage(response) for _, _, response in turns]
            known["seconds"] = max(0.0, max(ends, default=0.0) - entry.created_at)
        return known

    def routes(self) -> list[Route]:
        """Return the routes through which another process starts rollouts here and observes them."""
        return [
            Route(LOCAL_ROLLOUTS_PATH, self._describe, methods=["GET"]),
            Route(LOCAL_ROLLOUTS_PATH + "/{trajectory_id}", self._observe_remotely, methods=["GET"]),
            Route(LOCAL_ROLLOUTS_PATH, self._start_remotely, methods=["POST"]),
        ]

    async def _describe(self, request: Request) -> Response:
        about = {
            "runtime": "local",
            "endpoint": self._endpoint,
            "trajectories": len(self._trajectories),
            "jobArn": self._default_job_arn,
        }
        return Response(json.dumps(about), media_type="application/json")

    async def _observe_remotely(self, request: Request) -> Response:
        known = self.observe(request.path_params["trajectory_id"])
        if known is None:
            body = answers.error_body("The rollout is not known to this runtime", answers.error_code(404))
            return Response(body, 404, media_type="application/json")
        return Response(json.dumps(known), media_type="application/json")

    async def _start_remotely(self, request: Request) -> Response:
        try:
            fields = json.loads(await request.body())
            if not isinstance(fields, Mapping) or fields.get("prompt") is None:
                raise PayloadError("the body must be an object with a prompt", field="prompt")
            given = (fields["prompt"], fields.get("jobArn"), fields.get("inferenceParams"))
            payload = await asyncio.to_thread(self.start, *given)
        except (ValueError, TypeError, RecursionError) as error:
            body = answers.error_body(f"The rollout cannot be started: {error}", answers.error_code(400))
            return Response(body, 400, media_type="application/json")
        return Response(json.dumps(payload), media_type="application/json")


def _usage(response: bytes) -> JSON:
    completion = json.loads(response)
    return completion.get("usage") if isinstance(completion, dict) else None


def _read_params(payload: dict[str, JSON], given: InferenceParams | Mapping[str, Any] | None) -> dict[str, JSON]:
    if isinstance(given, InferenceParams):
        given = {**given.extra, **given.sampling()}
    parsed = RolloutRequest.parse({**payload, "inferenceParams": dict(given or {})})
    params = parsed.inference_params if parsed is not None else InferenceParams()
    known = {"temperature": params.temperature, "topP": params.top_p, "maxTokens": params.max_tokens}
    return {**params.extra, **{name: value for name, value in known.items() if value is not None}}
