"""Local files of prompts: what is wrong with them, and where on S3 they belong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets import RULES, Severity, Target, check
from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.jobs._shapes import value_problems
from aws_rft_sdk.jobs.types import OURS, Problem

_OF_TRAINING = ("rows-min", "rows-batch", "rows-few-batches")
"""Rules of training data that say how many rows it has."""
_NOT_IN_KEYS = re.compile(r"[^-_.a-zA-Z0-9]+")


class FileReport(NamedTuple):
    """What a check of a file found: of each rule the first place that breaks it.

    Attributes:
        rows: How many rows the file has. None if it cannot be read.
        problems: Broken rules.
        notes: What may not be meant.
    """

    rows: int | None
    problems: list[Problem]
    notes: list[str]


def check_file(
    path: Path,
    target: Target,
    field: str,
    *,
    require_reference: bool = True,
    is_training: bool = True,
    sizes: Mapping[str, JSON] | None = None,
) -> FileReport:
    """Check a file as `aws-rft dataset check` does.

    Args:
        path: A jsonl file.
        target: The service.
        field: Path of the field that names the file.
        require_reference: Whether each row needs a reference_answer.
        is_training: Whether the file is training data. Nova and SageMaker measure on any number of rows; what Bedrock
            takes is not documented.
        sizes: Hyperparameters. `batchSize` and `maxPromptLength` are used if they are positive integers.
    """
    if not path.exists():
        return FileReport(None, [Problem(field, str(path), f"there is no file {path}", OURS)], [])
    given = sizes or {}
    try:
        report = check(
            path,
            target,
            batch_size=_positive(given.get("batchSize")) if is_training else None,
            max_tokens=_positive(given.get("maxPromptLength")),
            require_reference=require_reference,
            ignore=() if is_training or target is Target.BEDROCK else _OF_TRAINING,
            keep=1,
        )
    except DatasetError as error:
        return FileReport(None, [Problem(field, str(path), str(error), OURS)], [])
    problems, notes = [], []
    for item in report.problems:
        place = ", ".join(part for part in (f"line {item.line}" if item.line else "", item.field) if part)
        more = f" (and {report.counts[item.rule] - 1:,} more)" if report.counts[item.rule] > 1 else ""
        text = f"{place}{': ' if place else ''}{item.problem}{more}. {item.fix}"
        if item.severity is Severity.WARNING:
            notes.append(f"{path.name}: {text}")
        else:
            problems.append(Problem(field, str(path), text, RULES[item.rule].source))
    return FileReport(report.rows, problems, notes)


def _positive(value: JSON) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def refuse_file(path: Path, target: Target, *, check: bool, require_reference: bool = True) -> None:
    """Raise if a file cannot be uploaded.

    Raises:
        DatasetError: There is no file, or `check` is true and the file breaks rules.
    """
    if not check and path.is_file():
        return
    if found := check_file(path, target, "path", require_reference=require_reference).problems:
        told = "; ".join(problem.rule for problem in found)
        raise DatasetError(
            f"{path} was not uploaded: {told}. See all: aws-rft dataset check {quote(str(path))} --for {target.value}"
        )


def is_s3(name: str | Path) -> bool:
    """Return whether a data file is on S3 rather than on this machine."""
    return str(name).startswith("s3:")


def destination_problems(destination: str, field: str) -> list[Problem]:
    """Return what is wrong with a folder on S3, `s3://bucket/folder` or `bucket/folder`."""
    found = value_problems("S3Uri", f"s3://{str(destination).removeprefix('s3://')}", field)
    return [problem._replace(value=destination) for problem in found]


def upload_uri(path: str | Path, destination: str) -> str:
    """Return the S3 URI that a file is uploaded to: below the destination, named after its content.

    The same content has the same URI, so that uploading again changes nothing. The file is read.

    Args:
        path: A local file.
        destination: `s3://bucket/folder` or `bucket/folder`.
    """
    folder = destination.removeprefix("s3://").strip("/")
    return f"s3://{folder}/{digest_of(path).hex()[:16]}-{_NOT_IN_KEYS.sub('-', Path(path).name)}"


def digest_of(path: str | Path) -> bytes:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
