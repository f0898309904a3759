from __future__ import annotations

import asyncio
import copy
import json
import pickle
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from fakes import JOB_ARN, Answer, Recorded, Service, call_tool, chat_answer, ga_payload, responses_answer, say
from pydantic import BaseModel
from strands import Agent, tool
from strands.models.bedrock import BedrockModel
from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.strands import RFTPlugin
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError

from .models import (
    PROVIDERS,
    USER,
    by_client,
    by_client_args,
    client_args,
    litellm_model,
    not_streaming,
    one_turn,
    responses_model,
    turn,
)

# LiteLLM and the Responses API of `openai` warn about their own types when they make and dump them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
every_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.__name__)
RFT_HEADERS = {
    "x-rft-job-arn",
    "x-trajectory-id",
    "x-span-id",
    "x-amzn-sagemaker-job-arn",
    "x-amzn-sagemaker-trajectory-id",
}


class Number(BaseModel):
    value: int


# --- headers ---------------------------------------------------------------------------------------------------------


@every_provider
def test_stream_when_inside_a_rollout_then_the_headers_of_both_generations_are_sent(
    provider: Any, service: Service
) -> None:
    model = wrap_model(provider(service.endpoint))
    with RFTContext.bind(ga_payload("t-5")) as context:
        turn(model)
        turn(model)
    for request, span_id in zip(service.inference, context.span_ids, strict=True):
        assert request.headers["x-rft-job-arn"] == request.headers["x-amzn-sagemaker-job-arn"] == JOB_ARN
        assert request.headers["x-trajectory-id"] == request.headers["x-amzn-sagemaker-trajectory-id"] == "t-5"
        assert request.span_id == span_id
    assert (context.turns.begun, context.turns.answered, context.turns.failed) == (2, 2, 0)


@every_provider
def test_stream_when_outside_a_rollout_then_it_is_exactly_the_models_own(provider: Any, service: Service) -> None:
    model = provider(service.endpoint, params={"temperature": 0.3, "extra_headers": {"X-Mine": "1"}})
    events = turn(wrap_model(model))
    assert events == turn(model)
    wrapped, plain = service.inference
    assert wrapped.json == plain.json
    assert set(wrapped.headers) == set(plain.headers)
    assert not RFT_HEADERS & set(wrapped.headers)


@every_provider
def test_stream_when_the_model_has_headers_of_its_own_then_they_are_kept(provider: Any, service: Service) -> None:
    model = wrap_model(provider(service.endpoint, params={"extra_headers": {"X-Mine": "1"}}))
    with RFTContext.bind(ga_payload()):
        turn(model)
    assert service.inference[0].headers["x-mine"] == "1"
    assert set(service.inference[0].headers) >= RFT_HEADERS


@every_provider
def test_structured_output_when_inside_a_rollout_then_it_is_a_turn(provider: Any, service: Service) -> None:
    def policy(request: Recorded) -> Answer:
        if request.path == "/v1/responses":
            return responses_answer(request, '{"value": 4}')
        tools = request.json.get("tools")
        return chat_answer(request, call_tool("Number", value=4) if tools else say('{"value": 4}'))

    service.policy = policy
    model: Any = wrap_model(provider(service.endpoint))

    async def main() -> list[Any]:
        return [event async for event in model.structured_output(Number, USER)]

    with RFTContext.bind(ga_payload("t-5", temperature=0.0)) as context:
        assert asyncio.run(main())[-1] == {"output": Number(value=4)}
    (request,) = service.inference
    assert (request.trajectory_id, request.span_id) == ("t-5", context.span_ids[0])
    assert request.json["temperature"] == 0.0
    assert context.turns.answered == 1
    assert asyncio.run(main())[-1] == {"output": Number(value=4)}
    assert not RFT_HEADERS & set(service.inference[-1].headers)


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


@pytest.mark.parametrize(
    "provider", [by_client_args, by_client, not_streaming, litellm_model], ids=lambda p: p.__name__
)
def test_agent_when_it_calls_tools_then_every_turn_is_tracked_under_a_span_of_its_own(
    provider: Any, service: Service
) -> None:
    def policy(request: Recorded) -> Answer:
        answered = [m for m in request.json["messages"] if m["role"] == "tool"]
        return chat_answer(request, say("4") if answered else call_tool("add", a=2, b=2))

    service.policy = policy
    agent = Agent(model=wrap_model(provider(service.endpoint)), tools=[tool(add)], callback_handler=None)
    with RFTContext.bind(ga_payload("t-5")) as context:
        result = agent("2+2?")
    assert str(result).strip() == "4"
    assert [request.trajectory_id for request in service.inference] == ["t-5"] * 2
    assert tuple(request.span_id for request in service.inference) == context.span_ids
    assert len(set(context.span_ids)) == 2


# --- sampling --------------------------------------------------------------------------------------------------------

ASKED = {"temperature": 0.0, "topP": 0.5, "maxTokens": 77}
OWN = {"temperature": 0.9, "top_p": 0.8}


@every_provider
@pytest.mark.parametrize("sampling", ["job", "model"])
def test_sampling_when_the_job_asks_for_it_then_the_option_decides_who_wins(
    provider: Any, sampling: Any, service: Service
) -> None:
    model = wrap_model(provider(service.endpoint, params=dict(OWN)), sampling=sampling)
    with RFTContext.bind(ga_payload(**ASKED)):
        turn(model)
    sent = service.inference[0].json
    limit = sent.get("max_output_tokens" if provider is responses_model else "max_tokens")
    wanted = (0.0, 0.5, 77) if sampling == "job" else (0.9, 0.8, None)
    assert (sent["temperature"], sent["top_p"], limit) == wanted


@every_provider
def test_sampling_when_the_job_leaves_it_open_then_the_models_own_is_sent(provider: Any, service: Service) -> None:
    model = wrap_model(provider(service.endpoint, params=dict(OWN)))
    with RFTContext.bind(ga_payload(temperature=0.1)):
        turn(model)
    sent = service.inference[0].json
    assert (sent["temperature"], sent["top_p"]) == (0.1, 0.8)


def test_sampling_when_the_model_limits_completion_tokens_then_there_is_one_limit(service: Service) -> None:
    model = wrap_model(by_client_args(service.endpoint, params={"max_completion_tokens": 5}))
    with RFTContext.bind(ga_payload(**ASKED)):
        turn(model)
    sent = service.inference[0].json
    assert sent["max_completion_tokens"] == 77
    assert "max_tokens" not in sent


def test_sampling_when_the_option_has_another_value_then_configuration_error(service: Service) -> None:
    with pytest.raises(ConfigurationError, match="sampling"):
        wrap_model(by_client_args(service.endpoint), sampling="mine")  # type: ignore[arg-type] # that is the point


def test_sampling_when_the_old_word_is_used_then_a_warning_names_the_new_one(service: Service) -> None:
    model = by_client_args(service.endpoint, params=dict(OWN))
    makers: list[Any] = [
        lambda: wrap_model(model, sampling="request"),  # type: ignore[arg-type] # the old word
        lambda: RFTPlugin(sampling="request"),  # type: ignore[arg-type]
        lambda: http_clients(sampling="request"),  # type: ignore[arg-type]
    ]
    for make in makers:
        with pytest.warns(DeprecationWarning, match='sampling="job"') as warned:
            made = make()
        assert warned[0].filename == __file__
        if isinstance(made, OpenAIModel):
            with RFTContext.bind(ga_payload(**ASKED)):
                turn(made)
    assert service.inference[0].json["temperature"] == 0.0


# --- the object ------------------------------------------------------------------------------------------------------


def state(model: Any) -> Any:
    return {name: copy.deepcopy(value) for name, value in vars(model).items() if name != "_custom_client"}


@every_provider
def test_wrap_model_when_used_then_the_argument_is_unchanged(provider: Any, service: Service) -> None:
    model = provider(service.endpoint, params=dict(OWN))
    before, client = state(model), getattr(model, "_custom_client", None)
    wrapped = wrap_model(model)
    with RFTContext.bind(ga_payload(**ASKED)):
        turn(wrapped)
    assert state(model) == before
    assert getattr(model, "_custom_client", None) is client
    assert "stream" not in vars(model)
    turn(model)
    assert not RFT_HEADERS & set(service.inference[-1].headers)


@every_provider
def test_wrap_model_when_done_then_it_is_of_the_same_class_and_wrapping_twice_is_wrapping_once(
    provider: Any, service: Service
) -> None:
    model = provider(service.endpoint)
    wrapped = wrap_model(model)
    assert wrapped is not model
    assert isinstance(wrapped, type(model))
    assert type(wrapped).__name__ == type(model).__name__
    assert wrap_model(wrapped) is wrapped
    assert wrapped.get_config() == model.get_config()
    with RFTContext.bind(ga_payload()) as context:
        turn(wrap_model(wrap_model(wrapped)))
    assert context.turns.begun == 1


@every_provider
def test_update_config_when_called_on_one_then_the_other_is_left_alone(provider: Any, service: Service) -> None:
    model = provider(service.endpoint)
    wrapped = wrap_model(model)
    wrapped.update_config(model_id="openai/a")
    model.update_config(params={"seed": 1})
    assert "params" not in wrapped.get_config()
    assert model.get_config()["model_id"] != "openai/a"


def test_wrap_model_when_the_class_is_a_users_own_then_its_overrides_hold(service: Service) -> None:
    class Mine(OpenAIModel):
        def format_request(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {**super().format_request(*args, **kwargs), "seed": 7}

    wrapped = wrap_model(Mine(model_id="default", client_args=client_args(service.endpoint)))
    assert isinstance(wrapped, Mine)
    with RFTContext.bind(ga_payload()):
        turn(wrapped)
    assert service.inference[0].json["seed"] == 7
    assert service.inference[0].trajectory_id == "traj-1"


@pytest.mark.parametrize(
    "model", [BedrockModel.__new__(BedrockModel), "gpt", None, Model], ids=["bedrock", "str", "none", "class"]
)
def test_wrap_model_when_the_provider_is_unsupported_then_the_supported_ones_are_listed(model: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"OpenAIModel, OpenAIResponsesModel, LiteLLMModel"):
        wrap_model(model)


def test_wrap_model_when_the_provider_is_unsupported_then_runtime_model_is_named() -> None:
    model = BedrockModel(model_id="m", region_name="us-west-2")
    with pytest.raises(ConfigurationError, match=r"use runtime_model\(BedrockModel\(\.\.\.\)\)"):
        wrap_model(model)


def test_wrap_model_when_the_model_makes_no_openai_client_then_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strands' SageMakerAIModel is an OpenAIModel that sends through boto3. Its module needs more than is installed."""

    class SageMakerAIModel(OpenAIModel):
        pass

    home = SimpleNamespace(SageMakerAIModel=SageMakerAIModel)
    monkeypatch.setitem(sys.modules, "strands.models.sagemaker", home)  # type: ignore[arg-type] # a module's stand-in
    with pytest.raises(ConfigurationError, match="calls of SageMakerAIModel"):
        wrap_model(SageMakerAIModel(model_id="m"))


def test_wrap_model_when_the_class_makes_its_own_client_then_its_calls_are_turns(service: Service) -> None:
    class Mine(OpenAIModel):
        @asynccontextmanager
        async def _get_client(self) -> Any:
            async with openai.AsyncOpenAI(**client_args(service.endpoint)) as client:
                yield client

    model = wrap_model(Mine(model_id="default"))
    with RFTContext.bind(ga_payload(**ASKED)) as context:
        turn(model)
        assert (context.turns.begun, context.turns.answered) == (1, 1)
    assert service.inference[0].json["temperature"] == 0.0
    turn(model)
    assert not RFT_HEADERS & set(service.inference[1].headers)


@every_provider
def test_wrap_model_when_the_rollout_is_over_then_the_call_says_so(provider: Any, service: Service) -> None:
    model = wrap_model(provider(service.endpoint))
    with RFTContext.bind(ga_payload()) as context:
        context.outcome = "completed"
        with pytest.raises(NoActiveRolloutError, match="takes no more turns"):
            turn(model)
    assert service.inference == []


def test_wrap_model_when_the_model_can_be_pickled_then_so_can_the_wrapped_one(service: Service) -> None:
    model = by_client_args(service.endpoint)
    assert pickle.loads(pickle.dumps(model)).get_config() == model.get_config()
    again = pickle.loads(pickle.dumps(wrap_model(model)))
    with RFTContext.bind(ga_payload()) as context:
        turn(again)
    assert context.turns.begun == 1


def test_wrap_model_when_copied_then_the_copy_is_tracked(service: Service) -> None:
    again = copy.deepcopy(wrap_model(by_client_args(service.endpoint)))
    with RFTContext.bind(ga_payload()) as context:
        turn(again)
    assert context.turns.begun == 1


# --- clients of the user's own ---------------------------------------------------------------------------------------


def test_ready_client_when_it_has_an_http_client_of_the_users_then_that_one_is_used_and_stays_open(
    service: Service,
) -> None:
    async def main() -> None:
        async with openai.DefaultAsyncHttpxClient(headers={"X-Pool": "mine"}) as http:
            client = openai.AsyncOpenAI(**client_args(service.endpoint), http_client=http)
            model = wrap_model(OpenAIModel(client, model_id="default"))
            with RFTContext.bind(ga_payload()):
                await one_turn(model)
                await one_turn(model)
            assert not http.is_closed
            assert client.max_retries == openai.DEFAULT_MAX_RETRIES

    asyncio.run(main())
    assert [request.headers["x-pool"] for request in service.inference] == ["mine", "mine"]


@pytest.mark.parametrize("provider", [by_client_args, responses_model, litellm_model], ids=lambda p: p.__name__)
def test_stream_when_given_up_early_then_the_turn_counts_as_failed(provider: Any, service: Service) -> None:
    async def main() -> None:
        model: Any = wrap_model(provider(service.endpoint))
        with RFTContext.bind(ga_payload()) as context:
            events = model.stream(USER)
            await anext(events)
            await events.aclose()
            assert (context.turns.begun, context.turns.answered, context.turns.failed) == (1, 0, 1)

    asyncio.run(main())


def test_stream_when_the_body_is_read_then_the_span_id_is_not_in_it(service: Service) -> None:
    with RFTContext.bind(ga_payload("t-secret")) as context:
        turn(wrap_model(by_client_args(service.endpoint)))
    text = json.dumps(service.inference[0].json)
    assert "t-secret" not in text
    assert context.span_ids[0] not in text
