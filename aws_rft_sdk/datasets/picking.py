"""Parts of a dataset: split, sample, dedupe. Rows keep their order. Except in `dedupe` they are held in memory."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._interop import chat_row
from aws_rft_sdk.datasets._storage import Progress
from aws_rft_sdk.datasets.files import read_rows, write_rows
from aws_rft_sdk.errors import ConfigurationError, DatasetError


def prompt_of(row: Mapping[str, Any]) -> JSON:
    """Return what makes a row the same as another: its messages, metadata.prompt, question or prompt column."""
    try:
        row = chat_row(row)
    except DatasetError:  # a row of another library, with something odd in it
        return dict(row)
    metadata = row.get("metadata")
    if "messages" not in row and isinstance(metadata, Mapping) and "prompt" in metadata:
        return metadata["prompt"]
    names = [*(name for name in ("messages", "prompt", "question") if name in row), *row]
    return row[names[0]] if names else None


def digest_of(row: Mapping[str, Any]) -> int:
    """Return 64 bits that tell prompts apart, the same in every process."""
    text = json.dumps(prompt_of(row), sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def split(
    source: str | Path,
    first: str | Path,
    second: str | Path,
    *,
    share: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[int, int]:
    """Split a file in two, at random. Rows of one prompt always come to the same side, so that nothing leaks.

    `second` gets the share of the different prompts (0 < share < 1, rounded, at least one prompt on each side), `first`
    the rest. The same file and seed give the same parts. `progress` is told how many bytes have been read.

    Returns:
        How many rows `first` and `second` have.

    Raises:
        ConfigurationError: The share is out of range, or two of the files are one.
        DatasetError: A file cannot be read or written, or there are fewer than two different prompts.
    """
    if not 0 < share < 1:
        raise ConfigurationError(f"share is {share}; it lies between 0 and 1")
    if len({Path(name).resolve() for name in (source, first, second)}) < 3:
        raise ConfigurationError("the file and its two parts are three files")
    rows = [(digest_of(row), row) for _, row in read_rows(source, progress=progress)]
    prompts = list(dict.fromkeys(digest for digest, _ in rows))
    if len(prompts) < 2:
        raise DatasetError(f"{source}: a split needs two different prompts, and there are {len(prompts)}")
    count = min(len(prompts) - 1, max(1, round(share * len(prompts))))
    picked = set(random.Random(seed).sample(prompts, count))
    kept = write_rows(first, (row for digest, row in rows if digest not in picked))
    return kept, write_rows(second, (row for digest, row in rows if digest in picked))


def sample(
    source: str | Path, target: str | Path, *, rows: int, seed: int = 0, progress: Progress | None = None
) -> int:
    """Write `rows` rows of a file, chosen at random, in file order, and return how many; fewer if there are fewer.

    `target` may be the same file. The same file and seed give the same rows. `progress` is told of the bytes read.

    Raises:
        ConfigurationError: rows is below 1.
        DatasetError: A file cannot be read or written.
    """
    if rows < 1:
        raise ConfigurationError(f"rows is {rows}; take at least 1")
    kept = [row for _, row in read_rows(source, progress=progress)]
    numbers = sorted(random.Random(seed).sample(range(len(kept)), min(rows, len(kept))))
    return write_rows(target, (kept[number] for number in numbers))


def dedupe(source: str | Path, target: str | Path, *, progress: Progress | None = None) -> tuple[int, int]:
    """Write a file without rows whose prompt was there before; the first of each stays.

    `target` may be the same file. `progress` is told of the bytes read. Return how many rows were written, and how many
    were left out.

    Raises:
        DatasetError: A file cannot be read or written.
    """
    seen: set[int] = set()
    left_out = 0

    def fresh() -> Iterator[Mapping[str, Any]]:
        nonlocal left_out
        for _, row in read_rows(source, progress=progress):
            digest = digest_of(row)
            left_out += digest in seen
            if digest not in seen:
                seen.add(digest)
                yield row

    return write_rows(target, fresh()), left_out
