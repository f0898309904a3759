"""Judging in pairs and groups: both orders are asked, and a preference for a position cancels out."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import Recorded, Service, error

from aws_rft_sdk.errors import RewardError
from aws_rft_sdk.rewards.judge_failures import Failure
from aws_rft_sdk.rewards.judge_results import JudgeCost
from aws_rft_sdk.rewards.judge_rubrics import single_score
from aws_rft_sdk.rewards.rollout import Component, Rollout

from .judging import (
    answering,
    close_judges,  # noqa: F401 - a fixture
    make_judge,
    material,
    schema_of,
)

each_source = pytest.mark.parametrize("kind", ["openai", "async_openai", "strands"])


def answer(text: str) -> Rollout:
    return Rollout(({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": text}))


def answers_of(request: Recorded) -> list[str]:
    return [text for title, text in material(request).items() if "answer" in title]


def longer_is_better(request: Recorded) -> dict[str, Any]:
    texts = answers_of(request)
    names = list(schema_of(request)["properties"])[1:]
    if names == ["verdict"]:
        first, second = map(len, texts)
        verdict = "tie" if first == second else "first" if first > second else "second"
        return {"explanation": f"{first} and {second}", "verdict": verdict}
    return {"explanation": "by length", **{name: len(text) for name, text in zip(names, texts, strict=True)}}


def first_is_best(request: Recorded) -> dict[str, Any]:
    names = list(schema_of(request)["properties"])[1:]
    if names == ["verdict"]:
        return {"explanation": "", "verdict": "first"}
    return {"explanation": "", **{name: 10 - n for n, name in enumerate(names)}}


@each_source
def test_compare_when_one_is_better_then_it_wins_in_both_orders(service: Service, kind: str) -> None:
    service.policy = answering(longer_is_better)
    judge = make_judge(service, kind)

    comparison = judge.compare(answer("long answer"), answer("short"))

    assert (comparison.preference, comparison.agrees) == (1.0, True)
    assert comparison.explanations == ("11 and 5", "5 and 11")
    assert [answers_of(request) for request in service.inference] == [
        ["long answer", "short"],
        ["short", "long answer"],
    ]
    assert judge.compare(answer("short"), answer("long answer")).preference == 0.0
    assert judge.compare(answer("abcde"), answer("short")).preference == 0.5


@each_source
def test_compare_when_judge_goes_by_position_then_it_cancels_out(service: Service, kind: str) -> None:
    service.policy = answering(first_is_best)
    comparison = make_judge(service, kind).compare(answer("a"), answer("b"))
    assert (comparison.preference, comparison.agrees) == (0.5, False)


def test_compare_when_only_one_order_goes_by_position_then_three_quarters(service: Service) -> None:
    verdicts = iter(["first", "tie"])
    service.policy = answering(lambda request: {"explanation": "", "verdict": next(verdicts)})
    comparison = make_judge(service).compare(answer("a"), answer("b"))
    assert (comparison.preference, comparison.agrees) == (0.75, False)


@pytest.mark.parametrize(
    ("first", "second", "preference"),
    [("same", "same", 0.5), ("", "", 0.5), ("something", " ", 1.0), ("", "something", 0.0)],
)
def test_compare_when_there_is_nothing_to_ask_then_no_call(
    service: Service, first: str, second: str, preference: float
) -> None:
    comparison = make_judge(service).compare(answer(first), answer(second))
    assert (comparison.preference, comparison.failure) == (preference, None)
    assert service.inference == []


@pytest.mark.parametrize("way", ["compare", "rank"])
def test_judge_when_second_order_fails_then_none(service: Service, way: str) -> None:
    failures = {b"2": 0}

    def then_fail(request: Recorded) -> Any:
        failures[b"2"] += 1
        return answering(longer_is_better)(request) if failures[b"2"] == 1 else error(429)

    service.policy = then_fail
    judge = make_judge(service, max_attempts=2)
    if way == "compare":
        comparison = judge.compare(answer("a"), answer("bb"))
        assert (comparison.preference, comparison.agrees, comparison.failure) == (None, None, Failure.THROTTLED)
    else:
        results = judge.rank([answer("a"), answer("bb")])
        assert [(result.reward, result.failure) for result in results] == [(None, Failure.THROTTLED)] * 2


@pytest.mark.parametrize("way", ["compare", "rank"])
def test_judge_when_rollouts_are_of_different_prompts_then_reward_error(service: Service, way: str) -> None:
    rollouts = [answer("a"), Rollout(({"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "6"}))]
    judge = make_judge(service)
    with pytest.raises(RewardError, match="one prompt"):
        judge.compare(*rollouts) if way == "compare" else judge.rank(rollouts)


def test_judge_when_the_rubric_needs_a_reference_and_there_is_none_then_no_comparison_either(service: Service) -> None:
    judge = make_judge(service, rubric=single_score("Judge.", "Agrees.", needs_reference=True))
    assert judge.compare(answer("a"), answer("b")).failure is Failure.NO_REFERENCE
    assert [result.failure for result in judge.rank([answer("a"), answer("b")])] == [Failure.NO_REFERENCE] * 2
    assert service.inference == []


def test_against_reference_when_answer_is_better_then_one_and_judge_sees_no_reference(service: Service) -> None:
    service.policy = answering(longer_is_better)
    judge = make_judge(service)
    rollout = Rollout(answer("a long answer").messages, {"answer": "short"})

    result = judge.against_reference(rollout)

    assert result.reward == 1.0
    assert Component("judge_agrees", 1.0, counts=False) in result.components
    assert set(material(service.inference[0])) == {"question", "first answer", "second answer"}


def test_against_reference_when_judge_goes_by_position_then_half_and_marked(service: Service) -> None:
    service.policy = answering(first_is_best)
    result = make_judge(service).against_reference(Rollout.of_answer("a", "b"))
    assert (result.reward, result.failure) == (0.5, None)
    assert Component("judge_agrees", 0.0, counts=False) in result.components


def test_against_reference_when_it_fails_then_none_and_not_the_half_of_a_tie(service: Service) -> None:
    service.policy = lambda request: error(500)
    result = make_judge(service, max_attempts=1).against_reference(Rollout.of_answer("a", "b"))
    assert (result.reward, result.failure) == (None, Failure.UNAVAILABLE)
    assert make_judge(service).against_reference(Rollout.of_answer("a")).failure is Failure.NO_COMPARISON
    assert make_judge(service).against_reference(Rollout.of_answer("", "b")).reward == 0.0


@each_source
def test_rank_when_answers_differ_then_share_of_the_others_beaten(service: Service, kind: str) -> None:
    service.policy = answering(longer_is_better)
    judge = make_judge(service, kind)

    results = judge.rank([answer("22"), answer("4444"), answer("1"), answer("xx"), answer("")])

    assert [result.reward for result in results] == [0.625, 1.0, 0.25, 0.625, 0.0]
    assert judge.cost == JudgeCost(calls=2, input_tokens=6, output_tokens=4)
    assert [answers_of(request) for request in service.inference] == [
        ["22", "4444", "1", "xx"],
        ["xx", "1", "4444", "22"],
    ]


@each_source
@pytest.mark.parametrize("count", [2, 3, 8])
def test_rank_when_judge_goes_by_position_then_all_are_equal(service: Service, kind: str, count: int) -> None:
    service.policy = answering(first_is_best)
    results = make_judge(service, kind).rank([answer(str(n)) for n in range(count)])
    assert [result.reward for result in results] == [0.5] * count


def test_rank_when_answers_are_equal_then_they_are_judged_once_and_alike(service: Service) -> None:
    service.policy = answering(longer_is_better)
    results = make_judge(service).rank([answer("22"), answer("1"), answer("22")])
    assert [result.reward for result in results] == [0.75, 0.0, 0.75]
    assert answers_of(service.inference[0]) == ["22", "1"]


@pytest.mark.parametrize(
    ("texts", "rewards"),
    [
        pytest.param(["a", "a"], [0.5, 0.5], id="all_equal"),
        pytest.param(["", " "], [0.5, 0.5], id="all_silent"),
        pytest.param(["a", "", "a"], [0.75, 0.0, 0.75], id="one_silent"),
        pytest.param(["a"], [None], id="alone"),
        pytest.param([], [], id="nobody"),
    ],
)
def test_rank_when_there_is_nothing_to_ask_then_no_call(service: Service, texts: list[str], rewards: list[Any]) -> None:
    assert [result.reward for result in make_judge(service).rank([answer(text) for text in texts])] == rewards
    assert service.inference == []
