"""The proof of somebody's own handler."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.context import RFTContext, collecting
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.proof.diagnosis import diagnose
from aws_rft_sdk.proof.experiment import threads_with_context, unwrapped_names
from aws_rft_sdk.proof.markers import Placement, new_marker, place, placements
from aws_rft_sdk.proof.observer import ANSWER_LOST, THROTTLED, UNAVAILABLE, Arrival
from aws_rft_sdk.proof.outcome import Evidence, Outcome
from aws_rft_sdk.proof.report import Proof
from aws_rft_sdk.proof.stage import Stage
from aws_rft_sdk.proof.verdict import Run, Verdict, judge
from aws_rft_sdk.types import TrajectoryStatus

DEFAULT_PROMPT = "What is 12 * 7? Use a tool if there is one that helps."

_TASKS_AT_ONCE = 64
_RENDEZVOUS = 8
_FAULTS = {3: THROTTLED, 5: UNAVAILABLE, 7: ANSWER_LOST}
"""Which rollouts of every eight meet a fault in their first turn."""
_EVERY = 8

Handler = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Trial:
    """How a handler is proved."""

    rollouts: int = 96
    """How many rollouts run at once, after those that find out how to mark a prompt."""
    threads: int = 32
    """Size of the pool of threads."""
    outside: int = 0
    """How many calls are made without rollout metadata. They use the production model."""
    faults: bool = True
    """Whether some turns meet an injected 429, 503 or lost answer."""
    deferred: bool = False
    """Whether rewards are delivered elsewhere, later."""


def prove_handler(
    handler: Handler | str,
    prompts: Sequence[str] = (DEFAULT_PROMPT,),
    trial: Trial = Trial(),
    *,
    tool_calls: int = 1,
    progress: Callable[[], None] | None = None,
) -> Proof:
    """Run a handler many times at once and judge where its turns arrived.

    A plain function runs in a pool of threads; a coroutine function half as tasks of one event loop, half in threads
    with loops of their own. A stand-in answers inference. Blocks until all is over. OpenAI clients that name no address
    are led to the stand-in meanwhile; everything else that the handler and its tools do is really done.

    Args:
        handler: A function, or where to load one from (`path/to/file.py:function`, `module:function`); loading it here
            leads models that are built at import to the stand-in too.
        prompts: Prompt cells, used in turns. A marker is added to each.
        trial: How many of what.
        tool_calls: How many of the tools that it is offered the stand-in calls, all in one turn.
        progress: Called after each rollout, from any thread.

    Raises:
        ConfigurationError: There is no such function, or no prompt.
    """
    if not prompts:
        raise ConfigurationError("a proof needs at least one prompt")
    began = time.perf_counter()
    with Stage(tool_calls) as stage, stage.environment():
        fn = load_callable(handler) if isinstance(handler, str) else handler
        name = handler if isinstance(handler, str) else getattr(handler, "__qualname__", repr(handler))
        proof = _HandlerProof(stage, fn, prompts, trial, progress).prove(name)
    return replace(proof, seconds=time.perf_counter() - began)


class _HandlerProof:
    """One proof of one handler."""

    def __init__(
        self, stage: Stage, handler: Handler, prompts: Sequence[str], trial: Trial, progress: Callable[[], None] | None
    ) -> None:
        self._stage = stage
        self._handler = handler
        self._prompts = prompts
        self._trial = trial
        self._progress = progress or (lambda: None)
        self._placement: Placement | None = None
        self._outside_errors: list[str] = []

    def prove(self, name: str) -> Proof:
        """Find out how to mark a prompt, run all rollouts, and explain what was seen."""
        alone = self._find_placement()
        runs, outcomes = asyncio.run(self._run_all())
        verdict = judge(runs, self._stage.watch.take())
        evidence = Evidence(unwrapped_names=unwrapped_names(self._handler))
        if verdict.untracked:
            evidence = replace(evidence, threads_lose_context=self._threads_lose_context())
        return Proof(
            subject=name,
            verdict=verdict,
            outcomes=outcomes,
            causes=diagnose(verdict, outcomes, evidence),
            notes=tuple(self._notes(verdict, outcomes, alone)),
            outside_calls=self._trial.outside,
        )

    # --- one rollout -------------------------------------------------------------------------------------------------

    def _cell(self, index: int, marker: str) -> tuple[str, bool]:
        """Return a prompt cell, and whether the marker is in it."""
        cell = self._prompts[index % len(self._prompts)]
        if self._placement is None:
            return cell, False
        for placement in (self._placement, *placements(cell)):
            with contextlib.suppress(LookupError, TypeError, ValueError):
                return place(cell, placement, marker), True
        return cell, False

    def _start(self, index: int, *, faults: bool) -> tuple[dict[str, Any], Run, bool]:
        marker = new_marker()
        cell, is_marked = self._cell(index, marker)
        payload, run = self._stage.start_rollout(cell, marker if is_marked else "", "rollout")
        fault = _FAULTS.get(index % _EVERY) if faults and is_marked else None
        if fault is not None:
            self._stage.watch.order(marker, fault)
        return payload, run, fault is not None

    def _finish(
        self, run: Run, contexts: Sequence[RFTContext], error: BaseException | None, *, has_fault: bool
    ) -> Outcome:
        trajectory = self._stage.trajectory(run)
        name = type(error).__name__ if error is not None else None
        return Outcome(
            run,
            error=f"{name}: {error}" if error is not None else None,
            error_type=name,
            is_bound=any(context.trajectory_id == run.trajectory_id for context in contexts),
            is_reported=_is_reported(trajectory.status, error) or (error is None and self._trial.deferred),
            expects_failure=has_fault,
        )

    async def _rollout(self, index: int, *, faults: bool) -> Outcome:
        """Run one rollout in this event loop."""
        payload, run, has_fault = self._start(index, faults=faults)
        error: BaseException | None = None
        with collecting() as contexts, self._stage.watch.in_progress(run.trajectory_id or ""):
            try:
                await _consume(self._handler(payload))
            except Exception as raised:
                error = raised
        self._progress()
        return self._finish(run, contexts, error, has_fault=has_fault)

    def _rollout_blocking(self, index: int, *, faults: bool) -> Outcome:
        """Run one rollout in this thread."""
        if _is_async(self._handler):
            return asyncio.run(self._rollout(index, faults=faults))
        payload, run, has_fault = self._start(index, faults=faults)
        error: BaseException | None = None
        with collecting() as contexts, self._stage.watch.in_progress(run.trajectory_id or ""):
            try:
                _consume_blocking(self._handler(payload))
            except Exception as raised:
                error = raised
        self._progress()
        return self._finish(run, contexts, error, has_fault=has_fault)

    def _call_outside(self, index: int) -> Run:
        """Call the handler as production does."""
        marker = new_marker()
        cell, is_marked = self._cell(index, marker)
        try:
            result = self._handler({"prompt": cell})
            if _is_async(self._handler):
                asyncio.run(_consume(result))
            else:
                _consume_blocking(result)
        except Exception as error:
            self._outside_errors.append(f"{type(error).__name__}: {error}")
        return Run(marker if is_marked else "", kind="outside")

    async def _run_all(self) -> tuple[list[Run], tuple[Outcome, ...]]:
        trial = self._trial
        self._stage.policy.gather(min(_RENDEZVOUS, trial.rollouts, trial.threads))
        slots = asyncio.Semaphore(_TASKS_AT_ONCE)
        loop = asyncio.get_running_loop()

        async def task(index: int) -> Outcome:
            async with slots:
                return await self._rollout(index, faults=trial.faults)

        with ThreadPoolExecutor(trial.threads, thread_name_prefix="proof") as pool:
            work: list[Any] = []
            for index in range(trial.rollouts):
                # Eight of these, eight of those, so that both kinds meet every fault.
                if _is_async(self._handler) and index // _EVERY % 2 == 0:
                    work.append(asyncio.ensure_future(task(index)))
                else:
                    work.append(loop.run_in_executor(pool, self._in_pool, index))
            # Without markers, calls outside are told from rollouts by coming after them.
            count = trial.outside // 2 if self._placement is not None else 0
            during = [loop.run_in_executor(pool, self._call_outside, index) for index in range(count)]
            outcomes = await asyncio.gather(*work)
            outside = list(await asyncio.gather(*during))
            # And when no rollout is in progress any more: what is left behind shows now.
            after = range(trial.outside - len(outside))
            outside += [await loop.run_in_executor(pool, self._call_outside, index) for index in after]
        return [*(outcome.run for outcome in outcomes), *outside], tuple(outcomes)

    def _in_pool(self, index: int) -> Outcome:
        return self._rollout_blocking(index, faults=self._trial.faults)

    # --- experiments -------------------------------------------------------------------------------------------------

    def _find_placement(self) -> Outcome:
        """Find a place in the prompt from which the marker arrives; return a rollout that was run alone."""
        outcome: Outcome | None = None
        for placement in placements(self._prompts[0]):
            self._placement = placement
            outcome, arrivals = self._alone()
            if any(outcome.run.marker in arrival.markers for arrival in arrivals):
                return outcome
        self._placement = None
        outcome, _ = self._alone()
        return outcome

    def _alone(self, conditions: AbstractContextManager[None] | None = None) -> tuple[Outcome, list[Arrival]]:
        """Run one rollout while no other is in progress."""
        self._stage.watch.take()
        with conditions or nullcontext():
            outcome = self._rollout_blocking(0, faults=False)
        return outcome, self._stage.watch.take()

    def _threads_lose_context(self) -> bool | None:
        """Whether a rollout has fewer untracked requests when threads get the context; None when it has none alone."""
        before = _untracked(self._alone())
        if not before:
            return None
        return _untracked(self._alone(threads_with_context())) < before

    def _notes(self, verdict: Verdict, outcomes: Sequence[Outcome], alone: Outcome) -> Iterator[str]:
        if self._placement is None and verdict.requests:
            yield (
                "no marker arrived in the requests, wherever in the prompt it was put: the agent does not show the "
                "model its prompt. Whose a turn is was told by its span id and by which rollouts were in progress"
            )
            if alone.error:
                yield f"a rollout that was run alone ended in {alone.error}"
        if self._placement is not None:
            faulty = [outcome for outcome in outcomes if outcome.expects_failure]
            failed = sum(outcome.error is not None for outcome in faulty)
            if failed:
                yield (
                    f"{len(faulty)} rollouts met an injected 429, 503 or lost answer; {failed} of them ended in an "
                    "error, which is not counted against the handler (nothing but an error is right for a lost answer)"
                )
        if self._outside_errors:
            yield (
                f"{len(self._outside_errors)} of {self._trial.outside} calls outside rollouts raised, the first one "
                f"{self._outside_errors[0][:300]}"
            )


def _is_reported(status: TrajectoryStatus, error: BaseException | None) -> bool:
    if error is None:
        return status is TrajectoryStatus.REWARD_RECEIVED
    return status is not TrajectoryStatus.PENDING


def _untracked(alone: tuple[Outcome, list[Arrival]]) -> int:
    outcome, arrivals = alone
    return len(judge([outcome.run], arrivals).untracked)


def _is_async(handler: Handler) -> bool:
    """Whether calling it gives something to be awaited or iterated in a loop."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    call = getattr(handler, "__call__", None)  # noqa: B004 - its kind, not whether it has one
    return any(kind(handler) or kind(call) for kind in kinds)


async def _consume(result: Any) -> None:
    if inspect.isasyncgen(result):
        async for _ in result:
            pass
    elif inspect.isawaitable(result):
        await result


def _consume_blocking(result: object) -> None:
    if inspect.isgenerator(result):
        for _ in result:
            pass
