"""What a grader is made of: its zip, the models that it asks, and the rows that it is tried with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._loading import load_function, load_object
from aws_rft_sdk.datasets import read_rows
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._messages import prompt_messages
from aws_rft_sdk.rewards.judge import Judge
from aws_rft_sdk.rewards.lambdas import RewardLambda
from aws_rft_sdk.rewards.packaging import MAX_UNZIPPED_BYTES, MAX_ZIP_BYTES, Package, build_package
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, leaves

SAMPLES = 4
"""Rows that a function is tried with."""
_MADE_UP = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "reference_answer": "4"}


@dataclass(frozen=True)
class Built:
    """A grader's zip.

    Attributes:
        package: What is in it.
        zip_file: Its bytes.
        models: Bedrock models that the reward asks.
    """

    package: Package
    zip_file: bytes
    models: tuple[str, ...]

    @property
    def size(self) -> str:
        """Its sizes against Lambda's limits, in words."""
        zipped, unzipped = self.package.zip_bytes, self.package.unzipped_bytes
        return f"{zipped:,} of {MAX_ZIP_BYTES:,} bytes zipped, {unzipped:,} of {MAX_UNZIPPED_BYTES:,} bytes unzipped"


def build(reference: str, options: Mapping[str, Any], handler: Mapping[str, Any]) -> Built:
    """Load a reward and build its zip.

    Args:
        reference: `path/to/file.py:name`.
        options: Of `build_package` only.
        handler: Of `reward_lambda` and `build_package`.

    Raises:
        ConfigurationError: It is no reward of a file, it needs packages that are not in the zip, or Lambda does not
            take the zip.
    """
    reward = load_function(reference, load_object)
    RewardLambda(reward, **handler)  # refuses here what it would refuse in Lambda
    file, _, name = reference.rpartition(":")
    if not file.endswith(".py"):
        raise ConfigurationError(f"{reference!r} is no file. Name the reward as path/to/file.py:name")
    with tempfile.TemporaryDirectory() as folder:
        package = build_package(file, name, Path(folder, "grader.zip"), **handler, **options)
        content = package.path.read_bytes()
    if package.needs:
        hint = "add --with-deps, which puts them into the zip"
        if "strands" in package.needs or "openai" in package.needs:
            hint += ", or give the judge a boto3 client for bedrock-runtime, which Lambda has"
        raise ConfigurationError(f"{file} imports {', '.join(package.needs)}, which Lambda does not have: {hint}")
    built = Built(package, content, tuple(sorted(set(_models(reward)))))
    if not package.fits:
        raise ConfigurationError(f"the zip is too large for Lambda: {built.size}. Import fewer packages")
    return built


def _models(reward: Any) -> Iterator[str]:
    """Yield the ids of the models that judges ask. A function's judges are found in its globals and its closure."""
    for _, part in leaves(reward):
        function = getattr(part, "__func__", part)
        code = getattr(function, "__code__", None)
        known = getattr(function, "__globals__", {})
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        names = [known[name] for name in (code.co_names if code else ()) if name in known]
        for item in (part, getattr(part, "__self__", None), *cells, *names):
            if isinstance(item, Judge) and item.model_id:
                yield item.model_id


def sample_event(path: str | Path | None, on: str) -> list[JSON]:
    """Return the first rows of a dataset, or of test cases, as a service sends them to a grader.

    A row that has no answer of the policy is answered with its own reference.

    Args:
        path: The file. None for one row that is made up.
        on: The service. Bedrock's OpenAI-compatible API puts all that it does not know into `metadata`.

    Raises:
        DatasetError: The file cannot be read, or is empty.
        ConfigurationError: A row has no messages.
    """
    if path is None:
        rows = [_MADE_UP]
    else:
        with closing(read_rows(path)) as found:  # type: ignore[type-var] # a generator
            rows = [dict(row) for _, row in islice(found, SAMPLES)]
    return [_event_row(row, number, on) for number, row in enumerate(rows)]


def _event_row(row: Mapping[str, JSON], number: int, on: str) -> dict[str, JSON]:
    more = {key: value for key, value in row.items() if key not in ("id", "messages", "prompt", "answer", "expected")}
    reference = more.setdefault("reference_answer", more.pop("ground_truth", None))
    messages = [*(row.get("messages") or prompt_messages(row.get("prompt")))]
    if not messages:
        raise ConfigurationError(f"row {number + 1} of the sample has neither messages nor prompt: {list(row)}")
    if messages[-1].get("role") not in ASSISTANT_ROLES:
        messages.append({"role": "assistant", "content": row.get("answer") or _text(reference)})
    about = {"metadata": more} if on == "bedrock" else more
    return {"id": str(row.get("id") or f"sample-{number}"), "messages": messages, **about}


def _text(reference: JSON) -> str:
    for key in ("text", "final_answer", "answer"):
        if isinstance(reference, Mapping) and key in reference:
            reference = reference[key]
    return reference if isinstance(reference, str) else json.dumps(reference)
