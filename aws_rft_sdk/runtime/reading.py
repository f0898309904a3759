"""Reads trajectories out of a database file one at a time, and leaves no trace beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.runtime.records import (
    TrajectoryRow,
    check_schema,
    make_trajectory,
    open_to_read,
    select_turns,
)
from aws_rft_sdk.types import Trajectory


class TrajectoryReader:
    """The trajectories of a database file of the runtime, one in memory at a time. Use it as a context manager.

    Works with and without a runtime that has the file open; then it sees what is durable at the moment of each reading.

    Args:
        path: The file. It is not written to. No file appears beside it, unless a runtime has it open or was killed:
            then SQLite may bring its index `-shm` up to date.

    Raises:
        ConfigurationError: There is no such file, or it is no database of the local runtime.

    Concurrency: safe from any thread, one reading at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._connection = _open(self._path)

    def find(self, trajectory_id: str) -> Trajectory | None:
        """Return a trajectory with the turns recorded so far, None when there is none with this id.

        Raises:
            DatasetError: This part of the file is damaged.
        """
        with self._lock:
            try:
                return self._one("SELECT * FROM trajectories WHERE trajectory_id = ?", trajectory_id)
            except (sqlite3.DatabaseError, ValueError, TypeError) as error:
                raise DatasetError(f"{self._path}: trajectory {trajectory_id} cannot be read ({error})") from error

    def __iter__(self) -> Iterator[Trajectory]:
        """Yield the trajectories in the order of their creation.

        Raises:
            DatasetError: The file is damaged. What comes before the damage was yielded.
        """
        number = -1
        while True:
            # One statement for each, so that no reading stays open between two of them and holds a checkpoint back.
            with self._lock:
                try:
                    found = self._connection.execute(
                        "SELECT min(number) FROM trajectories WHERE number > ?", (number,)
                    ).fetchone()[0]
                    if found is None:
                        return
                    number = int(found)
                    trajectory = self._one("SELECT * FROM trajectories WHERE number = ?", number)
                except (sqlite3.DatabaseError, ValueError, TypeError) as error:
                    raise DatasetError(f"{self._path}: damaged at trajectory {number} ({error})") from error
            if trajectory is not None:
                yield trajectory

    def __len__(self) -> int:
        """Return how many trajectories there are."""
        with self._lock:
            try:
                return int(self._connection.execute("SELECT count(*) FROM trajectories").fetchone()[0])
            except sqlite3.DatabaseError as error:
                raise DatasetError(f"{self._path}: damaged ({error})") from error

    def __bool__(self) -> bool:
        """Return True: an empty file is a file."""
        return True

    def _one(self, statement: str, value: str | int) -> Trajectory | None:
        columns = self._connection.execute(statement, (value,)).fetchone()
        if columns is None:
            return None
        turns = select_turns(self._connection, columns[0])
        return make_trajectory(TrajectoryRow.read(columns, len(turns)), turns)

    def close(self) -> None:
        """Release the file. Doing it twice is fine."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> TrajectoryReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ConfigurationError(f"there is no database file {path}")
    log = path.with_name(f"{path.name}-wal")
    if log.is_file() and log.stat().st_size:
        return open_to_read(path)
    # Nothing stands outside the main file. Told so, SQLite makes no files beside it, and reads from a read-only disk.
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    try:
        check_schema(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection
