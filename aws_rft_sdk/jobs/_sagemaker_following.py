"""Following a multi-turn RL job: waiting, events with the steps' metrics, and the log. It only reads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from aws_rft_sdk.agent_rft import Prices
from aws_rft_sdk.errors import (
    AccessDeniedError,
    JobServiceError,
    ServiceError,
    ServiceFaultError,
    ServiceTimeoutError,
    ThrottledError,
    TransportError,
)
from aws_rft_sdk.jobs._cloudwatch import LogLine
from aws_rft_sdk.jobs._mlflow import MetricEvents, Mlflow
from aws_rft_sdk.jobs._sagemaker_answers import event, events_of, phase_of, progress_of, service_output
from aws_rft_sdk.jobs.types import Event, Job

logger = logging.getLogger(__name__)

T = TypeVar("T")

OUTAGE_SECONDS = 900.0
"""How long an outage may last before following a job ends."""
_LAST_LOOKS = 5
"""Looks at an MLflow app that does not answer, after the job has ended."""
_OUTAGES = (TransportError, ThrottledError, ServiceFaultError)


def looks(look: Callable[[], T], poll_seconds: float, sleep: Callable[[float], object]) -> Iterator[T]:
    """Yield look after look with pauses between them, without end.

    After the first answer, outages of up to `OUTAGE_SECONDS` are waited out.

    Args:
        look: Asks the service.
        poll_seconds: Pause between two looks.
        sleep: Waits.
    """
    answered_at: float | None = None
    while True:
        try:
            found = look()
        except _OUTAGES as error:
            if answered_at is None or time.monotonic() - answered_at > OUTAGE_SECONDS:
                raise
            pause = max(poll_seconds, error.retry_after_seconds or 0.0)
            logger.warning("pause_seconds=<%.1f>, error=<%s> | the job cannot be looked at now", pause, error)
            sleep(pause)
            continue
        answered_at = time.monotonic()
        yield found
        sleep(poll_seconds)


def wait_for(jobs: Iterator[Job], timeout_seconds: float | None, changed: Callable[[Job], object]) -> Job:
    """Return a job that has ended. See `AgentRFT.wait`.

    Args:
        jobs: The job, look after look, without end.
        timeout_seconds: How long to look. None for as long as it takes.
        changed: Is told the job each time its status or its secondary status is another.
    """
    begun = time.monotonic()
    before: tuple[str, str] | None = None
    while True:
        now = next(jobs)
        status = now.status, phase_of(now)
        if status != before:
            changed(now)
        before = status
        if now.finished:
            return now
        if timeout_seconds is not None and time.monotonic() - begun > timeout_seconds:
            raise ServiceTimeoutError(
                f"job {now.id} is still {', '.join(status)} after {timeout_seconds:g} s. It goes on; call wait again"
            )


def follow_events(jobs: Iterator[Job], metrics: StepMetrics, prices: Prices | None, *, follow: bool) -> Iterator[Event]:
    """Yield what a job says, each thing once. See `AgentRFT.events`."""
    seen, quiet = set[str](), 0
    for now in jobs:
        found = [*events_of(now, prices), *metrics.read(now)]
        fresh = [item for item in found if item.id not in seen]
        seen.update(item.id for item in fresh)
        yield from fresh
        quiet = 0 if fresh else quiet + 1
        # MLflow shows the last metrics late, and a look at it may fail.
        if not follow or (now.finished and quiet and (metrics.complete or quiet > _LAST_LOOKS)):
            return


def follow_log(lines: Iterator[tuple[bool, list[LogLine]]], *, follow: bool) -> Iterator[LogLine]:
    """Yield the lines of a log, each once. See `AgentRFT.logs`.

    Args:
        lines: Look after look, whether the job had ended before, and the new lines.
        follow: Whether to go on until the job has ended.
    """
    quiet = 0
    for ended, found in lines:
        yield from found
        quiet = 0 if found else quiet + 1
        if not follow or (ended and quiet > 1):  # CloudWatch shows the last lines late
            return


class StepMetrics:
    """The metrics of one job, look by look. Trouble with MLflow becomes an event, and never ends the following.

    Attributes:
        complete: Whether the last look read all that MLflow has.

    Args:
        open_mlflow: Returns a session with the MLflow app of a job, or None if the job names none.
    """

    def __init__(self, open_mlflow: Callable[[Job], Mlflow | None]) -> None:
        self._open = open_mlflow
        self._reader: MetricEvents | None = None
        self._refused = False
        self.complete = True

    def read(self, job: Job) -> list[Event]:
        """Return the events of all steps so far. Empty if MLflow cannot be read."""
        run = service_output(job).get("MlflowDetails", {}).get("RunId")
        if self._refused or not run:
            return []
        if self._reader is None:
            mlflow = self._open(job)
            if mlflow is None:
                return []
            self._reader = MetricEvents(mlflow, str(run))
        progress = progress_of(job)
        try:
            found = self._reader.read(progress and progress.total_steps)
        except (AccessDeniedError, JobServiceError) as error:
            self._refused = True
            text = f"the metrics cannot be read, and are left out: {error}"
            return [event("metrics-refused", text, {}, text, level="warn")]
        except ServiceError as error:
            logger.warning("job=<%s>, error=<%s> | the metrics cannot be read now", job.id, error)
            self.complete = False
            return []
        self.complete = True
        return found
