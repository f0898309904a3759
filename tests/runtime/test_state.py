"""The state machine against the contract's table, and against a model of its own under random operations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.runtime import state as machine
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.types import TrajectoryStatus as Status

OPEN = State(turns=3)
READY = State(Status.READY, 3, "ready", "c")
FAILED = State(Status.FAILED, 3, "failed", "c")
REWARDED = State(Status.REWARD_RECEIVED, 3, "ready", "c", (1.0,), "r")


@pytest.mark.parametrize(
    ("state", "outcome", "token", "expected"),
    [
        pytest.param(OPEN, "ready", None, Status.READY, id="open-ready"),
        pytest.param(OPEN, "failed", "x", Status.FAILED, id="open-failed"),
        pytest.param(OPEN, "READY", None, 400, id="outcome-is-lower-case"),
        pytest.param(OPEN, "", None, 400, id="outcome-empty"),
        pytest.param(READY, "ready", "c", Status.READY, id="replay"),
        pytest.param(READY, "ready", "other", 409, id="other-token"),
        pytest.param(READY, "ready", None, 409, id="no-token"),
        pytest.param(READY, "failed", "c", 400, id="token-with-other-decision"),
        pytest.param(READY, "failed", None, 409, id="ready-then-failed"),
        pytest.param(FAILED, "failed", "c", Status.FAILED, id="failed-replay"),
        pytest.param(FAILED, "ready", None, 409, id="failed-then-ready"),
        pytest.param(REWARDED, "ready", "c", Status.REWARD_RECEIVED, id="replay-after-reward"),
        pytest.param(REWARDED, "ready", "r", 409, id="token-of-the-reward"),
    ],
)
def test_complete_in_each_state_then_the_contract_says(state, outcome, token, expected):
    assert _status(lambda: machine.complete(state, "t", outcome, token)) == expected


@pytest.mark.parametrize(
    ("state", "rewards", "token", "strict", "expected"),
    [
        pytest.param(OPEN, (1.0,), None, True, 409, id="open"),
        pytest.param(OPEN, (1.0,), None, False, 409, id="open-not-strict"),
        pytest.param(READY, (1.0,), None, True, Status.REWARD_RECEIVED, id="one"),
        pytest.param(READY, (1.0, 0.0, 0.5), "x", True, Status.REWARD_RECEIVED, id="one-per-turn"),
        pytest.param(READY, (1.0, 0.0), None, True, 400, id="wrong-length"),
        pytest.param(READY, (1.0, 0.0), None, False, Status.REWARD_RECEIVED, id="wrong-length-not-strict"),
        pytest.param(READY, (), None, False, 400, id="empty"),
        pytest.param(READY, (math.nan,), None, False, 400, id="nan"),
        pytest.param(FAILED, (0.0,), None, True, 409, id="failed"),
        pytest.param(FAILED, (0.0,), None, False, Status.REWARD_RECEIVED, id="failed-not-strict"),
        pytest.param(REWARDED, (1.0,), "r", True, Status.REWARD_RECEIVED, id="replay"),
        pytest.param(REWARDED, (0.0,), "r", True, 400, id="token-with-other-rewards"),
        pytest.param(REWARDED, (1.0,), None, True, 409, id="second"),
        pytest.param(REWARDED, (1.0,), "x", False, 409, id="second-not-strict"),
    ],
)
def test_reward_in_each_state_then_the_contract_says(state, rewards, token, strict, expected):
    assert _status(lambda: machine.reward(state, "t", rewards, token, strict=strict)) == expected


@pytest.mark.parametrize("state", [READY, FAILED, REWARDED])
def test_turn_when_sealed_then_400_because_sampling_knows_no_conflict(state):
    assert _status(lambda: machine.add_turn(state, "t")) == 400
    assert machine.add_turn(OPEN, "t").turns == 4


@pytest.mark.parametrize(
    ("state", "kinds"),
    [
        (OPEN, ["open"]),
        (READY, ["unrewarded"]),
        (READY._replace(turns=0), ["unrewarded", "no-turns"]),
        (REWARDED, []),
        (REWARDED._replace(turns=0), ["no-turns"]),
        (FAILED._replace(turns=0), []),
    ],
)
def test_problems_in_each_state_then_named(state, kinds):
    assert [problem.kind for problem in machine.find_problems(state, "t")] == kinds


_tokens = st.sampled_from([None, "a", "b"])
_operations = st.lists(
    st.one_of(
        st.tuples(st.just("turn")),
        st.tuples(st.just("complete"), st.sampled_from(["ready", "failed", "nonsense"]), _tokens),
        st.tuples(st.just("reward"), st.lists(st.sampled_from([0.0, 1.0]), max_size=3), _tokens),
    ),
    max_size=12,
)


@given(operations=_operations, strict=st.booleans())
def test_any_sequence_of_operations_then_no_way_back_and_the_contracts_codes(operations, strict):
    order = [Status.PENDING, Status.FAILED, Status.READY, Status.REWARD_RECEIVED]
    state = State()
    for name, *arguments in operations:
        before = state
        outcome = _outcome(_step, state, name, arguments, strict)
        if not isinstance(outcome, State):
            assert outcome == 400 if name == "turn" else outcome in (400, 409)
            continue
        state = outcome
        assert order.index(state.status) >= order.index(before.status)
        assert (state.rewards is not None) == (state.status is Status.REWARD_RECEIVED)
        assert before.rewards is None or state.rewards == before.rewards
        assert before.completed_as is None or state.completed_as == before.completed_as
        assert state.turns == before.turns + (name == "turn")
        if before.status is not Status.PENDING:
            assert state.turns == before.turns
        if strict and before.status is Status.FAILED:
            assert state is before


def _step(state, name, arguments, strict):
    if name == "turn":
        return machine.add_turn(state, "t")
    if name == "complete":
        return machine.complete(state, "t", *arguments)
    return machine.reward(state, "t", tuple(arguments[0]), arguments[1], strict=strict)


def _outcome(operation, *arguments):
    try:
        return operation(*arguments)
    except Refusal as refusal:
        return refusal.status


def _status(operation):
    outcome = _outcome(operation)
    return outcome.status if isinstance(outcome, State) else outcome
