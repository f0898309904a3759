"""Advantages against closed forms, and the clipped weight against the gradient of the objective."""

from __future__ import annotations

import itertools
import math
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_rft_sdk.advantages import (
    ADVANTAGES,
    Scored,
    best_over_second,
    group_normalised,
    group_policy_gradient,
    is_dead,
    leave_one_out,
    optimal_baseline,
    pass_at_k,
    per_turn,
    reinforce,
    reinforce_with_baseline,
    returns,
)
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.training.grpo import ratio_weight

REWARDS = st.lists(st.none() | st.sampled_from([0.0, 0.25, 1.0, 3.0]), max_size=8)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0.0], [0.5 / (stdev([1, 0]) + 1e-4), -0.5 / (stdev([1, 0]) + 1e-4)]),
        ([2.0, 2.0, 2.0], [0.0, 0.0, 0.0]),
        ([1.0], [0.0]),
        ([], []),
        ([None, 1.0], [0.0, 0.0]),
        ([None, 1.0, 0.0], [0.0, 0.5 / (stdev([1, 0]) + 1e-4), -0.5 / (stdev([1, 0]) + 1e-4)]),
    ],
    ids=["two", "equal", "one", "empty", "one-known", "a-failed-one"],
)
def test_group_normalised_when_computed_then_it_is_the_formula(
    rewards: list[float | None], expected: list[float]
) -> None:
    assert group_normalised(rewards) == pytest.approx(expected)


@pytest.mark.parametrize("method", [group_normalised, leave_one_out], ids=["group", "leave-one-out"])
@given(REWARDS)
def test_advantages_when_summed_then_they_cancel_and_a_failed_rollout_has_none(method, rewards) -> None:  # type: ignore[no-untyped-def]
    advantages = method(rewards)
    assert len(advantages) == len(rewards)
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-6)
    assert all(a == 0.0 for a, r in zip(advantages, rewards, strict=True) if r is None)
    assert all(a == 0.0 for a in advantages) == is_dead(rewards)


@given(REWARDS)
def test_advantages_when_a_rollout_failed_then_the_others_are_as_without_it(rewards: list[float | None]) -> None:
    known = [reward for reward in rewards if reward is not None]
    mixed = [a for a, r in zip(group_normalised(rewards), rewards, strict=True) if r is not None]
    assert mixed == pytest.approx(group_normalised(known))


def test_leave_one_out_when_computed_then_it_is_the_distance_from_the_mean_of_the_others() -> None:
    rewards = [1.0, 0.0, 0.0, 4.0]
    expected = [r - fmean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]
    assert leave_one_out(rewards) == pytest.approx(expected)


def test_reinforce_with_baseline_when_computed_then_the_spread_is_that_of_the_batch() -> None:
    centred = [0.5, -0.5, 1.0, -1.0]
    first, second, failed = reinforce_with_baseline([[1.0, 0.0], [2.0, 0.0], [None, 7.0]])
    spread = stdev([*centred, 0.0]) + 1e-4
    assert [*first, *second] == pytest.approx([value / spread for value in centred])
    assert failed == [0.0, 0.0]


@pytest.mark.parametrize(("n", "c", "k"), [(n, c, k) for n in (2, 4, 6) for c in range(n + 1) for k in range(1, n + 1)])
def test_pass_at_k_when_all_sets_are_counted_then_the_formula_agrees(n: int, c: int, k: int) -> None:
    rewards = [1.0] * c + [0.0] * (n - c)
    sets = list(itertools.combinations(range(n), k))
    passed = {chosen: float(any(rewards[i] for i in chosen)) for chosen in sets}
    mean = fmean(passed.values())
    if mean in (0.0, 1.0):
        assert pass_at_k(rewards, k) == [0.0] * n
        return
    spread = math.sqrt(mean * (1 - mean))
    of = [fmean((passed[s] - mean) / spread for s in sets if i in s) for i in range(n)]
    assert pass_at_k(rewards, k) == pytest.approx(of)


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_when_k_does_not_fit_the_group_then_it_is_refused(k: int) -> None:
    with pytest.raises(ConfigurationError, match="from 1 to the number of rewards in the group, 2"):
        pass_at_k([1.0, 0.0, None], k)


def test_per_turn_when_a_turn_is_better_then_it_and_the_turns_before_it_are_paid() -> None:
    good, bad, failed = per_turn([[0.0, 1.0], [0.0, 0.0], None])
    step = 0.5 / (stdev([1, 0]) + 1e-4)
    assert good == pytest.approx([step, step])
    assert bad == pytest.approx([-step, -step])
    assert failed == []


def test_optimal_baseline_when_computed_then_long_rollouts_weigh_more() -> None:
    # (10 x 1 + 30 x 0 + 60 x 0.5) / 100 = 0.4
    assert optimal_baseline([1.0, 0.0, None, 0.5], [10, 30, 1000, 60]) == pytest.approx([0.6, -0.4, 0.0, 0.1])
    assert optimal_baseline([1.0, 0.0], [0, 0]) == [0.0, 0.0]


@given(REWARDS)
def test_optimal_baseline_when_all_are_equally_long_then_it_is_the_mean(rewards: list[float | None]) -> None:
    known = [r for r in rewards if r is not None]
    expected = [0.0 if r is None or len(known) < 2 else r - fmean(known) for r in rewards]
    assert optimal_baseline(rewards, [7] * len(rewards)) == pytest.approx(expected)


def test_reinforce_when_computed_then_mean_and_spread_are_those_of_the_batch() -> None:
    spread = stdev([1, 0, 3, 0]) + 1e-4
    assert reinforce([[1.0, 0.0], [3.0, None], [0.0]]) == [
        pytest.approx([0.0, -1 / spread]),
        pytest.approx([2 / spread, 0.0]),
        pytest.approx([-1 / spread]),
    ]


def test_group_policy_gradient_when_groups_are_dead_then_the_others_weigh_more() -> None:
    # B = 3 groups with two rewards, of which M = 1 is dead: 3 / 2. The last group counts in neither.
    groups = [[1.0, 0.0], [2.0, 2.0, None], [4.0, 0.0, 2.0], [5.0, None]]
    assert group_policy_gradient(groups) == [[0.75, -0.75], [0.0] * 3, [3.0, -3.0, 0.0], [0.0, 0.0]]
    assert group_policy_gradient([[1.0, 1.0]]) == [[0.0, 0.0]]


@given(REWARDS)
def test_best_over_second_when_computed_then_it_is_the_gain_for_the_best_of_the_group(rewards) -> None:  # type: ignore[no-untyped-def]
    known = [r for r in rewards if r is not None]
    if len(known) < 2:
        assert best_over_second(rewards) == [0.0] * len(rewards)
        return
    gains = iter([max(known) - max(known[:i] + known[i + 1 :]) for i in range(len(known))])
    expected = [0.0 if r is None else next(gains) / (stdev(known) + 1e-4) for r in rewards]
    assert best_over_second(rewards) == pytest.approx(expected)


def test_returns_when_computed_then_a_turn_is_paid_by_what_follows_it() -> None:
    assert returns([1.0, 0.0, 2.0]) == [3.0, 2.0, 2.0]


# --- the table -------------------------------------------------------------------------------------------------------


@st.composite
def _rollouts(draw: st.DrawFn) -> Scored:
    turns = draw(st.integers(1, 3))
    size = draw(st.sampled_from([1, turns]))
    rewards = draw(st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=size, max_size=size).map(tuple))
    return Scored(rewards, turns, draw(st.integers(1, 50)))


_GROUPS = st.lists(st.lists(_rollouts(), max_size=5), max_size=4)
_NO_GROUP_MEAN = {"monte_carlo", "reinforce_pp"}


def _flat(advantages: list[list[tuple[float, ...]]]) -> list[float]:
    return [value for group in advantages for rollout in group for value in rollout]


@pytest.mark.parametrize("name", list(ADVANTAGES))
@given(_GROUPS)
@settings(max_examples=40)
def test_methods_when_called_then_one_finite_number_a_turn_and_failed_rollouts_never_count(name, groups) -> None:  # type: ignore[no-untyped-def]
    advantages = ADVANTAGES[name](groups)
    assert [[len(rollout) for rollout in group] for group in advantages] == [[r.turns for r in g] for g in groups]
    assert all(map(math.isfinite, _flat(advantages)))
    known = [[rollout for rollout in group if rollout.rewards is not None] for group in groups]
    without = iter([rollout for group in ADVANTAGES[name](known) for rollout in group])
    for group, values in zip(groups, advantages, strict=True):
        for rollout, of_turns in zip(group, values, strict=True):
            expected = (0.0,) * rollout.turns if rollout.rewards is None else next(without)
            assert of_turns == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {"monte_carlo"}))
@given(_GROUPS, st.sampled_from([-2.0, 0.5, 10.0]))
@settings(max_examples=40)
def test_methods_when_all_rewards_are_shifted_then_the_advantages_stay(name, groups, by) -> None:  # type: ignore[no-untyped-def]
    one_reward = [[Scored(r.rewards and r.rewards[:1], r.turns, r.tokens) for r in group] for group in groups]
    shifted = [[Scored(r.rewards and (r.rewards[0] + by,), r.turns, r.tokens) for r in group] for group in one_reward]
    assert _flat(ADVANTAGES[name](shifted)) == pytest.approx(_flat(ADVANTAGES[name](one_reward)), abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - _NO_GROUP_MEAN))
@given(st.lists(_rollouts(), max_size=1), st.integers(0, 2))
@settings(max_examples=40)
def test_methods_when_a_group_has_fewer_than_two_rewards_then_it_teaches_nothing(name, group, failed) -> None:  # type: ignore[no-untyped-def]
    assert not any(_flat(ADVANTAGES[name]([[*group, *[Scored(None)] * failed]])))


def test_methods_when_each_is_asked_then_it_is_its_formula() -> None:
    rewards, tokens = [[1.0, 0.0, None], [3.0, 0.0, 2.0]], [[10, 30, 5], [1, 1, 2]]
    groups = [
        [Scored(None if r is None else (r,), 2, n) for r, n in zip(*pair, strict=True)]
        for pair in zip(rewards, tokens, strict=True)
    ]
    expected = {
        "monte_carlo": [[r or 0.0 for r in group] for group in rewards],
        "group_based": [group_normalised(group) for group in rewards],
        "group_based_per_turn": [group_normalised(group) for group in rewards],
        "rloo": [leave_one_out(group) for group in rewards],
        "reinforce_pp": reinforce(rewards),
        "reinforce_pp_baseline": reinforce_with_baseline(rewards),
        "opo": [optimal_baseline(*pair) for pair in zip(rewards, tokens, strict=True)],
        "grpo_passk": [best_over_second(group) for group in rewards],
        "gpg": group_policy_gradient(rewards),
    }
    assert set(expected) == set(ADVANTAGES)
    for name, values in expected.items():
        assert ADVANTAGES[name](groups) == [[(value, value) for value in group] for group in values], name


def test_methods_when_turns_have_rewards_then_two_methods_read_them_and_the_others_take_the_sum() -> None:
    group = [Scored((0.0, 1.0), 2), Scored((1.0, 0.0), 2), Scored((1.0,), 2)]
    assert ADVANTAGES["monte_carlo"]([group]) == [[(1.0, 1.0), (1.0, 0.0), (1.0, 1.0)]]
    # One number for the whole rollout is the reward of its last turn.
    (of_turns,) = ADVANTAGES["group_based_per_turn"]([group])
    assert of_turns == [tuple(values) for values in per_turn([(0.0, 1.0), (1.0, 0.0), (0.0, 1.0)])]
    assert not any(_flat(ADVANTAGES["group_based"]([group])))


def test_scored_when_the_rewards_fit_nothing_then_they_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="a rollout of 3 turns has 2 rewards"):
        Scored((1.0, 0.0), 3)


@given(st.floats(0.2, 3), st.sampled_from([-2.0, -0.5, 0.5, 2.0]))
def test_ratio_weight_when_compared_with_the_objective_then_it_is_its_slope(ratio: float, advantage: float) -> None:
    def objective(log_ratio: float) -> float:
        r = math.exp(log_ratio)
        return min(r * advantage, max(0.8, min(1.2, r)) * advantage)

    if min(abs(ratio - 0.8), abs(ratio - 1.2)) < 1e-3:
        return  # the objective has a corner there
    h = 1e-6
    slope = (objective(math.log(ratio) + h) - objective(math.log(ratio) - h)) / (2 * h)
    assert ratio_weight(ratio, advantage) == pytest.approx(slope, abs=1e-4)
