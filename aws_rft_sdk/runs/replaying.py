"""Runs agent, tools and reward of recorded rollouts again, with the recorded answers and without a model.

Nothing is written, and no model is asked: inference goes to a runtime of this process that knows the recording only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import thaw
from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.errors import ConfigurationError, DatasetError, PayloadError
from aws_rft_sdk.failures import describe_error
from aws_rft_sdk.lifecycle.calling import Ended, Handler, run_handler
from aws_rft_sdk.lifecycle.executor import hosting_handlers, in_sdk_thread
from aws_rft_sdk.runs.manifest import Manifest, read_manifest
from aws_rft_sdk.runs.recorded import (
    changed_sources,
    choose_records,
    find_database,
    find_reference,
)
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.replay_report import ReplayedRollout, ReplayReport, ReplayStatus, kind_of
from aws_rft_sdk.runs.request_diff import RequestDifference, compare_requests
from aws_rft_sdk.runs.rotating_runtime import RotatingRuntime
from aws_rft_sdk.runs.transcript import Transcript, TranscriptPolicy, without_lost_turns
from aws_rft_sdk.runtime import TrajectoryReader
from aws_rft_sdk.runtime.capture import check_captured
from aws_rft_sdk.types import InferenceParams, Trajectory, Turn

DEADLINE_SECONDS = 600.0

_BUFFERED = 8
"""Rollouts in the pipe for each that may run: one that takes long holds up the order, not the work."""
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def replay(
    folder: str | Path,
    handler: Handler | str | None = None,
    *,
    only: Collection[str] = (),
    limit: int | None = None,
    concurrency: int = 16,
    deadline_seconds: float | None = DEADLINE_SECONDS,
    strict: bool = False,
    confirm: bool = True,
    db: str | Path | None = None,
) -> ReplayReport:
    """Replay recorded rollouts and compare. Not from within an event loop: see `replay_rollouts`.

    Tools run for real, and so does whatever else the handler does; inference alone is answered from the record.

    Args:
        folder: What `aws-rft rollout --out` named. Nothing is written to it.
        handler: The decorated handler, or `path/to/file.py:function`. None for the one that the run names.
        only: Ids of the rollouts to replay; empty for all.
        limit: Replay the first so many, in the order of the dataset; None for all.
        concurrency: Rollouts in flight at most, at least 1.
        deadline_seconds: For each rollout; None for no deadline.
        strict: Whether fresh ids and times in texts count as differences.
        confirm: Whether a rollout that differs is replayed once more, to tell changed code from an agent that is not
            deterministic.
        db: Database with the trajectories; None for the one in the folder.

    Raises:
        ConfigurationError: No handler or no database can be found, an id is unknown, or a number is below 1.
        DatasetError: The records cannot be read.
        Exception: What importing the handler raises.

    Example:
        >>> report = replay("rollouts", "agent.py:handler")  # doctest: +SKIP
        >>> assert report.same, str(report)  # doctest: +SKIP
    """
    fn = _load(folder, handler)

    async def collect() -> list[ReplayedRollout]:
        return [
            rollout
            async for rollout in replay_rollouts(
                folder,
                fn,
                only=only,
                limit=limit,
                concurrency=concurrency,
                deadline_seconds=deadline_seconds,
                strict=strict,
                confirm=confirm,
                db=db,
            )
        ]

    rollouts = asyncio.run(collect())
    return ReplayReport.of(rollouts, changed_sources(folder, fn))


async def replay_rollouts(
    folder: str | Path,
    handler: Handler | str | None = None,
    *,
    only: Collection[str] = (),
    limit: int | None = None,
    concurrency: int = 16,
    deadline_seconds: float | None = DEADLINE_SECONDS,
    strict: bool = False,
    confirm: bool = True,
    db: str | Path | None = None,
) -> AsyncGenerator[ReplayedRollout, None]:
    """Replay recorded rollouts one after the other, as `replay` does.

    Yields:
        Each rollout with its replay, in the order of the dataset, group by group. When the consumer is cancelled, so
        are the rollouts in flight.

    Raises:
        ConfigurationError: As for `replay`.
        DatasetError: The records cannot be read.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency is {concurrency}; it must be at least 1")
    records = choose_records(folder, only, limit)
    fn = _load(folder, handler)
    params = _params_of(read_manifest(folder))
    with TrajectoryReader(find_database(folder, db)) as reader, hosting_handlers(asyncio.get_running_loop()):
        player = _Player(fn, reader, params, deadline_seconds=deadline_seconds, strict=strict, confirm=confirm)
        slots = asyncio.Semaphore(concurrency)

        async def play(record: RolloutRecord) -> ReplayedRollout:
            async with slots:
                return await player.play(record)

        waiting: deque[asyncio.Task[ReplayedRollout]] = deque()
        try:
            for record in records:
                if len(waiting) == _BUFFERED * concurrency:
                    yield await waiting[0]
                    waiting.popleft()
                waiting.append(asyncio.create_task(play(record)))
            while waiting:
                yield await waiting[0]
                waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)
            await player.aclose()


class _Player:
    """Replays rollouts of one handler."""

    def __init__(
        self,
        handler: Handler,
        reader: TrajectoryReader,
        params: InferenceParams | None,
        *,
        deadline_seconds: float | None,
        strict: bool,
        confirm: bool,
    ) -> None:
        self._handler = handler
        self._reader = reader
        self._params = params
        self._deadline_seconds = deadline_seconds
        self._strict = strict
        self._confirm = confirm
        self._policy = TranscriptPolicy()
        self._runtimes = RotatingRuntime(self._policy)

    async def aclose(self) -> None:
        await self._runtimes.aclose()

    async def play(self, record: RolloutRecord) -> ReplayedRollout:
        """Replay a rollout, twice if it differs."""
        try:
            trajectory = await in_sdk_thread(self._reader.find, record.trajectory_id)
        except DatasetError as error:
            return _unplayed(record, ReplayStatus.MISSING, str(error))
        if trajectory is None:
            if record.trajectory_id.startswith("not-started-"):
                return _unplayed(record, ReplayStatus.NOT_STARTED, record.error)
            return _unplayed(record, ReplayStatus.MISSING, "the database holds no trajectory with this id")
        if trajectory.prompt is None:
            return _unplayed(record, ReplayStatus.MISSING, "the runtime was not told the prompt of this rollout")
        check_captured(trajectory)
        turns = without_lost_turns(trajectory.turns, record.unsure_turns)
        transcript, ended = await self._run(trajectory, turns)
        outcome = _outcome(record, turns, transcript, ended)
        if not outcome.differs or not self._confirm:
            return outcome
        transcript_again, ended_again = await self._run(trajectory, turns)
        again = _outcome(record, turns, transcript_again, ended_again)
        return dataclasses.replace(outcome, steady=self._agree(outcome, transcript, again, transcript_again))

    async def _run(self, trajectory: Trajectory, turns: list[Turn]) -> tuple[Transcript, Ended]:
        transcript = Transcript(turns, strict=self._strict)
        async with self._runtimes.runtime(len(turns)) as runtime:
            payload = await in_sdk_thread(
                runtime.new_rollout,
                thaw(trajectory.prompt),
                job_arn=trajectory.job_arn,
                inference_params=self._params or _params_seen(turns),
            )
            trajectory_id = payload["metadata"]["rolloutId"]
            self._policy.expect(trajectory_id, transcript)
            try:
                ended = await run_handler(
                    self._handler, payload, deadline_seconds=self._deadline_seconds, trajectory_id=trajectory_id
                )
            finally:
                self._policy.forget(trajectory_id)
        return transcript, ended

    def _agree(
        self, first: ReplayedRollout, transcript: Transcript, second: ReplayedRollout, transcript_again: Transcript
    ) -> bool:
        if (first.status, first.turn) != (second.status, second.turn) or not _equal(first.rewards, second.rewards):
            return False
        one, other = transcript.divergence, transcript_again.divergence
        if one is None or other is None:
            return one is other
        return not compare_requests(one.request, other.request, strict=self._strict).differences


def _load(folder: str | Path, handler: Handler | str | None) -> Handler:
    return handler if callable(handler) else load_callable(find_reference(folder, handler))


def _params_of(manifest: Manifest | None) -> InferenceParams | None:
    """Return the sampling parameters of the run's payloads, None when it does not tell."""
    names = ("temperature", "top-p", "max-tokens")
    if manifest is None or not all(name in manifest.settings for name in names):
        return None
    return InferenceParams(*(manifest.settings[name] for name in names))


def _params_seen(turns: list[Turn]) -> InferenceParams:
    """Return the sampling parameters that the first request carried: a wrapped model puts the payload's there."""
    request: Mapping[str, Any] = turns[0].request if turns else {}
    limit = next((request[name] for name in _LIMITS if request.get(name) is not None), None)
    try:
        return InferenceParams(request.get("temperature"), request.get("top_p"), limit)
    except PayloadError:  # the agent's own, then: nothing that a payload can hold
        return InferenceParams()


def _unplayed(record: RolloutRecord, status: ReplayStatus, note: str | None) -> ReplayedRollout:
    return ReplayedRollout(record.trajectory_id, record.prompt_index, record.sample_index, status, note=note)


def _outcome(record: RolloutRecord, turns: list[Turn], transcript: Transcript, ended: Ended) -> ReplayedRollout:
    recorded = record.rewards or (None if record.reward is None else (record.reward,))
    rewards = ended.context.rewards if ended.context is not None else None
    error = None if ended.error is None else describe_error(ended.error)
    status, turn, note = _status(record, recorded, turns, transcript, rewards, error)
    return ReplayedRollout(
        trajectory_id=record.trajectory_id,
        prompt_index=record.prompt_index,
        sample_index=record.sample_index,
        status=status,
        turn=turn,
        differences=_differences(transcript),
        recorded_rewards=recorded,
        rewards=rewards,
        recorded_turns=len(turns),
        turns=transcript.asked,
        recorded_error=record.error,
        error=error,
        ignored=transcript.ignored,
        note=note,
    )


def _differences(transcript: Transcript) -> tuple[RequestDifference, ...]:
    return transcript.divergence.differences if transcript.divergence is not None else ()


def _status(
    record: RolloutRecord,
    recorded: tuple[float, ...] | None,
    turns: list[Turn],
    transcript: Transcript,
    rewards: tuple[float, ...] | None,
    error: str | None,
) -> tuple[ReplayStatus, int | None, str | None]:
    if transcript.divergence is not None:
        return ReplayStatus.DIVERGED, transcript.divergence.turn, _after(transcript)
    if transcript.beyond:
        if record.error is not None and record.turns + record.refused_calls > len(turns):
            note = (
                "as recorded, the agent asked for one more turn that had no answer; from there on nothing is compared"
            )
            return ReplayStatus.SAME, None, note
        return ReplayStatus.WENT_ON, len(turns), None
    if kind_of(error) != kind_of(record.error):
        turn = transcript.unasked[0] if transcript.unasked else None
        return ReplayStatus.ERROR_CHANGED, turn, None
    if transcript.unasked:
        return ReplayStatus.STOPPED_EARLY, transcript.unasked[0], None
    if not _equal(recorded, rewards):
        return ReplayStatus.REWARD_CHANGED, None, None
    return ReplayStatus.SAME, None, None


def _after(transcript: Transcript) -> str | None:
    if transcript.was_extra:
        return "this request is one more: the recorded one came after it"
    if transcript.beyond:
        return "after that, the agent asked for more turns than were recorded"
    if transcript.unasked:
        return f"after that, {len(transcript.unasked)} recorded turns were not asked for"
    return None


def _equal(before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> bool:
    if before is None or after is None:
        return before is after
    return len(before) == len(after) and all(
        math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) for one, other in zip(before, after, strict=True)
    )
