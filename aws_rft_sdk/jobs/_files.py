"""Local files of prompts for Nova: what is wrong with them, and where on S3 they belong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets.checking import check
from aws_rft_sdk.datasets.report import Problem as DatasetProblem
from aws_rft_sdk.datasets.rules import RULES, Severity, Target
from aws_rft_sdk.jobs._shapes import shape_problems
from aws_rft_sdk.jobs.types import Problem

_NOT_IN_KEYS = re.compile(r"[^-_.a-zA-Z0-9]+")


def file_problems(
    path: Path, field: str, require_reference: bool, sizes: Mapping[str, JSON], *, is_training: bool = True
) -> list[Problem]:
    """Return the first place in a file where each rule of the dataset check is broken. Warnings are left out.

    Args:
        path: A jsonl file.
        field: Path of the field that names the file.
        require_reference: Whether each row needs a reference_answer.
        sizes: Hyperparameters of the job. `batchSize` and `maxPromptLength` are used if they are positive integers.
        is_training: Whether the file is training data: only that needs 100 rows, and more than a batch.
    """
    if not path.is_file():
        rule = "is no file. Name a file that exists, or an S3 URI such as s3://bucket/train.jsonl"
        return [Problem(field, str(path), rule, "this package")]
    report = check(
        path,
        Target.NOVA,
        batch_size=_positive(sizes.get("batchSize")) if is_training else None,
        max_tokens=_positive(sizes.get("maxPromptLength")),
        require_reference=require_reference,
        ignore=() if is_training else ("rows-min",),
        keep=1,
    )
    errors = [item for item in report.problems if item.severity is Severity.ERROR]
    return [
        Problem(field, str(path), _describe(item, report.counts[item.rule]), RULES[item.rule].source) for item in errors
    ]


def _describe(item: DatasetProblem, count: int) -> str:
    place = ", ".join(part for part in (f"line {item.line}" if item.line else "", item.field) if part)
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    return f"{place}{': ' if place else ''}{item.problem}{more}. {item.fix}"


def _positive(value: JSON) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def destination_problems(destination: str, field: str) -> list[Problem]:
    """Return what is wrong with a folder on S3, `s3://bucket/folder` or `bucket/folder`."""
    parameters = {"outputDataConfig": {"s3Uri": f"s3://{str(destination).removeprefix('s3://')}"}}
    found = shape_problems("bedrock", "CreateModelCustomizationJob", parameters)
    return [item._replace(path=field, value=destination) for item in found if item.path == "outputDataConfig.s3Uri"]


def upload_uri(path: str | Path, destination: str) -> str:
    """Return the S3 URI that a file is uploaded to: below the destination, named after its content.

    The same content has the same URI, so that uploading again changes nothing. The file is read.

    Args:
        path: A local file.
        destination: `s3://bucket/folder` or `bucket/folder`.
    """
    with open(path, "rb") as file:
        return uri_of(path, destination, digest_of(file))


def uri_of(path: str | Path, destination: str, digest: bytes) -> str:
    """Return the S3 URI of a file whose digest is known; see `upload_uri`."""
    folder = destination.removeprefix("s3://").strip("/")
    return f"s3://{folder}/{digest.hex()[:16]}-{_NOT_IN_KEYS.sub('-', Path(path).name)}"


def digest_of(file: IO[bytes]) -> bytes:
    """Return the SHA-256 of a file. The file is read to its end."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.digest()
