from __future__ import annotations

import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import RewardError
from aws_rft_sdk.types import (
    RolloutResult,
    Trajectory,
    TrajectoryStatus,
    Turn,
    carries_reward,
    parse_reward,
    parse_rewards,
)

GOOD: list[Any] = [
    pytest.param(1, 1.0, id="int"),
    pytest.param(-0.5, -0.5, id="negative"),
    pytest.param(0, 0.0, id="zero"),
    pytest.param(Decimal("0.25"), 0.25, id="decimal"),
    pytest.param(Fraction(1, 4), 0.25, id="fraction"),
    *(
        pytest.param(np.dtype(name).type(2), 2.0, id=f"numpy-{name}")
        for name in ("int8", "uint64", "float16", "float32", "float64", "longdouble")
    ),
    pytest.param(np.array(0.5), 0.5, id="numpy-0-d"),
    pytest.param(10**300, 1e300, id="large-int"),
]


@pytest.mark.parametrize(("value", "expected"), GOOD)
def test_parse_reward_when_it_is_a_number_then_a_plain_float(value: object, expected: float) -> None:
    reward = parse_reward(value)
    assert reward == expected
    assert type(reward) is float
    assert parse_rewards(value) == (expected,)
    assert RolloutResult.of(value) == RolloutResult(reward=expected)
    assert RolloutResult.of({"reward": value}) == RolloutResult(reward=expected)


BAD: list[Any] = [
    pytest.param(True, id="true"),
    pytest.param(False, id="false"),
    pytest.param(np.bool_(True), id="numpy-bool"),
    pytest.param(np.array(True), id="numpy-0-d-bool"),
    pytest.param(float("nan"), id="nan"),
    pytest.param(float("inf"), id="inf"),
    pytest.param(float("-inf"), id="minus-inf"),
    pytest.param(np.float32("nan"), id="numpy-nan"),
    pytest.param(np.float64("inf"), id="numpy-inf"),
    pytest.param(Decimal("NaN"), id="decimal-nan"),
    pytest.param(Decimal("sNaN"), id="decimal-signalling-nan"),
    pytest.param(Decimal("Infinity"), id="decimal-inf"),
    pytest.param(Decimal("1e400"), id="decimal-too-large"),
    pytest.param(10**400, id="int-too-large"),
    pytest.param(Fraction(10**400), id="fraction-too-large"),
    pytest.param(1j, id="complex"),
    pytest.param(np.complex64(1), id="numpy-complex"),
    pytest.param(np.datetime64("2020-01-01"), id="numpy-date"),
]
NO_NUMBERS: list[Any] = [
    pytest.param("0.5", id="string"),
    pytest.param(b"1", id="bytes"),
    pytest.param(bytearray(b"1"), id="bytearray"),
    pytest.param({"a": 1}, id="dict"),
    pytest.param({1.0}, id="set"),
    pytest.param(object(), id="object"),
]


@pytest.mark.parametrize("value", [*BAD, *NO_NUMBERS, pytest.param(None, id="none")])
def test_parse_reward_when_it_is_no_finite_number_then_reward_error(value: object) -> None:
    with pytest.raises(RewardError):
        parse_reward(value)
    with pytest.raises(RewardError):
        parse_rewards(value)
    with pytest.raises(RewardError, match="turn 1"):
        parse_rewards([1.0, value])


@pytest.mark.parametrize("value", [*BAD, *NO_NUMBERS])
@pytest.mark.parametrize("key", ["reward", "rewards"])
def test_result_of_when_a_mapping_carries_no_number_then_reward_error(key: str, value: object) -> None:
    assert carries_reward({key: value})
    with pytest.raises(RewardError):
        RolloutResult.of({key: value})


@pytest.mark.parametrize("value", [True, float("nan"), np.bool_(False), np.array(True), Decimal("NaN")])
def test_result_of_when_it_is_bare_and_no_finite_number_then_reward_error(value: object) -> None:
    assert carries_reward(value)
    with pytest.raises(RewardError):
        RolloutResult.of(value)


@pytest.mark.parametrize("value", [10**5000, Fraction(10**5000)], ids=["int", "fraction"])
def test_parse_reward_when_the_number_has_too_many_digits_to_print_then_reward_error(value: object) -> None:
    try:
        parse_reward(value)
    except RewardError:
        return


LISTS: list[Any] = [
    pytest.param([1, 0.5], (1.0, 0.5), id="list"),
    pytest.param((1, 2), (1.0, 2.0), id="tuple"),
    pytest.param([1], (1.0,), id="one"),
    pytest.param(range(3), (0.0, 1.0, 2.0), id="range"),
    pytest.param(np.array([1, 2], dtype="int16"), (1.0, 2.0), id="numpy-ints"),
    pytest.param(np.array([0.5], dtype="float32"), (0.5,), id="numpy-floats"),
    pytest.param([np.float32(0.5), Decimal(1)], (0.5, 1.0), id="mixed"),
]


@pytest.mark.parametrize(("value", "expected"), LISTS)
def test_parse_rewards_when_it_is_a_list_then_floats_in_turn_order(value: object, expected: tuple[float, ...]) -> None:
    assert parse_rewards(value) == expected
    assert all(type(reward) is float for reward in parse_rewards(value))
    for key in ("reward", "rewards"):
        result = RolloutResult.of({key: value})
        assert result == RolloutResult(rewards=expected)
        assert result.rewards == expected


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="empty"),
        pytest.param((), id="empty-tuple"),
        pytest.param(np.array([]), id="empty-numpy"),
        pytest.param([[1.0]], id="nested"),
        pytest.param(np.zeros((2, 2)), id="numpy-2-d"),
        pytest.param(np.array([True, False]), id="numpy-bools"),
        pytest.param(np.array([1.0, np.nan]), id="numpy-nan"),
        pytest.param(np.array(["1"]), id="numpy-strings"),
        pytest.param([None], id="none-within"),
        pytest.param(["0.5"], id="string-within"),
    ],
)
@pytest.mark.parametrize("key", ["reward", "rewards"])
def test_result_of_when_a_list_is_malformed_then_reward_error(key: str, value: object) -> None:
    with pytest.raises(RewardError):
        RolloutResult.of({key: value})


@pytest.mark.parametrize(
    "value", [None, "done", "0.5", b"", {}, {"answer": 4}, {"reward": None}, [1.0], object(), RolloutResult()]
)
def test_result_of_when_it_carries_no_reward_then_none(value: object) -> None:
    assert not carries_reward(value)
    assert RolloutResult.of(value) is None


def test_result_of_when_reward_and_rewards_are_given_then_the_turns_are_sent() -> None:
    result = RolloutResult.of({"reward": 1, "rewards": [0.5, 0.5], "metrics": {"steps": [2]}, "state": [7]})
    assert result == RolloutResult(1.0, (0.5, 0.5), {"steps": [2]}, state=[7])
    assert result.rewards == (0.5, 0.5)


@pytest.mark.parametrize("reward", [float("nan"), True, "1"])
def test_rollout_result_when_made_with_no_number_then_reward_error(reward: Any) -> None:
    with pytest.raises(RewardError):
        RolloutResult(reward=reward)
    with pytest.raises(RewardError):
        RolloutResult(rewards=(reward,))


def test_rollout_result_when_made_then_it_is_frozen_hashable_and_picklable() -> None:
    metrics = {"steps": [1]}
    result = RolloutResult(reward=np.float32(1), rewards=[1], metrics=metrics)  # type: ignore[arg-type] # lists too
    stateful = RolloutResult(1, state=metrics)
    metrics["steps"].append(2)
    assert result.metrics == stateful.state == {"steps": [1]}
    assert hash(stateful) == hash(pickle.loads(pickle.dumps(stateful)))
    assert RolloutResult(1, state=0) != RolloutResult(1) == RolloutResult(1, state=None)
    assert hash(result) == hash(pickle.loads(pickle.dumps(result)))
    assert RolloutResult(reward=0.0).rewards == (0.0,)
    assert RolloutResult().rewards is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_parse_reward_when_it_is_a_float_then_it_is_unchanged(value: float) -> None:
    assert parse_reward(value) == value


def turn(index: int, **kwargs: Any) -> Turn:
    request = {"messages": [{"role": "user", "content": f"q{index}"}]}
    response = kwargs.pop("response", {"choices": [{"message": {"role": "assistant", "content": f"a{index}"}}]})
    return Turn(index=index, span_id=None, request=request, response=response, started_at=0.0, seconds=0.0)


def test_trajectory_messages_when_there_are_turns_then_the_last_request_and_its_answer() -> None:
    trajectory = Trajectory("t", "arn", TrajectoryStatus.READY, turns=(turn(0), turn(1)))
    assert trajectory.messages == [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]


@pytest.mark.parametrize("response", [None, {}, {"choices": []}, "text"])
def test_turn_message_when_the_answer_holds_none_then_none(response: Any) -> None:
    assert turn(0, response=response).message is None
    assert Trajectory("t", "arn", TrajectoryStatus.READY, turns=(turn(0, response=response),)).messages == [
        {"role": "user", "content": "q0"}
    ]


def test_trajectory_messages_when_there_are_no_turns_then_empty() -> None:
    assert Trajectory("t", "arn", TrajectoryStatus.PENDING).messages == []


def test_result_when_it_has_one_score_then_that_is_what_the_service_gets() -> None:
    assert RolloutResult(0.5).rewards == (0.5,)
    assert RolloutResult(0.5, rewards=[0, 1]).rewards == (0.0, 1.0)
    assert RolloutResult().rewards is None


def test_result_when_it_uses_the_former_name_then_it_is_told_and_taken() -> None:
    with pytest.warns(DeprecationWarning, match="rewards="):
        result = RolloutResult(turns_rewards=[0.25, 0.75])
    assert result == RolloutResult(rewards=[0.25, 0.75])
