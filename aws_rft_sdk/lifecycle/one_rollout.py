"""The life of one rollout in a handler: what is decided, in which order, and what is reported.

It is written once, without knowing what kind of function runs; `handler` drives each kind through it.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from aws_rft_sdk import telemetry
from aws_rft_sdk._decision import Decision, TrajectoryOutcome
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.client import Rewards, RolloutFeedbackClient
from aws_rft_sdk.context import RFTContext, active
from aws_rft_sdk.errors import (
    CredentialsError,
    NoTrackedTurnsError,
    RewardError,
    ServiceError,
    ShuttingDownError,
)
from aws_rft_sdk.failures import FailureKind, note_kind
from aws_rft_sdk.feedback import redrive
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.lifecycle.options import FeedbackClient, Options
from aws_rft_sdk.types import RolloutResult, parse_rewards
from aws_rft_sdk.wire import FAILED

logger = logging.getLogger(__name__)


_NO_TRACKED_TURNS = (
    "no inference call of trajectory {} carried its headers and reached the policy, and the service fails the whole "
    "job on such a rollout. Usually the model is not wrapped: use wrap_model(model). A thread of your own needs "
    "RFTContext.carry. A process of your own, and inference tracked elsewhere, need require_turns=False"
)


class Rollout:
    """One run of a handler: what is decided, in which order, and what is reported."""

    def __init__(self, options: Options, context: RFTContext, client: FeedbackClient) -> None:
        self._options = options
        self._client = client
        self._process = os.getpid()
        self._claimed = False  # by the first of `finished` and `failed`, which a shutdown may call meanwhile
        self._ended = threading.Event()
        self._span = telemetry.start_rollout(context.request)
        self.context = context
        """The rollout in progress."""
        context.own_span_id = telemetry.span_id(self._span)
        self.repeated: RolloutResult | None = None
        """What was decided when the trajectory was delivered before; None when the function is to run."""

    @property
    def outbox(self) -> Outbox | None:
        """What `received` writes to; None without an outbox."""
        return self._client.outbox if isinstance(self._client, RolloutFeedbackClient) else None

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Make this the current rollout, for context and telemetry."""
        with RFTContext.bind(self.context), telemetry.current(self._span):
            yield

    def active(self) -> AbstractContextManager[RFTContext]:
        """Let clients in any thread find this rollout, also while it is not the current one."""
        return active(self.context)

    def received(self) -> None:
        """Enter the trajectory in the outbox, if there is one. Blocks; comes before the function runs.

        If the trajectory was decided before, this ends the rollout. Then `repeated` is what the handler returns.

        Raises:
            ShuttingDownError: This process begins no more rollouts.
            OutboxError: The outbox cannot be written.
        """
        try:
            self._begin()
            if self.outbox is not None:
                self._look_up(cast(RolloutFeedbackClient, self._client), self.outbox)
        except BaseException as error:
            self._claim()
            self._end("refused" if isinstance(error, ShuttingDownError) else "unreported", error)
            raise

    def _begin(self) -> None:
        with _running_lock:
            if not _stopping.is_set():
                _running.add(self)
                return
        raise ShuttingDownError(
            f"this process is shutting down; deliver trajectory {self.context.trajectory_id} to another one"
        )

    def _look_up(self, client: RolloutFeedbackClient, outbox: Outbox) -> None:
        decision = client.receive()
        self.context.holder = client.holder
        redrive.start_in_background(outbox)
        # Sealed, and then the process was killed before there was a reward: there is no way to more turns, but whatever
        # the function returns or raises still gives the trajectory a reward. So it runs again.
        if decision.rewards is None and decision.completion != FAILED:
            return
        self.repeated = result_of(decision)
        if decision.outcome is TrajectoryOutcome.PENDING:
            self._tolerate(client.deliver_outstanding)
        self.finished(None)

    def finished(self, result: object) -> None:
        """Validate and report what the function returned. Blocks until it is delivered, or safe in the outbox."""
        if not self._may_report():
            return
        with self.active():  # a repeated one was never bound, and yet whoever collects contexts is to learn of it
            if self.repeated is not None:
                self._end("repeated")
                return
            try:
                rewards = self._judge(result)
                if rewards is not None:
                    self._tolerate(functools.partial(self._deliver, rewards))
            except BaseException as error:
                self._end("unreported", error)
                raise
            self._end("completed" if rewards or self.context.decision.rewards else "deferred")

    def failed(self, error: BaseException) -> bool:
        """Report that the function raised. Blocks until it is delivered; what goes wrong is attached to `error`.

        A `RewardError` is not reported: what cannot be judged gets no floor, wherever in the handler that is noticed.

        Returns:
            False if the rollout had ended before, or the function had. What it reports is delivered then. Else True.
        """
        if not self._may_report():
            return False
        with self.active():
            if self.repeated is not None:
                self._end("repeated")
                return True
            if isinstance(error, RewardError):
                self._end("unreported", error)
                return True
            note_kind(error)
            try:
                self._tolerate(functools.partial(self._report_failure, error))
            except BaseException as reporting:
                logger.error(
                    "trajectory_id=<%s>, error=<%s>, reporting_error=<%s> | the failure could not be reported",
                    self.context.trajectory_id,
                    type(error).__name__,
                    reporting,
                )
                _attach(error, reporting)
                self._end("unreported", error)
                if not isinstance(reporting, Exception):
                    raise
            else:
                self._end("failed", error)
        return True

    def _judge(self, result: object) -> tuple[float, ...] | None:
        """Return the rewards to deliver, None when there is nothing left to deliver."""
        outcome = RolloutResult.of(result)
        if self._has_decided():
            self._note_untracked()
            return None
        if outcome is None or outcome.rewards is None:
            if self._options.deferred:
                return None
            raise RewardError(
                f"the handler returned no reward for trajectory {self.context.trajectory_id}: return {{'reward': x}}, "
                "a number or a RolloutResult, report with RolloutFeedbackClient, or decorate with reward='deferred'"
            )
        if self._options.require_turns:
            if not self.context.turns.tracked:
                telemetry.count_untracked()
                untracked = NoTrackedTurnsError(_NO_TRACKED_TURNS.format(self.context.trajectory_id))
                # Calls that carried the headers, and were all turned away, are no fault of the agent.
                note_kind(untracked, FailureKind.INFRASTRUCTURE if self.context.turns.failed else None)
                raise untracked
            self.context.check_turn_rewards(outcome.rewards)
        return outcome.rewards

    def _report_failure(self, error: BaseException) -> None:
        decided = self._has_decided()
        self._note_untracked()
        if decided:
            return
        on_error = self._options.on_error
        reward: Rewards | None = self._options.floor_reward if on_error == "floor" else None
        if callable(on_error):
            reward = on_error(error)
        if self.context.completion is None:
            self._client.report_error(error, reward)
        elif reward is not None:
            self._client.update_reward(parse_rewards(reward))

    def _has_decided(self) -> bool:
        """Whether the function has reported by itself. What of that did not get through is sent now.

        Nothing else may be said then. What the runtime refused was not taken, so it does not count.
        """
        decision = self.context.decision
        if decision.is_refused or (decision.rewards is None and decision.completion != FAILED):
            return False
        if decision.outcome is TrajectoryOutcome.PENDING:
            if isinstance(self._client, RolloutFeedbackClient):
                self._tolerate(self._client.deliver_outstanding)
            elif decision.rewards is not None:
                self._deliver(decision.rewards)
        return True

    def _note_untracked(self) -> None:
        if self._options.require_turns and not self.context.turns.tracked:
            telemetry.count_untracked()
            logger.error("%s", _NO_TRACKED_TURNS.format(self.context.trajectory_id))

    def _may_report(self) -> bool:
        """Whether the caller is the one who decides and reports: the first to ask is, in the process that began it."""
        if os.getpid() != self._process:
            logger.warning(
                "trajectory_id=<%s>, process=<%d> | forked from the handler's process, so its outcome is not reported",
                self.context.trajectory_id,
                os.getpid(),
            )
            return False
        if self._claim():
            return True
        self._ended.wait()  # whoever asks what became of it shall know
        return False

    def _claim(self) -> bool:
        with _running_lock:
            claimed, self._claimed = self._claimed, True
        return not claimed

    def _deliver(self, rewards: tuple[float, ...]) -> None:
        if self.context.completion is None:
            self._client.report_complete(rewards)
        else:
            self._client.update_reward(rewards)

    def _tolerate(self, report: Callable[[], None]) -> None:
        """Report; what the outbox holds and a later attempt may deliver is no error."""
        try:
            report()
        except (ServiceError, CredentialsError) as error:
            if self.outbox is None or error.retry_safe is False:
                raise
            logger.warning(
                "trajectory_id=<%s>, error=<%s> | not delivered yet, the feedback stays in the outbox",
                self.context.trajectory_id,
                error,
            )

    def _end(self, outcome: str, error: BaseException | None = None) -> None:
        with _running_lock:
            _running.discard(self)
        context = self.context
        context.outcome = outcome
        telemetry.end_rollout(self._span, outcome, turns=context.turns, rewards=context.rewards, error=error)
        self._ended.set()


def result_of(decision: Decision) -> RolloutResult:
    """Return what a handler returns for a trajectory that was decided before."""
    rewards = decision.rewards or ()
    return RolloutResult(rewards[0]) if len(rewards) == 1 else RolloutResult(rewards=rewards or None)


def _attach(error: BaseException, reporting: BaseException) -> None:
    """Hang `reporting` at the end of the `__context__` chain of `error`, so that both are seen."""
    # It was raised while `error` was handled, so its own chain leads to `error`: cut it, or the chain would be a ring.
    link: BaseException = reporting
    while link.__context__ is not None and link.__context__ is not error:
        link = link.__context__
    link.__context__ = None
    tail = error
    seen = {id(error)}
    while tail.__context__ is not None and id(tail.__context__) not in seen:
        tail = tail.__context__
        seen.add(id(tail))
    tail.__context__ = reporting
    if hasattr(error, "add_note"):  # Python 3.11; a traceback does not show the chain of what was raised `from` another
        error.add_note(f"This could not be reported to the job runtime: {type(reporting).__name__}: {reporting}")


# --- all rollouts of the process -------------------------------------------------------------------------------------

_running: weakref.WeakSet[Rollout] = weakref.WeakSet()  # one that never ran, and is forgotten, is not running
_stopping = threading.Event()
# Reentrant, since the garbage collector reports a rollout that nobody awaits, whatever its thread was about to do.
_running_lock = threading.RLock()  # between the last look at the running ones and the first refusal none may slip in


def stop_beginning() -> None:
    """Refuse new rollouts in this process from now on."""
    with _running_lock:
        _stopping.set()


def begin_again() -> None:
    """Take `stop_beginning` back."""
    _stopping.clear()


def running() -> list[Rollout]:
    """Return the rollouts in progress in this process."""
    with _running_lock:
        return list(_running)


@in_forked_child
def _forget_after_fork() -> None:
    # The rollouts of the parent are not the child's, and nobody here would release the lock.
    global _running_lock
    _running_lock = threading.RLock()
    _running.clear()
