"""Starts rollouts: tells a runtime about a trajectory and makes the payload that the agent receives."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import requests

from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.rollout.driver import Start
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.runtime.rollouts import LOCAL_ROLLOUTS_PATH
from aws_rft_sdk.types import InferenceParams, RolloutMetadata, RolloutRequest

_TIMEOUT_SECONDS = 30.0


def start_in(runtime: LocalRuntime, params: InferenceParams, job_arn: str | None = None) -> Start:
    """Return what starts rollouts in a local runtime of this process."""
    return lambda prompt: runtime.new_rollout(prompt, job_arn=job_arn, inference_params=params)


def start_at_endpoint(endpoint: str, params: InferenceParams, job_arn: str | None = None) -> Start:
    """Return what starts rollouts at a runtime that is already running.

    A local runtime is told about each trajectory. Any other runtime is expected to know the job, and gets new
    trajectory ids.

    Args:
        endpoint: Base URL of the runtime.
        params: Sampling parameters for the payloads.
        job_arn: Job to report under; None for the local runtime's own.

    Raises:
        ConfigurationError: Nothing answers at `endpoint`, or it is no local runtime and there is no `job_arn`.
    """
    endpoint = endpoint.rstrip("/")
    session = requests.Session()
    if not _is_local_runtime(session, endpoint):
        if job_arn is None:
            raise ConfigurationError(f"{endpoint} is not a local runtime, so it needs the ARN of a job: --job-arn")
        return lambda prompt: _new_payload(prompt, endpoint, params, job_arn)

    def start(prompt: str) -> Mapping[str, Any]:
        body = {"prompt": prompt, "jobArn": job_arn, "inferenceParams": params.sampling()}
        try:
            answer = session.post(endpoint + LOCAL_ROLLOUTS_PATH, json=body, timeout=_TIMEOUT_SECONDS)
            answer.raise_for_status()
            payload: Mapping[str, Any] = answer.json()
        except requests.RequestException as error:
            raise AgentUnreachableError(f"{endpoint} did not start a rollout ({error})") from error
        return payload

    return start


def _is_local_runtime(session: requests.Session, endpoint: str) -> bool:
    try:
        return session.get(endpoint + LOCAL_ROLLOUTS_PATH, timeout=_TIMEOUT_SECONDS).status_code == 200
    except requests.RequestException as error:
        raise ConfigurationError(f"no runtime answers at {endpoint} ({type(error).__name__})") from error


def _new_payload(prompt: str, endpoint: str, params: InferenceParams, job_arn: str) -> Mapping[str, Any]:
    metadata = RolloutMetadata(job_arn=job_arn, trajectory_id=str(uuid.uuid4()), endpoint=endpoint)
    return RolloutRequest(prompt=prompt, metadata=metadata, inference_params=params).to_payload()
