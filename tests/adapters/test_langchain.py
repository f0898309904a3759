"""http_clients: the real ChatOpenAI, whose model calls are turns of the rollout in progress."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from fakes import Answer, Service, chat_answer, error, refused_endpoint, say
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from aws_rft_sdk import LocalRuntime, RFTContext
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.errors import ConfigurationError

from .callers import turns
from .rollouts import KEYS_IN_ENVIRONMENT, as_tasks, echo, over_threads, payloads


class Verdict(BaseModel):
    """What the model is to say."""

    answer: int


def invoke(chat: Any, prompt: str) -> str:
    return str(chat.invoke(prompt).content)


def ainvoke(chat: Any, prompt: str) -> str:
    return str(asyncio.run(chat.ainvoke(prompt)).content)


def stream(chat: Any, prompt: str) -> str:
    return "".join(chunk.content for chunk in chat.stream(prompt))


def astream(chat: Any, prompt: str) -> str:
    async def main() -> str:
        return "".join([chunk.content async for chunk in chat.astream(prompt)])

    return asyncio.run(main())


WAYS = [invoke, ainvoke, stream, astream]
Way = Callable[[Any, str], str]


@pytest.fixture(scope="module")
def runtime() -> Iterator[LocalRuntime]:
    with LocalRuntime(echo) as runtime:
        yield runtime


def chat_model(endpoint: str, **options: Any) -> ChatOpenAI:
    chat: dict[str, Any] = {"model": "default", "base_url": f"{endpoint}/v1", "api_key": "k", **http_clients()}
    return ChatOpenAI(**{**chat, **options})


@pytest.mark.parametrize("way", WAYS)
def test_chat_when_within_a_rollout_then_each_call_is_one_turn(runtime: LocalRuntime, way: Way) -> None:
    chat = chat_model(runtime.endpoint)
    payload = runtime.new_rollout("p", inference_params={"temperature": 0.25, "maxTokens": 7})
    with RFTContext.bind(payload) as rollout:
        assert [way(chat, "one"), way(chat, "two")] == ["one", "two"]
        assert turns(rollout) == (2, 2, 0)
    recorded: list[Any] = list(runtime.trajectory(rollout.trajectory_id).turns)
    assert [turn.span_id for turn in recorded] == list(rollout.span_ids)
    assert [turn.request["temperature"] for turn in recorded] == [0.25, 0.25]
    limits = [turn.request.get("max_completion_tokens") or turn.request.get("max_tokens") for turn in recorded]
    assert limits == [7, 7]
    assert runtime.untracked_calls == 0


@pytest.mark.parametrize("way", WAYS)
def test_chat_when_outside_a_rollout_then_nothing_is_added(service: Service, way: Way) -> None:
    assert way(chat_model(service.endpoint), "one") == "ok"
    (request,) = service.requests
    assert not any("trajectory" in name or "span-id" in name for name in request.headers)


def test_chat_when_made_in_the_handler_then_it_reaches_the_payloads_runtime(aws_keys: Keys) -> None:
    with LocalRuntime(echo, auth="bearer", credentials=Keys(*KEYS_IN_ENVIRONMENT)) as runtime:
        with RFTContext.bind(runtime.new_rollout("p")) as rollout:
            chat = ChatOpenAI(
                model="default", **http_clients(), **runtime_client_args(trusted_endpoints=[runtime.endpoint])
            )
            assert chat.invoke("one").content == "one"
            assert turns(rollout) == (1, 1, 0)
        assert len(runtime.trajectories()[0].turns) == 1


def test_chat_when_it_calls_tools_or_gives_structure_then_each_call_is_one_turn(service: Service) -> None:
    @tool
    def calculator(expression: str) -> str:
        """Add up."""
        return "4"

    service.policy = lambda request: chat_answer(request, say('{"answer": 4}'))
    chat = chat_model(service.endpoint)
    with RFTContext.bind(service.payload()) as rollout:
        chat.bind_tools([calculator]).invoke("2+2?")
        assert chat.with_structured_output(Verdict, method="json_schema").invoke("2+2?") == Verdict(answer=4)
        assert [message.content for message in chat.batch(["a", "b", "c"])] == ['{"answer": 4}'] * 3
        assert turns(rollout) == (5, 5, 0)
    assert {request.span_id for request in service.inference} == set(rollout.span_ids)


def test_chat_when_it_uses_the_responses_api_then_each_call_is_one_turn(service: Service) -> None:
    chat = chat_model(service.endpoint, use_responses_api=True)
    with RFTContext.bind(service.payload(maxTokens=9)) as rollout:
        assert chat.invoke("2+2?").text == "ok"
        assert turns(rollout) == (1, 1, 0)
    assert (service.inference[0].path, service.inference[0].json["max_output_tokens"]) == ("/v1/responses", 9)


def test_chat_when_sampling_is_the_models_then_the_model_keeps_its_own(service: Service) -> None:
    chat = chat_model(service.endpoint, temperature=0.9, **http_clients(sampling="model"))
    with RFTContext.bind(service.payload(temperature=0.1)):
        chat.invoke("2+2?")
    assert service.inference[0].json["temperature"] == 0.9
    with pytest.raises(ConfigurationError, match="sampling"):
        http_clients(sampling="mine")  # type: ignore[arg-type] # on purpose


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [error(500), Answer(reset=True)], ids=["500", "reset"])
def test_turn_when_it_may_have_been_sampled_then_chat_openai_does_not_retry(
    service: Service, way: Way, answer: Answer
) -> None:
    chat = chat_model(service.endpoint, max_retries=5)
    service.script(answer)
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.APIError):
            way(chat, "one")
        assert turns(rollout) == (1, 0, 1)
    assert len(service.requests) == 1


@pytest.mark.parametrize("way", WAYS)
def test_turn_when_turned_away_then_it_is_sent_again_under_the_same_span_id(service: Service, way: Way) -> None:
    service.script(error(429), error(503))
    with RFTContext.bind(service.payload()) as rollout:
        assert way(chat_model(service.endpoint, max_retries=0), "one") == "ok"
        assert turns(rollout) == (1, 1, 0)
    assert [request.span_id for request in service.requests] == [rollout.span_ids[0]] * 3


@pytest.mark.parametrize("way", WAYS)
def test_turn_when_nobody_listens_then_it_has_failed(service: Service, way: Way) -> None:
    with refused_endpoint() as endpoint, RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.APIConnectionError):
            way(chat_model(endpoint, max_retries=2), "one")
        assert turns(rollout) == (1, 0, 1)


@pytest.mark.parametrize("way", [invoke, ainvoke])
def test_chat_when_outside_a_rollout_then_its_own_retries_are_as_ever(service: Service, way: Way) -> None:
    service.script(error(500, retry_after="0.001"))
    assert way(chat_model(service.endpoint, max_retries=1), "one") == "ok"
    assert len(service.requests) == 2


# --- many at once, many loops ----------------------------------------------------------------------------------------


def test_chat_when_a_hundred_tasks_share_it_then_each_has_its_own_turns(runtime: LocalRuntime) -> None:
    as_tasks(payloads([runtime], 100), chat_model(runtime.endpoint).ainvoke)


@pytest.mark.parametrize("way", WAYS)
def test_chat_when_threads_with_loops_of_their_own_share_it_then_each_has_its_own_turns(
    runtime: LocalRuntime, way: Way
) -> None:
    chat = chat_model(runtime.endpoint)
    over_threads(payloads([runtime], 40), lambda prompt: way(chat, prompt))


def test_chat_when_loops_come_and_go_then_connections_are_shared_within_each(service: Service) -> None:
    chat = chat_model(service.endpoint)

    async def twice() -> None:
        await chat.ainvoke("one")
        await chat.ainvoke("two")

    for _ in range(3):
        asyncio.run(twice())
    assert len({request.connection for request in service.requests}) == 3


def test_chat_when_models_are_made_anew_then_they_share_the_connections_of_the_process(service: Service) -> None:
    for _ in range(3):
        chat_model(service.endpoint).invoke("one")
    assert len({request.connection for request in service.requests}) == 1


def test_chat_when_the_process_ends_then_nothing_is_left_open(service: Service) -> None:
    program = f"""
import asyncio
from langchain_openai import ChatOpenAI
from aws_rft_sdk import RFTContext
from aws_rft_sdk.adapters.langchain import http_clients

chat = ChatOpenAI(model="m", base_url="{service.endpoint}/v1", api_key="k", **http_clients())
with RFTContext.bind({service.payload()!r}):
    chat.invoke("one")
    list(chat.stream("two"))
    asyncio.run(chat.ainvoke("three"))
"""
    warned = ["-W", "error::ResourceWarning", "-c", program]
    done = subprocess.run([sys.executable, *warned], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(service.inference) == 3
