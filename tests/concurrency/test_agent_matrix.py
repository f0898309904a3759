"""Many concurrent rollouts of every shape of agent over one shared model: every turn under its own trajectory.

24 rollouts of each shape run by default. `MATRIX_ROLLOUTS=200 pytest tests/concurrency` runs more of them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk import LocalRuntime, RFTContext, rft_handler, wrap_model
from aws_rft_sdk._frozen import thaw
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.context import _active as in_progress
from tests.concurrency.everyone import Everyone
from tests.concurrency.shapes import MARKER, SHAPES, Shape, parameters, policy

ROLLOUTS = int(os.environ.get("MATRIX_ROLLOUTS", "24"))
WINDOW = 100_000  # tokens; some of Strands' parts warn of models that do not say


def wrapped(runtime: LocalRuntime) -> Model:
    client_args = {"api_key": "k", "base_url": f"{runtime.endpoint}/v1"}
    return wrap_model(OpenAIModel(model_id="default", client_args=client_args, context_window_limit=WINDOW))


def routed(runtime: LocalRuntime) -> Model:
    nowhere = {"api_key": "k", "base_url": "http://127.0.0.1:1/v1"}
    return runtime_model(OpenAIModel(model_id="production", client_args=nowhere), context_window_limit=WINDOW)


def reward_of(marker: object) -> float:
    return float(str(marker)[-4:])


class Rollouts:
    """Handlers of several kinds that run one shape of agent."""

    def __init__(self, shape: Shape, model: Model, folder: Path, everyone: Everyone) -> None:
        self._begin = lambda payload: shape(model, payload["prompt"], folder)
        self._everyone = everyone
        self.spans: dict[str, tuple[str, ...]] = {}
        self.answered: dict[str, int] = {}

    def function(self, payload: dict[str, Any]) -> float:
        """Run each further step in a thread that knows nothing of the rollout but its payload."""
        self._everyone.wait()
        flow = self._begin(payload)
        agent, prompt = next(flow)
        result = agent(prompt)
        while True:
            try:
                agent, prompt = flow.send(result)
            except StopIteration as stop:
                return self._end(payload, stop.value)

            def go_on(agent: Any = agent, prompt: Any = prompt) -> Any:
                assert RFTContext.current() is None
                with RFTContext.bind(payload):
                    return agent(prompt)

            with ThreadPoolExecutor(1) as pool:
                result = pool.submit(go_on).result()

    async def coroutine_function(self, payload: dict[str, Any]) -> float:
        """Bind the rollout again by its metadata, as users of the published SDK do."""
        await self._everyone.wait_in_loop()
        with RFTContext.bind(payload["metadata"]):
            return self._end(payload, await self._run(payload))

    async def async_generator_function(self, payload: dict[str, Any]) -> AsyncIterator[Any]:
        await self._everyone.wait_in_loop()
        yield "begun"
        texts = await asyncio.create_task(self._run(payload))
        yield {"reward": self._end(payload, texts)}

    async def _run(self, payload: dict[str, Any]) -> list[Any]:
        flow = self._begin(payload)
        agent, prompt = next(flow)
        while True:
            try:
                agent, prompt = flow.send(await agent.invoke_async(prompt))
            except StopIteration as stop:
                return list(stop.value)

    def _end(self, payload: dict[str, Any], texts: list[Any]) -> float:
        marker = payload["prompt"]
        assert all(set(MARKER.findall(str(text))) == {marker} for text in texts), texts
        context = RFTContext.current()
        assert context is not None
        self.spans[context.trajectory_id] = context.span_ids
        self.answered[context.trajectory_id] = context.turns.answered
        return reward_of(marker)


async def consume(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


@pytest.mark.filterwarnings("ignore:Agent.structured_output:DeprecationWarning")
@pytest.mark.parametrize("model_of", [wrapped, routed])
@pytest.mark.parametrize("shape", parameters())
def test_rollouts_when_they_run_at_once_then_every_turn_is_under_its_own_trajectory(
    shape: Shape, model_of: Any, tmp_path: Path
) -> None:
    async def main(runtime: LocalRuntime) -> Rollouts:
        payloads = [runtime.new_rollout(f"rollout-{i:04}") for i in range(ROLLOUTS)]
        rollouts = Rollouts(shape, model_of(runtime), tmp_path, Everyone(ROLLOUTS))
        with ThreadPoolExecutor(ROLLOUTS) as pool:
            function = rft_handler(rollouts.function)
            loop = asyncio.get_running_loop()
            work: list[Any] = [loop.run_in_executor(pool, function, payload) for payload in payloads[::2]]
            work += [rft_handler(rollouts.coroutine_function)(payload) for payload in payloads[1::4]]
            work += [consume(rft_handler(rollouts.async_generator_function)(payload)) for payload in payloads[3::4]]
            await asyncio.gather(*work)
        return rollouts

    with LocalRuntime(policy=policy) as runtime:
        rollouts = asyncio.run(main(runtime))
        trajectories = runtime.trajectories()
        assert runtime.problems() == []
        assert runtime.untracked_calls == 0
    assert len(trajectories) == ROLLOUTS
    for trajectory in trajectories:
        recorded = [turn.span_id for turn in trajectory.turns]
        requests = json.dumps([thaw(turn.request) for turn in trajectory.turns])
        assert set(MARKER.findall(requests)) == {trajectory.prompt}
        assert len(recorded) in SHAPES[shape]
        assert len(recorded) == rollouts.answered[trajectory.trajectory_id]
        assert set(recorded) <= set(rollouts.spans[trajectory.trajectory_id])
        assert trajectory.rewards == (reward_of(trajectory.prompt),)
    spans = [turn.span_id for trajectory in trajectories for turn in trajectory.turns]
    assert len(spans) == len(set(spans))
    assert not {(trajectory.job_arn, trajectory.trajectory_id) for trajectory in trajectories} & in_progress.keys()
