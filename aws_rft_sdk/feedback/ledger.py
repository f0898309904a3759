"""What an outbox knows: trajectories that were received, and what has become of them. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from aws_rft_sdk.settings import Endpoint
from aws_rft_sdk.types import RolloutMetadata
from aws_rft_sdk.wire import FAILED


class Outcome(str, Enum):
    """What has become of a trajectory that was received. Each is in exactly one of these states."""

    OPEN = "open"
    """Not decided yet: its handler runs, was killed, or left the reward to someone else."""
    PENDING = "pending"
    """Decided, and the runtime has not confirmed it."""
    REWARDED = "rewarded"
    """The runtime has confirmed the reward."""
    FAILED = "failed"
    """It ended without a reward: as decided, or since the runtime refuses the feedback for good (`last_error`)."""


@dataclass(frozen=True)
class Entry:
    """One trajectory in the ledger."""

    metadata: RolloutMetadata
    endpoint: Endpoint
    auth: str
    """How calls about it are authenticated: "sigv4" or "bearer"."""
    completion: str | None = None
    """Decided status, "ready" or "failed"; None while there is none."""
    rewards: tuple[float, ...] | None = None
    """Decided rewards: one number, or one for each turn; None while there are none."""
    completion_delivered: bool = False
    maybe_sent: bool = False
    """Whether something of the decision may have reached the runtime without being confirmed."""
    refused: bool = False
    """Whether the runtime refuses the feedback for good."""
    attempts: int = 0
    """Deliveries that failed."""
    last_error: str | None = None
    received_at: float = 0.0
    """Seconds since the epoch."""
    next_attempt_at: float = 0.0
    """Seconds since the epoch before which nobody delivers it by himself."""
    ended_at: float | None = None
    """Seconds since the epoch when the runtime had confirmed everything; None before."""

    @property
    def outcome(self) -> Outcome:
        """What has become of it."""
        if self.ended_at is not None:
            return Outcome.FAILED if self.refused or self.rewards is None else Outcome.REWARDED
        if self.completion is None or (
            self.completion != FAILED and self.rewards is None and self.completion_delivered
        ):
            return Outcome.OPEN
        return Outcome.PENDING


class Ledger(NamedTuple):
    """All trajectories, counted: received = rewarded + failed + pending + open."""

    received: int
    rewarded: int
    failed: int
    pending: int
    open: int

    @property
    def balances(self) -> bool:
        """Whether the sums agree."""
        return self.received == self.rewarded + self.failed + self.pending + self.open
