"""OpenTelemetry spans and metrics, through the API alone: where no SDK is configured all of this does nothing.

One trace for each rollout: `rft.rollout`, below it the spans of the agent (Strands makes its own) and `rft.feedback`.
Names follow OpenTelemetry's conventions where there are any: `error.type`, `gen_ai.*`, `server.address`, `url.full`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from aws_rft_sdk.types import RolloutRequest

_NAME = "aws_rft_sdk"


_tracer = trace.get_tracer(_NAME)
_meter = metrics.get_meter(_NAME)

_rollouts = _meter.create_counter("rft.rollouts", unit="{rollout}", description="Rollouts that ended, by outcome")
_rewards = _meter.create_histogram("rft.reward", unit="1", description="Rewards delivered, summed over the turns")
_feedback_seconds = _meter.create_histogram(
    "rft.feedback.duration", unit="s", description="Feedback calls with all their attempts, by operation and outcome"
)
_retries = _meter.create_counter("rft.feedback.retries", unit="{request}", description="Feedback requests sent again")
_untracked = _meter.create_counter(
    "rft.rollouts.untracked", unit="{rollout}", description="Rollouts without one tracked inference call"
)
_production_calls = _meter.create_counter(
    "rft.production_calls", unit="{call}", description="Calls of production models while rollouts were in progress"
)
_outboxes: dict[str, Callable[[], Callable[[], int] | None]] = {}


def _observe_outboxes(options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
    for path, reference in list(_outboxes.items()):
        count_pending = reference()
        if count_pending is not None:
            yield metrics.Observation(count_pending(), {"rft.outbox": path})


_meter.create_observable_gauge(
    "rft.outbox.pending",
    [_observe_outboxes],
    unit="{trajectory}",
    description="Trajectories decided and not confirmed, by outbox",
)


def start_rollout(request: RolloutRequest) -> Span:
    """Begin the span of a rollout. Whoever begins it ends it with `end_rollout`."""
    return _tracer.start_span(
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
    return trace.format_span_id(span.get_span_context().span_id) if span.is_recording() else None


def recording_span_id() -> str | None:
    """Return the id of the current span, None unless it is recording."""
    return span_id(trace.get_current_span())


def current(span: Span) -> AbstractContextManager[Span]:
    """Return a context manager that makes `span` the current one without ending it."""
    return trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


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
        rewards: What was delivered, None for nothing.
        error: What the handler or the report of it raised, None for nothing.
    """
    attributes: dict[str, str] = {"rft.outcome": outcome}
    if error is not None:
        attributes["error.type"] = type(error).__qualname__
        span.set_status(StatusCode.ERROR, type(error).__qualname__)
    span.set_attributes(attributes)
    begun, _, failed, unsure = turns
    span.set_attributes({"rft.turns": begun, "rft.turns.failed": failed, "rft.turns.unsure": unsure})
    if rewards is not None:
        span.set_attribute("rft.reward", sum(rewards))
        _rewards.record(sum(rewards))
    _rollouts.add(1, attributes)
    span.end()


@contextmanager
def feedback(operation: str, trajectory_id: str, endpoint: str) -> Iterator[Span]:
    """Trace one logical feedback call, "complete" or "reward"."""
    with _tracer.start_as_current_span(
        "rft.feedback",
        kind=SpanKind.CLIENT,
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
    _feedback_seconds.record(seconds, attributes)
    if attempts > 1:
        _retries.add(attempts - 1, {"rft.feedback.operation": operation})


def observe_outbox(path: str, reference: Callable[[], Callable[[], int] | None]) -> None:
    """Report the depth of an outbox whenever metrics are collected, as long as it is there.

    Args:
        path: Names the outbox.
        reference: A weak reference to what counts the trajectories that are decided and not confirmed.
    """
    _outboxes[path] = reference


def count_untracked() -> None:
    """Count a rollout of which no inference call was tracked."""
    _untracked.add(1)


def count_production_call() -> None:
    """Count a model call outside of any rollout that was made while rollouts were in progress in this process."""
    _production_calls.add(1)


def inject(headers: MutableMapping[str, str]) -> None:
    """Add the W3C `traceparent` of the current span, so that the service's traces join ours. Nothing without one."""
    propagate.inject(headers)
