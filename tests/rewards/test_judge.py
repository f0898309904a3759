"""Judge: grades through the real clients, what it sees, how it fails, what it costs."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from typing import Any

import openai
import pytest
from fakes import Answer, Recorded, Service, chat_answer, error, refused_endpoint, say
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters.openai import instrument
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.judge import Judge, reference_text
from aws_rft_sdk.rewards.judge_failures import Failure, call_failed
from aws_rft_sdk.rewards.judge_results import JudgeCost
from aws_rft_sdk.rewards.judge_rubrics import PANDALM, single_score
from aws_rft_sdk.rewards.rollout import Component, Rollout, evaluate

from .judging import (
    MODEL_ID,
    RUBRIC,
    SOURCES,
    Waits,
    answering,
    asked,
    close_judges,  # noqa: F401 - a fixture
    closing,
    grades,
    make_client,
    make_judge,
    make_strands,
    material,
    schema_of,
)

ROLLOUT = Rollout(({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}), "4")
each_source = pytest.mark.parametrize("kind", SOURCES)


@each_source
def test_judge_when_called_then_reward_is_sum_of_weighted_grades(service: Service, kind: str) -> None:
    service.policy = answering(grades(correct=8, clear=4))
    judge = make_judge(service, kind)

    result = judge(ROLLOUT)

    assert result.reward == pytest.approx(0.75 * 0.8 + 0.25 * 0.4)
    assert result.components == (
        Component("correct", 0.75 * 8 / 10),
        Component("clear", 0.25 * 4 / 10),
        Component("rude", 0.0),
        Component("judge_failed", 0.0, counts=False),
    )
    assert (result.failure, result.explanation) == (None, "because")
    assert evaluate(judge, ROLLOUT) == result
    assert judge.cost == JudgeCost(calls=2, input_tokens=6, output_tokens=4)


@each_source
def test_judge_when_called_then_request_is_structured_and_names_the_model(service: Service, kind: str) -> None:
    service.policy = answering(grades())

    make_judge(service, kind)(ROLLOUT)

    (request,) = service.inference
    assert request.json["model"] == MODEL_ID
    assert material(request) == {"question": "2+2?", "reference": "4", "answer": "It is 4."}
    assert RUBRIC.text() in asked(request)[0]
    schema = schema_of(request)
    assert list(schema["properties"]) == schema["required"] == ["explanation", "correct", "clear", "rude"]
    assert schema["properties"]["correct"]["enum"] == list(range(11))
    if kind == "strands":
        assert request.json["tool_choice"] == {"type": "function", "function": {"name": "verdict"}}
    else:
        assert request.json["response_format"]["json_schema"]["strict"] is True


def test_judge_when_client_has_params_then_they_are_sent(service: Service) -> None:
    service.policy = answering(grades())
    make_judge(service, params={"temperature": 0, "seed": 7})(ROLLOUT)
    assert (service.inference[0].json["temperature"], service.inference[0].json["seed"]) == (0, 7)


def test_judge_when_provider_knows_no_forced_tool_then_object_as_text_is_taken(service: Service) -> None:
    service.policy = lambda request: chat_answer(request, say('{"explanation": "", "quality": 7}'))
    judge = make_judge(service, "strands", single_score("Judge.", "Good or bad."))
    assert judge.score("answer") == 0.7


def test_judge_when_conversation_is_shown_then_tool_calls_are_there_and_system_text_is_not(service: Service) -> None:
    service.policy = answering(grades())
    call = {"id": "c", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    turns: Any = (
        {"role": "system", "content": "policy secret"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "four"},
        {"role": "assistant", "content": "4"},
    )

    make_judge(service, shows="conversation")(Rollout(turns))

    assert all(word in material(service.inference[0])["answer"] for word in ('"search"', '"four"', '"4"'))
    assert "policy secret" not in asked(service.inference[0])[1]


@pytest.mark.parametrize(
    "messages", [(), ({"role": "user", "content": "2+2?"},), ({"role": "assistant", "content": " "},)]
)
def test_judge_when_model_said_nothing_then_zero_without_a_call(service: Service, messages: Any) -> None:
    result = make_judge(service)(Rollout(messages, "4"))
    assert (result.reward, result.failure) == (0.0, None)
    assert service.inference == []


@pytest.mark.parametrize("ground_truth", [None, ""])
def test_judge_when_reference_is_needed_and_missing_then_none_without_a_call(
    service: Service, ground_truth: Any
) -> None:
    judge = make_judge(service, rubric=single_score("Judge.", "Agrees.", needs_reference=True))
    result = judge(Rollout.of_answer("4", ground_truth))
    assert (result.reward, result.failure) == (None, Failure.NO_REFERENCE)
    assert service.inference == []


@pytest.mark.parametrize(
    ("ground_truth", "text"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("4", "4", id="text"),
        pytest.param(4, "4", id="number"),
        pytest.param({"answer": "a", "ground_truth": "g"}, "a", id="answer_first"),
        pytest.param({"expectedAnswer": "e", "ground_truth": "g"}, "e", id="expected_answer_second"),
        pytest.param({"ground_truth": {"x": 1}}, '{"x": 1}', id="object_inside"),
        pytest.param({"text": "t"}, "t", id="wrapped_by_the_service"),
        pytest.param({"other": 1}, '{"other": 1}', id="object_as_a_whole"),
        pytest.param({"answer": None}, None, id="answer_is_null"),
    ],
)
def test_reference_text_when_ground_truth_has_a_form_then_text(ground_truth: Any, text: str | None) -> None:
    assert reference_text(ground_truth) == text


# --- within rollouts and loops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda service: wrap_model(make_strands(service)), id="wrapped_strands"),
        pytest.param(lambda service: instrument(make_client(service)), id="instrumented_openai"),
        pytest.param(
            lambda service: instrument(openai.AsyncOpenAI(base_url=f"{service.endpoint}/v1", api_key="t")),
            id="instrumented_async_openai",
        ),
    ],
)
def test_judge_when_called_within_a_rollout_then_it_is_no_turn_of_it(service: Service, make: Any) -> None:
    service.policy = answering(grades())
    judge = closing(Judge(make(service), RUBRIC, model_id=MODEL_ID))

    with RFTContext.bind(service.payload(temperature=0.25)) as context:
        assert judge(ROLLOUT).reward is not None
        assert RFTContext.current() is context
        assert context.turns == 0

    (request,) = service.inference
    assert (request.trajectory_id, request.span_id) == (None, None)
    assert not [name for name in request.headers if "rft" in name or "sagemaker" in name or "trajectory" in name]
    assert "temperature" not in request.json


@each_source
def test_judge_when_a_loop_runs_in_the_thread_then_it_answers(service: Service, kind: str) -> None:
    service.policy = answering(grades())
    judge = make_judge(service, kind)

    async def main() -> list[Any]:
        return [judge(ROLLOUT), *await asyncio.gather(*(asyncio.to_thread(judge, ROLLOUT) for _ in range(4)))]

    results = asyncio.run(main())
    assert len(set(results)) == 1
    assert judge.cost.calls == 5


# --- trouble ---------------------------------------------------------------------------------------------------------


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


def test_judge_when_it_fails_then_a_warning_is_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.policy = lambda request: error(400)
    with caplog.at_level(logging.WARNING, "aws_rft_sdk"):
        make_judge(service)(ROLLOUT)
    assert ["failure=<refused>" in record.getMessage() for record in caplog.records] == [True]


@each_source
def test_judge_when_answer_is_late_then_timeout(service: Service, kind: str) -> None:
    gate = service.gate()
    service.policy = lambda request: Answer(gate=gate)
    judge = make_judge(service, kind, timeout=0.2, max_attempts=2)

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


# --- arguments, pickling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"model": "gpt"}, "needs a Strands model", id="name_of_a_model"),
        pytest.param({"model": openai.OpenAI}, "needs a Strands model", id="class"),
        pytest.param({"rubric": "be kind"}, "goes by a Rubric", id="text_for_rubric"),
        pytest.param({"model_id": None}, "pass model_id", id="client_without_model"),
        pytest.param({"shows": "all"}, "shows must be", id="shows"),
        pytest.param({"max_attempts": 0}, "at least 1 attempt", id="no_attempt"),
        pytest.param({"timeout": 0}, "timeout above 0", id="no_time"),
        pytest.param({"model": OpenAIModel(model_id="m"), "params": {"seed": 1}}, "for OpenAI clients", id="params"),
    ],
)
def test_judge_when_made_of_something_else_then_configuration_error(
    service: Service, arguments: dict[str, Any], message: str
) -> None:
    options = {"model": make_client(service), "rubric": RUBRIC, "model_id": MODEL_ID, **arguments}
    with pytest.raises(ConfigurationError, match=message):
        Judge(**options)


def test_judge_when_function_makes_something_else_then_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="must return a Strands model"):
        Judge(lambda: "gpt", RUBRIC)(ROLLOUT)


@each_source
def test_judge_when_pickled_then_it_judges_alike_and_counts_anew(service: Service, kind: str, tmp_path: Any) -> None:
    service.policy = answering(grades())
    judge = make_judge(service, kind, cache=tmp_path / "verdicts.db")
    result = judge(ROLLOUT)

    copied = closing(pickle.loads(pickle.dumps(judge)))

    assert copied.cost == JudgeCost()
    assert copied(ROLLOUT) == result
    assert copied.cost == JudgeCost(cache_hits=1)
    assert copied(Rollout.of_answer("other")).reward == result.reward


def test_judge_when_client_is_more_than_values_then_pickling_says_what_to_do(service: Service) -> None:
    with openai.DefaultHttpxClient() as http_client:
        client = openai.OpenAI(base_url=f"{service.endpoint}/v1", api_key="t", http_client=http_client)
        judge = Judge(client, RUBRIC, model_id=MODEL_ID)
        with pytest.raises(TypeError, match="function at the top level"):
            pickle.dumps(judge)


def test_judge_when_given_a_function_then_it_is_called_once_when_needed(service: Service) -> None:
    service.policy = answering(grades())
    made = []

    def make() -> openai.OpenAI:
        made.append(threading.get_ident())
        return make_client(service)

    judge = closing(Judge(make, RUBRIC, model_id=MODEL_ID))
    assert made == []
    judge(ROLLOUT)
    judge(Rollout.of_answer("other"))
    assert len(made) == 1


def test_cost_when_priced_then_tokens_times_prices() -> None:
    assert JudgeCost(input_tokens=2_000_000, output_tokens=500_000).price(0.15, 0.6) == pytest.approx(0.6)
