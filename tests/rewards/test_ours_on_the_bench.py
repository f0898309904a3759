"""Every reward of ours holds on its own bench: what we tell users to run, we run."""

from __future__ import annotations

import json

import pytest

from aws_rft_sdk import rewards
from aws_rft_sdk.rewards import bench, parse_case

LETTERS = "Which?\n(A) one\n(B) two\n(C) three\n(D) four"
ASKED = {"role": "user", "content": "Look for x."}
GAVE_UP = {"messages": [ASKED, {"role": "assistant", "content": "I give up."}]}


def searched(query):
    function = {"name": "search", "arguments": json.dumps({"q": query})}
    call = {"id": "1", "type": "function", "function": function}
    return {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]}


ADD = "```python\ndef add(a, b):\n    return a {} b\n```"

NUMBERS = [
    ("What is 36 * 2?", 72, "36 * 2 = 72\n#### 72", "#### 73"),
    ("What is 5 - 20?", -15, "So \\boxed{-15}", "\\boxed{15}"),
    ("3 boxes of 12 eggs for $4?", "9.5", "<think>hm</think>ANSWER: 9.5", "ANSWER: 9"),
    ("2 + 2?", "2 + 2 = 4\n#### 4", "The answer is 4.", "The answer is 5."),
]
FIGURES = [
    ("Was it more?", "yes", "ANSWER: yes", "ANSWER: no"),
    ("Was it less?", "no", "Final answer: no", "Final answer: yes"),
    ("By how much?", "25%", "#### 25%", "#### 24%"),
]
CHOICES = [
    (LETTERS, "B", "Answer: B", "Answer: C"),
    ("Which?\nA. one\nB. two", "A", "\\boxed{A}", "\\boxed{B}"),
    ("Pick: A) x B) y C) z", "C", "The answer is C.", "The answer is A."),
]
NAMES = [("Capital?", "Paris", "#### Paris", "#### Rome"), ("And of Italy?", "Rome", "Rome", "Paris")]
FORMULAS = [("x?", "\\frac{1}{2}", "So \\boxed{\\frac{1}{2}}", "\\boxed{\\frac{1}{3}}"), *NUMBERS[:2]]
OBJECTS = [("As JSON?", '{"a": 1}', '{"a": 1}', '{"a": 2}')]
CALLS = [(None, [{"name": "search", "arguments": {"q": "x"}}], searched("x"), searched("y"))]
USES = [(None, None, searched("x"), GAVE_UP)]
STATES = [(None, {"order": "gone"}, {**GAVE_UP, "state": {"order": "gone"}}, {**GAVE_UP, "state": {"order": "paid"}})]
SHARED = rewards.WeightedSum({"same": (rewards.ExactMatch(), 0.9), "words": (rewards.F1(), 0.1)})
PROGRAMS = [("Write add.", "assert add(1, 2) == 3\nassert add(5, 2) == 7", ADD.format("+"), ADD.format("-"))]

OURS = [
    pytest.param(rewards.gsm8k, NUMBERS, 0, (), id="gsm8k"),
    pytest.param(rewards.ExactNumber(), NUMBERS, 0, (), id="ExactNumber"),
    pytest.param(rewards.finqa, FIGURES, 0, (), id="finqa"),
    pytest.param(rewards.FinQA(), FIGURES[2:] + NUMBERS, 0, (), id="FinQA"),
    pytest.param(rewards.MultipleChoice(), CHOICES, 0, (), id="MultipleChoice"),
    pytest.param(rewards.ExactMatch(), NAMES, 0, (), id="ExactMatch"),
    pytest.param(rewards.JsonSchema({"type": "object"}, match=True), OBJECTS, 0, (), id="JsonSchema"),
    pytest.param(rewards.CodeTests(compiles=0), PROGRAMS, 0, (), id="CodeTests"),
    pytest.param(rewards.MathVerify(), FORMULAS, 0, (), id="MathVerify"),
    pytest.param(
        rewards.DominantOutcome(rewards.gsm8k, {"short": (rewards.Length(50, 100), 0.1)}),
        NUMBERS,
        None,
        (),
        id="shaped",
    ),
    pytest.param(rewards.ToolArguments(), CALLS, 0, (), id="ToolArguments"),
    pytest.param(rewards.FinalState(), STATES, 0, (), id="FinalState"),
    # These two are meant to be a small part of a sum.
    pytest.param(rewards.ToolUse(required=("search",)), USES, 0.1, (), id="ToolUse"),
    pytest.param(SHARED, NAMES, 0.1, ("sanity sentence",), id="F1"),
]


@pytest.mark.parametrize(("reward", "cases", "shaping", "still_open"), OURS)
def test_a_reward_of_ours_has_no_breach(reward, cases, shaping, still_open):
    """`still_open` names the adversaries that are known to get through."""
    if isinstance(reward, rewards.MathVerify):
        pytest.importorskip("math_verify")
    values = [
        {"prompt": prompt, "ground_truth": truth, "kind": kind, "expected": expected}
        | ({"answer": answer} if isinstance(answer, str) else answer)
        for prompt, truth, right, wrong in cases
        for answer, kind, expected in ((right, "success", 1.0), (wrong, "failure", 0.0))
    ]
    parsed = [parse_case(value, line) for line, value in enumerate(values, 1)]
    breaches = bench(reward, parsed, shaping=shaping, repeat=1, max_seconds=30).breaches
    assert [breach for breach in breaches if not breach.startswith(tuple(still_open) or ("-",))] == []
