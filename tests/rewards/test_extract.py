"""Where the answer of a rollout is found."""

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import ExactNumber
from aws_rft_sdk.rewards.extract import (
    STANDARD,
    AfterMarker,
    Boxed,
    CodeFence,
    Extract,
    Extractor,
    JsonPath,
    LastNumber,
    Tag,
    ToolArgument,
    strip_thoughts,
)
from aws_rft_sdk.rewards.rollout import Rollout


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("a<think>b</think>c", "ac"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("the prompt opened it</think>b", "b"),
        ("<think>cut off", None),
        ("a <think>b</think> c <think>cut off", None),
        ("<|begin_internal_thought|>a<|end_internal_thought|>b", "b"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", "b"),
        ("<|channel|>analysis<|message|>cut off", None),
        ("[THINK]a[/THINK]b", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>b", "b"),
        ("analysisWe think a.assistantfinalb", "b"),
        ("<Think>a</THINK>b", "b"),
        ("<<16-3=13>>13 <b>b</b>", "<<16-3=13>>13 <b>b</b>"),
        ("b<|im_end|>\n<|im_start|>user\nc", "b"),
    ],
)
def test_thoughts(text, visible):
    assert strip_thoughts(text) == visible


def first(extractor: Extractor, text: str) -> str | None:
    return next((answer.text for answer in extractor.answers_of(Rollout.of_answer(text))), None)


@pytest.mark.parametrize(
    ("extractor", "text", "answer"),
    [
        (Boxed(), r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (Boxed(), r"\boxed{1} then \boxed{2}", "2"),
        (Boxed(), r"\boxed{1", None),
        (AfterMarker("####"), "#### 1\n#### 2\nmore", "2"),
        (AfterMarker("RESULT:"), "**RESULT**: 3", "3"),
        (AfterMarker("RESULT:"), "result: 3", None),
        (AfterMarker("RESULT:"), "RESULT:\n```\n3\n```", "3"),
        (Tag("answer"), "<answer>4</answer>", "4"),
        (Tag("answer"), "<answer>4", "4"),
        (CodeFence("json"), "```python\n1\n```\n```json\n2\n```\n", "2\n"),
        (JsonPath("a", 0), '{"a": [5]}', "5"),
        (JsonPath("a"), 'Here:\n```json\n{"a": "six"}\n```', "six"),
        (JsonPath("b"), '{"a": 1}', None),
        (JsonPath("a"), 'So {"a": 7} it is', "7"),
        (STANDARD, "FINAL ANSWER\n72", "72"),
        (STANDARD, "Answer:\n\n- 72 clips", "72 clips"),
        (STANDARD, "#### 72\n#### Explanation: 48 + 24", "72"),
        (STANDARD, "La respuesta es Paris", "Paris"),
        (STANDARD, "A: 72\n\nQuestion: 4?\n#### 5", "72"),
        (STANDARD, "\\boxed{72}\nQ: 4?\n#### 5", "72"),
        (STANDARD, "Answer:\nQuestion: 4?\n#### 5", "5"),
        (LastNumber(), "between 7 and 8 clips", "8"),
        (Boxed() | AfterMarker("####"), "\\boxed{1}\n#### 2", "2"),
        (Boxed() | AfterMarker("####"), "#### 2\n\\boxed{1}", "1"),
        (Extract(Boxed(), AfterMarker("####")), "\\boxed{1}\n#### 2", "1"),
        (STANDARD, "#### 72\n\nNote that the answer is greater than 48.", "72"),
        (STANDARD, "<think>#### 1</think>The answer is 2", "2"),
        (STANDARD, "<think>#### 1", None),
    ],
)
def test_extractors(extractor, text, answer):
    assert first(extractor, text) == answer


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"function": {"name": "submit", "arguments": '{"answer": 72}'}}]},
        {"content": [{"toolUse": {"name": "submit", "input": {"answer": 72}}}]},
    ],
    ids=["openai", "bedrock"],
)
def test_tool_argument(message):
    rollout = Rollout(({"role": "assistant", **message},))

    assert [answer.text for answer in ToolArgument("submit", "answer").answers_of(rollout)] == ["72"]
    assert ((Boxed() | ToolArgument("submit", "answer")) >> ExactNumber())(Rollout(rollout.messages, 72)) == 1.0
    assert not list(ToolArgument("submit", "other").answers_of(rollout))
    assert not list(ToolArgument("search", "answer").answers_of(rollout))


def test_answer_when_a_new_question_follows_then_what_is_after_it_is_not_part_of_it():
    (answer,) = AfterMarker("RESULT:").answers("RESULT: 72\nNo.\n\nQuestion: next\nRESULT: 3")

    assert (answer.text, answer.visible) == ("72", "RESULT: 72\nNo.\n")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Extract(),
        lambda: AfterMarker(" "),
        lambda: Tag("a b"),
        lambda: Tag(3),
        lambda: CodeFence(3),
        lambda: ToolArgument("submit", ""),
        lambda: JsonPath(True),
        lambda: Boxed() >> print,
    ],
    ids=["no extractor", "empty marker", "tag of two words", "tag", "language", "argument", "path", "comparator"],
)
def test_extractor_when_its_settings_are_wrong_then_said_at_once(make):
    with pytest.raises(ConfigurationError):
        make()


def test_answer_of_a_rollout_when_a_closing_tool_call_follows_then_the_text_before_it_counts():
    call = {"id": "1", "type": "function", "function": {"name": "done", "arguments": "{}"}}
    said = {"role": "assistant", "content": "#### 72"}
    closing = {"role": "assistant", "content": None, "tool_calls": [call]}

    assert Rollout((said, closing, {"role": "tool", "tool_call_id": "1", "content": "ok"})).answer == "#### 72"


@pytest.mark.parametrize(
    "path",
    [Boxed(), Tag("answer"), CodeFence(), JsonPath("a"), LastNumber(), STANDARD],
    ids=lambda path: type(path).__name__,
)
@pytest.mark.parametrize(
    "text", ["#", "\\boxed{", "1,", "or ", "```", "~~", "{", "<think>", "<answer>", "Q:\n", "\n", "*"], ids=repr
)
def test_extractor_when_the_text_is_endless_then_quick(path, text):
    endless = text * (10**6 // len(text))

    assert ExactNumber().compare(path.answers_of(Rollout.of_answer(endless)), 72) == 0.0
