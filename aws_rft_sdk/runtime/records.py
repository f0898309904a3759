"""Rows of the runtime's database, as values: what is written down of trajectories and turns, and how it is read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON, freeze
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.chat import read_logprobs, read_token_ids
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.types import Trajectory, TrajectoryStatus, Turn

APPLICATION_ID = 0x52465452
"""Marks a SQLite file as a database of the local runtime."""
SCHEMA_VERSION = 1
# A turn's key is its trajectory's number and its own, so that one b-tree both finds and orders the turns.
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
PRAGMA user_version = {SCHEMA_VERSION};
"""


class TrajectoryRow(NamedTuple):
    """A trajectory as it is written down: written anew, as a whole, with each change of its state."""

    number: int
    """Position in the order of creation, from 0."""
    trajectory_id: str
    job_arn: str
    prompt: str
    """JSON text; "null" when the runtime first heard of the trajectory from an inference call."""
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
    """A turn as it is written down: once, never changed."""

    key: int
    """See `turn_key`."""
    span_id: str | None
    path: str
    """Path of the URL that the call came in on."""
    started_at_seconds: float
    duration_seconds: float
    request: bytes
    """The chat request that the policy was given, as JSON."""
    response: bytes
    """The chat completion, as JSON."""
    wire_request: bytes | None = None
    """The request's body as it arrived, where it was not the chat request itself; else None."""
    wire_response: bytes | None = None
    """The bytes that a server behind the runtime streamed; None for answers that were made here."""


def turn_key(number: int, index: int) -> int:
    """Return the key of a trajectory's turn."""
    return number * _TURNS_PER_TRAJECTORY + index


def split_turn_key(key: int) -> tuple[int, int]:
    """Return the trajectory's number and the turn's index in it, from 0."""
    return divmod(key, _TURNS_PER_TRAJECTORY)


def check_schema(connection: sqlite3.Connection, path: str, *, create: bool = False) -> None:
    """Make sure that a database is one of the local runtime's, and of a version that this package knows.

    Args:
        connection: The open database.
        path: Its path, for messages.
        create: Whether an empty database is given the tables.

    Raises:
        ConfigurationError: It is something else, or of a newer version, or empty and not to be created.
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


def select_rows(connection: sqlite3.Connection) -> Iterator[TrajectoryRow]:
    """Yield all trajectories in the order of their creation."""
    counts: dict[int, int] = dict(
        connection.execute("SELECT key / ?, count(*) FROM turns GROUP BY 1", (_TURNS_PER_TRAJECTORY,))
    )
    for columns in connection.execute("SELECT * FROM trajectories ORDER BY number"):
        yield TrajectoryRow.read(columns, counts.get(columns[0], 0))


def select_spans(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Yield the key and the span id of each turn that has one."""
    yield from connection.execute("SELECT key, span_id FROM turns WHERE span_id IS NOT NULL")


def select_turns(connection: sqlite3.Connection, number: int) -> list[TurnRow]:
    """Return the turns of one trajectory in order."""
    bounds = (turn_key(number, 0), turn_key(number + 1, 0))
    rows = connection.execute("SELECT * FROM turns WHERE key >= ? AND key < ? ORDER BY key", bounds)
    return [TurnRow(*row) for row in rows]


def select_turn(connection: sqlite3.Connection, key: int) -> TurnRow:
    """Return one turn, which must exist."""
    return TurnRow(*connection.execute("SELECT * FROM turns WHERE key = ?", (key,)).fetchone())


def select_usage(connection: sqlite3.Connection, number: int) -> tuple[list[JSON], float]:
    """Return the token counts of each turn of a trajectory, None for one without, and when the last one ended."""
    usage: list[JSON] = []
    ended_at = 0.0
    bounds = (turn_key(number, 0), turn_key(number + 1, 0))
    query = "SELECT response, started_at_seconds + duration_seconds FROM turns WHERE key >= ? AND key < ? ORDER BY key"
    for response, ended in connection.execute(query, bounds):
        completion = json.loads(response)
        usage.append(completion.get("usage") if isinstance(completion, dict) else None)
        ended_at = max(ended_at, ended)
    return usage, ended_at


def make_trajectory(row: TrajectoryRow, turns: Sequence[TurnRow]) -> Trajectory:
    """Return the public value of what is written down."""
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
        logprobs = None  # they do not belong together; both remain in the response
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
    )


def select_trajectories(connection: sqlite3.Connection, first: int = 0) -> Iterator[Trajectory]:
    """Yield the trajectories from number `first` on, in the order of their creation."""
    for columns in connection.execute("SELECT * FROM trajectories WHERE number >= ? ORDER BY number", (first,)):
        turns = select_turns(connection, columns[0])
        yield make_trajectory(TrajectoryRow.read(columns, len(turns)), turns)


def open_to_read(path: str | Path) -> sqlite3.Connection:
    """Open a database file of the runtime for reading, also while a runtime writes to it.

    Raises:
        ConfigurationError: There is no such file, or it is no database of the local runtime.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(f"there is no database file {file}")
    # No thread check: the runtime reads for several threads, one at a time.
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        check_schema(connection, str(file))
    except BaseException:
        connection.close()
        raise
    return connection


def read_trajectories(path: str | Path) -> list[Trajectory]:
    """Return every trajectory in a database file of the runtime, in the order of their creation.

    Works with and without a runtime that has the file open; then it sees what was durable when the reading began.

    Raises:
        ConfigurationError: There is no such file, or it is no database of the local runtime.
    """
    connection = open_to_read(path)
    try:
        connection.execute("BEGIN")
        return list(select_trajectories(connection))
    finally:
        connection.close()
