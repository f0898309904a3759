"""A stand-in for the model under training: it knows the worked answers, and spoils some of them.

The k-th answer to a question that this process gives is spoiled, or not, as the k-th of `HABITS` says, round robin.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aws_rft_sdk.datasets import few_shot_prompt

_MARK = re.compile(r"<<[^<>]*>>")
_counts: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
_lock = threading.Lock()


def right(work: str, number: str) -> str:
    """Give the right number in the right form."""
    return f"{work}\n#### The final answer is {number}"


def right_in_another_form(work: str, number: str) -> str:
    """Give the right number without the words that the examples show."""
    return f"{work}\n#### {number}"


def wrong_digit(work: str, number: str) -> str:
    """Get the last digit wrong."""
    return right(work, f"{number[:-1]}{(int(number[-1]) + 1) % 10}")


def no_answer(work: str, number: str) -> str:
    """Stop before the answer."""
    return work.rpartition("\n")[0] or "I do not know."


def runaway(work: str, number: str) -> str:
    """Go on with a problem of its own after the answer."""
    return f"{right(work, number)}\n\nQuestion: What is 90 + 9?\nSolution: It is 99.\n#### The final answer is 99"


HABITS: tuple[Callable[[str, str], str], ...] = (right, wrong_digit, right_in_another_form, runaway, no_answer)


def policy(request: dict[str, Any]) -> str:
    """Return the answer to a chat request that ends in a question of `problems.jsonl`. Safe from several threads.

    Raises:
        LookupError: The question is not in that file.
    """
    content = request["messages"][-1]["content"]
    prompt = content if isinstance(content, str) else "".join(part["text"] for part in content)
    question = next((text for text in _answers() if prompt.endswith(few_shot_prompt(text))), None)
    if question is None:
        raise LookupError(f"this policy knows the questions of problems.jsonl only, not {prompt[-80:]!r}")
    with _lock:
        sample = next(_counts[question])
    work, _, number = _answers()[question].rpartition("\n#### ")
    return HABITS[sample % len(HABITS)](_MARK.sub("", work), number)


@functools.cache
def _answers() -> dict[str, str]:
    lines = (Path(__file__).parent / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["question"]: row["answer"] for row in map(json.loads, lines)}
