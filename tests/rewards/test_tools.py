import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import Rollout, ToolUse, tool_calls


def call(name="search", arguments='{"q": "a"}'):
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def rollout(*calls, text="done"):
    turns = [{"role": "assistant", "content": None, "tool_calls": [item]} for item in calls]
    return Rollout(({"role": "user", "content": "find it"}, *turns, {"role": "assistant", "content": text}))


def calls(count):
    return [call(arguments=f'{{"q": {number}}}') for number in range(count)]


reward = ToolUse(("search", "read"), allowed=("search", "read", "count"), max_calls=4)


@pytest.mark.parametrize(
    ("messages", "score"),
    [
        pytest.param(rollout(call(), call("read")), 1.0, id="both"),
        pytest.param(rollout(call()), 0.5, id="one-of-two"),
        pytest.param(rollout(), 0.0, id="none"),
        pytest.param(Rollout(()), 0.0, id="silent"),
        pytest.param(rollout(call(), call("read"), call("invented")), 2 / 3, id="tool-that-does-not-exist"),
        pytest.param(rollout(call(), call("read", "{broken")), 0.25, id="malformed-arguments"),
        pytest.param(rollout(call(), call("read", "[1]")), 0.25, id="arguments-no-object"),
        pytest.param(rollout(*calls(7), call("read")), 0.5, id="twice-as-many-as-needed"),
        pytest.param(rollout(*[call()] * 4, call("read")), 0.5, id="repeated"),
        pytest.param(rollout(call(), call("read"), text='{"name": "read", "arguments": {}}'), 2 / 3, id="as-text"),
        pytest.param(rollout(text='<tool_call>{"name": "read"}</tool_call>'), 0.0, id="only-as-text"),
    ],
)
def test_tool_use_when_judged_then_coverage_times_form_times_economy(messages, score):
    result = reward(messages)
    assert result.reward == pytest.approx(score)
    assert {component.name for component in result.components} == {"coverage", "well_formed", "economy", "calls"}
    assert not any(component.counts for component in result.components)


def test_tool_use_when_nothing_is_required_then_any_good_call_counts():
    assert ToolUse()(rollout(call("anything"))).reward == 1.0
    assert ToolUse()(rollout()).reward == 0.0


def test_tool_calls_when_in_the_form_of_bedrock_then_understood():
    content = [{"text": "hm"}, {"toolUse": {"toolUseId": "1", "name": "search", "input": {"q": "a"}}}]
    assert tool_calls(Rollout(({"role": "assistant", "content": content},))) == (("search", {"q": "a"}),)


@pytest.mark.parametrize(
    "turn",
    [{"tool_calls": "x"}, {"tool_calls": [None]}, {"tool_calls": [{}]}, {"tool_calls": [{"function": {"name": 5}}]}],
    ids=repr,
)
def test_tool_use_when_calls_are_garbage_then_zero(turn):
    assert ToolUse()(Rollout(({"role": "assistant", **turn},))).reward == 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"required": ("a", "b"), "max_calls": 1},
        {"max_calls": 0},
        {"required": ("a",), "allowed": ()},
        {"required": "a"},
    ],
    ids=repr,
)
def test_tool_use_when_it_cannot_be_satisfied_then_configuration_error(arguments):
    with pytest.raises(ConfigurationError):
        ToolUse(**arguments)
