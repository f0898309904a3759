"""What a pool remembers of the rollouts that ended, for deliveries that come again."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.lifecycle.calling import Ended
from aws_rft_sdk.lifecycle.one_rollout import result_of
from aws_rft_sdk.types import RolloutRequest

WHOLE = 100
"""How many outcomes are remembered with prompt and result."""


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
    context.holder, context.outcome = before.holder, before.outcome
    return ended._replace(result=result_of(before.decision) if ended.error is None else None, context=context)
