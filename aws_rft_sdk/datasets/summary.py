"""Figures of a dataset: lengths, duplicates, how answers are spread."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from aws_rft_sdk.datasets._interop import chat_row
from aws_rft_sdk.datasets._messages import visible_text
from aws_rft_sdk.datasets._storage import Progress
from aws_rft_sdk.datasets._text import estimate_tokens
from aws_rft_sdk.datasets.files import read_rows
from aws_rft_sdk.datasets.packing import unpack
from aws_rft_sdk.datasets.picking import digest_of, prompt_of
from aws_rft_sdk.datasets.preparing import final_answer
from aws_rft_sdk.datasets.shapes import untabled
from aws_rft_sdk.errors import DatasetError

_TOP = 10
_LABEL_CHARS = 80
_MOST_LABELS = 100_000


@dataclass(frozen=True)
class Lengths:
    """How long things are."""

    minimum: int
    median: int
    mean: float
    p95: int
    maximum: int


@dataclass(frozen=True)
class Stats:
    """Figures of a dataset."""

    rows: int
    duplicate_rows: int
    """Rows whose prompt was there before."""
    prompt_chars: Lengths
    """Characters that a model sees of a prompt."""
    prompt_tokens: Lengths
    """The same in tokens, roughly."""
    without_answer: int
    """Rows that have no answer to compare with."""
    distinct_answers: int
    """Different final answers; of more than 100,000, as many as were counted."""
    top_answers: tuple[tuple[str, int], ...]
    """The ten most frequent final answers and how often they occur."""

    @property
    def top_share(self) -> float:
        """Share of the most frequent answer in all answers: what a model scores that always gives this one."""
        answered = self.rows - self.without_answer
        return self.top_answers[0][1] / answered if answered and self.top_answers else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "top_share": self.top_share}


def stats(path: str | Path, *, progress: Progress | None = None) -> Stats:
    """Count what a file of any shape holds, row by row. `progress` is told how many bytes have been read.

    Raises:
        DatasetError: The file cannot be read, or has no rows.
    """
    chars, tokens = array("q"), array("q")
    labels: Counter[str] = Counter()
    seen: set[int] = set()
    without = 0
    for line, raw in read_rows(path, progress=progress):
        try:
            row = chat_row(untabled(raw))
        except DatasetError as error:
            raise DatasetError(f"{path}, line {line}: {error}", line=line) from error
        seen.add(digest_of(row))
        text, answer = _parts(row)
        chars.append(len(text))
        tokens.append(estimate_tokens(text))
        if answer is None:
            without += 1
        elif answer in labels or len(labels) < _MOST_LABELS:
            labels[answer] += 1
    if not chars:
        raise DatasetError(f"{path}: no rows")
    top = tuple(sorted(labels.items(), key=lambda item: (-item[1], item[0]))[:_TOP])
    return Stats(len(chars), len(chars) - len(seen), _lengths(chars), _lengths(tokens), without, len(labels), top)


def _parts(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what the model sees of a row, and the final answer."""
    prompt, metadata = prompt_of(row), row.get("metadata")
    answer = row.get("ground_truth", row.get("reference_answer", row.get("answer")))
    if isinstance(metadata, Mapping):
        answer = metadata.get("answer", answer)
    if isinstance(prompt, str) and prompt.lstrip().startswith("{"):
        with contextlib.suppress(DatasetError):  # no cell: a prompt that happens to begin with a brace
            packed = unpack(prompt)
            answer = packed.ground_truth if packed.ground_truth is not None else answer
            prompt = packed.question if packed.question is not None else prompt
    text = prompt if isinstance(prompt, str) else visible_text(prompt)
    if answer is None or answer == "":
        return text, None
    label = answer if isinstance(answer, str) else json.dumps(answer, sort_keys=True, default=str)
    return text, (final_answer(label) or label.strip())[:_LABEL_CHARS]


def _lengths(values: array[int]) -> Lengths:
    ordered = sorted(values)
    median, p95 = (ordered[max(1, round(share * len(ordered))) - 1] for share in (0.5, 0.95))
    return Lengths(ordered[0], median, fmean(ordered), p95, ordered[-1])
