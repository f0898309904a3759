"""Runs many rollouts of one handler in this process: coroutines in one event loop, all else in threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from aws_rft_sdk._running import Ended, Handler, run_handler, trajectory_id_of
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.records import RolloutRecord, RolloutStatus
from aws_rft_sdk.types import NO_FIELDS, RolloutResult

Start = Callable[[str], Mapping[str, Any]]
"""Starts a rollout of a prompt: tells the runtime, and returns the payload for the agent. May block."""


class _Planned(NamedTuple):
    prompt: str
    prompt_index: int
    sample_index: int


async def run_rollouts(
    handler: Handler,
    prompts: Iterable[str],
    start: Start,
    *,
    group_size: int = 1,
    concurrency: int = 16,
    stopping: asyncio.Event | None = None,
) -> AsyncIterator[RolloutRecord]:
    """Run each prompt `group_size` times through a handler, at most `concurrency` rollouts at once.

    Rollouts begin in dataset order, group by group. One that fails is a record like any other and stops nothing.

    Args:
        handler: A function decorated with `rft_handler`, of any kind. Plain functions and generators run in threads.
        prompts: Prompt cells; read as rollouts begin.
        start: Starts a rollout of a prompt; called in a thread.
        group_size: Rollouts of each prompt, at least 1.
        concurrency: Rollouts in flight at most, at least 1.
        stopping: Once set, no more rollouts begin and those in flight are finished. None to run all.

    Yields:
        A record for each rollout, as they end. When the consumer is cancelled, so are the rollouts in flight; their
        handlers report that as any other error, and no record is made of them.

    Raises:
        ConfigurationError: A number is below 1.
        Exception: What `prompts` raises; rollouts in flight are cancelled.
    """
    for name, value in (("group_size", group_size), ("concurrency", concurrency)):
        if value < 1:
            raise ConfigurationError(f"{name} is {value}; it must be at least 1")
    planned = _plan(prompts, group_size)
    running: set[asyncio.Task[RolloutRecord]] = set()
    try:
        exhausted = False
        while True:
            while not exhausted and len(running) < concurrency and not (stopping and stopping.is_set()):
                item = next(planned, None)
                if item is None:
                    exhausted = True
                else:
                    running.add(asyncio.create_task(_run(handler, item, start)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


def _plan(prompts: Iterable[str], group_size: int) -> Iterator[_Planned]:
    for prompt_index, prompt in enumerate(prompts):
        for sample_index in range(group_size):
            yield _Planned(prompt, prompt_index, sample_index)


async def _run(handler: Handler, item: _Planned, start: Start) -> RolloutRecord:
    trajectory_id = None
    began = time.perf_counter()
    try:
        payload = await asyncio.to_thread(start, item.prompt)
        trajectory_id = trajectory_id_of(payload)
        if trajectory_id is None:
            raise ConfigurationError("start() returned a payload without rollout metadata")
    except Exception as error:
        return _record(item, trajectory_id, Ended(None, error, None, time.perf_counter() - began))
    return _record(item, trajectory_id, await run_handler(handler, payload, trajectory_id=trajectory_id))


def _record(item: _Planned, trajectory_id: str | None, ended: Ended) -> RolloutRecord:
    context, error = ended.context, ended.error
    rewards = context.rewards if context is not None else None
    sealed_as_failed = context is not None and context.completion == "failed"
    if rewards is None and not sealed_as_failed:
        status = RolloutStatus.UNREPORTED
    else:
        status = RolloutStatus.COMPLETED if error is None else RolloutStatus.FAILED
    return RolloutRecord(
        id=trajectory_id or f"not-started-{item.prompt_index}-{item.sample_index}",
        prompt_index=item.prompt_index,
        sample_index=item.sample_index,
        reward=None if rewards is None else sum(rewards),
        turns=int(context.turns) if context is not None else 0,
        seconds=round(ended.seconds, 6),
        status=status,
        error=_explanation(context, status, error),
        rewards=rewards if rewards is not None and len(rewards) > 1 else None,
        metrics=_metrics(ended.result),
        unsure_turns=context.turns.unsure if context is not None else 0,
    )


def _explanation(context: RFTContext | None, status: RolloutStatus, error: BaseException | None) -> str | None:
    if error is not None:
        return f"{type(error).__name__}: {error}"
    if status is not RolloutStatus.UNREPORTED:
        return None
    if context is None:
        return "the handler bound no rollout; decorate it with rft_handler"
    return "the handler returned without a reward (reward='deferred')"


def _metrics(result: object) -> Mapping[str, Any]:
    metrics = result.metrics if isinstance(result, RolloutResult) else None
    if isinstance(result, Mapping):
        metrics = result.get("metrics")
    return metrics if isinstance(metrics, Mapping) else NO_FIELDS
