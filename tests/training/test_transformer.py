"""Learning through agent, wire and TRL in small. `benchmarks/transformer.py` does the same with sums, and takes longer.

The supervised part shows a model two answers to each question, equally often. Which of them is right, it cannot know:
only the rewards say it. So accuracy on held-out questions rises soon and by much.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs: pip install -e '.[train]'")

import torch
from strands import tool

from aws_rft_sdk.rollout import run
from aws_rft_sdk.training.torch_policy import TorchPolicy
from benchmarks.transformer import (
    CALL,
    Example,
    Sum,
    accuracy,
    by_chance,
    constant,
    honest,
    make_handler,
    make_model,
    make_tokenizer,
    pretrain,
    prompt_cell,
    train_by_rewards,
)

TOKENIZER = make_tokenizer()
SHORT: dict[str, Any] = {"global_batch_size": 4, "group_size": 8, "learning_rate": 1e-3, "max_steps": 8, "seed": 0}


def pairs(count: int) -> list[Sum]:
    """Return pairs of numbers of two digits. Equal numbers would make both answers right."""
    return [tuple(Random(index).sample(range(10, 100), 2)) for index in range(count)]


HELD_OUT = pairs(40)
TRAIN = [pair for pair in pairs(440) if pair not in HELD_OUT]


def last(pair: Sum) -> int:
    return pair[1]


def one_turn(pair: Sum, answer: int) -> Example:
    return [(f"<user>{pair[0]}+{pair[1]}<end><assistant>", False), (f"{answer}<end>", True)]


def two_turns(pair: Sum, operand: int) -> Example:
    """Return a conversation in which the model calls the tool and says its result."""
    call = f"{CALL[0]}{CALL[1]}{operand}{CALL[2]}{pair[1]}{CALL[3]}{CALL[4]}<end>"
    said = operand + pair[1]
    return [
        (f"<user>{pair[0]}+{pair[1]}<end><assistant>", False),
        (call, True),
        (f"<tool>{said}<end><assistant>", False),
        (f"{said}<end>", True),
    ]


def pretrained(example: Any, right: Any, until: float) -> Any:
    """Return a model that gives the right answer about as often as the wrong one."""
    model = make_model(TOKENIZER, seed=0, hidden=64)
    examples = [example(pair, right(pair)) for pair in HELD_OUT]

    def draw(random: Random) -> Example:
        pair = random.choice(TRAIN)
        return example(pair, random.choice(pair))

    pretrain(model, TOKENIZER, draw, examples, seed=0, until=until, batch=64, learning_rate=3e-3)
    return model


@pytest.fixture(scope="module")
def half_trained() -> Any:
    return pretrained(one_turn, last, 0.4)


@pytest.mark.parametrize("name", ["rewarded", "constant", "random"])
def test_train_when_rewards_are_honest_then_held_out_accuracy_rises_and_only_then(
    name: str, half_trained: Any, tmp_path: Path
) -> None:
    model = deepcopy(half_trained)
    handler = make_handler({"rewarded": honest, "constant": constant, "random": by_chance(0)}[name])
    cells = [prompt_cell(f"{a}+{b}", b) for a, b in TRAIN]

    values = {**SHORT, "max_steps": 2} if name == "constant" else SHORT
    done = train_by_rewards(model, TOKENIZER, cells, handler, tmp_path / "run", **values)

    before, after = (accuracy(m, TOKENIZER, HELD_OUT, draws=20, solve=last).sampled for m in (half_trained, model))
    assert done.failed_rollouts == 0
    if name == "rewarded":
        assert after > before + 0.03
    elif name == "constant":  # all advantages are 0
        assert all(map(torch.equal, model.parameters(), half_trained.parameters()))
        assert done.dead_groups == 2 * SHORT["global_batch_size"]
    else:
        assert after < before + 0.03


@tool
def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return str(a + b)


def solved(model: Any, cells: Sequence[str]) -> float:
    """Return the share of prompts that an agent with the tool solves."""
    records = run(make_handler(honest, [add]), cells, policy=TorchPolicy(model, TOKENIZER), max_tokens=16, discard=True)
    return fmean(record.reward or 0.0 for record in records.records)


def test_train_when_a_tool_must_be_called_then_held_out_accuracy_rises(tmp_path: Path) -> None:
    model = pretrained(two_turns, lambda pair: pair[0], 0.35)
    held_out, cells = ([prompt_cell(f"{a}+{b}", a + b) for a, b in part] for part in (HELD_OUT, TRAIN))
    before = solved(model, held_out)

    handler = make_handler(honest, [add])
    values = {**SHORT, "sampling_max_tokens": 16}
    done = train_by_rewards(model, TOKENIZER, cells, handler, tmp_path / "run", **values)

    after = solved(model, held_out)
    assert after > before + 0.03
    assert done.broken_rows == 0
