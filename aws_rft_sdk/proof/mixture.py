"""The mixture: everything that gets headers mixed up elsewhere, at once, over models that all rollouts share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk.adapters.strands import wrap_model
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.lifecycle.calling import Handler, run_handler
from aws_rft_sdk.proof.diagnosis import diagnose
from aws_rft_sdk.proof.handlers import in_loop_of_its_own
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
        self._ended: dict[str, tuple[BaseException | None, bool]] = {}  # what was raised, and whether it was bound
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
        in_loop, in_threads = asyncio.Semaphore(_TASKS_AT_ONCE), asyncio.Semaphore(threads)

        async def rollout(index: int) -> None:
            kind = kinds[index // 2 % len(kinds)]
            if index % 2 == 0:
                async with in_loop:
                    await self._run(kind, self._stock.inner_async)
            else:
                async with in_threads:
                    if kind == _CANCELLED:  # only tasks can be cancelled, so this one gets a loop of its own
                        await asyncio.wrap_future(
                            in_loop_of_its_own(lambda: self._run(kind, self._stock.inner_async))[0]
                        )
                    else:
                        await self._run(kind, self._stock.inner_sync)

        async def outside(number: int) -> None:
            kind = kinds[number % len(kinds)]
            async with in_loop:
                await self._call_outside(kind, blocking=number % 2 == 1)

        count = -(-rollouts // _OUTSIDE_SHARE)
        await asyncio.gather(*map(rollout, range(rollouts)), *map(outside, range(count)))
        # And once more when no rollout is in progress any more: what is left behind shows now.
        await self._call_outside("plain", blocking=False)
        return count + 1

    def outcome(self, run: Run) -> Outcome:
        """Return how a rollout ended, by the runtime's record of it."""
        trajectory = self._stage.trajectory(run)
        error, is_bound = self._ended.get(run.marker, (None, True))
        name = type(error).__name__ if error is not None else None
        expected = _EXPECTED_ERRORS.get(run.kind, ())
        wanted = _reward_of(run.marker) if error is None else _FLOOR
        return Outcome(
            run,
            error=f"{name}: {error}" if error is not None else None,
            error_type=name,
            is_bound=is_bound,
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

    async def _call_outside(self, kind: str, *, blocking: bool) -> None:
        if kind in (*_EXPECTED_ERRORS, "nested"):
            kind = "plain"
        marker = new_marker()
        self.runs.append(Run(marker, kind=f"outside, {kind}"))
        script = SCENARIOS[kind](self._stock, f"{kind}: read the meter ({marker})")
        try:
            await (asyncio.to_thread(play_blocking, script) if blocking else play(script))
        except Exception as error:  # headers that should not be there lead to refusals
            self.outside_errors.append(error)

    async def _run(self, kind: str, handler: Handler) -> None:
        payload, run = self._start(kind)
        with self._stage.watch.in_progress(run.trajectory_id or ""):
            rollout = asyncio.ensure_future(run_handler(handler, payload, trajectory_id=run.trajectory_id))
            if kind == _CANCELLED:
                await self._cancel(rollout, run)
            try:
                ended = await rollout
                error, is_bound = ended.error, ended.context is not None
            except asyncio.CancelledError as cancelled:
                error, is_bound = cancelled, True
        self._ended[run.marker] = error, is_bound
        if self._progress is not None:
            self._progress()

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

    def _start_inner(self) -> tuple[dict[str, object], Callable[[], None]]:
        payload, run = self._start("plain")
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
