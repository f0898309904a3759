import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs.metrics import compare, prompts_needed

from .support import COMPLETED, FAILED, record, table, tables


def run(seed, prompts=120, group=4, shift=0.0):
    """Rollouts of prompts of different difficulty, the same for every seed."""
    rng, difficulties = random.Random(seed), random.Random(0)
    chances = [min(1.0, max(0.0, difficulties.random() + shift)) for _ in range(prompts)]
    return table(*([float(rng.random() < chance) for _ in range(group)] for chance in chances))


def by_name(comparison):
    return {row.name.rpartition("/")[2]: row for row in comparison.differences}


def test_identical_runs_are_not_different():
    rows = by_name(compare(run(1), run(1)))

    assert [row.better for row in rows.values()] == [None] * len(rows)
    assert rows["pass_at_1"].difference == 0
    assert rows["pass_at_1"].prompts_needed is None
    # 120 equal prompts do not exclude that others differ: the rule of three again.
    assert rows["pass_at_1"].high == pytest.approx(3 / 120, rel=0.05)
    assert rows["pass_at_1"].verdict == "the difference may be noise: +0.0 points [-2.5, 2.5]"


def test_two_runs_of_one_agent_are_noise_nearly_always():
    """95 % intervals: of 100 comparisons of equals about five claim a difference."""
    claims = sum(
        by_name(compare(run(2 * seed, group=2), run(2 * seed + 1, group=2), resamples=200, seed=seed))[
            "pass_at_1"
        ].better
        is not None
        for seed in range(100)
    )

    assert 1 <= claims <= 10


def test_better_run_is_found_from_either_side():
    there, back = (by_name(compare(a, b)) for a, b in ((run(1), run(2, shift=0.15)), (run(2, shift=0.15), run(1))))

    assert there["pass_at_1"].better == "B"
    assert back["pass_at_1"].better == "A"
    assert there["pass_at_1"].verdict.startswith("B is better by ")
    assert back["pass_at_1"].verdict.startswith("A is better by ")
    assert back["pass_at_1"].difference == pytest.approx(-there["pass_at_1"].difference)
    assert there["pass_at_1"].prompts_needed < 120


def comparable(a, b, paired):
    """Whether some rollout completed in both runs; of one prompt, if they are paired."""
    latest = [{r.key: r for r in run}.values() for run in (a, b)]
    ends = [{r.prompt_index for r in run if r.status is COMPLETED} for run in latest]
    return bool(ends[0] & ends[1]) if paired else all(ends)


@pytest.mark.parametrize("paired", [True, False])
@settings(max_examples=30, deadline=None)
@given(a=tables(), b=tables())
def test_runs_that_change_places_turn_all_signs_and_no_verdict(paired, a, b):
    if not comparable(a, b, paired):
        return
    there, back = (by_name(compare(*runs, paired=paired, resamples=40)) for runs in ((a, b), (b, a)))

    assert list(there) == list(back)
    for name, row in there.items():
        other = back[name]
        assert (row.a, row.b, row.difference) == pytest.approx((other.b, other.a, -other.difference))
        if row.a == row.b and not paired:
            continue  # of equal values there is no order to turn
        ends = (None, None) if other.low is None else (-other.high, -other.low)
        assert (row.low, row.high) == pytest.approx(ends, abs=1e-9), name
        assert row.prompts_needed == other.prompts_needed


def test_pairs_tell_more_than_means_alone():
    a, b = run(1), run(2, shift=0.06)
    paired, unpaired = (by_name(compare(a, b, paired=pair))["pass_at_1"] for pair in (True, False))

    assert paired.difference == pytest.approx(unpaired.difference)
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)
    assert paired.better == "B"
    assert unpaired.better is None
    assert paired.prompts_needed < unpaired.prompts_needed


def test_constant_shift_is_found_by_the_share_of_prompts():
    a = table(*[[0.0, 1.0]] * 40)
    b = [dataclasses.replace(r, reward=r.reward + 0.1) for r in a]

    row = by_name(compare(a, b))["mean"]

    assert row.better == "B"
    assert row.difference == pytest.approx(0.1)
    assert row.low < row.difference < row.high


@pytest.mark.parametrize(
    ("prompts", "better"), [pytest.param(3, None, id="three-may-be-luck"), pytest.param(6, "B", id="six-are-not")]
)
def test_few_prompts_that_all_agree(prompts, better):
    row = by_name(compare(table(*[[0.0]] * prompts), table(*[[1.0]] * prompts)))["pass_at_1"]

    assert row.better == better


def test_one_prompt_with_different_groups_cannot_tell():
    row = by_name(compare(table([0.0, 0.5]), table([0.5, 0.5])))["mean"]

    assert row.better is None


def test_equal_rewards_everywhere_leave_nothing_to_say():
    row = by_name(compare(table([0.5], [0.5]), table([0.5], [0.5])))["mean"]

    assert (row.low, row.high, row.verdict) == (None, None, "no difference on any prompt of 2")


def test_prompts_of_one_run_only_are_left_out_and_counted():
    a, b = run(1, prompts=30), [r for r in run(2, prompts=40) if r.prompt_index >= 10]

    found = compare(a, b)

    assert (found.prompts, found.only_in_a, found.only_in_b) == (20, 10, 10)


def test_groups_of_different_size_are_compared_up_to_the_smaller():
    rows = by_name(compare(run(1, group=2), run(2, group=8)))

    assert list(rows) == ["pass_at_1", "mean", "pass_at_2", "pass_power_2"]


def test_rollout_without_a_reward_is_no_success_and_leaves_the_mean_alone():
    a, b = table([1.0, 1.0], [1.0, 1.0]), table([1.0, None], [None, None], status=COMPLETED)

    found = compare(a, b)
    rows = by_name(found)

    assert (found.no_reward_a, found.no_reward_b) == (0, 3)
    assert rows["pass_at_1"].b == 0.25
    assert (rows["mean"].prompts, rows["mean"].difference) == (1, 0.0)


def test_rollouts_that_failed_are_left_out_and_counted_by_kind():
    a = table([1.0, 0.0], [1.0, 1.0])
    failed = [record(p, 2, 0.0, status=FAILED, failure=FailureKind.TOOL) for p in (0, 1)]

    found, as_zero = compare(a, [*a, *failed]), compare(a, [*a, *failed], failures_as_zero=True)

    assert (found.failures_a, found.failures_b) == ({}, {"tool": 2})
    assert (found.failures_as_zero, as_zero.failures_as_zero) == (False, True)
    assert (by_name(found)["pass_at_1"].difference, by_name(found)["mean"].difference) == (0.0, 0.0)
    assert by_name(as_zero)["pass_at_1"].b == pytest.approx(0.5)
    assert by_name(as_zero)["mean"].b == pytest.approx(0.5)


@pytest.mark.parametrize("paired", [True, False])
def test_run_of_which_nothing_completed_cannot_be_compared(paired):
    a, b = table([1.0], [1.0]), [record(p, 0, 0.0, status=FAILED) for p in (0, 1)]

    with pytest.raises(ConfigurationError, match=r"no rollout completed in both runs.*--failures-as-zero"):
        compare(a, b, paired=paired)
    assert by_name(compare(a, b, paired=paired, failures_as_zero=True))["pass_at_1"].difference == -1.0


def test_runs_without_any_reward_have_no_mean_to_compare():
    nothing = table([None], [None], status=COMPLETED)

    for paired in (True, False):
        assert list(by_name(compare(nothing, nothing, paired=paired))) == ["pass_at_1"]


def test_last_record_of_a_rollout_counts():
    a = table([0.0], [0.0])

    assert by_name(compare(a, [*a, record(0, 0, 1.0)]))["pass_at_1"].b == 0.5


@pytest.mark.parametrize(
    ("a", "b", "options", "says"),
    [
        pytest.param([record(0)], [record(1)], {}, "no prompt in common", id="nothing-common"),
        pytest.param([], [record()], {}, "in A", id="a-empty"),
        pytest.param([record()], [], {}, "in B", id="b-empty"),
        pytest.param([record()], [record()], {"confidence": 2}, "confidence is 2", id="confidence"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, options, says):
    with pytest.raises(ConfigurationError, match=says):
        compare(a, b, **options)


def test_different_prompts_are_compared_unpaired():
    found = compare([record(0), record(1)], [record(5)], paired=False)

    assert (found.paired, found.prompts, found.only_in_a, found.only_in_b) == (False, 1, 0, 0)


@pytest.mark.parametrize("paired", [True, False])
@settings(max_examples=60, deadline=None)
@given(a=tables(), b=tables())
def test_any_two_runs_give_json_without_nan(paired, a, b):
    if not comparable(a, b, paired):
        return
    found = compare(a, b, paired=paired, resamples=20).to_dict()

    json.dumps(found, allow_nan=False)
    for row in found["differences"]:
        assert row["difference"] == pytest.approx(row["b"] - row["a"], abs=1e-9)
        assert row["low"] is None or row["low"] <= row["high"]


def test_numbers_that_both_handlers_report_are_compared_prompt_by_prompt():
    a = [dataclasses.replace(r, metrics={"steps": r.prompt_index % 5, "only_a": 1}) for r in run(1)]
    b = [dataclasses.replace(r, metrics={"steps": r.prompt_index % 5 + r.sample_index % 2}) for r in run(2)]

    rows = by_name(compare(a, b))

    assert "only_a" not in rows
    assert (rows["steps"].a, rows["steps"].b, rows["steps"].difference) == pytest.approx((2.0, 2.5, 0.5))
    assert (rows["steps"].better, rows["steps"].is_share) == ("B", False)
    assert by_name(compare(a, b, paired=False))["steps"].difference == pytest.approx(0.5)


@pytest.mark.parametrize("paired", [True, False])
def test_many_prompts_are_compared_by_the_closed_form(paired):
    a, b = run(1, prompts=2_600, group=2), run(2, prompts=2_600, group=2, shift=0.1)

    closed, drawn = compare(a, b, paired=paired), compare(a, b, paired=paired, resamples=300)

    assert (closed.interval_method, drawn.interval_method) == ("expansion", "bootstrap")
    for one, other in zip(closed.differences, drawn.differences, strict=True):
        assert (one.a, one.b, one.difference, one.better) == (other.a, other.b, other.difference, other.better)
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.15)  # 300 resamples are rough


def test_prompts_needed_is_the_sample_size_of_a_z_test():
    # (1.96 + 0.84)^2 = 7.85; a difference of a fifth of its standard deviation needs 25 times as many.
    assert prompts_needed(0.2, 1.0) == 197
    assert prompts_needed(0.5, 1.0) == 32
    assert prompts_needed(0.0, 1.0) is None
    assert prompts_needed(5.0, 0.1) == 2


@given(st.floats(0.01, 1), st.floats(0.01, 4))
def test_half_the_difference_needs_four_times_the_prompts(difference, spread):
    whole, half = prompts_needed(difference, spread), prompts_needed(difference / 2, spread)

    assert half <= 4 * whole <= 4 * half
