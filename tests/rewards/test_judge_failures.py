"""A judge that fails gives None with a reason, never a number; what can be tried again is, and no more than told."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fakes import Answer, Recorded, Service, chat_answer, error, refused_endpoint, say
from strands.models.openai import OpenAIModel

from aws_rft_sdk.rewards.judge import Judge
from aws_rft_sdk.rewards.judge_failures import Failure, call_failed
from aws_rft_sdk.rewards.judge_results import JudgeCost
from aws_rft_sdk.rewards.judge_rubrics import PANDALM, single_score
from aws_rft_sdk.rewards.rollout import Component, Rollout

from .judging import (
    RUBRIC,
    SOURCES,
    Waits,
    answering,
    close_judges,  # noqa: F401 - a fixture
    grades,
    make_judge,
    material,
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
    assert len(service.inference) == 3  # no retries of the client's own


@each_source
@pytest.mark.parametrize(
    ("status", "failure", "calls"),
    [
        pytest.param(429, Failure.THROTTLED, 3, id="throttled"),
        pytest.param(500, Failure.UNAVAILABLE, 3, id="fault"),
        pytest.param(503, Failure.UNAVAILABLE, 3, id="busy"),
        pytest.param(400, Failure.REFUSED, 1, id="bad_request"),
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
    assert len(service.inference) == calls
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
    assert result.detail.startswith("BadRequestError 400")
    assert "asked" not in result.detail


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


def test_judge_when_model_declines_then_refused(service: Service) -> None:
    service.policy = lambda request: chat_answer(request, {**say(""), "refusal": "I would rather not."})
    result = make_judge(service)(ROLLOUT)
    assert (result.reward, result.failure) == (None, Failure.REFUSED)
    assert len(service.inference) == 1


def test_judge_when_model_raises_something_else_then_error_and_never_zero(service: Service) -> None:
    class Broken(OpenAIModel):
        async def stream(self, *args: Any, **kwargs: Any) -> Any:
            raise LookupError("no such model")
            yield

    result = Judge(Broken(model_id="m"), RUBRIC)(ROLLOUT)

    assert (result.reward, result.failure, result.detail) == (None, Failure.ERROR, "LookupError: no such model")


def test_call_failed_when_caller_was_handling_another_error_then_that_one_does_not_count() -> None:
    class Earlier(Exception):
        status_code = 429

    earlier, own = Earlier(), LookupError("own")
    own.__context__ = earlier
    assert call_failed(own, earlier).failure is Failure.ERROR
    assert call_failed(own, None).failure is Failure.THROTTLED


class ProviderError(Exception):
    """As botocore's ClientError, which carries its status in a dict."""

    response = {"ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "3"}}}  # noqa: RUF012


def test_call_failed_when_botocore_was_throttled_then_throttled() -> None:
    failed = call_failed(ProviderError(), None)
    assert (failed.failure, failed.retry, failed.retry_after) == (Failure.THROTTLED, True, 3)


MALFORMED = [
    pytest.param("", id="empty"),
    pytest.param("Score: 8/10", id="prose"),
    pytest.param('```json\n{"explanation": "", "quality": 9}\n```', id="fenced"),
    pytest.param('{"explanation": "", "quality": 9', id="cut_off"),
    pytest.param('[{"explanation": "", "quality": 9}]', id="list"),
    pytest.param('{"explanation": "", "score": 9}', id="other_key"),
    pytest.param('{"quality": 9}', id="key_missing"),
    pytest.param('{"explanation": "", "quality": 9, "more": 1}', id="key_too_many"),
    pytest.param('{"explanation": "", "quality": 2, "quality": 9}', id="key_twice"),
    pytest.param('{"explanation": "", "quality": "9"}', id="text_for_number"),
    pytest.param('{"explanation": "", "quality": true}', id="bool_for_number"),
    pytest.param('{"explanation": "", "quality": null}', id="null"),
    pytest.param('{"explanation": "", "quality": 8.5}', id="no_whole_number"),
    pytest.param('{"explanation": "", "quality": 11}', id="above"),
    pytest.param('{"explanation": "", "quality": -1}', id="below"),
    pytest.param('{"explanation": "", "quality": NaN}', id="not_a_number"),
    pytest.param('{"explanation": 5, "quality": 9}', id="explanation_is_no_text"),
    pytest.param("[" * 100_000, id="deep"),
]


@pytest.mark.parametrize("kind", ["openai", "strands"])
@pytest.mark.parametrize("text", MALFORMED)
def test_judge_when_verdict_breaks_the_schema_then_none_after_bounded_attempts(
    service: Service, kind: str, text: str
) -> None:
    service.policy = answering(text)
    waits = Waits()
    judge = make_judge(service, kind, single_score("Judge.", "Good or bad."), max_attempts=2, sleep=waits)

    result = judge(ROLLOUT)

    assert (result.reward, result.failure) == (None, Failure.MALFORMED)
    assert judge.cost == JudgeCost(calls=2, retries=1, failures=1, input_tokens=6, output_tokens=4)
    assert waits.seconds == []


def test_judge_when_verdict_is_malformed_once_then_the_next_counts(service: Service) -> None:
    verdicts = iter(["8/10", '{"explanation": "", "quality": 8.0}'])
    service.policy = answering(lambda request: next(verdicts))  # type: ignore[arg-type, return-value]
    assert make_judge(service, rubric=single_score("Judge.", "Good or bad."))(ROLLOUT).reward == 0.8


def test_judge_when_strands_model_calls_the_tool_twice_then_malformed(service: Service) -> None:
    def twice(request: Recorded) -> Answer:
        call = {
            "id": "c1",
            "type": "function",
            "function": {"name": "verdict", "arguments": '{"explanation": "", "quality": 9}'},
        }
        return chat_answer(request, {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "c2"}]})

    service.policy = twice
    judge = make_judge(service, "strands", single_score("Judge.", "Good or bad."), max_attempts=1)
    assert judge(ROLLOUT).failure is Failure.MALFORMED


# --- the published reward function's bugs (contract notes, B6): every row must come out right here --------------------

PANDALM_ROWS = [
    pytest.param('{"score": 0.85}', id="one_number_for_all_is_no_verdict"),
    pytest.param('{"score": 1.5}', id="was_0.15"),
    pytest.param("10", id="was_1.0"),
    pytest.param("11", id="was_0.11"),
    pytest.param("none", id="none_was_0.5"),
    pytest.param('{"score": null}', id="null_was_0.5"),
    pytest.param("+0.3 for the verdict, so the score is 0.9", id="first_number_was_taken_0.3"),
]


@pytest.mark.parametrize("text", PANDALM_ROWS)
def test_pandalm_when_judge_gives_no_verdict_of_the_schema_then_none(service: Service, text: str) -> None:
    service.policy = answering(text)
    result = make_judge(service, rubric=PANDALM, max_attempts=1)(ROLLOUT)
    assert (result.reward, result.failure) == (None, Failure.MALFORMED)


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


@pytest.mark.parametrize("status", [429, 500])
def test_pandalm_when_judge_is_not_there_then_none_where_it_was_a_middling_score(service: Service, status: int) -> None:
    service.policy = lambda request: error(status)
    assert make_judge(service, rubric=PANDALM, max_attempts=1)(ROLLOUT).reward is None


def test_pandalm_when_prompt_holds_a_placeholder_then_it_is_not_expanded(service: Service) -> None:
    service.policy = answering(grades())
    prompt = "Fill in {completion}, {answer}, {task}, {mark}, {0}, %s and $answer."
    rollout = Rollout(
        ({"role": "user", "content": prompt}, {"role": "assistant", "content": "{reference}"}), "{answer}"
    )
    make_judge(service)(rollout)
    assert material(service.inference[0]) == {"question": prompt, "reference": "{answer}", "answer": "{reference}"}
