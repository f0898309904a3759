"""What a pool remembers of rollouts that ended, for repeated deliveries and for `GET /rollout/<id>`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from aws_rft_sdk._frozen import FrozenDict
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.lifecycle.calling import Ended
from aws_rft_sdk.lifecycle.one_rollout import result_of
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome, outcome_of
from aws_rft_sdk.types import RolloutRequest

WHOLE = 100
"""How many outcomes are remembered with prompt and result."""
_LARGEST_METRICS = 4096
"""Characters of metrics that are remembered beyond that."""

Key = tuple[str, str]
"""Job and trajectory id."""


class Remembered(NamedTuple):
    """A rollout that has ended."""

    ended: Ended
    """What a repeated delivery has to know."""
    outcome: RolloutOutcome
    """What a record of the rollout has to know."""

    @classmethod
    def of(cls, ended: Ended) -> Remembered:
        """Return what is to be remembered. Runs code of the user: metrics become text."""
        return cls(ended, outcome_of(ended))


class Memory:
    """The outcomes of the trajectories that ended last. The owner locks.

    Prompts and results may be megabytes each, so only the last hundred are kept with theirs.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._outcomes: OrderedDict[Key, Remembered] = OrderedDict()
        self._whole: deque[Key] = deque()

    def add(self, key: Key, remembered: Remembered) -> None:
        """Remember a rollout. If it had ended before, unreported, that is forgotten."""
        self._outcomes[key] = remembered
        self._outcomes.move_to_end(key)
        self._whole.append(key)
        if len(self._whole) > WHOLE:
            old = self._whole.popleft()
            if old in self._outcomes:
                self._outcomes[old] = _summary_of(self._outcomes[old])
        while len(self._outcomes) > self._size:
            self._outcomes.popitem(last=False)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._outcomes)

    def find(self, key: Key) -> Remembered | None:
        """Return what became of a rollout, and forget it later than others. Returns None if it is not known."""
        if key not in self._outcomes:
            return None
        self._outcomes.move_to_end(key)
        return self._outcomes[key]


def _summary_of(remembered: Remembered) -> Remembered:
    """Return what a later delivery has to know: the result is the reward, as when an outbox knows the rollout."""
    ended, outcome = remembered
    metrics = FrozenDict() if len(str(outcome.metrics)) > _LARGEST_METRICS else outcome.metrics
    outcome = replace(outcome, traceback=None, metrics=metrics)
    before = ended.context
    if before is None:
        return Remembered(ended._replace(result=None), outcome)
    context = RFTContext(RolloutRequest(None, before.metadata))
    context.holder, context.outcome = before.holder, before.outcome
    result = result_of(before.decision) if ended.error is None else None
    return Remembered(ended._replace(result=result, context=context), outcome)
