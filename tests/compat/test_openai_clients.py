"""Clients that are built on `openai`, whichever of its major versions is installed. Clients that are not are skipped.

Strands pins openai 2, so openai 3 is tested in an environment of its own: `python benchmarks/versions.py openai`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
from fakes import Service, chat_answer, say

from aws_rft_sdk import LocalRuntime, RFTContext
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import instrument
from tests.adapters.rollouts import as_tasks, echo, over_threads, payloads

ROLLOUTS, TURNS = 20, 4
Ask = Callable[[str], Awaitable[str]]


def client(endpoint: str) -> openai.AsyncOpenAI:
    return instrument(openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="k", max_retries=0))


def by_openai(endpoint: str, streams: bool) -> Ask:
    chat = client(endpoint).chat.completions

    async def ask(prompt: str) -> str:
        asked: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": prompt}]}
        if not streams:
            return str((await chat.create(**asked)).choices[0].message.content)
        chunks = [chunk async for chunk in await chat.create(**asked, stream=True)]
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

    return ask


def by_openai_helper(endpoint: str, streams: bool) -> Ask:
    chat = client(endpoint).chat.completions

    async def ask(prompt: str) -> str:
        asked: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": prompt}]}
        if not streams:
            return str((await chat.parse(**asked)).choices[0].message.content)
        async with chat.stream(**asked) as stream:
            return str((await stream.get_final_completion()).choices[0].message.content)

    return ask


def by_langchain(endpoint: str, streams: bool) -> Ask:
    langchain_openai = pytest.importorskip("langchain_openai")
    chat = langchain_openai.ChatOpenAI(model="default", base_url=f"{endpoint}/v1", api_key="k", **http_clients())

    async def ask(prompt: str) -> str:
        if not streams:
            return str((await chat.ainvoke(prompt)).content)
        return "".join([chunk.content async for chunk in chat.astream(prompt)])

    return ask


def by_openai_agents(endpoint: str, streams: bool) -> Ask:
    agents = pytest.importorskip("agents")
    model = agents.OpenAIChatCompletionsModel("default", client(endpoint))
    agent = agents.Agent(name="a", model=model)
    config = agents.RunConfig(tracing_disabled=True)

    async def ask(prompt: str) -> str:
        if not streams:
            return str((await agents.Runner.run(agent, prompt, run_config=config)).final_output)
        run = agents.Runner.run_streamed(agent, prompt, run_config=config)
        async for _ in run.stream_events():
            pass
        return str(run.final_output)

    return ask


def by_pydantic_ai(endpoint: str, streams: bool) -> Ask:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = pydantic_ai.Agent(OpenAIChatModel("default", provider=OpenAIProvider(openai_client=client(endpoint))))

    async def ask(prompt: str) -> str:
        if not streams:
            return str((await agent.run(prompt)).output)
        async with agent.run_stream(prompt) as run:
            return "".join([text async for text in run.stream_text(delta=True)])

    return ask


def by_openai_in_a_thread(endpoint: str, streams: bool) -> Ask:
    chat = instrument(openai.OpenAI(base_url=f"{endpoint}/v1", api_key="k", max_retries=0)).chat.completions

    async def ask(prompt: str) -> str:
        asked: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": prompt}]}
        if not streams:
            return str(chat.create(**asked).choices[0].message.content)
        return "".join(
            choice.delta.content or "" for part in chat.create(**asked, stream=True) for choice in part.choices
        )

    return ask


def by_langchain_in_a_thread(endpoint: str, streams: bool) -> Ask:
    langchain_openai = pytest.importorskip("langchain_openai")
    chat = langchain_openai.ChatOpenAI(model="default", base_url=f"{endpoint}/v1", api_key="k", **http_clients())

    async def ask(prompt: str) -> str:
        return "".join(part.content for part in chat.stream(prompt)) if streams else str(chat.invoke(prompt).content)

    return ask


TASKS = [by_openai, by_openai_helper, by_langchain, by_openai_agents, by_pydantic_ai]
IN_THREADS = [by_openai_in_a_thread, by_langchain_in_a_thread]
either_way = pytest.mark.parametrize("streams", [False, True], ids=["whole", "streams"])


@pytest.fixture(scope="module")
def runtimes() -> Iterator[list[LocalRuntime]]:
    with LocalRuntime(echo) as runtime:
        yield [runtime]


def asked_right(ask: Ask) -> Ask:
    """Ask, and fail unless the answer is the one to this prompt and all turns so far are answered ones."""

    async def checked(prompt: str) -> str:
        assert await ask(prompt) == prompt
        rollout = RFTContext.current()
        assert rollout is not None
        turns = rollout.turns
        assert turns.answered == len(rollout.span_ids), f"{turns} for {len(rollout.span_ids)} calls"
        return prompt

    return checked


@pytest.mark.parametrize("make", TASKS, ids=lambda make: make.__name__[3:])
@either_way
def test_clients_when_many_rollouts_are_tasks_of_one_loop_then_each_turn_is_under_its_own_trajectory(
    make: Callable[[str, bool], Ask], streams: bool, runtimes: list[LocalRuntime]
) -> None:
    as_tasks(payloads(runtimes, ROLLOUTS), asked_right(make(runtimes[0].endpoint, streams)), TURNS)


@pytest.mark.parametrize("make", [*TASKS, *IN_THREADS], ids=lambda make: make.__name__[3:])
@either_way
def test_clients_when_many_rollouts_run_over_threads_then_each_turn_is_under_its_own_trajectory(
    make: Callable[[str, bool], Ask], streams: bool, runtimes: list[LocalRuntime]
) -> None:
    ask = asked_right(make(runtimes[0].endpoint, streams))
    over_threads(payloads(runtimes, ROLLOUTS), lambda prompt: asyncio.run(ask(prompt)), TURNS)


# Not the synchronous clients: openai closes the connection of their streams after [DONE], before its last bytes came.
@pytest.mark.parametrize("make", TASKS, ids=lambda make: make.__name__[3:])
@either_way
def test_clients_when_turns_follow_each_other_then_they_share_one_connection(
    make: Callable[[str, bool], Ask], streams: bool, service: Service
) -> None:
    service.policy = lambda request: chat_answer(request, say("2+2?"))
    ask = asked_right(make(service.endpoint, streams))

    async def main() -> None:
        for number in range(5):
            with RFTContext.bind(service.payload(f"t-{number}")):
                await ask("2+2?")

    asyncio.run(main())
    assert [request.trajectory_id for request in service.inference] == [f"t-{number}" for number in range(5)]
    assert len({request.connection for request in service.inference}) == 1
