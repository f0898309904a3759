"""What the database of `LocalJobs` holds, row by row. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON


class JobRow(NamedTuple):
    """A job as it is. Times are seconds since 1970."""

    number: int
    """Tells a job from a later one with the same name."""
    name: str
    category: str
    arn: str
    document: dict[str, JSON]
    """As it was created."""
    output: dict[str, JSON]
    """The block `ServiceOutput` of the document that DescribeJob answers with."""
    role: str
    schema_version: str
    tags: list[dict[str, str]]
    status: str
    secondary: str
    transitions: list[dict[str, JSON]]
    failure: str | None
    created_at: float
    changed_at: float
    ended_at: float | None
    experiment_id: str
    run_id: str
    """Of the run in MLflow."""
    run_name: str


class NewJob(NamedTuple):
    """A job to store."""

    name: str
    category: str
    arn: str
    document: Mapping[str, JSON]
    role: str
    schema_version: str
    tags: list[dict[str, str]]
    experiment: str
    run_name: str


class MetricRow(NamedTuple):
    """A value of a metric."""

    name: str
    step: int
    value: float
    at: float


class TraceRow(NamedTuple):
    """The trace of a rollout."""

    job: JobRow
    id: str
    at: float
    """When it was stored."""
    rollout: dict[str, JSON]
    """See `Store.trace`."""


class PackageRow(NamedTuple):
    """A model package: a checkpoint of a training job."""

    arn: str
    group: str
    version: int
    resumable: bool
    """Whether a job that begins from it resumes its job. Otherwise the job begins at step 1."""
    document: dict[str, JSON]
    """Of the job that made it."""
    step: int
    state: bytes | None
    """What was learnt. None if nothing was, and in lists."""
    at: float
