"""What may be wrong with a Nova recipe although each of its values is right by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.jobs._recipe_kinds import KINDS
from aws_rft_sdk.jobs._recipe_yaml import places
from aws_rft_sdk.jobs._tables import Values, field_at, value_at
from aws_rft_sdk.jobs.types import Problem

_CALLS_OF_A_WORKER = 64
"""Calls of the reward that a rollout worker of HyperPod makes at once. Source: the recipe's comment."""
_LAMBDA_QUOTA = 1000
"""Lambda functions of an account that run at once, before the quota is raised. Source: Lambda's quotas."""
_REASONING_TOKENS = 32_768
"""What AWS's recipes give an answer that begins with thinking."""
_COMMENTED_ALPHAS = (96, 128, 160, 192)
"""What the recipe's comment allows and the parameter file does not."""


class RecipeValues(Values):
    """The values of a configuration, also by their bare names."""

    def __init__(self, kind: tuple[str, str], raw: Mapping[str, JSON], problems: Iterable[Problem]) -> None:
        super().__init__(KINDS[kind], raw, problems)
        self.on, self.does = kind

    def __getitem__(self, name: str) -> Any:
        """Return a value of the recipe or a hyperparameter. Returns None for a wrong one, or if there is none."""
        paths = (f"{table}.{name}" for table in ("recipe", "hyperparameters"))
        return next((self.get(path) for path in paths if field_at(self.kind, path)), None)

    def conflicts(self) -> Iterator[tuple[str, Any, str]]:
        """Yield path, default and conflict of each field that the sources disagree about and that nobody wrote."""
        for path in places(self.kind):
            field = field_at(self.kind, path)
            about: Any = field.json_schema_extra if field else {}
            if about["conflict"] and not self.written(path):
                yield path, self.get(path), about["conflict"]


def conflicts(values: RecipeValues) -> Iterator[Problem]:
    """Yield what is wrong with values that are right by themselves."""
    save, most, arn = values["save_steps"], values["max_steps"], values["reward_lambda_arn"]
    if save is not None and most is not None and save > most:
        rule = f"must be at most max_steps, {most}; the SDK refuses it. Give 0 to save at the end only"
        yield Problem("hyperparameters.save_steps", save, rule, "sagemaker-train 1.27.0, recipe_resolver")
    if values.on == "hyperpod" and isinstance(arn, str) and "sagemaker" not in _function_name(arn).lower():
        rule = (
            f"names the function {_function_name(arn)}; on HyperPod its name must contain SageMaker, or the job fails"
        )
        yield Problem("recipe.reward_lambda_arn", arn, rule, "Amazon Nova user guide, reinforcement fine-tuning")


def _function_name(arn: str) -> str:
    return arn.partition(":function:")[2].partition(":")[0]


def notes(values: RecipeValues, name_of: Callable[[str], str]) -> Iterator[str]:
    """Yield what may not be meant, each with its reason.

    Args:
        values: The configuration.
        name_of: Returns what the reader's file calls a path of the configuration.
    """

    def say(name: str, text: str) -> str:
        return f"{name_of(f'hyperparameters.{name}')}: {text}"

    for path, default, conflict in values.conflicts():
        if path == "hyperparameters.save_steps":
            default = min(10, values["max_steps"] or 10)
        yield f"{name_of(path)}: left out, {default} is used. The sources disagree: {conflict}"
    if value_at(values.raw, ["hyperparameters", "lora_alpha"]) in _COMMENTED_ALPHAS:
        yield say("lora_alpha", "the recipe's comment allows up to 192. SageMaker's parameter file takes 16, 32 and 64")
    yield from _length_notes(values, say)
    if values.does == "eval":
        if values["reasoning_effort"] == "medium":
            yield say(
                "reasoning_effort", "the recipe's comment has medium, and AWS's other lists have low and high only"
            )
        return
    yield from _variance_notes(values, say)
    yield from _reward_notes(values, say)
    if (arn := name_of("recipe.reward_lambda_arn")) != "recipe.reward_lambda_arn":
        twin = "training_config.rollout.rewards.api_endpoint.lambda_arn"
        yield f"{arn}: the recipe has this ARN here and at {twin}. When you change it, change both"


_Say = Callable[[str, str], str]


def _variance_notes(values: RecipeValues, say: _Say) -> Iterator[str]:
    group, top_k, temperature = values["number_generation"], values["top_k"], values["temperature"]
    if top_k == 1:
        yield say(
            "top_k",
            f"1 samples the likeliest token only, whatever the temperature. The {group} answers of a prompt are then "
            "nearly equal, so their rewards do not differ, and nothing is learnt. HyperPod's recipe has 0",
        )
    if temperature == 0:
        yield say("temperature", "0 samples the likeliest token only, so answers of a prompt do not differ. Give 1")
    if group == 2:
        yield say(
            "number_generation",
            "with 2 answers a prompt of success rate 0.2 teaches nothing 68 % of the time, with 8 answers 17 %",
        )
    batch = values["global_batch_size"]
    if values.on == "hyperpod" and group and batch and batch % group:
        yield say("global_batch_size", f"counts answers, and {batch} is no multiple of number_generation, {group}")


def _length_notes(values: RecipeValues, say: _Say) -> Iterator[str]:
    new, most, effort = values["max_new_tokens"], values["max_length"], values["reasoning_effort"]
    if new and most and new >= most:
        yield say(
            "max_new_tokens",
            f"{new} leaves no room for a prompt in max_length, {most}. Answers are cut off before they end",
        )
    if effort not in (None, "none") and new and new < _REASONING_TOKENS:
        yield say(
            "max_new_tokens",
            f"{new} tokens hold the thinking of reasoning_effort {effort} and the answer. An answer that is cut off "
            f"earns nothing. AWS gives {_REASONING_TOKENS} with reasoning. `aws-rft preflight` counts such answers",
        )


def _reward_notes(values: RecipeValues, say: _Say) -> Iterator[str]:
    limit, workers = values["lambda_concurrency_limit"], values["rollout_worker_replicas"]
    if not limit:
        return
    if workers and limit < (needed := workers * _CALLS_OF_A_WORKER):
        yield say(
            "lambda_concurrency_limit",
            f"{limit} is below {needed}: each of the {workers} rollout workers calls the reward up to "
            f"{_CALLS_OF_A_WORKER} times at once",
        )
    if limit > _LAMBDA_QUOTA:
        yield say(
            "lambda_concurrency_limit",
            f"an account runs {_LAMBDA_QUOTA:,} functions at once unless its quota was raised. More are throttled",
        )
    batch, group = values["global_batch_size"], values["number_generation"]
    if values.on == "smtj" and batch and group:
        yield say(
            "lambda_concurrency_limit",
            f"a step has up to {batch * group} answers to score, {limit} at once. With a reward that takes a second, "
            f"that is {-(-batch * group // limit)} s of each step",
        )
