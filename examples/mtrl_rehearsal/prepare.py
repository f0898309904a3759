"""Write the prompts of the job: `train.jsonl`, and `validation.jsonl` with problems that are not in it.

    python prepare.py [FOLDER]

Each prompt cell holds the question, which the model sees, and the number that answers it, which only the handler sees.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

from aws_rft_sdk.training import arithmetic

TRAIN, VALIDATION = 48, 32


def prepare(folder: str | Path) -> None:
    """Write both files into a folder."""
    random = Random(0)
    held_out = arithmetic.problems(VALIDATION, random)
    train = arithmetic.problems(TRAIN, random, without=[question for question, _ in held_out])
    for name, problems in (("train", train), ("validation", held_out)):
        rows = [json.dumps({"prompt": arithmetic.prompt_cell(*problem)}) + "\n" for problem in problems]
        (Path(folder) / f"{name}.jsonl").write_text("".join(rows))


if __name__ == "__main__":
    prepare(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
