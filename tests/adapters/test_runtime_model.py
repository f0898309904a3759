"""runtime_model: the production model outside a rollout, the runtime of the payload within one."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from fakes import Service, ga_payload
from pydantic import BaseModel
from strands import Agent, tool
from strands.models.bedrock import BedrockModel
from strands.models.openai import OpenAIModel

from aws_rft_sdk import LocalRuntime, RFTContext, wrap_model
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError

from .rollouts import KEYS_IN_ENVIRONMENT, as_tasks, echo, over_threads, payloads
from .scripted import USER, ScriptedModel, said, turn


class Verdict(BaseModel):
    """What the model is to say."""

    answer: int


@tool
def calculator(expression: str) -> str:
    """Add up.

    Args:
        expression: What to add up.
    """
    return "4"


def calculate_then_answer(request: Any) -> Any:
    if request["messages"][-1]["role"] == "user" and request.get("tools"):
        function = {"name": "calculator", "arguments": '{"expression": "2+2"}'}
        return {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    return '{"answer": 4}'


@pytest.fixture(scope="module", params=["bearer", "sigv4"])
def auth(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def _runtime(auth: Any) -> Iterator[LocalRuntime]:
    with LocalRuntime(calculate_then_answer, auth=auth, credentials=Keys(*KEYS_IN_ENVIRONMENT)) as runtime:
        yield runtime


@pytest.fixture
def runtime(_runtime: LocalRuntime, aws_keys: Keys) -> LocalRuntime:
    """A runtime that demands what `auth` says, and keys in the environment."""
    _runtime.reset()
    return _runtime


# --- outside a rollout -----------------------------------------------------------------------------------------------


def test_runtime_model_when_outside_a_rollout_then_it_is_the_production_model() -> None:
    production = BedrockModel(model_id="some-model", region_name="us-west-2", temperature=0.5)
    model = runtime_model(production)
    assert isinstance(model, BedrockModel)
    assert model.get_config() == production.get_config()
    assert model.client is production.client
    model.update_config(temperature=0.9)
    assert production.get_config()["temperature"] == 0.9
    assert model._supports_structured_output is getattr(production, "_supports_structured_output", False)
    assert (model.context_window_limit, model.stateful) == (production.context_window_limit, False)


def test_runtime_model_when_outside_a_rollout_then_production_answers_all_calls(service: Service) -> None:
    production = ScriptedModel()
    model = runtime_model(production)
    assert str(Agent(model=model, callback_handler=None)("2+2?")).strip() == "production"
    assert turn(model) == turn(production)

    async def structured() -> Any:
        return [event async for event in model.structured_output(Verdict, USER)]

    assert asyncio.run(structured()) == [{"output": Verdict(answer=4)}]
    assert asyncio.run(model.count_tokens(USER)) == 1234
    assert (model.stateful, model.context_window_limit) == (True, 100)
    assert service.requests == []


def test_runtime_model_when_the_production_stream_is_no_generator_then_it_is_read_all_the_same() -> None:
    class Iterating(ScriptedModel):
        def stream(self, *args: Any, **kwargs: Any) -> Any:
            class Events:
                def __init__(self) -> None:
                    self.left = [{"messageStart": {"role": "assistant"}}]

                def __aiter__(self) -> Any:
                    return self

                async def __anext__(self) -> Any:
                    if not self.left:
                        raise StopAsyncIteration
                    return self.left.pop()

            return Events()

    assert turn(runtime_model(Iterating())) == [{"messageStart": {"role": "assistant"}}]


def test_runtime_model_when_there_is_no_production_model_then_the_error_says_what_to_do() -> None:
    model = runtime_model()
    assert isinstance(model, OpenAIModel)
    with pytest.raises(NoActiveRolloutError, match="pass the model of your production"):
        turn(model)
    with pytest.raises(NoActiveRolloutError):
        Agent(model=model, callback_handler=None)("2+2?")


# --- within a rollout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_runtime_model_when_within_a_rollout_then_the_agent_plays_at_the_runtime(
    runtime: LocalRuntime, auth: Any, stream: bool
) -> None:
    production = ScriptedModel()
    model = runtime_model(production, auth=auth, stream=stream, trusted_endpoints=[runtime.endpoint])

    payload = runtime.new_rollout("2+2?", inference_params={"temperature": 0.25, "topP": 0.5, "maxTokens": 77})
    with RFTContext.bind(payload) as rollout:
        answer = Agent(model=model, tools=[calculator], callback_handler=None)("2+2?")
        assert str(answer).strip() == '{"answer": 4}'
        assert (rollout.turns.begun, rollout.turns.answered, rollout.turns.failed) == (2, 2, 0)
    (trajectory,) = runtime.trajectories()
    requests: list[Any] = [recorded.request for recorded in trajectory.turns]
    assert len(requests) == 2
    for request in requests:
        assert (request["model"], request["temperature"], request["top_p"]) == ("default", 0.25, 0.5)
        assert (request["max_tokens"], bool(request.get("stream"))) == (77, stream)
    assert production.asked == []


def test_runtime_model_when_structured_output_is_asked_then_each_call_is_a_turn(
    runtime: LocalRuntime, auth: Any
) -> None:
    model = runtime_model(ScriptedModel(), auth=auth, trusted_endpoints=[runtime.endpoint])

    async def structured() -> Any:
        return [event async for event in model.structured_output(Verdict, USER)]

    with RFTContext.bind(runtime.new_rollout("2+2?")) as rollout:
        assert asyncio.run(structured()) == [{"output": Verdict(answer=4)}]
        assert (rollout.turns.begun, rollout.turns.answered) == (1, 1)
    assert len(runtime.trajectories()[0].turns) == 1


def test_runtime_model_when_within_a_rollout_then_it_speaks_of_the_runtime() -> None:
    production = ScriptedModel()
    model = runtime_model(production, context_window_limit=32_000)
    with RFTContext.bind(ga_payload()):
        assert (model.stateful, model._supports_structured_output) == (False, False)
        assert model.context_window_limit == 32_000
        assert runtime_model(production).context_window_limit == 100
        assert asyncio.run(model.count_tokens(USER)) < 100
    assert production.asked == []


def test_runtime_model_when_configured_then_the_payload_wins_and_nothing_is_kept(service: Service) -> None:
    params = {"max_completion_tokens": 5, "temperature": 1.0, "seed": 3}
    model = runtime_model(model_id="m", params=params, client_args={"default_headers": {"X-Mine": "1"}})
    before = repr(vars(model))
    with RFTContext.bind(service.payload(temperature=0.0, maxTokens=9)):
        turn(model)
    (request,) = service.inference
    assert {name: request.json[name] for name in ("model", "max_completion_tokens", "temperature", "seed")} == {
        "model": "m",
        "max_completion_tokens": 9,
        "temperature": 0.0,
        "seed": 3,
    }
    assert "max_tokens" not in request.json
    assert request.headers["x-mine"] == "1"
    assert repr(vars(model)) == before
    assert params == {"max_completion_tokens": 5, "temperature": 1.0, "seed": 3}


def test_runtime_model_when_rollouts_nest_then_each_uses_its_own_runtime(service: Service) -> None:
    model = runtime_model()
    with (
        LocalRuntime(lambda request: "inner") as inner,
        RFTContext.bind(service.payload("outer-1")) as outer,
    ):
        assert said(turn(model)) == "ok"
        with RFTContext.bind(inner.new_rollout("p")) as nested:
            assert said(turn(model)) == "inner"
            assert nested.turns.begun == 1
        assert said(turn(model)) == "ok"
        assert outer.turns.begun == 2
        assert len(inner.trajectories()[0].turns) == 1
    assert [request.trajectory_id for request in service.inference] == ["outer-1"] * 2


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_runtime_model_when_copied_then_the_copy_is_both_models_too(service: Service, again: Any) -> None:
    model = again(runtime_model(ScriptedModel(), model_id="m"))
    assert said(turn(model)) == "production"
    with RFTContext.bind(service.payload()) as rollout:
        assert said(turn(model)) == "ok"
        assert (rollout.turns.begun, rollout.turns.answered) == (1, 1)


# --- production while rollouts run -----------------------------------------------------------------------------------


def test_runtime_model_when_a_thread_has_lost_the_rollout_then_its_calls_of_production_are_seen(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    model = runtime_model(ScriptedModel())
    with (
        RFTContext.bind(service.payload("t-1")) as first,
        RFTContext.bind(service.payload("t-2")) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        assert said(pool.submit(turn, model).result()) == "production"
        assert said(pool.submit(turn, model).result()) == "production"
        assert said(pool.submit(RFTContext.carry(turn), model).result()) == "ok"
        assert (first.foreign_calls, second.foreign_calls) == (2, 2)
        assert (first.turns.begun, second.turns.begun) == (0, 1)
    (record,) = caplog.records  # once for each rollout, not for each call
    assert record.levelname == "WARNING"
    for word in ("ScriptedModel", "t-1", "t-2", "RFTContext.carry"):
        assert word in record.getMessage()


def test_runtime_model_when_no_rollout_is_in_progress_then_production_is_nothing_special(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with RFTContext.bind(service.payload()) as rollout:
        pass
    turn(runtime_model(ScriptedModel()))
    assert (caplog.records, rollout.foreign_calls) == ([], 0)


# --- construction ----------------------------------------------------------------------------------------------------


def test_runtime_model_when_made_of_a_runtime_model_then_production_is_the_innermost(service: Service) -> None:
    production = ScriptedModel()
    model = runtime_model(runtime_model(production), model_id="other")
    assert said(turn(model)) == "production"
    with RFTContext.bind(service.payload()):
        turn(model)
    assert service.inference[0].json["model"] == "other"
    assert wrap_model(model) is model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"auth": "basic"}, "auth is 'basic'"),
        ({"production": object()}, "must be a Strands model or None, not object"),
        ({"client_args": {"api_key": "k"}}, "api_key is made anew"),
        ({"client": openai.AsyncOpenAI(api_key="k")}, "client is made anew"),
    ],
)
def test_runtime_model_when_an_argument_cannot_be_then_the_error_says_so(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        runtime_model(**arguments)


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.fixture
def runtimes(aws_keys: Keys, auth: Any) -> Iterator[list[LocalRuntime]]:
    with contextlib.ExitStack() as stack:
        keys = Keys(*KEYS_IN_ENVIRONMENT)
        yield [stack.enter_context(LocalRuntime(echo, auth=auth, credentials=keys)) for _ in range(2)]


def test_runtime_model_when_a_hundred_rollouts_share_it_as_tasks_then_each_has_its_own_turns(
    runtimes: list[LocalRuntime], auth: Any
) -> None:
    trusted = [runtime.endpoint for runtime in runtimes]
    model = runtime_model(ScriptedModel(), auth=auth, trusted_endpoints=trusted)

    async def call(prompt: str) -> None:
        await Agent(model=model, callback_handler=None).invoke_async(prompt)

    as_tasks(payloads(runtimes, 100), call)


def test_runtime_model_when_a_hundred_rollouts_share_it_over_threads_then_each_has_its_own_turns(
    runtimes: list[LocalRuntime], auth: Any
) -> None:
    trusted = [runtime.endpoint for runtime in runtimes]
    model = runtime_model(ScriptedModel(), auth=auth, trusted_endpoints=trusted)
    over_threads(payloads(runtimes, 100), lambda prompt: Agent(model=model, callback_handler=None)(prompt))
