"""The table of an outbox: its columns, its rows as values, and how the table of an older version becomes one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from aws_rft_sdk._decision import CallState, Decision
from aws_rft_sdk.errors import OutboxError
from aws_rft_sdk.feedback.ledger import Entry
from aws_rft_sdk.settings import Endpoint
from aws_rft_sdk.types import RolloutMetadata
from aws_rft_sdk.wire import Api

SCHEMA_VERSION = 3

_COLUMNS = (
    "job_arn, trajectory_id, url, api, region, source, auth, completion, rewards, seal, reward, sends, attempts,"
    " last_error, received_at, changed_at, next_attempt_at"
)
SCHEMA = (
    """
    CREATE TABLE feedback (
        job_arn TEXT NOT NULL,
        trajectory_id TEXT NOT NULL,
        url TEXT NOT NULL,
        api TEXT NOT NULL,
        region TEXT NOT NULL,
        source TEXT NOT NULL,
        auth TEXT NOT NULL,
        completion TEXT,
        rewards TEXT,
        seal TEXT NOT NULL,
        reward TEXT NOT NULL,
        sends INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        last_error TEXT,
        received_at REAL NOT NULL,
        changed_at REAL NOT NULL,
        next_attempt_at REAL, -- NULL when no call is outstanding
        PRIMARY KEY (job_arn, trajectory_id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX pending ON feedback (next_attempt_at) WHERE next_attempt_at IS NOT NULL",
)
SELECT = f"SELECT {_COLUMNS} FROM feedback"  # noqa: S608 - constants
SELECT_PROGRESS = (
    "SELECT completion, rewards, seal, reward, sends, attempts, last_error FROM feedback"
    " WHERE job_arn = ? AND trajectory_id = ?"
)
INSERT = f"INSERT INTO feedback ({_COLUMNS}) VALUES ({', '.join('?' * 17)})"  # noqa: S608 - constants
UPDATE = (
    "UPDATE feedback SET completion = ?, rewards = ?, seal = ?, reward = ?, sends = ?, attempts = ?, last_error = ?,"
    " changed_at = ?, next_attempt_at = ? WHERE job_arn = ? AND trajectory_id = ?"
)

# Version 2 had one flag for both calls. Where it leaves open which of them was sent, both count as maybe sent: they are
# sent again, which a runtime takes for a repetition. Its mark of a delivered seal was wrong where a reward was decided
# after a seal that had not come through, so it counts only where there is no reward.
_FROM_2 = f"""
INSERT INTO feedback ({_COLUMNS})
SELECT job_arn, trajectory_id, url, api, region, source, auth, completion, rewards,
    CASE
        WHEN completion IS NULL THEN 'unsent'
        WHEN ended_at IS NOT NULL AND refused AND delivered = '' THEN 'refused'
        WHEN ended_at IS NOT NULL OR (rewards IS NULL AND delivered <> '') THEN 'confirmed'
        WHEN maybe_sent OR delivered <> '' THEN 'maybe sent'
        ELSE 'unsent'
    END,
    CASE
        WHEN rewards IS NULL THEN 'unsent'
        WHEN ended_at IS NOT NULL AND refused AND delivered = '' THEN 'unsent'
        WHEN ended_at IS NOT NULL AND refused THEN 'refused'
        WHEN ended_at IS NOT NULL THEN 'confirmed'
        WHEN maybe_sent THEN 'maybe sent'
        ELSE 'unsent'
    END,
    0, attempts, last_error, received_at, coalesce(ended_at, received_at),
    CASE
        WHEN completion IS NULL OR ended_at IS NOT NULL OR (rewards IS NULL AND delivered <> '') THEN NULL
        ELSE next_attempt_at
    END
FROM feedback_2
"""  # noqa: S608 - constants


def migrate(connection: sqlite3.Connection) -> None:
    """Make a table of version 3 out of one of version 2, within the transaction of the caller."""
    connection.execute("DROP INDEX IF EXISTS pending")
    connection.execute("ALTER TABLE feedback RENAME TO feedback_2")
    for statement in (*SCHEMA, _FROM_2, "DROP TABLE feedback_2"):
        connection.execute(statement)


def key_of(metadata: RolloutMetadata) -> tuple[str, str]:
    """Return the primary key of a trajectory."""
    return metadata.job_arn, metadata.trajectory_id


def columns_of(decision: Decision) -> tuple[Any, ...]:
    """Return the five columns that hold a decision."""
    rewards = None if decision.rewards is None else json.dumps(decision.rewards)
    return decision.completion, rewards, decision.seal.value, decision.reward.value, decision.sends


def decision_of(completion: Any, rewards: str | None, seal: str, reward: str, sends: int = 0) -> Decision:
    """Read what `columns_of` returns.

    Raises:
        OutboxError: The columns are damaged, or of another version.
    """
    try:
        parsed = None if rewards is None else tuple(json.loads(rewards))
        return Decision(completion, parsed, CallState(seal), CallState(reward), sends)
    except (ValueError, TypeError) as error:
        raise OutboxError(f"a decision in the outbox cannot be read ({error})") from error


def row_of(entry: Entry, changed_at: float) -> tuple[Any, ...]:
    """Return the row of an entry."""
    endpoint, progress = entry.endpoint, (entry.attempts, entry.last_error, entry.received_at, changed_at)
    where = (endpoint.url, endpoint.api.value, endpoint.region, endpoint.source)
    return (*key_of(entry.metadata), *where, entry.auth, *columns_of(entry.decision), *progress, entry.next_attempt_at)


def entry_of(row: Sequence[Any]) -> Entry:
    """Read what `row_of` returns.

    Raises:
        OutboxError: The row is damaged, or of another version.
    """
    job_arn, trajectory_id, url, api, region, source, auth, *decision = row[:12]
    attempts, last_error, received_at, _, next_attempt_at = row[12:]
    try:
        return Entry(
            metadata=RolloutMetadata(job_arn=job_arn, trajectory_id=trajectory_id),
            endpoint=Endpoint(url, Api(api), region, source),
            auth=auth,
            decision=decision_of(*decision),
            attempts=attempts,
            last_error=last_error,
            received_at=received_at,
            next_attempt_at=next_attempt_at,
        )
    except (ValueError, OutboxError) as error:
        raise OutboxError(f"the entry of trajectory {trajectory_id} cannot be read: {error}") from error
