"""A stand-in for the model under training: it solves the problems of this folder, and slips now and then.

It behaves like a model as far as the runtime can tell. It sees the chat request and nothing else, works over several
turns, waits for the calculator and goes on with what the calculator said. It differs in two ways: the solutions come
from `worked.jsonl`, and its slips are a function of the question and the number of the sample, so that the same samples
come back in each process.

A chat request does not say which rollout it belongs to. The policy therefore counts: the k-th conversation about a
question that begins in this process is its k-th sample. It writes the number into the ids of its tool calls, which the
agent sends back, so later turns need no memory. At temperature 0 every conversation is sample 0.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

SLIP_RATE = 0.2
"""Probability of a slip in each step of a solution."""

_NUMBER = re.compile(r"(?<![{\d.])\d+(?:\.\d+)?(?![}\d.])")
_OPPOSITE = {"+": "-", "-": "+", "*": "+", "/": "*"}
_samples: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
_lock = threading.Lock()


class Slip(str, Enum):
    """What goes wrong in a step."""

    WRONG_NUMBER = "wrong number"
    """A number that belongs elsewhere in the problem, or the wrong operation where there is no number."""
    STOPS_EARLY = "stops early"
    """The result of this step is given as the answer, although steps are left."""
    NO_FINAL_LINE = "no final line"
    """All is right except that the answer is a sentence rather than a line `#### <number>`."""
    BAD_CALL = "bad call"
    """The calculator refuses an expression; the policy corrects itself, and the answer is right."""


@dataclass(frozen=True)
class Step:
    """One calculation."""

    note: str
    expression: str
    """`{0}` stands for the result of the first step, and so on."""
    counts: bool = True
    """Whether the result is used."""


@dataclass(frozen=True)
class Plan:
    """What one sample does: the calculations in order, then the answer."""

    steps: tuple[Step, ...]
    slip: Slip | None = None


def policy(request: dict[str, Any]) -> dict[str, Any]:
    """Return the next assistant message of a conversation. Safe to call from several threads.

    Args:
        request: A chat request in OpenAI's format whose first user message is a question of `worked.jsonl`.

    Raises:
        LookupError: The question is not in that file.
    """
    messages = request["messages"]
    question = next(_text(message) for message in messages if message["role"] == "user")
    if question not in _solutions():
        raise LookupError(f"this policy knows the questions of worked.jsonl only, not {question!r:.80}")
    results = [_text(message) for message in messages if message["role"] == "tool"]
    calls = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    sample = int(calls[0].split("-")[1]) if calls else _next_sample(question, request.get("temperature"))

    plan = make_plan(question, sample)
    values = [result for step, result in zip(plan.steps, results, strict=False) if step.counts]
    if len(results) == len(plan.steps) or not all(map(_is_number, values)):
        return {"role": "assistant", "content": _answer(plan, values)}
    step = plan.steps[len(results)]
    function = {"name": "calculator", "arguments": json.dumps({"expression": step.expression.format(*values)})}
    call = {"id": f"sample-{sample}-step-{len(results)}", "type": "function", "function": function}
    return {"role": "assistant", "content": f"{step.note}:", "tool_calls": [call]}


def make_plan(question: str, sample: int) -> Plan:
    """Return what a sample does about a question: the worked solution, with at most one slip in it."""
    steps = _solutions()[question]
    rng = random.Random(f"{sample} {question}")
    place = next((index for index in range(len(steps)) if rng.random() < SLIP_RATE), None)
    if place is None:
        return Plan(steps)
    slip = rng.choices(list(Slip), weights=(4, 2, 1, 2))[0]
    if slip is Slip.STOPS_EARLY and place == len(steps) - 1:
        place -= 1
    before, here, after = steps[:place], steps[place], steps[place + 1 :]
    match slip:
        case Slip.WRONG_NUMBER:
            wrong = Step(here.note, _misread(here.expression, question, rng))
            return Plan((*before, wrong, *after), slip)
        case Slip.STOPS_EARLY:
            return Plan((*before, here), slip)
        case Slip.BAD_CALL:
            bad = f"({here.expression}) / 0" if rng.random() < 0.5 else f"{here.expression} ="
            return Plan((*before, Step(here.note, bad, counts=False), here, *after), slip)
        case _:
            return Plan(steps, slip)


def _misread(expression: str, question: str, rng: random.Random) -> str:
    """Return the expression with a wrong number in it, or a wrong operation where it has no number."""
    numbers = list(_NUMBER.finditer(expression))
    if not numbers:
        return re.sub(r"[-+*/]", lambda match: _OPPOSITE[match[0]], expression, count=1)
    right = rng.choice(numbers)
    others = {float(text) for text in _NUMBER.findall(question.replace(",", ""))} - {float(right[0])}
    wrong = rng.choice(sorted(others)) if others else float(right[0]) + 1
    return f"{expression[: right.start()]}{wrong:g}{expression[right.end() :]}"


def _answer(plan: Plan, values: list[str]) -> str:
    if not values or not _is_number(values[-1]):
        return "I could not calculate this."
    if plan.slip is Slip.NO_FINAL_LINE:
        return f"So the answer is {values[-1]}."
    return f"That is the result.\n#### {values[-1]}"


def _next_sample(question: str, temperature: float | None) -> int:
    if temperature == 0:
        return 0
    with _lock:
        return next(_samples[question])


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@functools.cache
def _solutions() -> dict[str, tuple[Step, ...]]:
    lines = (Path(__file__).parent / "worked.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["question"]: tuple(Step(**step) for step in row["steps"]) for row in rows}
