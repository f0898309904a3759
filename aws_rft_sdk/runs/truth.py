"""Where the ground truth of a saved rollout is found: in its prompt cell, or in a column of the dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON, FrozenDict
from aws_rft_sdk.datasets import read_rows
from aws_rft_sdk.datasets.packing import prompt_column, unpack
from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.types import Trajectory

_NAMES = ("ground_truth", "answer")
_ABSENT = object()


class Truth(NamedTuple):
    """What is known about a task besides its question."""

    ground_truth: JSON = None
    """None when it is not known."""
    metadata: Mapping[str, JSON] = FrozenDict()
    """The other fields of the prompt cell."""


TruthFinder = Callable[[RolloutRecord, Trajectory], Truth]
"""Finds the ground truth of a rollout. It raises `DatasetError` where what it was told cannot be."""


def cell_truth(field: str | None = None) -> TruthFinder:
    """Return what finds the ground truth in the prompt cell.

    Args:
        field: A field of the JSON object in the cell, with dots for objects within. None for the ground truth of a
            packed cell, else `ground_truth` or `answer`, else none.
    """

    def find(record: RolloutRecord, trajectory: Trajectory) -> Truth:
        fields, packed_truth = _fields(trajectory.prompt)
        if field is not None:
            value = _within(fields, field)
            if value is _ABSENT:
                raise DatasetError(
                    f"the prompt of rollout {record.trajectory_id} has no field {field!r}; "
                    + (f"it has {', '.join(fields)}" if fields else "it is no JSON object")
                )
        elif packed_truth is not None:
            value = packed_truth
        else:
            value = next((fields[name] for name in _NAMES if fields.get(name) is not None), None)
        used = _NAMES if field is None else (field.partition(".")[0],)
        return Truth(value, FrozenDict({name: item for name, item in fields.items() if name not in used}))

    return find


def column_truth(dataset: str | Path, column: str) -> TruthFinder:
    """Return what finds the ground truth in a column of the dataset, by the number of the prompt.

    Args:
        dataset: The file that the rollouts ran over.
        column: Name of the column.

    Raises:
        DatasetError: The file cannot be read, or has no such column.
    """
    rows: list[tuple[JSON, JSON]] = []
    prompts: str | None = None
    for line, row in read_rows(dataset, choose=lambda names: _chosen(names, column)):
        prompts = prompts or prompt_column(list(row))
        if column not in row:
            raise DatasetError(f"{dataset}, line {line}: the row has no column {column!r}", line=line)
        rows.append((row.get(prompts), row[column]))

    def find(record: RolloutRecord, trajectory: Trajectory) -> Truth:
        if record.prompt_index >= len(rows):
            raise DatasetError(
                f"rollout {record.trajectory_id} is of prompt {record.prompt_index} (from 0), "
                f"and {dataset} has {len(rows)}"
            )
        prompt, value = rows[record.prompt_index]
        if prompt != trajectory.prompt:
            raise DatasetError(
                f"prompt {record.prompt_index} (from 0) of {dataset} is not the one that rollout "
                f"{record.trajectory_id} ran with: {_shown(prompt)} is not {_shown(trajectory.prompt)}"
            )
        return Truth(value, FrozenDict(_fields(trajectory.prompt)[0]))

    return find


def _chosen(names: Any, column: str) -> list[str]:
    return list(dict.fromkeys([*([prompt_column(names)] if names else []), *([column] if column in names else [])]))


def _fields(prompt: JSON) -> tuple[Mapping[str, JSON], JSON]:
    """Return the fields of a cell that is a JSON object, and the truth that it was packed with."""
    cell = prompt if isinstance(prompt, str) else json.dumps(prompt)
    try:
        fields = json.loads(cell)
    except (ValueError, RecursionError):
        return {}, None
    if not isinstance(fields, dict):
        return {}, None
    try:
        packed = unpack(cell)
    except DatasetError:  # an object whose `visible` means something else
        return fields, None
    return {**packed.visible, **packed.hidden}, packed.ground_truth


def _within(fields: Mapping[str, JSON], path: str) -> JSON:
    value: Any = fields
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _shown(value: JSON) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
