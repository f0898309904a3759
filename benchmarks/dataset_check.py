"""How fast `aws_rft_sdk.datasets.check` is, next to a bare loop of `json.loads` over the same file.

    python benchmarks/dataset_check.py [--rows N] [--rounds N] [--json FILE]

The files are made here. Rows are like those of a real training file: 500 to 700 bytes, a question, a worked solution, a
final answer, which stands in one question of ten by chance, as GSM8K's do. Each target has a file of such rows, and one
of prompts with eight solved examples. Nova has files of rows with tools, and with calls of tools, as well.

Both take turns, each time the other one first. The figure is the median of the rounds' ratios of CPU time, since others
may use the machine too. The floor is a loop over the lines of the file opened as text, which is faster than over its
bytes. JSON in the text of an mtrl prompt stays text there, and is parsed by the check. Exit 1 when the check of
any file manages less than 0.33 of the floor's rows per second.
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

TARGET = 0.33
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


_SHOTS = [(question, solution) for question, solution, _ in rows(8, seed=5)]
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"look_up_{thing}",
            "description": f"Returns how many {thing} a shop has packed on a day.",
            "parameters": {
                "type": "object",
                "properties": {
                    "shop": {"type": "integer", "description": "Number of the shop."},
                    "day": {"type": "string", "enum": ["today", "yesterday"]},
                },
                "required": ["shop"],
            },
        },
    }
    for thing in _THINGS[:3]
]


def _with_shots(question: str) -> str:
    shots = "".join(f"Question: {shot}\nSolution: {solution}\n\n" for shot, solution in _SHOTS)
    return f"{shots}Question: {question}\nSolution: Let's think step by step."


def _in_messages(question: str, solution: str, answer: str, number: int) -> dict[str, Any]:
    """Return a row whose solved examples are messages."""
    shots = [
        {"role": role, "content": text}
        for shot in _SHOTS
        for role, text in zip(("user", "assistant"), shot, strict=True)
    ]
    row = _nova(question, solution, answer, number)
    return {**row, "messages": [row["messages"][0], *shots, row["messages"][1]]}


def _with_calls(question: str, solution: str, answer: str, number: int) -> dict[str, Any]:
    function = {"name": "look_up_pears", "arguments": json.dumps({"shop": number})}
    call = {"id": f"call-{number}", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call-{number}", "content": "None was packed."},
    ]
    return {**_nova(question, solution, answer, number), "messages": messages, "tools": _TOOLS}


Make = Callable[[str, str, str, int], dict[str, Any]]


def _eight_shot(make: Make) -> Make:
    return lambda question, solution, answer, number: make(_with_shots(question), solution, answer, number)


FILES: dict[str, tuple[str, Make]] = {
    **{
        name: (target, make)
        for target, shape in (
            ("bedrock", _bedrock),
            ("nova", _nova),
            ("nova-multiturn", _multiturn),
            ("mtrl", _mtrl),
        )
        for name, make in ((target, shape), (f"{target}, 8 shots", _eight_shot(shape)))
    },
    "nova, 8 shots as messages": ("nova", _in_messages),
    "nova, tools": ("nova", lambda *row: {**_nova(*row), "tools": _TOOLS}),
    "nova, tools and calls": ("nova", _with_calls),
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


def measure(name: str, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Let both take turns over one file."""
    target, make = FILES[name]
    path = folder / f"{name}.jsonl"
    size = datasets.write_rows(path, (make(*row, n) for n, row in enumerate(rows(count))))
    pairs = []
    for number in range(rounds):
        if number % 2:
            other = ours(path, target)
            pairs.append((floor(path), other))
        else:
            pairs.append((floor(path), ours(path, target)))
    ratios = sorted(one / other for one, other in pairs)
    return {
        "file": name,
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
    """Measure all files, print a table, exit 1 unless the bound is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            result = measure(name, arguments.rows, arguments.rounds, Path(folder))
            results.append(result)
            print(
                f"{name:25} json.loads {result['floor_rows_per_second']:>9,.0f} rows/s   "
                f"check {result['check_rows_per_second']:>9,.0f} rows/s   ratio {result['ratio']:.2f} "
                f"({result['ratio_minimum']:.2f} to {result['ratio_maximum']:.2f})"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    missed = [result["file"] for result in results if result["ratio"] < TARGET]
    print(f"at least {TARGET:.2f} wanted: {'MISSED by ' + ', '.join(missed) if missed else 'met by all'}")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
