"""Runs many rollouts on an engine and makes a record of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Container, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from aws_rft_sdk._loading import check_not_loading
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.failures import FailureKind, RolloutStatus
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Handler, trajectory_id_of
from aws_rft_sdk.lifecycle.executor import in_sdk_thread
from aws_rft_sdk.rollout.access import Observation, Observe, Start
from aws_rft_sdk.rollout.engines import Engine, LocalEngine, RolloutOutcome
from aws_rft_sdk.rollout.schedule import Breaker, Pace, Planned, Schedule
from aws_rft_sdk.runs.records import RolloutRecord

logger = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS = 0.25
"""While a start is due later: after it, `stopping` is looked at again."""


class Journal(Protocol):
    """Is told about rollouts before they are over, so that a resumed run knows which ones there were."""

    def started(self, trajectory_id: str, planned: Planned) -> None:
        """Note that a rollout is about to run."""

    def given_up(self, trajectory_id: str) -> None:
        """Note that a rollout is about to be cancelled: what the runtime gets of it counts for nothing."""


@dataclass(frozen=True)
class Progress:
    """What an earlier run has left to do."""

    done: Container[tuple[int, int]] = frozenset()
    """Prompt and sample of the rollouts that need not run."""
    attempts: dict[tuple[int, int], int] = field(default_factory=dict)
    """How often each of the others was tried; those not named, never."""


async def run_rollouts(
    handler: Handler | Engine,
    prompts: Iterable[str],
    start: Start,
    *,
    group_size: int = 1,
    concurrency: int = 16,
    starts_per_second: float | None = None,
    deadline_seconds: float | None = DEADLINE_SECONDS,
    retries: int | str | Mapping[str, int] = 0,
    retry_budget: float | None = None,
    breaker: int | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
    stopping: asyncio.Event | None = None,
) -> AsyncGenerator[RolloutRecord, None]:
    """Run each prompt `group_size` times, at most `concurrency` rollouts at once.

    Rollouts begin in dataset order, group by group, repetitions of failed ones before new ones. One that fails is a
    record like any other and stops nothing.

    Args:
        handler: A function decorated with `rft_handler`, of any kind, for this process; or an engine, which is entered
            and left here.
        prompts: Prompt cells; read as rollouts begin.
        start: Starts a rollout of a prompt; called in a thread.
        group_size: Rollouts of each prompt, at least 1.
        concurrency: Rollouts in flight at most, at least 1.
        starts_per_second: At most, evenly spaced; None for no limit.
        deadline_seconds: For each rollout of a function; an engine has its own. None for no deadline.
        retries: Repetitions of a rollout that failed or was not reported, with a new trajectory; a low reward is none.
            One number for every kind of failure, or one for each: "infrastructure=2" or `{"infrastructure": 2}`. Other
            kinds have 0 then.
        retry_budget: Repetitions of all rollouts together at most, rounded up; None for no limit.
        breaker: End the run when so many of the first rollouts all fail for the same reason, which is kind and type of
            the error. None to go on.
        observe: Looks at a rollout in the runtime, for its tokens, and for rollouts that the engine lost. None to know
            only what the engine knows.
        progress: What need not run; None to run all.
        journal: Is told about rollouts that begin; None for nobody.
        stopping: Once set, no more rollouts begin and those in flight are finished. None to run all.

    Yields:
        A record of each attempt, as they end; the last one with the same `key` is the rollout's. The first record of
        each kind of error has its traceback. When the consumer is cancelled, so are the rollouts in flight; their
        handlers report that as any other error, and no record is made of them.

    Raises:
        ConfigurationError: A number is too low, there is no such kind of failure, or the engine cannot be started.
        BreakerError: The breaker has tripped. Records of all that ended were yielded; the rest in flight is cancelled.
        UnavailableError: The engine has nothing left to run rollouts on, as it said of one of them. As above.
        Exception: What `prompts` or `journal` raises; rollouts in flight are cancelled.
    """
    check_not_loading()
    _check(group_size=(group_size, 1), concurrency=(concurrency, 1), breaker=(1 if breaker is None else breaker, 1))
    if starts_per_second is not None and not starts_per_second > 0:
        raise ConfigurationError(f"starts_per_second is {starts_per_second}; it must be above 0")
    progress = progress or Progress()
    engine = handler if isinstance(handler, Engine) else LocalEngine(handler, deadline_seconds=deadline_seconds)
    schedule = Schedule(
        prompts,
        group_size,
        done=progress.done,
        attempts=progress.attempts,
        retries=retries,
        retry_budget=retry_budget,
    )
    async with engine:
        crew, first = _Crew(engine, start, observe, journal), _FirstTracebacks()
        armed, end = Breaker(breaker), None
        try:
            async with aclosing(_conduct(crew, schedule, concurrency, Pace(starts_per_second), stopping)) as attempts:
                async for planned, record in attempts:
                    record = first.only(record)
                    if not record.ended_well:
                        schedule.failed(planned, record.failure or FailureKind.AGENT)
                    end = armed.note(record) or crew.unavailable
                    yield record
                    if end is not None:
                        break
            for record in crew.ended_by_now():
                yield first.only(record)
            if end is not None:
                raise end
        finally:
            await crew.cancel()


class _FirstTracebacks:
    """Leaves only the first traceback of each kind of error, since a thousand equal ones help nobody."""

    def __init__(self) -> None:
        self._seen: set[tuple[FailureKind | None, str | None]] = set()

    def only(self, record: RolloutRecord) -> RolloutRecord:
        """Return the record, without its traceback if an earlier record had one of the same kind of error."""
        if record.traceback is None:
            return record
        known = record.reason in self._seen
        self._seen.add(record.reason)
        return replace(record, traceback=None) if known else record


def _check(**limits: tuple[int, int]) -> None:
    for name, (value, lowest) in limits.items():
        if value < lowest:
            raise ConfigurationError(f"{name} is {value}; it must be at least {lowest}")


async def _conduct(
    crew: _Crew, schedule: Schedule, concurrency: int, pace: Pace, stopping: asyncio.Event | None
) -> AsyncGenerator[tuple[Planned, RolloutRecord], None]:
    while True:
        pause = None
        while crew.size < concurrency and not (stopping and stopping.is_set()):
            if pause := pace.wait_seconds(time.monotonic()):
                break
            planned = schedule.next()
            if planned is None:
                break
            pace.started(time.monotonic())
            crew.begin(planned)
        if not crew.size and not pause:
            return
        ended = await crew.ended(None if not pause else min(pause, _LONGEST_WAIT_SECONDS))
        if ended is not None:
            yield ended


class _Crew:
    """The rollouts in flight."""

    def __init__(self, engine: Engine, start: Start, observe: Observe | None, journal: Journal | None) -> None:
        self._engine = engine
        self._start = start
        self._observe = observe
        self._journal = journal
        self._running: dict[asyncio.Task[RolloutRecord], Planned] = {}
        self._ids: dict[asyncio.Task[RolloutRecord], str] = {}
        # A queue, because waiting for all tasks anew at each end would take longer the more there are.
        self._ended: asyncio.Queue[asyncio.Task[RolloutRecord]] = asyncio.Queue()
        self.unavailable: UnavailableError | None = None
        """Why no rollout can run any more; None as long as one may."""

    @property
    def size(self) -> int:
        """Rollouts begun whose record was not handed out."""
        return len(self._running)

    def begin(self, planned: Planned) -> None:
        """Begin a rollout."""
        task = asyncio.create_task(self._run(planned))
        self._running[task] = planned
        task.add_done_callback(self._ended.put_nowait)

    async def ended(self, timeout_seconds: float | None) -> tuple[Planned, RolloutRecord] | None:
        """Wait for the next rollout that ends; None when none did in time."""
        try:
            task = await asyncio.wait_for(self._ended.get(), timeout_seconds)
        except asyncio.TimeoutError:
            return None
        return self._take(task)

    def ended_by_now(self) -> Iterator[RolloutRecord]:
        """Yield the records of those that are over and were not waited for."""
        for task in [task for task in self._running if task.done()]:
            yield self._take(task)[1]

    def _take(self, task: asyncio.Task[RolloutRecord]) -> tuple[Planned, RolloutRecord]:
        self._ids.pop(task, None)
        return self._running.pop(task), task.result()

    async def cancel(self) -> None:
        """Cancel all that run, and wait until they are over."""
        for task in [task for task in self._running if self._may_cancel(task)]:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _may_cancel(self, task: asyncio.Task[RolloutRecord]) -> bool:
        # What is over is not given up: what the runtime has of it is what became of it.
        if self._journal is None or task.done() or task not in self._ids:
            return True
        try:
            self._journal.given_up(self._ids[task])
        except Exception as error:
            # Cancelled without a note, its floor reward would pass for its own when the run is resumed.
            logger.warning("trajectory_id=<%s>, error=<%s> | not cancelled but awaited", self._ids[task], error)
            return False
        return True

    async def _run(self, planned: Planned) -> RolloutRecord:
        began = time.perf_counter()
        trajectory_id = None
        try:
            payload = await in_sdk_thread(self._start, planned.prompt)
            trajectory_id = trajectory_id_of(payload)
            if trajectory_id is None:
                raise ConfigurationError("start() returned a payload without rollout metadata")
        except Exception as error:
            return self._broken(planned, trajectory_id, error, began, None)
        task = asyncio.current_task()
        if task is not None:
            self._ids[task] = trajectory_id
        if self._journal is not None:
            self._journal.started(trajectory_id, planned)
        try:
            outcome = await self._engine.run(payload, trajectory_id)
        except Exception as error:
            # An engine says how a rollout failed; that it raises is a mistake of its own, and still stops nothing.
            return self._broken(planned, trajectory_id, error, began, await self._look(trajectory_id))
        return _record(planned, trajectory_id, outcome, await self._look(trajectory_id))

    def _broken(
        self, planned: Planned, trajectory_id: str | None, error: Exception, began: float, seen: Observation | None
    ) -> RolloutRecord:
        if isinstance(error, UnavailableError):
            self.unavailable = error
        outcome = RolloutOutcome.broken(error, lost=True, seconds=time.perf_counter() - began)
        return _record(planned, trajectory_id, outcome, seen)

    async def _look(self, trajectory_id: str) -> Observation | None:
        try:
            return await self._observe(trajectory_id) if self._observe is not None else None
        except Exception as error:
            # What the engine knows stands without it.
            logger.warning("trajectory_id=<%s>, error=<%s> | the runtime could not be asked", trajectory_id, error)
            return None


def _record(
    planned: Planned, trajectory_id: str | None, outcome: RolloutOutcome, seen: Observation | None
) -> RolloutRecord:
    if outcome.lost and seen is not None and seen.is_over:
        return recovered_record(trajectory_id or "", planned, seen)
    given, failure = outcome.rewards, outcome.failure
    if failure is None and outcome.status is not RolloutStatus.COMPLETED:
        failure = FailureKind.AGENT  # an engine that does not say
    is_floor = failure is FailureKind.INFRASTRUCTURE
    rewards = None if is_floor else given
    turns = seen.turns if outcome.lost and seen is not None else outcome.turns
    return RolloutRecord(
        trajectory_id=trajectory_id or f"not-started-{planned.prompt_index}-{planned.sample_index}",
        prompt_index=planned.prompt_index,
        sample_index=planned.sample_index,
        reward=None if rewards is None else sum(rewards),
        turns=turns,
        seconds=round(outcome.seconds, 6),
        status=outcome.status,
        error=outcome.error,
        failure=failure,
        traceback=outcome.traceback,
        floor=sum(given) if given is not None and is_floor else None,
        rewards=rewards if rewards is not None and len(rewards) > 1 else None,
        metrics=outcome.metrics,
        state=outcome.state,
        unsure_turns=outcome.unsure_turns,
        refused_calls=outcome.refused_calls,
        foreign_calls=outcome.foreign_calls,
        prompt_tokens=seen.prompt_tokens if seen is not None else None,
        response_tokens=seen.response_tokens if seen is not None else None,
        attempts=planned.attempt,
    )


def recovered_record(trajectory_id: str, planned: Planned, seen: Observation) -> RolloutRecord:
    """Return the record of a rollout that is over, of which only the runtime knows.

    Metrics and errors of its handler are not known: a floor reward looks like any other.
    """
    failed = seen.rewards is None
    outcome = RolloutOutcome(
        RolloutStatus.FAILED if failed else RolloutStatus.COMPLETED,
        rewards=seen.rewards,
        turns=seen.turns,
        seconds=seen.seconds,
        error="the trajectory was sealed as failed" if failed else None,
    )
    return _record(planned, trajectory_id, outcome, seen)
