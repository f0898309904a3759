"""instrument: OpenAI clients whose inference calls are turns of the rollout in progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fakes import Answer, Recorded, Service, chat_answer, error, say
from pydantic import BaseModel
from strands.models.openai import OpenAIModel

from aws_rft_sdk import LocalRuntime, RFTContext, wrap_model
from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.adapters.openai import instrument, runtime_client_args
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.errors import ConfigurationError

from .callers import CHAT, Caller, turns
from .rollouts import KEYS_IN_ENVIRONMENT, as_tasks, echo, over_threads, payloads

RESPONSE: dict[str, Any] = {"model": "default", "input": "2+2?"}


class Verdict(BaseModel):
    """What the model is to say."""

    answer: int


def is_tracked(request: Recorded) -> bool:
    return any("trajectory" in name or "span-id" in name or "job-arn" in name for name in request.headers)


# --- within a rollout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_instrument_when_within_a_rollout_then_each_call_is_one_turn(
    aws_keys: Keys, clients: Any, caller: Caller, api: str, stream: bool
) -> None:
    with LocalRuntime(lambda request: "hello", auth="bearer", credentials=Keys(*KEYS_IN_ENVIRONMENT)) as runtime:
        with RFTContext.bind(runtime.new_rollout("p")) as rollout:
            options = runtime_client_args(trusted_endpoints=[runtime.endpoint])
            client = instrument(clients(runtime.endpoint).with_options(**options))
            create, request = {
                "chat": (client.chat.completions.create, CHAT),
                "responses": (client.responses.create, RESPONSE),
            }[api]
            for _ in range(2):
                assert "hello" in repr(caller.call(create, **request, **({"stream": True} if stream else {})))
            assert turns(rollout) == (2, 2, 0)
        recorded = runtime.trajectories()[0].turns
        assert [turn.span_id for turn in recorded] == list(rollout.span_ids)
        assert runtime.untracked_calls == 0


def test_instrument_when_answers_are_parsed_or_raw_then_they_are_turns_too(
    service: Service, clients: Any, caller: Caller
) -> None:
    service.policy = lambda request: chat_answer(request, say('{"answer": 4}'))
    client = instrument(clients(service.endpoint))
    with RFTContext.bind(service.payload()) as rollout:
        parsed = caller.call(client.chat.completions.parse, **CHAT, response_format=Verdict)
        assert parsed.choices[0].message.parsed == Verdict(answer=4)
        raw = caller.call(client.chat.completions.with_raw_response.create, **CHAT)
        assert raw.parse().choices[0].message.content == '{"answer": 4}'
        assert turns(rollout) == (2, 2, 0)
    sent = service.inference[0].headers
    assert sent["x-rft-job-arn"] == sent["x-amzn-sagemaker-job-arn"] == rollout.job_arn
    assert sent["x-trajectory-id"] == sent["x-amzn-sagemaker-trajectory-id"] == "traj-1"
    assert sent["x-span-id"] == rollout.span_ids[0]


def test_instrument_when_legacy_completions_are_called_then_they_are_turns_and_embeddings_are_not(
    service: Service, clients: Any, caller: Caller
) -> None:
    body = json.dumps({"data": [], "choices": [], "results": []}).encode()
    service.policy = lambda request: Answer(body=body, headers={"Content-Type": "application/json"})
    client = instrument(clients(service.endpoint))
    with RFTContext.bind(service.payload(temperature=0.5)) as rollout:
        caller.call(client.moderations.create, input="x")
        assert turns(rollout) == (0, 0, 0)
        caller.call(client.completions.create, model="m", prompt="x")
        assert turns(rollout) == (1, 1, 0)
    assert [is_tracked(request) for request in service.requests] == [False, True]
    assert [request.json.get("temperature") for request in service.requests] == [None, 0.5]


def test_instrument_when_outside_a_rollout_then_nothing_differs(service: Service, clients: Any, caller: Caller) -> None:
    client = clients(service.endpoint, max_retries=1)
    service.script(error(500, retry_after="0.001"))
    assert caller.chat(instrument(client)).choices[0].message.content == "ok"
    assert len(service.inference) == 2  # its own retry
    assert not any(is_tracked(request) for request in service.requests)
    caller.chat(client)
    mine, theirs = service.inference[1:]
    assert mine.body == theirs.body
    assert set(mine.headers) == set(theirs.headers)


def test_instrument_when_done_then_the_argument_is_as_before(service: Service, clients: Any, caller: Caller) -> None:
    client = clients(service.endpoint, timeout=7.0, max_retries=4, default_headers={"X-Mine": "1"})
    inner = client._client
    tracked = instrument(client)
    assert type(tracked) is type(client)
    assert client._client is inner
    assert (tracked.timeout, tracked.max_retries, str(tracked.base_url)) == (7.0, 4, f"{service.endpoint}/v1/")
    with RFTContext.bind(service.payload()) as rollout:
        caller.chat(client)
        assert rollout.turns.begun == 0
        caller.chat(tracked)
    assert [is_tracked(request) for request in service.inference] == [False, True]
    assert service.inference[1].headers["x-mine"] == "1"


def test_instrument_when_done_twice_or_copied_then_a_call_is_one_turn(
    service: Service, clients: Any, caller: Caller
) -> None:
    tracked = instrument(clients(service.endpoint))
    assert instrument(tracked) is tracked
    copied = tracked.with_options(timeout=9.0)
    assert instrument(copied) is copied
    with RFTContext.bind(service.payload()) as rollout:
        caller.chat(copied)
        assert turns(rollout) == (1, 1, 0)


def test_instrument_when_the_client_is_in_a_wrapped_model_then_a_call_is_one_turn(service: Service) -> None:
    async def main() -> None:
        async with instrument(openai.AsyncOpenAI(base_url=f"{service.endpoint}/v1", api_key="k")) as client:
            model = wrap_model(OpenAIModel(client, model_id="default"))
            with RFTContext.bind(service.payload()) as rollout:
                async for _ in model.stream([{"role": "user", "content": [{"text": "2+2?"}]}]):
                    pass
                assert turns(rollout) == (1, 1, 0)
                assert service.inference[0].span_id == rollout.span_ids[0]

    asyncio.run(main())


def test_instrument_when_the_call_carries_headers_made_by_hand_then_they_stand(
    service: Service, clients: Any, caller: Caller
) -> None:
    client = instrument(clients(service.endpoint))
    with RFTContext.bind(service.payload()) as rollout:
        caller.chat(client, extra_headers=rollout.headers())
        assert rollout.turns.begun == 1
        assert service.inference[0].span_id == rollout.span_ids[0]


# --- sampling parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "asked", "expected"),
    [
        ("chat", {"temperature": 1.0}, {"temperature": 0.5, "top_p": 0.25, "max_tokens": 9}),
        ("chat", {"max_tokens": 1}, {"max_tokens": 9}),
        ("chat", {"max_completion_tokens": 1}, {"max_completion_tokens": 9, "max_tokens": None}),
        ("responses", {"max_output_tokens": 1}, {"max_output_tokens": 9, "max_tokens": None, "temperature": 0.5}),
    ],
)
def test_instrument_when_the_payload_names_sampling_parameters_then_they_win(
    service: Service, clients: Any, caller: Caller, api: str, asked: Any, expected: Any
) -> None:
    client = instrument(clients(service.endpoint))
    create, request = {
        "chat": (client.chat.completions.create, {**CHAT, "messages": [{"role": "user", "content": "fünf"}]}),
        "responses": (client.responses.create, RESPONSE),
    }[api]
    with RFTContext.bind(service.payload(temperature=0.5, topP=0.25, maxTokens=9)):
        caller.call(create, **request, **asked)
    sent = service.inference[0].json
    assert {name: sent.get(name) for name in expected} == expected
    assert {name: sent[name] for name in request} == request


def test_instrument_when_sampling_is_the_models_then_the_call_stands(
    service: Service, clients: Any, caller: Caller
) -> None:
    client = instrument(clients(service.endpoint), sampling="model")
    with RFTContext.bind(service.payload(temperature=0.5, maxTokens=9)):
        caller.chat(client, temperature=1.0)
    assert service.inference[0].json["temperature"] == 1.0
    assert "max_tokens" not in service.inference[0].json


# --- HTTP clients of one's own ---------------------------------------------------------------------------------------


def test_instrument_when_the_http_client_is_ones_own_then_it_does_the_sending(service: Service) -> None:
    seen: list[str] = []
    hooks = {"request": [lambda request: seen.append(request.headers["x-span-id"])]}
    with httpx.Client(event_hooks=hooks, headers={"X-Mine": "1"}) as own:
        client = instrument(openai.OpenAI(base_url=f"{service.endpoint}/v1", api_key="k", http_client=own))
        with RFTContext.bind(service.payload()) as rollout:
            client.chat.completions.create(**CHAT)
        assert seen == list(rollout.span_ids)
        assert service.inference[0].headers["x-mine"] == "1"
        assert len(hooks["request"]) == 1
        client.close()
        assert own.is_closed


def test_instrument_when_the_http_client_is_of_the_other_library_then_the_error_names_the_right_one() -> None:
    other = pytest.importorskip("httpx2" if http.__name__ == "httpx" else "httpx")
    with other.Client() as own:
        try:
            plain = openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="k", http_client=own)
        except TypeError:
            pytest.skip("this version of openai does not take it")
        with pytest.raises(ConfigurationError, match=rf"http_client={http.__name__}\.Client\(\)"):
            instrument(plain)


def test_instrument_when_the_client_is_azures_then_its_paths_are_known(service: Service) -> None:
    plain = openai.AzureOpenAI(azure_endpoint=service.endpoint, api_key="k", api_version="2024-06-01")
    with plain, RFTContext.bind(service.payload()) as rollout:
        service.policy = lambda request: chat_answer(request, say("ok"))
        client = instrument(plain)
        assert isinstance(client, openai.AzureOpenAI)
        client.chat.completions.create(**CHAT)
        assert turns(rollout) == (1, 1, 0)


def test_instrument_when_the_argument_cannot_be_then_the_error_says_so() -> None:
    with pytest.raises(ConfigurationError, match="not object"):
        instrument(object())  # type: ignore[type-var] # on purpose
    with openai.OpenAI(api_key="k") as client, pytest.raises(ConfigurationError, match="sampling"):
        instrument(client, sampling="mine")  # type: ignore[arg-type] # on purpose


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runtime() -> Iterator[LocalRuntime]:
    with LocalRuntime(echo) as runtime:
        yield runtime


def ask(prompt: str) -> dict[str, Any]:
    return {"model": "default", "messages": [{"role": "user", "content": prompt}]}


@pytest.mark.parametrize("stream", [False, True])
def test_instrument_when_a_hundred_tasks_share_a_client_then_each_has_its_own_turns(
    runtime: LocalRuntime, stream: bool
) -> None:
    plain = openai.AsyncOpenAI(base_url=f"{runtime.endpoint}/v1", api_key="k")
    client = instrument(plain)

    async def call(prompt: str) -> None:
        answer = await client.chat.completions.create(**ask(prompt), stream=stream)
        if stream:
            async for _ in answer:
                pass

    as_tasks(payloads([runtime], 100), call)
    asyncio.run(plain.close())


def test_instrument_when_a_hundred_rollouts_share_a_client_over_threads_then_each_has_its_own_turns(
    runtime: LocalRuntime,
) -> None:
    with openai.OpenAI(base_url=f"{runtime.endpoint}/v1", api_key="k") as plain:
        client = instrument(plain)
        over_threads(payloads([runtime], 100), lambda prompt: client.chat.completions.create(**ask(prompt)))


def test_instrument_when_loops_of_many_threads_share_a_client_then_each_has_its_own_turns(
    runtime: LocalRuntime,
) -> None:
    plain = openai.AsyncOpenAI(base_url=f"{runtime.endpoint}/v1", api_key="k")
    client = instrument(plain)

    async def call(prompt: str) -> None:
        await client.chat.completions.create(**ask(prompt))

    over_threads(payloads([runtime], 100), lambda prompt: asyncio.run(call(prompt)))
    asyncio.run(plain.close())
