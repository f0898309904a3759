"""Word problems that a `SoftmaxPolicy` can learn to solve, and the Strands agent that solves them.

A problem starts with a number of things and has one or two events. A word of each event says what happens to the
number: "more" and "together" add, "away" and "loses" subtract, "times" and "every" multiply, "equally" and "splits"
divide. The policy has to learn what these eight words mean, and when to stop and answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from strands import Agent, tool

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.datasets import pack, unpack
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.rewards import Rollout, evaluate, gsm8k
from aws_rft_sdk.training.softmax import Choose, Table

_NAMES = ("Ana", "Bela", "Chidi", "Dora", "Emil", "Fatou", "Goro", "Hana", "Ivo", "Juma", "Kala", "Lena")
_THINGS = ("apples", "beads", "cards", "shells", "stones", "tickets", "marbles", "stamps", "figs", "coins")
_EVENTS = {
    "more": ("add", "{name} gets {n} more."),
    "together": ("add", "A friend brings {n}, and they put all of them together."),
    "away": ("subtract", "{name} gives {n} away."),
    "loses": ("subtract", "On the way home {name} loses {n}."),
    "times": ("multiply", "Next week there are {n} times as many."),
    "every": ("multiply", "{name} swaps every one of them for {n} others."),
    "equally": ("divide", "They are shared equally by {n} children. Look at one child."),
    "splits": ("divide", "{name} splits them into {n} heaps of the same size and keeps one."),
}
"""For each word, the operation that it stands for, and the sentence that it appears in."""
_OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b if b else 0,
}
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_MOVES = (*_OPERATIONS, "answer")
_DONE = "done"
"""The state in which every event has been dealt with."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_LONGEST = 6
"""Decisions before the answer is given in any case, so that a policy that never answers comes to an end."""

SYSTEM_PROMPT = "Solve the problem with the calculator, one step at a time. End with a line: #### <number>"


def untrained() -> Table:
    """Return the logits to begin with: 9 states of 5 moves, all 0 but that of the answer when all is done, 1."""
    table = {state: dict.fromkeys(_MOVES, 0.0) for state in (*_EVENTS, _DONE)}
    table[_DONE]["answer"] = 1.0
    return table


def problems(count: int, random: Random, *, without: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return different problems, each a question and the number that answers it.

    Args:
        count: How many.
        random: Draws them.
        without: Questions that must not come up, for example those of training in a held-out set.
    """
    seen = set(without)
    found: list[tuple[str, str]] = []
    while len(found) < count:
        question, answer = _problem(random)
        if question not in seen:
            seen.add(question)
            found.append((question, answer))
    return found


def _problem(random: Random) -> tuple[str, str]:
    name, things = random.choice(_NAMES), random.choice(_THINGS)
    events = [_EVENTS[word] for word in random.sample(list(_EVENTS), random.randint(1, 2))]
    while True:  # until the numbers fit: no thing is cut, and none is owed
        first, *numbers = random.randint(4, 96), *(random.randint(2, 9) for _ in events)
        value: float = first
        for (operation, _), number in zip(events, numbers, strict=True):
            value = _OPERATIONS[operation](value, number)
            if value < 1 or value != int(value):
                break
        else:
            told = [sentence.format(name=name, n=number) for (_, sentence), number in zip(events, numbers, strict=True)]
            return " ".join([f"{name} has {first} {things}.", *told, f"How many {things} is that?"]), str(int(value))


def prompt_cell(question: str, answer: str) -> str:
    """Return the dataset cell of a problem."""
    return pack(question=question, ground_truth=answer)


def decide(request: Mapping[str, Any], choose: Choose) -> dict[str, JSON]:
    """Answer a chat request about a problem, and leave each decision to `choose`.

    The state of a decision is the word of the next event, or "done". With a tool `calculator`, one decision is made and
    becomes a call of it, or the answer. Without, decisions are made up to the answer, and the text shows them all.
    """
    messages = request.get("messages") or []
    question = next((_text(m) for m in reversed(messages) if m.get("role") == "user" and _text(m)), "")
    numbers = [float(number) for number in _NUMBER.findall(question)] or [0.0]
    words = [word for word in re.findall(r"[a-z]+", question.lower()) if word in _EVENTS]
    results = [_NUMBER.findall(_text(m)) for m in messages if m.get("role") == "tool"]
    value = float(results[-1][-1]) if results and results[-1] else numbers[0]

    def next_move(step: int) -> tuple[str, float]:
        state = words[step] if step < len(words) else _DONE
        return choose(state, _MOVES), numbers[min(step + 1, len(numbers) - 1)]

    if any(item.get("function", {}).get("name") == "calculator" for item in request.get("tools") or ()):
        move, operand = next_move(len(results)) if len(results) < _LONGEST else ("answer", 0.0)
        if move != "answer":
            arguments = json.dumps({"operation": move, "a": value, "b": operand})
            call = {"id": f"call-{len(results)}", "type": "function"}
            return {"tool_calls": [{**call, "function": {"name": "calculator", "arguments": arguments}}]}
        return {"content": f"#### {value:g}"}
    lines = []
    for step in range(_LONGEST):
        move, operand = next_move(step)
        if move == "answer":
            break
        result = _OPERATIONS[move](value, operand)
        lines.append(f"{value:g} {_SIGNS[move]} {operand:g} = {result:g}")
        value = result
    return {"content": "\n".join([*lines, f"#### {value:g}"])}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


@tool
def calculator(operation: str, a: float, b: float) -> str:
    """Calculate with two numbers.

    Args:
        operation: add, subtract, multiply or divide.
        a: The first number.
        b: The second number.
    """
    return f"{_OPERATIONS[operation](a, b):g}"


@cache
def _model() -> Any:
    return runtime_model()


async def solve(question: str, model: Any = None) -> str:
    """Return an agent's answer to a question. The agent is made anew, since it holds the conversation."""
    agent = Agent(model=model or _model(), tools=[calculator], system_prompt=SYSTEM_PROMPT, callback_handler=None)
    return str(await agent.invoke_async(question))


@rft_handler(on_error="failed")
async def handler(payload: dict[str, Any]) -> dict[str, Any]:
    """Solve the problem in `payload["prompt"]`, a cell of `prompt_cell`. The reward is 1 for the right number, or 0.

    A rollout that fails gets no reward, since a 0 would teach the policy that its decisions were wrong.
    """
    task = unpack(payload["prompt"])
    answer = await solve(str(task))
    return {"answer": answer, "reward": evaluate(gsm8k, Rollout.of_answer(answer, task.ground_truth)).reward}
