"""Recipes of reinforcement fine-tuning of Nova, for SageMaker training jobs and HyperPod.

A configuration is a TOML file with the tables `recipe`, `hyperparameters` and `launch`. It is checked against the
published ranges of its kind and written as the YAML that SageMaker takes. A YAML that somebody has is read back and
checked by the same rules. Bedrock's own jobs for Nova are in `aws_rft_sdk.jobs.nova`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets._text import hint, plural
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs import _recipe_rules as rules
from aws_rft_sdk.jobs import _recipe_yaml as as_yaml
from aws_rft_sdk.jobs._recipe_kinds import KINDS, PLACES, TECHNIQUES, Config
from aws_rft_sdk.jobs._recipe_launch import Launch, launch_of
from aws_rft_sdk.jobs._tables import about_field, comment, read_toml, shown, table_of, table_problems
from aws_rft_sdk.jobs.types import OURS, Problem, refuse


@dataclass(frozen=True)
class NovaRecipe:
    """A recipe, and what is wrong with it.

    Attributes:
        on: `smtj` for SageMaker training jobs, or `hyperpod`.
        kind: `lora`, `full` or `eval`.
        config: What the recipe says. None if something is missing or has a wrong value.
        problems: All that is wrong, by the names of the file that was read. None of them: the recipe can be written.
        notes: What may not be meant, each with its reason, and where AWS's sources disagree.
    """

    on: str
    kind: str
    config: Config | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, JSON]:
        """Return the recipe as nested mappings.

        Raises:
            JobConfigError: The recipe has problems.
        """
        return as_yaml.recipe_of(self._right())

    def to_yaml(self) -> str:
        """Return the recipe as YAML.

        Raises:
            JobConfigError: The recipe has problems.
        """
        return as_yaml.dump(self.to_dict())

    def launch(self, recipe_file: str = "recipe.yaml") -> Launch:
        """Return how the `sagemaker` SDK is called to run the recipe. Nothing is imported and nothing is sent.

        Args:
            recipe_file: Where the YAML is. An evaluation runs this file.

        Raises:
            JobConfigError: The recipe has problems.
            ConfigurationError: The SDK cannot run this kind of recipe, or a field of `launch` is missing.
        """
        return launch_of(self._right(), self.to_dict(), recipe_file)

    def _right(self) -> Config:
        if self.config is None:
            refuse(self.problems, f"the recipe has {plural(len(self.problems), 'problem')}")
        return cast(Config, self.config)  # no configuration means problems


def make_recipe(configuration: Mapping[str, JSON]) -> NovaRecipe:
    """Check a configuration and return its recipe.

    Args:
        configuration: The tables `recipe`, `hyperparameters` and `launch`, as the TOML file has them.
    """
    table = configuration.get("recipe")
    table = table if isinstance(table, Mapping) else {}
    on, kind = table.get("on"), table.get("kind")
    wrong = []
    for name, value, known in (("on", on, PLACES), ("kind", kind, TECHNIQUES)):
        if not isinstance(value, str) or value not in known:
            rule = "is missing; it " if value is None else ""
            rule += f"must be {' or '.join(map(json.dumps, known))}{hint(value, known)}"
            wrong.append(Problem(f"recipe.{name}", shown(value), rule, OURS))
    if wrong:
        return NovaRecipe(str(on), str(kind), None, tuple(wrong))
    return _checked((str(on), str(kind)), configuration)


def read_recipe(path: str | Path, on: str | None = None) -> NovaRecipe:
    """Read and check a recipe. Nothing is sent.

    Args:
        path: A configuration, `.toml`, or a recipe, `.yaml` or `.yml`.
        on: For a YAML: `smtj` or `hyperpod`. None to see it from the keys that only HyperPod's recipes have.

    Raises:
        ConfigurationError: The file cannot be read from the disk, or is of another type.
    """
    path = Path(path)
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigurationError(f"{path} is no .toml, .yaml or .yml file")
    raw = read_toml(path) if path.suffix == ".toml" else as_yaml.load(path)
    if isinstance(raw, Problem):
        return NovaRecipe(on or "", "", None, (raw,))
    if path.suffix == ".toml":
        return make_recipe(raw)
    read = as_yaml.configuration_of(raw, on)
    return _checked(read.kind, read.raw, read)


def _checked(kind: tuple[str, str], raw: Mapping[str, JSON], read: as_yaml.Read | None = None) -> NovaRecipe:
    found = table_problems(KINDS[kind], raw)
    values = rules.RecipeValues(kind, raw, found)
    found += rules.conflicts(values)

    def name_of(path: str) -> str:
        return read.names.get(path, path) if read else path

    told = [item._replace(path=name_of(item.path), value=shown(item.value, item.path)) for item in found]
    notes = [*(read.notes if read else ()), *rules.notes(values, name_of)]
    problems = (*(read.problems if read else ()), *told)
    config = None if problems else KINDS[kind].model_validate(raw)
    return NovaRecipe(*kind, config, problems, tuple(notes))


def first_configuration(on: str, kind: str) -> str:
    """Return a first TOML file for a kind of recipe, every field with its rule, default and source.

    Args:
        on: `smtj` or `hyperpod`.
        kind: `lora`, `full` or `eval`.
    """
    config = KINDS[on, kind]
    lines = comment(f"{config.__doc__} Write the recipe with: aws-rft job recipe write THIS-FILE")
    for name, field in config.model_fields.items():
        table = table_of(field)
        lines += ["", *comment((table and table.__doc__) or ""), f"[{name}]"]
        for key, inner in (table.model_fields if table else {}).items():
            about: Any = inner.json_schema_extra
            sample = kind if key == "kind" else about["sample"]
            value = sample if sample is not None else about["example"]
            value = inner.get_default() if value is None else value
            conflict = f"The sources disagree: {about['conflict']}." if about["conflict"] else ""
            lines += [*about_field(inner), *comment(conflict)]
            lines.append(f"{'# ' if sample is None else ''}{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
