"""What commands that judge a run know of the job that is planned."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._tables import read_toml
from aws_rft_sdk.jobs.types import Problem
from aws_rft_sdk.rollout.folder import PROMPTS_FILE
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runs.preflight import TrainingPlan
from aws_rft_sdk.runs.preflight.plans import plan_of

_CALL_SECONDS = 900.0
"""Longest call of an AgentCore runtime."""


def read_plan(job: Path | None) -> TrainingPlan:
    """Return what the file of a job, or a recipe, says. The defaults for None.

    Raises:
        ConfigurationError: The file is no TOML, or a number in it is none.
        DatasetError: The file with the prompts that it names cannot be read.
    """
    if job is None:
        return TrainingPlan()
    read = read_table(job)
    plan = plan_of(read)
    data = read.get("data")
    train = data.get("train") if isinstance(data, dict) else None
    if isinstance(train, str) and (job.parent / train).is_file():
        plan = replace(plan, prompts=_rows(job.parent / train))
    return plan


def read_table(path: Path) -> Mapping[str, JSON]:
    """Return the content of a file of a job: TOML, or JSON as SageMaker takes it.

    Raises:
        ConfigurationError: The file is neither.
    """
    if path.suffix == ".json":
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ConfigurationError(f"{path} holds no JSON object")
        return found
    read = read_toml(path)
    if isinstance(read, Problem):
        raise ConfigurationError(f"{path}: {read.rule}")
    return read


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def completed_plan(
    plan: TrainingPlan, manifest: Manifest | None, dataset: Path | None = None, *, seen: int | None = None
) -> TrainingPlan:
    """Return a plan with what the dataset, or what a run was made of, says and the job's file does not.

    If nothing says how many prompts there are, those that the run has `seen` are taken for all.

    Raises:
        DatasetError: The dataset cannot be read.
    """
    settings = {} if manifest is None else manifest.settings
    found: dict[str, int | float | None] = {}
    if dataset is not None:
        found["prompts"] = _rows(dataset)
    elif manifest is not None and settings.get("limit") is None and manifest.dataset != PROMPTS_FILE:
        found["prompts"] = manifest.rows  # otherwise it may be a sample
    elif manifest is None and seen:
        found["prompts"] = seen
    for field, name in (("max_tokens", "max-tokens"), ("max_turns", "max-turns")):
        if isinstance(value := settings.get(name), int):
            found[field] = value
    if manifest is not None and manifest.handler.startswith("arn:"):
        found["platform_seconds"] = _CALL_SECONDS
    missing = {name: value for name, value in found.items() if getattr(plan, name) is None}
    return replace(plan, **missing)  # type: ignore[arg-type] # the names are fields


def _rows(dataset: Path) -> int:
    return sum(1 for _ in read_prompts(dataset))
