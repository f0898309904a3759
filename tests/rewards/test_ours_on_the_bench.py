"""Every reward of ours holds on its own bench: what we tell users to run, we run."""

from __future__ import annotations

import pytest

from aws_rft_sdk import rewards
from aws_rft_sdk.rewards import bench, parse_case

LETTERS = "Which?\n(A) one\n(B) two\n(C) three\n(D) four"
CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}
SEARCHED = {
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
}
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
PROGRAMS = [("Write add.", "assert add(1, 2) == 3\nassert add(5, 2) == 7", ADD.format("+"), ADD.format("-"))]

OURS = [
    pytest.param(rewards.gsm8k, NUMBERS, 0, (), id="gsm8k"),
    pytest.param(rewards.ExactNumber(), NUMBERS, 0, (), id="ExactNumber"),
    pytest.param(rewards.finqa, FIGURES, 0, (), id="finqa"),
    pytest.param(rewards.FinQA(), FIGURES[2:] + NUMBERS, 0, (), id="FinQA"),
    pytest.param(rewards.MultipleChoice(), CHOICES, 0, ("echo of options",), id="MultipleChoice"),
    pytest.param(rewards.ExactMatch(), NAMES, 0, ("sanity sentence",), id="ExactMatch"),
    pytest.param(rewards.JsonSchema({"type": "object"}, match=True), OBJECTS, 0, (), id="JsonSchema"),
    pytest.param(rewards.CodeTests(compiles=0), PROGRAMS, 0, (), id="CodeTests"),
    pytest.param(rewards.MathVerify(), FORMULAS, 0, ("hedge", "corrected afterwards"), id="MathVerify"),
    pytest.param(
        rewards.DominantOutcome(rewards.gsm8k, {"short": (rewards.Length(50, 100), 0.1)}),
        NUMBERS,
        None,
        (),
        id="shaped",
    ),
]


@pytest.mark.parametrize(("reward", "cases", "shaping", "still_open"), OURS)
def test_a_reward_of_ours_has_no_breach(reward, cases, shaping, still_open):
    """`still_open` names the adversaries that are known to get through."""
    if isinstance(reward, rewards.MathVerify):
        pytest.importorskip("math_verify")
    values = [
        {"prompt": prompt, "ground_truth": truth, "answer": answer, "kind": kind, "expected": float(kind == "success")}
        for prompt, truth, right, wrong in cases
        for answer, kind in ((right, "success"), (wrong, "failure"))
    ]
    parsed = [parse_case(value, line) for line, value in enumerate(values, 1)]
    breaches = bench(reward, parsed, shaping=shaping, repeat=1, max_seconds=30).breaches
    assert [breach for breach in breaches if not breach.startswith(tuple(still_open) or ("-",))] == []


def test_tool_use_has_no_breach_as_the_small_part_that_it_is_meant_to_be():
    values = [{**SEARCHED, "kind": "success"}, {"prompt": "q", "answer": "I give up.", "kind": "failure", "group": "q"}]
    reward = rewards.ToolUse(required=("search",))
    assert bench(reward, [parse_case(value, line) for line, value in enumerate(values, 1)], shaping=0.1).breaches == ()
