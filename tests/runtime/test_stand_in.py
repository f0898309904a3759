"""The stand-in: arguments that fit, each tool called once, forms filled in, any agent served."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import openai
import pytest
import requests
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from strands import Agent
from strands import tool as strands_tool

from aws_rft_sdk import LocalRuntime, instrument, rft_handler, runtime_model
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import StandInPolicy, standin
from aws_rft_sdk.runtime._plausible import plausible_value
from aws_rft_sdk.runtime.stand_in import next_message


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"type": "string"}, "text", id="string"),
        pytest.param({"type": "string", "maxLength": 2}, "te", id="short string"),
        pytest.param({"type": "string", "format": "date"}, "2026-01-31", id="date"),
        pytest.param({"enum": ["a", "b"]}, "a", id="enum"),
        pytest.param({"const": 3}, 3, id="const"),
        pytest.param({"examples": [4]}, 4, id="example"),
        pytest.param({"type": "integer"}, 1, id="integer"),
        pytest.param({"type": "integer", "minimum": 5}, 5, id="minimum"),
        pytest.param({"type": "integer", "exclusiveMinimum": 5}, 6, id="exclusive minimum"),
        pytest.param({"type": "number", "maximum": 0}, 0, id="maximum"),
        pytest.param({"type": "integer", "exclusiveMaximum": 0}, -1, id="exclusive maximum"),
        pytest.param({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5, id="between two numbers"),
        pytest.param({"type": "integer", "multipleOf": 5, "minimum": 11}, 15, id="multiple"),
        pytest.param({"type": "string", "minLength": 6}, "text..", id="long string"),
        pytest.param({"type": "array", "items": {}, "maxItems": 0}, [], id="empty array"),
        pytest.param({"type": "boolean"}, True, id="boolean"),
        pytest.param({"type": "null"}, None, id="null"),
        pytest.param({"type": ["null", "integer"]}, 1, id="one of several types"),
        pytest.param({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1], id="array"),
        pytest.param({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1, id="any of"),
        pytest.param(
            {"allOf": [{"$ref": "#/$defs/x"}, {"minimum": 2}], "$defs": {"x": {"type": "integer"}}}, 2, id="all of"
        ),
        pytest.param({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, True, id="reference"),
        pytest.param(
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {}},
                "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            {"a": 1},
            id="any of two required",
        ),
        pytest.param(
            {
                "allOf": [
                    {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"properties": {"b": {"type": "null"}}, "required": ["b"]},
                ]
            },
            {"a": 1, "b": None},
            id="all of two objects",
        ),
        pytest.param({"$ref": "#/nowhere"}, "text", id="reference to nothing"),
        pytest.param(True, "text", id="anything"),
        pytest.param(
            {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]},
            {"a": 1},
            id="object",
        ),
    ],
)
def test_plausible_value(schema, value):
    assert plausible_value(schema, "text") == value


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"enum": ["a", "b", "c"]}, id="enum"),
        pytest.param({"type": "integer", "minimum": -3, "maximum": 2}, id="integer"),
        pytest.param({"type": "integer", "exclusiveMaximum": -4}, id="negative"),
        pytest.param({"type": "number", "minimum": 0.2, "maximum": 0.7}, id="fraction"),
        pytest.param({"type": "number", "minimum": 2.5, "multipleOf": 0.5}, id="multiple"),
        pytest.param({"type": "string", "minLength": 20, "maxLength": 21}, id="length"),
        pytest.param({"type": ["boolean", "null"]}, id="boolean"),
        pytest.param(
            {
                "type": "object",
                "properties": {
                    "rows": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/row"}},
                    "mode": {"anyOf": [{"enum": ["x", "y"]}, {"type": "null"}]},
                },
                "required": ["rows", "mode"],
                "additionalProperties": False,
                "$defs": {"row": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
            },
            id="nested",
        ),
    ],
)
def test_drawn_values_fit(schema):
    for seed in range(50):
        jsonschema.validate(plausible_value(schema, "word", Random(seed)), schema)


@pytest.mark.parametrize(
    "schema", [{"enum": ["a", "b"]}, {"type": "integer"}, {"type": "boolean"}], ids=["enum", "integer", "boolean"]
)
def test_drawn_values_differ(schema):
    assert len({plausible_value(schema, "word", Random(seed)) for seed in range(50)}) > 1


def test_endless_schema_ends():
    schema = {"type": "object", "required": ["x"], "properties": {"x": {"$ref": "#"}}}

    assert json.dumps(plausible_value(schema))


def test_value_fits_a_pydantic_model():
    class Leaf(BaseModel):
        kind: str
        size: float = Field(gt=2, le=10)

    class Tree(BaseModel):
        leaves: list[Leaf] = Field(min_length=1)
        best: Leaf | None
        note: str = "none"

    Tree.model_validate(plausible_value(Tree.model_json_schema()))


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("a"), tool("b"), tool("c")]
USER = {"role": "user", "content": "hello"}
A_CALLED = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "a"}}]}


def called(message: dict[str, Any]) -> list[str]:
    return [call["function"]["name"] for call in message.get("tool_calls") or ()]


@pytest.mark.parametrize(
    ("request_", "tools", "names"),
    [
        pytest.param({"messages": [USER]}, "abc", [], id="no tools"),
        pytest.param({"messages": [USER], "tools": TOOLS}, "abc", ["a", "b", "c"], id="all at once"),
        pytest.param({"messages": [USER], "tools": TOOLS}, "ac", ["a", "c"], id="one skipped"),
        pytest.param({"messages": [USER], "tools": TOOLS}, "", [], id="none wanted"),
        pytest.param({"messages": [USER, A_CALLED], "tools": TOOLS}, "abc", ["b", "c"], id="one called already"),
        pytest.param({"messages": [USER], "tools": TOOLS, "tool_choice": "none"}, "abc", [], id="forbidden"),
        pytest.param({"messages": [USER], "tools": TOOLS, "tool_choice": "required"}, "", ["c"], id="any demanded"),
        pytest.param(
            {"messages": [USER, A_CALLED], "tools": TOOLS, "tool_choice": "required"}, "abc", ["b"], id="next demanded"
        ),
        pytest.param(
            {"messages": [USER], "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "c"}}},
            "",
            ["c"],
            id="one demanded",
        ),
    ],
)
def test_tools_that_are_called(request_, tools, names):
    assert called(next_message(request_, tools)) == names


HAND_OVER = {
    "type": "function",
    "function": {"name": "hand", "parameters": {"type": "object", "properties": {"agent_name": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        pytest.param("Agent name: b. Agent description: x\nAgent name: c d.", [{"agent_name": "b"}], id="the first"),
        pytest.param(
            "Previous agents who worked on this: a → b\n\nAgent name: b.\nAgent name: c d.\n",
            [{"agent_name": "c d"}],
            id="one that has not worked yet",
        ),
        pytest.param("Previous agents who worked on this: b\n\nAgent name: b.", [], id="all have worked"),
        pytest.param("nothing about others", [{}], id="no Swarm"),
    ],
)
def test_task_is_handed_to_an_agent_of_the_swarm_that_has_not_worked_yet(text, arguments):
    message = next_message({"messages": [{"role": "user", "content": text}], "tools": [HAND_OVER]}, {"hand"})

    assert [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", [])] == arguments


def test_text_is_in_answers_and_arguments():
    spoken = next_message({"messages": [USER]}, (), "word")
    call = next_message({"messages": [USER], "tools": TOOLS}, "abc", "word")["tool_calls"][0]

    assert "word" in spoken["content"]
    assert json.loads(call["function"]["arguments"]) == {"q": "word"}


@pytest.mark.parametrize(
    ("wanted", "content"),
    [
        pytest.param({"type": "json_object"}, "example", id="any object"),
        pytest.param({"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}, 1, id="schema"),
        pytest.param({"type": "json_schema"}, "example", id="schema missing"),
    ],
)
def test_form_is_filled_in(wanted, content):
    assert json.loads(next_message({"messages": [USER], "response_format": wanted}, ())["content"]) == content


# --- as the policy of rollouts ---------------------------------------------------------------------------------------


def conversations(seed, prompts=("p", "q"), samples=4):
    """Return what the policy says in rollouts of each prompt, whose tools answer every call."""
    with LocalRuntime(standin(seed), auth="none") as runtime, requests.Session() as session:
        told = {}
        for prompt in prompts:
            for sample in range(samples):
                told[prompt, sample] = converse(session, runtime, prompt)
        return told


def converse(session, runtime, prompt):
    metadata = runtime.new_rollout(prompt)["metadata"]
    headers = {"X-Rft-Job-Arn": metadata["jobArn"], "X-Trajectory-Id": metadata["rolloutId"]}
    said, told = [{"role": "user", "content": prompt}], []
    for _ in range(40):
        answer = session.post(
            f"{runtime.endpoint}/v1/chat/completions",
            json={"messages": said, "tools": TOOLS},
            headers=headers,
            timeout=30,
        )
        answer.raise_for_status()
        message = answer.json()["choices"][0]["message"]
        asked = message.get("tool_calls") or []
        told.append((message["content"], [call["function"] for call in asked]))
        if not asked:
            return told
        said += [message, *({"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in asked)]
    raise AssertionError("the stand-in does not end")


def test_policy_when_seeded_then_the_same_and_samples_of_a_prompt_differ():
    one, again, other = conversations(1), conversations(1), conversations(2)

    assert one == again
    assert one != other
    assert len({json.dumps(told) for told in one.values()}) == len(one)
    for told in one.values():
        names = [function["name"] for _, functions in told for function in functions]
        assert names
        assert len(names) == len(set(names))


@pytest.mark.parametrize("seed", [None, 1.5, "1"], ids=["none", "fraction", "text"])
def test_policy_when_the_seed_is_no_whole_number_then_refused(seed):
    with pytest.raises(ConfigurationError, match="seed"):
        StandInPolicy(seed)


@strands_tool
def divide(number: int, by: int = 1) -> float:
    """Divide.

    Args:
        number: What is divided.
        by: What it is divided by.
    """
    return number / by


@strands_tool
def break_down(reason: str) -> str:
    """Fail.

    Args:
        reason: Why.
    """
    raise OSError(reason)


class Verdict(BaseModel):
    """What is asked for."""

    label: str = Field(max_length=40)
    stars: int = Field(ge=1, le=5)


def strands(prompt):
    assert str(Agent(model=runtime_model(), tools=[divide, break_down], callback_handler=None)(prompt)).strip()


def strands_structure(prompt):
    agent = Agent(model=runtime_model(), tools=[divide], callback_handler=None)
    assert isinstance(agent(prompt, structured_output_model=Verdict).structured_output, Verdict)


def strands_agent_as_tool(prompt):
    @strands_tool
    def ask(question: str) -> str:
        """Ask another agent."""
        return str(Agent(model=runtime_model(), tools=[divide], callback_handler=None)(question))

    assert str(Agent(model=runtime_model(), tools=[ask], callback_handler=None)(prompt)).strip()


def agent_that_forgets(prompt):
    """Give the model nothing but the prompt, as long as it wants tools."""
    asked = True
    with instrument(openai.OpenAI(**runtime_client_args())) as client:
        while asked:
            messages = [{"role": "user", "content": prompt}]
            answer = client.chat.completions.create(model="default", messages=messages, tools=TOOLS)
            asked = answer.choices[0].message.tool_calls


def openai_structure(prompt):
    messages = [{"role": "user", "content": prompt}]
    with instrument(openai.OpenAI(**runtime_client_args())) as client:
        chat = client.chat.completions.parse(model="default", messages=messages, response_format=Verdict)
        response = client.responses.parse(model="default", input=prompt, text_format=Verdict)
    assert isinstance(chat.choices[0].message.parsed, Verdict)
    assert isinstance(response.output_parsed, Verdict)


def langchain_structure(prompt):
    chat = ChatOpenAI(model="default", **runtime_client_args(), **http_clients())
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat.with_structured_output(Verdict, method=method).invoke(prompt), Verdict)


@pytest.mark.parametrize(
    "agent",
    [strands, strands_structure, strands_agent_as_tool, agent_that_forgets, openai_structure, langchain_structure],
    ids=lambda agent: agent.__name__,
)
def test_policy_when_any_agent_asks_then_the_agent_ends(agent):
    @rft_handler
    def handler(payload):
        agent(payload["prompt"])
        return 1.0

    with LocalRuntime(standin()) as runtime:
        for _ in range(4):
            handler(runtime.new_rollout("What is 6 / 3?"))
        assert not runtime.problems()
