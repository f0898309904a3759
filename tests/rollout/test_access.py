"""What a runtime tells about rollouts: in this process, and over HTTP."""

import asyncio

import pytest
import requests
from rollout.worlds import policy

from aws_rft_sdk import LocalRuntime, RolloutFeedbackClient
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError
from aws_rft_sdk.rollout.access import Observation
from aws_rft_sdk.rollout.starting import access_at, access_in
from aws_rft_sdk.types import InferenceParams, RolloutRequest, TrajectoryStatus
from aws_rft_sdk.wire import inference_headers


def sample(payload):
    request = RolloutRequest.parse(payload)
    headers = inference_headers(request.job_arn, request.trajectory_id, "span")
    body = {"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]}
    url = payload["metadata"]["endpoint"] + "/v1/chat/completions"
    requests.post(url, headers=headers, json=body, timeout=10).raise_for_status()
    return request.trajectory_id


@pytest.mark.parametrize("elsewhere", [False, True])
def test_access_when_a_rollout_goes_on_then_each_observation_tells_how_far_it_is(elsewhere):
    with LocalRuntime(policy) as runtime:
        params = InferenceParams(temperature=0.5)
        access = access_at(runtime.endpoint, params) if elsewhere else access_in(runtime, params)
        payload = access.start("abc")
        trajectory_id = sample(payload)

        async def look(name=trajectory_id):
            return await access.observe(name)

        assert payload["inferenceParams"] == {"temperature": 0.5}
        before = asyncio.run(look())
        assert (before.status, before.rewards, before.turns) == (TrajectoryStatus.PENDING, None, 1)
        assert not before.is_over
        RolloutFeedbackClient(payload).report_complete(0.5)
        after = asyncio.run(look())
        assert (after.rewards, after.turns, after.prompt_tokens, after.response_tokens) == ((0.5,), 1, (3,), (6,))
        assert after.is_over
        assert after.seconds > 0
        assert asyncio.run(look("nobody")) is None


@pytest.mark.parametrize("usage", [[], [None], [{"prompt_tokens": True}], [{"prompt_tokens": 1}, {}], [{}, "x"]])
def test_observation_when_a_turn_has_no_count_then_there_are_none(usage):
    seen = Observation.parse({"status": "READY", "rewards": None, "turns": len(usage), "usage": usage})

    assert seen.prompt_tokens is seen.response_tokens is None


def test_access_when_the_runtime_goes_away_then_starting_says_so():
    with LocalRuntime(policy) as runtime:
        access = access_at(runtime.endpoint, InferenceParams())

    with pytest.raises(AgentUnreachableError):
        access.start("a")
    with pytest.raises(AgentUnreachableError):
        asyncio.run(access.observe("a"))


def test_access_when_the_endpoint_is_no_local_runtime_then_it_needs_a_job_and_cannot_be_asked(httpserver_like):
    with pytest.raises(ConfigurationError, match="--job-arn"):
        access_at(httpserver_like, InferenceParams())

    arn = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/x"
    access = access_at(httpserver_like, InferenceParams(), arn)
    assert access.observe is None
    assert access.start("a")["metadata"]["jobArn"] == arn


@pytest.fixture
def httpserver_like():
    from rollout.worlds import worker

    with worker(lambda payload: None) as (url, _):
        yield url
