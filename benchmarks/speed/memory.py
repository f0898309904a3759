"""What a rollout in progress takes in memory, and whether anything is left of it afterwards."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
from strands.models.openai import OpenAIModel

from aws_rft_sdk import rft_handler, wrap_model
from benchmarks.speed._measure import Effort, Group, Result, Spread
from benchmarks.speed._servers import serving
from benchmarks.speed.turns import payload

_ROLLOUTS = 1000
_ROUNDS = 20
_WARM = 5
"""Rounds after which pools and caches have their final size."""
_MESSAGES = [{"role": "user", "content": [{"text": "What is 40 + 2?"}]}]
_TRACED = 2
"""Rounds in which bytes are counted, which makes them several times slower."""
_BLOCKS_PER_ROLLOUT = 0.1
"""Python's allocations that may be left of a rollout: far from one, so that nothing of each is."""


class _Gathering:
    """Lets all rollouts wait for each other, and looks at the memory while all of them are in progress."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrived = 0
        self._all_there = asyncio.Event()
        self.bytes_in_use = 0

    async def meet(self) -> None:
        self._arrived += 1
        if self._arrived == self._size:
            gc.collect()
            self.bytes_in_use = tracemalloc.get_traced_memory()[0]
            self._all_there.set()
        await self._all_there.wait()


def concurrent_rollouts(effort: Effort) -> Group:
    """1,000 rollouts at once, each with a streamed turn behind it: Python's own count of what they hold."""
    size, rounds = effort.count(_ROLLOUTS), max(_WARM + 2, effort.count(_ROUNDS))
    loop = asyncio.new_event_loop()
    try:
        with serving("canned") as url:
            return loop.run_until_complete(_measure(url, size, rounds))
    finally:
        gc.unfreeze()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _measure(url: str, size: int, rounds: int) -> Group:
    gathering = _Gathering(size)
    arguments: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "local"}
    client = openai.AsyncOpenAI(**arguments)
    pooled = OpenAIModel(client=client, model_id="default")
    wrapped = wrap_model(OpenAIModel(client_args=arguments, model_id="default"))

    def rollout(model: Any) -> Callable[[dict[str, Any]], Awaitable[float]]:
        async def run(payload: dict[str, Any]) -> float:
            async for _ in model.stream(_MESSAGES):
                pass
            await gathering.meet()
            return 1.0

        return run

    async def all_at_once(run: Callable[[dict[str, Any]], Awaitable[float]]) -> float:
        """Return the KiB that each rollout holds while all of them are in progress; counted only while traced."""
        nonlocal gathering
        gathering = _Gathering(size)
        await _settle()
        before = tracemalloc.get_traced_memory()[0]
        await asyncio.gather(*[run(payload(url)) for _ in range(size)])
        during = gathering.bytes_in_use
        await _settle()
        return (during - before) / size / 1024

    our_run = rft_handler(rollout(wrapped))
    gc.collect()
    gc.freeze()  # each collection would look through all imported modules, which stay
    tracemalloc.start()
    try:
        # One after the other, not in turn: each would see the connections of the other one go.
        floor = [await all_at_once(rollout(pooled)) for _ in range(1 + _TRACED)][1:]
        await client.close()
        ours = [await all_at_once(our_run) for _ in range(1 + _TRACED)][1:]
    finally:
        tracemalloc.stop()

    blocks: list[float] = []
    resident: list[str] = []
    for _ in range(rounds):
        await all_at_once(our_run)
        blocks.append(sys.getallocatedblocks())
        resident.append(f"{_resident_mib():.1f}")
    grown = [after - before for before, after in zip(blocks[_WARM - 1 :], blocks[_WARM:], strict=False)]
    per_round = Spread(min(grown), sum(grown) / len(grown), max(grown))
    base = statistics.median(floor)
    return Group(
        [
            Result(
                name=f"memory per rollout, {size:,} at once",
                floor=Spread.of(floor),
                ours=Spread.of(ours),
                unit="KiB",
                figure=Spread.of([value - base for value in ours]),
                kind="difference",
                target=None,
            ),
            Result(
                name=f"blocks left per round of {size:,} rollouts",
                floor=Spread(0.0, 0.0, 0.0),
                ours=per_round,
                unit="blocks",
                figure=per_round,
                kind="difference",
                target=size * _BLOCKS_PER_ROLLOUT,
                note=f"mean of rounds {_WARM + 1} to {rounds}, not the median, so that no single step is overlooked",
            ),
        ],
        [f"resident memory of the process after each round, MiB: {', '.join(resident)}"],
    )


async def _settle() -> None:
    # Connections close in the loop, and what they hold goes with the next collection.
    for _ in range(3):
        await asyncio.sleep(0.1)
        gc.collect()


def _resident_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux
        return float("nan")
    return float(pages * os.sysconf("SC_PAGE_SIZE")) / 2**20
