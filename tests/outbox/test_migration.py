"""A file of schema 2, as version 0.1.0 wrote it, loses nothing when it is opened."""

import sqlite3
import threading

import pytest

from aws_rft_sdk._decision import CallState, TrajectoryOutcome
from aws_rft_sdk.errors import OutboxError
from aws_rft_sdk.feedback.outbox import Outbox

UNSENT, MAYBE_SENT, CONFIRMED, REFUSED = CallState
JOB_ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/outbox"
SCHEMA_2 = """
CREATE TABLE feedback (
    job_arn TEXT NOT NULL, trajectory_id TEXT NOT NULL, url TEXT NOT NULL, api TEXT NOT NULL, region TEXT NOT NULL,
    source TEXT NOT NULL, auth TEXT NOT NULL, completion TEXT, rewards TEXT, delivered TEXT NOT NULL DEFAULT '',
    maybe_sent INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT, received_at REAL NOT NULL, next_attempt_at REAL NOT NULL DEFAULT 0, ended_at REAL,
    PRIMARY KEY (job_arn, trajectory_id)
) WITHOUT ROWID;
CREATE INDEX pending ON feedback (next_attempt_at) WHERE completion IS NOT NULL AND ended_at IS NULL;
PRAGMA user_version = 2;
"""
# completion, rewards, delivered, maybe_sent, refused, ended_at -> outcome, state of the seal, state of the reward
ROWS = {
    "open": ((None, None, "", 0, 0, None), (TrajectoryOutcome.OPEN, UNSENT, UNSENT)),
    "decided": (("ready", "[1.0]", "", 0, 0, None), (TrajectoryOutcome.PENDING, UNSENT, UNSENT)),
    "on-its-way": (("ready", "[1.0]", "", 1, 0, None), (TrajectoryOutcome.PENDING, MAYBE_SENT, MAYBE_SENT)),
    "sealed": (("ready", None, "completion", 0, 0, None), (TrajectoryOutcome.OPEN, CONFIRMED, UNSENT)),
    # Version 2 said "completion" here also when that had not come through.
    "rewarded-after-a-seal": (
        ("ready", "[1.0]", "completion", 1, 0, None),
        (TrajectoryOutcome.PENDING, MAYBE_SENT, MAYBE_SENT),
    ),
    "rewarded": (("ready", "[0.5, 0.25]", "completion", 0, 0, 7.0), (TrajectoryOutcome.REWARDED, CONFIRMED, CONFIRMED)),
    "failed": (("failed", None, "completion", 0, 0, 7.0), (TrajectoryOutcome.FAILED, CONFIRMED, UNSENT)),
    "seal-refused": (("ready", "[1.0]", "", 1, 1, 7.0), (TrajectoryOutcome.FAILED, REFUSED, UNSENT)),
    "reward-refused": (("ready", "[1.0]", "completion", 1, 1, 7.0), (TrajectoryOutcome.FAILED, CONFIRMED, REFUSED)),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "outbox.db"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA_2)
    for name, (row, _) in ROWS.items():
        connection.execute(
            "INSERT INTO feedback VALUES (?, ?, 'http://127.0.0.1:1', 'ga', 'us-west-2', 'payload', 'bearer',"
            " ?, ?, ?, ?, ?, 3, 'an error', 5.0, 6.0, ?)",
            (JOB_ARN, name, *row),
        )
    connection.commit()
    connection.close()
    return path


def test_outbox_when_its_file_is_of_schema_2_then_every_trajectory_is_there(path):
    outbox = Outbox(path)
    entries = {entry.metadata.trajectory_id: entry for entry in outbox.entries()}

    assert {name: (entry.outcome, entry.decision.seal, entry.decision.reward) for name, entry in entries.items()} == {
        name: expected for name, (_, expected) in ROWS.items()
    }
    assert entries["rewarded"].rewards == (0.5, 0.25)
    entry = entries["on-its-way"]
    assert (entry.endpoint, entry.auth) == (("http://127.0.0.1:1", "ga", "us-west-2", "payload"), "bearer")
    assert (entry.attempts, entry.last_error, entry.received_at, entry.next_attempt_at) == (3, "an error", 5.0, 6.0)
    assert outbox.ledger() == (9, 1, 3, 3, 2)
    assert {outbox.claim().metadata.trajectory_id for _ in range(3)} == {
        name for name, (_, (outcome, *_)) in ROWS.items() if outcome is TrajectoryOutcome.PENDING
    }
    assert outbox.claim() is None
    outbox.close()
    again = Outbox(path)
    assert len(again.entries()) == 9
    again.close()


def test_outbox_when_several_open_an_old_file_at_once_then_it_is_migrated_once(path):
    start, counts = threading.Barrier(8, timeout=30), []

    def open_it():
        outbox = Outbox(path)
        start.wait()
        counts.append(outbox.ledger())
        outbox.close()

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [(9, 1, 3, 3, 2)] * 8


def test_outbox_when_the_migration_fails_then_the_old_file_is_as_it_was(path):
    connection = sqlite3.connect(path)
    connection.execute("UPDATE feedback SET url = x'00', received_at = 'x' WHERE trajectory_id = 'open'")
    connection.execute("CREATE TABLE feedback_2 (a)")  # in its way
    connection.commit()
    outbox = Outbox(path)
    with pytest.raises(OutboxError):
        outbox.entries()

    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    assert connection.execute("SELECT count(*) FROM feedback").fetchone() == (9,)
    connection.close()
