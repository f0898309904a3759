"""Reads the file of a training job, finds everything that is wrong with it at once, and writes a first one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from aws_rft_sdk._frozen import JSON, FrozenDict
from aws_rft_sdk.datasets import Target
from aws_rft_sdk.datasets._text import hint
from aws_rft_sdk.jobs import _sagemaker_file
from aws_rft_sdk.jobs import config as fields
from aws_rft_sdk.jobs._bedrock_request import model_rule
from aws_rft_sdk.jobs._files import check_file, is_s3
from aws_rft_sdk.jobs._forms import S3
from aws_rft_sdk.jobs._nova_request import tag_problems
from aws_rft_sdk.jobs._shapes import BOTOCORE
from aws_rft_sdk.jobs._tables import (
    Table,
    Values,
    about_field,
    comment,
    field_at,
    fits,
    one_of,
    read_toml,
    shown,
    source_of,
    table_of,
    table_problems,
    words_of,
)
from aws_rft_sdk.jobs.config import KINDS, Config, NovaConfig
from aws_rft_sdk.jobs.iam import function_rule
from aws_rft_sdk.jobs.sagemaker_config import SageMakerConfig
from aws_rft_sdk.jobs.types import OURS, Problem


@dataclass(frozen=True)
class JobFile:
    """A job's file as it was read.

    Attributes:
        path: The file. Paths in it begin at its folder.
        config: What it says. None if something is missing or has a wrong value.
        problems: All that is wrong with the file and the data that it names.
        notes: What may not be meant.
        rows: Rows of each local data file that could be read, by the path as the job's file spells it.
    """

    path: Path
    config: Config | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    rows: Mapping[str, int] = dataclass_field(default_factory=FrozenDict)

    def local(self, name: str) -> Path:
        """Return where a path of the file points to."""
        return self.path.parent / name


def read_job(path: str | Path) -> JobFile:
    """Read and check a job's file and the data that it names. Nothing is sent.

    Args:
        path: A TOML file, as `aws-rft job init` writes it.

    Raises:
        ConfigurationError: The file cannot be read from the disk.
    """
    path = Path(path)
    raw = read_toml(path)
    if isinstance(raw, Problem):
        return JobFile(path, None, (raw,))
    job = raw.get("job")
    on = job.get("on") if isinstance(job, dict) else None
    if job is not None and not isinstance(job, dict):
        return JobFile(path, None, (Problem("job", shown(job, "job"), "must be a table: [job]", OURS),))
    if not isinstance(on, str) or on not in KINDS:
        rule = "is missing; it " if on is None else ""
        rule += f"must be {' or '.join(map(json.dumps, KINDS))}{hint(on, KINDS)}"
        if job is None and "recipe" in raw:
            rule += f". This is the file of a Nova recipe: aws-rft job recipe check {path}"
        return JobFile(path, None, (Problem("job.on", shown(on, "job.on"), rule, OURS),))
    kind = KINDS[on]
    problems = table_problems(kind, raw)
    read = None if problems else kind.model_validate(raw)
    values = Values(kind, raw, problems)
    problems += _sagemaker_file.file_conflicts(values) if kind is SageMakerConfig else _conflicts(values)
    notes, rows = _check_files(values, path.parent, problems)
    notes += _notes(on, values)
    told = tuple(item._replace(value=shown(item.value, item.path)) for item in problems)
    return JobFile(path, read, told, tuple(notes), rows)


def _conflicts(values: Values) -> Iterator[Problem]:
    """Yield what is wrong with values that are right by themselves."""
    is_nova = values.kind is NovaConfig
    yield from one_of(values, "grader", "lambda_arn", "reward")
    arn, reward = values.get("grader.lambda_arn"), values.written("grader.reward")
    region = (NovaConfig if is_nova else fields.BedrockConfig).region()
    if arn and (rule := function_rule(arn, region)):
        yield Problem("grader.lambda_arn", arn, rule, fields.MANTLE_REWARD)
    for name in ("name", "role", "with_deps"):
        if values.written(f"grader.{name}") and not reward:
            rule = "is for a function that `reward` becomes; the function of `lambda_arn` exists. Remove this field"
            yield Problem(f"grader.{name}", values.get(f"grader.{name}"), rule, OURS)
    # A name that is left out is the job's name, for which other rules hold.
    taken = [("grader.name", fields.FunctionName)] if reward else []
    taken += [("job.custom_model_name", fields.ModelName)] if is_nova else []
    for path, form in taken:
        name = values.get("job.name")
        if name and not values.written(path) and not fits(form, name):
            rule = f"is the job's name if left out; it must be {words_of(form)}"
            yield Problem(path, name, rule, source_of(field_at(values.kind, path)))
    if is_nova:
        yield from _nova_conflicts(values)
    elif (model := values.get("job.model")) and (wrong := model_rule(model)):
        yield Problem("job.model", model, wrong, fields.MANTLE)


def _nova_conflicts(values: Values) -> Iterator[Problem]:
    yield from one_of(values, "data", "train", "invocation_logs", source=BOTOCORE)
    for name in ("use_prompt_response", "filters"):
        if values.written(f"data.{name}") and not values.written("data.invocation_logs"):
            rule = "is about invocation logs; give `invocation_logs`, or remove this field"
            yield Problem(f"data.{name}", values.get(f"data.{name}"), rule, BOTOCORE)
    filters = values.get("data.filters")
    if isinstance(filters, dict):
        yield from one_of(values, "data.filters", *fields.Filters.model_fields, source=BOTOCORE)
        for name in ("and_all", "or_all"):
            if any(len(item) != 1 for item in filters.get(name) or ()):
                rule = "each of its tables has exactly one of equals and not_equals"
                yield Problem(f"data.filters.{name}", None, rule, BOTOCORE)
    for key in values.get("tags") or ():
        yield from tag_problems("tags", key)
    for path in ("data.train", "data.validation"):
        for value in _listed(values.get(path)):
            if is_s3(value) and not fits(S3, value):
                yield Problem(path, value, f"must be {words_of(S3)}", BOTOCORE)


def _listed(value: JSON) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _check_files(values: Values, folder: Path, problems: list[Problem]) -> tuple[list[str], dict[str, int]]:
    """Check the local files. Returns notes, and the rows of each data file; adds to the problems."""
    notes: list[str] = []
    rows: dict[str, int] = {}
    target, batch_field = _TARGETS[values.kind]
    sizes = {"maxPromptLength": values.get("hyperparameters.maxPromptLength")}
    if target is Target.MTRL and (model := _sagemaker_file.model_of(values.get)):
        sizes = {"batchSize": _sagemaker_file.batch_size(values.get, model), "maxPromptLength": model.context_tokens}
    require_reference = values.get("data.require_reference") is not False
    for path in ("data.train", "data.validation", "evaluation.dataset"):
        for name in _listed(values.get(path)):
            if not _sagemaker_file.is_remote(name):
                found = check_file(
                    *(folder / name, target, path),
                    is_training=path == "data.train",
                    require_reference=require_reference,
                    sizes=sizes,
                )
                problems += [problem._replace(value=name) for problem in found.problems]
                notes += found.notes
                rows |= {} if found.rows is None else {name: found.rows}
            elif target is Target.BEDROCK:
                rule = "must be a file on this machine: Bedrock's OpenAI-compatible API takes uploads only"
                problems.append(Problem(path, name, rule, fields.MANTLE))
    reward = values.get("grader.reward")
    if reward and not (file := folder / reward.rpartition(":")[0]).is_file():
        problems.append(Problem("grader.reward", reward, f"there is no file {file}", OURS))
    size, train = values.get(batch_field), values.get("data.train")
    if target is not Target.MTRL and isinstance(size, int) and size > (count := rows.get(str(train), size)):
        rule = f"is larger than the {count:,} rows of {train}; use at most {count:,}, or add rows"
        problems.append(Problem(batch_field, size, rule, OURS))
    return notes, rows


_TARGETS: dict[type[Table], tuple[Target, str]] = {
    fields.BedrockConfig: (Target.BEDROCK, "hyperparameters.batch_size"),
    NovaConfig: (Target.NOVA, "hyperparameters.batchSize"),
    SageMakerConfig: (Target.MTRL, "hyperparameters.global_batch_size"),
}
"""By the kind of the file: the rules for its data, and the field that says how many prompts a training step has."""


def _notes(on: str, values: Values) -> list[str]:
    notes = list(_sagemaker_file.file_notes(values)) if on == "sagemaker" else []
    model = values.get("job.model")
    if model and on in fields.MODELS and not any(known in model for known in fields.MODELS[on]):
        known = " and ".join(fields.MODELS[on])
        notes.append(
            f"job.model: fine-tuning of {shown(model)} is not documented; documented are {known}. It is sent as it is"
        )
    for name, inner in fields.BedrockHyperparameters.model_fields.items() if on == "bedrock" else ():
        if fields.NOT_ON_MANTLE in (inner.description or "") and values.written(f"hyperparameters.{name}"):
            notes.append(f"hyperparameters.{name}: {fields.NOT_ON_MANTLE}")
    train = values.get("data.train")
    if train in _listed(values.get("data.validation")):
        notes.append(
            "data.validation: is the training file, so it tells nothing about prompts that are new to the model"
        )
    if on == "bedrock" and values.written("data.validation"):
        notes.append("data.validation: CloudTrail's records name validation_file, and no page says what it does")
    return notes


def init_text(on: str) -> str:
    """Return a first file for a service, every field with its rule, default and source.

    Args:
        on: "bedrock", "nova" or "sagemaker".
    """
    kind = KINDS[on]
    lines = comment(f"{kind.__doc__} Check it with: aws-rft job plan THIS-FILE")
    for name, field in kind.model_fields.items():
        table = table_of(field)
        lines += ["", *comment((table.__doc__ if table else field.description) or "")]
        lines.append(f"[{name}]" if field.is_required() or name == "hyperparameters" else f"# [{name}]")
        for key, inner in (table.model_fields if table else {}).items():
            lines += _field_lines(on, key, inner)
        if not table:
            lines.append('# key = "value"')
    return "\n".join(lines) + "\n"


def _field_lines(on: str, name: str, field: FieldInfo) -> Iterator[str]:
    yield from about_field(field)
    about: Any = field.json_schema_extra
    value = about["sample"] if about["sample"] is not None else about["example"]
    if isinstance(value, str):
        value = value.format(region=KINDS[on].region())
    text = value if name == "filters" else json.dumps(value)  # the one table within a table
    yield f"{'# ' if about['sample'] is None else ''}{name} = {text}"
