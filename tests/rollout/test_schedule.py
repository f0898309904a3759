import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.rollout.schedule import DEFAULT_RETRIES, Pace, Schedule, parse_retries, parse_retry_budget


def drive(schedule, places, failures, pick):
    """Run a schedule with `places` rollouts in flight; return the attempts in the order in which they began."""
    begun, running = [], []
    while True:
        while len(running) < places and (planned := schedule.next()):
            begun.append(planned)
            running.append(planned)
        if not running:
            return begun
        ended = running.pop(pick(len(running)))
        if failures.get((ended.prompt_index, ended.sample_index), 0) >= ended.attempt:
            schedule.failed(ended, FailureKind.AGENT)


@st.composite
def runs(draw):
    groups, size = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    keys = st.tuples(st.integers(0, groups - 1), st.integers(0, size - 1))
    failures = draw(st.dictionaries(keys, st.integers(0, 4)))
    done = draw(st.sets(keys))
    picks = draw(st.randoms(use_true_random=False))
    return groups, size, failures, done, lambda count: picks.randrange(count)


@given(runs(), st.integers(1, 6), st.integers(0, 3))
def test_schedule_when_driven_then_groups_begin_in_order_and_each_rollout_runs_as_often_as_it_may(run, places, retries):
    groups, size, failures, done, pick = run

    begun = drive(Schedule([f"p{n}" for n in range(groups)], size, done=done, retries=retries), places, failures, pick)

    first = [item[:2] for item in begun if item.attempt == 1]
    assert first == [(p, s) for p in range(groups) for s in range(size) if (p, s) not in done]
    for key in first:
        attempts = [item.attempt for item in begun if item[:2] == key]
        assert attempts == list(range(1, 2 + min(retries, failures.get(key, 0))))
    assert all(item.prompt == f"p{item.prompt_index}" for item in begun)


@given(runs(), st.integers(0, 5))
def test_schedule_when_one_at_a_time_then_no_rollout_begins_while_a_repetition_waits(run, budget):
    groups, size, failures, done, pick = run
    schedule = Schedule(["p"] * groups, size, done=done, retries=9, retry_budget=budget)

    begun = drive(schedule, 1, failures, pick)

    assert [item[:3] for item in begun] == sorted(item[:3] for item in begun)
    assert sum(item.attempt > 1 for item in begun) == min(budget, sum(n for k, n in failures.items() if k not in done))


def test_schedule_when_attempts_were_made_before_then_they_are_counted_and_cost_no_retry():
    schedule = Schedule(["p"], 1, attempts={(0, 0): 3}, retries=1)

    planned = schedule.next()

    assert planned.attempt == 4
    assert schedule.failed(planned, FailureKind.AGENT)
    assert schedule.next().attempt == 5
    assert not schedule.failed(planned._replace(attempt=5), FailureKind.AGENT)


def test_pace_when_starts_are_due_then_they_are_spaced_evenly_and_do_not_come_in_bursts():
    pace = Pace(5)
    now, starts = 100.0, []
    for _ in range(10):
        now += pace.wait_seconds(now)
        starts.append(now)
        pace.started(now)
    assert [round(later - earlier, 6) for earlier, later in itertools.pairwise(starts)] == [0.2] * 9

    pace.started(now + 60)  # nothing began for a minute
    assert pace.wait_seconds(now + 60) == pytest.approx(0.2)


def test_pace_when_there_is_no_limit_then_nothing_waits():
    pace = Pace(None)
    pace.started(5.0)

    assert pace.wait_seconds(5.0) == 0


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("7", 7), ("20%", 2), ("0%", 0), ("25.5%", 3), ("100%", 10)])
def test_retry_budget_when_given_then_it_is_a_count_or_a_share_of_ten_rollouts(value, expected):
    assert parse_retry_budget(value, 10) == expected


@pytest.mark.parametrize("value", ["", "-1", "x", "%", "-5%", "nan%", "inf%", "1.5"])
def test_retry_budget_when_it_is_neither_then_it_is_refused(value):
    with pytest.raises(ConfigurationError, match="retry-budget"):
        parse_retry_budget(value, 10)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (DEFAULT_RETRIES, {"infrastructure": 2}),
        ("0", {}),
        ("3", dict.fromkeys(FailureKind, 3)),
        ("infrastructure=2,model=1", {"infrastructure": 2, "model": 1}),
        (" agent = 1 , tool=0", {"agent": 1}),
    ],
)
def test_retries_when_given_then_there_is_a_number_for_each_kind(value, expected):
    assert parse_retries(value) == dict.fromkeys(FailureKind, 0) | expected


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "agent", "agent=", "agent=x", "agent=1,2", "=1", "agent=-1"])
def test_retries_when_they_have_another_form_then_they_are_refused(value):
    with pytest.raises(ConfigurationError, match="retries"):
        parse_retries(value)


def test_retries_when_there_is_no_such_kind_then_the_kinds_are_named():
    with pytest.raises(ConfigurationError, match=r"'infra'; the kinds are agent, tool, model, .*infrastructure"):
        parse_retries("infra=2")
