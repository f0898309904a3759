"""Makes training files out of GSM8K: a prompt with solved examples, and the final answer to compare with."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets.files import Progress, read_rows, write_rows
from aws_rft_sdk.datasets.picking import chosen
from aws_rft_sdk.datasets.shapes import Shape, convert_rows
from aws_rft_sdk.errors import ConfigurationError, DatasetError

VALIDATION_SHARE = 0.1

_CALCULATION = re.compile(r"<<[^<>]*>>")
_STOPS = re.compile(r"\.{2,}")


class Shot(NamedTuple):
    """A solved example."""

    question: str
    solution: str
    answer: str


SHOTS = (
    Shot(
        "A shelf has 5 boards with 9 jars on each. How many jars are there?",
        "5 boards of 9 jars are 5 * 9 = 45 jars.",
        "45",
    ),
    Shot(
        "Ivo has 64 stamps and gives 14 of them away. How many are left?", "Of 64 stamps 64 - 14 = 50 are left.", "50"
    ),
    Shot(
        "A bus carries 3 groups of 13 pupils. How many pupils are on it?",
        "3 groups of 13 are 3 * 13 = 39 pupils.",
        "39",
    ),
    Shot("Four friends share 48 plums evenly. How many does each get?", "Each gets 48 / 4 = 12 plums.", "12"),
    Shot("A tailor sews 7 shirts a day. How many does he sew in 4 days?", "In 4 days he sews 7 * 4 = 28 shirts.", "28"),
    Shot("Mara reads 3 pages and then 5 more. How many has she read?", "She has read 3 + 5 = 8 pages.", "8"),
    Shot("Of 10 eggs 4 are broken. How many are whole?", "10 - 4 = 6 eggs are whole.", "6"),
    Shot(
        "A rope of 30 meters is cut in half. How long is one half in meters?", "One half has 30 / 2 = 15 meters.", "15"
    ),
)
"""Eight easy examples to show before a question."""


def final_answer(solution: str) -> str | None:
    """Return the number after the last `####` of a GSM8K solution, without commas; None when there is none."""
    _, mark, end = solution.rpartition("####")
    number = end.replace(",", "").strip()
    return number if mark and "\n" not in number and any(map(str.isdigit, number)) else None


def clean_solution(solution: str) -> str:
    """Return a solution without calculator marks and without doubled full stops."""
    return _STOPS.sub(".", _CALCULATION.sub("", solution))


def few_shot_prompt(question: str, shots: tuple[Shot, ...] = ()) -> str:
    """Return the question as it is put to the model, solved examples first, ending where the solution begins."""
    begin = "Question: {}\nSolution: Let's think step by step. "
    solved = [
        begin.format(shot.question) + f"{shot.solution}\n#### The final answer is {shot.answer}\n\n" for shot in shots
    ]
    return "".join(solved) + begin.format(clean_solution(question).strip())


def prepare_gsm8k(
    source: str | Path,
    folder: str | Path,
    *,
    shots: int = 0,
    seed: int = 0,
    to: Shape | str = Shape.MTRL,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write `train.jsonl` and `validation.jsonl`, 90 and 10 percent of the questions, in file order.

    Args:
        source: A file of `question` and `answer`, the answer ending in `#### <number>`.
        folder: Where to write; it is made if need be.
        shots: How many of the eight examples stand before each question, the same in each.
        seed: Decides which examples, in which order, and which questions are for validation.
        to: The shape of the rows. The reference is the final answer alone, commas removed.
        progress: Is told how many bytes have been read.

    Returns:
        How many rows each file has, by its name.

    Raises:
        ConfigurationError: shots is not 0 to 8.
        DatasetError: The file cannot be read, or a row has no question or no final answer; `.line` says which.
    """
    if not 0 <= shots <= len(SHOTS):
        raise ConfigurationError(f"shots is {shots}; there are 0 to {len(SHOTS)}")
    order = random.Random(seed)
    examples = tuple(order.sample(SHOTS, shots))
    total = sum(1 for _ in read_rows(source))
    held_out = chosen(total, round(VALIDATION_SHARE * total), order)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, wanted in (("train.jsonl", False), ("validation.jsonl", True)):
        rows = (
            (line, row)
            for number, (line, row) in enumerate(_questions(Path(source), examples, progress))
            if (number in held_out) is wanted
        )
        counts[name] = write_rows(folder / name, convert_rows(rows, Shape(to), shape=Shape.QA))
    return counts


def _questions(
    path: Path, examples: tuple[Shot, ...], progress: Progress | None
) -> Iterator[tuple[int, dict[str, JSON]]]:
    for line, row in read_rows(path, progress=progress):
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not question.strip():
            raise DatasetError(f"{path}, line {line}: the row has no question", line=line)
        final = final_answer(answer) if isinstance(answer, str) else None
        if final is None:
            raise DatasetError(f"{path}, line {line}: the answer does not end in #### and a number", line=line)
        yield line, {"question": few_shot_prompt(question, examples), "answer": final}
