"""What a job's file says about rollouts, in the names of every service that has such a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.preflight.values import TrainingPlan

_NAMES = {
    "group_size": ("group_size", "trainingSamplePerPrompt"),
    "batch_size": ("global_batch_size", "batch_size", "batchSize"),
    "steps": ("max_steps",),
    "epochs": ("max_epochs", "n_epochs", "epochCount"),
    "concurrency": ("rollout_max_concurrency",),
    "max_tokens": ("sampling_max_tokens", "inferenceMaxTokens"),
    "max_turns": ("max_turns",),
    "context_tokens": ("max_context_tokens",),
    "rollout_timeout_seconds": ("rollout_timeout",),
}
"""Fields of `TrainingPlan`, and the names that SageMaker, Bedrock and Nova have for them."""
_CONTEXT = {"sagemaker": 65_536}
"""Longest sequences that a service trains on. Source: hyperpod-recipes."""


def plan_of(job: Mapping[str, JSON], plan: TrainingPlan | None = None) -> TrainingPlan:
    """Return what the file of a job, or a recipe, says. Tables and names that say nothing about rollouts do not matter.

    Args:
        job: The file as it was read. Hyperparameters stand in a table `hyperparameters`, in `HyperParameters` of a
            SageMaker job's `TrainingConfig`, or at the top. Numbers may be texts, as SageMaker wants them. "auto" says
            nothing.
        plan: Values for what the file does not say. None for the defaults.

    Raises:
        ConfigurationError: A number that is needed is none, or is too low.
    """
    plan = plan or TrainingPlan()
    on = _table(job, "job").get("on")
    document = _table(_table(job, "TrainingConfig"), "HyperParameters")
    values = {**job, **_table(job, "train"), **document, **_table(job, "hyperparameters")}
    found: dict[str, float] = {}
    for field, names in _NAMES.items():
        for name in names:
            if (value := values.get(name)) not in (None, "auto"):
                found[field] = _number(name, value, least=2 if field == "group_size" else 1)
    if "maxPromptLength" in values and "max_tokens" in found:
        found["context_tokens"] = _number("maxPromptLength", values["maxPromptLength"]) + found["max_tokens"]
    if isinstance(on, str) and on in _CONTEXT:
        found.setdefault("context_tokens", _CONTEXT[on])
    if (threshold := values.get("success_threshold")) is not None:
        plan = replace(plan, success_threshold=_number("success_threshold", threshold, least=-math.inf))
    whole = {name: value if name == "rollout_timeout_seconds" else int(value) for name, value in found.items()}
    return replace(plan, **whole)  # type: ignore[arg-type] # the names are fields


def _table(job: Mapping[str, JSON], name: str) -> Mapping[str, JSON]:
    table = job.get(name)
    return table if isinstance(table, Mapping) else {}


def _number(name: str, value: JSON, least: float = 1) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not least <= number < math.inf or number == -math.inf:
        of_at_least = "" if least == -math.inf else f" of at least {least:g}"
        raise ConfigurationError(f"{name} is {value!r:.80}. Give a number{of_at_least}")
    return number
