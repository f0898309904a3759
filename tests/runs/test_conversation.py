"""Which messages of a history are new, and what is said where a request does not continue an earlier one."""

import pytest

from aws_rft_sdk.runs.conversation import (
    Unfolder,
    first_difference,
    mask_secrets,
    message_text,
    read_conversation,
    token_counts,
    tool_calls,
)
from aws_rft_sdk.types import Trajectory, TrajectoryStatus, Turn

from .making import answered, calculating, calling, said

SYSTEM, ASK = said("system", "S"), said("user", "U")
CALL, RESULT = calling("", ("f", '{"a": 1, "b": 2}')), answered("R")
DONE = said("assistant", "D")


def unfold(*turns):
    """Return how many messages each turn adds, and what is said of it."""
    unfolder = Unfolder()
    steps = [unfolder.add(index, {"messages": messages}, answer) for index, (messages, answer) in enumerate(turns)]
    return [(len(step.messages), step.note) for step in steps]


FIRST = ([SYSTEM, ASK], CALL)
HISTORIES = {
    "continued": ([([SYSTEM, ASK, CALL, RESULT], DONE)], [(1, None)]),
    "arguments spaced otherwise": ([([SYSTEM, ASK, calling(None, ("f", '{"b":2,"a":1}')), RESULT], DONE)], [(1, None)]),
    "thoughts dropped, content as parts": (
        [([SYSTEM, said("user", [{"type": "text", "text": "U"}]), {**CALL, "reasoning_content": "x"}, RESULT], DONE)],
        [(1, None)],
    ),
    "arguments repaired": (
        [([SYSTEM, ASK, calling("", ("f", "{}")), RESULT], DONE)],
        [(2, "the history of turn 0 was changed: its last message is not sent")],
    ),
    "window slid": (
        [([SYSTEM, RESULT], DONE)],
        [(1, "the history of turn 0 was changed: its last 2 messages are not sent")],
    ),
    "system prompt changed": ([([said("system", "T"), ASK, CALL, RESULT], DONE)], [(4, "another conversation begins")]),
    "asked again": ([FIRST], [(0, "the agent made the request of turn 0 again")]),
    "answer lost, asked again, continued": (
        [([SYSTEM, ASK], DONE), ([SYSTEM, ASK, DONE, said("user", "more")], DONE)],
        [(0, "the agent made the request of turn 0 again"), (1, None)],
    ),
    "sub-agent between": (
        [([said("system", "sub"), said("user", "V")], DONE), ([SYSTEM, ASK, CALL, RESULT], DONE)],
        [(2, "another conversation begins"), (1, None)],
    ),
    "not captured": ([(None, None)], [(0, "the agent made the request of turn 0 again")]),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history_when_unfolded_then_new_messages_are_shown_once(name):
    turns, expected = HISTORIES[name]
    if name == "not captured":
        assert Unfolder().add(0, None, None) == ([], None, None)
        return
    assert unfold(FIRST, *turns) == [(2, None), *expected]


def test_history_when_long_then_the_work_stays_linear_in_what_is_sent():
    unfolder, messages = Unfolder(), [SYSTEM]
    for index in range(300):
        messages = [*messages, said("user", f"q{index}")]
        step = unfolder.add(index, {"messages": messages}, said("assistant", f"a{index}"))
        assert (len(step.messages), step.note) == (1 if index else 2, None)
        messages = [*messages, said("assistant", f"a{index}")]


def trajectory(turns):
    made = [
        Turn(index, None, {"messages": messages}, {"choices": [{"message": answer}]}, 0.0, 0.0)
        for index, (messages, answer) in enumerate(turns)
    ]
    return Trajectory("t", "arn", TrajectoryStatus.PENDING, turns=tuple(made))


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        (calculating(), calculating(), None),
        (calculating(), calculating(result="43"), 3),
        (calculating(), calculating(system="x"), 0),
        (calculating(), calculating()[:1], 3),
        ([FIRST], [([SYSTEM, ASK], calling("", ("f", '{"b":2, "a":1}')))], None),
        ([FIRST], [([SYSTEM, ASK], calling("", ("f", "{}")))], 2),
        ([], [], None),
    ],
)
def test_conversations_when_compared_then_the_first_difference_is_found(one, other, place):
    pair = [read_conversation(trajectory(turns)) for turns in (one, other)]
    assert first_difference(*pair) == place
    assert first_difference(*reversed(pair)) == place


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("a\nb", "a\nb"),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:..."}}], "a[image_url]"),
        ([{"type": "text"}, "b", 7, {}], "[text]b7[part]"),
        ({"a": 1}, '{"a": 1}'),
        (0, "0"),
    ],
)
def test_content_when_it_has_any_form_then_it_has_a_text(content, text):
    assert message_text({"content": content}) == text


def test_refusal_when_there_is_no_content_then_it_is_the_text():
    assert message_text({"content": None, "refusal": "I will not."}) == "I will not."


@pytest.mark.parametrize("calls", [None, 7, [7], [{}], [{"function": 7}], {"a": 1}])
def test_calls_when_they_are_none_then_there_are_none(calls):
    assert tool_calls({"tool_calls": calls}) == ()


def test_calls_when_odd_then_they_are_shown_as_far_as_possible():
    odd = [{"function": {"arguments": {"a": 1}}}, {"id": 7, "custom": {"name": "g", "arguments": "x"}}]
    assert tool_calls({"tool_calls": odd}) == ((None, "?", '{"a": 1}'), (None, "g", "x"))


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4)),
        ({"prompt_tokens": True, "completion_tokens": -1}, (None, None)),
        ({"prompt_tokens": 1 << 70, "completion_tokens": "4"}, (None, None)),
        (None, (None, None)),
    ],
)
def test_usage_when_odd_then_counts_are_unknown(usage, counts):
    assert token_counts(usage) == counts


def test_secrets_when_named_as_such_then_they_are_masked_and_nothing_else_is():
    tool = {
        "headers": {"X-Anything": "s"},
        "properties": {"token": {"type": "string"}, "max_tokens": 5},
        "list": [{"Authorization": "s", "password": "s", "Cookie": "s"}],
    }
    assert mask_secrets(tool) == {
        "headers": {"X-Anything": "***"},
        "properties": {"token": {"type": "string"}, "max_tokens": 5},
        "list": [{"Authorization": "***", "password": "***", "Cookie": "***"}],
    }
