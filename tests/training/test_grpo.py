"""Advantages against closed forms, and the clipped weight against the gradient of the objective."""

from __future__ import annotations

import itertools
import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.training.grpo import (
    group_normalised,
    is_dead,
    leave_one_out,
    pass_at_k,
    per_turn,
    ratio_weight,
    reinforce_with_baseline,
)

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
