"""What a turn costs: a wrapped Strands model against a client pooled by hand, and against Strands as it comes."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters._loop_pool import http
from benchmarks.speed._measure import Effort, Group, interleave, ratio
from benchmarks.speed._servers import TOOL_TURNS, serving

JOB_ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/speed"
_MESSAGES = [{"role": "user", "content": [{"text": "What is 40 + 2? " * 20}]}]
_SLOWER = 10  # rounds of what makes a client for each turn are shorter, they take long enough
_AT_ONCE = 64

_numbers = itertools.count()


def payload(endpoint: str) -> dict[str, Any]:
    """Return the payload of another rollout."""
    metadata = {"jobArn": JOB_ARN, "rolloutId": f"speed-{next(_numbers)}", "endpoint": endpoint}
    return {"prompt": "What is 40 + 2?", "metadata": metadata, "inferenceParams": {"temperature": 1.0, "topP": 1.0}}


def turn_overhead(effort: Effort) -> Group:
    """One model call in an event loop that goes on, streamed and not."""
    group = Group()
    with serving("canned") as url, _event_loop() as loop:
        for stream in (True, False):
            group.results += _turns(loop, url, stream, effort)
    return group


def _turns(loop: asyncio.AbstractEventLoop, url: str, stream: bool, effort: Effort) -> list[Any]:
    arguments: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "local"}
    config: dict[str, Any] = {"model_id": "default", "params": {"stream": stream, "temperature": 1.0, "top_p": 1.0}}
    client = openai.AsyncOpenAI(**arguments)
    plain = OpenAIModel(client_args=arguments, **config)
    pooled = OpenAIModel(client=client, **config)
    wrapped = wrap_model(plain)
    count = effort.count(40)

    def contender(model: Any, count: int, *, bound: bool = False) -> Callable[[], float]:
        async def turns() -> float:
            began = time.perf_counter()
            for _ in range(count):
                async for _ in model.stream(_MESSAGES):
                    pass
            return (time.perf_counter() - began) / count

        def run() -> float:
            if not bound:
                return loop.run_until_complete(turns())
            with RFTContext.bind(payload(url)):
                return loop.run_until_complete(turns())

        return run

    seconds = interleave(
        {
            "pooled": contender(pooled, count),
            "wrapped": contender(wrapped, count, bound=True),
            "plain": contender(plain, max(1, count // _SLOWER)),
        },
        effort.rounds,
    )
    loop.run_until_complete(client.close())
    kind = "streamed" if stream else "whole"
    return _compared(f"turn, {kind}", seconds)


def concurrent_turns(effort: Effort) -> Group:
    """Turns of many rollouts at once in one event loop: the time for one of them."""
    group = Group()
    with serving("canned") as url, _event_loop() as loop:
        for stream in (True, False):
            arguments: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "local"}
            config: dict[str, Any] = {"model_id": "default", "params": {"stream": stream}}
            client = openai.AsyncOpenAI(**arguments)
            pooled = OpenAIModel(client=client, **config)
            wrapped = wrap_model(OpenAIModel(client_args=arguments, **config))
            count = effort.count(4)

            async def rollout(model: Any, count: int = count, url: str = url) -> None:
                with RFTContext.bind(payload(url)):
                    for _ in range(count):
                        async for _ in model.stream(_MESSAGES):
                            pass

            async def at_once(model: Any, count: int = count) -> float:
                began = time.perf_counter()
                await asyncio.gather(*[rollout(model) for _ in range(_AT_ONCE)])
                return (time.perf_counter() - began) / (_AT_ONCE * count)

            def contender(model: Any) -> Callable[[], float]:
                return lambda: loop.run_until_complete(at_once(model))

            seconds = interleave(
                {"pooled": contender(pooled), "wrapped": contender(wrapped)},
                effort.rounds,
            )
            loop.run_until_complete(client.close())
            kind = "streamed" if stream else "whole"
            name = f"turn, {kind}, {_AT_ONCE} rollouts at once: against one pooled by hand"
            group.results.append(ratio(name, seconds["pooled"], seconds["wrapped"], unit="ms", scale=1e3, target=1.15))
    return group


def synchronous_agent(effort: Effort) -> Group:
    """One `agent()` call of three turns with a tool, which runs in an event loop of its own."""
    with serving("canned") as url:
        arguments: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "local"}
        plain = OpenAIModel(client_args=arguments, model_id="default")
        wrapped = wrap_model(plain)
        ssl_context = http.create_ssl_context()
        count = effort.count(6)

        async def pooled_by_hand() -> None:
            # The best one can do by hand: one client for each loop, with certificates that were loaded before.
            async with openai.AsyncOpenAI(
                **arguments, http_client=openai.DefaultAsyncHttpxClient(verify=ssl_context)
            ) as client:
                model = OpenAIModel(client=client, model_id="default")
                await Agent(model=model, tools=[_add], callback_handler=None).invoke_async("What is 40 + 2?")

        def contender(run: Callable[[], Any], count: int) -> Callable[[], float]:
            def timed() -> float:
                began = time.perf_counter()
                for _ in range(count):
                    run()
                return (time.perf_counter() - began) / count

            return timed

        def agent(model: Any) -> Any:
            return Agent(model=model, tools=[_add], callback_handler=None)("What is 40 + 2?")

        def in_rollout() -> None:
            with RFTContext.bind(payload(url)) as context:
                agent(wrapped)
            assert context.turns.begun == TOOL_TURNS + 1

        seconds = interleave(
            {
                "pooled": contender(lambda: _in_a_loop_of_its_own(pooled_by_hand), count),
                "wrapped": contender(in_rollout, count),
                "plain": contender(lambda: agent(plain), max(1, count // 3)),
            },
            effort.rounds,
        )
    return Group(_compared("agent() of three turns", seconds))


def _compared(name: str, seconds: dict[str, list[float]]) -> list[Any]:
    common: dict[str, Any] = {"unit": "ms", "scale": 1e3}
    return [
        ratio(f"{name}: against one pooled by hand", seconds["pooled"], seconds["wrapped"], target=1.15, **common),
        ratio(
            f"{name}: times faster than client_args",
            seconds["plain"],
            seconds["wrapped"],
            target=5.0,
            bound="at least",
            inverted=True,
            **common,
        ),
    ]


@tool(name="add")
def _add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def _in_a_loop_of_its_own(work: Callable[[], Awaitable[None]]) -> None:
    # As Strands does it for a synchronous call.
    async def main() -> None:
        await work()

    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(asyncio.run, main()))
    thread.start()
    thread.join()


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
