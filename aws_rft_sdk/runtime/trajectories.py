"""The trajectories of one runtime: their states in memory, and every change of a state on disk.

Only the server's event loop changes a state, so calls need no lock. Other threads may open new trajectories. An answer
leaves only after the change that it confirms is on disk.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import records
from aws_rft_sdk.runtime import state as machine
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.capture import Capture, Texts, usage_only
from aws_rft_sdk.runtime.records import Forgotten, TrajectoryRow, TurnRow, split_turn_key, turn_key, whole_turns
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.runtime.store import Row, Store, Waiter
from aws_rft_sdk.types import Trajectory
from aws_rft_sdk.wire import JOB_ARN_PATTERN


class InFlight:
    """A turn that is being sampled. Repetitions under the same span id wait for it."""

    __slots__ = ("index", "request", "started", "started_at")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.started_at, self.started = time.time(), time.perf_counter()
        self.index: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def finish(self, index: int) -> None:
        """Let the waiting calls answer from the record of this turn."""
        self.index.set_result(index)

    def fail(self, error: BaseException) -> None:
        """Let the waiting calls fail as well."""
        if not isinstance(error, Refusal):
            error = Refusal(500, f"The first call with this span id ended without an answer: {type(error).__name__}")
        self.index.set_exception(error)
        self.index.exception()  # asyncio would complain about an exception that no call waits for


class Entry:
    """A trajectory in memory."""

    __slots__ = (
        *("begun", "created_at", "held", "job_arn", "last_request"),
        *("number", "prompt", "spans", "state", "trajectory_id"),
    )

    def __init__(self, row: TrajectoryRow) -> None:
        self.number, self.trajectory_id, self.job_arn, self.prompt, self.created_at, self.state = row
        self.begun = self.state.turns
        """Number of turns recorded or in flight."""
        self.spans: dict[str, int | InFlight] = {}
        """Index of the recorded turn of each span id, or the turn in flight."""
        self.last_request: Texts | None = None
        """The request of the last turn, for `capture` other than "full". None once the trajectory is sealed."""
        self.held: list[TurnRow] = []
        """The newest turns as "last" stores them, for `capture` "none". Empty once the trajectory is sealed."""

    def row(self) -> TrajectoryRow:
        """Return the row that is stored."""
        return TrajectoryRow(self.number, self.trajectory_id, self.job_arn, self.prompt, self.created_at, self.state)


class Trajectories:
    """All trajectories of one database.

    A job is known if it is among `jobs` or has a trajectory here. An account is the runtime's own if a known job
    belongs to it.

    Args:
        path: See `Store`.
        clock: Returns seconds since the epoch.
        jobs: ARNs of jobs that exist before they have a trajectory.
        capture: See `LocalRuntime`.

    Raises:
        ConfigurationError: See `Store`.
    """

    def __init__(
        self,
        path: str | Path,
        clock: Callable[[], float] = time.time,
        jobs: Iterable[str] = (),
        capture: Capture = "full",
    ) -> None:
        self._clock = clock
        self._capture = capture
        self._lock = threading.Lock()  # trajectories are numbered in the order in which they are stored
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store = Store(path, short_requests=capture != "full", after_commit=self._committed)
        with self._store.reading() as connection:
            rows, spans = records.select_rows(connection), records.select_spans(connection)
        self._entries = {row.trajectory_id: Entry(row) for row in rows}
        by_number = {entry.number: entry for entry in self._entries.values()}
        for key, span_id in spans:
            number, index = split_turn_key(key)
            by_number[number].spans[span_id] = index
        self._next_number = max(by_number, default=-1) + 1
        self._jobs = {*jobs, *(entry.job_arn for entry in self._entries.values())}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that the calls are served in."""
        self._loop = loop

    def __len__(self) -> int:
        return self._next_number

    def entries(self, first: int = 0) -> list[Entry]:
        """Return the trajectories from number `first` on, in the order of their creation."""
        return [entry for entry in list(self._entries.values()) if entry.number >= first]

    def get(self, trajectory_id: str) -> Entry | None:
        """Return the trajectory with this id, or None if there is none."""
        return self._entries.get(trajectory_id)

    def find(self, trajectory_id: str, job_arn: str, *, strict: bool, unknown_job: int = 404) -> Entry:
        """Return the trajectory with this id of this job.

        Args:
            trajectory_id: Its id.
            job_arn: Its job.
            strict: Whether the job's account and the job are checked first, as the service does.
            unknown_job: Status of the answer if the job is unknown.

        Raises:
            Refusal: 403 if the job belongs to another account. `unknown_job` if the job is unknown. 404 if the job has
                no such trajectory.
        """
        if strict and job_arn not in self._jobs:
            own = {_account(known) for known in list(self._jobs)}  # other threads add jobs
            if (account := _account(job_arn)) not in own:
                raise Refusal(403, f"Access to job {job_arn} is denied: this runtime has no job of account {account}")
            raise Refusal(unknown_job, f"Could not find job {job_arn} in this runtime")
        entry = self._entries.get(trajectory_id)
        if entry is None or entry.job_arn != job_arn:
            raise Refusal(404, f"Trajectory {trajectory_id} of job {job_arn} does not exist in this runtime")
        return entry

    # --- changes -----------------------------------------------------------------------------------------------------

    def open(self, trajectory_id: str, job_arn: str, prompt: JSON, *, announce: Callable[[], None]) -> None:
        """Create a trajectory and wait until it is durable. Blocks, so never call it in the server's event loop.

        Args:
            trajectory_id: Its id, which must be new.
            job_arn: Its job.
            prompt: The prompt that its agent receives.
            announce: Called under the lock, so that announcements come in the order of creation.

        Raises:
            sqlite3.Error: The database cannot be written.
        """
        waiter: Future[None] = Future()
        self._add(trajectory_id, job_arn, prompt, announce, waiter)
        waiter.result()

    async def open_here(self, trajectory_id: str, job_arn: str, *, announce: Callable[[], None]) -> Entry:
        """Create a trajectory for the first inference call that names it. Call it in the server's event loop."""
        waiter = asyncio.get_running_loop().create_future()
        entry = self._add(trajectory_id, job_arn, None, announce, waiter)
        await self._durable(waiter)
        return entry

    def _add(
        self, trajectory_id: str, job_arn: str, prompt: JSON, announce: Callable[[], None], waiter: Waiter
    ) -> Entry:
        text = json.dumps(prompt)
        with self._lock:
            entry = Entry(TrajectoryRow(self._next_number, trajectory_id, job_arn, text, self._clock(), State()))
            announce()
            self._next_number += 1
            self._entries[trajectory_id] = entry
            self._jobs.add(job_arn)
            self._store.submit(entry.row(), waiter)
        return entry

    def forget(self, trajectory_ids: Iterable[str]) -> None:
        """Delete trajectories, also from the file. Later calls for them are answered 404. Repeating is safe."""
        for trajectory_id in trajectory_ids:
            entry = self._entries.pop(trajectory_id, None)
            if entry is not None:
                self._store.submit(Forgotten(entry.number), Future())

    async def add_turn(self, entry: Entry, turn: TurnRow) -> int:
        """Record a turn and return its index once the turn is durable. Fills in the key of `turn`.

        Raises:
            Refusal: 400 if the trajectory was sealed in the meantime. 500 if the database cannot be written.
        """
        index = entry.state.turns
        entry.state = machine.add_turn(entry.state, entry.trajectory_id)
        await self._write(self._as_captured(entry, turn._replace(key=turn_key(entry.number, index))))
        return index

    def _as_captured(self, entry: Entry, turn: TurnRow) -> TurnRow:
        """Return a turn as it is stored. Call it in the order of the turns."""
        if self._capture == "full":
            return turn
        before, entry.last_request = entry.last_request, Texts.of(turn.request)
        request = turn.request if before is None else entry.last_request.after(before)
        short = turn._replace(request=request, wire_request=None, wire_response=None)
        if self._capture == "last":
            return short
        entry.held.append(short)
        return short._replace(request=b"null", response=usage_only(turn.response))

    async def change(self, entry: Entry, state: State) -> None:
        """Give a trajectory its new state and return once the state is durable.

        Raises:
            Refusal: 500 if the database cannot be written.
        """
        # An unchanged state is stored too: the first call with this token may still be waiting for the disk.
        entry.state = state
        if state.completed_as is not None:
            entry.last_request, entry.held = None, []
        await self._write(entry.row())

    async def _write(self, row: Row) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._store.submit(row, waiter)
        await self._durable(waiter)

    async def _durable(self, waiter: asyncio.Future[None]) -> None:
        try:
            await waiter
        except Exception as error:
            raise Refusal(500, f"The runtime's database cannot be written: {type(error).__name__}: {error}") from error

    def _committed(self, waiters: list[Waiter], error: BaseException | None) -> None:
        """Release those who wait for a transaction. Runs in the writing thread, and wakes the event loop once."""
        calls = [waiter for waiter in waiters if isinstance(waiter, asyncio.Future)]
        _release([waiter for waiter in waiters if isinstance(waiter, Future)], error)
        if self._loop is not None and calls:
            try:
                self._loop.call_soon_threadsafe(_release, calls, error)
            except RuntimeError:
                pass  # the loop is closed, so no call waits any more

    # --- reading -----------------------------------------------------------------------------------------------------

    def turn(self, entry: Entry, index: int) -> TurnRow:
        """Return a durable turn.

        Raises:
            Refusal: 400 if its request and its answer were not kept.
        """
        if entry.held and (position := index - (entry.state.turns - len(entry.held))) >= 0:
            return whole_turns(entry.held[: position + 1])[position]
        with self._store.reading() as connection:
            turn = records.select_turns(connection, entry.number)[index]
        if turn.request == b"null":
            raise Refusal(
                400, f"Trajectory {entry.trajectory_id} keeps no answers that could be repeated (--capture none)"
            )
        return turn

    def answers(self, entry: Entry) -> list[tuple[float, float, bytes]]:
        """Return start and duration in seconds, and the answer, of each durable turn of a trajectory in order."""
        with self._store.reading() as connection:
            return records.select_answers(connection, entry.number)

    def rows(self, *, first: int = 0, most: int = 1, numbers: Sequence[int] | None = None) -> list[TrajectoryRow]:
        """Return durable rows. See `records.select_some`."""
        with self._store.reading() as connection:
            return records.select_some(connection, first=first, most=most, numbers=numbers)

    def turns(self, number: int) -> list[TurnRow]:
        """Return the durable turns of the trajectory with this number, in order, with whole requests."""
        with self._store.reading() as connection:
            return records.select_turns(connection, number)

    def trajectories(self, entries: Iterable[Entry]) -> list[Trajectory]:
        """Return the public values of trajectories, as far as they are durable."""
        with self._store.reading() as connection:
            found = [records.select_trajectory(connection, "number", entry.number) for entry in entries]
        return [trajectory for trajectory in found if trajectory is not None]

    def close(self) -> None:
        """Release the file. Reading stays possible."""
        self._store.close()


def _release(waiters: Sequence[Waiter], error: BaseException | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue  # cancelled in the meantime
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def _account(job_arn: str) -> str | None:
    match = JOB_ARN_PATTERN.fullmatch(job_arn)
    return match and match["account"]
