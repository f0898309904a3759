"""The trajectories of one runtime: their states in memory, and every change of them on disk.

States are kept in memory and changed only in the server's event loop, so that no lock stands between two calls; new
trajectories may also be opened from other threads. An answer leaves only after what it says is durable.
"""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import state as machine
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow, split_turn_key, turn_key
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.runtime.store import Row, Store
from aws_rft_sdk.types import Trajectory


class InFlight:
    """A turn that is being sampled: repetitions under the same span id wait for it."""

    __slots__ = ("index", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.index: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def finish(self, index: int) -> None:
        """Let those who wait answer from the record of this turn."""
        self.index.set_result(index)

    def fail(self, error: BaseException) -> None:
        """Let those who wait fail as well."""
        if not isinstance(error, Refusal):
            error = Refusal(500, f"The first call with this span id ended without an answer: {type(error).__name__}")
        self.index.set_exception(error)
        self.index.exception()  # nobody has to be waiting


class Entry:
    """A trajectory in memory."""

    __slots__ = ("begun", "created_at", "job_arn", "number", "prompt", "spans", "state", "trajectory_id")

    def __init__(self, row: TrajectoryRow) -> None:
        self.number, self.trajectory_id, self.job_arn, self.prompt, self.created_at, self.state = row
        self.begun = self.state.turns
        """Turns recorded and turns in flight."""
        self.spans: dict[str, int | InFlight] = {}
        """Index of the recorded turn of each span id, or the turn in flight."""

    def row(self) -> TrajectoryRow:
        """Return what is written down of it."""
        return TrajectoryRow(self.number, self.trajectory_id, self.job_arn, self.prompt, self.created_at, self.state)


class Trajectories:
    """All trajectories of one database.

    Args:
        path: See `Store`.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: See `Store`.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # trajectories are numbered in the order in which they are written down
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settled: deque[tuple[asyncio.Future[None], BaseException | None]] = deque()
        self._store = Store(path, after_commit=self._wake)
        rows, spans = self._store.rows()
        self._entries = {row.trajectory_id: Entry(row) for row in rows}
        by_number = {entry.number: entry for entry in self._entries.values()}
        for key, span_id in spans:
            number, index = split_turn_key(key)
            by_number[number].spans[span_id] = index
        self._next_number = max(by_number, default=-1) + 1

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that the calls are served in."""
        self._loop = loop

    def __len__(self) -> int:
        return self._next_number

    def entries(self, first: int = 0) -> Iterator[Entry]:
        """Return the trajectories from number `first` on, in the order of their creation."""
        return iter([entry for entry in list(self._entries.values()) if entry.number >= first])

    def get(self, trajectory_id: str) -> Entry | None:
        """Return the trajectory with this id, None if there is none."""
        return self._entries.get(trajectory_id)

    def find(self, trajectory_id: str, job_arn: str) -> Entry:
        """Return the trajectory with this id of this job.

        Raises:
            Refusal: 404, there is none.
        """
        entry = self._entries.get(trajectory_id)
        if entry is None or entry.job_arn != job_arn:
            raise Refusal(404, f"Trajectory {trajectory_id} of job {job_arn} does not exist in this runtime")
        return entry

    # --- changes -----------------------------------------------------------------------------------------------------

    def open(self, trajectory_id: str, job_arn: str, prompt: JSON, *, announce: Callable[[], None]) -> None:
        """Create a trajectory and wait until it is durable. Not for the server's event loop.

        Args:
            trajectory_id: Its id, which must be new.
            job_arn: Its job.
            prompt: What its agent is given.
            announce: Called while no other trajectory can be created in between.

        Raises:
            sqlite3.Error: It could not be written.
        """
        event, outcome = threading.Event(), list[BaseException | None]()

        def done(error: BaseException | None) -> None:
            outcome.append(error)
            event.set()

        self._add(trajectory_id, job_arn, prompt, announce, done)
        event.wait()
        if outcome[0] is not None:
            raise outcome[0]

    async def open_here(self, trajectory_id: str, job_arn: str, *, announce: Callable[[], None]) -> Entry:
        """Create a trajectory that an inference call speaks of, in the server's event loop."""
        future, done = self._waiter()
        entry = self._add(trajectory_id, job_arn, None, announce, done)
        await self._durable(future)
        return entry

    def _add(
        self,
        trajectory_id: str,
        job_arn: str,
        prompt: JSON,
        announce: Callable[[], None],
        done: Callable[[BaseException | None], None],
    ) -> Entry:
        text = json.dumps(prompt)
        with self._lock:
            entry = Entry(TrajectoryRow(self._next_number, trajectory_id, job_arn, text, self._clock(), State()))
            announce()
            self._next_number += 1
            self._entries[trajectory_id] = entry
            self._store.submit(entry.row(), done)
        return entry

    async def add_turn(self, entry: Entry, turn: TurnRow) -> int:
        """Record a turn and return its index once it is durable; the key of `turn` is filled in here.

        Raises:
            Refusal: 409, the trajectory was sealed in the meantime; 500, the database cannot be written.
        """
        index = entry.state.turns
        entry.state = machine.add_turn(entry.state, entry.trajectory_id)
        await self._write(turn._replace(key=turn_key(entry.number, index)))
        return index

    async def change(self, entry: Entry, state: State) -> None:
        """Give a trajectory its new state and return once it is durable.

        Raises:
            Refusal: 500, the database cannot be written.
        """
        # Written also when nothing changes: the first call with this token may still be waiting for the disk.
        entry.state = state
        await self._write(entry.row())

    async def _write(self, row: Row) -> None:
        future, done = self._waiter()
        self._store.submit(row, done)
        await self._durable(future)

    def _waiter(self) -> tuple[asyncio.Future[None], Callable[[BaseException | None], None]]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return future, functools.partial(self._settle, future)

    async def _durable(self, future: asyncio.Future[None]) -> None:
        try:
            await future
        except Exception as error:
            raise Refusal(500, f"The runtime's database cannot be written: {type(error).__name__}: {error}") from error

    # In the writer's thread:

    def _settle(self, future: asyncio.Future[None], error: BaseException | None) -> None:
        self._settled.append((future, error))

    def _wake(self) -> None:
        if self._loop is not None and self._settled:
            try:
                self._loop.call_soon_threadsafe(self._release)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._settled.clear()

    # In the event loop again:

    def _release(self) -> None:
        while self._settled:
            future, error = self._settled.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    # --- reading -----------------------------------------------------------------------------------------------------

    def turn(self, entry: Entry, index: int) -> TurnRow:
        """Return a durable turn."""
        return self._store.turn(turn_key(entry.number, index))

    def trajectory(self, entry: Entry) -> Trajectory:
        """Return the public value of a trajectory."""
        return self._store.trajectory(entry.row())

    def usage(self, entry: Entry) -> tuple[list[JSON], float]:
        """Return the token counts of each turn as its policy gave them, and when the last turn ended; 0 of none."""
        return self._store.usage(entry.number)

    def trajectories(self, first: int = 0) -> list[Trajectory]:
        """Return the trajectories from number `first` on, in the order of their creation."""
        return self._store.trajectories(first)

    def close(self) -> None:
        """Release the file; reading stays possible."""
        self._store.close()
