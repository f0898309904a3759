"""Turn GSM8K's files into prompt cells: `train.jsonl`, `validation.jsonl`, and `test-N-shots.jsonl`.

    python dataset.py TRAIN.jsonl TEST.jsonl FOLDER [--shots 8] [--seed 0]

TRAIN and TEST are `train.jsonl` and `test.jsonl` of github.com/openai/grade-school-math. One row in ten of TRAIN
becomes validation. TEST is used for the evaluation only. In it, N solved examples stand before each question.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from aws_rft_sdk import datasets
from aws_rft_sdk.datasets.preparing import SHOTS
from aws_rft_sdk.errors import DatasetError, RFTError

SHOT_COUNTS = (0, 2, 4, 8)
"""Numbers of solved examples of the evaluation."""
STOP = ("\nQuestion:",)
"""What a model writes that goes on with a problem of its own. Only the evaluation cuts it off. In training it stays and
costs the reward for the form, so that the model learns to stop."""


def prepare(
    train: str | Path, test: str | Path, folder: str | Path, *, shots: int = 8, seed: int = 0
) -> dict[str, int]:
    """Write all files into a folder, and return how many rows each has.

    Args:
        train: GSM8K's training file: `question`, and `answer` that ends in `#### <number>`.
        test: GSM8K's test file.
        folder: Where to write. It is made if need be.
        shots: How many of eight solved examples stand before each question of training and validation, 0 to 8.
        seed: The same seed gives the same rows and the same examples.

    Raises:
        DatasetError: A file cannot be read, a row has no question or no answer, or a question is in both files. In the
            last case nothing was written.
        ConfigurationError: shots is not 0 to 8.
    """
    problems = list(_problems(test))
    known = {_alike(question) for _, question, _ in _problems(train)}
    if line := next((line for line, question, _ in problems if _alike(question) in known), None):
        raise DatasetError(
            f"{test}, line {line}: this question is in {train} too. Give GSM8K's own two files", line=line
        )
    counts = datasets.prepare_gsm8k(train, folder, shots=shots, seed=seed)
    for count in SHOT_COUNTS:
        file = test_file(count)
        counts[file] = datasets.write_rows(Path(folder) / file, _cells(problems, count, seed))
    return counts


def test_file(shots: int) -> str:
    """Return the name of the file of the test split with so many solved examples."""
    return f"test-{shots}-shots.jsonl"


def _cells(problems: list[tuple[int, str, str]], shots: int, seed: int) -> Iterator[dict[str, str]]:
    examples = tuple(Random(seed).sample(SHOTS, shots))  # the same as those of the training
    for _, question, answer in problems:
        prompt = datasets.few_shot_prompt(question, examples)
        yield {"prompt": datasets.pack(question=prompt, ground_truth=answer, stop=list(STOP))}


def _problems(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, question and final answer of each row."""
    for line, row in datasets.read_rows(path):
        question, answer = row.get("question"), datasets.final_answer(str(row.get("answer")))
        if not isinstance(question, str) or answer is None:
            raise DatasetError(f"{path}, line {line}: needs question, and answer that ends in #### <number>", line=line)
        yield line, question, answer


def _alike(question: str) -> str:
    return " ".join(question.lower().split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    try:
        for name, rows in prepare(**vars(parser.parse_args())).items():
            sys.stdout.write(f"{name}: {rows} rows\n")
    except RFTError as error:
        raise SystemExit(str(error)) from error
