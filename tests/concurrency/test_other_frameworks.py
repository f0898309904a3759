"""Agents of other frameworks over one shared client, many rollouts at once: every turn under its own trajectory.

24 rollouts of each framework run by default. `MATRIX_ROLLOUTS=100 pytest tests/concurrency` runs more of them.
Frameworks that are not installed are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from aws_rft_sdk import LocalRuntime, rft_handler
from aws_rft_sdk._frozen import thaw
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import instrument
from tests.concurrency.everyone import Everyone
from tests.concurrency.shapes import MARKER, policy

ROLLOUTS = int(os.environ.get("MATRIX_ROLLOUTS", "24"))

Ask = Callable[[str], Awaitable[Any]]


def client(runtime: LocalRuntime) -> openai.AsyncOpenAI:
    return instrument(openai.AsyncOpenAI(base_url=f"{runtime.endpoint}/v1", api_key="k"))


def look_up(text: str) -> str:
    """Look something up."""
    return f"about {text}"


def openai_agents(runtime: LocalRuntime) -> Ask:
    return _openai_agents("OpenAIChatCompletionsModel", runtime)


def openai_agents_on_responses(runtime: LocalRuntime) -> Ask:
    return _openai_agents("OpenAIResponsesModel", runtime)


def _openai_agents(model_class: str, runtime: LocalRuntime) -> Ask:
    agents = pytest.importorskip("agents")
    model = getattr(agents, model_class)(model="default", openai_client=client(runtime))
    config = agents.RunConfig(tracing_disabled=True)

    async def ask(prompt: str) -> Any:
        agent = agents.Agent(name="a", model=model, tools=[agents.function_tool(look_up)])
        streamed = agents.Runner.run_streamed(agent, prompt, run_config=config)
        async for _ in streamed.stream_events():
            pass
        result = await agents.Runner.run(agent, prompt, run_config=config)
        return f"{result.final_output} {streamed.final_output}"

    return ask


def pydantic_ai(runtime: LocalRuntime) -> Ask:
    framework = pytest.importorskip("pydantic_ai")
    models = pytest.importorskip("pydantic_ai.models.openai")
    providers = pytest.importorskip("pydantic_ai.providers.openai")
    provider = providers.OpenAIProvider(openai_client=client(runtime))
    agent = framework.Agent(models.OpenAIChatModel("default", provider=provider), tools=[look_up])

    async def ask(prompt: str) -> Any:
        async with agent.run_stream(prompt) as streamed:
            text = await streamed.get_output()
        return f"{(await agent.run(prompt)).output} {text}"

    return ask


def langchain(runtime: LocalRuntime) -> Ask:
    framework = pytest.importorskip("langchain.agents")
    models = pytest.importorskip("langchain_openai")
    model = models.ChatOpenAI(model="default", base_url=f"{runtime.endpoint}/v1", api_key="k", **http_clients())
    agent = framework.create_agent(model, tools=[look_up])

    async def ask(prompt: str) -> Any:
        question = {"messages": [("user", prompt)]}
        streamed = [str(step) async for step in agent.astream(question)]
        result = await asyncio.to_thread(agent.invoke, question)
        return f"{result['messages'][-1].content} {streamed[-1]}"

    return ask


@pytest.mark.filterwarnings("default")  # what others deprecate is not under test
@pytest.mark.parametrize("framework", [openai_agents, openai_agents_on_responses, pydantic_ai, langchain])
def test_rollouts_when_they_run_at_once_then_every_turn_is_under_its_own_trajectory(
    framework: Callable[[LocalRuntime], Ask],
) -> None:
    async def main(runtime: LocalRuntime) -> None:
        payloads = [runtime.new_rollout(f"rollout-{i:04}") for i in range(ROLLOUTS)]
        ask, everyone = framework(runtime), Everyone(ROLLOUTS)

        async def ask_for(payload: dict[str, Any]) -> float:
            assert set(MARKER.findall(str(await ask(payload["prompt"])))) == {payload["prompt"]}
            return 1.0

        @rft_handler
        async def in_loop(payload: dict[str, Any]) -> float:
            await everyone.wait_in_loop()
            return await ask_for(payload)

        @rft_handler
        def in_thread(payload: dict[str, Any]) -> float:
            everyone.wait()
            return asyncio.run(ask_for(payload))

        with ThreadPoolExecutor(ROLLOUTS) as pool:
            loop = asyncio.get_running_loop()
            threads = [loop.run_in_executor(pool, in_thread, payload) for payload in payloads[::2]]
            await asyncio.gather(*threads, *(in_loop(payload) for payload in payloads[1::2]))

    with LocalRuntime(policy=policy) as runtime:
        asyncio.run(main(runtime))
        trajectories = runtime.trajectories()
        assert runtime.problems() == []
        assert runtime.untracked_calls == 0
    assert len(trajectories) == ROLLOUTS
    for trajectory in trajectories:
        requests = json.dumps([thaw(turn.request) for turn in trajectory.turns])
        assert set(MARKER.findall(requests)) == {trajectory.prompt}
        assert (len(trajectory.turns), trajectory.rewards) == (4, (1.0,))
