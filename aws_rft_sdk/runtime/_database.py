"""A SQLite file that one stand-in owns for as long as it is open: opening, locking, transactions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aws_rft_sdk.errors import ConfigurationError


class JobEndedError(Exception):
    """The job has ended, or the server has stopped: nothing more can be written of it."""


class Layout(NamedTuple):
    """What a database holds, and whose it is."""

    owner: str
    """Class that opens such files, for the text of errors."""
    version: int
    """`user_version` of the file. It also tells that the file is the owner's."""
    schema: str
    """Statements that create what is missing."""


class Database:
    """A database whose methods are transactions.

    Args:
        path: Path of the file, created if missing. ":memory:" for a database that ends with this object.
        layout: What it holds.
        clock: Returns seconds since 1970.

    Raises:
        ConfigurationError: The file cannot be used, or another server has it open.

    Concurrency: safe from any thread.
    """

    def __init__(self, path: str | Path, layout: Layout, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._closed = False
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
            try:
                self._open(path, layout)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise ConfigurationError(f"db {path} cannot be used, or another server has it open: {error}") from error

    def _open(self, path: str | Path, layout: Layout) -> None:
        # A lock for as long as the file is open: two servers would run every job twice.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        is_empty = self._db.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        if version != layout.version and not (version == 0 and is_empty):
            raise ConfigurationError(f"db {path} is no database of {layout.owner}; name another file")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # outlives a killed process, if not a power failure
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute(f"PRAGMA user_version = {layout.version}")
        self._db.execute("COMMIT")
        self._db.executescript(layout.schema)

    def close(self) -> None:
        """Release the file. Every later call raises `JobEndedError`. Repeating is safe."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Enter a transaction. It is committed at the end of the block, or rolled back if the block raises.

        Raises:
            JobEndedError: The database is closed.
        """
        with self._lock:
            if self._closed:
                raise JobEndedError
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return self._clock()
