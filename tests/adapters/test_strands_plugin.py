"""RFTPlugin: agents whose model is tied to the rollout in progress, without touching the model."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from fakes import Service, chat_answer, say
from pydantic import BaseModel
from strands import Agent
from strands.models.bedrock import BedrockModel
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters.strands import RFTPlugin
from aws_rft_sdk.errors import ConfigurationError


class Verdict(BaseModel):
    """What the model is to say."""

    answer: int


def openai_model(service: Service, model_id: str = "default") -> OpenAIModel:
    return OpenAIModel(model_id=model_id, client_args={"base_url": f"{service.endpoint}/v1", "api_key": "k"})


def test_plugin_when_within_a_rollout_then_each_call_of_the_agent_is_one_turn(service: Service) -> None:
    service.policy = lambda request: chat_answer(request, say('{"answer": 4}'))
    model = openai_model(service)
    before = repr(vars(model))
    agent = Agent(model=model, plugins=[RFTPlugin()], callback_handler=None)
    assert isinstance(agent.model, OpenAIModel)
    with RFTContext.bind(service.payload(temperature=0.25)) as rollout:
        agent("2+2?")
        asyncio.run(agent.invoke_async("2+2?"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assert agent.structured_output(Verdict, "2+2?") == Verdict(answer=4)
        assert (rollout.turns.begun, rollout.turns.answered) == (3, 3)
    assert [request.span_id for request in service.inference] == list(rollout.span_ids)
    assert {request.json["temperature"] for request in service.inference} == {0.25}
    assert repr(vars(model)) == before


def test_plugin_when_outside_a_rollout_then_the_model_is_called_as_it_is(service: Service) -> None:
    agent = Agent(model=openai_model(service), plugins=[RFTPlugin()], callback_handler=None)
    agent("2+2?")
    assert service.inference[0].trajectory_id is None


def test_plugin_when_the_agents_model_is_exchanged_later_then_it_is_wrapped_for_the_call(service: Service) -> None:
    agent = Agent(model=openai_model(service), plugins=[RFTPlugin()], callback_handler=None)
    other = openai_model(service, "other")
    agent.model = other
    agent("2+2?")
    with RFTContext.bind(service.payload()) as rollout:
        agent("2+2?")
        assert rollout.turns.begun == 1
    assert [request.json["model"] for request in service.inference] == ["other", "other"]
    assert [request.span_id for request in service.inference] == [None, *rollout.span_ids]
    assert agent.model is other


def test_plugin_when_the_model_is_wrapped_already_then_a_call_is_one_turn(service: Service) -> None:
    wrapped = wrap_model(openai_model(service))
    agent = Agent(model=wrapped, plugins=[RFTPlugin()], callback_handler=None)
    assert agent.model is wrapped
    with RFTContext.bind(service.payload()) as rollout:
        agent("2+2?")
        assert rollout.turns.begun == 1


def test_plugin_when_sampling_is_the_models_then_the_model_keeps_its_own(service: Service) -> None:
    model = openai_model(service)
    model.update_config(params={"temperature": 0.9})
    agent = Agent(model=model, plugins=[RFTPlugin(sampling="model")], callback_handler=None)
    with RFTContext.bind(service.payload(temperature=0.1)):
        agent("2+2?")
    assert service.inference[0].json["temperature"] == 0.9
    with pytest.raises(ConfigurationError, match="sampling"):
        RFTPlugin(sampling="mine")  # type: ignore[arg-type] # on purpose


def test_plugin_when_the_model_is_not_supported_then_making_the_agent_says_so() -> None:
    model: Any = BedrockModel(model_id="m", region_name="us-west-2")
    with pytest.raises(ConfigurationError, match="BedrockModel"):
        Agent(model=model, plugins=[RFTPlugin()])


def test_plugin_when_a_router_chooses_the_model_then_the_chosen_one_is_wrapped(service: Service) -> None:
    routing = pytest.importorskip("strands.models.routing")

    class Second:
        async def select(self, context: Any) -> Any:
            return context.candidates[1]

    models = [openai_model(service, "first"), openai_model(service, "second")]
    router = routing.ModelRouter(models, strategy=Second())
    agent = Agent(model=router, plugins=[RFTPlugin()], callback_handler=None)
    with RFTContext.bind(service.payload()) as rollout:
        agent("2+2?")
        assert (rollout.turns.begun, rollout.turns.answered) == (1, 1)
    assert [(request.json["model"], request.span_id) for request in service.inference] == [
        ("second", rollout.span_ids[0])
    ]
