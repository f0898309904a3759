"""Delivers a decision: makes the outstanding calls in order, and notes each one before and after it is made."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol, cast

from aws_rft_sdk import context, telemetry, wire
from aws_rft_sdk._decision import Call, CallState, Decision
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import (
    InvalidRequestError,
    RFTError,
    ServiceError,
    TrajectoryConflictError,
    TrajectoryNotFoundError,
)
from aws_rft_sdk.feedback.outbox import Outbox, Step
from aws_rft_sdk.feedback.sending import Sender, Sending
from aws_rft_sdk.settings import Auth, Endpoint
from aws_rft_sdk.types import RolloutMetadata
from aws_rft_sdk.wire import Api, FeedbackRequest

logger = logging.getLogger(__name__)

_REFUSALS = (InvalidRequestError, TrajectoryNotFoundError, TrajectoryConflictError)
"""Answers that no repetition changes."""
_OPERATIONS = {Call.SEAL: "complete", Call.REWARD: "reward"}


class Holder(context.Holder, Protocol):
    """Holds the decision about one trajectory, and changes it."""

    def update(self, *steps: Step, durable: bool = False, error: str | None = None) -> list[Decision]:
        """Change the decision, all steps at once or none. See `Outbox.update`."""


class Memory:
    """Holds a decision for as long as the process lives."""

    durable = False

    def __init__(self) -> None:
        self.seen = Decision()

    def update(self, *steps: Step, durable: bool = False, error: str | None = None) -> list[Decision]:
        """Change the decision."""
        with _lock:
            decisions = [self.seen]
            for step in steps:
                decisions.append(step(decisions[-1]))
            self.seen = decisions[-1]
        return decisions[1:]


_lock = threading.Lock()  # one for all: a step takes microseconds


@in_forked_child
def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


class OnDisk:
    """Holds a decision in an outbox. The file has the truth; others may change it too."""

    durable = True

    def __init__(self, outbox: Outbox, metadata: RolloutMetadata, endpoint: Endpoint, auth: Auth) -> None:
        self.outbox = outbox
        self.seen = Decision()
        self._about = (metadata, endpoint, auth)

    def receive(self) -> Decision:
        """Enter the trajectory in the outbox, unless it is there, and return its decision."""
        self.seen = self.outbox.receive(*self._about).decision
        return self.seen

    def update(self, *steps: Step, durable: bool = False, error: str | None = None) -> list[Decision]:
        """Change the decision on disk."""
        decisions = self.outbox.update(*self._about, *steps, durable=durable, error=error)
        self.seen = decisions[-1]
        return decisions


def deliver(holder: Holder, sender: Sender, metadata: RolloutMetadata, decide: Step | None = None) -> None:
    """Decide, then make all calls that are outstanding: the seal, and after it the reward.

    Each call is marked as maybe sent before its first byte leaves, and gets its outcome after the answer. So whoever
    finds the decision later, also after a crash, knows what is left to do.

    Args:
        holder: Holds the decision.
        sender: Sends the calls.
        metadata: The trajectory.
        decide: Adds to the decision, durably, before anything is sent. None to deliver what stands.

    Raises:
        RFTError: A call was not delivered, or `decide` raised. What was decided stands, and calling again is safe.
    """
    known, begun = holder.update(decide or _unchanged, Decision.begin, durable=decide is not None)
    deadline = sender.deadline()
    while known.outstanding is not None:
        known, begun = _make(holder, sender, metadata, known, begun, deadline)


def _unchanged(decision: Decision) -> Decision:
    return decision


def _make(
    holder: Holder, sender: Sender, metadata: RolloutMetadata, known: Decision, begun: Decision, deadline: float
) -> tuple[Decision, Decision]:
    """Make the outstanding call of `known` until it is confirmed, refused, or out of time.

    `begun` is `known` with that call marked as maybe sent. Returns the decision with the call confirmed, and the same
    with the next call, if there is one, marked as maybe sent.
    """
    call = cast(Call, known.outstanding)
    request = _request(call, known, sender.endpoint.api, metadata)
    operation, outcome, began = _OPERATIONS[call], "delivered", time.perf_counter()
    attempts = 0
    with telemetry.feedback(operation, metadata.trajectory_id, sender.endpoint.url) as span:
        try:
            sending = Sending(sender, request, deadline)
            while True:
                attempts += 1
                try:
                    sending.attempt()
                    break
                except ServiceError as error:
                    if _had_arrived(holder, call, known, begun, error):
                        outcome = "repeated"
                        _log_repeated(call, metadata)
                        break
                    state = _state_after(error, known.state_of(call))
                    error.attempts, error.may_have_happened = attempts, state is CallState.MAYBE_SENT
                    seconds = sending.pause_after(error, attempts)
                    if seconds is None:
                        raise
                    holder.update(_ended(call, state, begun))
                    _log_pause(call, metadata, attempts, seconds, error)
                time.sleep(seconds)
                known, begun = holder.update(_unchanged, Decision.begin)
                if known.outstanding is not call:
                    return known, begun  # someone else has delivered it meanwhile
        except RFTError as error:
            outcome = type(error).__name__
            state = _state_after(error, known.state_of(call))
            holder.update(_ended(call, state, begun), error=f"{outcome}: {error}")
            raise
        finally:
            telemetry.end_feedback(span, operation, outcome, attempts=attempts, seconds=time.perf_counter() - began)
    known, begun = holder.update(_ended(call, CallState.CONFIRMED, begun), Decision.begin)
    return known, begun


def _had_arrived(holder: Holder, call: Call, known: Decision, begun: Decision, error: ServiceError) -> bool:
    """Whether an attempt failed because an earlier one may have arrived, of ours or of another thread or process."""
    if not isinstance(error, TrajectoryConflictError):
        return False
    if known.state_of(call) is CallState.MAYBE_SENT:
        return True
    (now,) = holder.update(_unchanged)
    return now.sends != begun.sends


def _ended(call: Call, state: CallState, begun: Decision) -> Step:
    return lambda decision: decision.end(call, state, begun.sends)


def _state_after(error: RFTError, was: CallState) -> CallState:
    """Return how far a call is after an attempt that failed."""
    if isinstance(error, _REFUSALS):
        return CallState.REFUSED
    return CallState.MAYBE_SENT if isinstance(error, ServiceError) and error.may_have_happened else was


def _request(call: Call, decision: Decision, api: Api, metadata: RolloutMetadata) -> FeedbackRequest:
    if call is Call.REWARD:
        return wire.reward_request(api, metadata.job_arn, metadata.trajectory_id, decision.rewards or ())
    status = decision.completion or wire.READY
    if status == wire.FAILED and api is Api.ALPHA:
        logger.warning(
            "trajectory_id=<%s> | alpha has no failed state: the trajectory is sealed and gets no reward",
            metadata.trajectory_id,
        )
    return wire.completion_request(api, metadata.job_arn, metadata.trajectory_id, status)


def _log_repeated(call: Call, metadata: RolloutMetadata) -> None:
    # A seal may be someone else's, but then the reward will tell. For a reward nothing on the wire tells any more.
    logger.log(
        logging.INFO if call is Call.SEAL else logging.WARNING,
        "trajectory_id=<%s>, call=<%s> | answered with 409 after an attempt whose answer was lost; counts as delivered",
        metadata.trajectory_id,
        call.value,
    )


def _log_pause(call: Call, metadata: RolloutMetadata, attempt: int, seconds: float, error: ServiceError) -> None:
    logger.info(
        "trajectory_id=<%s>, call=<%s>, attempt=<%d> | failed, sent again in %.2f s: %s",
        metadata.trajectory_id,
        call.value,
        attempt,
        seconds,
        error,
    )
