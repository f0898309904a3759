"""ExactNumber on real solutions and real golds, read in place."""

import json
import os
from pathlib import Path

import pytest

from aws_rft_sdk.rewards import bench, gsm8k
from aws_rft_sdk.rewards.cases import parse_case

_DEFAULT = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "model_solutions.jsonl"
SOLUTIONS = Path(os.environ.get("RFT_GSM8K_SOLUTIONS", _DEFAULT))
TRAIN = SOLUTIONS.with_name("train.jsonl")
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")

needs_solutions = pytest.mark.skipif(not SOLUTIONS.is_file(), reason="set RFT_GSM8K_SOLUTIONS to model_solutions.jsonl")
needs_train = pytest.mark.skipif(not TRAIN.is_file(), reason="no train.jsonl beside model_solutions.jsonl")


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@needs_solutions
@pytest.mark.parametrize("model", MODELS)
def test_every_recorded_solution_when_scored_then_the_verdict_of_the_file(model):
    disagreeing = [
        row["question"]
        for row in rows(SOLUTIONS)
        if gsm8k.score(row[model]["solution"], row["ground_truth"]) != float(row[model]["is_correct"])
    ]
    assert disagreeing == []


@needs_solutions
def test_reward_bench_when_run_on_real_solutions_then_no_breach():
    """440 prompts, with golds such as 1 and 2 that a careless reading of odd numbers hits."""
    cases = [
        parse_case(
            {
                "prompt": row["question"],
                "ground_truth": row["ground_truth"],
                "answer": row[model]["solution"],
                "kind": "success" if row[model]["is_correct"] else "failure",
                "expected": float(row[model]["is_correct"]),
            }
        )
        for row in rows(SOLUTIONS)
        for model in MODELS[2:]
    ]
    assert bench(gsm8k, cases, repeat=1, max_seconds=10).breaches == ()


@needs_train
def test_every_gold_answer_when_scored_against_itself_then_right():
    assert all(gsm8k.score(row["answer"], row["answer"]) == 1.0 for row in rows(TRAIN))


@needs_train
def test_every_gold_answer_when_any_digit_is_changed_then_wrong():
    wrong = []
    for row in rows(TRAIN):
        gold = row["answer"].rpartition("#### ")[2]
        for position in (position for position, character in enumerate(gold) if character.isdigit()):
            for digit in set("0123456789") - {gold[position]}:
                changed = gold[:position] + digit + gold[position + 1 :]
                if gsm8k.score(f"#### {changed}", gold) != 0.0:
                    wrong.append((gold, changed))
    assert wrong == []
