"""What a rollout's score is, from what its handler reported to the local runtime."""

from __future__ import annotations

import logging

from aws_rft_sdk.errors import RewardError
from aws_rft_sdk.lifecycle.calling import Ended
from aws_rft_sdk.types import RolloutResult
from aws_rft_sdk.wire import FAILED
from aws_rft_sdk.workers.nova_forge.messages import Task

logger = logging.getLogger(__name__)


def score_of(task: Task, rewards: tuple[float, ...] | None, ended: Ended) -> float | None:
    """Return the score of a rollout, within the range of its request.

    Args:
        task: The request.
        rewards: What the runtime was told.
        ended: What became of the handler.

    Returns:
        The reward; of several the `reward` of the result, else their sum. None for a rollout that failed and has no
        floor.

    Raises:
        RewardError: Nothing was reported.
    """
    if rewards is None:
        if ended.context is not None and ended.context.completion == FAILED:
            logger.error("sample_id=<%s> | the rollout failed and has no score", task.sample_id)
            return None
        why = "a reward cannot be deferred here" if ended.error is None else f"{type(ended.error).__name__}"
        raise RewardError(f"sample {task.sample_id}: the handler reported no reward: {why}")
    score = rewards[0] if len(rewards) == 1 else _total(rewards, ended.result)
    clipped = min(max(score, task.low), task.high)
    if clipped != score:
        logger.warning(
            "sample_id=<%s>, score=<%s>, range=<%s, %s> | the score is outside the range of the request; sent as %s",
            task.sample_id,
            score,
            task.low,
            task.high,
            clipped,
        )
    return clipped


def _total(rewards: tuple[float, ...], result: object) -> float:
    try:
        read = RolloutResult.of(result)
    except RewardError:
        read = None
    return read.reward if read is not None and read.reward is not None else sum(rewards)
