"""200 concurrent rollouts that share one wrapped model: every turn under its own trajectory, none elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes import Answer, Recorded, Service, call_tool, chat_answer, say
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, rft_handler, wrap_model

ROLLOUTS = 200
TURNS = 3


@tool
def look_up(key: str) -> str:
    """Look something up.

    Args:
        key: What.
    """
    return f"about {key}"


def policy(request: Recorded) -> Answer:
    """Call the tool until it was called often enough, with the rollout's name, then say the name."""
    if request.path != "/v1/chat/completions":
        return Answer()
    messages = request.json["messages"]
    name = messages[0]["content"]
    name = name if isinstance(name, str) else name[0]["text"]
    calls = sum(message["role"] == "tool" for message in messages)
    return chat_answer(request, call_tool("look_up", key=name) if calls < TURNS - 1 else say(name))


def prompt_of(request: Recorded) -> str:
    content = request.json["messages"][0]["content"]
    return content if isinstance(content, str) else content[0]["text"]


@pytest.fixture
def model(service: Service) -> OpenAIModel:
    service.policy = policy
    return wrap_model(
        OpenAIModel(model_id="default", client_args={"api_key": "k", "base_url": f"{service.endpoint}/v1"})
    )


def check(service: Service) -> None:
    assert len(service.inference) == ROLLOUTS * TURNS
    # What each request carried: the prompt names the rollout that it belongs to.
    assert all(request.trajectory_id == prompt_of(request) for request in service.inference)
    assert all(request.json["temperature"] == temperature_of(request.trajectory_id) for request in service.inference)
    assert set(Counter(request.trajectory_id for request in service.inference).values()) == {TURNS}
    assert len({request.span_id for request in service.inference}) == ROLLOUTS * TURNS
    rewards = {request.json["TrajectoryId"]: request.json["Rewards"] for request in service.of("/UpdateReward")}
    assert rewards == {f"t{i}": [float(i)] for i in range(ROLLOUTS)}
    assert len(service.of("/CompleteTrajectory")) == ROLLOUTS


def temperature_of(trajectory_id: Any) -> float:
    return int(str(trajectory_id)[1:]) / 1000


def payload(service: Service, i: int) -> dict[str, Any]:
    return service.payload(f"t{i}", prompt=f"t{i}", temperature=i / 1000)


def test_rollouts_when_200_run_as_tasks_then_every_turn_is_its_own(service: Service, model: OpenAIModel) -> None:
    async def main() -> None:
        everyone, arrived = asyncio.Event(), []

        @rft_handler
        async def handler(payload: dict[str, Any]) -> float:
            arrived.append(payload)
            if len(arrived) == ROLLOUTS:
                everyone.set()
            await everyone.wait()  # all 200 are within their rollouts at once
            agent = Agent(model=model, tools=[look_up], callback_handler=None)
            answer = str(await agent.invoke_async(payload["prompt"])).strip()
            context = RFTContext.current()
            assert context is not None
            assert answer == context.trajectory_id
            assert context.turns.begun == TURNS
            return float(answer[1:])

        await asyncio.gather(*(handler(payload(service, i)) for i in range(ROLLOUTS)))

    asyncio.run(main())
    check(service)


def test_rollouts_when_200_run_over_32_threads_then_every_turn_is_its_own(service: Service, model: OpenAIModel) -> None:
    barrier = threading.Barrier(32)
    first = set(range(32))

    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        if int(payload["prompt"][1:]) in first:
            barrier.wait(60)  # all 32 threads are within a rollout at once
        answer = str(Agent(model=model, tools=[look_up], callback_handler=None)(payload["prompt"])).strip()
        context = RFTContext.current()
        assert context is not None
        assert answer == context.trajectory_id
        return float(answer[1:])

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda i: handler(payload(service, i)), range(ROLLOUTS)))
    check(service)
