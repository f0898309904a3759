"""What became of the rollouts that a pool ran, and the figures of a pool."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from aws_rft_sdk._running import Ended
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.errors import RolloutTimeoutError
from aws_rft_sdk.types import RolloutRequest, RolloutResult
from aws_rft_sdk.wire import FAILED

WHOLE = 100
"""How many outcomes are remembered with prompt and result."""
_REPORTED = ("completed", "deferred", "failed", "repeated")


class Figures(NamedTuple):
    """What a pool is doing, and what it has done since it was made."""

    running: int
    """Rollouts and calls in progress."""
    hung: int
    """Functions that still run although their rollout was given up at its deadline. Each holds a slot."""
    free: int
    """How many more may begin now."""
    draining: bool
    stalled_seconds: float
    """For how long the event loop of the handlers has not moved: some handler blocks it. 0 when it moves."""
    started: int
    repeated: int
    refused: int
    """Refused since there was no free slot."""
    ended: Mapping[str, int]
    """By outcome: "completed", "failed" (reported as an error), "late" (past its deadline), "unreported"."""


def is_settled(ended: Ended) -> bool:
    """Whether nothing is left to do for a rollout: the runtime knows what became of it, or an outbox will tell it.

    One that is not settled may be delivered again, to this process or to another.
    """
    context = ended.context
    if context is None:  # nobody decorated the handler
        return False
    if context.outcome is not None:
        return context.outcome in _REPORTED
    # It was bound by hand.
    return ended.error is None or context.rewards is not None or context.completion == FAILED


def outcome_of(ended: Ended) -> str:
    """Return the outcome under which `Figures.ended` counts it."""
    if not is_settled(ended):
        return "unreported"
    if ended.error is None:
        return "completed"
    return "late" if isinstance(ended.error, RolloutTimeoutError) else "failed"


class Memory:
    """The outcomes of the trajectories that ended last. The owner locks.

    Prompts and results may be megabytes each, so only the last hundred are kept with theirs.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._outcomes: OrderedDict[Hashable, Ended] = OrderedDict()
        self._whole: deque[Hashable] = deque()

    def add(self, key: Hashable, ended: Ended) -> None:
        """Remember a rollout that is settled."""
        self._outcomes[key] = ended
        self._whole.append(key)
        if len(self._whole) > WHOLE:
            old = self._whole.popleft()
            if old in self._outcomes:
                self._outcomes[old] = _summary_of(self._outcomes[old])
        while len(self._outcomes) > self._size:
            self._outcomes.popitem(last=False)

    def find(self, key: Hashable) -> Ended | None:
        """Return what became of it, None when it is not known. Then it is forgotten later than others."""
        if key not in self._outcomes:
            return None
        self._outcomes.move_to_end(key)
        return self._outcomes[key]


def _summary_of(ended: Ended) -> Ended:
    """Return what a later delivery has to know: the result is the reward, as when an outbox knows the rollout."""
    before = ended.context
    if before is None:
        return ended
    context = RFTContext(RolloutRequest(None, before.metadata))
    context.completion, context.outcome = before.completion, before.outcome
    context.rewards, context.decided = before.rewards, before.decided
    rewards = before.rewards or before.decided or ()
    result = RolloutResult.of({"reward": rewards[0]} if len(rewards) == 1 else {"rewards": rewards or None})
    return ended._replace(result=result if ended.error is None else None, context=context)
