"""The real clients as referees: boto3's sagemakerjobruntime, the openai client, Strands' models."""

from __future__ import annotations

import asyncio
import json

import boto3
import openai
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from aws_rft_sdk.credentials import mint_token
from aws_rft_sdk.runtime import LocalRuntime

from .conftest import KEYS, tracking

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
LONG = "A fairly long answer, so that it is cut into several pieces: " * 4


def answer(request):
    """Call the tool first, when there is one; then answer at length."""
    message = {"role": "assistant", "content": LONG}
    if request.get("tools") and request["messages"][-1]["role"] == "user":
        arguments = json.dumps({"expression": "1+1" + "+1" * 30})
        function = {"name": "calculator", "arguments": arguments}
        message = {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    return {"choices": [{"message": message}], "usage": USAGE}


@pytest.fixture(scope="module")
def signed_runtime():
    with LocalRuntime(answer, auth="sigv4", credentials=KEYS) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def token_runtime():
    with LocalRuntime(answer, auth="bearer", credentials=KEYS) as runtime:
        yield runtime


@pytest.fixture
def aws(signed_runtime):
    client = _aws(signed_runtime)
    yield client
    client.close()


def _aws(runtime, secret=KEYS.secret_key):
    return boto3.client(
        "sagemakerjobruntime",
        region_name="us-west-2",
        endpoint_url=runtime.endpoint,
        aws_access_key_id=KEYS.access_key,
        aws_secret_access_key=secret,
        aws_session_token=KEYS.token,
        config=Config(retries={"total_max_attempts": 1}),
    )


def _ids(payload):
    return {"JobArn": payload["metadata"]["jobArn"], "TrajectoryId": payload["metadata"]["rolloutId"]}


BODY = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()


def test_boto3_when_it_plays_a_rollout_then_every_operation_works(signed_runtime, aws):
    payload = signed_runtime.new_rollout("p")
    sampled = aws.sample(**_ids(payload), Body=BODY)
    assert sampled["ContentType"] == "application/json"
    assert json.loads(sampled["Body"].read())["choices"][0]["message"]["content"] == LONG
    streamed = aws.sample_with_response_stream(**_ids(payload), Body=BODY)
    assert streamed["ContentType"].startswith("text/event-stream")
    assert streamed["Body"].read().endswith(b"data: [DONE]\n\n")
    aws.complete_rollout(**_ids(payload), Status="ready")
    aws.update_reward(**_ids(payload), Rewards=[0.25, 1.0])
    trajectory = signed_runtime.trajectory(payload["metadata"]["rolloutId"])
    assert trajectory.rewards == (0.25, 1.0)
    assert [turn.usage for turn in trajectory.turns] == [USAGE] * 2
    assert [turn.message["content"] for turn in trajectory.turns] == [LONG] * 2


def test_boto3_when_refused_then_its_own_error_classes_are_raised(signed_runtime, aws):
    payload = signed_runtime.new_rollout("p")
    unknown = {**_ids(payload), "TrajectoryId": "unknown"}
    with pytest.raises(aws.exceptions.ResourceNotFoundException, match="does not exist"):
        aws.sample(**unknown, Body=BODY)
    other_job = {**_ids(payload), "JobArn": _ids(payload)["JobArn"] + "-other"}
    foreign = {**_ids(payload), "JobArn": "arn:aws:sagemaker:us-west-2:999999999999:job/AgentRFT/local"}
    for sample in (aws.sample, aws.sample_with_response_stream):
        with pytest.raises(aws.exceptions.ValidationException, match="Could not find job"):
            sample(**other_job, Body=BODY)
        with pytest.raises(aws.exceptions.AccessDeniedException, match="999999999999"):
            sample(**foreign, Body=BODY)
    with pytest.raises(aws.exceptions.ResourceNotFoundException, match="Could not find job"):
        aws.complete_rollout(**other_job)
    with pytest.raises(aws.exceptions.AccessDeniedException, match="999999999999"):
        aws.update_reward(**foreign, Rewards=[1.0])
    with pytest.raises(aws.exceptions.ConflictException, match="complete it first"):
        aws.update_reward(**_ids(payload), Rewards=[1.0])
    aws.complete_rollout(**_ids(payload))
    with pytest.raises(aws.exceptions.ConflictException):
        aws.complete_rollout(**_ids(payload))
    with pytest.raises(aws.exceptions.ValidationException, match="Rewards"):
        aws.update_reward(**_ids(payload), Rewards=[1.0, 2.0])
    with pytest.raises(ClientError) as caught:
        aws.sample(**_ids(payload), Body=BODY)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert caught.value.response["ResponseMetadata"]["RequestId"]
    stranger = _aws(signed_runtime, secret="not-the-secret")
    with pytest.raises(stranger.exceptions.AccessDeniedException, match="signature does not match"):
        stranger.complete_rollout(**_ids(payload))
    stranger.close()


@pytest.mark.parametrize("stream", [False, True])
def test_openai_when_synchronous_then_answered(token_runtime, stream):
    payload = token_runtime.new_rollout("p")
    with openai.OpenAI(base_url=f"{token_runtime.endpoint}/v1", api_key=mint_token(KEYS, "us-west-2")) as client:
        result = client.chat.completions.create(**_chat(payload, stream))
        assert _read(list(result) if stream else result, stream) == (LONG, 10)
    assert token_runtime.trajectory(payload["metadata"]["rolloutId"]).turns[0].message["content"] == LONG


@pytest.mark.parametrize("stream", [False, True])
def test_openai_when_asynchronous_then_answered(token_runtime, stream):
    payload = token_runtime.new_rollout("p")

    async def call():
        key = mint_token(KEYS, "us-west-2")
        async with openai.AsyncOpenAI(base_url=f"{token_runtime.endpoint}/v1", api_key=key) as client:
            result = await client.chat.completions.create(**_chat(payload, stream))
            return [chunk async for chunk in result] if stream else result

    assert _read(asyncio.run(call()), stream) == (LONG, 10)


def _chat(payload, stream):
    request = {"model": "default", "messages": [{"role": "user", "content": "x"}], "extra_headers": tracking(payload)}
    return {**request, "stream": True, "stream_options": {"include_usage": True}} if stream else request


def _read(result, stream):
    if not stream:
        return result.choices[0].message.content, result.usage.total_tokens
    pieces = [chunk.choices[0].delta.content or "" for chunk in result if chunk.choices]
    assert len(pieces) > 3
    return "".join(pieces), result[-1].usage.total_tokens


def test_openai_when_the_trajectory_is_sealed_then_a_bad_request_in_both_apis(token_runtime, open_wire):
    payload = token_runtime.new_rollout("p")
    token = mint_token(KEYS, "us-west-2")
    wire = open_wire(token_runtime)
    assert wire.post("/complete-rollout", _ids(payload), {"Authorization": f"Bearer {token}"}).status_code == 200
    with openai.OpenAI(base_url=f"{token_runtime.endpoint}/v1", api_key=token, max_retries=0) as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="not in valid status"):
                client.chat.completions.create(**_chat(payload, stream))
            with pytest.raises(openai.BadRequestError, match="not in valid status"):
                client.responses.create(model="m", input="x", stream=stream, extra_headers=tracking(payload))


def test_openai_when_refused_then_the_text_is_in_its_error(token_runtime):
    with openai.OpenAI(base_url=f"{token_runtime.endpoint}/v1", api_key="local", max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError, match="bearer token"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        client.api_key = mint_token(KEYS, "us-west-2")
        with pytest.raises(openai.BadRequestError, match="X-Trajectory-Id"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


def test_openai_responses_when_called_then_answered_in_both_forms(token_runtime):
    payload = token_runtime.new_rollout("p")
    with openai.OpenAI(base_url=f"{token_runtime.endpoint}/v1", api_key=mint_token(KEYS, "us-west-2")) as client:
        request = {"model": "m", "input": "x", "instructions": "be brief", "extra_headers": tracking(payload)}
        plain = client.responses.create(**request)
        assert (plain.output_text, plain.usage.input_tokens) == (LONG, 7)
        with client.responses.stream(**request) as stream:
            assert stream.get_final_response().output_text == LONG
        tool = {"type": "function", "name": "calculator", "parameters": {"type": "object"}, "strict": False}
        called = client.responses.create(**request, tools=[tool])
        assert (called.output[0].type, called.output[0].call_id) == ("function_call", "call_1")
        for bad in ({"previous_response_id": "r"}, {"tools": [{"type": "web_search"}]}):
            with pytest.raises(openai.BadRequestError):
                client.responses.create(**request, **bad)
    turns = token_runtime.trajectory(payload["metadata"]["rolloutId"]).turns
    assert len(turns) == 3
    assert turns[0].request["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "x"},
    ]


LOGPROBS = [
    {"token": "4", "logprob": -0.5, "bytes": [52], "top_logprobs": [{"token": "5", "logprob": -2.0, "bytes": None}]},
    {"token": "ü", "logprob": -1.0},
]


def speaks_of_its_tokens(request):
    """Answer with log probabilities, if asked for them as chat completions ask."""
    choice = {"message": {"content": "4ü"}}
    if request.get("logprobs"):
        choice["logprobs"] = {"content": LOGPROBS}
    return {"choices": [choice]}


@pytest.mark.parametrize("include", [True, False], ids=["included", "not-included"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_openai_responses_when_log_probabilities_are_asked_for_then_given_for_each_token(include, stream):
    with (
        LocalRuntime(speaks_of_its_tokens, auth="none") as runtime,
        openai.OpenAI(base_url=f"{runtime.endpoint}/v1", api_key="local", max_retries=0) as client,
    ):
        payload = runtime.new_rollout("p")
        asks = {"include": ["message.output_text.logprobs"]} if include else {}
        request = {"model": "m", "input": "x", "top_logprobs": 1, "extra_headers": tracking(payload), **asks}
        if stream:
            with client.responses.stream(**request) as events:
                deltas = [event for event in events if event.type == "response.output_text.delta"]
                answer = events.get_final_response()
            assert [token.logprob for event in deltas for token in event.logprobs] == [-0.5, -1.0]
        else:
            answer = client.responses.create(**request)
        tokens = answer.output[0].content[0].logprobs
        assert [(token.token, token.logprob, token.bytes) for token in tokens] == [
            ("4", -0.5, [52]),
            ("ü", -1.0, [195, 188]),
        ]
        assert [[(top.token, top.logprob, top.bytes) for top in token.top_logprobs] for token in tokens] == [
            [("5", -2.0, [53])],
            [],
        ]
        assert answer.top_logprobs == 1
        (turn,) = runtime.trajectory(payload["metadata"]["rolloutId"]).turns
        assert (turn.request["logprobs"], turn.request["top_logprobs"]) == (True, 1)
        assert turn.logprobs == (-0.5, -1.0)

        silent = client.responses.create(model="m", input="y", extra_headers=tracking(payload))
        assert silent.output[0].content[0].logprobs == []
        with pytest.raises(openai.BadRequestError, match="background is not supported"):
            client.responses.create(**request, background=True)
        assert client.responses.create(**request, background=False).output_text == "4ü"


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_strands_agent_when_it_calls_a_tool_then_both_turns_are_recorded(token_runtime, kind):
    from strands import Agent, tool
    from strands.models.openai import OpenAIModel
    from strands.models.openai_responses import OpenAIResponsesModel

    expressions = []

    @tool
    def calculator(expression: str) -> str:
        """Add up.

        Args:
            expression: What to add up.
        """
        expressions.append(expression)
        return "32"

    payload = token_runtime.new_rollout("p")
    model_class = {"chat": OpenAIModel, "responses": OpenAIResponsesModel}[kind]
    model = model_class(
        client_args={
            "base_url": f"{token_runtime.endpoint}/v1",
            "api_key": mint_token(KEYS, "us-west-2"),
            "default_headers": tracking(payload),
        },
        model_id="default",
        params={},
    )
    result = Agent(model=model, tools=[calculator], callback_handler=None, system_prompt="add")("how much?")
    assert str(result).strip() == LONG.strip()
    assert expressions == ["1+1" + "+1" * 30]
    assert result.metrics.accumulated_usage["totalTokens"] == 20
    trajectory = token_runtime.trajectory(payload["metadata"]["rolloutId"])
    assert len(trajectory.turns) == 2
    roles = [message["role"] for message in trajectory.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert trajectory.messages[2]["tool_calls"][0]["id"] == trajectory.messages[3]["tool_call_id"] == "call_1"
