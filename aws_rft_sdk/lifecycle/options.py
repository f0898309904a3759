"""The options of `rft_handler`, and the feedback client of one rollout that follows from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, Protocol

from aws_rft_sdk.client import Rewards, RolloutFeedbackClient
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.types import RolloutRequest


class FeedbackClient(Protocol):
    """What the lifecycle needs of a client. `RolloutFeedbackClient` is one."""

    def report_complete(self, reward: Rewards) -> None:
        """Seal the trajectory and deliver its reward."""

    def update_reward(self, reward: Rewards) -> None:
        """Deliver the reward of a trajectory that is sealed already."""

    def report_error(self, error: BaseException | str, reward: Rewards | None = None) -> None:
        """Seal the trajectory and deliver the floor reward, or seal it as failed when `reward` is None."""


OnError = Literal["floor", "failed"] | Callable[[BaseException], Rewards | None]


class Options:
    """Options of one decorated function, and how a rollout of it begins."""

    def __init__(
        self,
        on_error: OnError,
        floor_reward: float,
        deferred: bool,
        client: FeedbackClient | Callable[[RolloutRequest], FeedbackClient] | None,
        require_turns: bool,
        outbox: Outbox | str | os.PathLike[str] | None,
    ) -> None:
        self.outbox = outbox
        self.on_error = on_error
        self.floor_reward = floor_reward
        self.deferred = deferred
        self.client = client
        self.require_turns = require_turns

    def client_for(self, request: RolloutRequest) -> FeedbackClient:
        """Return the feedback client of one rollout."""
        client = self.client
        if client is None:
            return RolloutFeedbackClient(request, outbox=self.outbox)
        if isinstance(client, type) or not hasattr(client, "report_complete"):
            return client(request)
        metadata = getattr(client, "metadata", None)
        if metadata is not None and metadata.trajectory_id != request.trajectory_id:
            raise ConfigurationError(
                f"client= is bound to trajectory {metadata.trajectory_id!r}, the payload is of "
                f"{request.trajectory_id!r}; pass a function that makes a client: client=RolloutFeedbackClient"
            )
        return client  # type: ignore[return-value] # it has the method that makes it a client
