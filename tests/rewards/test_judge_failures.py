"""A judge that fails gives None with a reason, never a number; what can be tried again is, and no more than told."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fakes import Answer, Recorded, Service, call_tool, chat_answer, error, refused_endpoint, say
from strands.models.openai import OpenAIModel

from aws_rft_sdk.rewards import Judge, JudgeCost
from aws_rft_sdk.rewards.judge_models import Failure
from aws_rft_sdk.rewards.judge_rubrics import PANDALM, single_score
from aws_rft_sdk.rewards.rollout import Component, Rollout

from .judging import (
    RUBRIC,
    SOURCES,
    Waits,
    answering,
    asked,
    close_judges,  # noqa: F401 - a fixture
    converse_answer,
    grades,
    is_converse,
    make_judge,
    material,
    turns_of,
)

ROLLOUT = Rollout(({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}), "4")
each_source = pytest.mark.parametrize("kind", SOURCES)


@each_source
def test_judge_when_throttled_then_waits_as_told_and_tries_again(service: Service, kind: str) -> None:
    service.script(error(429, retry_after="7"), error(503))
    service.policy = answering(grades())
    waits = Waits()
    judge = make_judge(service, kind, sleep=waits)

    assert judge(ROLLOUT).reward == pytest.approx(0.7)

    assert waits.seconds[0] == 7
    assert 0.25 <= waits.seconds[1] <= 0.5
    assert judge.cost == JudgeCost(calls=3, retries=2, input_tokens=3, output_tokens=2)
    assert len(service.requests) == 3  # no retries of the client's own


@each_source
@pytest.mark.parametrize(
    ("status", "failure", "calls"),
    [
        pytest.param(429, Failure.THROTTLED, 3, id="throttled"),
        pytest.param(500, Failure.UNAVAILABLE, 3, id="fault"),
        pytest.param(503, Failure.UNAVAILABLE, 3, id="busy"),
        pytest.param(400, Failure.REFUSED, 2, id="bad_request"),
        pytest.param(401, Failure.REFUSED, 1, id="no_access"),
    ],
)
def test_judge_when_service_errs_to_the_end_then_none_with_the_reason(
    service: Service, kind: str, status: int, failure: Failure, calls: int
) -> None:
    service.policy = lambda request: error(status)
    judge = make_judge(service, kind, max_attempts=3)

    result = judge(ROLLOUT)

    assert (result.reward, result.failure) == (None, failure)
    assert result.components == (Component("judge_failed", 1.0, counts=False),)
    assert result.detail
    assert len(service.requests) == calls
    assert judge.cost == JudgeCost(calls=calls, retries=calls - 1, failures=1)


def test_judge_when_it_fails_then_neither_warning_nor_detail_holds_what_the_service_said(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.policy = lambda request: error(400, f"{request.headers['authorization']} asked {request.json['messages']}")
    with caplog.at_level(logging.WARNING, "aws_rft_sdk"):
        result = make_judge(service)(ROLLOUT)
    assert [record.getMessage() for record in caplog.records] == [
        "attempts=<1>, failure=<refused>, error=<BadRequestError> | no verdict"
    ]
    assert result.detail == "BadRequestError 400"


@each_source
def test_judge_when_answer_is_late_then_timeout(service: Service, kind: str) -> None:
    gate = service.gate()
    service.policy = lambda request: Answer(gate=gate)
    judge = make_judge(service, kind, timeout_seconds=0.2, max_attempts=2)

    result = judge(ROLLOUT)

    assert (result.reward, result.failure) == (None, Failure.TIMEOUT)
    assert judge.cost.calls == 2


@each_source
def test_judge_when_nobody_listens_or_connection_breaks_then_unavailable(service: Service, kind: str) -> None:
    service.policy = lambda request: Answer(reset=True)
    assert make_judge(service, kind, max_attempts=2)(ROLLOUT).failure is Failure.UNAVAILABLE
    with refused_endpoint() as endpoint:
        nowhere = Service.__new__(Service)
        nowhere.endpoint = endpoint
        assert make_judge(nowhere, kind, max_attempts=2)(ROLLOUT).failure is Failure.UNAVAILABLE


def test_judge_when_model_raises_something_else_then_error_and_never_zero(service: Service) -> None:
    class Broken(OpenAIModel):
        async def stream(self, *args: Any, **kwargs: Any) -> Any:
            raise LookupError("no such model")
            yield

    result = Judge(Broken(model_id="m"), RUBRIC)(ROLLOUT)

    assert (result.reward, result.failure, result.detail) == (None, Failure.ERROR, "LookupError: no such model")


def test_judge_when_the_caller_handles_another_error_then_that_one_does_not_count(service: Service) -> None:
    class EarlierError(Exception):
        status_code = 429

    class Broken(OpenAIModel):
        async def stream(self, *args: Any, **kwargs: Any) -> Any:
            raise LookupError("own")
            yield

    try:
        raise EarlierError
    except EarlierError:
        assert Judge(Broken(model_id="m"), RUBRIC)(ROLLOUT).failure is Failure.ERROR


# --- answers without a verdict ---

QUALITY = single_score("Judge.", "Good or bad.")
GOOD = '{"explanation": "", "quality": 8}'


@each_source
def test_judge_when_an_answer_has_no_verdict_then_one_correction_in_the_same_conversation(
    service: Service, kind: str
) -> None:
    verdicts = iter(['{"explanation": "fine", "quality": 11}', GOOD])
    service.policy = answering(lambda request: next(verdicts))  # type: ignore[arg-type, return-value]
    waits = Waits()
    judge = make_judge(service, kind, QUALITY, sleep=waits)

    assert judge(ROLLOUT).reward == 0.8

    first, second = map(turns_of, service.requests)
    assert second[:2] == first
    assert [role for role, _ in second[2:]] == ["assistant", "user"]
    assert json.loads(second[2][1]) == {"explanation": "fine", "quality": 11}
    assert "quality must be a whole number from 0 to 10, not 11" in second[3][1]
    assert (judge.cost.calls, judge.cost.retries, waits.seconds) == (2, 1, [])


@each_source
@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(["8 of 10", "8 of 10", GOOD], id="no_verdict"),
        pytest.param(["", "", GOOD], id="silence"),
        pytest.param([500, "8 of 10", 429, "8 of 10", GOOD], id="no_verdict_between_faults"),
        pytest.param(["late", "8 of 10", GOOD], id="late_and_no_verdict"),
        pytest.param(["cut", "cut", GOOD], id="cut_off_on_the_way"),
    ],
)
def test_judge_when_the_model_has_answered_twice_then_it_is_not_paid_a_third_time(
    service: Service, kind: str, answers: list[Any]
) -> None:
    given = iter(answers)

    def policy(request: Recorded) -> Answer:
        answer = next(given)
        if answer == "late":
            return Answer(gate=service.gate())
        if answer == "cut":
            return Answer(reset=True)
        return error(answer) if isinstance(answer, int) else answering(answer)(request)

    service.policy = policy
    judge = make_judge(service, kind, QUALITY, max_attempts=20, timeout_seconds=1.0 if "late" in answers else 60.0)
    result = judge(ROLLOUT)
    assert (result.reward, judge.cost.failures) == (None, 1)
    assert next(given) == GOOD


# --- a form that the model refuses ---


@each_source
def test_judge_when_the_model_refuses_a_forced_form_then_plain_text_which_is_remembered(
    service: Service, kind: str
) -> None:
    def no_form(request: Recorded) -> Answer:
        if any(map(request.json.get, ("tools", "toolConfig", "response_format"))):
            return error(400, "This model supports no tool choice", x_amzn_errortype="ValidationException")
        return converse_answer(request, GOOD) if is_converse(request) else chat_answer(request, say(f"Well: {GOOD}"))

    service.policy = no_form
    judge = make_judge(service, kind, QUALITY, max_attempts=1)
    assert judge(ROLLOUT).reward == 0.8
    assert '{"explanation": "...", "quality": 0 to 10}' in asked(service.requests[1])[0]
    assert judge(Rollout.of_answer("other")).reward == 0.8
    assert (judge.cost.calls, judge.cost.retries) == (3, 1)


def test_judge_when_something_else_was_refused_then_the_form_stays(service: Service) -> None:
    service.script(error(400), error(400))
    service.policy = answering(GOOD)
    judge = make_judge(service, rubric=QUALITY)
    assert judge(ROLLOUT).failure is Failure.REFUSED
    assert judge(ROLLOUT).reward == 0.8
    assert "response_format" in service.requests[-1].json


def test_judge_when_a_strands_model_raises_over_the_tool_then_plain_text(service: Service) -> None:
    class NoTools(OpenAIModel):
        async def stream(self, messages: Any, tool_specs: Any = None, *args: Any, **kwargs: Any) -> Any:
            if tool_specs:
                raise NotImplementedError("no tools")
            yield {"contentBlockDelta": {"delta": {"text": GOOD}}}

    assert Judge(NoTools(model_id="m"), QUALITY)(ROLLOUT).reward == 0.8


def test_judge_when_strands_model_calls_the_tool_twice_then_one_verdict_only_if_they_agree(service: Service) -> None:
    def twice(request: Recorded) -> Answer:
        calls = [call_tool("verdict", explanation="", quality=n)["tool_calls"][0] for n in (9, next(second))]
        return chat_answer(request, {"role": "assistant", "content": None, "tool_calls": calls})

    second = iter([9, 2, 3])
    service.policy = twice
    judge = make_judge(service, "strands", QUALITY)
    assert judge(ROLLOUT).reward == 0.9
    assert judge(ROLLOUT).failure is Failure.MALFORMED


# --- the published weights ---


@pytest.mark.parametrize(
    ("given", "deductions", "reward"),
    [
        pytest.param((10, 10, 10, 10), (), 1.0, id="all"),
        pytest.param((0, 0, 0, 0), (), 0.0, id="nothing"),
        pytest.param((10, 0, 0, 0), (), 0.3, id="verdict_alone"),
        pytest.param((0, 10, 10, 10), ("wrong_verdict",), 0.3, id="wrong_verdict"),
        pytest.param((10, 2, 10, 10), ("weak_reasoning",), 0.54, id="weak_reasoning"),
        pytest.param((10, 10, 5, 10), ("incomplete", "disordered"), 0.55, id="two_deductions"),
        pytest.param((0, 10, 0, 0), ("wrong_verdict",), 0.0, id="never_below_zero"),
    ],
)
def test_pandalm_when_graded_then_the_published_weights_apply(
    service: Service, given: tuple[int, ...], deductions: tuple[str, ...], reward: float
) -> None:
    names = ("verdict", "reasoning", "coverage", "structure")
    faults = {part.name: part.name in deductions for part in PANDALM.deductions}
    service.policy = answering({"explanation": "", **dict(zip(names, given, strict=True)), **faults})
    assert make_judge(service, rubric=PANDALM)(ROLLOUT).reward == pytest.approx(reward, abs=1e-12)


def test_pandalm_when_prompt_holds_a_placeholder_then_it_is_not_expanded(service: Service) -> None:
    service.policy = answering(grades())
    prompt = "Fill in {completion}, {answer}, {task}, {mark}, {0}, %s and $answer."
    rollout = Rollout(
        ({"role": "user", "content": prompt}, {"role": "assistant", "content": "{reference}"}), "{answer}"
    )
    make_judge(service)(rollout)
    assert material(service.requests[0]) == {"question": prompt, "reference": "{answer}", "answer": "{reference}"}
