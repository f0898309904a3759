"""Verdicts on disk, so that what was judged once is neither paid for nor decided a second time."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aws_rft_sdk.errors import ConfigurationError

BUSY_TIMEOUT_SECONDS = 30.0
_SCHEMA = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) WITHOUT ROWID"


class VerdictCache:
    """A file of verdicts by key. The first verdict under a key stays.

    The file is opened when it is first used, and anew in another process.

    Args:
        path: Path of the file, created with its folders if missing.

    Concurrency: safe from several threads and processes, and after a fork. Pickles as its path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[VerdictCache], tuple[Path]]:
        return VerdictCache, (self.path,)

    def get(self, key: str) -> str | None:
        """Return the verdict under a key, None without one.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        with self._open() as connection:
            row = connection.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, verdict: str) -> str:
        """Keep a verdict unless there is one, and return the one that is kept.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        with self._open() as connection:
            connection.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, verdict))
            row = connection.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        return str(row[0])

    def discard(self, key: str, verdict: str) -> None:
        """Forget a verdict that cannot be used, unless another one stands in its place by now.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        with self._open() as connection:
            connection.execute("DELETE FROM verdicts WHERE key = ? AND verdict = ?", (key, verdict))

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._process == os.getpid():
            with self._lock:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:
            self.close()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self._process != os.getpid():
            # A connection must not be used, nor closed, on the other side of a fork.
            _left_open.append(self._connection)
            self._forget()
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except (OSError, sqlite3.Error) as error:
                raise ConfigurationError(f"the verdict cache {self.path} cannot be used: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous = NORMAL")  # a verdict that a power cut takes can be had again
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection


_left_open: list[sqlite3.Connection | None] = []
"""Connections of a parent process, kept so that nothing closes them here."""
