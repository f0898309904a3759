"""The rows of the runtime's database: their tables, their values, and how they are read."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON, freeze
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.runtime.capture import restore
from aws_rft_sdk.runtime.chat import read_logprobs, read_prompt_token_ids, read_token_ids
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.types import Trajectory, TrajectoryStatus, Turn

APPLICATION_ID = 0x52465452
"""Marks a SQLite file as a database of the local runtime."""
SCHEMA_VERSION = 2
"""Newest version of the tables that this package reads. Version 2 means that requests may be shortened or left out."""
_FULL_VERSION = 1
# A turn's key holds the number of its trajectory and its own index. So one b-tree both finds and orders the turns.
_TURNS_PER_TRAJECTORY = 1 << 24

SCHEMA = f"""
CREATE TABLE trajectories (
    number INTEGER PRIMARY KEY,
    trajectory_id TEXT NOT NULL UNIQUE,
    job_arn TEXT NOT NULL,
    prompt TEXT NOT NULL,
    created_at_seconds REAL NOT NULL,
    status TEXT NOT NULL,
    completed_as TEXT,
    completion_token TEXT,
    rewards TEXT,
    reward_token TEXT
);
CREATE TABLE turns (
    key INTEGER PRIMARY KEY,
    span_id TEXT,
    path TEXT NOT NULL,
    started_at_seconds REAL NOT NULL,
    duration_seconds REAL NOT NULL,
    request BLOB NOT NULL,
    response BLOB NOT NULL,
    wire_request BLOB,
    wire_response BLOB
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {_FULL_VERSION};
"""


class TrajectoryRow(NamedTuple):
    """A trajectory as it is stored. Each change of its state stores the whole row again."""

    number: int
    """Position in the order of creation, from 0."""
    trajectory_id: str
    job_arn: str
    prompt: str
    """JSON text. "null" if an inference call created the trajectory."""
    created_at_seconds: float
    state: State

    def columns(self) -> tuple[object, ...]:
        """Return the values of the table's columns."""
        state = self.state
        rewards = None if state.rewards is None else json.dumps(state.rewards)
        fixed = (self.number, self.trajectory_id, self.job_arn, self.prompt, self.created_at_seconds)
        return (*fixed, state.status.value, state.completed_as, state.completion_token, rewards, state.reward_token)

    @classmethod
    def read(cls, columns: Sequence[JSON], turns: int) -> TrajectoryRow:
        """Return the row with these columns and this many recorded turns."""
        number, trajectory_id, job_arn, prompt, created_at, status, completed_as, completion_token, rewards, token = (
            columns
        )
        given = None if rewards is None else tuple(json.loads(rewards))
        state = State(TrajectoryStatus(status), turns, completed_as, completion_token, given, token)
        return cls(number, trajectory_id, job_arn, prompt, created_at, state)


class TurnRow(NamedTuple):
    """A turn as it is stored. It never changes."""

    key: int
    """See `turn_key`."""
    span_id: str | None
    path: str
    """Path of the call's URL."""
    started_at_seconds: float
    duration_seconds: float
    request: bytes
    """The chat request that the policy was given, as JSON. In the table maybe shortened or null, see `capture`."""
    response: bytes
    """The chat completion, as JSON. Only its `usage` if the request is null."""
    wire_request: bytes | None = None
    """The body as it arrived. None if it was the chat request itself, or was not kept."""
    wire_response: bytes | None = None
    """The bytes that an upstream server streamed. None for any other answer, or if they were not kept."""


class Forgotten(NamedTuple):
    """A trajectory that is deleted, with its turns."""

    number: int


def turn_key(number: int, index: int) -> int:
    """Return the key of a trajectory's turn."""
    return number * _TURNS_PER_TRAJECTORY + index


def split_turn_key(key: int) -> tuple[int, int]:
    """Return the trajectory's number and the turn's index in it, from 0."""
    return divmod(key, _TURNS_PER_TRAJECTORY)


# --- reading ---------------------------------------------------------------------------------------------------------


def select_rows(connection: sqlite3.Connection) -> list[TrajectoryRow]:
    """Return all trajectories in the order of their creation."""
    counts: dict[int, int] = dict(
        connection.execute("SELECT key / ?, count(*) FROM turns GROUP BY 1", (_TURNS_PER_TRAJECTORY,))
    )
    rows = connection.execute("SELECT * FROM trajectories ORDER BY number")
    return [TrajectoryRow.read(columns, counts.get(columns[0], 0)) for columns in rows]


def select_some(
    connection: sqlite3.Connection, *, first: int = 0, most: int = 1, numbers: Sequence[int] | None = None
) -> list[TrajectoryRow]:
    """Return some trajectories in the order of their creation.

    Args:
        connection: The open database.
        first: Number of the first one.
        most: How many at most.
        numbers: Only the trajectories with these numbers, at most 500 of them. `first` and `most` do not count then.
            Without it the turns are not counted, which would take longer than all the rest: `state.turns` is 0.
    """
    if numbers is None:
        rows = connection.execute("SELECT * FROM trajectories WHERE number >= ? ORDER BY number LIMIT ?", (first, most))
        return [TrajectoryRow.read(columns, 0) for columns in rows]
    marks = ",".join("?" * len(numbers))
    # The question marks are ours; the numbers are parameters. The rows are read before their turns.
    statement = f"SELECT * FROM trajectories WHERE number IN ({marks}) ORDER BY number"  # noqa: S608
    found = connection.execute(statement, tuple(numbers)).fetchall()
    return [
        TrajectoryRow.read(columns, _select_of(connection, "count(*)", columns[0]).fetchone()[0]) for columns in found
    ]


def select_spans(connection: sqlite3.Connection) -> list[tuple[int, str]]:
    """Return the key and the span id of each turn that has a span id."""
    return connection.execute("SELECT key, span_id FROM turns WHERE span_id IS NOT NULL").fetchall()


def select_turns(connection: sqlite3.Connection, number: int) -> list[TurnRow]:
    """Return the turns of one trajectory in order, with whole requests."""
    return whole_turns(TurnRow(*row) for row in _select_of(connection, "*", number))


def whole_turns(turns: Iterable[TurnRow]) -> list[TurnRow]:
    """Return the turns of a trajectory with whole requests. The first in order must have its whole request."""
    stored = list(turns)
    requests = restore(turn.request for turn in stored)
    return [turn._replace(request=request) for turn, request in zip(stored, requests, strict=True)]


def select_answers(connection: sqlite3.Connection, number: int) -> list[tuple[float, float, bytes]]:
    """Return start and duration in seconds, and the answer, of each turn of one trajectory in order."""
    return _select_of(connection, "started_at_seconds, duration_seconds, response", number).fetchall()


def _select_of(connection: sqlite3.Connection, columns: str, number: int) -> sqlite3.Cursor:
    bounds = (turn_key(number, 0), turn_key(number + 1, 0))
    # The columns are ours; the values are parameters.
    statement = f"SELECT {columns} FROM turns WHERE key >= ? AND key < ? ORDER BY key"  # noqa: S608
    return connection.execute(statement, bounds)


def select_trajectory(connection: sqlite3.Connection, column: str, value: str | int) -> Trajectory | None:
    """Return the trajectory whose `column` has this value, or None. The column is "number" or "trajectory_id"."""
    # The name of the column is ours; the value is a parameter.
    statement = f"SELECT * FROM trajectories WHERE {column} = ?"  # noqa: S608
    # The row is read before the turns. So a sealed trajectory shows all of its turns.
    columns = connection.execute(statement, (value,)).fetchone()
    if columns is None:
        return None
    turns = select_turns(connection, columns[0])
    return make_trajectory(TrajectoryRow.read(columns, len(turns)), turns)


def make_trajectory(row: TrajectoryRow, turns: Iterable[TurnRow]) -> Trajectory:
    """Return the public value of a row and its turns, which have whole requests."""
    return Trajectory(
        trajectory_id=row.trajectory_id,
        job_arn=row.job_arn,
        status=row.state.status,
        prompt=freeze(json.loads(row.prompt)),
        turns=tuple(_make_turn(turn) for turn in turns),
        rewards=row.state.rewards,
        created_at=row.created_at_seconds,
    )


def _make_turn(row: TurnRow) -> Turn:
    response = json.loads(row.response)
    token_ids, logprobs = read_token_ids(response), read_logprobs(response)
    if token_ids is not None and logprobs is not None and len(token_ids) != len(logprobs):
        logprobs = None  # they do not match; the response keeps both
    return Turn(
        index=split_turn_key(row.key)[1],
        span_id=row.span_id,
        request=freeze(json.loads(row.request)),
        response=freeze(response),
        started_at=row.started_at_seconds,
        seconds=row.duration_seconds,
        usage=freeze(response.get("usage")) if isinstance(response, dict) else None,
        token_ids=token_ids,
        logprobs=logprobs,
        prompt_token_ids=read_prompt_token_ids(response),
    )


def delete(connection: sqlite3.Connection, forgotten: Iterable[Forgotten]) -> None:
    """Delete trajectories and their turns."""
    for (number,) in forgotten:
        bounds = (turn_key(number, 0), turn_key(number + 1, 0))
        connection.execute("DELETE FROM turns WHERE key >= ? AND key < ?", bounds)
        connection.execute("DELETE FROM trajectories WHERE number = ?", (number,))


# --- database files --------------------------------------------------------------------------------------------------


def check_schema(connection: sqlite3.Connection, path: str, *, create: bool = False) -> None:
    """Check that a database belongs to the local runtime, and that this package knows its version.

    Args:
        connection: The open database.
        path: Its path, for messages.
        create: Whether to make the tables in an empty database.

    Raises:
        ConfigurationError: The check failed.
    """
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0 and version == 0 and create:
            connection.executescript(f"BEGIN;{SCHEMA}COMMIT;")
            return
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"db={path} cannot be used as the runtime's database: {error}") from error
    if application != APPLICATION_ID:
        raise ConfigurationError(f"db={path} is a SQLite file, but not a database of the local runtime")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"db={path} was written by a newer version of aws-rft-sdk (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade the package or use another file"
        )


def allow_short_requests(connection: sqlite3.Connection) -> None:
    """Mark a database as one that older versions of this package cannot read."""
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def open_to_read(path: str | Path, *, immutable: bool = False) -> sqlite3.Connection:
    """Open a database file of the runtime for reading, also while a runtime writes to it.

    Args:
        path: The file.
        immutable: Whether nobody writes to the file. Then SQLite makes no files beside it, and can read it from a
            read-only disk.

    Raises:
        ConfigurationError: There is no such file, or it is no database of the local runtime.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(f"there is no database file {file}")
    # No thread check: its users read from several threads, one at a time.
    uri = f"{file.resolve().as_uri()}?mode=ro{'&immutable=1' * immutable}"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    try:
        check_schema(connection, str(file))
    except BaseException:
        connection.close()
        raise
    return connection


class TrajectoryReader:
    """The trajectories of a database file of the runtime, one in memory at a time. Use it as a context manager.

    Works with and without a runtime that has the file open. If a runtime has it open, each read sees what is durable at
    that moment.

    Args:
        path: The file. The reader does not write to it, and makes no file beside it. If a runtime has the file open or
            was killed, SQLite may update its index `-shm`.

    Raises:
        ConfigurationError: There is no such file, or it is no database of the local runtime.

    Concurrency: safe from any thread. Threads read one after the other.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        log = self._path.with_name(f"{self._path.name}-wal")
        self._connection = open_to_read(path, immutable=not (log.is_file() and log.stat().st_size))

    def find(self, trajectory_id: str) -> Trajectory | None:
        """Return a trajectory with the turns recorded so far, or None if there is none with this id.

        Raises:
            DatasetError: This part of the file is damaged.
        """
        with self._reading(f"trajectory {trajectory_id}") as connection:
            return select_trajectory(connection, "trajectory_id", trajectory_id)

    def __iter__(self) -> Iterator[Trajectory]:
        """Yield the trajectories in the order of their creation.

        Raises:
            DatasetError: The file is damaged. Everything before the damage was yielded.
        """
        return self._each(self._numbers())

    def spread(self, most: int) -> Iterator[Trajectory]:
        """Yield at most so many trajectories, evenly spread from the first to the last, in the order of their creation.

        Raises:
            DatasetError: The file is damaged. Everything before the damage was yielded.
        """
        numbers = self._numbers()
        count = min(most, len(numbers))
        return self._each([numbers[place * len(numbers) // count] for place in range(count)])

    def _numbers(self) -> list[int]:
        with self._reading("the list of trajectories") as connection:
            return [number for (number,) in connection.execute("SELECT number FROM trajectories ORDER BY number")]

    def _each(self, numbers: Sequence[int]) -> Iterator[Trajectory]:
        for number in numbers:
            # A statement for each trajectory: a longer one would stay open between two of them and block checkpoints.
            with self._reading(f"trajectory {number}") as connection:
                trajectory = select_trajectory(connection, "number", number)
            if trajectory is not None:
                yield trajectory

    def __len__(self) -> int:
        """Return the number of trajectories."""
        with self._reading("the list of trajectories") as connection:
            return int(connection.execute("SELECT count(*) FROM trajectories").fetchone()[0])

    @contextmanager
    def _reading(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except (sqlite3.DatabaseError, ValueError, TypeError) as error:
                raise DatasetError(f"{self._path}: {what} cannot be read, the file is damaged ({error})") from error

    def __bool__(self) -> bool:
        """Return True, also for a file without trajectories."""
        return True

    def close(self) -> None:
        """Release the file. Repeating is safe."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> TrajectoryReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_trajectories(path: str | Path) -> list[Trajectory]:
    """Return every trajectory in a database file of the runtime, in the order of their creation.

    Works with and without a runtime that has the file open.

    Raises:
        ConfigurationError: There is no such file, or it is no database of the local runtime.
        DatasetError: The file is damaged.
    """
    with TrajectoryReader(path) as reader:
        return list(iter(reader))
