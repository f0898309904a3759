"""What a job's file says about rollouts, in the names of every service that has such a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import (
    AGENTCORE_CALL_SECONDS,
    MAX_RUNTIME_SECONDS,
    TOKEN_KINDS,
    BaseModel,
    Prices,
    find_model,
    known_prices,
)
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.preflight.values import TrainingPlan

_NAMES = {
    "group_size": ("group_size", "trainingSamplePerPrompt", "number_generation"),
    "batch_size": ("global_batch_size", "batch_size", "batchSize"),
    "steps": ("max_steps",),
    "epochs": ("max_epochs", "n_epochs", "epochCount"),
    "concurrency": ("rollout_max_concurrency",),
    "max_tokens": ("sampling_max_tokens", "inferenceMaxTokens", "max_new_tokens"),
    "max_turns": ("max_turns",),
    "context_tokens": ("max_context_tokens", "max_length"),
    "rollout_timeout_seconds": ("rollout_timeout",),
    "max_runtime_seconds": ("max_runtime_seconds", "MaxRuntimeInSeconds"),
    "val_every": ("val_every",),
    "max_steps_off_policy": ("max_steps_off_policy",),
}
"""Fields of `TrainingPlan`, and the names that SageMaker, Bedrock and Nova have for them."""
_LEAST = {"group_size": 2, "val_every": 0, "max_steps_off_policy": 0}


def plan_of(job: Mapping[str, JSON], plan: TrainingPlan | None = None) -> TrainingPlan:
    """Return what the file of a job, or a recipe, says. Tables and names that say nothing about rollouts do not matter.

    For a multi-turn RL job on SageMaker, what the file leaves out is what the service takes for the file's model.

    Args:
        job: The file as it was read. Hyperparameters stand in a table `hyperparameters`, in `HyperParameters` of a
            SageMaker job's `TrainingConfig`, or at the top. Numbers may be texts, as SageMaker wants them. "auto" says
            nothing.
        plan: Values for what neither the file nor the service says. None for the defaults.

    Raises:
        ConfigurationError: A number that is needed is none, or is too low.
    """
    plan = plan or TrainingPlan()
    training = _table(job, "TrainingConfig")
    tables = (job, _table(job, "job"), _table(job, "StoppingCondition"), _table(job, "train"))
    values = {name: value for table in tables for name, value in table.items()}
    values |= {**_table(training, "HyperParameters"), **_table(job, "hyperparameters")}
    model = _model(_table(job, "job"), training)
    if model is not None:
        defaults = {name: about.default for name, about in model.hyperparameters.items() if name != "success_threshold"}
        defaults["max_runtime_seconds"] = MAX_RUNTIME_SECONDS
        values = {**defaults, **{name: value for name, value in values.items() if value is not None}}
    found: dict[str, float] = {}
    batch, group = values.get("global_batch_size"), values.get("number_generation")
    if (
        _table(job, "recipe").get("on") == "hyperpod"
        and isinstance(batch, int)
        and isinstance(group, int)
        and group > 0
    ):
        values["global_batch_size"] = max(1, batch // group)  # HyperPod counts answers, and not prompts
    for field, names in _NAMES.items():
        for name in names:
            if (value := values.get(name)) not in (None, "auto"):
                found[field] = _number(name, value, least=_LEAST.get(field, 1))
    if "maxPromptLength" in values and "max_tokens" in found:
        found["context_tokens"] = _number("maxPromptLength", values["maxPromptLength"]) + found["max_tokens"]
    if (threshold := values.get("success_threshold")) is not None:
        plan = replace(plan, success_threshold=_number("success_threshold", threshold, least=-math.inf))
    whole = {name: value if name.endswith("_seconds") else int(value) for name, value in found.items()}
    plan = replace(plan, **whole)  # type: ignore[arg-type] # the names are fields
    return plan if model is None else _on_sagemaker(plan, model, job)


def _model(job: Mapping[str, JSON], training: Mapping[str, JSON]) -> BaseModel | None:
    """Return the model of a multi-turn RL job on SageMaker. Returns None for other jobs, and for other models."""
    name = job.get("model") if job.get("on") == "sagemaker" else training.get("BaseModelArn")
    return find_model(name) if isinstance(name, str) else None


def _on_sagemaker(plan: TrainingPlan, model: BaseModel, job: Mapping[str, JSON]) -> TrainingPlan:
    about, arn = _table(job, "job"), _table(job, "TrainingConfig").get("BaseModelArn")
    region = arn.split(":")[3] if isinstance(arn, str) and arn.count(":") > 3 else about.get("region")
    given = {name: price for name, price in _table(job, "prices").items() if price is not None}
    prices = read_prices(given) if given else known_prices(model.name, str(region))
    agent = {*_table(job, "agent"), *_table(job, "AgentConfig")}
    agent -= {name for name, value in _table(job, "agent").items() if value is None}
    on_agentcore = not agent.isdisjoint(("agentcore_arn", "agentcore_id", "BedrockAgentCoreConfig"))
    return replace(
        plan,
        model=model.name,
        context_tokens=plan.context_tokens or model.context_tokens,
        prices=prices,
        platform_seconds=AGENTCORE_CALL_SECONDS if on_agentcore else plan.platform_seconds,
    )


def read_prices(values: Mapping[str, JSON]) -> Prices:
    """Return the prices of a table, by kind of token, in US dollars. A kind that is missing costs nothing.

    Raises:
        ConfigurationError: A name is no kind, or a price is no number of at least 0.
    """
    for kind, price in values.items():
        if kind not in TOKEN_KINDS:
            raise ConfigurationError(f"{kind!r:.80} is no kind of token. Give prices of {', '.join(TOKEN_KINDS)}")
        if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price < math.inf:
            raise ConfigurationError(
                f"the price of {kind} is {price!r:.80}. Give the price of a million tokens, as 0.9"
            )
    prefill, sample, train = (float(values.get(kind, 0)) for kind in TOKEN_KINDS)
    return Prices(prefill, sample, train)


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
