"""Rewards of single turns: an outcome discounted back over them, and what each turn contributed to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.rewards._checks import check_reward, check_single_reward
from aws_rft_sdk.rewards.combine import Combination, Score
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, AnyReward, Component, Reward, RewardResult, Rollout, evaluate


def discount_back(outcome: float, turns: int, discount: float) -> tuple[float, ...]:
    """Return outcome * discount^(turns - 1 - t) for each turn t, in order: the last turn gets the outcome itself.

    Raises `ConfigurationError` if the discount is not from 0 to 1.

    Example:
        >>> discount_back(1.0, 3, 0.5)
        (0.25, 0.5, 1.0)
    """
    _check_discount(discount)
    return tuple(outcome * discount ** (turns - 1 - turn) for turn in range(turns))


def returns_to_go(rewards: Sequence[float], discount: float = 1.0) -> tuple[float, ...]:
    """Return G_t = r_t + discount * G_(t+1) for each turn, in order (Sutton and Barto, Reinforcement Learning, 3.3).

    Raises `ConfigurationError` if the discount is not from 0 to 1.

    Example:
        >>> returns_to_go([0.0, 0.5, 1.0])
        (1.5, 1.5, 1.0)
    """
    _check_discount(discount)
    following = itertools.accumulate(reversed(rewards), lambda later, reward: reward + discount * later)
    return tuple(following)[::-1]


@dataclass(frozen=True)
class Discounted(Combination):
    """The reward of a rollout, discounted back over its turns. The aggregate stays the reward of the rollout.

    A rollout without turns gets no rewards of turns. None stays None.

    Raises:
        ConfigurationError: The discount is not from 0 to 1.
    """

    reward: AnyReward
    discount: float = 0.95
    _parts = ("reward",)

    def __post_init__(self) -> None:
        _check_discount(self.discount)
        check_reward(self.reward)

    def _combine(self, score: Score, rollout: Rollout) -> RewardResult:
        result, turns = score(self.reward), len(rollout.turns)
        per_turn = discount_back(result.reward, turns, self.discount) if result.reward is not None and turns else None
        return RewardResult(result.reward, result.components, per_turn)


@dataclass(frozen=True)
class TurnCredit:
    """What each turn contributed: r_t = R(up to turn t) - R(up to turn t - 1), `start` being R of nothing.

    A turn includes the results of its tools. The differences add up to R of the whole minus `start` (Ng, Harada and
    Russell, 1999), so a lost rollout cannot collect credit on the way. The aggregate is R of the whole.

    Raises:
        ConfigurationError: The discount is not from 0 to 1, `start` is not finite, or the reward only scores groups.
    """

    reward: Reward
    """R. It has to be able to judge a rollout that has not ended."""
    start: float = field(default=0.0, kw_only=True)
    """R before the first turn."""
    discount: float | None = field(default=None, kw_only=True)
    """When given, each turn gets the discounted sum of its own and all later credit (`returns_to_go`)."""

    def __post_init__(self) -> None:
        if self.discount is not None:
            _check_discount(self.discount)
        check_single_reward(self.reward, "TurnCredit")
        check_number("start", self.start)

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the reward with one number for each turn; None when it cannot be judged after one of the turns."""
        before, result = self.start, RewardResult(None)
        credit: list[float] = []
        for prefix in prefixes(rollout):
            result = evaluate(self.reward, prefix)
            if result.reward is None:
                return RewardResult(None, result.components)
            credit.append(result.reward - before)
            before = result.reward
        if not credit:
            return evaluate(self.reward, rollout)
        components = result.components
        if "largest_credit" not in {component.name for component in components}:
            components += (Component("largest_credit", max(credit), counts=False),)
        turns = tuple(credit) if self.discount is None else returns_to_go(credit, self.discount)
        return RewardResult(result.reward, components, turns)


def prefixes(rollout: Rollout) -> tuple[Rollout, ...]:
    """Return the rollout as it stood after each turn and its tool results, in order; the last is the whole of it."""
    starts = [index for index, message in enumerate(rollout.messages) if message.get("role") in ASSISTANT_ROLES]
    ends = [*starts[1:], len(rollout.messages)] if starts else []
    return tuple(replace(rollout, messages=rollout.messages[:end]) for end in ends)


def _check_discount(discount: float) -> None:
    check_number("discount", discount, low=0, high=1)
