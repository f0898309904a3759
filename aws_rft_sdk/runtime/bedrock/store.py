"""The database of `LocalBedrock`: files, jobs, their events and checkpoints, and stored responses."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime._database import Database, JobEndedError, Layout

ENDED = ("succeeded", "failed", "cancelled")
"""States of a job that never change any more."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, doc TEXT NOT NULL, content BLOB NOT NULL, deleted INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, doc TEXT NOT NULL, step INTEGER DEFAULT 0, state BLOB);
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, id TEXT UNIQUE, job TEXT NOT NULL, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, job TEXT NOT NULL, model TEXT UNIQUE, doc TEXT NOT NULL, state BLOB);
CREATE TABLE IF NOT EXISTS responses (number INTEGER PRIMARY KEY, id TEXT UNIQUE, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_a_job ON events (job);
"""
_VERSION = 0x524654

Doc = dict[str, JSON]


class Event(NamedTuple):
    """Something a job says."""

    message: str
    level: str = "info"
    data: Mapping[str, JSON] | None = None
    """The metrics of a step. None for a message."""


class CheckpointRow(NamedTuple):
    """A checkpoint to store."""

    step: int
    model: str
    metrics: Mapping[str, JSON]


class Store(Database):
    """Files, jobs, events, checkpoints and responses as the JSON that the API answers with.

    The arguments are those of `Database`. Every method is one transaction.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__(path, Layout("LocalBedrock", _VERSION, _SCHEMA), clock)

    # --- files and responses -----------------------------------------------------------------------------------------

    def add_file(self, doc: Doc, content: bytes) -> None:
        """Store an uploaded file."""
        with self.transaction() as db:
            db.execute("INSERT INTO files (id, doc, content) VALUES (?, ?, ?)", (doc["id"], json.dumps(doc), content))

    def content(self, file_id: str) -> bytes:
        """Return the content of a file, also of a deleted one: jobs that began before still need it."""
        with self.transaction() as db:
            row = db.execute("SELECT content FROM files WHERE id = ?", (file_id,)).fetchone()
            return bytes(row[0])

    def delete_file(self, file_id: str) -> None:
        """Delete a file for all but the jobs that were created with it."""
        with self.transaction() as db:
            db.execute("UPDATE files SET deleted = 1 WHERE id = ?", (file_id,))

    def add_response(self, doc: Doc) -> None:
        """Store an answer of the Responses API."""
        with self.transaction() as db:
            db.execute("INSERT INTO responses (id, doc) VALUES (?, ?)", (doc["id"], json.dumps(doc)))

    def delete_response(self, response_id: str) -> None:
        """Delete a stored answer."""
        with self.transaction() as db:
            db.execute("DELETE FROM responses WHERE id = ?", (response_id,))

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, table: str, item_id: str) -> Doc | None:
        """Return a row of the table "files", "jobs" or "responses", or None if there is no such row."""
        where = "id = ? AND NOT deleted" if table == "files" else "id = ?"
        with self.transaction() as db:
            row = db.execute(f"SELECT doc FROM {table} WHERE {where}", (item_id,)).fetchone()  # noqa: S608
            return None if row is None else json.loads(row[0])

    def all(self, table: str, job_id: str | None = None) -> list[Doc]:
        """Return the rows of a table, oldest first: all files or jobs, or the events or checkpoints of one job."""
        where = "job = ?" if job_id is not None else "NOT deleted" if table == "files" else "1"
        values = () if job_id is None else (job_id,)
        with self.transaction() as db:
            query = f"SELECT doc FROM {table} WHERE {where} ORDER BY number"  # noqa: S608 - no caller's text
            return [json.loads(doc) for (doc,) in db.execute(query, values)]

    def progress(self, job_id: str) -> tuple[int, bytes | None]:
        """Return the last step of a job that is complete, 0 for none, and what was learnt until then."""
        with self.transaction() as db:
            step, state = db.execute("SELECT step, state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return step, state

    def trained(self, model: str) -> tuple[str, bytes | None] | None:
        """Return base model and state of a tuned model or a checkpoint, or None if there is no such model."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT jobs.doc, c.state FROM checkpoints c JOIN jobs ON jobs.id = c.job WHERE c.model = ?", (model,)
            ).fetchone()
            if row is None:
                query = "SELECT doc, state FROM jobs WHERE json_extract(doc, '$.fine_tuned_model') = ?"
                row = db.execute(query, (model,)).fetchone()
            return None if row is None else (json.loads(row[0])["model"], row[1])

    # --- jobs --------------------------------------------------------------------------------------------------------

    def add_job(self, doc: Doc, events: Sequence[Event]) -> None:
        """Store a new job."""
        with self.transaction() as db:
            db.execute("INSERT INTO jobs (id, doc) VALUES (?, ?)", (doc["id"], json.dumps(doc)))
            self._add_events(db, doc["id"], events)

    def advance(
        self,
        job_id: str,
        events: Sequence[Event],
        *,
        step: tuple[int, bytes | None] | None = None,
        checkpoint: CheckpointRow | None = None,
        **changes: JSON,
    ) -> Doc:
        """Change a job and say so, all in one transaction. Returns the job.

        Args:
            job_id: The job.
            events: What the job says of it.
            step: Number of the step that is now complete, and what was learnt until its end.
            checkpoint: A checkpoint to store with the step.
            changes: New values of the job's fields.

        Raises:
            JobEndedError: The job has ended. Nothing was changed.
        """
        with self.transaction() as db:
            doc: Doc = json.loads(db.execute("SELECT doc FROM jobs WHERE id = ?", (job_id,)).fetchone()[0])
            if doc["status"] in ENDED:
                raise JobEndedError
            doc |= changes
            if doc["status"] in ENDED:
                doc["finished_at"] = int(self.now())
            db.execute("UPDATE jobs SET doc = ? WHERE id = ?", (json.dumps(doc), job_id))
            if step is not None:
                db.execute("UPDATE jobs SET step = ?, state = ? WHERE id = ?", (*step, job_id))
            self._add_events(db, job_id, events)
            if checkpoint is not None and step is not None:
                self._add_checkpoint(db, job_id, checkpoint, step[1])
            return doc

    def _add_events(self, db: sqlite3.Connection, job_id: str, events: Sequence[Event]) -> None:
        for event in events:
            doc = {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{uuid.uuid4()}",
                "created_at": int(self.now()),
                "level": event.level,
                "message": event.message,
                "type": "message" if event.data is None else "metrics",
                "data": {} if event.data is None else event.data,
            }
            db.execute("INSERT INTO events (id, job, doc) VALUES (?, ?, ?)", (doc["id"], job_id, json.dumps(doc)))

    def _add_checkpoint(self, db: sqlite3.Connection, job_id: str, row: CheckpointRow, state: bytes | None) -> None:
        doc = {
            "object": "fine_tuning.job.checkpoint",
            "id": f"ftckpt-{uuid.uuid4()}",
            "created_at": int(self.now()),
            "fine_tuning_job_id": job_id,
            "fine_tuned_model_checkpoint": row.model,
            "step_number": row.step,
            "metrics": row.metrics,
        }
        db.execute(
            "INSERT INTO checkpoints (id, job, model, doc, state) VALUES (?, ?, ?, ?, ?)",
            (doc["id"], job_id, row.model, json.dumps(doc), state),
        )
