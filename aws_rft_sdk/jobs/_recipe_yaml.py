"""A Nova recipe as YAML: written from a configuration, and read back into one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._text import hint
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._recipe_kinds import KINDS, Config
from aws_rft_sdk.jobs._recipe_tables import RECIPES
from aws_rft_sdk.jobs._tables import Table, shown, table_of, value_at
from aws_rft_sdk.jobs.types import Problem

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?\s*([\w.]+)\s*\}")
_RATIOS = ("lora_plus_lr_ratio", "loraplus_lr_ratio")
_SCHEME = "training_config.trainer.peft.peft_scheme"
_STRATEGY = "training_config.rollout.rollout_strategy.type"
_EVALUATION: dict[str, JSON] = {
    "evaluation.task": "rft_eval",
    "evaluation.strategy": "rft_eval",
    "evaluation.metric": "all",
}
_CONSTANTS: dict[tuple[str, str], dict[str, JSON]] = {
    ("smtj", "lora"): {_SCHEME: "lora"},
    ("smtj", "full"): {_SCHEME: None},
    ("smtj", "eval"): {"run.data_s3_path": "", **_EVALUATION},
    ("hyperpod", "lora"): {_SCHEME: "lora", _STRATEGY: "off_policy_async"},
    ("hyperpod", "full"): {_STRATEGY: "off_policy_async"},
    ("hyperpod", "eval"): _EVALUATION,
}
"""What a recipe of a kind always says."""
_OF_HYPERPOD = (
    "run.output_s3_path",
    "run.generation_replicas",
    "run.rollout_worker_replicas",
    "training_config.rollout.rollout_strategy",
    "training_config.trainer.refit_freq",
)
"""What only recipes of HyperPod have."""
_OF_QUEUES = ("delegate", "rollout_request_arn", "rollout_response_sqs_url", "generate_request_sqs_url")
"""What a recipe has whose rollouts are run by the user's own program."""


def places(kind: type[Table]) -> dict[str, list[str]]:
    """Return where the fields of a kind stand in the recipe, by their paths in the configuration."""
    found: dict[str, list[str]] = {}
    for name, field in kind.model_fields.items():
        table = table_of(field)
        for key, inner in (table.model_fields if table else {}).items():
            about: Any = inner.json_schema_extra
            found[f"{name}.{key}"] = about["places"]
    return found


def recipe_of(config: Config) -> dict[str, JSON]:
    """Return the recipe of a configuration as nested mappings, in the order of the published ones."""
    tables = config.model_dump()
    training: dict[str, JSON] = tables["hyperparameters"]
    if "save_steps" in training and training["save_steps"] is None:
        training["save_steps"] = min(10, training["max_steps"])
    found: dict[str, JSON] = {}
    for path, wheres in places(type(config)).items():
        value = value_at(tables, path.split("."))
        for where in wheres:
            if value is not None:
                _put(found, where, None if value == "none" else value)
    for where, value in _CONSTANTS[config.recipe.on, config.recipe.kind].items():
        _put(found, where, value)
    return found


def _put(recipe: dict[str, JSON], where: str, value: JSON) -> None:
    *parents, name = where.split(".")
    for parent in parents:
        recipe = recipe.setdefault(parent, {})
    recipe[name] = value


def dump(recipe: Mapping[str, JSON]) -> str:
    """Return a recipe as YAML that every parser reads alike: 1e-05 is written 1.0e-05, since 1e-05 is a text."""
    text: str = import_module("yaml").safe_dump(recipe, sort_keys=False, allow_unicode=True, width=200)
    return text


def load(path: Path) -> dict[str, JSON] | Problem:
    """Return what a YAML file says, or why it is no recipe.

    Raises:
        ConfigurationError: The file cannot be read from the disk.
    """
    yaml = import_module("yaml")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if any(
            isinstance(token, yaml.AliasToken) for token in yaml.scan(text)
        ):  # a small file could be huge, or endless
            return Problem("", None, "must have no YAML aliases; write each value out", RECIPES)
        read = yaml.safe_load(text)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        return Problem("", None, "the file is not UTF-8; save it as UTF-8", "YAML 1.1")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return Problem("", None, f"the file is no YAML: {error}", "YAML 1.1")
    if not isinstance(read, dict):
        return Problem("", shown(read), "must have the tables `run` and `training_config` or `evaluation`", RECIPES)
    inner = read.get("recipes")
    return inner if len(read) == 1 and isinstance(inner, dict) else read


class Read(NamedTuple):
    """A recipe as a configuration.

    Attributes:
        kind: `recipe.on` and `recipe.kind`.
        raw: The configuration, not yet checked.
        problems: What no field of the configuration tells.
        notes: What may not be meant.
        names: Where a field stands in the recipe, by its path in the configuration.
    """

    kind: tuple[str, str]
    raw: dict[str, JSON]
    problems: list[Problem]
    notes: list[str]
    names: Mapping[str, str]


def configuration_of(recipe: Mapping[str, JSON], on: str | None = None) -> Read:
    """Return the configuration that a recipe says.

    Args:
        recipe: What the YAML says. References such as `${oc.select:run.name}` are resolved.
        on: `smtj` or `hyperpod`. None to see it from keys that only HyperPod's recipes have.
    """
    kind = _kind_of(recipe, on)
    where = places(KINDS[kind])
    raw: dict[str, JSON] = {"recipe": {"on": kind[0], "kind": kind[1]}}
    problems, notes = list(_constants(recipe, kind)), []
    for path, wheres in where.items():
        values = [_value(recipe, place) for place in wheres]
        value, missing = (values[0] if values else None), [w for w, v in zip(wheres, values, strict=True) if not v]
        if len(values) == 2 and (missing or values[0] != values[1]):
            other = missing[0] if missing else wheres[1]
            rule = f"must be the same as {next(w for w in wheres if w != other)}; the recipe has this ARN twice"
            problems.append(Problem(other, _value(recipe, other), rule, RECIPES))
            value = values[0] or values[1]
        if isinstance(value, str) and not path.startswith("recipe.") and _NUMBER.fullmatch(value):
            notes.append(
                f"{wheres[0]}: YAML 1.1 reads {value} as a text. Write {dump({'lr': float(value)})[4:].strip()}; "
                "it was checked as a number"
            )
            value = float(value) if re.search(r"[.eE]", value) else int(value)
        if path.endswith(".reasoning_effort") and value is None:
            value = "none"
        if value not in (None, ""):
            _put(raw, path, value)
    more_problems, more_notes = _others(recipe, kind, {w for wheres in where.values() for w in wheres})
    return Read(kind, raw, problems + more_problems, notes + more_notes, {path: w[0] for path, w in where.items() if w})


def _kind_of(recipe: Mapping[str, JSON], on: str | None) -> tuple[str, str]:
    is_hyperpod = any(value_at(recipe, key.split(".")) not in (None, "") for key in _OF_HYPERPOD)
    on = on or ("hyperpod" if is_hyperpod else "smtj")
    if "evaluation" in recipe or "inference" in recipe:
        return on, "eval"
    return on, "full" if value_at(recipe, _SCHEME.split(".")) is None else "lora"


def _value(recipe: Mapping[str, JSON], where: str, depth: int = 5) -> JSON:
    value = value_at(recipe, where.split("."))
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return _value(recipe, found[1], depth - 1) if found and depth else value


def _constants(recipe: Mapping[str, JSON], kind: tuple[str, str]) -> Iterator[Problem]:
    for where, value in _CONSTANTS[kind].items():
        if (found := _value(recipe, where)) != value and not (found is None and value == ""):
            told = "empty: a training job takes the data as a channel" if value == "" else f"{value!r}"
            yield Problem(where, shown(found, where), f"must be {told}", RECIPES)


def _others(recipe: Mapping[str, JSON], kind: tuple[str, str], known: set[str]) -> tuple[list[Problem], list[str]]:
    """Return what is wrong with keys that a kind of recipe does not have, and what may not be meant."""
    problems, notes = [], []
    for where in _leaves(recipe):
        name = where.rpartition(".")[2]
        if where in known or where in _CONSTANTS[kind] or (value := _value(recipe, where)) in (None, ""):
            continue
        if name in _RATIOS:
            right = next((other for other in known if other.endswith(_RATIOS)), None)
            rule = f"is {right} in this kind of recipe. Rename it" if right else "is for LoRA. Remove it"
            problems.append(Problem(where, shown(value, where), rule, RECIPES))
        elif name in _OF_QUEUES:
            notes.append(f"{where}: is for rollouts that your own program runs. See `aws-rft worker nova-forge`")
        else:
            near = hint(where, known)
            notes.append(f"{where}: is in no published recipe of this kind. The sagemaker SDK drops such keys{near}")
    return problems, notes


def _leaves(value: Mapping[str, JSON], prefix: str = "") -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
