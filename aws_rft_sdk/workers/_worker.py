"""The life that workers on queues share."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

from aws_rft_sdk.errors import ShuttingDownError
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS
from aws_rft_sdk.workers._intake import Intake
from aws_rft_sdk.workers.pool import LOST, RolloutPool

_WATCH_SECONDS = 0.5

W = TypeVar("W", bound="QueueWorker")


class QueueWorker(ABC):
    """Receives rollouts from queues and runs them in a pool, from `start` to `stop`. A context manager."""

    _pool: RolloutPool
    _intakes: Sequence[Intake]

    @abstractmethod
    def start(self: W) -> W:
        """Begin to receive rollouts. Once only."""

    @abstractmethod
    def stop(self, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Receive no more, let rollouts in progress end, and show again what was not begun. Blocks.

        Args:
            grace_seconds: For all of it.

        Returns:
            Whether every message was dealt with or shown again.
        """

    def run(self, until: threading.Event, grace_seconds: float = GRACE_SECONDS) -> None:
        """Work until the event is set, then `stop`.

        Raises:
            ConfigurationError: There is no such queue.
            ShuttingDownError: So many threads hang that this process should be replaced. What else ran has ended.
        """
        stuck = False
        self.start()
        try:
            while not until.wait(_WATCH_SECONDS) and all(intake.is_alive for intake in self._intakes) and not stuck:
                stuck = self._pool.should_end
        finally:
            self.stop(self._pool.ending_seconds(grace_seconds) if stuck else grace_seconds)
        for intake in self._intakes:
            if intake.error is not None:
                raise intake.error
        if stuck:
            raise ShuttingDownError(LOST)

    def __enter__(self: W) -> W:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
