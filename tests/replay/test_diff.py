"""How two requests differ, as a table."""

import copy
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.runs.noise import mask
from aws_rft_sdk.runs.request_diff import Comparable, compare_requests

AT = datetime(2026, 5, 4, 12, tzinfo=timezone.utc).timestamp()
REQUEST = {
    "model": "default",
    "stream": True,
    "temperature": 1.0,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "x1", "content": "4"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "add", "description": "Add."}},
        {"type": "function", "function": {"name": "sub", "description": "Subtract."}},
    ],
}


def differences(change, *, strict=False):
    other = copy.deepcopy(REQUEST)
    change(other)
    return compare_requests(Comparable(REQUEST, AT), Comparable(other, AT + 1e7), strict=strict).differences


def rename_call(request):
    request["messages"][2]["tool_calls"][0]["id"] = request["messages"][3]["tool_call_id"] = "tooluse_other"


SAME = [
    pytest.param(lambda r: None, id="nothing"),
    pytest.param(lambda r: r.update(stream=False, stream_options={"include_usage": True}), id="streaming"),
    pytest.param(rename_call, id="id-of-a-call"),
    pytest.param(lambda r: r.update(temperature=1), id="whole-number"),
]


@pytest.mark.parametrize("change", SAME)
def test_compare_when_requests_say_the_same_then_there_is_no_difference(change):
    assert differences(change, strict=True) == ()


DIFFERENT = [
    pytest.param(
        lambda r: r["messages"][0].update(content="Be long."),
        [("changed", "messages[0].content", "the system prompt")],
        id="system",
    ),
    pytest.param(
        lambda r: r["messages"][1]["content"][0].update(text="3?"),
        [("changed", "messages[1].content[0].text", "the user's message")],
        id="user",
    ),
    pytest.param(
        lambda r: r["messages"][1].update(content="2 + 2?"),
        [("changed", "messages[1].content", "the user's message")],
        id="form-of-the-content",
    ),
    pytest.param(
        lambda r: r["messages"][3].update(content="5"),
        [("changed", "messages[3].content", "the result of add({})")],
        id="tool-result",
    ),
    pytest.param(
        lambda r: r["messages"][2]["tool_calls"][0]["function"].update(arguments='{"a": 1}'),
        [("changed", "messages[2].tool_calls[0].function.arguments", "what the agent keeps of an answer")],
        id="history",
    ),
    pytest.param(
        lambda r: r["messages"][3].update(tool_call_id="x2"),
        [("changed", "messages[3].tool_call_id", "the result of add({})")],
        id="result-of-another-call",
    ),
    pytest.param(
        lambda r: r["messages"].append({"role": "user", "content": "Go on."}),
        [("new", "messages[4]", "the user's message")],
        id="message-new",
    ),
    pytest.param(lambda r: r["messages"].pop(0), [("gone", "messages[0]", "the system prompt")], id="message-gone"),
    pytest.param(
        lambda r: r["messages"].__setitem__(0, {"role": "user", "content": "Be brief."}),
        [("changed", "messages[0].role", "message 0")],
        id="role",
    ),
    pytest.param(
        lambda r: r["tools"][0]["function"].update(description="Sum."),
        [("changed", "tools[add].function.description", "the tool add")],
        id="tool-description",
    ),
    pytest.param(lambda r: r["tools"].pop(), [("gone", "tools[sub]", "the tool sub")], id="tool-gone"),
    pytest.param(
        lambda r: r.pop("tools"),
        [("gone", "tools[add]", "the tool add"), ("gone", "tools[sub]", "the tool sub")],
        id="tools-gone",
    ),
    pytest.param(lambda r: r["tools"].reverse(), [("changed", "tools", "the order of the tools")], id="tool-order"),
    pytest.param(
        lambda r: r["tools"].append(r["tools"][0]), [("changed", "tools", "the tools")], id="tool-twice"
    ),
    pytest.param(
        lambda r: r.update(temperature=0.5), [("changed", "temperature", "the setting temperature")], id="setting"
    ),
    pytest.param(lambda r: r.update(seed=None), [("new", "seed", "the setting seed")], id="setting-new"),
    pytest.param(lambda r: r.pop("model"), [("gone", "model", "the setting model")], id="setting-gone"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), DIFFERENT)
def test_compare_when_something_differs_then_it_is_named(change, expected):
    found = differences(change)

    assert [(item.kind, item.where, item.what) for item in found] == expected
    assert all(item.where in str(item) and item.what in str(item) for item in found)


def test_difference_when_texts_are_long_then_the_place_is_shown():
    long = {"messages": [{"role": "user", "content": "a" * 500 + "b" + "c" * 500}]}
    other = {"messages": [{"role": "user", "content": "a" * 500 + "X" + "c" * 500}]}

    (difference,) = compare_requests(Comparable(long, AT), Comparable(other, AT)).differences

    assert "ab" in str(difference)
    assert "aX" in str(difference)
    assert max(map(len, str(difference).splitlines())) < 220


@pytest.mark.parametrize("messages", [["odd"], [{"role": "tool", "content": "x"}], [{"content": 3}], [None]])
def test_compare_when_messages_are_of_odd_form_then_they_are_compared_all_the_same(messages):
    one, other = Comparable({"messages": messages}, AT), Comparable({"messages": [{"role": "user"}]}, AT)

    assert compare_requests(one, one).differences == ()
    assert compare_requests(one, other).differences != ()
    assert str(compare_requests(one, other).differences[0])


MASKED = [
    pytest.param("it is 2026-05-04", "it is <date>", id="date"),
    pytest.param("2026-05-04T11:59:58.123456+00:00 now", "<time> now", id="iso"),
    pytest.param("2026-05-04 11:59", "<time>", id="minutes"),
    pytest.param("2026-05-05T01:00:00Z.", "<time>.", id="zone"),
    pytest.param("2026-05-07", "2026-05-07", id="another-day"),
    pytest.param("2026-13-45", "2026-13-45", id="no-date"),
    pytest.param(f"t={AT:.0f}", "t=<seconds>", id="seconds"),
    pytest.param(f"t={AT + 0.25:.3f}", "t=<seconds>", id="fraction"),
    pytest.param(f"t={AT * 1000:.0f}", "t=<milliseconds>", id="milliseconds"),
    pytest.param("t=1234567890", "t=1234567890", id="a-number"),
    pytest.param("<function f at 0x7f00aa11bb22>", "<function f at <address>>", id="address"),
    pytest.param("0xdeadbeef", "0xdeadbeef", id="a-hex-number"),
    pytest.param("/tmp/tmpab12cd_9/out", "/tmp/<temporary>/out", id="temporary"),
    pytest.param(
        "1b4e28ba-2fa1-41d2-883f-0016d3cca427 and 1b4e28ba-2fa1-41d2-883f-0016d3cca428", "<id 0> and <id 1>", id="ids"
    ),
]


@pytest.mark.parametrize(("text", "expected"), MASKED)
def test_mask_when_a_text_holds_what_is_new_in_every_run_then_marks_stand_there(text, expected):
    assert mask(text, AT, frozenset()) == expected


@given(st.text(alphabet="abc 0123456789-:TZ.x/"))
def test_mask_when_given_any_text_then_it_is_marked_once_and_for_all(text):
    masked = mask(text, AT, frozenset())

    assert mask(masked, AT, frozenset()) == masked
