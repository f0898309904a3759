"""The stand-in: arguments that fit, each tool called once, forms filled in, any agent served."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

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
        pytest.param({"type": "boolean"}, True, id="boolean"),
        pytest.param({"type": "null"}, None, id="null"),
        pytest.param({"type": ["null", "integer"]}, 1, id="one of several types"),
        pytest.param({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1], id="array"),
        pytest.param({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1, id="any of"),
        pytest.param(
            {"allOf": [{"$ref": "#/$defs/x"}, {"minimum": 2}], "$defs": {"x": {"type": "integer"}}}, 2, id="all of"
        ),
        pytest.param({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, True, id="reference"),
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
