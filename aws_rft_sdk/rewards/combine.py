"""Rewards made of rewards. Each reports its parts as components of the result.

A combination with a group reward among its parts is a group reward: each part gets the whole group, and the values of
each rollout are combined. Called with one rollout, such a combination raises a `RewardError`, unless the group reward
can also be called with one rollout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
Scorer = Callable[[AnyReward, Sequence[Rollout]], list[RewardResult]]
"""`evaluate_group`, or what scores rollouts one by one."""


def _one_by_one(reward: AnyReward, rollouts: Sequence[Rollout]) -> list[RewardResult]:
    return [evaluate(reward, rollout) for rollout in rollouts]


class Combination:
    """What all rewards made of rewards have in common."""

    _rewards: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a reward."""
    _mapping: ClassVar[str | None] = None
    """The field that holds parts with weights."""

    def reward_parts(self) -> Mapping[str, AnyReward]:
        """Return the rewards that this one is made of, by name."""
        weighted = _weighted(getattr(self, self._mapping)) if self._mapping else ()
        return {name: getattr(self, name) for name in self._rewards} | {name: part for name, part, _ in weighted}

    def _results(self, rollouts: Sequence[Rollout], score: Scorer) -> list[RewardResult]:
        """Score each part with `score` and combine what each rollout got."""
        raise NotImplementedError

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the reward of one rollout.

        Raises:
            RewardError: A part only scores groups; use `score_group`.
        """
        return self._results([rollout], _one_by_one)[0]

    def score_group(self, rollouts: Sequence[Rollout]) -> list[RewardResult]:
        """Return the reward of each rollout of one prompt, in order. Parts that compare rollouts get all of them."""
        return self._results(rollouts, evaluate_group)

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return the reward of a text against a ground truth, None when it cannot be judged.

        Raises:
            ConfigurationError: A part looks at more than the text, so that it has no `score`; the message names it.
        """
        for path, part in leaves(self):
            if not callable(getattr(part, "score", None)):
                raise ConfigurationError(
                    f"part {path!r} has no score: it looks at the whole rollout; call the reward with a Rollout"
                )
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


def _sums(
    parts: Mapping[str, Part], rollouts: Sequence[Rollout], score: Scorer
) -> list[tuple[float | None, list[Component]]]:
    """Return the weighted sum of each rollout, None when a part that counts cannot be judged, and all that could be."""
    scored = [(name, weight, score(reward, rollouts)) for name, reward, weight in _weighted(parts)]
    return [_sum([(name, weight, results[i]) for name, weight, results in scored]) for i in range(len(rollouts))]


def _sum(parts: Sequence[tuple[str, float, RewardResult]]) -> tuple[float | None, list[Component]]:
    components: list[Component] = []
    for name, weight, result in parts:
        if result.reward is not None:
            components.append(Component(name, result.reward, counts=bool(weight)))
        components += _inner(name, result)
    if any(weight and result.reward is None for _, weight, result in parts):
        return None, components
    # fsum is exact, so that the order of the parts does not matter.
    return math.fsum(weight * result.reward for _, weight, result in parts if result.reward is not None), components


def _inner(name: str, result: RewardResult) -> list[Component]:
    return [Component(f"{name}/{item.name}", item.value, counts=False) for item in result.components]


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@dataclass(frozen=True)
class WeightedSum(Combination):
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

    parts: Mapping[str, Part]
    """Rewards by name, each alone or with its weight: `(reward, 0.5)`."""
    clip: tuple[float, float] | None = field(default=None, kw_only=True)
    """Lowest and highest sum; None for any."""
    _mapping = "parts"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _checked(self.parts))
        if self.clip:
            object.__setattr__(self, "clip", _range(self.clip))
        if not any(weight for _, _, weight in _weighted(self.parts)):
            raise ConfigurationError("a weighted sum needs a part with a weight other than 0")

    def _results(self, rollouts: Sequence[Rollout], score: Scorer) -> list[RewardResult]:
        low, high = self.clip or (-math.inf, math.inf)
        return [
            RewardResult(None if total is None else _clipped(total, low, high), tuple(components))
            for total, components in _sums(self.parts, rollouts, score)
        ]


@dataclass(frozen=True)
class Clip(Combination):
    """A reward, clipped to a range. None stays None. Components and rewards of turns stay as they are.

    Raises:
        ConfigurationError: The range is empty or not finite.
    """

    reward: AnyReward
    low: float
    high: float
    _rewards = ("reward",)

    def __post_init__(self) -> None:
        check_reward(self.reward)
        _range((self.low, self.high))

    def _results(self, rollouts: Sequence[Rollout], score: Scorer) -> list[RewardResult]:
        return [self._result(result) for result in score(self.reward, rollouts)]

    def _result(self, result: RewardResult) -> RewardResult:
        if result.reward is None:
            return result
        return RewardResult(_clipped(result.reward, self.low, self.high), result.components, result.turns_rewards)


@dataclass(frozen=True)
class Gate(Combination):
    """A reward that is only given when a condition is met, otherwise `otherwise`.

    None when the condition, or the reward behind an open gate, cannot be judged. A group reward behind the gate
    compares all rollouts of the prompt, also those that do not pass.
    A gated bonus tells a policy nothing about how to open the gate: prefer a small ungated part for what leads there.

    Raises:
        ConfigurationError: `threshold` or `otherwise` is no finite number.

    Example:
        >>> reward = Gate(Format.tags("answer"), gsm8k, otherwise=-0.1)
    """

    condition: AnyReward
    reward: AnyReward
    """Computed only when a gate is open."""
    threshold: float = field(default=0.5, kw_only=True)
    """The gate is open when the condition is at least this."""
    otherwise: float = field(default=0.0, kw_only=True)
    _rewards = ("condition", "reward")

    def __post_init__(self) -> None:
        check_reward(self.condition, "the condition")
        check_reward(self.reward)
        check_number("threshold", self.threshold)
        check_number("otherwise", self.otherwise)

    def _results(self, rollouts: Sequence[Rollout], score: Scorer) -> list[RewardResult]:
        conditions = score(self.condition, rollouts)
        is_open = [item.reward is not None and item.reward >= self.threshold for item in conditions]
        # A group reward compares all rollouts. Any other reward is only asked about those that pass.
        all_asked = any(is_open) and (all(is_open) or is_group_reward(self.reward))
        asked = rollouts if all_asked else list(itertools.compress(rollouts, is_open))
        scores = iter(score(self.reward, asked) if asked else ())
        behind = [next(scores) if all_asked or passes else None for passes in is_open]
        return [
            self._result(condition, result if passes else None)
            for condition, result, passes in zip(conditions, behind, is_open, strict=True)
        ]

    def _result(self, condition: RewardResult, result: RewardResult | None) -> RewardResult:
        """Return what the result behind the gate is worth; None for it when the gate is closed."""
        components = _inner("gate", condition)
        if condition.reward is None:
            return RewardResult(None, tuple(components))
        components.insert(0, Component("gate", float(result is not None), counts=False))
        if result is None:
            return RewardResult(self.otherwise, tuple(components))
        taken = {component.name for component in components}
        for item in result.components:  # those of a gate behind this gate have the same names
            name = item.name
            while name in taken:
                name = f"inner/{name}"
            taken.add(name)
            components.append(Component(name, item.value, item.counts))
        return RewardResult(result.reward, tuple(components), result.turns_rewards)


@dataclass(frozen=True)
class DominantOutcome(Combination):
    """An outcome with few levels, plus shaping so small that it never reorders them.

    reward = outcome + min(max(sum of w_i * s_i, -b), b), b being the bound at the outcome's tier. At construction,
    t + b(t) < u - b(u) is checked for all tiers t < u, and that no tier straddles the success threshold. Without this
    check a published game reward let slow and fast wins swap places, and a slow win fall below the threshold.

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
    _rewards, _mapping = ("outcome",), "shaping"

    def __post_init__(self) -> None:
        check_reward(self.outcome, "the outcome")
        object.__setattr__(self, "shaping", _checked(self.shaping))
        if taken := {"outcome", "shaping"} & set(self.shaping):
            raise ConfigurationError(f"a part of the shaping needs another name than {min(taken)!r}")
        if self.success_threshold is not None:
            check_number("success_threshold", self.success_threshold)
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

    def _results(self, rollouts: Sequence[Rollout], score: Scorer) -> list[RewardResult]:
        shapings = _sums(self.shaping, rollouts, score)
        return list(map(self._result, score(self.outcome, rollouts), shapings))

    def _result(self, outcome: RewardResult, shaping: tuple[float | None, list[Component]]) -> RewardResult:
        amount, parts = shaping
        inner = (*_inner("outcome", outcome), *parts)
        if outcome.reward is None:
            return RewardResult(None, inner)
        bounds = self.bounds
        tier = min(bounds, key=lambda tier: abs(tier - outcome.reward))  # type: ignore[operator] # not None
        if not math.isclose(tier, outcome.reward, abs_tol=1e-9):
            raise RewardError(f"the outcome {outcome.reward} is none of the tiers {sorted(bounds)}")
        components = (Component("outcome", tier), *inner)
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
