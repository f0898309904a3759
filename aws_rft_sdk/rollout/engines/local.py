"""In this process: coroutines in the event loop, all else in threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_rft_sdk.lifecycle.calling import Handler, run_handler
from aws_rft_sdk.rollout.engines.base import DEADLINE_SECONDS, Engine, RolloutOutcome, outcome_of


class LocalEngine(Engine):
    """Runs rollouts in this process: the cheapest way, for agents that mostly wait for the policy.

    Args:
        handler: A function decorated with `rft_handler`, of any kind.
        deadline_seconds: For each rollout; None for no deadline.
    """

    def __init__(self, handler: Handler, *, deadline_seconds: float | None = DEADLINE_SECONDS) -> None:
        self._handler = handler
        self._deadline_seconds = deadline_seconds

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run the handler. See `Engine.run`."""
        deadline = self._deadline_seconds
        return outcome_of(
            await run_handler(self._handler, payload, deadline_seconds=deadline, trajectory_id=trajectory_id)
        )
