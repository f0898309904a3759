"""A reward Lambda scores the rows of a batch at once, in its time, and fails rather than pay a floor to every row."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards import JudgeResult, RewardResult, check_reply, gsm8k, reward_lambda
from aws_rft_sdk.rewards.judge_models import Failure

WAIT = 60


def row(answer, identity="a", truth="4"):
    return {"id": identity, "messages": [{"role": "assistant", "content": answer}], "reference_answer": truth}


class Context:
    def __init__(self, *millis):
        self._millis = [*millis]

    def get_remaining_time_in_millis(self):
        return self._millis.pop(0) if len(self._millis) > 1 else self._millis[0]


def scores(reply):
    return [result["aggregate_reward_score"] for result in reply]


@pytest.mark.parametrize("rows", [2, 4], ids=str)
def test_rows_when_the_reward_waits_then_they_run_at_once_and_stay_in_order(rows):
    together = threading.Barrier(rows)

    def reward(rollout):
        together.wait(WAIT)
        return float(rollout.answer)

    event = [row(str(number), f"id-{number}") for number in range(3 * rows)]
    reply = reward_lambda(reward, concurrency=rows)(event, Context(900_000))
    assert scores(reply) == [float(number) for number in range(3 * rows)]
    assert check_reply(event, reply) == []


def test_rows_when_concurrency_is_one_then_they_run_in_the_calling_thread():
    seen = []
    reward_lambda(lambda rollout: seen.append(threading.current_thread()) or 1.0, concurrency=1)([row("")] * 3)
    assert seen == [threading.current_thread()] * 3


@pytest.mark.parametrize("in_a_thread", [False, True], ids=["main-thread", "other-thread"])
def test_batch_when_more_rows_hang_than_there_are_threads_then_the_others_are_scored(in_a_thread):
    released = threading.Event()

    def reward(rollout):
        return float(released.wait(WAIT)) if rollout.answer == "hangs" else 1.0

    event = [row("hangs")] * 5 + [row("good")] * 3
    handler = reward_lambda(reward, floor=-1.0, concurrency=2)
    if in_a_thread:
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(handler, event, Context(1500)).result(WAIT)
    else:
        reply = handler(event, Context(1500))
    released.set()
    assert scores(reply) == [-1.0] * 5 + [1.0] * 3


def test_batch_when_no_time_is_left_then_rows_do_not_begin():
    began = []
    handler = reward_lambda(lambda rollout: began.append(rollout.answer) or 1.0, concurrency=1)
    assert scores(handler([row("in time"), row("late")], Context(900_000, 50))) == [1.0, 0.0]
    assert began == ["in time"]


def raising(error):
    def reward(rollout):
        raise error

    return reward


NO_ANSWER = {"id": "a", "messages": [{"role": "user", "content": "?"}]}
THROTTLED = JudgeResult(None, failure=Failure.THROTTLED, detail="too many requests")
SAME_REASON = [
    pytest.param(lambda rollout: None, row("x"), RewardError, "returned None", id="none"),
    pytest.param(lambda rollout: THROTTLED, row("x"), RewardError, "throttled: too many requests", id="judge"),
    pytest.param(lambda rollout: RewardResult(None), row("x"), RewardError, "returned None", id="result"),
    pytest.param(raising(KeyError("gold")), row("x"), RewardError, "KeyError: 'gold'", id="raises"),
    pytest.param(raising(SystemExit(3)), row("x"), RewardError, "SystemExit: 3", id="exits"),
    pytest.param(raising(ConfigurationError("pip install it")), row("x"), ConfigurationError, "^pip", id="lacks"),
    pytest.param(gsm8k, NO_ANSWER, RewardError, "no message is from the assistant", id="no-answers"),
    pytest.param(gsm8k, row("#### 4", truth=None), RewardError, "returned None", id="no-references"),
]


@pytest.mark.parametrize(("reward", "bad", "error", "reason"), SAME_REASON)
def test_batch_when_all_rows_have_the_same_reason_then_the_invocation_fails_with_it(reward, bad, error, reason, caplog):
    with pytest.raises(error, match=reason):
        reward_lambda(reward)([bad] * 3)
    if error is RewardError:  # a single row may be damaged by itself
        assert scores(reward_lambda(reward, floor=-1.0)([bad])) == [-1.0]
        (record,) = caplog.records
        assert (record.levelno, "row_id=<a>, reason=<" in record.message) == (logging.WARNING, True)


def test_batch_when_reasons_differ_or_one_row_is_scored_then_floors_each_with_its_reason(caplog):
    def reward(rollout):
        raise ValueError(rollout.answer)

    assert scores(reward_lambda(reward, floor=-1.0)([row("x", "first"), row("y", "second")])) == [-1.0, -1.0]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"row_id=<{name}>, reason=<ValueError: {text}> | row gets the floor"
        for name, text in (("first", "x"), ("second", "y"))
    ]
    assert scores(reward_lambda(gsm8k, floor=-1.0)([row("#### 4"), NO_ANSWER, NO_ANSWER])) == [1.0, -1.0, -1.0]


def test_reply_when_the_envelope_is_http_then_the_list_is_in_its_body_and_checked_there():
    event = [row("#### 4"), row("#### 5", "b")]
    reply = reward_lambda(gsm8k, envelope="http")(event)
    assert (reply["statusCode"], type(reply["body"])) == (200, str)
    assert json.loads(reply["body"]) == reward_lambda(gsm8k)(event)
    assert check_reply(event, reply) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"statusCode": 500}, "statusCode is 500"),
        ({"body": []}, "body must be"),
        ({"body": "{"}, "body must be"),
        ({"body": "[]"}, "0 results for 1 rows"),
        ({"body": "{}"}, "must be a list"),
    ],
    ids=str,
)
def test_check_reply_when_an_http_reply_is_wrong_then_it_says_so(changes, problem):
    reply = reward_lambda(gsm8k, envelope="http")([row("#### 4")])
    assert problem in check_reply([row("#### 4")], {**reply, **changes})[0]


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": 1.5}, {"envelope": "xml"}], ids=str)
def test_handler_when_an_argument_is_out_of_range_then_configuration_error(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        reward_lambda(gsm8k, **options)
