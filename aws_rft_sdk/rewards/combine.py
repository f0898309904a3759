"""Rewards made of rewards. Each reports its parts as components of the result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards._checks import check_reward
from aws_rft_sdk.rewards.rollout import Component, Reward, RewardResult, Rollout, evaluate

Part = Union[Reward, "tuple[Reward, float]"]
"""A reward with the weight 1, or a reward and its weight."""


@dataclass(frozen=True)
class _Weighted:
    name: str
    reward: Reward
    weight: float


def _parts(parts: Mapping[str, Part]) -> tuple[_Weighted, ...]:
    weighted = []
    for name, part in parts.items():
        reward, weight = part if isinstance(part, tuple) else (part, 1.0)
        check_reward(reward, f"part {name!r}")
        check_number(f"the weight of {name!r}", weight)
        weighted.append(_Weighted(name, reward, float(weight)))
    return tuple(weighted)


def _sum(parts: Sequence[_Weighted], rollout: Rollout) -> tuple[float | None, tuple[Component, ...]]:
    """Return the weighted sum, None when a part that counts cannot be judged, and all that could be."""
    total: float | None = 0.0
    components: list[Component] = []
    terms = []
    for part in parts:
        result = evaluate(part.reward, rollout)
        if result.reward is None:
            total = None if part.weight else total
        else:
            components.append(Component(part.name, result.reward, counts=bool(part.weight)))
            terms.append(part.weight * result.reward)
        components += _inner(part.name, result)
    # fsum is exact, so that the order of the parts does not matter.
    return (None if total is None else math.fsum(terms)), tuple(components)


def _inner(name: str, result: RewardResult) -> list[Component]:
    return [Component(f"{name}/{item.name}", item.value, counts=False) for item in result.components]


class _Combination:
    """What all rewards made of rewards have in common."""

    def __call__(self, rollout: Rollout) -> RewardResult:
        raise NotImplementedError

    def _named_parts(self) -> Mapping[str, Reward]:
        """Return the rewards that this one is made of."""
        raise NotImplementedError

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return the reward of a text against a ground truth, None when it cannot be judged.

        Raises:
            ConfigurationError: A part looks at more than the text, so that it has no `score`; the message names it.
        """
        if path := _part_without_score(self):
            raise ConfigurationError(
                f"part {path!r} has no score: it looks at the whole rollout; call the reward with a Rollout"
            )
        return self(Rollout.of_answer(answer_text, ground_truth)).reward


def _part_without_score(combination: _Combination) -> str | None:
    for name, part in combination._named_parts().items():
        if isinstance(part, _Combination):
            if inner := _part_without_score(part):
                return f"{name}/{inner}"
        elif not callable(getattr(part, "score", None)):
            return name
    return None


class WeightedSum(_Combination):
    """The sum of w_i * r_i over the parts that count, clipped to a range where one is given.

    A part with the weight 0 is a metric: reported, and never part of the reward. When a part that counts cannot be
    judged, neither can the sum: None. Components carry the values of the parts before weighting. Rewards of single
    turns that a part has are not combined: put `Discounted` or `TurnCredit` around the sum.

    Raises:
        ConfigurationError: There is no part that counts, a part is no reward, a weight is not finite, or the
            range is empty.

    Example:
        >>> both = WeightedSum({"correct": (gsm8k, 1.0), "format": (FinalAnswerLine(), 0.1)})
        >>> both(Rollout.of_answer("#### The final answer is 4", 4)).reward
        1.1
    """

    def __init__(self, parts: Mapping[str, Part], *, clip: tuple[float, float] | None = None) -> None:
        self.parts = _parts(parts)
        self.clip = _range(clip) if clip else None
        if not any(part.weight for part in self.parts):
            raise ConfigurationError("a weighted sum needs a part with a weight other than 0")

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the sum with its parts as components."""
        total, components = _sum(self.parts, rollout)
        if total is not None and self.clip:
            total = min(max(total, self.clip[0]), self.clip[1])
        return RewardResult(total, components)

    def _named_parts(self) -> Mapping[str, Reward]:
        return {part.name: part.reward for part in self.parts}


class Clip(_Combination):
    """A reward, clipped to a range. None stays None.

    Raises:
        ConfigurationError: The range is empty or not finite.
    """

    def __init__(self, reward: Reward, low: float, high: float) -> None:
        check_reward(reward)
        self.reward = reward
        self.low, self.high = _range((low, high))

    def _named_parts(self) -> Mapping[str, Reward]:
        return {"reward": self.reward}

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the clipped reward; components and rewards of turns stay as they are."""
        result = evaluate(self.reward, rollout)
        if result.reward is None:
            return result
        return RewardResult(min(max(result.reward, self.low), self.high), result.components, result.turns_rewards)


class Gate(_Combination):
    """A reward that is only given when a condition is met.

    A gated bonus tells a policy nothing about how to open the gate: prefer a small ungated part for what leads there.

    Raises:
        ConfigurationError: `threshold` or `otherwise` is no finite number.

    Example:
        >>> reward = Gate(Format.tags("answer"), gsm8k, otherwise=-0.1)
    """

    def __init__(self, condition: Reward, reward: Reward, *, threshold: float = 0.5, otherwise: float = 0.0) -> None:
        check_reward(condition, "the condition")
        check_reward(reward)
        check_number("threshold", threshold)
        check_number("otherwise", otherwise)
        self.condition = condition
        self.reward = reward
        self.threshold = threshold
        self.otherwise = otherwise

    def _named_parts(self) -> Mapping[str, Reward]:
        return {"condition": self.condition, "reward": self.reward}

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the reward, `otherwise` below the threshold; None when what was asked cannot be judged."""
        condition = evaluate(self.condition, rollout)
        if condition.reward is None:
            return RewardResult(None, tuple(_inner("gate", condition)))
        is_open = condition.reward >= self.threshold
        components = [Component("gate", float(is_open), counts=False), *_inner("gate", condition)]
        if not is_open:
            return RewardResult(self.otherwise, tuple(components))
        result = evaluate(self.reward, rollout)
        taken = {component.name for component in components}
        for item in result.components:  # those of a gate behind this gate have the same names
            name = item.name
            while name in taken:
                name = f"inner/{name}"
            taken.add(name)
            components.append(Component(name, item.value, item.counts))
        return RewardResult(result.reward, tuple(components), result.turns_rewards)


class DominantOutcome(_Combination):
    """An outcome with few levels, plus shaping so small that it never reorders them.

    reward = outcome + min(max(sum of w_i * s_i, -b), b), b being the bound at the outcome's tier. At construction,
    t + b(t) < u - b(u) is checked for all tiers t < u, and that no tier straddles the success threshold. Without this
    check a published game reward let slow and fast wins swap places, and a slow win fall below the threshold.

    Args:
        outcome: A reward that gives one of the tiers and nothing else.
        shaping: Its parts, as in `WeightedSum`.
        tiers: All values of the outcome.
        bound: Largest amount by which shaping moves a reward: one for all tiers, or one for each.
        success_threshold: What a job counts as a success; None when that does not matter.

    Raises:
        ConfigurationError: Shaping could reorder two tiers, or carry one across the threshold; the message says which.

    Example:
        >>> DominantOutcome(gsm8k, {"short": Length(200, 400)}, tiers=(0.0, 1.0), bound=0.1).bounds
        {0.0: 0.1, 1.0: 0.1}
    """

    def __init__(
        self,
        outcome: Reward,
        shaping: Mapping[str, Part],
        *,
        tiers: Sequence[float] = (0.0, 1.0),
        bound: float | Mapping[float, float] = 0.1,
        success_threshold: float | None = None,
    ) -> None:
        check_reward(outcome, "the outcome")
        self.outcome = outcome
        self.shaping = _parts(shaping)
        if taken := {"outcome", "shaping"} & set(shaping):
            raise ConfigurationError(f"a part of the shaping needs another name than {min(taken)!r}")
        self.bounds = _bounds(tiers, bound)
        if success_threshold is not None:
            check_number("success_threshold", success_threshold)
        _check_tiers(self.bounds, success_threshold)

    def _named_parts(self) -> Mapping[str, Reward]:
        return {"outcome": self.outcome, **{part.name: part.reward for part in self.shaping}}

    @property
    def shaping_bound(self) -> float:
        """Largest amount by which shaping moves any reward."""
        return max(self.bounds.values())

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return outcome plus shaping; None when the outcome or a part of the shaping that counts cannot be judged.

        Raises:
            RewardError: The outcome is none of the tiers.
        """
        outcome = evaluate(self.outcome, rollout)
        shaping, components = _sum(self.shaping, rollout)
        inner = (*_inner("outcome", outcome), *components)
        if outcome.reward is None:
            return RewardResult(None, inner)
        tier = min(self.bounds, key=lambda tier: abs(tier - outcome.reward))  # type: ignore[operator] # not None
        if not math.isclose(tier, outcome.reward, abs_tol=1e-9):
            raise RewardError(f"the outcome {outcome.reward} is none of the tiers {sorted(self.bounds)}")
        components = (Component("outcome", tier), *inner)
        if shaping is None:
            return RewardResult(None, components)
        bound = self.bounds[tier]
        clipped = min(max(shaping, -bound), bound)
        return RewardResult(tier + clipped, (*components, Component("shaping", clipped, counts=False)))


def _range(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    check_number("the low end of the range", low)
    check_number("the high end of the range", high)
    if not low < high:
        raise ConfigurationError(f"the range from {low} to {high} is empty")
    return low, high


def _bounds(tiers: Sequence[float], bound: float | Mapping[float, float]) -> dict[float, float]:
    for tier in tiers:
        check_number("a tier", tier)
    if len(set(tiers)) < len(tiers) or len(tiers) < 2:
        raise ConfigurationError(f"tiers must be at least two different finite numbers, not {list(tiers)}")
    if isinstance(bound, Mapping) and set(bound) != set(tiers):
        raise ConfigurationError(f"bound names the tiers {sorted(bound)}, not {sorted(tiers)}")
    given = bound if isinstance(bound, Mapping) else dict.fromkeys(tiers, bound)
    for tier in tiers:
        check_number(f"the bound of {tier:g}", given[tier], low=0)
    return {tier: float(given[tier]) for tier in sorted(tiers)}


def _check_tiers(bounds: Mapping[float, float], threshold: float | None) -> None:
    ordered = list(bounds)
    for low, high in itertools.pairwise(ordered):
        if not low + bounds[low] < high - bounds[high]:
            raise ConfigurationError(
                f"shaping can reorder outcomes: {low} may rise to {low + bounds[low]:g}, {high} may fall to "
                f"{high - bounds[high]:g}; lower the bound or move the tiers apart"
            )
    for tier, bound in bounds.items() if threshold is not None else ():
        if threshold is not None and (tier - bound >= threshold) != (tier + bound >= threshold):
            raise ConfigurationError(f"shaping can carry the outcome {tier} across the success threshold {threshold}")
