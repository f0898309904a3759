"""Following a job: what is new, step by step, until the job ends. It only reads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol, runtime_checkable

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk.errors import ServiceError
from aws_rft_sdk.jobs.alarms import Alarm, alarms
from aws_rft_sdk.jobs.steps import Step, in_order, read_step
from aws_rft_sdk.jobs.types import Checkpoint, Event, Job

POLL_SECONDS = 10.0
_PACE_STEPS = 20
"""Steps that the time left is reckoned from."""


class Service(Protocol):
    """What is needed of a service to follow a job."""

    def get(self, job: str) -> Job:
        """Return the job as it is now."""


@runtime_checkable
class EventService(Service, Protocol):
    """A service that tells events."""

    def events(self, job: str, *, follow: bool = False, poll_seconds: float = POLL_SECONDS) -> Iterator[Event]:
        """Yield the events, each once. If `follow`, look for more until the job has ended."""

    def checkpoints(self, job: str) -> Sequence[Checkpoint]:
        """Return the checkpoints so far."""


@dataclass(frozen=True)
class Watched:
    """What is known of a job, and what is new.

    Attributes:
        job: The job, as it was when it was last asked for.
        steps: All steps so far, by number.
        checkpoints: All checkpoints so far.
        alarms: What is wrong now.
        event: The new event, if there is one.
        step: The metrics in the event. None if it has none.
        new_alarms: Alarms of kinds that were not raised before.
        new_checkpoints: Checkpoints that were not there before.
    """

    job: Job
    steps: tuple[Step, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    event: Event | None = None
    step: Step | None = None
    new_alarms: tuple[Alarm, ...] = ()
    new_checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last step, by the pace of the last 20 steps. None if times or the total are not known."""
        timed = [step for step in self.steps[-_PACE_STEPS - 1 :] if step.time is not None]
        total = next((step.total_steps for step in reversed(self.steps) if step.total_steps), None)
        if len(timed) < 2 or total is None:
            return None
        paces = [((b.time or 0.0) - (a.time or 0.0)) / (b.step - a.step) for a, b in itertools.pairwise(timed)]
        return max(median(paces), 0.0) * max(total - timed[-1].step, 0)


def watch(
    service: Service | EventService,
    job: str,
    *,
    poll_seconds: float = POLL_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Watched]:
    """Yield what is known of a job each time something is new. Ends when the job has ended.

    Leaving the loop never touches the job. A gap in the steps is an alarm only at the end, as an event may come late.

    Args:
        service: Of the job. If it tells no events, there are only the job's status and its parts.
        job: The job's id.
        poll_seconds: Pause between two looks.
        sleep: Waits between two looks at a job without events.

    Raises:
        ConfigurationError: `poll_seconds` is not above 0.
    """
    check_seconds("poll_seconds", poll_seconds)
    if isinstance(service, EventService):
        yield from _events(service, job, poll_seconds)
        return
    known: Job | None = None
    while known is None or not known.finished:
        if known is not None:
            sleep(poll_seconds)
        now = service.get(job)
        if known is None or dict(now) != dict(known):
            yield Watched(now)
        known = now


def _events(service: EventService, job: str, poll_seconds: float) -> Iterator[Watched]:
    now = _asked(service, job, Watched(service.get(job)))
    yield now
    past = _past(service, job)
    raised = set[str]()

    def judged(kinds_left_out: Container[str] = ("missing_steps",)) -> Watched:
        found = tuple(alarm for alarm in alarms(now.steps) if alarm.kind not in kinds_left_out)
        new = tuple(alarm for alarm in found if alarm.kind not in raised)
        raised.update(alarm.kind for alarm in new)
        return replace(now, alarms=found, new_alarms=new)

    for event in service.events(job, follow=True, poll_seconds=poll_seconds):
        step = read_step(event)
        now = replace(now, event=event, step=step, new_alarms=(), new_checkpoints=())
        if step is None:  # something else has happened, such as a checkpoint
            try:
                now = _asked(service, job, now)
            except ServiceError as error:
                if error.retry_safe is False:
                    raise
                # The service cannot be reached. The next event, or the end of the job, brings what is missed here.
        else:
            now = replace(now, steps=tuple(in_order([*now.steps, step])))
            past.discard(event.id)
            # A run is judged as it stands, so not while its past is read. Long runs take longer, and change less.
            if not past and len(now.steps) % (1 + len(now.steps) // 50) == 0:
                now = judged()
        yield now
    now = _asked(service, job, replace(now, event=None, step=None, new_checkpoints=()))
    yield judged(kinds_left_out=())


def _past(service: EventService, job: str) -> set[str]:
    """Return the ids of the steps' events that the job has already. They come again while following."""
    try:
        return {event.id for event in service.events(job) if read_step(event)}
    except ServiceError:
        return set()  # following the job waits for the service to come back, or raises the error


def _asked(service: EventService, job: str, now: Watched) -> Watched:
    """Ask for the job and its checkpoints."""
    checkpoints = tuple(service.checkpoints(job))
    known = {checkpoint.id for checkpoint in now.checkpoints}
    new = tuple(checkpoint for checkpoint in checkpoints if checkpoint.id not in known)
    return replace(now, job=service.get(job), checkpoints=checkpoints, new_checkpoints=new)
