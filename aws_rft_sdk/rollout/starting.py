"""Reaches a runtime for a driver: starts rollouts there, makes payloads, and looks at what became of them."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import check_url
from aws_rft_sdk.credentials import RuntimeKey
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError, UnavailableError
from aws_rft_sdk.lifecycle.executor import in_sdk_thread
from aws_rft_sdk.rollout.access import Access, Observation
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.runtime.auth import is_key_refusal
from aws_rft_sdk.runtime.rollout_starter import LOCAL_ROLLOUTS_PATH
from aws_rft_sdk.settings import (
    CA_BUNDLE_VARIABLES,
    ENDPOINT_VARIABLE,
    RUNTIME_KEY_VARIABLE,
    Endpoint,
    ca_bundle,
    check_key,
    overridden,
    runtime_key_for,
)
from aws_rft_sdk.types import InferenceParams, RolloutMetadata, RolloutRequest
from aws_rft_sdk.wire import Api

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


def access_at(endpoint: str, params: InferenceParams, job_arn: str | None = None, *, key: str | None = None) -> Access:
    """Return access to a runtime that is already running.

    A local runtime is told about each trajectory, and asked what became of it. Any other runtime is expected to know
    the job, gets new trajectory ids, and cannot be asked.

    Args:
        endpoint: Base URL of the runtime.
        params: Sampling parameters for the payloads.
        job_arn: Job to report under; None for the local runtime's own.
        key: The key that a local runtime asks for. None for `RFT_RUNTIME_KEY`. It is sent to this endpoint only.

    Raises:
        ConfigurationError: `endpoint` is no URL, the runtime refuses the key, or `endpoint` is no local runtime and
            there is no `job_arn`.
        UnavailableError: Nothing answers at `endpoint`.
    """
    endpoint = check_url(endpoint, "the endpoint of the runtime").rstrip("/")
    named = Endpoint(endpoint, Api.ALPHA, "", "endpoint=")
    call = _caller(endpoint, runtime_key_for(named) if key is None else check_key(key, "key"))
    about = _describe(call, endpoint)
    if about is None:
        if job_arn is None:
            raise ConfigurationError(f"{endpoint} is not a local runtime, so it needs the ARN of a job: --job-arn")
        return Access(lambda prompt: _new_payload(prompt, endpoint, params, job_arn), endpoint=endpoint)

    def start(prompt: str) -> Mapping[str, Any]:
        body = {"prompt": prompt, "jobArn": job_arn, "inferenceParams": params.sampling()}
        try:
            answer = call("POST", json=body)
            answer.raise_for_status()
            payload: Mapping[str, Any] = answer.json()
        except requests.RequestException as error:
            raise AgentUnreachableError(f"{endpoint} did not start a rollout ({error})") from error
        return payload

    def look(trajectory_id: str) -> Observation | None:
        try:
            answer = call("GET", f"/{trajectory_id}")
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            return Observation.parse(answer.json())
        except requests.RequestException as error:
            raise AgentUnreachableError(f"{endpoint} does not tell about a rollout ({error})") from error

    said = about.get("endpoint")
    reached_by = check_url(said, "the endpoint that the runtime names") if isinstance(said, str) else endpoint
    return Access(start, lambda trajectory_id: in_sdk_thread(look, trajectory_id), reached_by)


@contextmanager
def trusting(access: Access, key: str | None = None) -> Iterator[None]:
    """Let the handlers of this process, and of child processes begun meanwhile, trust the runtime of an access.

    The operator chose this runtime, so its payloads may name its endpoint. Clients in handlers learn that from
    environment variables. Not for several threads.

    Args:
        access: What `access_at` returned.
        key: The key that the runtime asks for. None for `RFT_RUNTIME_KEY`.

    Raises:
        ConfigurationError: The key cannot be one.
    """
    values = {ENDPOINT_VARIABLE: access.endpoint, RUNTIME_KEY_VARIABLE: None if key is None else check_key(key, "key")}
    with overridden({name: value for name, value in values.items() if value is not None}):
        yield


def _caller(endpoint: str, key: str | None) -> Callable[..., requests.Response]:
    """Return a function that calls the paths of a runtime below `/local/rollouts`."""
    session = requests.Session()
    # Threads share the session; beyond the size of its pool each call would open a connection of its own.
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.auth = None if key is None else RuntimeKey(key)
    # A redirect would carry the key elsewhere.
    call = functools.partial(
        session.request, timeout=_TIMEOUT_SECONDS, allow_redirects=False, verify=ca_bundle() or session.verify
    )
    return lambda method, path="", **options: call(method, endpoint + LOCAL_ROLLOUTS_PATH + path, **options)


def _describe(call: Callable[..., requests.Response], endpoint: str) -> Mapping[str, JSON] | None:
    """Return what a local runtime says of itself. Returns None if the server is none."""
    try:
        answer = call("GET")
    except requests.exceptions.SSLError as error:
        raise UnavailableError(
            f"the certificate of {endpoint} is not trusted or is for another host; name its CA bundle in one of "
            f"{', '.join(CA_BUNDLE_VARIABLES)}"
        ) from error
    except requests.RequestException as error:
        raise UnavailableError(f"no runtime answers at {endpoint} ({type(error).__name__})") from error
    if is_key_refusal(answer.status_code, answer.headers.get("WWW-Authenticate", "")):
        raise ConfigurationError(
            f"the runtime at {endpoint} asks for its key, and this one is missing or wrong; set {RUNTIME_KEY_VARIABLE}"
        )
    if answer.status_code != 200:
        return None
    try:
        about = answer.json()
    except requests.JSONDecodeError:
        return None
    return about if isinstance(about, Mapping) else None


def _new_payload(prompt: str, endpoint: str, params: InferenceParams, job_arn: str) -> Mapping[str, Any]:
    metadata = RolloutMetadata(job_arn=job_arn, trajectory_id=str(uuid.uuid4()), endpoint=endpoint)
    return RolloutRequest(prompt=prompt, metadata=metadata, inference_params=params).to_payload()
