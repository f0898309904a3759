"""Calls against those of the ground truth, and the final state against the state of the ground truth."""

import json
import pickle

import pytest

from aws_rft_sdk.rewards import FinalState, Rollout, ToolArguments


def made(*calls):
    turns = [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": name, "arguments": json.dumps(given)}}],
        }
        for name, given in calls
    ]
    return (*turns, {"role": "assistant", "content": "done"})


PARIS = ("weather", {"city": "Paris", "days": 3})
ROME = ("weather", {"city": "Rome", "days": 3})
SEARCH = ("search", {"q": "Paris"})
GOLD = [
    {"name": "weather", "arguments": {"city": "Paris", "days": 3}},
    {"name": "weather", "arguments": {"city": "Rome", "days": 3}},
]
STRICT, LOOSE, ORDERED = ToolArguments(), ToolArguments(extra=True), ToolArguments(ordered=True)


@pytest.mark.parametrize(
    ("calls", "strict", "loose", "ordered"),
    [
        pytest.param([PARIS, ROME], 1, 1, 1, id="both"),
        pytest.param([ROME, PARIS], 1, 1, 0, id="other-order"),
        pytest.param([PARIS], 0, 0, 0, id="one-missing"),
        pytest.param([PARIS, PARIS], 0, 0, 0, id="one-twice"),
        pytest.param([SEARCH, PARIS, ROME], 0, 1, 0, id="one-more"),
        pytest.param([PARIS, SEARCH], 0, 0, 0, id="other-tool"),
        pytest.param([PARIS, ("weather", {"city": "Rome", "days": 4})], 0, 0, 0, id="other-value"),
        pytest.param([PARIS, ("weather", {"city": "Rome"})], 0, 0, 0, id="argument-missing"),
        pytest.param([PARIS, ("weather", {"city": "Rome", "days": 3, "unit": "c"})], 0, 0, 0, id="argument-more"),
        pytest.param([PARIS, ("weather", {"city": "Rome", "days": "3"})], 0, 0, 0, id="other-type"),
        pytest.param([PARIS, ("weather", {"city": "Rome", "days": 3.0})], 1, 1, 1, id="whole-decimal"),
        pytest.param([], 0, 0, 0, id="none"),
    ],
)
def test_tool_arguments_when_compared_with_the_calls_of_the_ground_truth_then_all_or_nothing(
    calls, strict, loose, ordered
):
    assert [reward(Rollout(made(*calls), GOLD)) for reward in (STRICT, LOOSE, ORDERED)] == [strict, loose, ordered]


def test_tool_arguments_when_further_calls_are_allowed_then_they_may_stand_anywhere():
    reward = ToolArguments(ordered=True, extra=True)
    assert reward(Rollout(made(SEARCH, PARIS, SEARCH, ROME, SEARCH), GOLD)) == 1.0
    assert reward(Rollout(made(ROME, SEARCH, PARIS), GOLD)) == 0.0


BFCL = [
    {
        "weather": {
            "city": ["Paris", "Paris, France"],
            "unit": ["celsius", ""],
            "at": [{"day": [1, 2], "hour": ["", 9]}, ""],
        }
    }
]


@pytest.mark.parametrize(
    ("arguments", "score"),
    [
        pytest.param({"city": "Paris"}, 1, id="optional-ones-missing"),
        pytest.param({"city": "paris France", "unit": "Celsius"}, 1, id="other-spelling"),
        pytest.param({"city": "Paris", "unit": "kelvin"}, 0, id="value-not-accepted"),
        pytest.param({"unit": "celsius"}, 0, id="required-one-missing"),
        pytest.param({"city": "Paris", "days": 3}, 0, id="unknown-argument"),
        pytest.param({"city": "Paris", "at": {"day": 2}}, 1, id="object"),
        pytest.param({"city": "Paris", "at": {"day": 2, "hour": 9}}, 1, id="object-with-an-optional-key"),
        pytest.param({"city": "Paris", "at": {"day": 3}}, 0, id="object-with-another-value"),
        pytest.param({"city": ["Paris"]}, 0, id="list-for-a-text"),
        pytest.param({"city": True}, 0, id="bool"),
    ],
)
def test_tool_arguments_when_the_ground_truth_is_of_bfcl_then_accepted_values_are_right(arguments, score):
    assert STRICT(Rollout(made(("weather", arguments)), BFCL)) == score
    assert STRICT(Rollout(made(("forecast", arguments)), BFCL)) == 0.0


def test_tool_arguments_when_values_are_lists_then_compared_element_by_element():
    gold = [{"sum": {"numbers": [[1, 2, 3]]}}]
    assert STRICT(Rollout(made(("sum", {"numbers": [1, 2, 3]})), gold)) == 1.0
    assert STRICT(Rollout(made(("sum", {"numbers": [3, 2, 1]})), gold)) == 0.0


def test_tool_arguments_when_a_call_fits_two_of_the_ground_truth_then_each_gets_one():
    gold = [{"weather": {"city": ["Paris", "Rome"]}}, {"weather": {"city": ["Paris"]}}]
    assert STRICT(Rollout(made(("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})), gold)) == 1.0
    assert STRICT(Rollout(made(("weather", {"city": "Rome"}), ("weather", {"city": "Rome"})), gold)) == 0.0


ONE = GOLD[0]


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param(json.dumps([ONE]), id="text"),
        pytest.param(ONE, id="one-call"),
        pytest.param({"id": "simple_1", "ground_truth": [ONE]}, id="row-of-bfcl"),
        pytest.param([{"function": {"name": "weather", "arguments": '{"city": "Paris", "days": 3}'}}], id="openai"),
        pytest.param([{"type": "tool_use", "name": "weather", "input": {"city": "Paris", "days": 3}}], id="anthropic"),
        pytest.param([{"toolUse": {"name": "weather", "input": {"city": "Paris", "days": 3}}}], id="bedrock"),
    ],
)
def test_tool_arguments_when_the_ground_truth_has_another_form_then_understood(truth):
    assert (STRICT(Rollout(made(PARIS), truth)), STRICT(Rollout(made(ROME), truth))) == (1.0, 0.0)


def test_tool_arguments_when_it_is_right_to_call_nothing_then_a_call_is_wrong():
    assert (STRICT(Rollout(made(), [])), STRICT(Rollout(made(PARIS), []))) == (1.0, 0.0)


UNUSABLE = [None, "Paris", 5, [5], [{}], {"answer": None}, [{"name": "f", "arguments": "{"}], ["f(x=1)"]]


@pytest.mark.parametrize("truth", UNUSABLE, ids=range(len(UNUSABLE)))
def test_tool_arguments_when_the_ground_truth_is_no_list_of_calls_then_none(truth):
    assert STRICT(Rollout(made(PARIS), truth)) is None


STATE = {
    "orders": {"7": {"status": "cancelled", "items": [1, 2]}, "8": {"status": "open"}},
    "balance": 10,
    "/tmp/a.txt": "hello",
}


@pytest.mark.parametrize(
    ("truth", "score"),
    [
        pytest.param({"balance": 10}, 1, id="key"),
        pytest.param({"balance": 11}, 0, id="other-value"),
        pytest.param({"balance": True}, 0, id="bool-is-no-number"),
        pytest.param({"orders": {"7": {"status": "cancelled"}}}, 1, id="part-of-an-object"),
        pytest.param({"orders": {"7": {"status": "open"}}}, 0, id="part-with-another-value"),
        pytest.param({"orders": {"7": {"items": [1]}}}, 0, id="part-of-a-list"),
        pytest.param({"orders": {"9": None}, "gone": None}, 1, id="missing-as-asked"),
        pytest.param({"orders": {"8": None}}, 0, id="not-missing"),
        pytest.param({"orders": {"9": {}}}, 0, id="object-missing"),
        pytest.param({"/tmp/a.txt": "hello"}, 1, id="path-of-a-file"),
        pytest.param({"/tmp/a.txt": "hi"}, 0, id="path-of-a-file-with-another-value"),
        pytest.param({}, 1, id="nothing-asked"),
        pytest.param("done", 0, id="text"),
    ],
)
def test_final_state_when_compared_then_the_keys_of_the_ground_truth_count(truth, score):
    assert FinalState()(Rollout((), truth, state=STATE)) == score


def test_final_state_when_exact_then_nothing_else_may_be_there():
    assert FinalState(exact=True)(Rollout((), STATE, state=STATE)) == 1.0
    assert FinalState(exact=True)(Rollout((), {"balance": 10}, state=STATE)) == 0.0
    assert FinalState()(Rollout((), [1, 2], state=[1, 2])) == 1.0
    assert FinalState()(Rollout((), [1, 2], state=[2, 1])) == 0.0


def test_final_state_when_there_is_no_state_or_no_ground_truth_then_none():
    assert FinalState()(Rollout((), {"balance": 10})) is None
    assert FinalState()(Rollout((), None, state=STATE)) is None


@pytest.mark.parametrize("reward", [ToolArguments(extra=True), FinalState(exact=True)], ids=["calls", "state"])
def test_outcomes_when_pickled_then_equal(reward):
    assert pickle.loads(pickle.dumps(reward)) == reward
    assert hash(reward) == hash(pickle.loads(pickle.dumps(reward)))
