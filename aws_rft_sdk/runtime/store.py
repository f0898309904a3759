"""The runtime's memory on disk: SQLite in WAL mode, one writing thread, many writes per transaction.

Whoever submits a write is told when it is durable. While the writer waits for the disk, further writes queue up and go
into the next transaction together, so that the cost of an `fsync` is shared by all calls in flight.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import records
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow
from aws_rft_sdk.types import Trajectory

Row = TrajectoryRow | TurnRow
Done = Callable[["BaseException | None"], None]

MEMORY = ":memory:"
# Rows of one INSERT. One statement for many rows, because each statement gives up the interpreter's lock and has to
# win it back from the busy event loop. Bounded by SQLite's historic limit of 999 parameters.
_ROWS_PER_STATEMENT = 64

_TRAJECTORY_COLUMNS = 10
_TURN_COLUMNS = len(TurnRow._fields)
_UPSERT = (
    " ON CONFLICT(number) DO UPDATE SET status = excluded.status, completed_as = excluded.completed_as, "
    "completion_token = excluded.completion_token, rewards = excluded.rewards, reward_token = excluded.reward_token"
)


class Store:
    """The database of one runtime.

    Args:
        path: Path of the file, created if missing; ":memory:" for one that ends with this object.
        after_commit: Called in the writer's thread after all `done` of a transaction were, so that an event loop has to
            be woken up only once for all of them. None for nothing.

    Raises:
        ConfigurationError: The file cannot be opened, is no database of the runtime, is of a newer version, or another
            runtime has it open.

    Concurrency: `submit` and the reading methods are safe from any thread.
    """

    def __init__(self, path: str | Path, *, after_commit: Callable[[], None] | None = None) -> None:
        self._path = str(path)
        self._after_commit = after_commit
        self._lock = threading.Lock()  # one reader at a time; in memory it also keeps readers from a half-done write
        self._in_memory = self._path == MEMORY
        self._guard = None if self._in_memory else _lock_file(self._path)
        try:
            self._writer = _open_to_write(self._path)
        except BaseException:
            if self._guard is not None:
                self._guard.close()
            raise
        self._reader: sqlite3.Connection | None = None
        if self._in_memory:
            self._reader = self._writer
            # Reading stays possible after close(), as long as this object lives.
            weakref.finalize(self, self._writer.close)
        self._queue: queue.SimpleQueue[tuple[Row, Done] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="aws-rft-runtime-store", daemon=True)
        self._thread.start()

    def submit(self, row: Row, done: Done) -> None:
        """Write a row down. The writer's thread calls `done(None)` once it is durable, `done(error)` if it failed.

        Rows become durable in the order of submission. After a failed write every later one fails with its error:
        what the runtime remembers and what is written down would not agree any more.
        """
        self._queue.put((row, done))

    def rows(self) -> tuple[list[TrajectoryRow], list[tuple[int, str]]]:
        """Return all trajectories in order of creation, and key and span id of each turn that has one."""
        with self._reading() as reader:
            return list(records.select_rows(reader)), list(records.select_spans(reader))

    def turn(self, key: int) -> TurnRow:
        """Return one durable turn."""
        with self._reading() as reader:
            return records.select_turn(reader, key)

    def trajectory(self, row: TrajectoryRow) -> Trajectory:
        """Return the public value of a trajectory whose row is known, with its durable turns."""
        with self._reading() as reader:
            turns = records.select_turns(reader, row.number)
        return records.make_trajectory(row, turns)

    def usage(self, number: int) -> tuple[list[JSON], float]:
        """Return the token counts of each turn of a trajectory, None for one without, and when the last one ended."""
        with self._reading() as reader:
            return records.select_usage(reader, number)

    def trajectories(self, first: int = 0) -> list[Trajectory]:
        """Return the durable trajectories from number `first` on, in the order of their creation."""
        with self._reading() as reader:
            return list(records.select_trajectories(reader, first))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed and not self._in_memory:
                with closing(records.open_to_read(self._path)) as reader:
                    yield reader
                return
            if self._reader is None:
                self._reader = records.open_to_read(self._path)
            yield self._reader

    def close(self) -> None:
        """Write down what was submitted, and release the file. Reading stays possible. Doing it twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        if not self._in_memory:
            with self._lock:
                if self._reader is not None:
                    self._reader.close()
                # The last connection to close moves everything into the main file and removes the others.
                self._writer.close()
        if self._guard is not None:
            self._guard.close()

    def _run(self) -> None:
        running = True
        while running:
            batch = [self._queue.get()]
            while not self._queue.empty() and len(batch) < 4096:
                batch.append(self._queue.get())
            writes = [entry for entry in batch if entry is not None]
            running = len(writes) == len(batch)
            if not writes:
                break
            error = self._failure
            if error is None:
                try:
                    self._commit([row for row, _ in writes])
                except Exception as caught:
                    self._failure = error = caught
            for _, done in writes:
                done(error)
            if self._after_commit is not None:
                self._after_commit()

    def _commit(self, rows: Sequence[Row]) -> None:
        with self._lock if self._in_memory else nullcontext():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                trajectories = [row.columns() for row in rows if isinstance(row, TrajectoryRow)]
                self._insert("trajectories", _TRAJECTORY_COLUMNS, trajectories, _UPSERT)
                self._insert("turns", _TURN_COLUMNS, [row for row in rows if isinstance(row, TurnRow)])
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _insert(self, table: str, columns: int, rows: Sequence[tuple[object, ...]], suffix: str = "") -> None:
        one = f"({','.join('?' * columns)})"
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            some = rows[start : start + _ROWS_PER_STATEMENT]
            values = [value for row in some for value in row]
            # The table's name and the question marks are ours; every value is a parameter.
            self._writer.execute(f"INSERT INTO {table} VALUES {','.join([one] * len(some))}{suffix}", values)  # noqa: S608


def _open_to_write(path: str) -> sqlite3.Connection:
    try:
        # No thread check: it is opened in one thread, used in the writer's, and closed in a third.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigurationError(f"db={path} cannot be opened: {error}") from error
    try:
        records.check_schema(connection, path, create=True)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
    except BaseException:
        connection.close()
        raise
    return connection


def _lock_file(path: str) -> sqlite3.Connection:
    """Hold a lock beside the database for as long as the connection is open; the system frees it if we are killed."""
    # SQLite's own locks on an empty file beside it: they work on every system, and leave the database readable.
    guard = None
    try:
        guard = sqlite3.connect(f"{path}.lock", timeout=0, isolation_level=None, check_same_thread=False)
        guard.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if guard is not None:
            guard.close()
        if "locked" in str(error):
            raise ConfigurationError(
                f"db={path} is in use by another runtime; stop that one or choose another file"
            ) from error
        raise ConfigurationError(f"db={path} cannot be opened: {error}") from error
    return guard
