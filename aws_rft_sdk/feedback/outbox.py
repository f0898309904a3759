"""Feedback on disk before it is on the wire: a ledger of every trajectory received, in one SQLite file.

A trajectory is *received* when its handler begins. Its *decision* - how it is completed, and its rewards - is on disk
before the first byte is sent, and is made once: the same decision again is a repetition, another one is an error. What
is decided and not yet delivered is pending, and whoever opens the file next may deliver it. Several threads and
processes may share a file.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aws_rft_sdk import telemetry
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import ConfigurationError, DecisionConflictError, OutboxError
from aws_rft_sdk.feedback.ledger import Entry, Ledger, Outcome
from aws_rft_sdk.settings import OUTBOX_VARIABLE, Endpoint, environment
from aws_rft_sdk.types import RolloutMetadata
from aws_rft_sdk.wire import READY, Api

SCHEMA_VERSION = 2
BUSY_TIMEOUT_SECONDS = 30.0
RETENTION_SECONDS = 7 * 86_400.0
"""How long ended trajectories are kept: longer than any job, so that a late second delivery is recognised."""
RETRY_BASE_SECONDS, RETRY_CAP_SECONDS = 1.0, 300.0
LEASE_SECONDS = 30.0
"""How long a trajectory belongs to the one who decided or claimed it. Two deliverers do no harm, only waste."""

COMPLETION = "completion"
"""Value of the column `delivered` once the runtime has confirmed the completion."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
    job_arn TEXT NOT NULL,
    trajectory_id TEXT NOT NULL,
    url TEXT NOT NULL,
    api TEXT NOT NULL,
    region TEXT NOT NULL,
    source TEXT NOT NULL,
    auth TEXT NOT NULL,
    completion TEXT,
    rewards TEXT,
    delivered TEXT NOT NULL DEFAULT '',
    maybe_sent INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    received_at REAL NOT NULL,
    next_attempt_at REAL NOT NULL DEFAULT 0,
    ended_at REAL,
    PRIMARY KEY (job_arn, trajectory_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending ON feedback (next_attempt_at) WHERE completion IS NOT NULL AND ended_at IS NULL;
"""
_SELECT = (
    "SELECT job_arn, trajectory_id, url, api, region, source, auth, completion, rewards, delivered, maybe_sent,"
    " refused, attempts, last_error, received_at, next_attempt_at, ended_at FROM feedback"
)


class Outbox:
    """A ledger file. Made when it is first used; the folder must exist.

    Args:
        path: The SQLite file.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: The path is no path to a file.

    Concurrency: safe from several threads, processes, and after a fork.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise ConfigurationError(f"the outbox {self.path} is a folder; name a file")
        self._clock = clock
        self._lock = threading.RLock()  # one connection, used by one thread at a time
        self._lock_process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        telemetry.observe_outbox(str(self.path), weakref.WeakMethod(self.count_pending))

    def __repr__(self) -> str:
        return f"<Outbox {str(self.path)!r}>"

    def receive(self, metadata: RolloutMetadata, endpoint: Endpoint, auth: str) -> Entry:
        """Enter a trajectory, unless it is there already, and return its entry.

        Raises:
            OutboxError: The file cannot be written. The rollout must not begin.
        """
        with self._transaction() as connection:
            self._insert(connection, metadata, endpoint, auth)
            return self._select(connection, metadata)

    def decide(
        self,
        metadata: RolloutMetadata,
        endpoint: Endpoint,
        auth: str,
        completion: str | None,
        rewards: tuple[float, ...] | None = None,
    ) -> Entry:
        """Commit a decision to disk, before any of it is sent.

        Rewards that are absent so far may be added later: a trajectory may be completed first and rewarded afterwards.
        Safe to repeat. For 30 seconds nobody else delivers it.

        Args:
            metadata: The trajectory; entered if it was not received.
            endpoint: Where the runtime stands.
            auth: "sigv4" or "bearer".
            completion: "ready" or "failed"; None if someone else completes the trajectory and only the reward is ours.
            rewards: One number, or one for each turn; None for none (yet).

        Returns:
            The entry with the decision in it, and with `maybe_sent` as it was before; what of it is delivered already
            need not be sent again.

        Raises:
            DecisionConflictError: It was decided before, in another way.
            OutboxError: The file cannot be written. Nothing may be sent.
        """
        with self._transaction(durable=True) as connection:
            self._insert(connection, metadata, endpoint, auth)
            entry = self._select(connection, metadata)
            ours = completion is not None
            completion = completion or entry.completion or READY
            if entry.completion not in (None, completion) or (
                rewards is not None and entry.rewards not in (None, rewards)
            ):
                raise DecisionConflictError(
                    f"trajectory {metadata.trajectory_id} was decided before: "
                    f"{_describe(entry.completion, entry.rewards)} stands; "
                    f"{_describe(completion, rewards)} came now and is not sent"
                )
            decided = rewards if rewards is not None else entry.rewards
            connection.execute(
                "UPDATE feedback SET completion = ?, rewards = ?, delivered = ?, maybe_sent = 1, next_attempt_at = ?"
                " WHERE job_arn = ? AND trajectory_id = ?",
                (
                    completion,
                    None if decided is None else json.dumps(decided),
                    "" if ours and not entry.completion_delivered else COMPLETION,
                    self._clock() + LEASE_SECONDS,
                    *_key(metadata),
                ),
            )
            # From now on it counts as sent until someone knows better, since this process may be killed at any moment.
            return replace(self._select(connection, metadata), maybe_sent=entry.maybe_sent)

    def confirm(self, metadata: RolloutMetadata, *, ended: bool) -> None:
        """Note that the runtime has confirmed the completion, and with `ended` all that will ever be said.

        Raises:
            OutboxError: The file cannot be written. The call will be repeated some day, which does no harm.
        """
        with self._transaction() as connection:
            connection.execute(
                "UPDATE feedback SET delivered = ?, maybe_sent = 0, refused = 0, last_error = NULL, ended_at = ?"
                " WHERE job_arn = ? AND trajectory_id = ?",
                (COMPLETION, self._clock() if ended else None, *_key(metadata)),
            )

    def postpone(self, metadata: RolloutMetadata, error: str, *, maybe_sent: bool) -> None:
        """Note that a delivery failed, and when it is worth another attempt: after 1, 2, 4, ... at most 300 seconds.

        Args:
            metadata: The trajectory.
            error: What went wrong.
            maybe_sent: Whether anything of the decision may have taken effect all the same, now or before.
        """
        with self._transaction() as connection:
            attempts = self._select(connection, metadata).attempts + 1
            delay = min(RETRY_CAP_SECONDS, RETRY_BASE_SECONDS * 2.0 ** min(attempts - 1, 32))
            connection.execute(
                "UPDATE feedback SET attempts = ?, last_error = ?, maybe_sent = ?, next_attempt_at = ?"
                " WHERE job_arn = ? AND trajectory_id = ?",
                (attempts, error, maybe_sent, self._clock() + delay, *_key(metadata)),
            )

    def refuse(self, metadata: RolloutMetadata, error: str) -> None:
        """Note that the runtime refuses the feedback for good: the trajectory has ended, without a reward."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE feedback SET attempts = attempts + 1, last_error = ?, refused = 1, ended_at = ?"
                " WHERE job_arn = ? AND trajectory_id = ?",
                (error, self._clock(), *_key(metadata)),
            )

    def claim(self, *, due_only: bool = True, exclude: Container[RolloutMetadata] = ()) -> Entry | None:
        """Return a pending trajectory, and keep it from others for 30 seconds; None when there is none.

        Args:
            due_only: Whether those count only whose next attempt is due.
            exclude: Trajectories that are passed over.
        """
        with self._transaction() as connection:
            now = self._clock()
            rows = connection.execute(
                f"{_SELECT} WHERE completion IS NOT NULL AND ended_at IS NULL AND next_attempt_at <= ?"
                " ORDER BY next_attempt_at",
                (now if due_only else math.inf,),
            ).fetchall()
            for entry in map(_entry, rows):
                if entry.outcome is Outcome.PENDING and entry.metadata not in exclude:
                    connection.execute(
                        "UPDATE feedback SET next_attempt_at = ?, maybe_sent = 1"
                        " WHERE job_arn = ? AND trajectory_id = ?",
                        (now + LEASE_SECONDS, *_key(entry.metadata)),
                    )
                    return entry
        return None

    def entries(self) -> list[Entry]:
        """Return all trajectories in the order in which they were received."""
        with self._transaction(kind="DEFERRED") as connection:
            return [_entry(row) for row in connection.execute(f"{_SELECT} ORDER BY received_at, trajectory_id")]

    def find(self, metadata: RolloutMetadata) -> Entry | None:
        """Return the entry of a trajectory, None if it was never received."""
        with self._transaction() as connection:
            row = connection.execute(f"{_SELECT} WHERE job_arn = ? AND trajectory_id = ?", _key(metadata)).fetchone()
        return None if row is None else _entry(row)

    def ledger(self) -> Ledger:
        """Count all trajectories by what has become of them."""
        outcomes = [entry.outcome for entry in self.entries()]
        return Ledger(len(outcomes), *(outcomes.count(outcome) for outcome in _LEDGER_ORDER))

    def count_pending(self) -> int:
        """Return how many trajectories are decided and not confirmed; 0 if the file cannot be read."""
        try:
            return sum(entry.outcome is Outcome.PENDING for entry in self._unconfirmed())
        except OutboxError:
            return 0

    def _unconfirmed(self) -> list[Entry]:
        with self._transaction(kind="DEFERRED") as connection:
            rows = connection.execute(f"{_SELECT} WHERE completion IS NOT NULL AND ended_at IS NULL")
            return [_entry(row) for row in rows]

    def prune(self, older_than_seconds: float = RETENTION_SECONDS) -> int:
        """Delete what ended, or was received and never decided, longer ago than that; return how much it was.

        What is decided and not delivered is kept, however old.
        """
        before = self._clock() - older_than_seconds
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM feedback WHERE ended_at < ? OR (completion IS NULL AND received_at < ?)", (before, before)
            ).rowcount

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _insert(self, connection: sqlite3.Connection, metadata: RolloutMetadata, endpoint: Endpoint, auth: str) -> None:
        connection.execute(
            "INSERT INTO feedback (job_arn, trajectory_id, url, api, region, source, auth, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*_key(metadata), *endpoint[:2], endpoint.region, endpoint.source, auth, self._clock()),
        )

    @staticmethod
    def _select(connection: sqlite3.Connection, metadata: RolloutMetadata) -> Entry:
        return _entry(
            connection.execute(f"{_SELECT} WHERE job_arn = ? AND trajectory_id = ?", _key(metadata)).fetchone()
        )

    @contextmanager
    def _transaction(self, *, durable: bool = False, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Run the body in one transaction; `durable` ones survive a power failure, all survive the process."""
        if self._lock_process != os.getpid():
            # After a fork nobody may be left who would release the parent's lock.
            self._lock, self._lock_process = threading.RLock(), os.getpid()
        with self._lock:
            try:
                connection = self._open()
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                connection.execute(f"BEGIN {kind}")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                # A failed commit leaves the transaction open; a new connection is the cleanest way out of it.
                self.close()
                raise OutboxError(
                    f"the outbox {self.path} cannot be used: {error}; make room, or name another file"
                ) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._process == os.getpid():
            return self._connection
        # A connection must not be used, nor closed, on the other side of a fork: it is forgotten there.
        _create_for_us_alone(self.path)
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _use_wal(connection)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise OutboxError(
                    f"the outbox {self.path} has schema {version}, known is {SCHEMA_VERSION}; name another file"
                )
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        self._connection, self._process = connection, os.getpid()
        return connection


def _create_for_us_alone(path: Path) -> None:
    """Create the file so that only its owner may read it: it says where credentials are sent."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise sqlite3.OperationalError(error.strerror) from error


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. SQLite does not wait for others there, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


_shared: dict[Path, Outbox] = {}
_shared_lock = threading.Lock()


def shared_outbox(outbox: Outbox | str | os.PathLike[str] | None) -> Outbox | None:
    """Return an outbox, one for each file in the process.

    Args:
        outbox: An outbox, which comes back as it is; the path of one; None for the path in `RFT_OUTBOX`, if it is set.

    Raises:
        ConfigurationError: The path is no path to a file.
    """
    if isinstance(outbox, Outbox):
        return outbox
    name = outbox or environment(OUTBOX_VARIABLE)
    if name is None:
        return None
    path = Path(name).absolute()
    with _shared_lock:
        if path not in _shared:
            _shared[path] = Outbox(path)
        return _shared[path]


@in_forked_child
def _forget_after_fork() -> None:
    # Another thread may have held a lock while this one forked, and it will never let go.
    global _shared_lock
    _shared_lock = threading.Lock()
    _shared.clear()


_LEDGER_ORDER = (Outcome.REWARDED, Outcome.FAILED, Outcome.PENDING, Outcome.OPEN)


def _key(metadata: RolloutMetadata) -> tuple[str, str]:
    return metadata.job_arn, metadata.trajectory_id


def _entry(row: Sequence[Any]) -> Entry:
    job_arn, trajectory_id, url, api, region, source, auth, completion, rewards, delivered, *rest = row
    maybe_sent, refused, attempts, last_error, received_at, next_attempt_at, ended_at = rest
    return Entry(
        metadata=RolloutMetadata(job_arn=job_arn, trajectory_id=trajectory_id),
        endpoint=Endpoint(url, Api(api), region, source),
        auth=auth,
        completion=completion,
        rewards=None if rewards is None else tuple(json.loads(rewards)),
        completion_delivered=delivered == COMPLETION,
        maybe_sent=bool(maybe_sent),
        refused=bool(refused),
        attempts=attempts,
        last_error=last_error,
        received_at=received_at,
        next_attempt_at=next_attempt_at,
        ended_at=ended_at,
    )


def _describe(completion: str | None, rewards: tuple[float, ...] | None) -> str:
    return f"{completion or 'open'} with {'no reward' if rewards is None else f'rewards {list(rewards)}'}"
