"""Many rollouts at once, and what a runtime says about them afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aws_rft_sdk import LocalRuntime, RFTContext

KEYS_IN_ENVIRONMENT = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


def echo(request: Any) -> str:
    """Answer with the text of the last message."""
    content = request["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def payloads(runtimes: list[LocalRuntime], count: int) -> list[tuple[LocalRuntime, dict[str, Any]]]:
    """Begin `count` rollouts, by turns at each of the runtimes, each with its number as its prompt."""
    chosen = [runtimes[number % len(runtimes)] for number in range(count)]
    return [(runtime, runtime.new_rollout(f"prompt {number}")) for number, runtime in enumerate(chosen)]


def as_tasks(begun: list[Any], call: Callable[[str], Awaitable[object]], turns: int = 2) -> None:
    """Play all rollouts as tasks of one loop, all of them bound before the first call."""

    async def play(payload: Any, barrier: list[int], bound: asyncio.Event) -> None:
        with RFTContext.bind(payload):
            barrier.append(1)
            if len(barrier) == len(begun):
                bound.set()
            await bound.wait()
            for _ in range(turns):
                await call(payload["prompt"])

    async def main() -> None:
        barrier: list[int] = []
        bound = asyncio.Event()
        await asyncio.gather(*(play(payload, barrier, bound) for _, payload in begun))

    asyncio.run(main())
    check(begun, turns)


def over_threads(begun: list[Any], call: Callable[[str], object], turns: int = 2, threads: int = 20) -> None:
    """Play all rollouts over threads, which begin each round together."""
    barrier = threading.Barrier(threads)

    def play(payload: Any) -> None:
        barrier.wait(30)
        with RFTContext.bind(payload):
            for _ in range(turns):
                call(payload["prompt"])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(play, [payload for _, payload in begun]))
    check(begun, turns)


def check(begun: list[Any], turns: int) -> None:
    """Fail unless each trajectory holds exactly the turns of its own rollout, each under a span id of its own."""
    for runtime, payload in begun:
        recorded = runtime.trajectory(payload["metadata"]["rolloutId"]).turns
        assert [echo(turn.request) for turn in recorded] == [payload["prompt"]] * turns
        assert len({turn.span_id for turn in recorded}) == turns
    for runtime in {id(runtime): runtime for runtime, _ in begun}.values():
        assert runtime.untracked_calls == 0
