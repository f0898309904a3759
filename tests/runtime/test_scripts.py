"""Scripts: the same turns for each rollout, in order, for every client and agent."""

from __future__ import annotations

import json
import threading

import openai
import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool as langchain_tool
from langchain_openai import ChatOpenAI
from strands import Agent, tool

from aws_rft_sdk import instrument, rft_handler, runtime_model
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import LocalRuntime, ScriptedPolicy, call, scripted
from aws_rft_sdk.runtime import _recent as recent

LOOK_UP = call("look_up_order", order_id="A1")


def message(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


def calls(answer):
    return [
        (part["function"]["name"], json.loads(part["function"]["arguments"])) for part in message(answer)["tool_calls"]
    ]


def test_call_is_the_item_of_a_file():
    assert LOOK_UP == {"call": "look_up_order", "arguments": {"order_id": "A1"}}
    assert call("f", name="n", self=1) == {"call": "f", "arguments": {"name": "n", "self": 1}}


# --- which turn gets which item --------------------------------------------------------------------------------------


def test_script_when_rollouts_are_mixed_then_each_gets_its_turns_in_order(runtime, wire):
    runtime.policy = scripted([LOOK_UP, "Done"])
    first, second = runtime.new_rollout("p"), runtime.new_rollout("p")

    assert calls(wire.chat(first)) == [("look_up_order", {"order_id": "A1"})]
    assert calls(wire.chat(second)) == [("look_up_order", {"order_id": "A1"})]
    assert message(wire.chat(second))["content"] == "Done"
    assert message(wire.chat(first))["content"] == "Done"


def test_script_when_it_is_over_then_400_says_how_long_it_is(runtime, wire):
    runtime.policy = scripted(["one", "two"])
    payload = runtime.new_rollout("p")

    answers = [wire.chat(payload) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 400]
    assert "has 2 turns, and the agent asks for turn 3" in answers[2].json()["Message"]


def test_script_when_an_item_is_a_list_then_one_turn_has_its_text_and_calls(runtime, wire):
    runtime.policy = scripted([["Let me see.", call("a", x=1), call("b")], [call("a"), call("a")]])
    payload = runtime.new_rollout("p")

    answer = wire.chat(payload)

    assert (message(answer)["content"], calls(answer)) == ("Let me see.", [("a", {"x": 1}), ("b", {})])
    parts = message(wire.chat(payload))["tool_calls"]
    assert len({part["id"] for part in parts}) == 2


def test_script_when_an_item_is_a_message_or_a_completion_then_given_as_it_is(runtime, wire):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    runtime.policy = scripted(
        [{"content": "hm", "reasoning_content": "why"}, {"choices": [{"message": {"content": "x"}}], "usage": usage}]
    )
    payload = runtime.new_rollout("p")

    assert message(wire.chat(payload))["reasoning_content"] == "why"
    assert wire.chat(payload).json()["usage"] == usage


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        pytest.param("I want a refund", "refund", id="substring"),
        pytest.param("I want a refund now", "refund now", id="the-longest-one"),
        pytest.param("hello", "other", id="none-of-them"),
    ],
)
def test_scripts_when_there_are_several_then_the_prompt_chooses(runtime, wire, prompt, answer):
    runtime.policy = scripted({"refund": ["refund"], "refund now": ["refund now"], "": ["other"]})

    assert message(wire.chat(runtime.new_rollout("p"), prompt))["content"] == answer


def test_scripts_when_no_key_fits_then_400_lists_the_keys(runtime, wire):
    runtime.policy = scripted({"refund": ["a"], "order": ["b"]})

    refused = wire.chat(runtime.new_rollout("p"), "hello")

    assert refused.status_code == 400
    assert "'hello'. Its keys are 'refund', 'order'" in refused.json()["Message"]


def test_scripts_when_the_first_message_leaves_the_window_then_the_script_stays(runtime, wire):
    runtime.policy = scripted({"refund": ["a", "b"]})
    payload = runtime.new_rollout("p")

    wire.chat(payload, "refund")

    assert message(wire.chat(payload, "and then?"))["content"] == "b"


def test_script_when_a_call_belongs_to_no_trajectory_then_its_conversation_tells_the_turn(open_wire):
    with LocalRuntime(scripted(["one", "two"]), auth="none", strict=False) as runtime:
        wire = open_wire(runtime)
        said = [{"role": "user", "content": "p"}]
        for expected in ("one", "two"):
            answer = wire.post("/v1/chat/completions", {"messages": said})
            assert message(answer)["content"] == expected
            said += [message(answer), {"role": "user", "content": "go on"}]


def test_policy_when_rollouts_go_on_for_ever_then_its_memory_does_not_grow(monkeypatch):
    monkeypatch.setattr(recent, "_SIZE", 3)
    kept = recent.Recent()

    for number in range(9):
        kept[number] = number
    kept[6] = 60
    kept[9] = 9

    assert dict(kept) == {8: 8, 6: 60, 9: 9}


# --- what is no script -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param([], "has no items", id="empty"),
        pytest.param({}, "list of items", id="no-prompts"),
        pytest.param("Done", "must be a list of items, not 'Done'", id="text"),
        pytest.param(None, "must be a list of items", id="none"),
        pytest.param({"a": "Done"}, "prompt 'a' must be a list", id="text-for-a-prompt"),
        pytest.param({"a": []}, "prompt 'a' has no items", id="nothing-for-a-prompt"),
        pytest.param({1: ["x"]}, "lists by prompt", id="key"),
        pytest.param(["Done", 5], "item 2: an answer must be text", id="number"),
        pytest.param(["Done", None], "item 2", id="null"),
        pytest.param([[]], "item 1", id="no-calls"),
        pytest.param([["Done", "Done"]], "item 1: 'Done' is no call of a tool", id="two-texts"),
        pytest.param([{"call": ""}], "item 1: {'call': ''} is no call", id="no-name"),
        pytest.param([{"call": "f", "arguments": [1]}], "the arguments of 'f' are no object", id="arguments"),
        pytest.param([{"call": "f", "args": {}}], "item 1: a call has no field 'args'", id="field"),
        pytest.param([{"name": "f"}], "item 1: message must have content or tool_calls", id="message"),
        pytest.param([call("f", when=object())], "item 1", id="no-json"),
        pytest.param([call("f", share=float("nan"))], "item 1", id="nan"),
        pytest.param({"a": ["x"], "b": ["x", 7]}, "prompt 'b', item 2", id="second-prompt"),
    ],
)
def test_script_when_an_item_is_wrong_then_the_error_names_it(script, says):
    with pytest.raises(ConfigurationError) as raised:
        scripted(script)

    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param('["a",\n"b"', "line 2", id="no-json"),
        pytest.param(b"\xff", "cannot be read", id="no-text"),
        pytest.param('["a", {"call": 1}]', "script.json, item 2", id="item"),
        pytest.param('"a"', "must be a list of items", id="text"),
    ],
)
def test_file_when_it_is_no_script_then_the_error_names_it(tmp_path, text, says):
    file = tmp_path / "script.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ConfigurationError) as raised:
        ScriptedPolicy.read(file)

    assert says in str(raised.value)


# --- agents ----------------------------------------------------------------------------------------------------------


def looked_up(order_id):
    return f"{order_id} is on its way"


@tool
def look_up_order(order_id: str) -> str:
    """Look up an order.

    Args:
        order_id: The order.
    """
    return looked_up(order_id)


def strands(prompt, **config):
    agent = Agent(model=runtime_model(**config), tools=[look_up_order], callback_handler=None)
    return str(agent(prompt)), [
        block["toolResult"]["content"][0]["text"]
        for said in agent.messages
        for block in said["content"]
        if "toolResult" in block
    ]


def openai_chat(prompt, stream=False):
    messages, results = [{"role": "user", "content": prompt}], []
    with instrument(openai.OpenAI(**runtime_client_args())) as client:
        completions = client.chat.completions
        while True:
            if stream:
                with completions.stream(model="default", messages=messages) as answering:
                    said = answering.get_final_completion().choices[0].message
            else:
                said = completions.create(model="default", messages=messages).choices[0].message
            if not said.tool_calls:
                return said.content, results
            messages.append(said.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
            for asked in said.tool_calls:
                results.append(looked_up(**json.loads(asked.function.arguments)))
                messages.append({"role": "tool", "tool_call_id": asked.id, "content": results[-1]})


def openai_responses(prompt):
    given, results = [{"role": "user", "content": prompt}], []
    with instrument(openai.OpenAI(**runtime_client_args())) as client:
        while True:
            answer = client.responses.create(model="default", input=given)
            asked = [item for item in answer.output if item.type == "function_call"]
            if not asked:
                return answer.output_text, results
            for item in asked:
                results.append(looked_up(**json.loads(item.arguments)))
                given += [
                    item.model_dump(exclude_none=True),
                    {"type": "function_call_output", "call_id": item.call_id, "output": results[-1]},
                ]


def langchain(prompt, **more):
    with_tools = ChatOpenAI(model="default", **runtime_client_args(), **http_clients(), **more).bind_tools(
        [langchain_tool("look_up_order", description="Look up an order.")(looked_up)]
    )
    said, results = [("user", prompt)], []
    while True:
        said.append(with_tools.invoke(said))
        if not said[-1].tool_calls:
            return said[-1].text, results
        for asked in said[-1].tool_calls:
            results.append(looked_up(**asked["args"]))
            said.append(ToolMessage(results[-1], tool_call_id=asked["id"]))


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(strands, id="strands"),
        pytest.param(lambda prompt: strands(prompt, stream=False), id="strands-without-streams"),
        pytest.param(openai_chat, id="openai"),
        pytest.param(lambda prompt: openai_chat(prompt, stream=True), id="openai-stream"),
        pytest.param(openai_responses, id="openai-responses"),
        pytest.param(langchain, id="langchain"),
        pytest.param(lambda prompt: langchain(prompt, streaming=True), id="langchain-stream"),
        pytest.param(lambda prompt: langchain(prompt, use_responses_api=True), id="langchain-responses"),
    ],
)
def test_script_when_an_agent_follows_it_then_tools_run_and_it_ends(agent):
    outcomes = []

    @rft_handler
    def handler(payload):
        outcomes.append(agent(payload["prompt"]))
        return 1.0

    with LocalRuntime(scripted([[call("look_up_order", order_id=i) for i in ("A1", "B2")], "Done"])) as runtime:
        payloads = [runtime.new_rollout("Where are they?") for _ in range(4)]
        threads = [threading.Thread(target=handler, args=(payload,)) for payload in payloads]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [len(trajectory.turns) for trajectory in runtime.trajectories()] == [2] * 4
        assert not runtime.problems()

    assert [(text.strip(), sorted(results)) for text, results in outcomes] == [
        ("Done", ["A1 is on its way", "B2 is on its way"])
    ] * 4
