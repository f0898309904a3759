from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from aws_rft_sdk.jobs import Step
from aws_rft_sdk.jobs._advice import ADVICE
from aws_rft_sdk.jobs.alarms import KINDS, alarms
from tests.jobs.hard_streams import HARD_STREAMS
from tests.jobs.streams import STREAMS, run, spiked

ALL = STREAMS | HARD_STREAMS


@pytest.mark.parametrize("name", ALL)
def test_stream_when_judged_then_exactly_the_right_alarms_are_raised(name: str) -> None:
    """Of 50 seeds of each stream 99.7 % are judged exactly; these are three of them."""
    make, kinds = ALL[name]
    for seed in range(3):
        raised = alarms(make(random.Random(f"{name}{seed}")))
        assert {alarm.kind for alarm in raised} == kinds, seed
        assert len(raised) == len(kinds)
        assert [alarm.step for alarm in raised] == sorted(alarm.step for alarm in raised)


def test_kinds_when_listed_then_they_are_those_of_the_contract() -> None:
    assert set(KINDS) == {
        *("reward_flat", "reward_falling", "reward_saturated", "entropy_collapse", "gradient_spike"),
        *("length_growth", "dead_groups", "truncation", "overfitting", "missing_steps"),
    }
    assert set().union(*(kinds for _, kinds in STREAMS.values())) == set(ADVICE)


def test_alarm_when_raised_then_evidence_has_the_figures() -> None:
    (spike,) = alarms(spiked(run(random.Random(1)), [35], 100))
    assert spike.step == 36
    assert "step 36" in spike.evidence
    assert spike.advice
    assert "this package" in spike.source
    (gap,) = alarms([step for step in run(random.Random(1)) if step.step not in (7, 20, 21)])
    assert (gap.step, gap.evidence) == (7, "no record of step 7, steps 20 to 21")


def test_truncation_when_the_limit_is_given_then_lengths_are_compared_with_it() -> None:
    steps = run(random.Random(1), length=lambda x: 780, length_noise=0.01)
    assert alarms(steps) == []
    (alarm,) = alarms(steps, max_response_tokens=800)
    assert (alarm.kind, "800" in alarm.evidence) == ("truncation", True)


def test_steps_when_in_any_order_and_twice_then_alarms_are_the_same() -> None:
    steps = spiked(run(random.Random(1)), [35], 100)
    assert alarms([*reversed(steps), *steps]) == alarms(steps)
    assert alarms([Step(1)]) == []


def test_metrics_when_not_finite_then_they_are_absent_but_for_an_infinite_gradient() -> None:
    nan = dict.fromkeys(("reward_mean", "entropy", "response_length_mean", "validation_reward_mean"), math.nan)
    steps = run(random.Random(1))
    odd = [replace(step, **nan) if step.step % 3 == 0 else step for step in steps]
    assert alarms(odd) == []
    assert [alarm.kind for alarm in alarms([*odd, Step(68, grad_norm=math.inf)])] == ["gradient_spike"]
    assert alarms([Step(n, response_length_mean=-1.0, reward_mean=0.1 * n) for n in range(9)]) == []
