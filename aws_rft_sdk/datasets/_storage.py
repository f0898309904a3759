"""Where rows are stored: formats by suffix, gzip, and folders of the Hugging Face `datasets` library."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import TextIO

from typing_extensions import Buffer

from aws_rft_sdk.errors import DatasetError

Progress = Callable[[int], None]
"""Is told now and then how many bytes of a file have been read. Of a .gz file, compressed bytes."""

TEXTS = (".jsonl", ".json", ".csv")
"""Formats that may be compressed, as in `rows.jsonl.gz`."""
TABLES = (".csv", ".parquet", ".arrow")
"""Formats with columns. Where cells hold no structure, objects and arrays are JSON text."""

_FORMATS = dict.fromkeys((*TEXTS, *TABLES))
_SHARD = re.compile(r"-\d+-of-\d+.*$|^part-.*$|^\d+$")
"""What says which part of a split a file is, as in `train-00000-of-00002.parquet`."""


def is_gzip(path: Path) -> bool:
    """Return whether the name says that the file is compressed."""
    return path.suffix.lower() == ".gz"


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def format_of(path: str | Path) -> str:
    """Return the suffix of a file, `.jsonl` for `rows.jsonl.gz`. An unknown suffix or a folder is a DatasetError."""
    path = Path(path)
    if path.is_dir():
        command = f"aws-rft dataset convert {quote(str(path))} rows.jsonl"
        raise DatasetError(f"{path}: is a folder; write its rows to a file: {command}")
    suffix = _suffix(path)
    if suffix not in (TEXTS if is_gzip(path) else _FORMATS):
        names = ", ".join(_FORMATS)
        raise DatasetError(f"{path}: unknown format {path.suffix!r}; use one of {names}; text may be compressed (.gz)")
    return suffix


def files_of(path: str | Path, split: str | None = None) -> list[Path]:
    """Return the files that hold the rows: the file itself, or those of one split of a folder in their order.

    A folder is one that `datasets` saved, or holds files such as `data/train-00000-of-00002.parquet`. A DatasetError
    says if it has several splits and none is chosen, has no such split, or holds no rows.
    """
    path = Path(path)
    if not path.is_dir():
        if split is not None:
            raise DatasetError(f"{path}: is one file and has no split {split!r}; leave the split out")
        return [path]
    splits: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        # The library caches in cache-*.arrow, and describes a dataset in .json files.
        hidden = any(part.startswith((".", "cache-")) for part in inside.parts)
        if not hidden and _suffix(file) in (".jsonl", *TABLES) and file.is_file():
            parts = (*inside.parts[:-1], _SHARD.sub("", inside.name.partition(".")[0]))
            name = "/".join(part for part in parts if part not in ("", "data", "default"))
            splits.setdefault(name or "train", []).append(file)
    if not splits:
        raise DatasetError(f"{path}: the folder holds no jsonl, csv, parquet or arrow files")
    if split is None and len(splits) == 1:
        (split,) = splits
    if split not in splits:
        names = ", ".join(splits)
        problem = f"has the splits {names}" if split is None else f"has no split {split!r}, but {names}"
        command = f"aws-rft dataset convert {quote(str(path))} rows.jsonl --split {next(iter(splits))}"
        raise DatasetError(f"{path}: the folder {problem}; choose one with split=, or write it to a file: {command}")
    files = splits[split]
    if len({format_of(file) for file in files}) > 1:
        names = ", ".join(file.name for file in files)
        raise DatasetError(f"{path}: the files have several formats, {names}; name one of them")
    return files


@contextlib.contextmanager
def open_bytes(path: Path, progress: Progress | None = None) -> Iterator[io.BufferedReader[_Watched] | gzip.GzipFile]:
    """Open a file for reading, and decompress it if its name ends in .gz. A pipe or damaged data is a DatasetError."""
    if path.is_fifo():
        raise DatasetError(f"{path}: a pipe can be read only once; write it to a file first")
    watched = _Watched(path)
    watched.progress = progress
    with io.BufferedReader(watched, 1 << 20) as raw:
        if not is_gzip(path):
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DatasetError(f"{path}: the gzip data is damaged or cut off ({error})") from error


class _Watched(io.FileIO):
    """A file that tells how far it has been read."""

    progress: Progress | None = None

    def readinto(self, buffer: Buffer, /) -> int | None:
        count = super().readinto(buffer)
        if self.progress is not None:
            self.progress(self.tell())
        return count


def byte_order_mark(path: Path) -> str:
    """Return which encoding the first bytes of a file tell of: utf-8, utf-16, or an empty text for none."""
    with open_bytes(path) as file:
        first = file.read(3)
    utf_16 = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-8" if first == codecs.BOM_UTF8 else "utf-16" if utf_16 else ""


@contextlib.contextmanager
def create_text(part: Path, path: Path) -> Iterator[TextIO]:
    """Open `part` for writing, compressed if the name of `path` ends in .gz. Equal rows make equal files."""
    raw = part.open("wb")
    packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if is_gzip(path) else raw
    with raw, packed, io.TextIOWrapper(packed, encoding="utf-8", newline="") as text:
        yield text
