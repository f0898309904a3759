"""What an outbox knows about the trajectories that were received. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from aws_rft_sdk._decision import Completion, Decision, Rewards, TrajectoryOutcome
from aws_rft_sdk.settings import Auth, Endpoint
from aws_rft_sdk.types import RolloutMetadata


@dataclass(frozen=True)
class Entry:
    """One trajectory in the ledger."""

    metadata: RolloutMetadata
    endpoint: Endpoint
    auth: Auth
    """How calls about it are authenticated."""
    decision: Decision = field(default_factory=Decision)
    """What was decided, and how far its two calls are."""
    attempts: int = 0
    """Deliveries that failed."""
    last_error: str | None = None
    received_at: float = 0.0
    """Seconds since the epoch."""
    next_attempt_at: float | None = None
    """Seconds since the epoch before which nobody delivers it unasked. None when no call is outstanding."""

    @property
    def outcome(self) -> TrajectoryOutcome:
        """What has become of it."""
        return self.decision.outcome

    @property
    def completion(self) -> Completion | None:
        """How it was decided to be sealed, None if it was not."""
        return self.decision.completion

    @property
    def rewards(self) -> Rewards | None:
        """The rewards that were decided, None while there are none."""
        return self.decision.rewards


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
