"""Knows rows that are made for something else, and the command that makes them into what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from aws_rft_sdk.datasets.report import beside
from aws_rft_sdk.datasets.rules import Target
from aws_rft_sdk.datasets.shapes import Shape, convert_rows
from aws_rft_sdk.errors import DatasetError

# Keys that a row has, and what rows of these keys are called. The first line that fits counts.
_KNOWN = (
    ({"conversations"}, "ShareGPT"),
    ({"prompt", "reward_model"}, "verl"),
    ({"chosen", "rejected"}, "preference"),
    ({"question", "answer"}, "question/answer"),
    ({"instruction", "output"}, "Alpaca instruction/output"),
    ({"prompt", "completion"}, "prompt/completion"),
    ({"problem", "solution"}, "problem/solution"),
    ({"problem", "answer"}, "problem/answer"),
    ({"id", "metadata"}, "nova-multiturn"),
    ({"id", "messages"}, "nova"),
    ({"messages"}, "bedrock"),
    ({"prompt"}, "prompt"),
)
_OWN = {Target.BEDROCK: "messages", Target.NOVA: "messages", Target.NOVA_MULTITURN: "metadata"}
_WANTED = {
    Target.MTRL: '{"prompt": datasets.pack(question=..., ground_truth=...)}',
    Target.BEDROCK: '{"messages": [{"role": "user", "content": ...}], "reference_answer": ...}',
    Target.NOVA: '{"id": ..., "messages": [{"role": "user", "content": ...}], "reference_answer": ...}',
    Target.NOVA_MULTITURN: '{"id": ..., "metadata": {"prompt": ..., "answer": ...}}',
}


def foreign(row: Mapping[str, Any], target: Target) -> str:
    """Return what a row's kind is called if it is known and not the target's; empty otherwise."""
    if _OWN.get(target) in row:
        return ""
    name = next((name for keys, name in _KNOWN if keys <= row.keys()), "")
    if name == "prompt" and isinstance(row["prompt"], list):
        return "TRL"
    return "" if name == "prompt" and target is Target.MTRL else "mtrl" if name == "prompt" else name


def remedy(path: Path, line: int, row: Mapping[str, Any], target: Target) -> str:
    """Return the command that makes such rows into the target's, or what to write where no command can."""
    try:
        made = next(convert_rows([(line, row)], Shape(target.value)))
    except DatasetError:
        made = {}
    if made and _keeps_answer(row, made):
        return f"aws-rft dataset convert {quote(str(path))} {beside(path, target.value)} --to {target.value}"
    return f"write each row as {_WANTED[target]}, for example with datasets.write_rows"


def _keeps_answer(row: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Return whether a made row has an answer, or the row that it was made of has none."""
    if row.keys() == {"prompt"}:
        return True
    metadata = made.get("metadata")
    return (
        "reference_answer" in made
        or (isinstance(metadata, Mapping) and "answer" in metadata)
        or "ground_truth" in str(made.get("prompt", ""))
    )
