"""The mixture: everything that gets headers mixed up elsewhere, at once, over models that all rollouts share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk.adapters.strands import wrap_model
from aws_rft_sdk.context import collecting
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.proof.diagnosis import diagnose
from aws_rft_sdk.proof.markers import find_markers, new_marker
from aws_rft_sdk.proof.report import Proof
from aws_rft_sdk.proof.scenarios import SCENARIOS, Script, Stock, play, play_blocking
from aws_rft_sdk.proof.stage import ANSWER_LOST, THROTTLED, UNAVAILABLE, UNSIGNED, Run, Stage
from aws_rft_sdk.proof.verdict import Outcome, judge
from aws_rft_sdk.types import TrajectoryStatus

_TASKS_AT_ONCE = 64
_OUTSIDE_SHARE = 8
_FAULTS = {
    "throttled (429)": (THROTTLED, THROTTLED),
    "unavailable (503)": (UNAVAILABLE, THROTTLED),
    "answer lost (500)": (ANSWER_LOST,),
}
_CANCELLED = "cancelled"
_EXPECTED_ERRORS = {_CANCELLED: ("CancelledError",), "answer lost (500)": ("InternalServerError",)}
_FLOOR = -1.0

Wrap = Callable[[Model], Model]


def prove_mixture(
    *,
    rollouts: int = 96,
    threads: int = 32,
    wrap: Wrap = wrap_model,
    kinds: Sequence[str] = tuple(SCENARIOS),
    progress: Callable[[], None] | None = None,
) -> Proof:
    """Run a mixture of rollouts over shared models and judge where their turns arrived.

    Even ones run as tasks of one event loop, odd ones in a pool of threads; calls outside any rollout run between them,
    through the same models. Blocks until all is over. Starts a local runtime of its own and talks to nothing else.

    Args:
        rollouts: How many, not counting those that are nested in others.
        threads: Size of the pool.
        wrap: What makes a Strands model trainable; another function shows what the proof finds.
        kinds: Which scenarios, in turns.
        progress: Called after each rollout, from any thread.
    """
    began = time.perf_counter()
    with Stage() as stage:
        mixture = _Mixture(stage, wrap, progress)
        outside = asyncio.run(mixture.run_all(rollouts, threads, kinds))
        verdict = judge(mixture.runs, stage.watch.take())
        outcomes = tuple(mixture.outcome(run) for run in mixture.runs if run.trajectory_id is not None)
    return Proof(
        subject="the mixture",
        verdict=verdict,
        outcomes=outcomes,
        causes=diagnose(verdict, outcomes),
        notes=_notes(mixture.outside_errors),
        outside_calls=outside,
        seconds=time.perf_counter() - began,
    )


def _notes(outside_errors: Sequence[Exception]) -> tuple[str, ...]:
    if not outside_errors:
        return ()
    first = outside_errors[0]
    return (f"{len(outside_errors)} calls outside rollouts raised, the first {type(first).__name__}: {first}"[:300],)


class _Mixture:
    """The rollouts of one proof."""

    def __init__(self, stage: Stage, wrap: Wrap, progress: Callable[[], None] | None) -> None:
        self._stage = stage
        self._progress = progress
        self.runs: list[Run] = []
        self._errors: dict[str, BaseException] = {}
        self._bound: set[str] = set()
        self.outside_errors: list[Exception] = []
        arguments = {"base_url": f"{stage.runtime.endpoint}/v1", "api_key": UNSIGNED}
        self._stock = Stock(
            model=wrap(OpenAIModel(client_args=arguments, model_id="default")),
            unstreamed_model=wrap(OpenAIModel(client_args=arguments, model_id="default", stream=False)),
            start_inner=self._start_inner,
            inner_async=rft_handler(floor_reward=_FLOOR)(self._handle),
            inner_sync=rft_handler(floor_reward=_FLOOR)(self._handle_blocking),
        )

    async def run_all(self, rollouts: int, threads: int, kinds: Sequence[str]) -> int:
        """Run all rollouts and the calls outside; return how many of the latter."""
        slots = asyncio.Semaphore(_TASKS_AT_ONCE)
        loop = asyncio.get_running_loop()
        outside = -(-rollouts // _OUTSIDE_SHARE)
        with ThreadPoolExecutor(threads, thread_name_prefix="proof") as pool:
            work: list[Any] = []
            for index in range(rollouts):
                kind = kinds[index // 2 % len(kinds)]
                if index % 2 == 0:
                    work.append(_within(slots, partial(self._run, kind)))
                else:
                    work.append(loop.run_in_executor(pool, self._run_blocking, kind))
                if index % _OUTSIDE_SHARE == 0:
                    outside_kind = kinds[index // _OUTSIDE_SHARE % len(kinds)]
                    if index % (2 * _OUTSIDE_SHARE) == 0:
                        work.append(_within(slots, partial(self._call_outside, outside_kind)))
                    else:
                        work.append(loop.run_in_executor(pool, self._call_outside_blocking, outside_kind))
            await asyncio.gather(*work)
        # And once more when no rollout is in progress any more: what is left behind shows now.
        await self._call_outside("plain")
        return outside + 1

    def outcome(self, run: Run) -> Outcome:
        """Return how a rollout ended, by the runtime's record of it."""
        trajectory = self._stage.trajectory(run)
        error = self._errors.get(run.marker)
        name = type(error).__name__ if error is not None else None
        expected = _EXPECTED_ERRORS.get(run.kind, ())
        wanted = _reward_of(run.marker) if error is None else _FLOOR
        return Outcome(
            run,
            error=f"{name}: {error}" if error is not None else None,
            error_type=name,
            is_bound=run.marker in self._bound,
            is_reported=trajectory.status is TrajectoryStatus.REWARD_RECEIVED and trajectory.rewards == (wanted,),
            expects_failure=name is not None and name in expected,
        )

    # --- one rollout -------------------------------------------------------------------------------------------------

    def _start(self, kind: str) -> tuple[dict[str, object], Run]:
        marker = new_marker()
        payload, run = self._stage.start_rollout(f"{kind}: read the meter ({marker})", marker, kind)
        self._stage.watch.order(marker, *_FAULTS.get(kind, ()))
        self.runs.append(run)
        return payload, run

    async def _call_outside(self, kind: str) -> None:
        try:
            await play(self._outside(kind))
        except Exception as error:  # headers that should not be there lead to refusals
            self.outside_errors.append(error)

    def _call_outside_blocking(self, kind: str) -> None:
        try:
            play_blocking(self._outside(kind))
        except Exception as error:
            self.outside_errors.append(error)

    def _outside(self, kind: str) -> Script:
        if kind in (*_EXPECTED_ERRORS, "nested"):
            kind = "plain"
        marker = new_marker()
        self.runs.append(Run(marker, kind=f"outside, {kind}"))
        return SCENARIOS[kind](self._stock, f"{kind}: read the meter ({marker})")

    async def _run(self, kind: str) -> None:
        payload, run = self._start(kind)
        with ExitStack() as stack:
            contexts = stack.enter_context(collecting())
            stack.enter_context(self._stage.watch.in_progress(run.trajectory_id or ""))
            rollout = asyncio.ensure_future(self._stock.inner_async(payload))
            if kind == _CANCELLED:
                await self._cancel(rollout, run)
            try:
                await rollout
            except (Exception, asyncio.CancelledError) as error:
                self._errors[run.marker] = error
        self._ended(run, contexts)

    def _run_blocking(self, kind: str) -> None:
        if kind == _CANCELLED:  # only tasks can be cancelled, so this one gets a loop of its own
            asyncio.run(self._run(kind))
            return
        payload, run = self._start(kind)
        with collecting() as contexts, self._stage.watch.in_progress(run.trajectory_id or ""):
            try:
                self._stock.inner_sync(payload)
            except Exception as error:
                self._errors[run.marker] = error
        self._ended(run, contexts)

    async def _cancel(self, rollout: asyncio.Future[Any], run: Run) -> None:
        """Cancel a rollout in the middle of a turn."""
        hold = self._stage.policy.hold(run.marker)
        arrived = asyncio.wrap_future(hold.arrived)
        try:
            await asyncio.wait([arrived, rollout], return_when=asyncio.FIRST_COMPLETED)
            rollout.cancel()
            await asyncio.wait([rollout])
        finally:
            arrived.cancel()
            hold.release()

    def _ended(self, run: Run, contexts: Sequence[Any]) -> None:
        if any(context.trajectory_id == run.trajectory_id for context in contexts):
            self._bound.add(run.marker)
        if self._progress is not None:
            self._progress()

    def _start_inner(self) -> tuple[dict[str, object], Callable[[], None]]:
        payload, run = self._start("plain")
        self._bound.add(run.marker)
        stack = ExitStack()
        stack.enter_context(self._stage.watch.in_progress(run.trajectory_id or ""))
        return payload, stack.close

    # --- the handlers ------------------------------------------------------------------------------------------------

    async def _handle(self, payload: dict[str, Any]) -> dict[str, float]:
        await play(self._script(payload["prompt"]))
        return {"reward": _reward_of(payload["prompt"])}

    def _handle_blocking(self, payload: dict[str, Any]) -> dict[str, float]:
        play_blocking(self._script(payload["prompt"]))
        return {"reward": _reward_of(payload["prompt"])}

    def _script(self, prompt: str) -> Script:
        return SCENARIOS[prompt.partition(":")[0]](self._stock, prompt)


def _reward_of(text: str) -> float:
    """Return a reward that tells the rollout, so that one that arrives elsewhere is noticed."""
    return random.Random(find_markers(text)[-1]).random()


async def _within(slots: asyncio.Semaphore, work: Callable[[], Any]) -> None:
    async with slots:
        await work()
