"""What a worker of this package tells about a rollout: `workers.http` writes it, the HTTP engine reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON, FrozenDict
from aws_rft_sdk.failures import FailureKind, RolloutStatus
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.types import parse_rewards

WORKER_HEADER = "X-Rft-Worker"
"""On every answer of a worker: a random id of its process."""
RUNNING = "running"
"""`status` of a rollout that is not over. The other values are those of `RolloutStatus`."""
_NUMBERS = {
    "turns": "turns",
    "seconds": "seconds",
    "unsureTurns": "unsure_turns",
    "refusedCalls": "refused_calls",
    "foreignCalls": "foreign_calls",
}


class Told(NamedTuple):
    """What a worker has told about a rollout that is over."""

    outcome: RolloutOutcome
    raised: bool
    """Whether the handler raised. If it did not and nothing was reported, the reward may still arrive."""


def tell(trajectory_id: str, outcome: RolloutOutcome | None, error: BaseException | None) -> dict[str, JSON]:
    """Return what a worker answers about a rollout.

    Args:
        trajectory_id: The rollout.
        outcome: What became of it. None while it is running.
        error: What its handler raised. None if it raised nothing.
    """
    error_type = None if error is None else type(error).__name__
    fields = RolloutOutcome(RolloutStatus.UNREPORTED).to_fields() if outcome is None else outcome.to_fields()
    message = fields["error"]
    return {
        "status": RUNNING if outcome is None else fields["status"],
        "trajectoryId": trajectory_id,
        "errorType": error_type,
        "errorMessage": message if error_type is None else message.removeprefix(f"{error_type}: "),
        **{name: fields[name] for name in ("traceback", "rewards", "failure", "metrics")},
        **{name: fields[field] for name, field in _NUMBERS.items()},
    }


def read_told(value: JSON, trajectory_id: str) -> Told | None:
    """Read what `tell` has written. Returns None if the rollout is running.

    Raises:
        ValueError: Another program has written it.
    """
    if not isinstance(value, Mapping) or value.get("trajectoryId") != trajectory_id:
        raise ValueError("this is no answer about the rollout")
    if value.get("status") == RUNNING:
        return None
    error_type, message, rewards = value.get("errorType"), value.get("errorMessage"), value.get("rewards")
    status, failure = RolloutStatus(value.get("status")), value.get("failure")
    kind = FailureKind.AGENT if failure is None else FailureKind(failure)
    metrics = value.get("metrics")
    outcome = RolloutOutcome(
        status,
        rewards=None if rewards is None else parse_rewards(rewards),
        metrics=FrozenDict(metrics if isinstance(metrics, Mapping) else {}),
        error=message if error_type is None else f"{error_type}: {message}",
        traceback=value.get("traceback"),
        failure=None if status is RolloutStatus.COMPLETED else kind,
        **{field: _number(value.get(name)) for name, field in _NUMBERS.items()},
    )
    return Told(outcome, error_type is not None)


def _number(value: JSON) -> Any:
    return value if isinstance(value, int | float) else 0
