"""The predicted share of dead groups, against the truth of simulated prompts."""

from __future__ import annotations

from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.runs.preflight import dead_group_share

PROMPTS = {
    "uniform": lambda random: random.random(),
    "skewed": lambda random: random.betavariate(0.3, 0.6),
    "hard": lambda random: random.betavariate(0.5, 8),
    "half": lambda random: 0.5,
    "two-kinds": lambda random: random.choice([0.05, 0.95]),
    "some-settled": lambda random: random.choice([0.0, 0.3, 0.6, 1.0]),
}


@pytest.mark.parametrize(("sampled", "size"), [(8, 4), (4, 8)])
@pytest.mark.parametrize("kind", PROMPTS)
def test_share_when_the_truth_is_known_then_the_interval_holds_it(kind: str, sampled: int, size: int) -> None:
    truth = fmean(p**size + (1 - p) ** size for p in map(PROMPTS[kind], [Random(1)] * 20_000))
    held = 0
    for seed in range(12):
        random = Random(seed)
        chances = [PROMPTS[kind](random) for _ in range(64)]
        groups = [[float(random.random() < p) for _ in range(sampled)] for p in chances]
        found = dead_group_share(groups, size)
        assert found is not None
        held += (found.low or 0.0) <= truth <= (found.high or 0.0)
    assert held >= 10  # of 12 intervals of 95 %


def levels(random: Random, count: int) -> list[float]:
    """Return the chances of a reward's values. Four in ten values never come."""
    weights = [random.expovariate(1) if random.random() < 0.6 else 0.0 for _ in range(count)]
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1.0, *[0.0] * (count - 1)]


@pytest.mark.parametrize(("fewest", "most", "size"), [(8, 8, 8), (6, 14, 8), (4, 4, 8), (16, 16, 4)])
@pytest.mark.parametrize("count", [3, 6])
def test_share_when_rewards_are_graded_and_prompts_are_few_then_the_interval_holds_the_truth(
    count: int, fewest: int, most: int, size: int
) -> None:
    truth = fmean(sum(chance**size for chance in levels(random, count)) for random in [Random(1)] * 5_000)
    held = 0
    for seed in range(40):
        random = Random(seed)
        groups = []
        for _ in range(16):
            chances, sampled = levels(random, count), random.randint(fewest, most)
            groups.append([float(value) for value in random.choices(range(count), chances, k=sampled)])
        found = dead_group_share(groups, size)
        assert found is not None
        held += (found.low or 0.0) <= truth <= (found.high or 0.0)
    assert held >= 35  # of 40 intervals of 95 %


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6), min_size=1, max_size=8))
def test_share_when_the_size_was_sampled_then_it_is_that_of_all_groups_that_can_be_drawn(
    groups: list[list[float]],
) -> None:
    two = [fmean(a == b for i, a in enumerate(g) for j, b in enumerate(g) if i < j) for g in groups]
    found = dead_group_share(groups, 2)
    assert found is not None
    assert found.value == pytest.approx(fmean(two))


@pytest.mark.parametrize("groups", [[], [[]], [[1.0]], [[1.0], [0.0]]])
def test_share_when_no_prompt_has_two_rewards_then_nothing_is_said(groups: list[list[float]]) -> None:
    assert dead_group_share(groups, 8) is None
