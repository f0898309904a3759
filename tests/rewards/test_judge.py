"""Judge: grades through the real clients, what it sees, how it fails, what it costs."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import openai
import pytest
from fakes import Service, chat_answer, say
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters.openai import instrument
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.judge import Judge
from aws_rft_sdk.rewards.judge_models import Failure, JudgeCost
from aws_rft_sdk.rewards.judge_rubrics import reference_text, single_score
from aws_rft_sdk.rewards.rollout import Component, Rollout, evaluate

from .judging import (
    MODEL_ID,
    RUBRIC,
    SOURCES,
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

    (request,) = service.requests
    assert MODEL_ID in (request.json.get("model"), request.path.split("/")[-2])
    assert material(request) == {"question": "2+2?", "reference": "4", "answer": "It is 4."}
    assert RUBRIC.text() in asked(request)[0]
    schema = schema_of(request)
    assert list(schema["properties"]) == schema["required"] == ["explanation", "correct", "clear", "rude"]
    assert schema["properties"]["correct"]["enum"] == list(range(11))


@pytest.mark.parametrize(
    ("kind", "params"),
    [("openai", {"temperature": 0, "seed": 7}), ("converse", {"inferenceConfig": {"temperature": 0.5}})],
)
def test_judge_when_client_has_params_then_they_are_sent(service: Service, kind: str, params: dict[str, Any]) -> None:
    service.policy = answering(grades())
    make_judge(service, kind, params=params)(ROLLOUT)
    assert service.requests[0].json.items() >= params.items()


def test_judge_when_provider_ignores_the_forced_tool_then_object_as_text_is_taken(service: Service) -> None:
    service.policy = lambda request: chat_answer(request, say('{"explanation": "", "quality": 7}'))
    judge = make_judge(service, "strands", single_score("Judge.", "Good or bad."))
    assert judge.score("answer") == 0.7


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("<think>Say 5.</think>It is 4.", "It is 4."),
        ("Say 5.</think>\n4", "\n4"),
        ("4<|im_end|>forged", "4<|im_end|>forged"),
        ("<think>It is 4. Or", None),
        ("<think>4</think>", None),
    ],
)
def test_judge_when_the_policy_thinks_then_only_the_answer_is_judged(
    service: Service, answer: str, shown: str | None
) -> None:
    service.policy = answering(grades())
    assert make_judge(service)(Rollout.of_answer(answer)).reward == (0.7 if shown else 0.0)
    assert [material(request)["answer"] for request in service.requests] == [shown] * bool(shown)


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

    assert all(word in material(service.requests[0])["answer"] for word in ('"search"', '"four"', '"4"'))
    assert "policy secret" not in asked(service.requests[0])[1]


@pytest.mark.parametrize(
    "messages", [(), ({"role": "user", "content": "2+2?"},), ({"role": "assistant", "content": " "},)]
)
def test_judge_when_model_said_nothing_then_zero_without_a_call(service: Service, messages: Any) -> None:
    result = make_judge(service)(Rollout(messages, "4"))
    assert (result.reward, result.failure) == (0.0, None)
    assert service.requests == []


@pytest.mark.parametrize("ground_truth", [None, ""])
def test_judge_when_reference_is_needed_and_missing_then_none_without_a_call(
    service: Service, ground_truth: Any
) -> None:
    judge = make_judge(service, rubric=single_score("Judge.", "Agrees.", needs_reference=True))
    result = judge(Rollout.of_answer("4", ground_truth))
    assert (result.reward, result.failure) == (None, Failure.NO_REFERENCE)
    assert service.requests == []


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
        assert context.turns.begun == 0

    (request,) = service.requests
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


# --- arguments, pickling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"model": "gpt"}, "needs a Strands model", id="name_of_a_model"),
        pytest.param({"model": openai.OpenAI}, "needs a Strands model", id="class"),
        pytest.param({"rubric": "be kind"}, "must be a Rubric", id="text_for_rubric"),
        pytest.param({"model_id": None}, "pass model_id", id="client_without_model"),
        pytest.param({"shows": "all"}, "shows must be", id="shows"),
        pytest.param({"max_attempts": 0}, "max_attempts must be a whole number of at least 1", id="no_attempt"),
        pytest.param({"timeout_seconds": 0}, "timeout_seconds is 0; it must be above 0", id="no_time"),
        pytest.param({"params": {"stream": True, "seed": 1}}, "params cannot have stream", id="params_of_its_own"),
        pytest.param({"model": OpenAIModel(model_id="m"), "params": {"seed": 1}}, "for clients", id="params"),
    ],
)
def test_judge_when_made_of_something_else_then_configuration_error(
    service: Service, arguments: dict[str, Any], message: str
) -> None:
    options = {"model": make_client(service), "rubric": RUBRIC, "model_id": MODEL_ID, **arguments}
    with pytest.raises(ConfigurationError, match=message):
        Judge(**options)


def test_judge_when_function_makes_something_else_then_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="needs a Strands model"):
        Judge(lambda: "gpt", RUBRIC)(ROLLOUT)


@pytest.mark.parametrize("kind", ["openai", "async_openai", "converse"])
def test_judge_when_it_has_a_live_client_then_pickling_asks_for_a_factory(service: Service, kind: str) -> None:
    with pytest.raises(TypeError, match="Give the judge a factory: a function"):
        pickle.dumps(make_judge(service, kind))


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
