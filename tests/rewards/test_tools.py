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
        pytest.param(rollout(*calls(39), call("read")), 0.1, id="ten-times-as-many-as-needed"),
        pytest.param(rollout(*calls(40), call("read")), 0.0, id="spam"),
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


FORMS = [
    pytest.param({"tool_calls": [call()]}, id="openai"),
    pytest.param({"tool_calls": [call(arguments={"q": "a"})]}, id="openai-with-an-object"),
    pytest.param({"tool_calls": [{"name": "search", "arguments": {"q": "a"}}]}, id="flat"),
    pytest.param({"function_call": {"name": "search", "arguments": '{"q": "a"}'}}, id="function-call"),
    pytest.param({"content": [{"type": "tool_use", "id": "1", "name": "search", "input": {"q": "a"}}]}, id="anthropic"),
    pytest.param({"content": [{"text": "hm"}, {"toolUse": {"name": "search", "input": {"q": "a"}}}]}, id="bedrock"),
]


@pytest.mark.parametrize("turn", FORMS)
def test_tool_calls_when_in_the_form_of_an_api_then_understood(turn):
    assert tool_calls(Rollout(({"role": "assistant", "content": None, **turn},))) == (("search", {"q": "a"}),)


def test_tool_calls_when_an_item_of_responses_then_understood():
    item = {"type": "function_call", "call_id": "1", "name": "search", "arguments": '{"q": "a"}'}
    result = {"type": "function_call_output", "call_id": "1", "output": "ok"}
    assert tool_calls(Rollout(({"role": "user", "content": "find it"}, item, result))) == (("search", {"q": "a"}),)


def test_tool_calls_when_the_user_writes_them_then_they_are_none():
    assert tool_calls(Rollout(({"role": "user", "tool_calls": [call()]},))) == ()


NO_ARGUMENTS = [
    {"arguments": ""},
    {"arguments": "{}"},
    {"arguments": " "},
    {"arguments": "null"},
    {"arguments": None},
    {},
]


@pytest.mark.parametrize("arguments", NO_ARGUMENTS, ids=range(len(NO_ARGUMENTS)))
def test_tool_use_when_a_tool_has_no_arguments_then_the_call_is_good(arguments):
    """vLLM and llama.cpp write an empty text."""
    asked = Rollout(
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "now", **arguments}}]},)
    )
    assert tool_calls(asked) == (("now", {}),)
    assert ToolUse(("now",))(asked).reward == 1.0


def test_tool_use_when_a_call_is_tried_again_after_an_error_then_it_costs_nothing():
    assert ToolUse(("search",))(rollout(call(), call())).reward == 1.0


SCHEMA = {"type": "object", "required": ["q"], "properties": {"q": {"type": "string"}}}
DEFINITIONS = {
    "openai": {"type": "function", "function": {"name": "search", "parameters": SCHEMA}},
    "responses": {"type": "function", "name": "search", "parameters": SCHEMA},
    "anthropic": {"name": "search", "input_schema": SCHEMA},
    "bedrock": {"toolSpec": {"name": "search", "inputSchema": {"json": SCHEMA}}},
}


@pytest.mark.parametrize(
    ("arguments", "score"), [('{"q": "a"}', 1.0), ('{"q": 5}', 0.0), ("{}", 0.0), ('{"q": "a", "n": 1}', 1.0)]
)
def test_tool_use_when_it_has_a_schema_then_arguments_must_be_valid(arguments, score):
    made = rollout(call(arguments=arguments))
    assert ToolUse(schemas={"search": SCHEMA})(made).reward == score
    assert ToolUse(schemas={"read": SCHEMA})(made).reward == 1.0
    for definition in DEFINITIONS.values():
        assert ToolUse()(Rollout(made.messages, metadata={"tools": [definition]})).reward == score
        assert ToolUse()(Rollout(made.messages, prompt={"tools": [definition]})).reward == score
        assert ToolUse(schemas={"search": {}})(Rollout(made.messages, metadata={"tools": [definition]})).reward == 1.0


def test_tool_use_when_compared_then_equal_by_value():
    assert ToolUse(schemas={"search": SCHEMA}) == ToolUse(schemas={"search": dict(SCHEMA)})
    assert hash(ToolUse(schemas={"search": SCHEMA})) == hash(ToolUse(schemas={"search": SCHEMA}))


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
        {"schemas": []},
        {"schemas": {"search": "object"}},
    ],
    ids=repr,
)
def test_tool_use_when_it_cannot_be_satisfied_then_configuration_error(arguments):
    with pytest.raises(ConfigurationError):
        ToolUse(**arguments)
