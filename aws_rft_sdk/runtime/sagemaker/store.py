"""The database of `LocalJobs`: jobs, their metrics, traces, logs and model packages, and the objects of S3."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime._database import Database, JobEndedError, Layout
from aws_rft_sdk.runtime.sagemaker.rows import JobRow, MetricRow, NewJob, PackageRow, TraceRow

ENDED = ("Completed", "Failed", "Stopped")
"""Statuses of a job that never change any more."""
_MAX_TRANSITIONS = 100
_MAX_REASON = 1024

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, name TEXT UNIQUE, category TEXT, doc TEXT, step INTEGER DEFAULT 0, state BLOB);
CREATE TABLE IF NOT EXISTS metrics (
    number INTEGER PRIMARY KEY, job INTEGER, name TEXT, step INTEGER, value REAL, at REAL);
CREATE TABLE IF NOT EXISTS traces (number INTEGER PRIMARY KEY, id TEXT UNIQUE, job INTEGER, at REAL, doc TEXT);
CREATE TABLE IF NOT EXISTS logs (number INTEGER PRIMARY KEY, job INTEGER, at REAL, text TEXT);
CREATE TABLE IF NOT EXISTS experiments (number INTEGER PRIMARY KEY, name TEXT UNIQUE, at REAL);
CREATE TABLE IF NOT EXISTS package_groups (number INTEGER PRIMARY KEY, name TEXT UNIQUE, doc TEXT);
CREATE TABLE IF NOT EXISTS packages (
    number INTEGER PRIMARY KEY, arn TEXT UNIQUE, package_group TEXT, version INTEGER, resumable INTEGER, document TEXT,
    step INTEGER, state BLOB, at REAL);
CREATE TABLE IF NOT EXISTS objects (uri TEXT PRIMARY KEY, content BLOB, type TEXT, at REAL);
CREATE INDEX IF NOT EXISTS metrics_of_a_job ON metrics (job, name);
CREATE INDEX IF NOT EXISTS traces_of_a_job ON traces (job);
CREATE INDEX IF NOT EXISTS logs_of_a_job ON logs (job);
"""
_LAYOUT = Layout("LocalJobs", 0x52464A, _SCHEMA)


class JobExistsError(Exception):
    """A job has this name."""


class TooManyJobsError(Exception):
    """A job of the category runs, and the account may have one at a time."""


class Store(Database):
    """Jobs, and what is known of them. Every method is one transaction.

    Args:
        path: Path of the file, created if missing. ":memory:" for a database that ends with this object.
        clock: Returns seconds since 1970.

    Raises:
        ConfigurationError: The file cannot be used, or another server has it open.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__(path, _LAYOUT, clock)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def create(self, job: NewJob) -> JobRow:
        """Store a new job.

        Raises:
            JobExistsError: The name is taken, whatever the category.
            TooManyJobsError: A job of the category has not ended.
        """
        with self.transaction() as db:
            rows = [_row(row) for row in db.execute("SELECT number, doc FROM jobs")]
            if any(row.name == job.name for row in rows):
                raise JobExistsError(job.name)
            if any(row.category == job.category and row.status not in ENDED for row in rows):
                raise TooManyJobsError(job.category)
            now = self.now()
            experiment_id = self._experiment(db, job.experiment)
            run_id = uuid.uuid4().hex
            details = {
                "ExperimentName": job.experiment,
                "RunName": job.run_name,
                "ExperimentId": experiment_id,
                "RunId": run_id,
            }
            row = JobRow(
                0,
                job.name,
                job.category,
                job.arn,
                dict(job.document),
                {"MlflowDetails": details},
                job.role,
                job.schema_version,
                job.tags,
                "InProgress",
                "Starting",
                [{"Status": "Starting", "StartTime": now, "StatusMessage": "The job was created"}],
                None,
                now,
                now,
                None,
                experiment_id,
                run_id,
                job.run_name,
            )
            values = (job.name, job.category, json.dumps(row))
            number = db.execute("INSERT INTO jobs (name, category, doc) VALUES (?, ?, ?)", values).lastrowid
            return row._replace(number=number or 0)

    def job(self, category: str, name: str) -> JobRow | None:
        """Return a job, or None if there is none."""
        with self.transaction() as db:
            query = "SELECT number, doc FROM jobs WHERE category = ? AND name = ?"
            row = db.execute(query, (category, name)).fetchone()
            return None if row is None else _row(row)

    def jobs(self, category: str | None = None) -> list[JobRow]:
        """Return the jobs of a category, or of all, oldest first."""
        with self.transaction() as db:
            rows = [_row(row) for row in db.execute("SELECT number, doc FROM jobs ORDER BY number")]
            return [row for row in rows if category in (None, row.category)]

    def job_of_run(self, run_id: str) -> JobRow | None:
        """Return the job of a run in MLflow, or None if there is none."""
        return next((row for row in self.jobs() if row.run_id == run_id), None)

    def delete(self, job: JobRow) -> None:
        """Forget a job, its logs, metrics and traces. Its model packages stay."""
        with self.transaction() as db:
            db.execute("DELETE FROM jobs WHERE number = ?", (job.number,))
            for table in ("metrics", "traces", "logs"):
                db.execute(f"DELETE FROM {table} WHERE job = ?", (job.number,))  # noqa: S608 - no caller's text

    def advance(
        self,
        job: JobRow,
        *,
        secondary: str | None = None,
        message: str = "",
        status: str | None = None,
        failure: str | None = None,
        output: Mapping[str, JSON] | None = None,
    ) -> None:
        """Change a job, all in one transaction.

        Args:
            job: The job, however old the row is.
            secondary: Secondary status to enter. None stays in the present one, or enters that of an ending `status`.
            message: What the job says of it.
            status: New status. "Completed", "Failed" and "Stopped" end the job; its last checkpoint for models becomes
                its output.
            failure: Why the job failed. Cut off at 1024 characters.
            output: Blocks of `ServiceOutput` that replace those of the same name.

        Raises:
            JobEndedError: The job has ended or is deleted. Nothing was changed.
        """
        with self.transaction() as db:
            row = self._unended(db, job)
            now = self.now()
            has_ended = status in ENDED
            entered = secondary or (status if has_ended else None)
            merged = row.output | dict(output or {})
            if has_ended and "ModelCheckpoint" in merged:
                merged.setdefault("OutputModelPackageArn", merged["ModelCheckpoint"])
            row = row._replace(
                output=merged,
                status=status or row.status,
                secondary=entered or row.secondary,
                transitions=_transitions(row.transitions, entered, message, now, has_ended=has_ended),
                failure=row.failure if failure is None else failure[:_MAX_REASON],
                ended_at=now if has_ended else None,
            )
            self._write(db, row)

    def progress(self, job: JobRow) -> tuple[int, bytes | None]:
        """Return the last step of a job that is complete, 0 for none, and what was learnt until then."""
        with self.transaction() as db:
            row = db.execute("SELECT step, state FROM jobs WHERE number = ?", (job.number,)).fetchone()
            return (0, None) if row is None else row

    def finish_step(
        self,
        job: JobRow,
        step: int,
        state: bytes | None,
        metrics: Mapping[str, float],
        output: Mapping[str, JSON],
        checkpoint: bool,
    ) -> None:
        """Complete a step: its metrics, what was learnt until its end, `ServiceOutput` and checkpoints.

        Args:
            job: The job.
            step: Number of the step.
            state: What was learnt. None if nothing learns.
            metrics: Values under the service's names.
            output: Blocks of `ServiceOutput` that replace those of the same name.
            checkpoint: Whether to store a checkpoint for models and one to resume from.

        Raises:
            JobEndedError: The job has ended or is deleted. Nothing was changed.
        """
        with self.transaction() as db:
            row = self._unended(db, job)
            merged = row.output | dict(output)
            if checkpoint:
                config = row.document.get("ModelPackageConfig", {})
                for name, block, resumable in (
                    ("OutputModelPackageGroupArn", "ModelCheckpoint", False),
                    ("IntermediateCheckpointModelPackageGroupArn", "ResumableCheckpoint", True),
                ):
                    if name in config:
                        group = str(config[name]).rpartition("/")[2]
                        merged[block] = self._add_package(db, row, group, step, state, resumable=resumable)
            self._write(db, row._replace(output=merged))
            db.execute("UPDATE jobs SET step = ?, state = ? WHERE number = ?", (step, state, job.number))
            self._add_metrics(db, job, step, metrics)

    def _unended(self, db: sqlite3.Connection, job: JobRow) -> JobRow:
        found = db.execute("SELECT number, doc FROM jobs WHERE number = ?", (job.number,)).fetchone()
        if found is None or (row := _row(found)).status in ENDED:
            raise JobEndedError
        return row

    def _write(self, db: sqlite3.Connection, row: JobRow) -> None:
        doc = json.dumps(row._replace(changed_at=self.now()))
        db.execute("UPDATE jobs SET doc = ? WHERE number = ?", (doc, row.number))

    # --- logs and MLflow ---------------------------------------------------------------------------------------------

    def log(self, job: JobRow, text: str) -> None:
        """Write a line of the job's log."""
        with self.transaction() as db:
            db.execute("INSERT INTO logs (job, at, text) VALUES (?, ?, ?)", (job.number, self.now(), text))

    def logs(self, job: JobRow) -> list[tuple[int, float, str]]:
        """Return number, time and text of the lines of a job's log, oldest first."""
        with self.transaction() as db:
            query = "SELECT number, at, text FROM logs WHERE job = ? ORDER BY number"
            return list(db.execute(query, (job.number,)))

    def log_metrics(self, job: JobRow, step: int, metrics: Mapping[str, float]) -> None:
        """Store values of metrics. A value of the same metric and step is replaced."""
        with self.transaction() as db:
            self._add_metrics(db, job, step, metrics)

    def _add_metrics(self, db: sqlite3.Connection, job: JobRow, step: int, metrics: Mapping[str, float]) -> None:
        now = self.now()
        db.executemany(
            "DELETE FROM metrics WHERE job = ? AND name = ? AND step = ?",
            [(job.number, name, step) for name in metrics],
        )
        db.executemany(
            "INSERT INTO metrics (job, name, step, value, at) VALUES (?, ?, ?, ?, ?)",
            [(job.number, name, step, value, now) for name, value in metrics.items()],
        )

    def metrics(self, job: JobRow, name: str | None = None) -> list[MetricRow]:
        """Return the values of a metric, or of all metrics, by step."""
        with self.transaction() as db:
            query = "SELECT name, step, value, at FROM metrics WHERE job = ? AND name = IFNULL(?, name) ORDER BY step"
            return [MetricRow(*row) for row in db.execute(query, (job.number, name))]

    def trace(self, job: JobRow, rollout: Mapping[str, JSON]) -> None:
        """Store the trace of a rollout.

        Args:
            job: The job.
            rollout: `id` (of the rollout), `prompt` (text), `reward` (number or None), `step`, `phase` ("training",
                "validation", "evaluation"), `turns` (a list of {"request", "response", "started_at", "ended_at"}), and
                what else is known. Times are seconds since 1970.
        """
        with self.transaction() as db:
            values = (f"tr-{uuid.uuid4().hex}", job.number, self.now(), json.dumps(rollout))
            db.execute("INSERT INTO traces (id, job, at, doc) VALUES (?, ?, ?, ?)", values)

    def traces(self, jobs: Iterable[JobRow], *, begin: int = 0, limit: int = -1) -> list[TraceRow]:
        """Return traces of jobs, oldest first.

        Args:
            jobs: The jobs.
            begin: How many to leave out at the beginning.
            limit: Most rows. -1 for all.
        """
        by_number = {job.number: job for job in jobs}
        with self.transaction() as db:
            rows = db.execute(
                "SELECT job, id, at, doc FROM traces WHERE job IN (SELECT value FROM json_each(?)) "
                "ORDER BY number LIMIT ? OFFSET ?",
                (json.dumps(list(by_number)), limit, begin),
            )
            return [TraceRow(by_number[number], trace_id, at, json.loads(doc)) for number, trace_id, at, doc in rows]

    def forget_unfinished_traces(self, job: JobRow) -> None:
        """Forget the traces of the step, or of the phase, that was interrupted. It will run again."""
        with self.transaction() as db:
            db.execute(
                """
                WITH known AS (
                    SELECT number, json_extract(doc, '$.phase') AS phase, json_extract(doc, '$.step') AS step
                    FROM traces WHERE job = :job)
                DELETE FROM traces WHERE number IN (
                    SELECT number FROM known WHERE CASE phase
                        WHEN 'evaluation' THEN TRUE
                        WHEN 'training' THEN step > (SELECT step FROM jobs WHERE number = :job)
                        ELSE step NOT IN (SELECT step FROM metrics WHERE job = :job AND name = 'timing_s/eval')
                    END)
                """,
                {"job": job.number},
            )

    def find_trace(self, trace_id: str) -> TraceRow | None:
        """Return a trace, or None if there is none with this id."""
        with self.transaction() as db:
            query = (
                "SELECT jobs.number, jobs.doc, traces.at, traces.doc FROM traces JOIN jobs ON jobs.number = traces.job "
                "WHERE traces.id = ?"
            )
            row = db.execute(query, (trace_id,)).fetchone()
            return None if row is None else TraceRow(_row(row[:2]), trace_id, row[2], json.loads(row[3]))

    def experiments(self) -> list[tuple[str, str, float]]:
        """Return id, name and creation time of the experiments in MLflow."""
        with self.transaction() as db:
            query = "SELECT CAST(number AS TEXT), name, at FROM experiments ORDER BY number"
            return list(db.execute(query))

    def _experiment(self, db: sqlite3.Connection, name: str) -> str:
        db.execute("INSERT INTO experiments (name, at) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, self.now()))
        return str(db.execute("SELECT number FROM experiments WHERE name = ?", (name,)).fetchone()[0])

    # --- model packages ----------------------------------------------------------------------------------------------

    def add_group(self, name: str, doc: Mapping[str, JSON]) -> bool:
        """Store a model package group. Returns False, and changes nothing, if there is one of this name."""
        with self.transaction() as db:
            values = (name, json.dumps(doc))
            query = "INSERT INTO package_groups (name, doc) VALUES (?, ?) ON CONFLICT DO NOTHING"
            return db.execute(query, values).rowcount == 1

    def group(self, name: str) -> dict[str, JSON] | None:
        """Return a model package group as it was stored, or None if there is none."""
        with self.transaction() as db:
            row = db.execute("SELECT doc FROM package_groups WHERE name = ?", (name,)).fetchone()
            return None if row is None else json.loads(row[0])

    def package(self, arn: str) -> PackageRow | None:
        """Return a model package, or None if there is none."""
        found = self._packages("state", "arn", arn)
        return found[0] if found else None

    def packages(self, group: str | None = None) -> list[PackageRow]:
        """Return the model packages of a group, or of all, oldest first. Their states, which may be large, are None."""
        return self._packages("NULL", "package_group", group)

    def _packages(self, state: str, column: str, value: str | None) -> list[PackageRow]:
        with self.transaction() as db:
            query = (
                f"SELECT arn, package_group, version, resumable, document, step, {state}, at FROM packages "  # noqa: S608 - no caller's text
                f"WHERE {column} = IFNULL(?, {column}) ORDER BY number"
            )
            rows = [PackageRow(*row) for row in db.execute(query, (value,))]
            return [row._replace(resumable=bool(row.resumable), document=json.loads(str(row.document))) for row in rows]

    def _add_package(
        self, db: sqlite3.Connection, job: JobRow, group: str, step: int, state: bytes | None, *, resumable: bool
    ) -> str:
        query = "SELECT IFNULL(MAX(version), 0) + 1 FROM packages WHERE package_group = ?"
        version = db.execute(query, (group,)).fetchone()[0]
        prefix = job.arn.partition(":job/")[0]
        arn = f"{prefix}:model-package/{group}/{version}"
        db.execute(
            "INSERT INTO packages (arn, package_group, version, resumable, document, step, state, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (arn, group, version, resumable, json.dumps(job.document), step, state, self.now()),
        )
        return arn


def _row(found: tuple[int, str]) -> JobRow:
    number, doc = found
    return JobRow(*json.loads(doc))._replace(number=number)


def _transitions(
    known: list[dict[str, JSON]], entered: str | None, message: str, now: float, *, has_ended: bool
) -> list[dict[str, JSON]]:
    """Return the transitions after a status was entered, or after the present one said something."""
    last = known[-1]
    if entered is None or entered == last["Status"]:
        said = {**last, "StatusMessage": message} if message else last
        return [*known[:-1], {**said, "EndTime": now} if has_ended else said]
    new: dict[str, JSON] = {"Status": entered, "StartTime": now, "StatusMessage": message or entered}
    if has_ended:
        new["EndTime"] = now
    return [*known[:-1], {**last, "EndTime": now}, new][-_MAX_TRANSITIONS:]
