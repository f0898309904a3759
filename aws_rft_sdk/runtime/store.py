"""The runtime's database: SQLite in WAL mode, one thread that writes, many writes per transaction.

While that thread waits for the disk, further writes queue up. The next transaction takes all of them, so the calls in
flight share the cost of one `fsync`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import records
from aws_rft_sdk.runtime.records import Forgotten, TrajectoryRow, TurnRow

Row = TrajectoryRow | TurnRow | Forgotten
Waiter = asyncio.Future[None] | Future[None]
"""Waits for a row to become durable, in an event loop or in a thread."""

MEMORY = ":memory:"
# Rows of one INSERT. Each statement releases the interpreter's lock and has to win it back from the busy event loop, so
# few statements are faster. Older SQLite takes at most 999 parameters.
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
        path: Path of the file, created if missing. ":memory:" for a database that ends with this object.
        short_requests: Whether rows may come whose requests are shortened or left out.
        after_commit: Called in the writing thread after each transaction, with the waiters of its rows and its error.

    Raises:
        ConfigurationError: The file cannot be opened, is no database of the runtime, is of a newer version, or another
            runtime has it open.

    Concurrency: `submit` and `reading` are safe from any thread.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        short_requests: bool = False,
        after_commit: Callable[[list[Waiter], BaseException | None], None],
    ) -> None:
        self._path = str(path)
        self._after_commit = after_commit
        self._lock = threading.Lock()  # one reader at a time; in memory it also keeps a reader out of a transaction
        self._in_memory = self._path == MEMORY
        self._guard = None if self._in_memory else _lock_file(self._path)
        try:
            self._writer = _open_to_write(self._path, short_requests)
        except BaseException:
            if self._guard is not None:
                self._guard.close()
            raise
        self._reader: sqlite3.Connection | None = None
        if self._in_memory:
            self._reader = self._writer
            # Reading stays possible after close() for as long as this object lives.
            weakref.finalize(self, self._writer.close)
        self._queue: queue.SimpleQueue[tuple[Row, Waiter] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="aws-rft-runtime-store", daemon=True)
        self._thread.start()

    def submit(self, row: Row, waiter: Waiter) -> None:
        """Store a row, or delete the rows of a `Forgotten`.

        `after_commit` gets the waiter once that is durable, or has failed.

        Rows become durable in the order of submission. After a failed write every later one fails with the same error,
        because memory and disk no longer agree.
        """
        self._queue.put((row, waiter))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to the durable rows. One thread has it at a time."""
        with self._lock:
            if self._closed and not self._in_memory:
                with closing(records.open_to_read(self._path)) as reader:
                    yield reader
                return
            if self._reader is None:
                self._reader = records.open_to_read(self._path)
            yield self._reader

    def close(self) -> None:
        """Store all submitted rows and release the file. Reading stays possible. Repeating is safe."""
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
            self._after_commit([waiter for _, waiter in writes], error)

    def _commit(self, rows: Sequence[Row]) -> None:
        with self._lock if self._in_memory else nullcontext():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                trajectories = [row.columns() for row in rows if isinstance(row, TrajectoryRow)]
                self._insert("trajectories", _TRAJECTORY_COLUMNS, trajectories, _UPSERT)
                self._insert("turns", _TURN_COLUMNS, [row for row in rows if isinstance(row, TurnRow)])
                records.delete(self._writer, (row for row in rows if isinstance(row, Forgotten)))
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
            statement = f"INSERT INTO {table} VALUES {','.join([one] * len(some))}{suffix}"  # noqa: S608
            self._writer.execute(statement, values)


def _open_to_write(path: str, short_requests: bool) -> sqlite3.Connection:
    try:
        # No thread check: one thread opens it, the writing thread uses it, and a third thread closes it.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigurationError(f"db={path} cannot be opened: {error}") from error
    try:
        records.check_schema(connection, path, create=True)
        if short_requests:
            records.allow_short_requests(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
    except BaseException:
        connection.close()
        raise
    return connection


def _lock_file(path: str) -> sqlite3.Connection:
    """Hold a lock on a file beside the database while the connection is open. A kill frees the lock.

    SQLite's own locks work on every system. On a file of their own they leave the database readable.
    """
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
