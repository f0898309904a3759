"""What a worker of this package tells about a rollout: `workers.http` writes it, the HTTP engine reads it."""

from __future__ import annotations

from collections.abc import Mapping

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.failures import RolloutStatus
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome

WORKER_HEADER = "X-Rft-Worker"
"""On every answer of a worker: a random id of its process."""
RUNNING = "running"
"""`status` of a rollout that is not over. The other values are those of `RolloutStatus`."""


def tell(trajectory_id: str, outcome: RolloutOutcome | None) -> dict[str, JSON]:
    """Return what a worker answers about a rollout. Its outcome is None while it is running."""
    fields = (outcome or RolloutOutcome(RolloutStatus.UNREPORTED)).to_fields()
    return {**fields, "trajectoryId": trajectory_id, "status": RUNNING if outcome is None else fields["status"]}


def read_told(value: JSON, trajectory_id: str) -> RolloutOutcome | None:
    """Read what `tell` has written. Returns None if the rollout is running.

    Raises:
        ValueError: Another program has written it.
    """
    if not isinstance(value, Mapping) or value.get("trajectoryId") != trajectory_id:
        raise ValueError("this is no answer about the rollout")
    return None if value.get("status") == RUNNING else RolloutOutcome.of_fields(value)
