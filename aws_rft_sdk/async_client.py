"""AsyncRolloutFeedbackClient: feedback for those who manage their own event loop."""

from __future__ import annotations

import functools
from typing import Any, Literal

from aws_rft_sdk._threads import off_the_loop
from aws_rft_sdk.client import Rewards, RolloutFeedbackClient


class AsyncRolloutFeedbackClient:
    """`RolloutFeedbackClient` with coroutine methods of the same names. The event loop is never blocked.

    A call runs in a thread and is not abandoned half-way: when its task is cancelled, it ends first. Arguments, errors
    and what is safe to repeat are those of `RolloutFeedbackClient`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = RolloutFeedbackClient(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Async{repr(self._client)[1:]}"

    @functools.wraps(RolloutFeedbackClient.complete_trajectory)
    async def complete_trajectory(self, status: Literal["ready", "failed"] = "ready") -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.complete_trajectory, status)

    complete_rollout = complete_trajectory

    @functools.wraps(RolloutFeedbackClient.update_reward)
    async def update_reward(self, reward_or_list: Rewards) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.update_reward, reward_or_list)

    @functools.wraps(RolloutFeedbackClient.report_complete)
    async def report_complete(self, reward_or_list: Rewards) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.report_complete, reward_or_list)

    @functools.wraps(RolloutFeedbackClient.report_error)
    async def report_error(self, error: BaseException, reward: Rewards | None = None) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.report_error, error, reward)
