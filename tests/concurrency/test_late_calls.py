"""Work that outlives its rollout and calls the model: the call is not sent, and its error names the rollout."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import openai
import pytest
from fakes import Service
from strands import Agent
from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import instrument
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.errors import NoActiveRolloutError, RolloutTimeoutError
from aws_rft_sdk.lifecycle import one_rollout

ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}


def strands_model(service: Service) -> Model:
    client_args = {"api_key": "k", "base_url": f"{service.endpoint}/v1"}
    return wrap_model(OpenAIModel(model_id="default", client_args=client_args))


def routed_model(service: Service) -> Model:
    return runtime_model()


def links(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def names_the_rollout(error: BaseException | None) -> bool:
    return any(isinstance(link, NoActiveRolloutError) and "t-late takes no more" in str(link) for link in links(error))


@pytest.mark.parametrize("model_of", [strands_model, routed_model])
def test_task_when_it_outlives_its_coroutine_handler_then_its_model_call_names_the_rollout(
    service: Service, model_of: Callable[[Service], Model]
) -> None:
    agent = Agent(model=model_of(service), callback_handler=None)

    async def main() -> None:
        reported, left = asyncio.Event(), list[asyncio.Task[Any]]()

        async def summarize() -> Any:
            await reported.wait()
            return await agent.invoke_async("summarize")

        @rft_handler
        async def handler(payload: dict[str, Any]) -> float:
            await agent.invoke_async("hello")
            left.append(asyncio.create_task(summarize()))
            return 1.0

        await handler(service.payload("t-late"))
        reported.set()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - Strands may wrap it
            await left[0]
        assert names_the_rollout(caught.value)

    asyncio.run(main())
    assert len(service.inference) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_openai_client_when_work_outlives_the_rollout_then_its_error_says_so_at_once(
    service: Service, kind: str
) -> None:
    reported, left = threading.Event(), list[Future[Any]]()

    def ask() -> Any:
        reported.wait(10)
        if kind == "sync":
            with instrument(openai.OpenAI(base_url=f"{service.endpoint}/v1", api_key="k")) as client:
                return client.chat.completions.create(**ASK)

        async def ask_async() -> Any:
            async with instrument(openai.AsyncOpenAI(base_url=f"{service.endpoint}/v1", api_key="k")) as client:
                return await client.chat.completions.create(**ASK)

        return asyncio.run(ask_async())

    with ThreadPoolExecutor(1) as pool:

        @rft_handler(require_turns=False)
        def handler(payload: dict[str, Any]) -> float:
            left.append(pool.submit(RFTContext.carry(ask)))
            return 1.0

        handler(service.payload("t-late"))
        reported.set()
        with pytest.raises(openai.APIConnectionError, match="t-late takes no more turns"):
            left[0].result(20)
    assert service.inference == []


def test_handler_thread_when_its_rollout_was_given_up_then_its_next_model_call_is_not_sent(service: Service) -> None:
    agent = Agent(model=strands_model(service), callback_handler=None)
    asked, given_up = threading.Event(), threading.Event()

    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        agent("hello")
        asked.set()
        given_up.wait(30)
        agent("and again")
        return 1.0

    with ThreadPoolExecutor(1) as pool:
        lingering = pool.submit(handler, service.payload("t-late"))
        assert asked.wait(30)
        [rollout] = [rollout for rollout in one_rollout.running() if rollout.context.trajectory_id == "t-late"]
        rollout.failed(RolloutTimeoutError("its deadline passed"))  # as a worker does; threads cannot be stopped
        given_up.set()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - Strands may wrap it
            lingering.result(30)
    assert names_the_rollout(caught.value)
    assert len(service.inference) == 1
    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]
