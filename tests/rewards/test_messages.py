"""Conversations of other APIs and libraries as rollouts."""

from __future__ import annotations

import json

import pytest
from openai.types.chat import ChatCompletionMessage
from strands import Agent, tool

from aws_rft_sdk import LocalRuntime, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.rewards import Rollout, ToolCall, ToolUse, gsm8k, tool_calls

ASKED = {"role": "user", "content": "What is 36 * 2?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "multiply", "arguments": '{"a": 36, "b": 2}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "72"}
SAID = {"role": "assistant", "content": "#### 72"}


def asks(*parts):
    return {"role": "user", "content": list(parts)}


def says(*parts):
    return {"role": "assistant", "content": list(parts)}


CONVERSATIONS = {
    "openai": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, SAID],
    "openai-objects": [
        ASKED,
        ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [CALL]}),
        RESULT,
        ChatCompletionMessage(role="assistant", content="#### 72"),
    ],
    "anthropic": [
        ASKED,
        says({"type": "tool_use", "id": "c1", "name": "multiply", "input": {"a": 36, "b": 2}}),
        asks({"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "72"}]}),
        says({"type": "thinking", "thinking": "73?", "signature": "s"}, {"type": "text", "text": "#### 72"}),
    ],
    "bedrock": [
        asks({"text": "What is 36 * 2?"}),
        says({"toolUse": {"toolUseId": "c1", "name": "multiply", "input": {"a": 36, "b": 2}}}),
        asks({"toolResult": {"toolUseId": "c1", "status": "success", "content": [{"json": 72}]}}),
        says({"reasoningContent": {"reasoningText": {"text": "73?"}}}, {"text": "#### "}, {"text": "72"}),
    ],
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_of_any_api_is_read_as_openais(messages):
    rollout = Rollout.from_messages(messages, 72, prompt="p", metadata={"m": 1}, state=[1])

    assert [message["role"] for message in rollout.messages] == ["user", "assistant", "tool", "assistant"]
    assert (rollout.answer, gsm8k(rollout), rollout.messages[0]["content"]) == ("#### 72", 1.0, ASKED["content"])
    assert tool_calls(rollout) == (ToolCall("multiply", {"a": 36, "b": 2}),)
    assert json.loads(rollout.messages[1]["tool_calls"][0]["function"]["arguments"]) == {"a": 36, "b": 2}
    assert {**rollout.messages[2]} == RESULT
    assert (rollout.prompt, rollout.metadata, rollout.state) == ("p", {"m": 1}, [1])
    assert Rollout.from_messages(rollout.messages, 72, prompt="p", metadata={"m": 1}, state=[1]) == rollout


IMAGE = {"image": {"format": "png", "source": {"bytes": "aGk="}}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(says({"text": "a"}, IMAGE), [says({"type": "text", "text": "a"}, IMAGE)], id="image"),
        pytest.param(says({"text": "a"}, {"cachePoint": {"type": "default"}}), [{**SAID, "content": "a"}], id="cache"),
        pytest.param(
            says({"citationsContent": {"content": [{"text": "a"}], "citations": []}}),
            [{**SAID, "content": "a"}],
            id="citations",
        ),
        pytest.param(
            says({"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}),
            [{**SAID, "content": "a"}],
            id="redacted",
        ),
        pytest.param(
            says({"reasoningContent": {"reasoningText": {"text": "hm"}}}),
            [{"role": "assistant", "content": None, "reasoning_content": "hm"}],
            id="reasoning-alone",
        ),
        pytest.param(
            asks({"toolResult": {"toolUseId": "c1", "content": []}}, {"text": "go on"}),
            [{"role": "tool", "tool_call_id": "c1", "content": ""}, {"role": "user", "content": "go on"}],
            id="result-and-text",
        ),
        pytest.param(
            asks({"type": "tool_result", "tool_use_id": "c1", "content": "72"}), [RESULT], id="result-as-text"
        ),
        pytest.param({"role": "assistant", "content": []}, [{"role": "assistant", "content": []}], id="empty"),
    ],
)
def test_parts_that_are_no_plain_text_are_kept_or_left_out(message, expected):
    assert list(Rollout.from_messages([message]).messages) == expected


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ("#### 72", "messages must be a list of chat messages, not '#### 72'"),
        (SAID, "messages must be a list"),
        (5, "messages must be a list"),
        ([SAID, "#### 72"], r"messages\[1\] must be an object with a role"),
        ([{"content": "#### 72"}], r"messages\[0\] must be an object with a role"),
    ],
    ids=["text", "one-message", "number", "list-of-texts", "no-role"],
)
def test_what_is_no_list_of_messages_is_refused(messages, fault):
    with pytest.raises(PayloadError, match=fault):
        Rollout.from_messages(messages)


@tool
def multiply(a: int, b: int) -> str:
    """Multiply two numbers."""
    return str(a * b)


def policy(request):
    if request["messages"][-1]["role"] == "tool":
        return {"content": "<think>36 * 2</think>#### 72", "reasoning_content": "#### 73"}
    return {"content": None, "tool_calls": [CALL]}


def test_a_real_agent_and_its_trajectory_give_rewards_the_same():
    from strands.models.openai import OpenAIModel

    agents = []

    @rft_handler
    def handler(payload):
        model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
        agents.append(Agent(model=model, tools=[multiply], system_prompt="Be brief.", callback_handler=None))
        agents[0](payload["prompt"])
        return Rollout.from_agent(agents[0], 72, state={"left": 0}) and 1.0

    with LocalRuntime(policy) as runtime:
        payload = runtime.new_rollout("What is 36 * 2?")
        handler(payload)
        trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])

    from_agent = Rollout.from_agent(agents[0], 72, state={"left": 0})
    from_trajectory = Rollout.from_trajectory(trajectory, 72)
    assert from_agent.state == {"left": 0}
    assert Rollout.of(trajectory, 72) == from_trajectory
    for rollout in (from_agent, from_trajectory):
        assert [message["role"] for message in rollout.messages if message["role"] != "system"] == [
            *("user", "assistant", "tool", "assistant")
        ]
        assert tool_calls(rollout) == (ToolCall("multiply", {"a": 36, "b": 2}),)
        assert (rollout.answer, gsm8k(rollout), len(rollout.turns)) == ("<think>36 * 2</think>#### 72", 1.0, 2)
        assert ToolUse(required=("multiply",))(rollout).reward == 1.0
    assert from_agent.messages[2] == from_trajectory.messages[3]
