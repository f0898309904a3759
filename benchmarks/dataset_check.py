"""How fast `aws_rft_sdk.datasets.check` is, next to a bare loop of `json.loads` over the same file.

    python benchmarks/dataset_check.py [--rows N] [--rounds N] [--json FILE]

The files are made here, one for each target, rows like those of a real training file: 500 to 700 bytes, a question, a
worked solution, a final answer, which stands in one question of ten by chance, as GSM8K's do. Both take turns, each
time the other one first; the figure is the median of the rounds' ratios of CPU time, since others may use the machine
too. The floor is a loop over the lines of the file opened as text, which is faster than over its bytes; what a prompt
of mtrl holds as JSON in text stays text there, and is parsed by the check. Exit 1 when the check for any target manages
less than a third of the floor's rows per second.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aws_rft_sdk import datasets

TARGET = 1 / 3
_NAMES = ("Ada", "Bela", "Chen", "Dora", "Emil", "Fatou", "Goran", "Hana")
_THINGS = ("pears", "ribbons", "tiles", "postcards", "candles", "screws", "kites", "lamps")


def rows(count: int, seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yield questions, worked solutions and final answers, all different."""
    order = random.Random(seed)
    for number in range(count):
        name, thing = order.choice(_NAMES), order.choice(_THINGS)
        each, boxes, lost = order.randint(3, 90), order.randint(3, 90), order.randint(1, 8)
        total = each * boxes
        day = lost if number % 10 else total - lost
        yield (
            f"In shop {number}, on day {day}, {name} packs {each} {thing} into each of {boxes} boxes. On the way to "
            f"the market {lost} of the {thing} fall out, and nobody picks them up. How many {thing} arrive there? "
            'Think about it step by step and give the number that arrives after "####".',
            f"{name} packs {each}*{boxes} = <<{each}*{boxes}={total}>>{total} {thing} in all.\nOf these {lost} are "
            f"lost, so that {total}-{lost} = <<{total}-{lost}={total - lost}>>{total - lost} {thing} arrive.\n"
            f"#### {total - lost}",
            str(total - lost),
        )


def _bedrock(question: str, solution: str, answer: str, number: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "reference_answer": solution, "ground_truth": answer}


def _nova(question: str, solution: str, answer: str, number: int) -> dict[str, Any]:
    system = {"role": "system", "content": "You solve problems of arithmetic."}
    messages = [system, {"role": "user", "content": question}]
    return {"id": f"row-{number}", "messages": messages, "reference_answer": {"text": solution, "final": answer}}


def _multiturn(question: str, solution: str, answer: str, number: int) -> dict[str, Any]:
    return {"id": f"row-{number}", "metadata": {"prompt": question, "answer": answer, "info": {"solution": solution}}}


def _mtrl(question: str, solution: str, answer: str, number: int) -> dict[str, Any]:
    return {"prompt": datasets.pack(question=question, ground_truth=answer, solution=solution)}


SHAPES: dict[str, Callable[[str, str, str, int], dict[str, Any]]] = {
    "bedrock": _bedrock,
    "nova": _nova,
    "nova-multiturn": _multiturn,
    "mtrl": _mtrl,
}


def floor(path: Path) -> float:
    """Return how many seconds of the CPU it takes to read every row."""
    began = time.process_time()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            json.loads(line)
    return time.process_time() - began


def ours(path: Path, target: str) -> float:
    """Return how many seconds of the CPU it takes to check every row."""
    began = time.process_time()
    report = datasets.check(path, target, ignore=["rows-max"])
    seconds = time.process_time() - began
    if not report.ok:
        raise SystemExit(f"the generated file has problems: {dict(report.counts)}")
    return seconds


def measure(target: str, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Let both take turns over one file."""
    path = folder / f"{target}.jsonl"
    size = datasets.write_rows(path, (SHAPES[target](*row, n) for n, row in enumerate(rows(count))))
    pairs = []
    for number in range(rounds):
        if number % 2:
            other = ours(path, target)
            pairs.append((floor(path), other))
        else:
            pairs.append((floor(path), ours(path, target)))
    ratios = sorted(one / other for one, other in pairs)
    return {
        "target": target,
        "rows": size,
        "bytes": path.stat().st_size,
        "floor_rows_per_second": size / statistics.median(one for one, _ in pairs),
        "check_rows_per_second": size / statistics.median(other for _, other in pairs),
        "ratio": statistics.median(ratios),
        "ratio_minimum": ratios[0],
        "ratio_maximum": ratios[-1],
    }


def main() -> None:
    """Measure all targets, print a table, exit 1 unless the bound is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for target in SHAPES:
            result = measure(target, arguments.rows, arguments.rounds, Path(folder))
            results.append(result)
            print(
                f"{target:15} json.loads {result['floor_rows_per_second']:>9,.0f} rows/s   "
                f"check {result['check_rows_per_second']:>9,.0f} rows/s   ratio {result['ratio']:.2f} "
                f"({result['ratio_minimum']:.2f} to {result['ratio_maximum']:.2f})"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    missed = [result["target"] for result in results if result["ratio"] < TARGET]
    print(f"at least {TARGET:.2f} wanted: {'MISSED by ' + ', '.join(missed) if missed else 'met by all'}")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
