"""Rewards that compare the rollouts of one prompt."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards import (
    Clip,
    Discounted,
    DominantOutcome,
    Gate,
    GroupReward,
    RewardResult,
    Rollout,
    TurnCredit,
    WeightedSum,
    evaluate,
    evaluate_group,
    reward_lambda,
)
from aws_rft_sdk.rewards.rollout import is_group_reward


@dataclass(frozen=True)
class Shortest:
    """The share of the group whose answers are longer. An empty answer cannot be judged."""

    def score_group(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        lengths = [len(rollout.answer) for rollout in rollouts]
        return [sum(other > own for other in lengths) / len(lengths) if own else None for own in lengths]


@dataclass(frozen=True)
class Gives:
    """Returns what it was made with, whatever the group."""

    value: object

    def score_group(self, rollouts: Sequence[Rollout]) -> object:
        return self.value


def length(rollout: Rollout) -> float:
    return float(len(rollout.answer))


GROUP = [Rollout.of_answer(text, 4) for text in ("aaaa", "aa", "", "a")]


def rewards(results: Sequence[RewardResult]) -> list[float | None]:
    return [result.reward for result in results]


def test_a_group_is_scored_together_and_other_rewards_one_by_one():
    assert isinstance(Shortest(), GroupReward)
    assert not isinstance(length, GroupReward)
    assert rewards(evaluate_group(Shortest(), GROUP)) == [0, 0.25, None, 0.5]
    assert rewards(evaluate_group(length, GROUP)) == [4, 2, 0, 1]
    assert evaluate_group(Shortest(), []) == evaluate_group(length, []) == []


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([1.0], "1 rewards for 4"),
        (1.0, "returned float for 4"),
        ("abcd", "returned"),
        ([1, 2, 3, True], "not bool"),
        ([1, 2, 3, float("nan")], "finite"),
    ],
)
def test_a_wrong_return_is_named(value, fault):
    with pytest.raises(RewardError, match=fault):
        evaluate_group(Gives(value), GROUP)


def test_one_rollout_alone_is_refused_with_what_to_use_instead():
    with pytest.raises(RewardError, match=r"Shortest .* use evaluate_group"):
        evaluate(Shortest(), GROUP[0])


@dataclass(frozen=True)
class EitherWay(Shortest):
    """Compares a group, and gives 7 for a rollout alone."""

    def __call__(self, rollout: Rollout) -> float:
        return 7.0


def good(rollout: Rollout) -> float:
    return float(rollout.answer != "aaaa")


COMBINATIONS = [
    pytest.param(lambda part: WeightedSum({"rank": (part, 2), "length": length}), [4, 2.5, None, 2], 15, id="sum"),
    pytest.param(lambda part: WeightedSum({"rank": (part, 0), "length": length}), [4, 2, 0, 1], 1, id="metric"),
    pytest.param(lambda part: WeightedSum({"rank": (part, 9)}, clip=(1, 3)), [1, 2.25, None, 3], 3, id="clipped"),
    pytest.param(lambda part: Clip(part, 0.1, 0.3), [0.1, 0.25, None, 0.3], 0.3, id="clip"),
    pytest.param(lambda part: Gate(good, part, otherwise=-1), [-1, 0.25, None, 0.5], 7, id="behind-a-gate"),
    pytest.param(lambda part: Gate(part, length, threshold=0.25), [0, 2, None, 1], 1, id="condition"),
    pytest.param(lambda part: Gate(length, part, threshold=9), [0, 0, 0, 0], 0, id="closed-gate"),
    pytest.param(lambda part: Discounted(part, 0.5), [0, 0.25, None, 0.5], 7, id="discounted"),
    pytest.param(
        lambda part: DominantOutcome(good, {"rank": (part, 0.2)}), [0, 1.05, None, 1.1], 1.1, id="dominant-shaping"
    ),
    pytest.param(
        lambda part: DominantOutcome(part, {}, tiers=(0, 0.25, 0.5, 7)), [0, 0.25, None, 0.5], 7, id="dominant-outcome"
    ),
    pytest.param(
        lambda part: WeightedSum({"a": Clip(Gate(good, part), 0.1, 1)}), [0.1, 0.25, None, 0.5], 1, id="nested"
    ),
]


@pytest.mark.parametrize(("make", "expected", "alone"), COMBINATIONS)
def test_a_combination_with_a_group_part_is_a_group_reward(make, expected, alone):
    combined = make(Shortest())
    assert is_group_reward(combined)
    assert not is_group_reward(make(length))
    assert rewards(evaluate_group(combined, GROUP)) == pytest.approx(expected, nan_ok=True)
    assert combined == make(Shortest())
    assert hash(combined) == hash(make(Shortest()))
    assert combined != make(length)
    assert pickle.loads(pickle.dumps(combined)).score_group(GROUP) == combined.score_group(GROUP)
    assert make(EitherWay())(GROUP[3]).reward == alone
    assert evaluate_group(combined, []) == []


@pytest.mark.parametrize("make", [item.values[0] for item in COMBINATIONS if item.id != "closed-gate"])
def test_a_combination_with_a_group_part_refuses_one_rollout_and_names_the_part(make):
    with pytest.raises(RewardError, match="Shortest compares"):
        make(Shortest())(GROUP[1])
    with pytest.raises(ConfigurationError, match=r"part '.*' of the reward \(Shortest\) compares .* a Lambda function"):
        reward_lambda(make(Shortest()))
    with pytest.raises(ConfigurationError, match="TurnCredit scores"):
        TurnCredit(make(Shortest()))


def test_a_group_reward_behind_a_gate_compares_all_and_other_rewards_are_asked_about_those_that_pass():
    asked = []

    def noted(rollout):
        asked.append(rollout.answer)
        return 1.0

    Gate(good, noted).score_group(GROUP)
    assert asked == ["aa", "", "a"]


STATE = {"orders": [{"id": 7, "status": "refunded"}]}


def test_the_state_of_the_environment_is_frozen():
    rollout = Rollout((), state=STATE)
    with pytest.raises(TypeError, match="immutable"):
        rollout.state["orders"] = []
    assert rollout.state == STATE
    assert pickle.loads(pickle.dumps(rollout)) == rollout
    assert hash(rollout) == hash(Rollout((), state=STATE))
    assert Rollout(()).state is None


def says(content: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, **more}


CALL = {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "done", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        ([says("#### 72"), says(None, **CALL), {"role": "tool", "tool_call_id": "1", "content": "ok"}], "#### 72"),
        ([says("#### 72"), says(" \n", **CALL)], "#### 72"),
        ([says("#### 72"), says([{"type": "tool_use", "id": "1", "name": "done", "input": {}}])], "#### 72"),
        ([says("#### 72"), {"role": "user", "content": "sure?"}, says("No, 73.")], "No, 73."),
        ([says([{"type": "reasoning", "text": "72?"}, {"type": "text", "text": "73"}])], "73"),
        ([says([{"type": "thinking", "thinking": "72?"}, {"type": "text", "text": "73"}])], "73"),
        ([says([{"reasoningContent": {"reasoningText": {"text": "72?"}}}, {"text": "73"}])], "73"),
        ([says([{"text": "72?", "thought": True}, {"text": "73"}])], "73"),
        ([says([{"type": "output_text", "text": "73"}])], "73"),
        ([says(None, **CALL)], ""),
        ([{"role": "user", "content": "72?"}], ""),
        ([], ""),
    ],
)
def test_the_answer_is_the_last_text_of_the_policy(messages, answer):
    assert Rollout(tuple(messages)).answer == answer
