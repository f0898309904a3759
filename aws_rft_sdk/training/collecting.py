"""Rollouts for training: a batch of prompts through the agent and the local runtime, and what each teaches."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from aws_rft_sdk.advantages import Scored
from aws_rft_sdk.errors import ConfigurationError, PayloadError
from aws_rft_sdk.failures import RolloutStatus
from aws_rft_sdk.lifecycle import loops
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.rollout import run_rollouts
from aws_rft_sdk.rollout.engines import Engine
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.training.rows import Row, rows_of
from aws_rft_sdk.types import InferenceParams, Trajectory


@dataclass(frozen=True)
class Sample:
    """One rollout, and what it teaches."""

    records: tuple[RolloutRecord, ...]
    """Of all attempts, in order. The last one counts."""
    scored: Scored
    """Without rewards if the rollout failed or got none: a reward of 0 would say that its decisions were wrong."""
    problem: str | None = None
    """Why there are no rewards. None if there are some."""
    rows: tuple[Row, ...] = field(default=(), repr=False)
    """Empty if there are no rewards, and in other processes than the one that ran the rollout."""
    datums: int = 0
    """Number of rows."""
    tokens: int = 0
    """Of all rows."""
    responses: tuple[int, ...] = ()
    """Tokens that were sampled in each turn."""
    truncated: int = 0
    """Responses that ended at the token limit."""
    breaks: tuple[str, ...] = ()
    """Why the rows after the first one began."""


class Collector:
    """Runs batches of rollouts. Its engine stays open from one batch to the next, in an event loop of its own.

    Use it as a context manager.

    Args:
        runtime: A runtime that was started. Its policy answers.
        engine: Runs the agent.
        concurrency: Rollouts in flight.
        retries: Repetitions of each rollout that infrastructure broke.
    """

    def __init__(self, runtime: LocalRuntime, engine: Engine, *, concurrency: int, retries: int) -> None:
        self._runtime, self._engine = runtime, engine
        self._concurrency, self._retries = concurrency, retries
        self._opened: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._serve, name="rft-rollouts", daemon=True)

    def __enter__(self) -> Collector:
        """Start the engine.

        Raises:
            ConfigurationError: The engine cannot run rollouts.
            UnavailableError: What the engine needs does not work.
        """
        self._thread.start()
        self._opened.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop, closing = self._opened.result()
        loop.call_soon_threadsafe(closing.set)
        self._thread.join()

    def _serve(self) -> None:
        async def live() -> None:
            async with self._engine:
                closing = asyncio.Event()
                self._opened.set_result((asyncio.get_running_loop(), closing))
                await closing.wait()

        try:
            loops.run(live())
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    def collect(
        self, cells: Sequence[str], places: Sequence[tuple[int, int]], params: InferenceParams, round_name: str
    ) -> list[Sample]:
        """Run one rollout for each prompt cell, and wait for all.

        The k-th rollout of a prompt that the runtime began is the k-th of that prompt in the result. So the same draws
        of the policy are at the same place each time.

        Args:
            cells: Prompt cells. A prompt may come several times.
            places: Index of the prompt and number of the sample, for the record of each rollout.
            params: Sampling parameters.
            round_name: The policy is told it, if it has a `new_round`: its weights may have changed.

        Returns:
            One sample for each cell, in the order of the cells.

        Raises:
            UnavailableError: The engine has nothing left to run rollouts on.
        """
        if callable(new_round := getattr(self._runtime.policy, "new_round", None)):
            new_round(round_name)
        loop, _ = self._opened.result()
        attempts = asyncio.run_coroutine_threadsafe(self._run(cells, params), loop).result()
        return [
            self._sample([replace(record, prompt_index=place[0], sample_index=place[1]) for record in records])
            for records, place in zip(attempts, places, strict=True)
        ]

    async def _run(self, cells: Sequence[str], params: InferenceParams) -> list[list[RolloutRecord]]:
        access = access_in(self._runtime, params)
        begun: dict[str, int] = {}
        lock, numbers = threading.Lock(), itertools.count()

        def start(prompt: str) -> Mapping[str, Any]:
            with lock:  # so that these numbers are in the order in which the policy hears of the rollouts
                payload = access.start(prompt)
                begun[payload["metadata"]["rolloutId"]] = next(numbers)
            return payload

        attempts: dict[int, list[RolloutRecord]] = defaultdict(list)
        retries = {"infrastructure": self._retries}
        engine = _Entered(self._engine)
        async for record in run_rollouts(
            engine, cells, start, concurrency=self._concurrency, retries=retries, observe=access.observe
        ):
            attempts[record.prompt_index].append(record)
        wanted: dict[str, list[int]] = defaultdict(list)
        for index, cell in enumerate(cells):
            wanted[cell].append(index)
        found = {}
        for indexes in wanted.values():
            order = sorted(indexes, key=lambda index: begun.get(attempts[index][0].id, math.inf))
            found.update({index: attempts[ran] for index, ran in zip(indexes, order, strict=True)})
        return [found[index] for index in range(len(cells))]

    def _sample(self, records: list[RolloutRecord]) -> Sample:
        record = records[-1]
        # An agent's floor reward after a crash is no judgement either.
        if record.status is not RolloutStatus.COMPLETED:
            return Sample(tuple(records), Scored(None), record.error or f"the rollout is {record.status.value}")
        trajectory = self._runtime.trajectory(record.id)
        responses = tuple(len(turn.token_ids or ()) for turn in trajectory.turns)
        truncated = sum(_is_truncated(turn.response) for turn in trajectory.turns)
        try:
            rows = _rows(trajectory)
            scored = Scored(trajectory.rewards, len(trajectory.turns), sum(responses))
        except (ConfigurationError, PayloadError) as error:
            return Sample(tuple(records), Scored(None), str(error))
        tokens = sum(len(row.ids) for row in rows)
        breaks = tuple(row.began for row in rows if row.began)
        return Sample(tuple(records), scored, None, rows, len(rows), tokens, responses, truncated, breaks)


def _rows(trajectory: Trajectory) -> tuple[Row, ...]:
    if trajectory.rewards is None:
        raise PayloadError(f"trajectory {trajectory.trajectory_id} has no reward")
    rows = tuple(rows_of(trajectory))
    if not rows:
        raise PayloadError(f"nothing was sampled in trajectory {trajectory.trajectory_id}")
    return rows


def _is_truncated(response: Any) -> bool:
    choices = response.get("choices") if isinstance(response, Mapping) else None
    return choices is not None and any(choice.get("finish_reason") == "length" for choice in choices)


class _Entered(Engine):
    """An engine that its owner enters and leaves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def hung(self) -> int:
        """See `Engine.hung`."""
        return self._engine.hung

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """See `Engine.run`."""
        return await self._engine.run(payload, trajectory_id)
