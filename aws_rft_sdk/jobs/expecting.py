"""What a run of `aws-rft rollout` says about a job before it is submitted: its size, time and cost, and conflicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import AGENTCORE_CALL_SECONDS, TOKEN_KINDS
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._tables import read_toml
from aws_rft_sdk.jobs.reading import JobFile
from aws_rft_sdk.jobs.sagemaker_config import SageMakerConfig
from aws_rft_sdk.jobs.types import Problem
from aws_rft_sdk.rollout.folder import PROMPTS_FILE
from aws_rft_sdk.runs import RolloutTable
from aws_rft_sdk.runs.manifest import Manifest, read_manifest
from aws_rft_sdk.runs.preflight import Reason, TrainingPlan
from aws_rft_sdk.runs.preflight.estimates import Estimates, estimate_job
from aws_rft_sdk.runs.preflight.plans import plan_of
from aws_rft_sdk.runs.preflight.rules import conflicts


@dataclass(frozen=True)
class Expectation:
    """What a job would take, and what speaks against it.

    Attributes:
        estimates: Its size, time and cost. Without a run, only what the file itself says.
        conflicts: The gravest first. Empty if nothing speaks against the job.
        notes: What is not known, and how to make it known.
    """

    estimates: Estimates
    conflicts: tuple[Reason, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, JSON]:
        """Return the estimates by their names, and beside them `conflicts` and `notes`."""
        said = [reason.to_dict() for reason in self.conflicts]
        return {**self.estimates.to_dict(), "conflicts": said, "notes": list(self.notes)}

    def __str__(self) -> str:
        """Return everything as lines of text."""
        found = [f"{one.verdict.value}: {one.text}. {one.advice} ({one.source})" for one in self.conflicts]
        return "\n".join([*str(self.estimates).splitlines(), *found, *(f"note: {note}" for note in self.notes)])


def expect(job: JobFile, run: str | Path | None = None) -> Expectation | None:
    """Return what a job on SageMaker would take if its rollouts were like those of a run, and what speaks against it.

    Returns None for other services, which publish neither their pace nor their prices, and for a file with a wrong
    value.

    Args:
        job: The job's file.
        run: Folder of `aws-rft rollout` with the same agent and the base policy. None if there is none.

    Raises:
        ConfigurationError: The run's manifest cannot be read.
        DatasetError: The run's records cannot be read.
    """
    config = job.config
    if not isinstance(config, SageMakerConfig):
        return None
    plan = plan_of(config.model_dump())
    validation = config.data.validation
    plan = replace(
        plan, prompts=job.rows.get(config.data.train), validation_prompts=job.rows.get(validation) if validation else 0
    )
    table = RolloutTable() if run is None else RolloutTable.read(run)
    if run is not None:  # its prompts may be a sample, so they do not count
        plan = replace(completed_plan(plan, read_manifest(Path(run))), prompts=plan.prompts)
    return Expectation(estimate_job(table, plan), conflicts(table, plan), tuple(_unknown(plan, len(table))))


def _unknown(plan: TrainingPlan, rollouts: int) -> Iterator[str]:
    """Yield what is not known of a job on SageMaker, and how to make it known."""
    if plan.prompts is None:
        yield "data.train is not on this machine, so its prompts are not counted. max_epochs may end the job sooner"
    if plan.validation_prompts is None:
        yield "data.validation is not on this machine, so validations are not counted"
    if not rollouts:
        yield "--run names a run of the base policy with this agent. Then hours, tokens and cost are estimated"
    if plan.model is None:
        yield "job.model is not one whose defaults and limits are known, so less is estimated and checked"
    elif plan.prices is None:
        yield f"prices of {plan.model} in this region are not known. Add [prices] with {', '.join(TOKEN_KINDS)}"


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
    for field, name in (("prompts", "train"), ("validation_prompts", "validation")):
        file = data.get(name) if isinstance(data, dict) else None
        if isinstance(file, str) and (job.parent / file).is_file():
            plan = replace(plan, **{field: _rows(job.parent / file)})  # type: ignore[arg-type] # counts
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
        found["platform_seconds"] = AGENTCORE_CALL_SECONDS
    missing = {name: value for name, value in found.items() if getattr(plan, name) is None}
    return replace(plan, **missing)  # type: ignore[arg-type] # the names are fields


def _rows(dataset: Path) -> int:
    return sum(1 for _ in read_prompts(dataset))
