"""What became of a rollout that a pool ran, and the figures of a pool."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from aws_rft_sdk.errors import RolloutTimeoutError
from aws_rft_sdk.lifecycle.calling import Ended
from aws_rft_sdk.wire import FAILED

logger = logging.getLogger(__name__)

_REPORTED = ("completed", "deferred", "failed", "repeated")


class Figures(NamedTuple):
    """What a pool is doing, and what it has done since it was made."""

    running: int
    """Rollouts and calls in progress."""
    hung: int
    """Threads that still run although their rollout is over. They run functions that missed their deadline, which keep
    their slots, and tools of coroutine handlers, which do not."""
    free: int
    """How many more may begin now."""
    draining: bool
    stalled_seconds: float
    """For how long the event loop of the handlers has not moved: some handler blocks it. 0 when it moves."""
    started: int
    repeated: int
    refused: int
    """Refused since there was no free slot."""
    ended: Mapping[str, int]
    """By outcome: "completed", "failed" (reported as an error), "late" (past its deadline), "unreported"."""


def is_settled(ended: Ended) -> bool:
    """Return whether nothing is left to do for a rollout: the runtime knows how it ended, or an outbox will tell it.

    A rollout that is not settled may be delivered again, to this process or to another.
    """
    context = ended.context
    if context is None:  # nobody decorated the handler
        return False
    if context.outcome is not None:
        return context.outcome in _REPORTED
    # It was bound by hand.
    return ended.error is None or context.rewards is not None or context.completion == FAILED


def counted_as(ended: Ended) -> str:
    """Return the key of `Figures.ended` that counts a rollout."""
    if not is_settled(ended):
        return "unreported"
    if ended.error is None:
        return "completed"
    return "late" if isinstance(ended.error, RolloutTimeoutError) else "failed"


def log_outcome(trajectory_id: str, ended: Ended) -> None:
    """Write to the log what went wrong with a rollout, if anything did."""
    if ended.error is not None:
        logger.warning(
            "trajectory_id=<%s>, error=<%s>, outcome=<%s> | the rollout failed: %s",
            trajectory_id,
            type(ended.error).__name__,
            counted_as(ended),
            ended.error,
            exc_info=ended.error if ended.error.__traceback__ is not None else None,
        )
    elif not is_settled(ended):
        logger.error(
            "trajectory_id=<%s> | the handler bound no rollout, so nothing was reported: decorate it with rft_handler",
            trajectory_id,
        )
