import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs import read_records
from aws_rft_sdk.runs.metrics import measure
from aws_rft_sdk.runs.records import RECORDS_FILE
from aws_rft_sdk.runs.table import RolloutTable

from .support import COMPLETED, FAILED, UNREPORTED, recompute, record, table, tables, write


def figures(records, **options):
    return measure(records, resamples=20, **options).to_dict()


def without_intervals(named):
    return {name: value for name, value in named.items() if not name.endswith(("_low", "_high"))}


@settings(max_examples=150, deadline=None)
@given(records=tables(), threshold=st.sampled_from([1.0, 0.5, 0.0]), as_zero=st.booleans())
def test_every_figure_is_what_the_file_says(tmp_path_factory, records, threshold, as_zero):
    folder = write(tmp_path_factory.mktemp("run"), records)

    found = figures(read_records(folder, superseded=True), success_threshold=threshold, failures_as_zero=as_zero)

    expected = recompute(folder, threshold, as_zero)
    assert set(without_intervals(found)) == set(expected)
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@settings(max_examples=50, deadline=None)
@given(records=tables())
def test_figures_are_json_without_nan_and_intervals_hold_what_they_are_of(records):
    found = figures(records)

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name, low in found.items():
        if name.endswith("_low") and low is not None:
            assert low <= found[name.removesuffix("_low") + "_high"]


@settings(max_examples=50, deadline=None)
@given(records=tables(), seed=st.integers(0, 1000))
def test_order_of_rollouts_changes_nothing(records, seed):
    latest = list({r.key: r for r in records}.values())
    shuffled = random.Random(seed).sample(latest, len(latest))

    assert figures(shuffled) == pytest.approx(figures(latest), nan_ok=False)


@settings(deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda size: st.lists(st.lists(st.floats(-2, 2), min_size=size, max_size=size), min_size=2, max_size=6)
    )
)
def test_variance_within_and_across_groups_of_one_size_is_the_whole(groups):
    found = figures(table(*groups))

    within = sum(sum((r - sum(g) / len(g)) ** 2 for r in g) / len(g) for g in groups) / len(groups)
    across = found["analysis/reward_variance_across_groups"]
    assert found["eval/reward/std"] ** 2 == pytest.approx(within + across, abs=1e-9)
    assert found["eval/reward/std_across_groups"] ** 2 == pytest.approx(across, abs=1e-9)
    assert found["eval/reward/mean_within_groups"] == pytest.approx(found["eval/reward/mean"], abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(records=tables(), as_zero=st.booleans())
def test_every_rollout_and_every_group_is_counted_once(records, as_zero):
    found = figures(records, failures_as_zero=as_zero)

    named = {name.rpartition("/")[2]: value for name, value in found.items()}
    counted = [named[name] for name in ("succeeded_rollouts", "failed_rollouts", "no_reward", "left_out")]
    assert sum(counted) == named["total"]
    assert sum(measure(records).failures.values()) == named["failed"] + named["unreported"]
    assert named["completed"] + named["failed"] + named["unreported"] == named["total"]
    assert named["total"] + named["superseded"] == len(records)
    split = [named[f"zero_adv_{kind}"] for kind in ("all_right", "all_wrong", "other")]
    assert sum(split) == named["zero_adv_groups"] <= named["compared_groups"] <= named["num_prompts"]


NAMES = {
    "eval/reward": "mean mean_low mean_high valid_mean std min max zero_frac num_prompts rollouts_per_prompt "
    "success_threshold succeeded_rollouts failed_rollouts mean_within_groups std_within_groups min_within_groups "
    "max_within_groups std_across_groups pass_at_1 pass_at_1_low pass_at_1_high pass_power_1 pass_power_1_low "
    "pass_power_1_high pass_left_out_1 pass_at_2 pass_at_2_low pass_at_2_high pass_power_2 pass_power_2_low "
    "pass_power_2_high pass_left_out_2",
    "eval/turns": "mean min max",
    "eval/tokens": "prompt_mean response_mean response_std response_min response_max at_limit_frac rollouts",
    "eval/seconds": "mean p50 p99 max",
    "eval/rollouts": "total completed failed unreported left_out no_reward superseded retried unsure_turns",
    "analysis": "batch_completion_ratio batch_valid_ratio compared_groups zero_adv_groups "
    "zero_adv_nonzero_reward zero_adv_zero_reward zero_adv_all_right zero_adv_all_wrong zero_adv_other "
    "reward_variance_across_groups mean_group_reward_spread",
}


def test_names_and_their_order_stay():
    assert list(figures(table([1, 0], [1, 1]))) == [
        f"{at}/{name}" for at, names in NAMES.items() for name in names.split()
    ]


def test_every_name_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    names = {name for text in NAMES.values() for name in text.split() if not name.startswith("pass_")}

    assert [name for name in sorted(names) if f"`{name}`" not in page and f"/{name}`" not in page] == []


def test_no_rollout_gives_counts_of_zero_and_no_figure():
    found = measure([])

    assert found.rollouts == found.prompts == found.rollouts_per_prompt == 0
    assert found.mean_reward is found.success is found.zero_share is found.not_completed_share is found.tokens is None
    assert found.pass_k == ()
    assert all(value in (0, None, 1.0) for value in found.to_dict().values())


def test_one_rollout_has_no_spread_and_no_interval_of_its_reward():
    found = measure([record(reward=0.5)])

    assert (found.reward.mean, found.reward.std, found.mean_reward.low) == (0.5, None, None)
    assert found.groups.compared == 0
    assert found.groups.zero_variance_share is found.groups.within.mean is found.groups.valid_ratio is None
    assert [(p.k, p.pass_at.value) for p in found.pass_k] == [(1, 0.0)]


def test_all_unreported_is_no_figure_of_rewards_at_all():
    found = measure(table([None, None], [None, None]))

    assert (found.left_out, found.unreported, found.succeeded, found.below_threshold) == (4, 4, 0, 0)
    assert found.mean_reward is found.reward.mean is found.zero_share is found.success is None
    assert found.pass_k == ()
    assert found.groups.completion_ratio == 0.0
    assert found.groups.compared == found.groups.zero_variance == 0


def test_rollout_without_a_reward_is_not_zero_and_not_hidden():
    found = measure(table([1.0, None], [1.0, 1.0], status=COMPLETED))

    assert found.reward.mean == 1.0
    assert found.zero_share == 0.0
    assert found.success.value == 0.75
    assert found.pass_k[1].pass_power.value == 0.5
    assert found.groups.compared == 1
    assert found.groups.completion_ratio == 0.5


def test_reward_that_is_no_number_counts_as_none():
    found = measure(table([1.0, math.nan], [math.inf, 0.0]))

    assert (found.no_reward, found.reward.max, found.success.value) == (2, 1.0, 0.25)


def failed(*keys, floor=0.0, kind=FailureKind.AGENT):
    return [record(prompt, sample, floor, status=FAILED, failure=kind) for prompt, sample in keys]


def test_rollouts_that_failed_are_left_out_and_counted_by_kind():
    """Two of six rollouts failed; a floor of 0 was sent for one, and of -1 for the other."""
    broken = [record(1, 2, None, status=FAILED, failure=FailureKind.INFRASTRUCTURE, floor=0.0)]
    run = [*table([1.0, 0.0], [1.0, 1.0]), *failed((0, 2), floor=-1.0), *broken]

    found = measure(run)

    assert found.failures == {"agent": 1, "infrastructure": 1}
    assert (found.left_out, found.no_reward, found.rollouts, found.failed) == (2, 0, 6, 2)
    assert (found.reward.mean, found.reward.min, found.zero_share) == (0.75, 0.0, 0.25)
    assert (found.success.value, [p.k for p in found.pass_k]) == (0.75, [1, 2])
    assert found.groups.completion_ratio == 0.0  # no group has all its three
    assert (found.rollouts_per_prompt, found.smallest_group) == (3, 3)
    assert (found.groups.compared, found.groups.zero_variance_right) == (2, 1)


def test_rollouts_that_failed_count_as_zero_when_told_so():
    run = [*table([1.0, 1.0], [1.0, 1.0]), *failed((0, 2), floor=-1.0), record(1, 2, None, status=UNREPORTED)]

    found = measure(run, failures_as_zero=True)

    assert found.failures == {"agent": 1, "unknown": 1}
    assert (found.left_out, found.no_reward) == (0, 0)
    assert (found.reward.mean, found.reward.min) == (pytest.approx(4 / 6), 0.0)
    assert [p.pass_at.value for p in found.pass_k] == pytest.approx([2 / 3, 1.0, 1.0])
    assert found.groups.zero_variance == 0
    assert found.groups.completion_ratio == 1.0


def test_prompt_of_which_all_rollouts_failed_is_no_prompt_that_nobody_solved():
    run = [*table([1.0, 0.0]), *failed((1, 0), (1, 1))]

    found = measure(run)

    assert found.success.value == found.reward.mean == 0.5
    assert [(p.k, p.prompts, p.left_out) for p in found.pass_k] == [(1, 1, 1), (2, 1, 1)]
    assert found.prompts == 2
    assert measure(run, failures_as_zero=True).success.value == 0.25


def test_record_of_an_older_version_that_failed_is_left_out_though_it_has_a_floor():
    found = measure([record(0, 0, 1.0), record(0, 1, 0.0, status=FAILED)])

    assert (found.reward.mean, found.failures) == (1.0, {"unknown": 1})


def test_kind_that_a_newer_version_wrote_is_counted_by_its_name(tmp_path):
    folder = write(tmp_path, [*table([1.0]), *failed((1, 0), kind=FailureKind.TOOL)])
    records = folder / RECORDS_FILE
    records.write_text(records.read_text().replace('"tool"', '"gremlins"'))

    assert measure(RolloutTable.read(folder)).failures == {"gremlins": 1}
    assert [r.failure for r in read_records(folder)] == [None, None]


def test_failure_that_was_repeated_with_success_is_none():
    found = measure([*failed((0, 0)), record(0, 0, 1.0, attempts=2)])

    assert (found.failures, found.reward.mean, found.superseded) == ({}, 1.0, 1)


def test_groups_of_unequal_size_leave_prompts_out_of_large_k():
    found = measure(table([1, 0, 0, 0], [1, 1], [0]))

    assert [(p.k, p.prompts, p.left_out) for p in found.pass_k] == [(1, 3, 0), (2, 2, 1), (4, 1, 2)]
    assert [p.pass_at.value for p in found.pass_k] == pytest.approx([(0.25 + 1 + 0) / 3, (0.5 + 1) / 2, 1.0])
    assert (found.smallest_group, found.rollouts_per_prompt) == (1, 4)


@pytest.mark.parametrize(
    ("rewards", "threshold", "kind"),
    [
        pytest.param([1, 1], 1.0, "all_right", id="right"),
        pytest.param([2, 2], 1.0, "all_right", id="above"),
        pytest.param([0, 0], 1.0, "all_wrong", id="zero"),
        pytest.param([-0.1, -0.1], 1.0, "all_wrong", id="negative"),
        pytest.param([0.5, 0.5], 1.0, "other", id="in-between"),
        pytest.param([0, 0], 0.0, "all_right", id="zero-is-success"),
        pytest.param([0.1 + 0.2, 0.3], 1.0, "other", id="equal-but-for-rounding"),
        pytest.param([0.3, 0.3001], 1.0, None, id="different"),
        pytest.param([1, None], 1.0, None, id="one-reward-only"),
    ],
)
def test_groups_without_variance_are_split(rewards, threshold, kind):
    found = figures(table(rewards), success_threshold=threshold)

    kinds = {"all_right", "all_wrong", "other"}
    assert {name for name in kinds if found[f"analysis/zero_adv_{name}"]} == ({kind} if kind else set())


def test_last_record_of_a_rollout_counts():
    again = [record(0, 0, None, attempts=1), record(0, 1, 0.0), record(0, 0, 1.0, attempts=2)]

    found = measure(again)

    assert (found.rollouts, found.superseded, found.retried, found.reward.mean) == (2, 1, 1, 0.5)


def test_what_was_to_be_run_decides_over_completion():
    records = table([1, 0], [1, None])

    assert measure(records).groups.completion_ratio == 0.5
    assert measure(records, prompts=4).groups.completion_ratio == 0.25
    assert measure(records, prompts=4).groups.valid_ratio == 0.25
    assert measure(records, prompts=4, group_size=3).groups.completion_ratio == 0.0
    assert measure([record(prompt=3)]).expected_prompts == 4


def test_statuses_and_attempts_are_counted():
    records = [record(0, 0), record(0, 1, 0.0, status=FAILED), record(0, 2, None, status=UNREPORTED)]

    found = measure(records)

    assert (found.completed, found.failed, found.unreported) == (1, 1, 1)
    assert found.not_completed_share == pytest.approx(2 / 3)
    assert COMPLETED is records[0].status


def test_tokens_at_the_limit_are_a_share_of_rollouts():
    records = [record(0, n, prompt_tokens=(10, 20), response_tokens=(5, 50 if n else 100)) for n in range(4)]

    assert measure(records).tokens.at_limit_share == 0.25
    assert measure(records, max_tokens=50).tokens.at_limit_share == 1.0
    assert measure(records, max_tokens=200).tokens.at_limit_share == 0.0
    assert measure(records).tokens.prompt_mean == 15


def test_tokens_of_one_side_only_are_kept():
    found = measure([record(prompt_tokens=(7,)), record(0, 1)]).tokens

    assert (found.rollouts, found.prompt_mean, found.response.mean, found.at_limit_share) == (1, 7, None, None)


def test_ks_may_be_chosen():
    found = measure(table([1, 0, 1, 1]), ks=[3, 2, 3, 64])

    assert [p.k for p in found.pass_k] == [2, 3]
    assert found.success is None


@pytest.mark.parametrize("wrong", [{"ks": [0]}, {"confidence": 0.0}, {"confidence": 1.0}])
def test_options_without_a_meaning_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        measure(table([1]), **wrong)


def test_numbers_that_the_handler_reports_have_a_mean_over_rollouts_and_an_interval_over_prompts():
    rng = random.Random(3)
    steps = [[rng.randint(1, 9) for _ in range(rng.randint(1, 4))] for _ in range(60)]
    records = [
        record(p, s, metrics={"steps": value, "note": "text", "ok": True, "nested": {"x": 1}, "bad": math.nan})
        for p, row in enumerate(steps)
        for s, value in enumerate(row)
    ]
    records[0] = dataclasses.replace(records[0], metrics={"steps": 2.5, "cost": 0.1})
    steps[0][0] = 2.5

    found = measure(records).reported

    flat = [value for row in steps for value in row]
    assert [(of.name, of.rollouts, of.min, of.max) for of in found] == [
        ("cost", 1, 0.1, 0.1),
        ("steps", len(flat), min(flat), max(flat)),
    ]
    assert found[1].mean.value == pytest.approx(sum(flat) / len(flat))
    assert found[1].mean.low < found[1].mean.value < found[1].mean.high
    as_rewards = measure([dataclasses.replace(r, reward=float(r.metrics["steps"]), metrics={}) for r in records])
    assert found[1].mean == as_rewards.mean_reward
    named = measure(records).to_dict()
    assert [name.rpartition("/")[2] for name in named if name.startswith("handler/steps/")] == [
        *("mean", "mean_low", "mean_high", "min", "max", "rollouts")
    ]


def test_number_that_only_a_replaced_record_has_is_not_shown():
    assert measure([record(metrics={"steps": 1}), record(metrics={}, attempts=2)]).reported == ()


def test_number_too_large_for_a_float_is_left_out():
    assert [of.name for of in measure([record(metrics={"huge": 10**400, "big": 10**300})]).reported] == ["big"]


def test_many_prompts_have_the_closed_form_and_the_same_figures():
    rng = random.Random(5)
    records = table(*[[rng.random(), rng.random(), rng.random()] for _ in range(2_600)])

    closed, drawn = measure(records, success_threshold=0.5), measure(records, success_threshold=0.5, resamples=300)

    assert (closed.interval_method, drawn.interval_method) == ("expansion", "bootstrap")
    assert without_intervals(closed.to_dict()) == without_intervals(drawn.to_dict())
    for one, other in [(closed.mean_reward, drawn.mean_reward), (closed.success, drawn.success)]:
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.15)  # 300 resamples are rough


def test_metrics_are_values():
    found = measure(table([1, 0]))

    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rollouts = 3
    assert found == measure(table([1, 0]))


@pytest.mark.parametrize("reward", [1.7e308, -1e101])
def test_reward_that_is_too_large_for_a_spread_is_named(reward):
    with pytest.raises(ConfigurationError, match=r"a reward of prompt 1 is .*; metrics take rewards up to 1e\+100"):
        measure(table([0.0, 1.0], [reward, 1.0]))
    assert measure(table([0.0, 1e99])).reward.std == pytest.approx(5e98)
