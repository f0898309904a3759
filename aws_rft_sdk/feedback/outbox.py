"""Feedback on disk before it is on the wire: a ledger of every trajectory received, in one SQLite file.

A trajectory is *received* when its handler begins. Its *decision* - how it is sealed, and its rewards - is on disk
before the first byte is sent, and is made once: the same decision again is a repetition, another one is an error. Each
call is noted before it is sent and after it was answered. So whoever opens the file next knows what is left to do.
Several threads and processes may share a file.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aws_rft_sdk import telemetry
from aws_rft_sdk._decision import Decision, TrajectoryOutcome
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import ConfigurationError, OutboxError
from aws_rft_sdk.feedback.ledger import Entry, Ledger
from aws_rft_sdk.feedback.schema import (
    INSERT,
    SCHEMA,
    SCHEMA_VERSION,
    SELECT,
    SELECT_PROGRESS,
    UPDATE,
    columns_of,
    decision_of,
    entry_of,
    key_of,
    migrate,
    row_of,
)
from aws_rft_sdk.settings import OUTBOX_VARIABLE, Auth, Endpoint, environment
from aws_rft_sdk.types import RolloutMetadata

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 30.0
RETENTION_SECONDS = 7 * 86_400.0
"""How long ended trajectories are kept: longer than any job, so that a late second delivery is recognised."""
RETRY_BASE_SECONDS, RETRY_CAP_SECONDS = 1.0, 300.0
LEASE_SECONDS = 30.0
"""How long a trajectory belongs to the one who decided, claimed or sent it. Two deliverers only waste calls."""

Step = Callable[[Decision], Decision]
"""A change of a decision. Pure, so that it can be made within a transaction."""


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

    def receive(self, metadata: RolloutMetadata, endpoint: Endpoint, auth: Auth) -> Entry:
        """Enter a trajectory, unless it is there already, and return its entry.

        Raises:
            OutboxError: The file cannot be written. The rollout must not begin.
        """
        with self._transaction() as connection:
            return self._select(connection, metadata) or self._enter(connection, metadata, endpoint, auth)

    def update(
        self,
        metadata: RolloutMetadata,
        endpoint: Endpoint,
        auth: Auth,
        *steps: Step,
        durable: bool = False,
        error: str | None = None,
    ) -> list[Decision]:
        """Change the decision about a trajectory in one transaction. The trajectory is entered if it is unknown.

        As long as a call is outstanding, nobody else delivers the trajectory unasked for 30 s. After a failed delivery
        that time is 1 s, then 2, 4, ... up to 300 s.

        Args:
            metadata: The trajectory.
            endpoint: Where its runtime stands. Counts for a trajectory that is unknown.
            auth: How calls about it are authenticated. Counts for a trajectory that is unknown.
            steps: The changes, made in this order.
            durable: Whether the change has to survive a power failure. Every change survives the process.
            error: What went wrong, if a delivery has failed.

        Returns:
            The decision after each step.

        Raises:
            OutboxError: The file cannot be written, so nothing has changed.
            Exception: What a step raises; nothing has changed.
        """
        with self._transaction(durable=durable) as connection:
            row = connection.execute(SELECT_PROGRESS, key_of(metadata)).fetchone()
            if row is None:
                self._enter(connection, metadata, endpoint, auth)
                decisions, attempts, last_error = [Decision()], 0, None
            else:
                *fields, attempts, last_error = row
                decisions = [decision_of(*fields)]
            for step in steps:
                decisions.append(step(decisions[-1]))
            seconds = LEASE_SECONDS
            if error is not None:
                attempts += 1
                seconds = min(RETRY_CAP_SECONDS, RETRY_BASE_SECONDS * 2.0 ** min(attempts - 1, 32))
            self._write(connection, metadata, decisions[-1], attempts, error or last_error, seconds)
        return decisions[1:]

    def claim(self, due_before: float | None = None) -> Entry | None:
        """Return a pending trajectory whose next attempt is due, and keep it from others for 30 s.

        Args:
            due_before: Seconds since the epoch; None for now. A claimed trajectory is due 30 s later. So with a fixed
                time here, repeated calls give out each trajectory once.

        Returns:
            The trajectory that is due for the longest time. Returns None if none is due.
        """
        with self._transaction() as connection:
            now = self._clock()
            before = now if due_before is None else due_before
            query = f"{SELECT} WHERE next_attempt_at <= ? ORDER BY next_attempt_at LIMIT 1"
            while (row := connection.execute(query, (before,)).fetchone()) is not None:
                try:
                    entry, error, seconds = entry_of(row), None, LEASE_SECONDS
                except OutboxError as problem:  # it must not stop the others
                    entry, error, seconds = None, str(problem), RETRY_CAP_SECONDS
                    logger.error("outbox=<%s> | %s", self.path, error)
                connection.execute(
                    "UPDATE feedback SET next_attempt_at = ?, last_error = coalesce(?, last_error)"
                    " WHERE job_arn = ? AND trajectory_id = ?",
                    (now + seconds, error, *row[:2]),
                )
                if entry is not None:
                    return entry
        return None

    def now(self) -> float:
        """Return the seconds since the epoch on the clock of this outbox."""
        return self._clock()

    def make_all_due(self) -> float:
        """Make every pending trajectory due now, and return that moment in seconds since the epoch."""
        now = self._clock()
        with self._transaction() as connection:
            connection.execute("UPDATE feedback SET next_attempt_at = ? WHERE next_attempt_at > ?", (now, now))
        return now

    def count_due(self) -> int:
        """Return how many pending trajectories are due now."""
        with self._transaction(kind="DEFERRED") as connection:
            query = "SELECT count(*) FROM feedback WHERE next_attempt_at <= ?"
            return int(connection.execute(query, (self._clock(),)).fetchone()[0])

    def count_pending(self) -> int:
        """Return how many trajectories are decided and not delivered; 0 if the file cannot be read."""
        try:
            with self._transaction(kind="DEFERRED") as connection:
                query = "SELECT count(*) FROM feedback WHERE next_attempt_at IS NOT NULL"
                return int(connection.execute(query).fetchone()[0])
        except OutboxError:
            return 0

    def entries(self) -> list[Entry]:
        """Return all trajectories in the order in which they were received. Damaged ones are logged and left out."""
        entries = []
        with self._transaction(kind="DEFERRED") as connection:
            for row in connection.execute(f"{SELECT} ORDER BY received_at, trajectory_id"):
                try:
                    entries.append(entry_of(row))
                except OutboxError as problem:
                    logger.error("outbox=<%s> | %s", self.path, problem)
        return entries

    def find(self, metadata: RolloutMetadata) -> Entry | None:
        """Return the entry of a trajectory, None if it was never received."""
        with self._transaction(kind="DEFERRED") as connection:
            return self._select(connection, metadata)

    def ledger(self) -> Ledger:
        """Count all trajectories by what has become of them. A damaged one counts as pending."""
        counts = dict.fromkeys(TrajectoryOutcome, 0)
        with self._transaction(kind="DEFERRED") as connection:
            for count, *fields in connection.execute(
                "SELECT count(*), completion, min(rewards), seal, reward FROM feedback"
                " GROUP BY completion, rewards IS NULL, seal, reward"
            ):
                try:
                    outcome = decision_of(*fields).outcome
                except OutboxError:
                    outcome = TrajectoryOutcome.PENDING
                counts[outcome] += count
        order = (
            TrajectoryOutcome.REWARDED,
            TrajectoryOutcome.FAILED,
            TrajectoryOutcome.PENDING,
            TrajectoryOutcome.OPEN,
        )
        return Ledger(sum(counts.values()), *(counts[outcome] for outcome in order))

    def prune(self, older_than_seconds: float = RETENTION_SECONDS) -> int:
        """Delete the trajectories that did not change for so long, and return their number.

        What is decided and not delivered is kept, however old.
        """
        before = self._clock() - older_than_seconds
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM feedback WHERE next_attempt_at IS NULL AND changed_at < ?", (before,)
            ).rowcount

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _enter(
        self, connection: sqlite3.Connection, metadata: RolloutMetadata, endpoint: Endpoint, auth: Auth
    ) -> Entry:
        now = self._clock()
        entry = Entry(metadata, endpoint, auth, received_at=now)
        connection.execute(INSERT, row_of(entry, changed_at=now))
        return entry

    @staticmethod
    def _select(connection: sqlite3.Connection, metadata: RolloutMetadata) -> Entry | None:
        row = connection.execute(f"{SELECT} WHERE job_arn = ? AND trajectory_id = ?", key_of(metadata)).fetchone()
        return None if row is None else entry_of(row)

    def _write(
        self,
        connection: sqlite3.Connection,
        metadata: RolloutMetadata,
        decision: Decision,
        attempts: int,
        last_error: str | None,
        seconds: float,
    ) -> None:
        now = self._clock()
        pending = decision.outstanding is not None
        error = last_error if pending or decision.is_refused else None  # what was delivered after all has none
        due_at = now + seconds if pending else None
        connection.execute(UPDATE, (*columns_of(decision), attempts, error, now, due_at, *key_of(metadata)))

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
            if _version(connection) != SCHEMA_VERSION:
                self._make_schema(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._process = connection, os.getpid()
        return connection

    def _make_schema(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            version = _version(connection)  # another process may have been faster
            if version == 2:
                migrate(connection)
            elif version == 0:
                for statement in SCHEMA:
                    connection.execute(statement)
            elif version != SCHEMA_VERSION:
                raise OutboxError(
                    f"the outbox {self.path} has schema {version}, known is {SCHEMA_VERSION}; name another file"
                )
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


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
    name: object = environment(OUTBOX_VARIABLE) if outbox is None else outbox
    if name is None:
        return None
    if not (isinstance(name, str | os.PathLike) and os.fspath(name)):
        raise ConfigurationError(f"outbox is {name!r:.80}; it must be an Outbox or the path of a file")
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
