"""Rewards per second of one core on real answers, against math-verify on the same answers.

    python benchmarks/rewards.py MODEL_SOLUTIONS_JSONL [--limit N] [--json FILE]

The file is `model_solutions.jsonl` of openai/grade-school-math: 440 problems with four models' solutions each. All
rewards get the same texts: a solution and the worked ground truth. The verdicts are compared with the file's as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from aws_rft_sdk.rewards import ExactNumber, FinQA, Format, MathVerify
from aws_rft_sdk.rewards.rollout import Rollout

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
ROUNDS = 5
Score = Callable[[str, str], float | None]


def read(path: Path, limit: int | None) -> list[tuple[str, str, bool]]:
    """Return solution, ground truth and the file's verdict of all solutions."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = [
        (row[model]["solution"], row["ground_truth"], row[model]["is_correct"]) for row in rows for model in MODELS
    ]
    return answers[:limit]


def as_rollout(reward: Callable[[Rollout], object]) -> Score:
    return lambda answer, truth: reward(Rollout.of_answer(answer, truth)).reward  # type: ignore[attr-defined]


def measure(score: Score, answers: list[tuple[str, str, bool]], rounds: int) -> dict[str, float]:
    """Score everything several times; return the median rate and how often the verdict is the file's."""
    rates, agreeing = [], 0
    # The clock, not processor time: math-verify works in another process, one at a time, while this one waits.
    for _ in range(rounds):
        began = time.perf_counter()
        scores = [score(answer, truth) for answer, truth, _ in answers]
        rates.append(len(answers) / (time.perf_counter() - began))
        agreeing = sum((given == 1.0) == verdict for given, (_, _, verdict) in zip(scores, answers, strict=True))
    return {"rewards_per_second": statistics.median(rates), "agreeing": agreeing, "answers": len(answers)}


def main() -> None:
    """Measure all rewards and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("solutions", type=Path)
    parser.add_argument("--limit", type=int, help="use the first N solutions only")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    answers = read(arguments.solutions, arguments.limit)
    rewards: dict[str, tuple[Score, int]] = {
        "ExactNumber": (ExactNumber().score, ROUNDS),
        "FinQA": (FinQA().score, ROUNDS),
        "Format.final_answer": (as_rollout(Format.final_answer()), ROUNDS),
        "MathVerify": (MathVerify().score, 1),
    }
    MathVerify().score("1", "1")  # the import is not measured
    results = {name: measure(score, answers, rounds) for name, (score, rounds) in rewards.items()}
    base = results["MathVerify"]["rewards_per_second"]
    for name, result in results.items():
        rate = result["rewards_per_second"]
        print(f"{name:20} {rate:10,.0f}/s {rate / base:8.1f}x {result['agreeing']:6} of {result['answers']} agree")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
