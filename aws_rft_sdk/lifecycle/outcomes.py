"""What became of a rollout, and how one process tells another about it.

Engines make it of a handler that ran here. Children, actors and workers send it as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aws_rft_sdk._frozen import JSON, FrozenDict, freeze, thaw
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.errors import RolloutTimeoutError
from aws_rft_sdk.failures import (
    FailureKind,
    RolloutStatus,
    describe_error,
    describe_traceback,
    error_type,
    failure_kind,
)
from aws_rft_sdk.lifecycle.calling import Ended
from aws_rft_sdk.types import RolloutResult, parse_rewards

_NUMBERS = {
    "turns": "turns",
    "seconds": "seconds",
    "unsureTurns": "unsure_turns",
    "refusedCalls": "refused_calls",
    "foreignCalls": "foreign_calls",
}
"""Fields that are numbers, by their names in JSON."""


@dataclass(frozen=True)
class RolloutOutcome:
    """What became of one rollout, as far as the engine knows. Made of JSON, so that it travels between processes."""

    status: RolloutStatus
    rewards: tuple[float, ...] | None = None
    """What was delivered: one number, or one for each turn; None for no reward."""
    turns: int = 0
    unsure_turns: int = 0
    refused_calls: int = 0
    foreign_calls: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, JSON] = field(default_factory=FrozenDict)
    state: JSON = None
    """Final state of the environment; None if the handler gave none."""
    error: str | None = None
    """Type and message of what was raised; None when nothing was."""
    traceback: str | None = None
    """Where it was raised, at most 20,000 characters; None when nobody knows."""
    failure: FailureKind | None = None
    """Why it failed or was not reported; None if it completed."""
    lost: bool = False
    """Whether the engine lost sight of the rollout: the runtime may know more."""

    @classmethod
    def broken(
        cls, error: BaseException | str, *, lost: bool = False, turns: int = 0, seconds: float = 0.0
    ) -> RolloutOutcome:
        """Return the outcome of a rollout that infrastructure broke and that nobody reported."""
        text, trace = (error, None) if isinstance(error, str) else (describe_error(error), describe_traceback(error))
        kind, status = FailureKind.INFRASTRUCTURE, RolloutStatus.UNREPORTED
        return cls(status, failure=kind, error=text, traceback=trace, lost=lost, turns=turns, seconds=seconds)

    def to_fields(self) -> dict[str, JSON]:
        """Return the outcome as a JSON object, without `lost`: the process that ran the rollout has not lost it."""
        kind = error_type(self.error)
        message = self.error if kind is None or self.error is None else self.error.removeprefix(f"{kind}: ")
        return {
            "status": self.status.value,
            "rewards": self.rewards,
            "errorType": kind,
            "errorMessage": message,
            "traceback": self.traceback,
            "failure": None if self.failure is None else self.failure.value,
            "metrics": thaw(self.metrics),
            "state": thaw(self.state),
            **{name: getattr(self, field) for name, field in _NUMBERS.items()},
        }

    @classmethod
    def of_fields(cls, fields: Mapping[str, JSON]) -> RolloutOutcome:
        """Return the outcome that `to_fields` of another process has told.

        Raises:
            ValueError: Another program has told it.
        """
        kind, message, rewards = fields.get("errorType"), fields.get("errorMessage"), fields.get("rewards")
        status, metrics = RolloutStatus(fields.get("status")), fields.get("metrics")
        failure = FailureKind(fields.get("failure") or FailureKind.AGENT)
        return cls(
            status,
            rewards=None if rewards is None else parse_rewards(rewards),
            metrics=FrozenDict(metrics if isinstance(metrics, Mapping) else {}),
            state=freeze(fields.get("state")),
            error=message if kind is None else f"{kind}: {message}",
            traceback=fields.get("traceback"),
            failure=None if status is RolloutStatus.COMPLETED else failure,
            **{field: _number(fields.get(name)) for name, field in _NUMBERS.items()},
        )


def outcome_of(ended: Ended) -> RolloutOutcome:
    """Return what became of a rollout whose handler ran in this process."""
    context, error = ended.context, ended.error
    rewards = context.rewards if context is not None else None
    sealed_as_failed = context is not None and context.completion == "failed"
    if rewards is None and not sealed_as_failed:
        status = RolloutStatus.UNREPORTED
    else:
        status = RolloutStatus.COMPLETED if error is None else RolloutStatus.FAILED
    turns = context.turns if context is not None else None
    return RolloutOutcome(
        status=status,
        rewards=rewards,
        turns=turns.tracked if turns is not None else 0,
        unsure_turns=turns.unsure if turns is not None else 0,
        refused_calls=turns.failed - turns.unsure if turns is not None else 0,
        foreign_calls=0 if context is None else context.foreign_calls,
        seconds=ended.seconds,
        metrics=metrics_of(ended.result),
        state=state_of(ended.result),
        error=_explanation(context, status, error),
        traceback=None if error is None else describe_traceback(error),
        failure=_failure(context, status, error),
    )


def _failure(context: RFTContext | None, status: RolloutStatus, error: BaseException | None) -> FailureKind | None:
    if status is RolloutStatus.COMPLETED:
        return None
    if context is None and isinstance(error, RolloutTimeoutError):
        return FailureKind.INFRASTRUCTURE  # its deadline passed before it began: it was starved
    return FailureKind.AGENT if error is None else failure_kind(error)


def metrics_of(result: object) -> Mapping[str, JSON]:
    """Return the metrics in a handler's result as JSON; what is no JSON becomes text."""
    metrics = _field(result, "metrics")
    return _as_json("metrics", metrics) if isinstance(metrics, Mapping) and metrics else FrozenDict()


def state_of(result: object) -> JSON:
    """Return the final state in a handler's result as JSON; what is no JSON becomes text. None if there is none."""
    state = _field(result, "state")
    return None if state is None else _as_json("state", state)


def _field(result: object, name: str) -> Any:
    if isinstance(result, RolloutResult):
        return getattr(result, name)
    return result.get(name) if isinstance(result, Mapping) else None


def _as_json(name: str, value: JSON) -> JSON:
    # By way of JSON, so that the record is the same whether or not it has crossed from another process.
    try:
        return freeze(json.loads(json.dumps(thaw(value), default=str, skipkeys=True), parse_constant=str))
    except Exception as error:  # what is in it is the user's, and so is how it becomes text
        return FrozenDict({"error": f"the {name} cannot be written as JSON: {describe_error(error)}"})


def _explanation(context: RFTContext | None, status: RolloutStatus, error: BaseException | None) -> str | None:
    if error is not None:
        return describe_error(error)
    if status is not RolloutStatus.UNREPORTED:
        return None
    if context is None:
        return "the handler bound no rollout; decorate it with rft_handler"
    return "the handler returned without a reward (reward='deferred')"


def _number(value: JSON) -> Any:
    return value if isinstance(value, int | float) else 0
