"""What a driver needs of a runtime: to start rollouts, and to see what became of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.types import TrajectoryStatus

Start = Callable[[str], Mapping[str, Any]]
"""Starts a rollout of a prompt: tells the runtime, and returns the payload for the agent. May block."""

_OVER = (TrajectoryStatus.REWARD_RECEIVED, TrajectoryStatus.FAILED)


@dataclass(frozen=True)
class Observation:
    """What a runtime knows about a rollout at one moment."""

    status: TrajectoryStatus
    rewards: tuple[float, ...] | None = None
    """One number, or one for each turn; None before the reward arrived."""
    turns: int = 0
    """Turns recorded."""
    prompt_tokens: tuple[int, ...] | None = None
    """Tokens of the request of each turn; None when the policy did not say, of any turn."""
    response_tokens: tuple[int, ...] | None = None
    """Tokens of the answer of each turn; None when the policy did not say, of any turn."""
    seconds: float = 0.0
    """From the creation of the trajectory to the end of its last turn."""

    @property
    def is_over(self) -> bool:
        """Whether the runtime has been told how the rollout ended."""
        return self.status in _OVER

    @classmethod
    def parse(cls, fields: Mapping[str, JSON]) -> Observation:
        """Read what `LocalRuntime.observe` returns."""
        usage = fields.get("usage") or ()
        rewards = fields.get("rewards")
        return cls(
            status=TrajectoryStatus(fields["status"]),
            rewards=None if rewards is None else tuple(rewards),
            turns=fields["turns"],
            prompt_tokens=_tokens(usage, "prompt_tokens"),
            response_tokens=_tokens(usage, "completion_tokens"),
            seconds=fields.get("seconds") or 0.0,
        )


Observe = Callable[[str], Awaitable[Observation | None]]
"""Looks at the rollout with this trajectory id; None when the runtime does not know it."""


@dataclass(frozen=True)
class Access:
    """A runtime, as far as a driver needs it."""

    start: Start
    observe: Observe | None = None
    """None when the runtime does not show what became of a rollout: the service's does not."""
    endpoint: str | None = None
    """URL that payloads name, of a runtime that the operator named. None for a runtime of this process."""


def _tokens(usage: tuple[JSON, ...], name: str) -> tuple[int, ...] | None:
    counts = [item.get(name) if isinstance(item, Mapping) else None for item in usage]
    known = tuple(count for count in counts if isinstance(count, int) and not isinstance(count, bool))
    return known if known and len(known) == len(counts) else None
