"""Judging in pairs and groups: both orders are asked, and a preference for a position cancels out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import Recorded, Service, error

from aws_rft_sdk.errors import RewardError
from aws_rft_sdk.rewards import JudgeCost, KeywordCoverage, RankingJudge, WeightedSum
from aws_rft_sdk.rewards.judge_models import Failure
from aws_rft_sdk.rewards.judge_rubrics import single_score
from aws_rft_sdk.rewards.rollout import Component, GroupReward, Rollout, evaluate_group

from .judging import (
    MODEL_ID,
    SOURCES,
    Waits,
    answering,
    asked,
    close_judges,  # noqa: F401 - a fixture
    closing,
    make_judge,
    material,
    schema_of,
)

each_source = pytest.mark.parametrize("kind", SOURCES)


def answer(text: str) -> Rollout:
    return Rollout(({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": text}))


def answers_of(request: Recorded) -> list[str]:
    return [text for title, text in material(request).items() if "answer" in title]


def longer_is_better(request: Recorded) -> dict[str, Any]:
    texts = answers_of(request)
    names = list(schema_of(request)["properties"])[1:]
    return {
        "explanation": " and ".join(str(len(text)) for text in texts),
        **{name: len(text) for name, text in zip(names, texts, strict=True)},
    }


def first_is_best(request: Recorded) -> dict[str, Any]:
    names = list(schema_of(request)["properties"])[1:]
    return {"explanation": "", **{name: 10 - n for n, name in enumerate(names)}}


@each_source
def test_compare_when_one_is_better_then_it_wins_in_both_orders(service: Service, kind: str) -> None:
    service.policy = answering(longer_is_better)
    judge = make_judge(service, kind)

    comparison = judge.compare(answer("longer one"), answer("short"))

    assert (comparison.preference, comparison.agrees) == (1.0, True)
    assert comparison.explanations == ("10 and 5", "5 and 10")
    assert [answers_of(request) for request in service.requests] == [["longer one", "short"], ["short", "longer one"]]
    assert judge.compare(answer("short"), answer("longer one")).preference == 0.0
    assert judge.compare(answer("abcde"), answer("short")).preference == 0.5


@each_source
def test_compare_when_judge_goes_by_position_then_it_cancels_out(service: Service, kind: str) -> None:
    service.policy = answering(first_is_best)
    comparison = make_judge(service, kind).compare(answer("a"), answer("b"))
    assert (comparison.preference, comparison.agrees) == (0.5, False)


def test_compare_when_only_one_order_goes_by_position_then_three_quarters(service: Service) -> None:
    verdicts = iter([(7, 3), (5, 5)])
    service.policy = answering(lambda request: dict(zip(("answer_1", "answer_2"), next(verdicts), strict=True)))
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
    assert service.requests == []


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
    assert service.requests == []


def test_against_reference_when_answer_is_better_then_one_and_judge_sees_no_reference(service: Service) -> None:
    service.policy = answering(longer_is_better)
    judge = make_judge(service)
    rollout = Rollout(answer("longer one").messages, {"answer": "short"})

    result = judge.against_reference(rollout)

    assert result.reward == 1.0
    assert Component("judge_agrees", 1.0, counts=False) in result.components
    assert set(material(service.requests[0])) == {"question", "answer 1", "answer 2"}


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
    assert [answers_of(request) for request in service.requests] == [
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
    assert answers_of(service.requests[0]) == ["22", "1"]


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
    assert service.requests == []


# --- RankingJudge: a group reward, in one call ---


def make_ranking(service: Service, kind: str = "openai", **options: Any) -> RankingJudge:
    return closing(RankingJudge(SOURCES[kind](service), **{"model_id": MODEL_ID, "sleep": Waits(), **options}))


def rewards_of(judge: RankingJudge, *texts: str) -> list[float | None]:
    return [result.reward for result in evaluate_group(judge, [answer(text) for text in texts])]


@each_source
def test_ranking_when_a_group_is_scored_then_a_grade_for_each_in_their_order_and_one_call(
    service: Service, kind: str
) -> None:
    service.policy = answering(longer_is_better)
    judge = make_ranking(service, kind)
    assert isinstance(judge, GroupReward)
    assert not callable(judge)
    assert rewards_of(judge, "22", "4444", "", "1", "22") == [0.2, 0.4, 0.0, 0.1, 0.2]
    assert judge.cost == JudgeCost(calls=1, input_tokens=3, output_tokens=2)
    assert sorted(answers_of(service.requests[0])) == ["1", "22", "4444"]
    assert judge.score_group([answer("a"), answer("bb")])[0].explanation in ("1 and 2", "2 and 1")


def test_ranking_when_the_group_comes_in_another_order_then_the_same_question_from_the_cache(
    service: Service, tmp_path: Path
) -> None:
    service.policy = answering(first_is_best)
    judge = make_ranking(service, cache=tmp_path / "verdicts.db")
    texts = ["a", "b", "c", "d"]
    rewards = rewards_of(judge, *texts)
    assert rewards_of(judge, *texts[::-1]) == rewards[::-1]
    assert (len(service.requests), judge.cost.cache_hits) == (1, 1)


def test_ranking_when_the_judge_prefers_a_place_then_no_place_in_the_group_is_favoured(service: Service) -> None:
    service.policy = answering(first_is_best)
    judge = make_ranking(service)
    best = [rewards_of(judge, *(f"{n}{letter}" for letter in "abcd")).index(1.0) for n in range(40)]
    assert all(4 <= best.count(place) <= 18 for place in range(4))


def test_ranking_when_conversations_begin_alike_then_the_question_is_shown_once(service: Service) -> None:
    service.policy = answering(first_is_best)
    call = {"id": "c", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    begin: tuple[dict[str, Any], ...] = (
        {"role": "system", "content": "policy secret"},
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "Lyon, or so"},
    )
    ends = [({"role": "assistant", "content": "In Lyon."},), ({"role": "assistant", "content": "Lost."},), ()]

    results = make_ranking(service).score_group([Rollout((*begin, *end), "Lyon") for end in ends])

    assert all(result.reward is not None for result in results)
    shown = material(service.requests[0])
    assert list(shown) == ["question", "reference", "answer 1", "answer 2", "answer 3"]
    sent = "".join(asked(service.requests[0]))
    assert [sent.count(text) for text in ("Where is my parcel?", "policy secret")] == [1, 0]


def test_ranking_when_only_answers_are_shown_then_question_and_answers_without_thoughts(service: Service) -> None:
    service.policy = answering(first_is_best)
    make_ranking(service, shows="answer").score_group([answer("<think>5?</think>4"), answer("5"), answer("<think>6")])
    assert sorted(material(service.requests[0]).values()) == ["2+2?", "4", "5"]


@pytest.mark.parametrize(
    ("texts", "rewards"),
    [
        (["a", "a"], [0.5, 0.5]),
        (["", "a", "<think>b"], [0.0, 1.0, 0.0]),
        (["", ""], [0.5, 0.5]),
        (["a"], [None]),
        ([], []),
    ],
)
def test_ranking_when_there_is_nothing_to_compare_then_no_call(
    service: Service, texts: list[str], rewards: list[Any]
) -> None:
    assert rewards_of(make_ranking(service), *texts) == rewards
    assert service.requests == []


def test_ranking_when_combined_then_the_combination_scores_the_group(service: Service) -> None:
    service.policy = answering(longer_is_better)
    reward = WeightedSum({"right": KeywordCoverage(("4",)), "better": (make_ranking(service), 0.5)})
    group = [Rollout.of_answer(text, "4") for text in ("4", "it is 4", "no", "it is not")]
    right, longer_right, wrong, longer_wrong = (result.reward or 0.0 for result in evaluate_group(reward, group))
    assert wrong < longer_wrong < right < longer_right
    assert len(service.requests) == 1


def test_ranking_when_it_fails_then_none_for_all_and_other_prompts_are_refused(service: Service) -> None:
    service.policy = lambda request: error(500)
    results = make_ranking(service, max_attempts=1).score_group([answer("a"), answer("b")])
    assert [(result.reward, result.failure) for result in results] == [(None, Failure.UNAVAILABLE)] * 2
    with pytest.raises(RewardError, match="one prompt"):
        make_ranking(service).score_group([answer("a"), Rollout.of_answer("b", prompt="3+3?")])
