"""One lifecycle for all kinds of functions: each outcome with each kind, against a real server and a real client."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from fakes import TWICE, Service, error

from aws_rft_sdk import RFTContext, RolloutFeedbackClient, RolloutResult, rft_handler
from aws_rft_sdk.errors import (
    NoTrackedTurnsError,
    RewardError,
    ServiceFaultError,
    TrajectoryNotFoundError,
)

from .handler_kinds import KINDS, call

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
DONE = [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]


def impatient(request: Any) -> RolloutFeedbackClient:
    return RolloutFeedbackClient(request, backoff=TWICE)


def turn_then(result: Any) -> Callable[[Any], Any]:
    """Return a body that makes one tracked call, then returns `result` or raises it."""

    def body(payload: Any) -> Any:
        RFTContext.get_headers()
        if isinstance(result, BaseException):
            raise result
        return result

    return body


# --- the reward ------------------------------------------------------------------------------------------------------


@every_kind
def test_handler_when_it_returns_a_reward_then_it_is_reported_once_and_the_result_unchanged(
    kind: Any, service: Service
) -> None:
    result = {"reward": 1.0, "answer": "4"}
    returned = call(kind(turn_then(result)), service.payload())
    assert returned is result or result in returned
    assert service.feedback == DONE
    assert RFTContext.current() is None


@pytest.mark.parametrize(
    ("result", "rewards"),
    [
        pytest.param({"reward": 1}, [1.0], id="reward"),
        pytest.param({"reward": 0}, [0.0], id="zero"),
        pytest.param({"rewards": [0.5, 1]}, [0.5, 1.0], id="rewards"),
        pytest.param({"reward": [0.5, 1]}, [0.5, 1.0], id="list-under-reward"),
        pytest.param({"reward": np.array([0.5, 1], dtype="float32")}, [0.5, 1.0], id="numpy-list"),
        pytest.param(0.25, [0.25], id="bare"),
        pytest.param(-1, [-1.0], id="bare-int"),
        pytest.param(np.float32(0.5), [0.5], id="numpy"),
        pytest.param(Decimal("0.5"), [0.5], id="decimal"),
        pytest.param(RolloutResult(reward=1.0), [1.0], id="result"),
        pytest.param(RolloutResult(rewards=(0.0, 1.0)), [0.0, 1.0], id="result-turns"),
    ],
)
@pytest.mark.parametrize("kind", KINDS[:5], ids=lambda kind: kind.__name__)
def test_handler_when_the_reward_has_any_form_then_it_is_sent_as_numbers(
    kind: Any, result: Any, rewards: list[float], service: Service
) -> None:
    def body(payload: Any) -> Any:
        for _ in rewards:
            RFTContext.get_headers()
        return result

    call(kind(body), service.payload())
    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", rewards)]


@every_kind
@pytest.mark.parametrize("result", [{"reward": float("nan")}, {"reward": "1"}, {"rewards": []}, True], ids=str)
def test_handler_when_the_reward_is_none_then_reward_error_before_anything_is_sent(
    kind: Any, result: Any, service: Service
) -> None:
    with pytest.raises(RewardError):
        call(kind(turn_then(result)), service.payload())
    assert service.requests == []
    assert RFTContext.current() is None


@every_kind
def test_handler_when_there_is_no_reward_then_reward_error_unless_deferred(kind: Any, service: Service) -> None:
    with pytest.raises(RewardError, match="deferred"):
        call(kind(turn_then("an answer")), service.payload())
    call(kind(turn_then("an answer"), reward="deferred"), service.payload())
    assert service.requests == []
    call(kind(turn_then({"reward": 1}), reward="deferred"), service.payload())
    assert service.feedback == DONE


def test_generator_when_several_items_carry_rewards_then_the_last_counts(service: Service) -> None:
    @rft_handler(require_turns=False)
    def handler(payload: Any) -> Any:
        yield {"reward": 0.1}
        yield {"reward": 0.2}
        yield "text"

    @rft_handler(require_turns=False)
    def returning(payload: Any) -> Any:
        yield {"reward": 0.1}
        return {"reward": 0.9}

    list(handler(service.payload()))
    list(returning(service.payload()))
    assert [rewards for path, rewards in service.feedback if path == "/UpdateReward"] == [[0.2], [0.9]]


# --- turns -----------------------------------------------------------------------------------------------------------


@every_kind
def test_handler_when_no_call_was_tracked_then_no_tracked_turns_error_before_sealing(
    kind: Any, service: Service
) -> None:
    with pytest.raises(NoTrackedTurnsError, match="wrap_model"):
        call(kind(lambda payload: {"reward": 1.0}), service.payload())
    assert service.requests == []
    call(kind(lambda payload: {"reward": 1.0}, require_turns=False), service.payload())
    assert service.feedback == DONE


# --- raising ---------------------------------------------------------------------------------------------------------


class Boom(Exception):
    pass


@every_kind
@pytest.mark.parametrize(
    ("options", "feedback"),
    [
        pytest.param({}, [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])], id="floor"),
        pytest.param({"floor_reward": -1}, [("/CompleteTrajectory", None), ("/UpdateReward", [-1.0])], id="own-floor"),
        pytest.param({"on_error": "failed"}, [("/CompleteTrajectory", None)], id="failed"),
        pytest.param(
            {"on_error": lambda e: [0.5, 0.5]}, [("/CompleteTrajectory", None), ("/UpdateReward", [0.5, 0.5])], id="fn"
        ),
        pytest.param({"on_error": lambda e: None}, [("/CompleteTrajectory", None)], id="fn-none"),
        pytest.param({"reward": "deferred"}, [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])], id="deferred"),
    ],
)
def test_handler_when_it_raises_then_the_option_decides_and_the_error_goes_on_unchanged(
    kind: Any, options: dict[str, Any], feedback: list[Any], service: Service
) -> None:
    boom = Boom("x")
    with pytest.raises(Boom) as caught:
        call(kind(turn_then(boom), **options), service.payload())
    assert caught.value is boom
    assert boom.__context__ is None
    assert boom.__cause__ is None
    assert service.feedback == feedback
    assert RFTContext.current() is None


@pytest.mark.parametrize("on_error", ["failed", lambda e: None], ids=["failed", "fn"])
def test_handler_when_it_raises_on_ga_then_failed_is_a_status(
    on_error: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_API", "ga")

    @rft_handler(on_error=on_error)
    def handler(payload: Any) -> None:
        raise Boom

    with pytest.raises(Boom):
        handler(service.payload())
    assert service.feedback == [("/complete-rollout", "failed")]


@every_kind
def test_handler_when_reporting_the_error_fails_too_then_both_are_visible(kind: Any, service: Service) -> None:
    service.policy = lambda request: error(500, "sorry")
    with pytest.raises(Boom) as caught:
        call(kind(turn_then(Boom("mine")), client=impatient), service.payload())
    assert isinstance(caught.value.__context__, ServiceFaultError)
    links: list[BaseException | None] = [caught.value]
    while links[-1] is not None:
        assert links.count(links[-1]) == 1, "the chain is a ring"
        links.append(links[-1].__context__)
    shown = "".join(traceback.format_exception(caught.value))
    assert "mine" in shown
    assert "sorry" in shown


@every_kind
def test_handler_when_the_reward_cannot_be_delivered_then_the_caller_sees_it(kind: Any, service: Service) -> None:
    service.policy = lambda request: error(404)
    with pytest.raises(TrajectoryNotFoundError):
        call(kind(turn_then({"reward": 1})), service.payload())


def test_handler_when_the_error_has_a_history_then_reporting_stands_at_its_end(service: Service) -> None:
    service.policy = lambda request: error(404)

    @rft_handler
    def handler(payload: Any) -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise Boom("second") from first

    with pytest.raises(Boom) as caught:
        handler(service.payload())
    first = caught.value.__cause__
    assert isinstance(first, KeyError)
    assert isinstance(first.__context__, TrajectoryNotFoundError)
    traceback.format_exception(caught.value)  # the chain is no ring


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes before Python 3.11; the log has it")
def test_handler_when_the_error_hides_its_context_then_reporting_is_shown_all_the_same(service: Service) -> None:
    service.policy = lambda request: error(404, "sorry")

    @rft_handler
    def handler(payload: Any) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise Boom("second") from None

    with pytest.raises(Boom) as caught:
        handler(service.payload())
    assert "sorry" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "bad", [lambda e: True, lambda e: float("nan"), lambda e: 1 / 0], ids=["bool", "nan", "raises"]
)
def test_handler_when_on_error_itself_is_wrong_then_both_errors_are_visible(bad: Any, service: Service) -> None:
    @rft_handler(on_error=bad)
    def handler(payload: Any) -> None:
        raise Boom

    with pytest.raises(Boom) as caught:
        handler(service.payload())
    assert isinstance(caught.value.__context__, (RewardError, ZeroDivisionError))
    assert service.requests == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_handler_when_it_is_interrupted_then_it_counts_as_an_error(interrupt: Any, service: Service) -> None:
    @rft_handler
    def handler(payload: Any) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        handler(service.payload())
    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]


# --- reported inside -------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("result", [None, {"reward": 0.5}], ids=["no-result", "another-reward"])
def test_handler_when_it_reported_itself_then_nothing_is_reported_twice(
    kind: Any, result: Any, service: Service
) -> None:
    def body(payload: Any) -> Any:
        RFTContext.get_headers()
        RolloutFeedbackClient(payload).report_complete(1.0)
        return result

    call(kind(body), service.payload())
    assert service.feedback == DONE


@every_kind
def test_handler_when_it_sealed_itself_then_only_the_reward_is_added(kind: Any, service: Service) -> None:
    def body(payload: Any) -> Any:
        RFTContext.get_headers()
        RolloutFeedbackClient(payload).complete_trajectory()
        return {"reward": 1.0}

    call(kind(body), service.payload())
    assert service.feedback == DONE


def test_handler_when_it_reported_and_then_raises_then_the_reward_stands(service: Service) -> None:
    @rft_handler
    def rewarded(payload: Any) -> None:
        RolloutFeedbackClient(payload).report_complete(1.0)
        raise Boom

    @rft_handler(floor_reward=-1)
    def sealed(payload: Any) -> None:
        RolloutFeedbackClient(payload).complete_trajectory()
        raise Boom

    for handler in (rewarded, sealed):
        with pytest.raises(Boom):
            handler(service.payload())
    assert service.feedback == [*DONE, ("/CompleteTrajectory", None), ("/UpdateReward", [-1.0])]


def test_handler_when_a_client_reported_another_trajectory_then_this_one_still_needs_a_reward(service: Service) -> None:
    @rft_handler
    def handler(payload: Any) -> None:
        RFTContext.get_headers()
        RolloutFeedbackClient(service.payload("another")).report_complete(1.0)

    with pytest.raises(RewardError):
        handler(service.payload())


@every_kind
def test_handler_when_delivered_twice_then_the_client_tokens_are_equal(kind: Any, service: Service) -> None:
    handler = kind(turn_then({"reward": 1}))
    for _ in range(2):
        call(handler, service.payload())
    tokens = [r.json["ClientToken"] for r in service.requests]
    assert tokens[:2] == tokens[2:]
    assert len(set(tokens)) == 2


@every_kind
def test_handler_when_called_with_wrong_arguments_then_that_is_an_error_of_the_rollout(
    kind: Any, service: Service
) -> None:
    handler = kind(turn_then(1.0), floor_reward=-1.0)
    with pytest.raises(TypeError, match="unknown"):
        call(handler, service.payload(), unknown=1)
    assert service.feedback == [DONE[0], ("/UpdateReward", [-1.0])]
