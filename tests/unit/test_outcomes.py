from __future__ import annotations

import json

import pytest

from aws_rft_sdk.failures import FailureKind, RolloutStatus
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.lifecycle.telling import read_told, tell

COMPLETED = RolloutOutcome(
    RolloutStatus.COMPLETED, rewards=(1.0, 0.5), turns=2, seconds=0.5, metrics={"a": [1]}, state=[{}]
)
FAILED = RolloutOutcome(
    RolloutStatus.FAILED,
    rewards=(0.0,),
    unsure_turns=1,
    refused_calls=2,
    foreign_calls=3,
    error="LookupError: no order: A1",
    traceback="Traceback",
    failure=FailureKind.TOOL,
)
DEFERRED = RolloutOutcome(
    RolloutStatus.UNREPORTED,
    error="the handler returned without a reward (reward='deferred')",
    failure=FailureKind.AGENT,
)


@pytest.mark.parametrize("outcome", [COMPLETED, FAILED, DEFERRED], ids=["completed", "failed", "deferred"])
def test_outcome_when_told_in_json_then_read_as_it_was(outcome: RolloutOutcome) -> None:
    assert read_told(json.loads(json.dumps(tell("t-1", outcome))), "t-1") == outcome


@pytest.mark.parametrize(
    ("outcome", "error_type", "message"),
    [
        (FAILED, "LookupError", "no order: A1"),
        (DEFERRED, None, "the handler returned without a reward (reward='deferred')"),
        (COMPLETED, None, None),
    ],
    ids=["failed", "deferred", "completed"],
)
def test_outcome_when_told_then_an_error_type_says_that_the_handler_raised(
    outcome: RolloutOutcome, error_type: str | None, message: str | None
) -> None:
    told = tell("t-1", outcome)

    assert (told["errorType"], told["errorMessage"]) == (error_type, message)


def test_rollout_when_running_then_told_so_and_read_as_none() -> None:
    told = tell("t-1", None)

    assert told["status"] == "running"
    assert read_told(told, "t-1") is None


@pytest.mark.parametrize("value", [None, [], {}, {"trajectoryId": "t-2", "status": "failed"}, {"trajectoryId": "t-1"}])
def test_read_told_when_another_program_has_written_it_then_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"no answer about|not a valid"):
        read_told(value, "t-1")
