"""Runs many rollouts of one handler in this process: coroutines in one event loop, all else in threads."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from aws_rft_sdk.context import RFTContext, collecting
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.records import RolloutRecord, RolloutStatus
from aws_rft_sdk.types import NO_FIELDS, RolloutRequest, RolloutResult

Handler = Callable[[dict[str, Any]], Any]
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
    ending = asyncio.Event()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="rft-rollout") as threads:
        try:
            exhausted = False
            while True:
                while not exhausted and len(running) < concurrency and not (stopping and stopping.is_set()):
                    item = next(planned, None)
                    if item is None:
                        exhausted = True
                    else:
                        running.add(asyncio.create_task(_run(handler, item, start, threads, ending)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            ending.set()
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)


def _plan(prompts: Iterable[str], group_size: int) -> Iterator[_Planned]:
    for prompt_index, prompt in enumerate(prompts):
        for sample_index in range(group_size):
            yield _Planned(prompt, prompt_index, sample_index)


async def _run(
    handler: Handler, item: _Planned, start: Start, threads: ThreadPoolExecutor, ending: asyncio.Event
) -> RolloutRecord:
    began = time.perf_counter()
    request: RolloutRequest | None = None
    outcome = _Outcome()
    with collecting() as contexts:
        try:
            payload = dict(await _in_thread(threads, start, item.prompt))
            request = RolloutRequest.parse(payload)
            if request is None:
                raise ConfigurationError("start() returned a payload without rollout metadata")
            began = time.perf_counter()
            outcome = await _call(handler, payload, threads)
        except (Exception, SystemExit, asyncio.CancelledError) as raised:
            if ending.is_set():
                raise  # it is the run that is being cancelled, and not something that the handler did
            outcome = _Outcome(error=raised)
    seconds = time.perf_counter() - began
    trajectory_id = request.trajectory_id if request is not None else None
    context = next((c for c in contexts if c.trajectory_id == trajectory_id), None)
    return _record(item, trajectory_id, context, outcome, seconds)


class _Outcome(NamedTuple):
    """What a handler returned or raised. A value, since not every exception can cross from a thread."""

    result: object = None
    error: BaseException | None = None


async def _call(handler: Handler, payload: dict[str, Any], threads: ThreadPoolExecutor) -> _Outcome:
    """Call a handler of any kind; of a generator, return the item that carries the reward, for its metrics."""
    if _is(inspect.iscoroutinefunction, handler) or _is(inspect.isasyncgenfunction, handler):
        outcome = _Outcome(handler(payload))
    else:
        outcome = await _in_thread(threads, _call_plain, handler, payload)
    result = outcome.result
    if inspect.isawaitable(result):
        result = await result
    if inspect.isasyncgen(result):
        result = _last([item async for item in result])
    return _Outcome(result, outcome.error)


def _call_plain(handler: Handler, payload: dict[str, Any]) -> _Outcome:
    try:
        result = handler(payload)
        return _Outcome(_last(list(result)) if inspect.isgenerator(result) else result)
    except BaseException as error:
        return _Outcome(error=error)


def _last(items: list[Any]) -> object:
    return next((item for item in reversed(items) if isinstance(item, Mapping | RolloutResult)), None)


def _is(kind: Callable[[Any], bool], handler: Handler) -> bool:
    return kind(handler) or kind(getattr(handler, "__call__", None))  # noqa: B004 - its kind, not whether it has one


async def _in_thread(threads: ThreadPoolExecutor, fn: Callable[..., Any], *args: Any) -> Any:
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, context.run, fn, *args)


def _record(
    item: _Planned, trajectory_id: str | None, context: RFTContext | None, outcome: _Outcome, seconds: float
) -> RolloutRecord:
    rewards = context.rewards if context is not None else None
    sealed_as_failed = context is not None and context.completion == "failed"
    if rewards is None and not sealed_as_failed:
        status = RolloutStatus.UNREPORTED
    else:
        status = RolloutStatus.COMPLETED if outcome.error is None else RolloutStatus.FAILED
    return RolloutRecord(
        id=trajectory_id or f"not-started-{item.prompt_index}-{item.sample_index}",
        prompt_index=item.prompt_index,
        sample_index=item.sample_index,
        reward=None if rewards is None else sum(rewards),
        turns=int(context.turns) if context is not None else 0,
        seconds=round(seconds, 6),
        status=status,
        error=_explanation(context, status, outcome.error),
        rewards=rewards if rewards is not None and len(rewards) > 1 else None,
        metrics=_metrics(outcome.result),
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
