"""Reaches a runtime for a driver: starts rollouts there, makes payloads, and looks at what became of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import requests

from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.lifecycle.executor import in_sdk_thread
from aws_rft_sdk.rollout.access import Access, Observation
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.runtime.rollout_starter import LOCAL_ROLLOUTS_PATH
from aws_rft_sdk.types import InferenceParams, RolloutMetadata, RolloutRequest

_TIMEOUT_SECONDS = 30.0
_CONNECTIONS = 128


def access_in(runtime: LocalRuntime, params: InferenceParams, job_arn: str | None = None) -> Access:
    """Return access to a local runtime of this process."""

    def start(prompt: str) -> Mapping[str, Any]:
        return runtime.new_rollout(prompt, job_arn=job_arn, inference_params=params)

    async def observe(trajectory_id: str) -> Observation | None:
        # In the loop: reading a few rows takes less time than handing it to a thread.
        fields = runtime.observe(trajectory_id)
        return None if fields is None else Observation.parse(fields)

    return Access(start, observe)


def access_at(endpoint: str, params: InferenceParams, job_arn: str | None = None) -> Access:
    """Return access to a runtime that is already running.

    A local runtime is told about each trajectory, and asked what became of it. Any other runtime is expected to know
    the job, gets new trajectory ids, and cannot be asked.

    Args:
        endpoint: Base URL of the runtime.
        params: Sampling parameters for the payloads.
        job_arn: Job to report under; None for the local runtime's own.

    Raises:
        ConfigurationError: Nothing answers at `endpoint`, or it is no local runtime and there is no `job_arn`.
    """
    endpoint = endpoint.rstrip("/")
    session = requests.Session()
    # Threads share the session; beyond the size of its pool each call would open a connection of its own.
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    if not _is_local_runtime(session, endpoint):
        if job_arn is None:
            raise ConfigurationError(f"{endpoint} is not a local runtime, so it needs the ARN of a job: --job-arn")
        return Access(lambda prompt: _new_payload(prompt, endpoint, params, job_arn))

    def start(prompt: str) -> Mapping[str, Any]:
        body = {"prompt": prompt, "jobArn": job_arn, "inferenceParams": params.sampling()}
        try:
            answer = session.post(endpoint + LOCAL_ROLLOUTS_PATH, json=body, timeout=_TIMEOUT_SECONDS)
            answer.raise_for_status()
            payload: Mapping[str, Any] = answer.json()
        except requests.RequestException as error:
            raise AgentUnreachableError(f"{endpoint} did not start a rollout ({error})") from error
        return payload

    def look(trajectory_id: str) -> Observation | None:
        try:
            answer = session.get(f"{endpoint}{LOCAL_ROLLOUTS_PATH}/{trajectory_id}", timeout=_TIMEOUT_SECONDS)
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            return Observation.parse(answer.json())
        except requests.RequestException as error:
            raise AgentUnreachableError(f"{endpoint} does not tell about a rollout ({error})") from error

    return Access(start, lambda trajectory_id: in_sdk_thread(look, trajectory_id))


def _is_local_runtime(session: requests.Session, endpoint: str) -> bool:
    try:
        return session.get(endpoint + LOCAL_ROLLOUTS_PATH, timeout=_TIMEOUT_SECONDS).status_code == 200
    except requests.RequestException as error:
        raise ConfigurationError(f"no runtime answers at {endpoint} ({type(error).__name__})") from error


def _new_payload(prompt: str, endpoint: str, params: InferenceParams, job_arn: str) -> Mapping[str, Any]:
    metadata = RolloutMetadata(job_arn=job_arn, trajectory_id=str(uuid.uuid4()), endpoint=endpoint)
    return RolloutRequest(prompt=prompt, metadata=metadata, inference_params=params).to_payload()
