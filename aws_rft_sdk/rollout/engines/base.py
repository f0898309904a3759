"""What an engine is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome

PATIENCE_SECONDS = 50.0
"""Without anything that runs rollouts. Then the whole run ends, within a minute of the failure."""


class Engine(ABC):
    """Runs rollouts. An asynchronous context manager: what it needs is started on entry and ended on exit."""

    @property
    def hung(self) -> int:
        """Threads that still run something of rollouts that are over, as far as the engine knows."""
        return 0

    @abstractmethod
    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run one rollout to its end, or to its deadline. Many run at once.

        Args:
            payload: What the service would send.
            trajectory_id: The trajectory that it names.

        Raises:
            CancelledError: The caller was cancelled. The rollout has ended, and is reported as an error if possible.
        """

    async def __aenter__(self) -> Engine:
        """Start what the engine needs.

        Raises:
            ConfigurationError: The engine cannot run rollouts. The text says why.
        """
        return self

    async def __aexit__(  # noqa: B027 - many engines have nothing to end
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what was started. Rollouts that still run are lost."""
