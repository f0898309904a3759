"""What the decorator costs: outside a rollout over the bare function, within one besides HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aws_rft_sdk import RolloutRequest, rft_handler
from benchmarks.speed._measure import Effort, Group, difference, interleave
from benchmarks.speed.turns import payload


class _Silent:
    """A feedback client that reports nothing."""

    def report_complete(self, reward: object) -> None:
        pass

    def update_reward(self, reward: object) -> None:
        pass

    def report_error(self, error: BaseException, reward: object = None) -> None:
        pass


def handler_overhead(effort: Effort) -> Group:
    """Calls of a function that does nothing, bare and decorated, synchronous and not."""

    def bare(payload: dict[str, Any]) -> float:
        return 1.0

    async def bare_coroutine(payload: dict[str, Any]) -> float:
        return 1.0

    async def hop(payload: dict[str, Any]) -> float:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        return 1.0

    def client(request: RolloutRequest) -> _Silent:
        return _Silent()

    decorate = rft_handler(client=client, require_turns=False)
    decorated, decorated_coroutine = decorate(bare), decorate(bare_coroutine)
    production = {"prompt": "What is 40 + 2?", "user": "somebody", "metadata": {"source": "production"}}
    rollout = payload("http://127.0.0.1:9")
    many, some = effort.count(20_000), effort.count(500)
    loop = asyncio.new_event_loop()
    try:
        seconds = interleave(
            {
                "bare": _calls(bare, production, many),
                "outside": _calls(decorated, production, many),
                "within": _calls(decorated, rollout, some),
                "bare coroutine": _awaited(loop, bare_coroutine, production, many),
                "coroutine outside": _awaited(loop, decorated_coroutine, production, many),
                "coroutine within": _awaited(loop, decorated_coroutine, rollout, some),
                "hop": _awaited(loop, hop, production, some),
            },
            effort.rounds,
        )
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    common: dict[str, Any] = {"unit": "us", "scale": 1e6}
    of = seconds.__getitem__
    return Group(
        [
            difference("handler outside a rollout", of("bare"), of("outside"), target=3.0, **common),
            difference(
                "coroutine outside a rollout", of("bare coroutine"), of("coroutine outside"), target=3.0, **common
            ),
            difference("handler within a rollout", of("bare"), of("within"), target=100.0, **common),
            difference(
                "coroutine within a rollout", of("bare coroutine"), of("coroutine within"), target=None, **common
            ),
            difference(
                "coroutine within a rollout, over an empty run_in_executor",
                of("hop"),
                of("coroutine within"),
                target=100.0,
                note="feedback must not block the event loop, so it goes to a thread and back",
                **common,
            ),
        ]
    )


def _calls(fn: Callable[[Any], Any], argument: Any, count: int) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        for _ in range(count):
            fn(argument)
        return (time.perf_counter() - began) / count

    return run


def _awaited(
    loop: asyncio.AbstractEventLoop, fn: Callable[[Any], Any], argument: Any, count: int
) -> Callable[[], float]:
    async def timed() -> float:
        began = time.perf_counter()
        for _ in range(count):
            await fn(argument)
        return (time.perf_counter() - began) / count

    return lambda: loop.run_until_complete(timed())
