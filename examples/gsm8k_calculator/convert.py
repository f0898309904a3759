"""Turn recorded GSM8K model solutions into a recording to replay and the dataset that belongs to it.

The input has one problem a line: `question`, `ground_truth` ending in `A: <number>`, and under the name of each model
an object with its `solution`, in which `<<expression=result>>` marks a calculation.

    python convert.py model_solutions.jsonl --model 175b_verification --recording recorded.jsonl --dataset asked.jsonl
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from gsm8k_task import FINAL_MARK, Task

_CALCULATION = re.compile(r"<<([^<>=\n]*)(?:=[^<>\n]*)?>>")
_ANSWER = re.compile(r"^A:[ \t]*(.*?)\s*\Z", re.MULTILINE)


def convert(rows: Iterable[dict[str, Any]], model: str) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the recording of one model and the dataset, both with one line for each row, in order.

    Raises:
        ValueError: A row has no solution of this model, or its ground truth no answer; the message gives the row.
    """
    recording, dataset = [], []
    for number, row in enumerate(rows, 1):
        answer = _ANSWER.search(row["ground_truth"])
        if answer is None:
            raise ValueError(f"row {number}: ground_truth does not end in a line 'A: <number>'")
        if model not in row:
            raise ValueError(f"row {number} has no solution of the model {model!r}")
        task = Task(row["question"], answer[1])
        recording.append({"prompt": task.question, "turns": make_turns(row[model]["solution"])})
        dataset.append({"prompt": task.cell()})
    return recording, dataset


def make_turns(solution: str) -> list[dict[str, Any]]:
    """Return a solution as assistant messages in OpenAI's chat format.

    Each calculation ends a turn of its own, which calls the calculator with the expression as it was recorded, right
    or wrong. The last turn is the rest of the text, with the line `A: <number>` as `#### <number>`. A solution that
    breaks off has no such line, and a calculation that breaks off stays text.
    """
    # With one group in the pattern, split gives text, expression, text, ..., text.
    *steps, rest = _CALCULATION.split(solution)
    turns = [
        _make_call(index, text, expression)
        for index, (text, expression) in enumerate(zip(steps[::2], steps[1::2], strict=True))
    ]
    return [*turns, {"role": "assistant", "content": _ANSWER.sub(rf"{FINAL_MARK} \1", rest)}]


def _make_call(index: int, text: str, expression: str) -> dict[str, Any]:
    function = {"name": "calculator", "arguments": json.dumps({"expression": expression})}
    call = {"id": f"call_{index}", "type": "function", "function": function}
    return {"role": "assistant", "content": text or None, "tool_calls": [call]}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file."""
    # Not splitlines: a row may hold U+2028 and its like unescaped.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(help="Turn recorded GSM8K solutions into a recording and its dataset.")
@click.argument("solutions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, help="Key of the model in the file, for example 175b_verification.")
@click.option("--recording", required=True, type=_FILE, help="File to write, for --policy replay:FILE.")
@click.option("--dataset", required=True, type=_FILE, help="File to write, the DATASET of aws-rft rollout.")
def main(solutions: Path, model: str, recording: Path, dataset: Path) -> None:
    """Convert one file from the command line."""
    try:
        recorded, prompts = convert(read_jsonl(solutions), model)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    write_jsonl(recording, recorded)
    write_jsonl(dataset, prompts)
    click.echo(f"{len(recorded)} problems -> {recording}, {dataset}")


if __name__ == "__main__":
    main()
