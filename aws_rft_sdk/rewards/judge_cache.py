"""Verdicts on disk, so that nothing is paid for, or decided, twice."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aws_rft_sdk.errors import ConfigurationError

_BUSY_TIMEOUT_SECONDS = 30.0
_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) WITHOUT ROWID"


class VerdictCache:
    """A file of verdicts by key. The first verdict under a key stays. All methods may raise `ConfigurationError`.

    Every call opens the file and closes it again, which takes less than a millisecond. So a cache can be used from
    several threads and processes, after a fork, and pickled.

    Args:
        path: Path of the file. It is created, with its folders, when it is first used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def get(self, key: str) -> str | None:
        """Return the verdict under a key. Returns None if there is none."""
        with self._open() as connection:
            return _get(connection, key)

    def put(self, key: str, verdict: str) -> str:
        """Keep a verdict unless there is one already, and return the one that is kept."""
        with self._open() as connection:
            connection.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, verdict))
            return _get(connection, key) or verdict

    def discard(self, key: str, verdict: str) -> None:
        """Forget a verdict that cannot be used, unless another one stands in its place by now."""
        with self._open() as connection:
            connection.execute("DELETE FROM verdicts WHERE key = ? AND verdict = ?", (key, verdict))

    def close(self) -> None:
        """Do nothing. No call leaves the file open."""

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = NORMAL")  # a verdict that a power cut takes can be had again
                connection.execute(_TABLE)
                yield connection
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the verdict cache {self.path} cannot be used: {error}") from error


def _get(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])
