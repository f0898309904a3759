"""Makes training files out of known datasets, as their authors publish them: GSM8K, FinQA, PandaLM."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._storage import Progress, files_of
from aws_rft_sdk.datasets.files import read_rows, write_rows
from aws_rft_sdk.datasets.shapes import MADE, Shape, convert_rows, known_shape
from aws_rft_sdk.errors import ConfigurationError, DatasetError

_FILES = ("train.jsonl", "validation.jsonl")
_VALIDATION_SHARE = 0.1

_CALCULATION = re.compile(r"<<[^<>]*>>")
_STOPS = re.compile(r"\.{2,}")


class Shot(NamedTuple):
    """A solved example."""

    question: str
    solution: str
    answer: str


_SHOTS = """\
A shelf has 5 boards with 9 jars on each. How many jars are there? | 5 boards of 9 jars are 5 * 9 = 45 jars. | 45
Ivo has 64 stamps and gives 14 of them away. How many are left? | Of 64 stamps 64 - 14 = 50 are left. | 50
A bus carries 3 groups of 13 pupils. How many pupils are on it? | 3 groups of 13 are 3 * 13 = 39 pupils. | 39
Four friends share 48 plums evenly. How many does each get? | Each gets 48 / 4 = 12 plums. | 12
A tailor sews 7 shirts a day. How many does he sew in 4 days? | In 4 days he sews 7 * 4 = 28 shirts. | 28
Mara reads 3 pages and then 5 more. How many has she read? | She has read 3 + 5 = 8 pages. | 8
Of 10 eggs 4 are broken. How many are whole? | 10 - 4 = 6 eggs are whole. | 6
A rope of 30 meters is cut in half. How long is one half in meters? | One half has 30 / 2 = 15 meters. | 15
"""
SHOTS = tuple(Shot(*line.split(" | ")) for line in _SHOTS.splitlines())
"""Eight easy examples to show before a question."""

FINQA_SYSTEM = (
    "You are a financial analyst. Answer the question from the report below. Show your calculation step by step. End "
    "with a line of ANSWER: and one number, or yes or no. Write a percentage with its sign, as in ANSWER: 12.5%."
)
PANDALM_SYSTEM = (
    "You compare two responses to one instruction. Write on the first line which response is better: 1, 2 or Tie. Then "
    "write '### Reason:' and your reasons, then '### Reference:' and a response that is better than both."
)


def final_answer(solution: str) -> str | None:
    """Return the number after the last `####` of a GSM8K solution, without commas; None when there is none."""
    _, mark, end = solution.rpartition("####")
    number = end.replace(",", "").strip()
    return number if mark and "\n" not in number and any(map(str.isdigit, number)) else None


def few_shot_prompt(question: str, shots: tuple[Shot, ...] = ()) -> str:
    """Return the question as it is put to the model, solved examples first, ending where the solution begins.

    Calculator marks (`<<3+4=7>>`) and doubled full stops of the question are left out.
    """
    begin = "Question: {}\nSolution: Let's think step by step. "
    solved = [
        begin.format(shot.question) + f"{shot.solution}\n#### The final answer is {shot.answer}\n\n" for shot in shots
    ]
    return "".join(solved) + begin.format(_STOPS.sub(".", _CALCULATION.sub("", question)).strip())


def prepare(
    name: str,
    source: str | Path,
    folder: str | Path,
    *,
    shots: int = 0,
    seed: int = 0,
    to: Shape | str = Shape.MTRL,
    progress: Progress | None = None,
    split: str | None = None,
) -> dict[str, int]:
    """Write `train.jsonl` and `validation.jsonl`, 90 and 10 percent of the rows of a known dataset, in file order.

    Args:
        name: "gsm8k": the reference is the number after `####` in `answer`, without commas. "finqa": it is the text of
            `exe_ans`, else of `final_result`, else of `answer`. "pandalm": it is `output_sequence`, else the verdict of
            most annotators: 1, 2 or Tie.
        source: A file as the dataset's authors publish it, or a folder of such files. It is held in memory.
        folder: Where to write; it is made if need be.
        shots: For gsm8k, how many of eight solved examples stand before each question, the same in each.
        seed: Decides which rows are for validation, and which examples are shown in which order.
        to: The shape of the rows.
        progress: Is told how many bytes have been read.
        split: Which split of a folder. None if it has only one.

    Returns:
        How many rows each file has, by its name.

    Raises:
        ConfigurationError: The name is unknown, rows of the shape cannot be made, shots is not 0 to 8, or the source
            would be replaced.
        DatasetError: The source cannot be read, has fewer than two rows, or a row lacks a column or an answer; `.line`
            says which.
    """
    if name not in _TASKS:
        raise ConfigurationError(f"no dataset {name!r} is known; use one of {', '.join(_TASKS)}")
    if not 0 <= shots <= len(SHOTS) or (shots and name != "gsm8k"):
        raise ConfigurationError(f"shots is {shots}; there are 0 to {len(SHOTS)}, for gsm8k only")
    folder = Path(folder)
    if {file.resolve() for file in files_of(source, split)} & {(folder / file).resolve() for file in _FILES}:
        raise ConfigurationError(f"{source} would be replaced; choose another folder than {folder}")
    makes, order = known_shape("to", to, MADE), random.Random(seed)
    examples = tuple(order.sample(SHOTS, shots))
    tasks = []
    for line, row in read_rows(source, progress=progress, split=split):
        try:
            tasks.append((line, _TASKS[name](row, examples)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"the row has no {error}" if isinstance(error, KeyError) else error
            raise DatasetError(f"{source}, line {line}: {reason}", line=line) from error
    if len(tasks) < 2:
        raise DatasetError(f"{source}: two rows or more are needed, for training and validation; found {len(tasks)}")
    held_out = set(order.sample(range(len(tasks)), max(1, round(_VALIDATION_SHARE * len(tasks)))))
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for file, wanted in zip(_FILES, (False, True), strict=True):
        rows = (task for number, task in enumerate(tasks) if (number in held_out) is wanted)
        counts[file] = write_rows(folder / file, convert_rows(rows, makes))
    return counts


def prepare_gsm8k(
    source: str | Path,
    folder: str | Path,
    *,
    shots: int = 0,
    seed: int = 0,
    to: Shape | str = Shape.MTRL,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Do what `prepare` does with "gsm8k"."""
    return prepare("gsm8k", source, folder, shots=shots, seed=seed, to=to, progress=progress)


def _gsm8k(row: Mapping[str, Any], examples: tuple[Shot, ...]) -> dict[str, JSON]:
    final = final_answer(row["answer"])
    if final is None:
        raise DatasetError("the answer does not end in #### and a number")
    return {"question": few_shot_prompt(_text(row, "question"), examples), "answer": final}


def _finqa(row: Mapping[str, Any], examples: tuple[Shot, ...]) -> dict[str, JSON]:
    qa = row["qa"] if isinstance(row.get("qa"), Mapping) else row
    answers = (qa.get(name) for name in ("exe_ans", "final_result", "answer"))
    answer = next((answer for answer in answers if answer not in (None, "")), None)
    if answer is None:
        raise DatasetError("the row has no exe_ans, final_result or answer")
    if isinstance(answer, float):
        answer = format(Decimal(repr(answer)), "f")  # digits without an exponent
    table = "\n".join(" | ".join(map(str, cells)) for cells in row["table"])
    question = f"Question: {_text(qa, 'question')}"
    report = (" ".join(row["pre_text"]), table, " ".join(row["post_text"]), question)
    made = _chat(FINQA_SYSTEM, "\n\n".join(filter(None, report)), str(answer))
    return {**made, "id": row["id"]} if "id" in row else made


def _pandalm(row: Mapping[str, Any], examples: tuple[Shot, ...]) -> dict[str, JSON]:
    answer = row.get("output_sequence")
    if not answer:
        votes = [int(row[name]) for name in sorted(row) if name.startswith("annotator") and row[name] not in (None, "")]
        if not votes or not set(votes) <= {0, 1, 2}:
            raise DatasetError(f"verdicts in annotator1, annotator2, ... must be 0, 1 or 2, and they are {votes}")
        (verdict, count), *others = Counter(votes).most_common()
        tied = verdict == 0 or any(other == count for _, other in others)
        answer = "Tie" if tied else str(verdict)
    parts = {"Instruction": _text(row, "instruction"), "Input": row.get("input")}
    parts |= {"Response 1": row["response1"] or "", "Response 2": row["response2"] or ""}
    question = "\n\n".join(f"### {name}:\n{text}" for name, text in parts.items() if text or name != "Input")
    return _chat(PANDALM_SYSTEM, question, answer)


def _chat(system: str, question: str, answer: str) -> dict[str, JSON]:
    messages: list[JSON] = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"messages": messages, "reference_answer": answer}


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str) or not row[name].strip():
        raise DatasetError(f"the row has no {name}")
    return str(row[name])


_TASKS: dict[str, Callable[[Mapping[str, Any], tuple[Shot, ...]], dict[str, JSON]]] = {
    "gsm8k": _gsm8k,
    "finqa": _finqa,
    "pandalm": _pandalm,
}
DATASETS = tuple(_TASKS)
"""Names of datasets that `prepare` knows."""
