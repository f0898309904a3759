"""OpenTelemetry spans and metrics, through the API alone: if no SDK is configured, all of this does nothing.

One trace for each rollout: `rft.rollout`, below it the spans of the agent (Strands makes its own) and `rft.feedback`.
Names follow OpenTelemetry's conventions where there are any: `error.type`, `gen_ai.*`, `server.address`, `url.full`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.failures import failure_kind
from aws_rft_sdk.types import RolloutRequest

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.trace import Span

_NAME = "aws_rft_sdk"


_outboxes: dict[str, Callable[[], Callable[[], int] | None]] = {}


class _OpenTelemetry:
    """The API and our instruments, imported when they are first used: importing the API takes tens of milliseconds."""

    def __init__(self) -> None:
        from opentelemetry import metrics, propagate, trace

        self.trace, self.inject, self._observation = trace, propagate.inject, metrics.Observation
        self.tracer = trace.get_tracer(_NAME)
        meter = metrics.get_meter(_NAME)
        self.rollouts = meter.create_counter(
            "rft.rollouts", unit="{rollout}", description="Rollouts that ended, by outcome"
        )
        self.rewards = meter.create_histogram(
            "rft.reward", unit="1", description="Rewards delivered, summed over the turns"
        )
        self.feedback_seconds = meter.create_histogram(
            "rft.feedback.duration",
            unit="s",
            description="Feedback calls with all their attempts, by operation and outcome",
        )
        self.retries = meter.create_counter(
            "rft.feedback.retries", unit="{request}", description="Feedback requests sent again"
        )
        self.untracked = meter.create_counter(
            "rft.rollouts.untracked", unit="{rollout}", description="Rollouts without one tracked inference call"
        )
        self.production_calls = meter.create_counter(
            "rft.production_calls",
            unit="{call}",
            description="Calls of production models while rollouts were in progress",
        )
        meter.create_observable_gauge(
            "rft.outbox.pending",
            [self._observe_outboxes],
            unit="{trajectory}",
            description="Trajectories decided and not confirmed, by outbox",
        )

    def _observe_outboxes(self, options: CallbackOptions) -> Iterator[Observation]:
        for path, reference in list(_outboxes.items()):
            count_pending = reference()
            if count_pending is not None:
                yield self._observation(count_pending(), {"rft.outbox": path})


_loaded: _OpenTelemetry | None = None
_lock = threading.Lock()  # an SDK warns of instruments that are made twice


def load() -> _OpenTelemetry:
    """Return OpenTelemetry's API and our instruments. The first call imports the API."""
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _OpenTelemetry()
    return _loaded


@in_forked_child
def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


def start_rollout(request: RolloutRequest) -> Span:
    """Begin the span of a rollout. Whoever begins it ends it with `end_rollout`."""
    return load().tracer.start_span(
        "rft.rollout",
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.conversation.id": request.trajectory_id,
            "rft.job_arn": request.job_arn,
            "rft.trajectory_id": request.trajectory_id,
        },
    )


def span_id(span: Span) -> str | None:
    """Return the id of a span as 16 hexadecimal digits, None unless it is recording."""
    return load().trace.format_span_id(span.get_span_context().span_id) if span.is_recording() else None


def recording_span_id() -> str | None:
    """Return the id of the current span, None unless it is recording."""
    return span_id(load().trace.get_current_span())


def current(span: Span) -> AbstractContextManager[object]:
    """Return a context manager that makes `span` the current one without ending it."""
    if not span.get_span_context().is_valid:
        return nullcontext()  # there is no SDK, so there is nothing that a span below could belong to
    using: AbstractContextManager[object] = load().trace.use_span(
        span, end_on_exit=False, record_exception=False, set_status_on_exception=False
    )
    return using


def end_rollout(
    span: Span,
    outcome: str,
    *,
    turns: tuple[int, int, int, int],
    rewards: tuple[float, ...] | None,
    error: BaseException | None = None,
) -> None:
    """End the span of a rollout and count it.

    Args:
        span: The span.
        outcome: "completed", "failed", "deferred", "repeated", "refused" or "unreported".
        turns: Inference calls that began, that were answered, that failed, and of the failed ones that may have been
            sampled.
        rewards: What was delivered, None if nothing was.
        error: What the handler or its report raised, None if neither raised.
    """
    telemetry = load()
    attributes: dict[str, str] = {"rft.outcome": outcome}
    if error is not None:
        attributes["error.type"] = type(error).__qualname__
        attributes["rft.failure.kind"] = failure_kind(error).value
        span.set_status(telemetry.trace.StatusCode.ERROR, type(error).__qualname__)
    if span.is_recording():
        begun, _, failed, unsure = turns
        counts = {"rft.turns": begun, "rft.turns.failed": failed, "rft.turns.unsure": unsure}
        span.set_attributes({**attributes, **counts})
        if outcome == "failed" and rewards is not None:
            span.set_attribute("rft.reward.floor", True)
    if rewards is not None:
        span.set_attribute("rft.reward", sum(rewards))
        telemetry.rewards.record(sum(rewards))
    telemetry.rollouts.add(1, attributes)
    span.end()


@contextmanager
def feedback(operation: str, trajectory_id: str, endpoint: str) -> Iterator[Span]:
    """Trace one logical feedback call, "complete" or "reward"."""
    telemetry = load()
    with telemetry.tracer.start_as_current_span(
        "rft.feedback",
        kind=telemetry.trace.SpanKind.CLIENT,
        attributes={"rft.feedback.operation": operation, "rft.trajectory_id": trajectory_id, "url.full": endpoint},
        record_exception=False,
    ) as span:
        yield span


def end_feedback(span: Span, operation: str, outcome: str, *, attempts: int, seconds: float) -> None:
    """Note how a logical feedback call ended.

    Args:
        span: Its span.
        operation: "complete" or "reward".
        outcome: "delivered", "repeated" (an earlier attempt had done it already), or the class of the error.
        attempts: Requests sent.
        seconds: Duration with all waits.
    """
    span.set_attributes({"rft.feedback.attempts": attempts, "rft.feedback.outcome": outcome})
    attributes = {"rft.feedback.operation": operation, "rft.feedback.outcome": outcome}
    load().feedback_seconds.record(seconds, attributes)
    if attempts > 1:
        load().retries.add(attempts - 1, {"rft.feedback.operation": operation})


def observe_outbox(path: str, reference: Callable[[], Callable[[], int] | None]) -> None:
    """Report the depth of an outbox whenever metrics are collected, as long as it is there.

    Args:
        path: Names the outbox.
        reference: A weak reference to what counts the trajectories that are decided and not confirmed.
    """
    load()
    _outboxes[path] = reference


def count_untracked() -> None:
    """Count a rollout without one tracked inference call."""
    load().untracked.add(1)


def count_production_call() -> None:
    """Count a model call outside of any rollout that was made while rollouts were in progress in this process."""
    load().production_calls.add(1)


def inject(headers: MutableMapping[str, str]) -> None:
    """Add the W3C `traceparent` of the current span, so that the service's traces join ours. Nothing without one."""
    load().inject(headers)
