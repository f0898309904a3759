import itertools
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.runs.metrics.passk import ks_up_to, pass_at_k, pass_power_k


@st.composite
def counts(draw, most=12):
    samples = draw(st.integers(1, most))
    return samples, draw(st.integers(0, samples)), draw(st.integers(1, samples))


@given(counts())
def test_both_are_the_share_of_subsets(drawn):
    samples, successes, k = drawn
    outcomes = [True] * successes + [False] * (samples - successes)
    subsets = list(itertools.combinations(outcomes, k))

    assert pass_at_k(*drawn) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_power_k(*drawn) == pytest.approx(sum(map(all, subsets)) / len(subsets))


@given(counts(most=128))
def test_both_are_the_closed_form_also_for_the_largest_group(drawn):
    samples, successes, k = drawn

    assert pass_at_k(*drawn) == pytest.approx(float(1 - Fraction(comb(samples - successes, k), comb(samples, k))))
    assert pass_power_k(*drawn) == pytest.approx(float(Fraction(comb(successes, k), comb(samples, k))))


@given(counts(most=8), st.fractions(0, 1))
def test_both_are_unbiased(drawn, p):
    """Over all outcomes of n rollouts that succeed with p, the estimates are on average what they estimate."""
    samples, _, k = drawn
    chances = [comb(samples, c) * p**c * (1 - p) ** (samples - c) for c in range(samples + 1)]

    at = sum(chance * pass_at_k(samples, c, k) for c, chance in enumerate(chances))
    power = sum(chance * pass_power_k(samples, c, k) for c, chance in enumerate(chances))

    assert float(at) == pytest.approx(float(1 - (1 - p) ** k), abs=1e-9)
    assert float(power) == pytest.approx(float(p**k), abs=1e-9)


@given(counts())
def test_more_tries_help_one_and_hurt_all(drawn):
    samples, successes, k = drawn

    assert pass_power_k(*drawn) <= successes / samples + 1e-12
    assert successes / samples <= pass_at_k(*drawn) + 1e-12
    assert pass_at_k(samples, successes, 1) == pytest.approx(pass_power_k(samples, successes, 1))
    if k > 1:
        assert pass_at_k(samples, successes, k) >= pass_at_k(samples, successes, k - 1) - 1e-12
        assert pass_power_k(samples, successes, k) <= pass_power_k(samples, successes, k - 1) + 1e-12


@pytest.mark.parametrize(
    ("samples", "successes", "k", "at", "power"),
    [
        pytest.param(1, 1, 1, 1.0, 1.0, id="one-right"),
        pytest.param(1, 0, 1, 0.0, 0.0, id="one-wrong"),
        pytest.param(8, 1, 8, 1.0, 0.0, id="one-of-all"),
        pytest.param(4, 2, 2, 5 / 6, 1 / 6, id="half"),
        pytest.param(10, 3, 5, 1 - 21 / 252, 0.0, id="fewer-successes-than-k"),
    ],
)
def test_known_values(samples, successes, k, at, power):
    assert pass_at_k(samples, successes, k) == pytest.approx(at)
    assert pass_power_k(samples, successes, k) == pytest.approx(power)


@pytest.mark.parametrize("wrong", [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_what_has_no_answer_is_refused(wrong):
    for function in (pass_at_k, pass_power_k):
        with pytest.raises(ValueError, match="no pass@"):
            function(*wrong)


@pytest.mark.parametrize(
    ("size", "ks"),
    [(0, ()), (1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))],
)
def test_ks_are_powers_of_two_and_the_group(size, ks):
    assert ks_up_to(size) == ks
