"""Runs a handler of any kind once, within a deadline, and tells what became of the rollout.

Drivers and workers share it. Coroutines run in the caller's event loop. Each other function runs in a thread of its
own: in a pool, functions that hang would starve the others and keep the process from ending. Whatever a handler raises
is an outcome and ends nothing but its rollout.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aws_rft_sdk import telemetry
from aws_rft_sdk.context import RFTContext, collecting
from aws_rft_sdk.errors import RolloutTimeoutError
from aws_rft_sdk.feedback import sending
from aws_rft_sdk.feedback.off_the_loop import off_the_loop
from aws_rft_sdk.lifecycle import one_rollout
from aws_rft_sdk.lifecycle.kinds import runs_in_loop
from aws_rft_sdk.lifecycle.threads import in_daemon_thread
from aws_rft_sdk.types import RolloutRequest, RolloutResult

logger = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any]], Any]

DEADLINE_SECONDS = 540.0
"""For one rollout. The service gives up after 600 s. The rest is for reporting that the rollout was not over."""
_REPORT_SECONDS = 65.0
"""For reports at a deadline. A feedback call takes at most 60 s. After that we stop waiting for an `on_error`."""
_CANCEL_SECONDS = 5.0
"""For a coroutine to end after it was cancelled. After that we stop waiting for it."""


def _is_over() -> bool:
    return False


class Ended(NamedTuple):
    """What became of one run of a handler."""

    result: object
    """What it returned; for a generator, the last item that can carry a reward. None if it raised."""
    error: BaseException | None
    """What it raised, or `RolloutTimeoutError`; None if it returned."""
    context: RFTContext | None
    """The rollout: its turns, and what was reported. None for production traffic, and if the handler bound none."""
    seconds: float
    """From the call until the feedback was delivered."""
    lingers: Callable[[], bool] = _is_over
    """Whether its function still runs although its rollout is over: threads cannot be stopped at a deadline."""


async def run_handler(
    handler: Handler, payload: Mapping[str, Any], *, deadline_seconds: float | None = None, trajectory_id: str | None
) -> Ended:
    """Run a handler with a payload. What the handler raises is part of the answer.

    At the deadline the rollout is reported with a `RolloutTimeoutError`, as `on_error` of its handler says. A coroutine
    is cancelled. A thread cannot be cancelled, so it may keep running, and what it returns is ignored. What the first
    feedback call needs is imported before the deadline starts.

    Args:
        handler: A function of any kind. It gets a copy of the payload.
        payload: What the service sends, in any spelling.
        deadline_seconds: For the handler and its feedback; None for no deadline.
        trajectory_id: The rollout to tell about; None for production traffic.

    Raises:
        CancelledError: The caller was cancelled; the rollout is reported as an error.
    """
    if trajectory_id is not None and not _warm.is_set():
        await off_the_loop(_warm_up)
    began = time.perf_counter()
    lingers: Callable[[], bool] = _is_over
    threads: list[threading.Thread] = []
    with collecting() as contexts:
        work = asyncio.ensure_future(_settled(handler, dict(payload), threads))
        try:
            await asyncio.wait([work], timeout=deadline_seconds)
            if work.done():
                outcome = work.result()
            else:
                outcome = await _time_out(work, contexts, deadline_seconds)
                lingers = functools.partial(_is_running, work, threads)
        except asyncio.CancelledError as error:
            await _end_early(work, contexts, error)
            raise
    context = next((context for context in contexts if context.trajectory_id == trajectory_id), None)
    return Ended(*outcome, context, time.perf_counter() - began, lingers)


def trajectory_id_of(payload: object) -> str | None:
    """Return the trajectory id of a payload, None for production traffic.

    Raises:
        PayloadError: The rollout metadata is malformed.
    """
    request = RolloutRequest.parse(payload)
    return None if request is None else request.trajectory_id


_warm = threading.Event()


def _warm_up() -> None:
    telemetry.load()
    sending.warm_up()
    _warm.set()


class _Returned(NamedTuple):
    """What a handler returned or raised. A value, since not every exception can cross from a thread or a task."""

    result: object = None
    error: BaseException | None = None


async def _time_out(
    work: asyncio.Future[_Returned], contexts: list[RFTContext], deadline_seconds: float | None
) -> _Returned:
    error = RolloutTimeoutError(f"the rollout was not over after {deadline_seconds:g} s, its deadline")
    in_time = not await _end_early(work, contexts, error)
    # If it was delivering its reward at the deadline, that reward counts.
    return work.result() if in_time and work.done() else _Returned(error=error)


async def _end_early(work: asyncio.Future[_Returned], contexts: list[RFTContext], error: BaseException) -> bool:
    """Report the rollouts of `contexts` as `error`, then end their work. Returns whether any was given up."""
    rollouts = [rollout for rollout in one_rollout.running() if rollout.context in contexts]
    given_up = await off_the_loop(_give_up, rollouts, error) if rollouts else True
    if given_up:
        work.cancel()
    await asyncio.wait([work], timeout=_CANCEL_SECONDS)
    return given_up


def _give_up(rollouts: list[one_rollout.Rollout], error: BaseException) -> bool:
    """Report rollouts as `error`. Returns whether any was given up. Blocks for at most 65 s."""
    given_up: list[bool] = []

    def report(rollout: one_rollout.Rollout) -> None:
        try:
            given_up.append(rollout.failed(error))
        except BaseException:  # of `on_error`, which may raise anything; it is logged
            given_up.append(True)

    reports = [
        threading.Thread(target=contextvars.copy_context().run, args=(report, rollout), name="rft-report", daemon=True)
        for rollout in rollouts
    ]
    for thread in reports:
        thread.start()
    end = time.monotonic() + _REPORT_SECONDS
    for rollout, thread in zip(rollouts, reports, strict=True):
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            logger.error(
                "trajectory_id=<%s> | not reported: its report, perhaps in `on_error`, has not ended after %g s",
                rollout.context.trajectory_id,
                _REPORT_SECONDS,
            )
    return any(given_up) or len(given_up) < len(rollouts)


def _is_running(work: asyncio.Future[_Returned], threads: list[threading.Thread]) -> bool:
    return not work.done() or any(thread.is_alive() for thread in threads)


async def _settled(handler: Handler, payload: dict[str, Any], threads: list[threading.Thread]) -> _Returned:
    try:
        return await _call(handler, payload, threads)
    except BaseException as error:
        # Out of a task, some of these would end the event loop with all other rollouts.
        return _Returned(error=error)


async def _call(handler: Handler, payload: dict[str, Any], threads: list[threading.Thread]) -> _Returned:
    if runs_in_loop(handler):
        outcome = _Returned(handler(payload))
    else:
        thread, called = in_daemon_thread("rft-rollout", _call_plain, handler, payload)
        threads.append(thread)
        outcome = await called
    result = outcome.result
    if inspect.isawaitable(result):
        result = await result
    if inspect.isasyncgen(result):
        result = _last([item async for item in result])
    return _Returned(result, outcome.error)


def _call_plain(handler: Handler, payload: dict[str, Any]) -> _Returned:
    try:
        result = handler(payload)
        return _Returned(_last(list(result)) if inspect.isgenerator(result) else result)
    except BaseException as error:
        return _Returned(error=error)


def _last(items: list[Any]) -> object:
    return next((item for item in reversed(items) if isinstance(item, Mapping | RolloutResult)), None)
