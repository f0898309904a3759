"""Kinds of damage done to a good Bedrock file, each with the rule, line and field that a check has to name."""

import json
from typing import NamedTuple

import pytest

LINE = 17  # of the row that is damaged


class Found(NamedTuple):
    rule: str
    line: int | None
    field: str


def make_rows(count):
    """Return good rows: single questions, worked answers."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus {n + 3}? End with the number after four hashes."}
            ],
            "reference_answer": f"The sum of both numbers is <<{n}+{n + 3}={2 * n + 3}>>wanted.\n#### {2 * n + 3}",
            "ground_truth": str(2 * n + 3),
        }
        for n in range(1000, 1000 + count)
    ]


def lines_of(rows):
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def in_row(change, rule, field, **more):
    """Damage one row by calling `change` on it; a row that is returned takes its place."""

    def damage(rows):
        row = json.loads(json.dumps(rows[LINE - 1]))
        changed = change(row)
        return lines_of([*rows[: LINE - 1], row if changed is None else changed, *rows[LINE:]])

    return pytest.param(damage, Found(rule, LINE, field), **more)


def in_message(change, rule, field, **more):
    """Damage the message of one row."""
    return in_row(lambda row: change(row["messages"][0]), rule, f"messages[0]{field}", **more)


def in_text(change, rule, field, **more):
    """Damage the bytes of one line."""

    def damage(rows):
        lines = lines_of(rows)
        return [*lines[: LINE - 1], change(lines[LINE - 1]), *lines[LINE:]]

    return pytest.param(damage, Found(rule, LINE, field), **more)


def in_file(change, rule, line=None, field="", **more):
    return pytest.param(lambda rows: change(lines_of(rows)), Found(rule, line, field), **more)


def add_to_all(rows, **fields):
    return lines_of([{**row, **fields} for row in rows])


def with_call(**changes):
    """Return messages in which a tool is called and answers."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}, **changes}
    return [
        {"role": "user", "content": "A question about tools."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    ]


def tool(**changes):
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}, **changes}
    return {"type": "function", "function": function}


def tools(value, rule, field, **more):
    """Give all rows good tools and one row others."""

    def damage(rows):
        given = [{**row, "tools": [tool()]} for row in rows]
        given[LINE - 1]["tools"] = value
        return lines_of(given)

    return pytest.param(damage, Found(rule, LINE, field), **more)


def parameters(rule, field, *, properties=None, **schema):
    """Give one row a tool whose parameters are no good schema."""
    properties = {"a": {"type": "string"}} if properties is None else properties
    schema = {"type": "object", "properties": properties, **schema}
    return tools(
        [tool(parameters=schema)],
        rule,
        f"tools[0].function.parameters.{field}",
        id=f"{rule}-{field}{schema.get('title', '')}",
    )


def call(messages, rule, field, **more):
    return in_row(lambda row: row.update(messages=messages), rule, field, **more)


def append(message, rule, field, **more):
    return in_row(lambda row: row["messages"].append(message), rule, field, **more)


def content(value, rule, field="", **more):
    return in_message(lambda message: message.update(content=value), rule, f".content{field}", **more)


def reference(value, rule, name):
    return in_row(lambda row: row.update(reference_answer=value), rule, "reference_answer", id=f"reference-{name}")


def without(name, rule):
    """Leave a field out of one row."""
    return in_row(lambda row: row.pop(name) and None, rule, name, id=f"no-{name}")


def misspelt(name, other):
    """Give a field of one row another name."""
    return in_row(
        lambda row: {(other if key == name else key): value for key, value in row.items()},
        "key-suspect",
        other,
        id=f"{name}-as-{other}",
    )


def say_answer(form, name):
    def change(row):
        answer = row["reference_answer"].rpartition("####")[2].strip()
        row["messages"][0]["content"] += form.format(answer)

    return in_row(change, "answer-leak", "messages[0].content", id=name)


DAMAGE = [
    # the line
    in_text(lambda line: line[:-1], "row-json", "", id="line-cut-off"),
    in_text(lambda line: line[:-1] + b",}", "row-json", "", id="trailing-comma"),
    in_text(lambda line: line.replace(b'"', b"'"), "row-json", "", id="single-quotes"),
    in_text(lambda line: line + b" " + line, "row-json", "", id="two-objects-on-a-line"),
    in_text(lambda line: b"[" + line + b"]", "row-object", "", id="row-is-an-array"),
    in_text(lambda line: b'"text"', "row-object", "", id="row-is-text"),
    in_text(lambda line: b"{}", "row-empty", "", id="row-without-fields"),
    in_file(lambda lines: [*lines[:16], b"  ", *lines[16:]], "row-blank", 17, id="blank-line"),
    in_text(lambda line: b"\xff" + line, "row-encoding", "", id="not-utf8"),
    in_text(lambda line: line[:-1] + b', "weight": NaN}', "row-constant", "weight", id="not-a-number"),
    in_text(lambda line: line[:-1] + b', "weight": -Infinity}', "row-constant", "weight", id="infinity"),
    in_text(lambda line: line[:-1] + b', "messages": []}', "row-repeated-key", "messages", id="key-twice"),
    in_text(
        lambda line: line.replace(b'"role": "user"', b'"role": "user", "role": "user"'),
        "row-repeated-key",
        "messages[0].role",
        id="key-twice-inside",
    ),
    in_text(
        lambda line: line.replace(b'"content": "', b'"content": "\\ud83d '),
        "row-text",
        "messages[0].content",
        id="half-a-surrogate-pair",
    ),
    in_text(
        lambda line: line.replace(b'"reference_answer": "', b'"reference_answer": "\\u0000'),
        "row-text",
        "reference_answer",
        id="nul",
    ),
    in_text(lambda line: line[:-1] + b', "weight": -1e999}', "row-constant", "weight", id="number-too-large"),
    in_text(lambda line: line[:-1] + b', "w": {"a": [1e999]}}', "row-constant", "w.a[0]", id="number-too-large-inside"),
    in_text(lambda line: b"\xef\xbb\xbf" + line, "row-json", "", id="byte-order-mark-in-the-middle"),
    in_text(lambda line: line[:-1] + b', "w": ' + b"[" * 5000 + b"]" * 5000 + b"}", "row-json", "", id="nested-deeply"),
    in_text(lambda line: line[:-1] + b', "a\\u0000": 1}', "row-text", "", id="nul-in-a-key"),
    # the file
    in_file(lambda lines: [b"\xef\xbb\xbf" + lines[0], *lines[1:]], "file-bom", 1, id="byte-order-mark"),
    in_file(lambda lines: lines[:99], "rows-min", id="99-rows"),
    in_file(lambda lines: [], "rows-none", id="no-rows"),
    in_file(lambda lines: [*lines, lines[4]], "prompt-duplicate", 101, "messages", id="prompt-twice"),
    # messages
    without("messages", "messages-missing"),
    in_row(lambda row: row.update(messages="What?"), "messages-type", "messages", id="messages-are-text"),
    in_row(lambda row: row.update(messages=None), "messages-type", "messages", id="messages-are-null"),
    in_row(lambda row: row.update(messages=[]), "messages-empty", "messages", id="no-message"),
    in_row(lambda row: row.update(messages=["What?"]), "message-type", "messages[0]", id="message-is-text"),
    in_message(lambda m: m.update(weight=1), "message-key", ".weight", id="unknown-message-field"),
    in_message(lambda m: m.update(contents=m.pop("content")), "message-key", ".contents", id="misspelt-message-field"),
    in_message(lambda m: m.update(name=5), "message-name", ".name", id="name-is-a-number"),
    in_message(lambda m: m.update(name=None), "message-name", ".name", id="name-is-null"),
    in_message(lambda m: m.update(name="\u200b"), "message-name", ".name", id="name-of-no-width"),
    in_message(lambda m: m.update(tool_call_id="c1"), "tool-call-id-role", ".tool_call_id", id="user-answers-a-call"),
    in_message(lambda m: m.update(tool_calls=None), "tool-calls-role", ".tool_calls", id="calls-are-null"),
    # roles
    in_message(lambda m: m.pop("role") and None, "role-missing", ".role", id="no-role"),
    in_message(lambda m: m.update(role=1), "role-unknown", ".role", id="role-is-a-number"),
    in_message(lambda m: m.update(role="human"), "role-unknown", ".role", id="unknown-role"),
    in_message(lambda m: m.update(role="User"), "role-unknown", ".role", id="role-in-capitals"),
    in_row(lambda row: row["messages"][0].update(role="system"), "user-missing", "messages", id="no-user"),
    append({"role": "system", "content": "Be short."}, "system-first", "messages[1].role", id="system-comes-late"),
    append({"role": "assistant", "content": "Let me see."}, "last-assistant", "messages[1]", id="assistant-last"),
    # content
    in_message(lambda m: m.pop("content") and None, "content-missing", ".content", id="no-content"),
    content(None, "content-type", id="content-is-null"),
    content(7, "content-type", id="content-is-a-number"),
    content(" \n", "content-empty", id="content-is-blank"),
    content([], "content-empty", id="no-parts"),
    content(["What?"], "part-type", "[0]", id="part-is-text"),
    content([{"type": "image_url", "image_url": "x"}], "part-type", "[0].type", id="part-is-an-image"),
    content([{"type": "text"}], "part-text", "[0].text", id="part-without-text"),
    content([{"type": "text", "text": "\u2060"}], "part-text", "[0].text", id="part-of-no-width"),
    content([{"type": "text", "text": "What?", "lang": "en"}], "part-key", "[0].lang", id="unknown-part-field"),
    *(
        content(text, "content-empty", id=f"content-of-{name}")
        for name, text in {
            "no-width": "\u200b\u200d\ufeff",
            "soft-hyphens": "\u00ad\u00ad",
            "directions": "\u202a\u2069",
            "fillers": "\u3164\u2800",
            "control-characters": "\x08\x1b",
            "tags": "\U000e0041",
        }.items()
    ),
    # calls
    call(
        [{"role": "user", "content": "What?", "tool_calls": [1]}],
        "tool-calls-role",
        "messages[0].tool_calls",
        id="user-calls",
    ),
    call(
        [{"role": "assistant", "content": "I call.", "tool_calls": []}, {"role": "user", "content": "What?"}],
        "tool-calls-type",
        "messages[0].tool_calls",
        id="no-calls",
    ),
    call(with_call(type="tool"), "tool-call", "messages[1].tool_calls[0].type", id="call-of-another-type"),
    call(with_call(function={"arguments": "{}"}), "tool-call", "messages[1].tool_calls[0].function.name", id="no-name"),
    call(
        with_call(function={"name": "add", "arguments": {}}),
        "tool-arguments",
        "messages[1].tool_calls[0].function.arguments",
        id="arguments-not-text",
    ),
    call(
        with_call(function={"name": "add", "arguments": '{"a": NaN}'}),
        "tool-arguments",
        "messages[1].tool_calls[0].function.arguments",
        id="arguments-not-finite",
    ),
    call(with_call(id="c2"), "tool-call-unmatched", "messages[2].tool_call_id", id="answer-to-no-call"),
    call(
        [{"role": "user", "content": "What?"}, {"role": "tool", "content": "5"}],
        "tool-call-id",
        "messages[1].tool_call_id",
        id="answer-without-id",
    ),
    call(
        [*with_call()[:2], {"role": "user", "content": "And then?"}],
        "tool-call-unanswered",
        "messages[1].tool_calls[0]",
        id="call-without-answer",
    ),
    call(
        [with_call()[0], {**with_call()[1], "tool_calls": with_call()[1]["tool_calls"] * 2}, with_call()[2]],
        "tool-call-repeated",
        "messages[1].tool_calls[1].id",
        id="two-calls-of-one-id",
    ),
    call(
        with_call(function={"name": "add", "arguments": "[" * 9999}),
        "tool-arguments",
        "messages[1].tool_calls[0].function.arguments",
        id="arguments-nested-deeply",
    ),
    # tools
    tools({"a": 1}, "tools-type", "tools", id="tools-are-an-object"),
    tools([], "tools-empty", "tools", id="no-tools"),
    tools([{"name": "add"}], "tool-type", "tools[0].type", id="tool-without-type"),
    tools([tool(), None], "tool-type", "tools[1]", id="tool-is-null"),
    tools([{"type": "function"}], "tool-type", "tools[0].function", id="tool-without-function"),
    tools([tool(name="add it")], "tool-name", "tools[0].function.name", id="blank-in-name"),
    tools([tool(), tool()], "tool-name-repeated", "tools[1].function.name", id="name-twice"),
    tools([tool(description="")], "tool-description", "tools[0].function.description", id="no-description"),
    tools([tool(parameters=None)], "tool-parameters", "tools[0].function.parameters", id="no-parameters"),
    tools(
        [tool(parameters={"type": "array"})],
        "tool-parameters",
        "tools[0].function.parameters.type",
        id="array-parameters",
    ),
    tools(
        [tool(parameters={"type": "object"})],
        "tool-parameters",
        "tools[0].function.parameters.properties",
        id="parameters-without-properties",
    ),
    tools(
        [tool(description="\u200b")], "tool-description", "tools[0].function.description", id="description-of-no-width"
    ),
    parameters("tool-required", "required", required="a"),
    parameters("tool-required", "required[0]", required=["b"]),
    parameters("tool-required", "required[1]", required=["a", 1]),
    parameters("tool-required", "required[2]", required=["a", "a", "a"]),
    parameters("tool-property", "properties.a", properties={"a": "string"}),
    parameters("tool-property", "properties.a.type", properties={"a": {"type": "int"}}),
    parameters("tool-property", "properties.b.type", properties={"b": {"type": []}}),
    parameters("tool-property", "properties.a.enum", properties={"a": {"enum": []}}),
    parameters("tool-property", "properties.a.items", properties={"a": {"type": "array", "items": "string"}}),
    parameters("tool-property", "properties.a.properties", properties={"a": {"type": "object", "properties": []}}),
    parameters(
        "tool-required",
        "properties.a.required[0]",
        properties={"a": {"type": "object", "properties": {"b": {}}, "required": ["c"]}},
    ),
    # answers
    without("reference_answer", "reference-missing"),
    reference(72, "reference-type", "is-a-number"),
    reference(["72"], "reference-type", "is-a-list"),
    reference(None, "reference-empty", "is-null"),
    reference(" ", "reference-empty", "is-blank"),
    reference({"text": ""}, "reference-empty", "holds-empty-text"),
    reference({"text": None}, "reference-empty", "holds-null"),
    reference({"text": None, "more": {"a": [" "]}}, "reference-empty", "holds-nothing-however-deep"),
    reference("\u200b", "reference-empty", "of-no-width"),
    reference("7 and 8 are 15.\n#### ", "reference-empty", "holds-nothing-after-the-marks"),
    say_answer("\n#### {}", "final-answer-at-the-end"),
    say_answer(" Answer: {}.", "answer-announced"),
    say_answer(" (ground_truth = {})", "ground-truth-announced"),
    say_answer(" \\boxed{{{}}}", "answer-boxed"),
    in_row(
        lambda row: row["messages"].insert(0, {"role": "system", "content": row["reference_answer"]}),
        "answer-leak",
        "messages[0].content",
        id="worked-answer-in-the-system-message",
    ),
    # fields
    in_row(lambda row: row.update(id="a"), "optional-field", "id", id="id-in-one-row"),
    without("ground_truth", "optional-field"),
    in_row(lambda row: row.update(tools=[tool()]), "optional-field", "tools", id="tools-in-one-row"),
    misspelt("messages", "Messages"),
    misspelt("messages", "mesages"),
    misspelt("reference_answer", "refrence_answer"),
    in_row(lambda row: row.update(mesages=[]), "key-suspect", "mesages", id="misspelt-messages-besides"),
    in_row(lambda row: row.update({"tools ": []}), "key-suspect", "tools ", id="blank-behind-a-field"),
    pytest.param(lambda rows: add_to_all(rows, id="same"), Found("id-duplicate", LINE, "id"), id="one-id-for-all"),
    pytest.param(lambda rows: add_to_all(rows, id=5), Found("id-type", LINE, "id"), id="ids-are-numbers"),
    in_row(
        lambda row: row["messages"][0].update(content="word " * 8000),
        "sequence-length",
        "messages",
        id="very-long-prompt",
    ),
]
