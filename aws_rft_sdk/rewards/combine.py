"""Rewards made of rewards. Each reports its parts as components of the result.

A combination with a group reward among its parts is a group reward: that part gets the whole group at once.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Union

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON, FrozenDict
from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards._checks import check_reward
from aws_rft_sdk.rewards.rollout import (
    AnyReward,
    Component,
    RewardResult,
    Rollout,
    evaluate,
    evaluate_group,
    is_group_reward,
    leaves,
)

Part = Union[AnyReward, "tuple[AnyReward, float]"]
"""A reward with the weight 1, or a reward and its weight."""
Score = Callable[[AnyReward], RewardResult]
"""Gives the result of a part for the rollout in question."""


class Combination:
    """What all rewards made of rewards have in common. A subclass defines `_combine`."""

    _parts: ClassVar[tuple[str, ...]]
    """The fields with a reward, or with a mapping of rewards."""

    def _combine(self, score: Score, rollout: Rollout) -> RewardResult:
        """Return the reward of a rollout. `score` computes a part when it is asked for it, and not before."""
        raise NotImplementedError

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the reward of one rollout.

        Raises:
            RewardError: A part cannot be called with one rollout; use `score_group`.
        """
        return self._combine(lambda part: evaluate(part, rollout), rollout)

    def score_group(self, rollouts: Sequence[Rollout]) -> list[RewardResult]:
        """Return the reward of each rollout of one prompt, in order. Parts that compare rollouts get all of them."""
        of_groups: dict[int, list[RewardResult]] = {}

        def score(place: int, part: AnyReward) -> RewardResult:
            if not is_group_reward(part):
                return evaluate(part, rollouts[place])
            if id(part) not in of_groups:
                of_groups[id(part)] = evaluate_group(part, rollouts)
            return of_groups[id(part)][place]

        return [self._combine(functools.partial(score, place), rollout) for place, rollout in enumerate(rollouts)]

    def reward_parts(self) -> Mapping[str, AnyReward]:
        """Return the rewards that this one is made of, by name."""
        parts: dict[str, AnyReward] = {}
        for name in self._parts:
            value = getattr(self, name)
            parts |= {key: part for key, part, _ in _weighted(value)} if isinstance(value, Mapping) else {name: value}
        return parts

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return the reward of a text against a ground truth, None when it cannot be judged.

        Raises:
            ConfigurationError: A part looks at more than the text, so that it has no `score`; the message names it.
        """
        if path := next((path for path, part in leaves(self) if not callable(getattr(part, "score", None))), ""):
            problem = "it looks at the whole rollout; call the reward with a Rollout"
            raise ConfigurationError(f"part {path!r} has no score: {problem}")
        return self(Rollout.of_answer(answer_text, ground_truth)).reward


def _weighted(parts: Mapping[str, Part]) -> Iterator[tuple[str, AnyReward, float]]:
    for name, part in parts.items():
        reward, weight = part if isinstance(part, tuple | list) else (part, 1.0)
        yield name, reward, weight


def _checked(parts: Mapping[str, Part]) -> Mapping[str, Part]:
    for name, reward, weight in _weighted(parts):
        check_reward(reward, f"part {name!r}")
        check_number(f"the weight of {name!r}", weight)
    return FrozenDict({name: (reward, float(weight)) for name, reward, weight in _weighted(parts)})


def _sum(parts: Mapping[str, Part], score: Score) -> tuple[float | None, tuple[Component, ...]]:
    """Return the weighted sum, None when a part that counts cannot be judged, and the values of the parts that can."""
    terms: list[float] = []
    components: list[Component] = []
    is_known = True
    for name, reward, weight in _weighted(parts):
        result = score(reward)
        if result.reward is not None:
            components.append(Component(name, result.reward, counts=bool(weight)))
            terms.append(weight * result.reward)
        elif weight:
            is_known = False
        components += _inner(name, result)
    # fsum is exact, so that the order of the parts does not matter.
    return math.fsum(terms) if is_known else None, tuple(components)


def _inner(name: str, result: RewardResult) -> tuple[Component, ...]:
    return tuple(Component(f"{name}/{item.name}", item.value, counts=False) for item in result.components)


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@dataclass(frozen=True)
class WeightedSum(Combination):
    """The sum of w_i * r_i over the parts that count, clipped to a range where one is given.

    A part with the weight 0 is a metric: reported, and never part of the reward. The sum is None when a part that
    counts cannot be judged. Components carry the values of the parts before weighting. Rewards of single turns are not
    combined: put `Discounted` or `TurnCredit` around the sum.

    Raises:
        ConfigurationError: No part counts, a part is no reward, a weight is not finite, or the range is empty.

    Example:
        >>> both = WeightedSum({"correct": (gsm8k, 1.0), "format": (FinalAnswerLine(), 0.1)})
        >>> both(Rollout.of_answer("#### The final answer is 4", 4)).reward
        1.1
    """

    parts: Mapping[str, Part]
    """Rewards by name, each alone or with its weight: `(reward, 0.5)`."""
    clip: tuple[float, float] | None = field(default=None, kw_only=True)
    """Lowest and highest sum; None for any."""
    _parts = ("parts",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _checked(self.parts))
        if self.clip:
            object.__setattr__(self, "clip", _range(self.clip))
        if not any(weight for _, _, weight in _weighted(self.parts)):
            raise ConfigurationError("a weighted sum needs a part with a weight other than 0")

    def _combine(self, score: Score, rollout: Rollout) -> RewardResult:
        total, components = _sum(self.parts, score)
        if total is not None and self.clip:
            total = _clipped(total, *self.clip)
        return RewardResult(total, components)


@dataclass(frozen=True)
class Clip(Combination):
    """A reward, clipped to a range. None stays None. Components and rewards of turns stay as they are.

    Raises:
        ConfigurationError: The range is empty or not finite.
    """

    reward: AnyReward
    low: float
    high: float
    _parts = ("reward",)

    def __post_init__(self) -> None:
        check_reward(self.reward)
        _range((self.low, self.high))

    def _combine(self, score: Score, rollout: Rollout) -> RewardResult:
        result = score(self.reward)
        clipped = None if result.reward is None else _clipped(result.reward, self.low, self.high)
        return RewardResult(clipped, result.components, result.turns_rewards)


@dataclass(frozen=True)
class Gate(Combination):
    """A reward that is only given when a condition is met, otherwise `otherwise`.

    None when the condition, or the reward behind an open gate, cannot be judged. A group reward behind the gate
    compares all rollouts of the prompt, also those that do not pass.

    Raises:
        ConfigurationError: `threshold` or `otherwise` is no finite number.

    Example:
        >>> reward = Gate(ToolUse(required=("search",)), gsm8k, otherwise=-0.1)
    """

    condition: AnyReward
    reward: AnyReward
    """Computed only when the gate is open."""
    threshold: float = field(default=0.5, kw_only=True)
    """The gate is open when the condition is at least this."""
    otherwise: float = field(default=0.0, kw_only=True)
    _parts = ("condition", "reward")

    def __post_init__(self) -> None:
        check_reward(self.condition, "the condition")
        check_reward(self.reward)
        check_number("threshold", self.threshold)
        check_number("otherwise", self.otherwise)

    def _combine(self, score: Score, rollout: Rollout) -> RewardResult:
        condition = score(self.condition)
        components = _inner("gate", condition)
        if condition.reward is None:
            return RewardResult(None, components)
        is_open = condition.reward >= self.threshold
        components = (Component("gate", float(is_open), counts=False), *components)
        result = score(self.reward) if is_open else RewardResult(self.otherwise)
        inner = result.components
        if {item.name for item in inner} & {item.name for item in components}:  # a gate behind this gate
            inner = tuple(replace(item, name=f"inner/{item.name}") for item in inner)
        return RewardResult(result.reward, components + inner, result.turns_rewards)


@dataclass(frozen=True)
class DominantOutcome(Combination):
    """An outcome with few levels, plus shaping so small that it never reorders them.

    reward = outcome + min(max(sum of w_i * s_i, -b), b), b being the bound at the outcome's tier. At construction,
    t + b(t) < u - b(u) is checked for all tiers t < u, and that no tier straddles the success threshold.

    None when the outcome or a part of the shaping that counts cannot be judged.

    Raises:
        ConfigurationError: Shaping could reorder two tiers, or carry one across the threshold; the message says which.
        RewardError: On a call, the outcome is none of the tiers.

    Example:
        >>> DominantOutcome(gsm8k, {"short": Length(200, 400)}, tiers=(0.0, 1.0), bound=0.1).bounds
        {0.0: 0.1, 1.0: 0.1}
    """

    outcome: AnyReward
    """A reward that gives one of the tiers and nothing else."""
    shaping: Mapping[str, Part]
    """Parts as in `WeightedSum`."""
    tiers: Sequence[float] = field(default=(0.0, 1.0), kw_only=True)
    """All values of the outcome."""
    bound: float | Mapping[float, float] = field(default=0.1, kw_only=True)
    """Largest amount by which shaping moves a reward: one for all tiers, or one for each."""
    success_threshold: float | None = field(default=None, kw_only=True)
    """What a job counts as a success; None when that does not matter."""
    _parts = ("outcome", "shaping")

    def __post_init__(self) -> None:
        check_reward(self.outcome, "the outcome")
        object.__setattr__(self, "shaping", _checked(self.shaping))
        if taken := {"outcome", "shaping"} & set(self.shaping):
            raise ConfigurationError(f"a part of the shaping needs another name than {min(taken)!r}")
        bounds = _bounds(self.tiers, self.bound)
        _check_tiers(bounds, self.success_threshold)
        object.__setattr__(self, "tiers", tuple(bounds))
        object.__setattr__(self, "bound", FrozenDict(bounds))  # type: ignore[arg-type] # floats are keys as good as texts

    @property
    def bounds(self) -> dict[float, float]:
        """Largest amount by which shaping moves a reward, by tier, from the lowest tier up."""
        return dict(self.bound)  # type: ignore[arg-type] # a mapping since __post_init__

    @property
    def shaping_bound(self) -> float:
        """Largest amount by which shaping moves any reward."""
        return max(self.bounds.values())

    def _combine(self, score: Score, rollout: Rollout) -> RewardResult:
        outcome = score(self.outcome)
        amount, shaping = _sum(self.shaping, score)
        components = _inner("outcome", outcome) + shaping
        if outcome.reward is None:
            return RewardResult(None, components)
        reward, bounds = outcome.reward, self.bounds
        tier = min(bounds, key=lambda tier: abs(tier - reward))
        if not math.isclose(tier, reward, abs_tol=1e-9):
            raise RewardError(f"the outcome {reward} is none of the tiers {sorted(bounds)}")
        components = (Component("outcome", tier), *components)
        if amount is None:
            return RewardResult(None, components)
        clipped = _clipped(amount, -bounds[tier], bounds[tier])
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
    given = bound if isinstance(bound, Mapping) else dict.fromkeys(tiers, bound)
    if set(given) != set(tiers):
        raise ConfigurationError(f"bound names the tiers {sorted(given)}, not {sorted(tiers)}")
    for tier in tiers:
        check_number(f"the bound of {tier:g}", given[tier], low=0)
    return {tier: float(given[tier]) for tier in sorted(tiers)}


def _check_tiers(bounds: Mapping[float, float], threshold: float | None) -> None:
    if threshold is not None:
        check_number("success_threshold", threshold)
    for low, high in itertools.pairwise(bounds):
        if not low + bounds[low] < high - bounds[high]:
            raise ConfigurationError(
                f"shaping can reorder outcomes: {low} may rise to {low + bounds[low]:g}, {high} may fall to "
                f"{high - bounds[high]:g}; lower the bound or move the tiers apart"
            )
    for tier, bound in bounds.items():
        if threshold is not None and tier - bound < threshold <= tier + bound:
            raise ConfigurationError(f"shaping can carry the outcome {tier} across the success threshold {threshold}")
