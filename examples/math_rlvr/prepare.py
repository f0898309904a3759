"""Turn problems with worked answers into the prompts of a job: `train.jsonl` and `validation.jsonl`.

    python prepare.py FOLDER

Each prompt cell holds the question, which the model sees, and the final number, which only the handler sees.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aws_rft_sdk import datasets

PROBLEMS = Path(__file__).parent / "problems.jsonl"
SHOTS = 2
"""Solved examples before each question. They show the model the form that the reward asks for."""


def prepare(folder: str | Path, problems: str | Path = PROBLEMS) -> dict[str, int]:
    """Write the two files into a folder and return how many rows each has.

    Raises:
        DatasetError: A problem has no question, or its answer does not end in `#### <number>`.
    """
    return datasets.prepare_gsm8k(problems, folder, shots=SHOTS)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for name, rows in prepare(sys.argv[1]).items():
        sys.stdout.write(f"{rows} rows in {Path(sys.argv[1]) / name}\n")
