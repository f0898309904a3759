"""The recipe of a local training: its fields, each with its rule, default and source; reading and writing its file.

A field's definition is the only place that knows its range. The hyperparameters have the names of SageMaker's job
service, and each value that the service allows is allowed here, so one file serves both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.advantages import ADVANTAGES
from aws_rft_sdk.agent_rft import MODELS
from aws_rft_sdk.datasets._text import hint, plural
from aws_rft_sdk.errors import JobConfigError
from aws_rft_sdk.jobs._tables import Form, Table, about_field, comment, read_toml, setting, shown, table_problems
from aws_rft_sdk.jobs.config import KINDS
from aws_rft_sdk.jobs.types import OURS, Problem
from aws_rft_sdk.rollout.engines.choosing import ENGINES
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD

SERVICE = "Amazon SageMaker developer guide, hyperparameters of multi-turn reinforcement fine-tuning"
_TRL = "TRL, GRPOConfig"
_PEFT = "PEFT, LoraConfig"

LOSS_TYPES = {"ppo": "dapo", "cispo": "cispo", "importance_sampling": "dapo"}
"""TRL's `loss_type` for each `loss_fn` of the service."""
_ALL = frozenset({"clip_low_threshold", "clip_high_threshold"})
_CLIPS = {
    "importance_sampling": frozenset(),
    "cispo": _ALL - {"clip_low_threshold"},
    "sapo": frozenset(),
    "vespo": frozenset(),
}
"""The thresholds that a loss has, where it has not both."""
_MAX_TOKENS = "sampling_max_tokens"
_NOT_HERE = {
    "lora_plus_lr_ratio": "is for Nova models on the service",
    "rollout_tps": "is the service's pace; no local rollout waits for its start",
    "gamma": "is fixed at 1 on the service, and here",
}
"""Hyperparameters of the service that local training does not use."""


def _number(value: JSON) -> JSON:
    """Return the number that a text of the service is, other values as they are."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _numbers(value: JSON) -> JSON:
    """Return the numbers of a list, or of a text such as "1,2,4"."""
    items = value.split(",") if isinstance(value, str) else value
    return tuple(map(_number, items)) if isinstance(items, list | tuple) else value


def _quoted(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


_ON_SERVICE = MODELS["gpt-oss-20b"].hyperparameters
_SIZES = " and ".join(", ".join(map(str, _ON_SERVICE["global_batch_size"].choices)).rsplit(", ", 1))


def _has(name: str) -> str:
    """Return a sentence on the default of the service."""
    return f"The service has {_ON_SERVICE[name].default}."


_READ = BeforeValidator(_number)
_Count: TypeAlias = Annotated[int, _READ, Field(ge=1)]
_Group: TypeAlias = Annotated[int, _READ, Field(ge=2)]
_Every: TypeAlias = Annotated[int, _READ, Field(ge=0)]
_Above0: TypeAlias = Annotated[float, _READ, Field(gt=0, allow_inf_nan=False)]
_From0: TypeAlias = Annotated[float, _READ, Field(ge=0, allow_inf_nan=False)]
_From1: TypeAlias = Annotated[float, _READ, Field(ge=1, allow_inf_nan=False)]
_Share: TypeAlias = Annotated[float, _READ, Form("a number from 0 to 1"), Field(ge=0, le=1)]
_Beta: TypeAlias = Annotated[float, _READ, Form("a number from 0 to less than 1"), Field(ge=0, lt=1)]
_Finite: TypeAlias = Annotated[float, _READ, Form("a finite number"), Field(allow_inf_nan=False)]
_Ks: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    BeforeValidator(_numbers),
    Field(min_length=1),
    Form('a list of whole numbers of at least 1, or a text such as "1,2,4"'),
]
_Text: TypeAlias = Annotated[str, Field(min_length=1), Form("a text that is not empty")]
_Method: TypeAlias = Annotated[str, Field(pattern=f"^({'|'.join(ADVANTAGES)})$"), Form(_quoted(ADVANTAGES))]
_Engine: TypeAlias = Annotated[str, Field(pattern=f"^({'|'.join(ENGINES)})$"), Form(_quoted(ENGINES))]
_Targets: TypeAlias = Annotated[
    Literal["all-linear"] | tuple[_Text, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Field(min_length=1),
    Form('"all-linear" or a list of names of modules'),
]
_service, _ours, _trl, _peft = (partial(setting, source) for source in (SERVICE, OURS, _TRL, _PEFT))


class Hyperparameters(Table):
    """Names of the service. Values may be the service's texts, such as "4e-5"."""

    global_batch_size: _Count = _service(f"Prompts of a step. The service has {_SIZES}.", default=8)
    group_size: _Group = _service("Rollouts of each prompt in a step.", default=8)
    advantage_method: _Method = _service("How rewards become advantages.", default="group_based")
    loss_fn: Literal["ppo", "cispo", "importance_sampling"] = _service(
        "Loss of the policy gradient. importance_sampling clips nothing.", default="ppo"
    )
    clip_low_threshold: _Share = _service(
        "Ratio of new to old probability below which a token is clipped.", default=0.8
    )
    clip_high_threshold: _From1 = _service(
        "Ratio of new to old probability above which a token is clipped.", default=1.2
    )
    temperature: _From0 = _service("Of the sampling in training. Validation has 0.", default=1.0)
    sampling_top_p: _Share = _service("Of the sampling in training. Validation has 1.", default=1.0)
    sampling_max_tokens: _Count = _service(f"Tokens of a model call. {_has(_MAX_TOKENS)}", default=512)
    max_epochs: _Count = _service("Passes over the dataset.", default=1)
    max_steps: _Count = _service("Most updates. Training ends with the epochs or the steps.", default=50)
    val_every: _Every = _service(
        "Steps between validations. Validation runs before and after the training, too. 0: only then.", default=10
    )
    save_every: _Every = _service("Steps between checkpoints. 0: none. The service has 1.", default=10)
    lora_rank: _Count = _service("Rank of the adapter.", default=32)
    lora_alpha: _Count = _service("Scale of the adapter: its output counts alpha / rank.", default=64)
    learning_rate: _Above0 = _service("Of AdamW.", default=4e-5)
    adam_beta1: _Beta = _service("Of AdamW.", default=0.9)
    adam_beta2: _Beta = _service("Of AdamW.", default=0.95)
    adam_eps: _Above0 = _service("Of AdamW.", default=1e-8)
    adam_weight_decay: _From0 = _service("Of AdamW.", default=0.0)
    adam_grad_clip_norm: _From0 = _service("Largest norm of the gradient. 0: any.", default=1.0)
    rollout_timeout: _Above0 = _service("Seconds of a rollout.", default=600)
    rollout_max_retries: _Every = _service("Repetitions of a failed rollout.", default=3)
    rollout_max_concurrency: _Count = _service(f"Rollouts in flight. {_has('rollout_max_concurrency')}", default=32)
    max_steps_off_policy: _Every = _service(
        "Updates that the policy may be ahead of a rollout. 0: rollouts wait for the update. "
        f"{_has('max_steps_off_policy')}",
        default=0,
    )
    success_threshold: _Finite = _service("Lowest reward that counts as a success.", default=SUCCESS_THRESHOLD)
    pass_k_values: _Ks = _service(
        "The k of pass@k. One above group_size is not measured.", default=(1, 2, 4, 8, 16, 32)
    )


class LocalTraining(Table):
    """What only local training knows."""

    model: _Text | None = _ours(
        "Folder of a model, from the folder of this file, or its name on the Hugging Face hub. `--model` wins.",
        example="Qwen/Qwen2.5-0.5B-Instruct",
    )
    tokenizer: _Text | None = _ours("Folder or name. Left out, the model's.", example="my-tokenizer")
    chat_template: _Text | None = _ours(
        "File of a Jinja template, from the folder of this file. Left out, the tokenizer's.", example="template.jinja"
    )
    method: Literal["lora", "qlora", "full"] = _peft("What is trained: an adapter or all weights.", default="lora")
    lora_targets: _Targets = _peft("Modules with an adapter.", default="all-linear")
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"] = _trl(
        f"Left out, that of loss_fn: {', '.join(f'{loss} for {fn}' for fn, loss in LOSS_TYPES.items())}.",
        example="dr_grpo",
    )
    kl_coef: _From0 = _trl("Weight of the divergence from the model before training.", default=0.0)
    seed: _Every = _ours("Draws the order of the prompts and the tokens.", default=0)
    micro_batch_size: _Count = _trl("Rows that a device computes gradients for at once.", default=8)
    lr_schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = _trl(
        "Of the learning rate.", default="constant"
    )
    warmup_steps: _Every = _trl("Updates in which the learning rate rises to its value.", default=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _ours(
        "Of the computation, and of weights that are not trained. auto: bfloat16 on a GPU, else float32.",
        default="auto",
    )
    device: Literal["auto", "cpu", "cuda"] = _ours("auto: a GPU if there is one.", default="auto")
    gradient_checkpointing: bool = _trl("Whether to save memory, for time.", default=False)
    max_context_tokens: _Count | None = _ours(
        "Tokens of a conversation. A rollout that needs more ends. Left out, the model's.", example=4096
    )
    engine: _Engine = _ours("Where rollouts run, as for `aws-rft rollout`. `--engine` wins.", default="auto")


class Recipe(Hyperparameters, LocalTraining):
    """All values of a local training, by their names in a recipe's file. Those left out have their default.

    Raises:
        JobConfigError: A name is unknown, or a value is out of its range or does not fit another one. Lists all.
    """

    def __init__(self, **values: JSON) -> None:
        tables: dict[str, dict[str, JSON]] = {"hyperparameters": {}, "train": {}}
        for name, value in values.items():
            tables[_table_of(name)][name] = value
        _refuse(_problems(tables), "the recipe")
        loss_type = LOSS_TYPES[values.get("loss_fn", "ppo")]
        super().__init__(**{"loss_type": loss_type, **values})

    def to_toml(self, *, comments: bool = False) -> str:
        """Return the file of this recipe. `read_recipe` reads it.

        Args:
            comments: Whether to add what each field is for, its rule, its default and its source.
        """
        lines = comment("A recipe of aws-rft train.")
        for table, kind in _TABLES.items():
            lines += ["", *comment(str(kind.__doc__)), f"[{table}]"]
            for name, field in kind.model_fields.items():
                value, about = getattr(self, name), field.json_schema_extra
                example = about["example"] if isinstance(about, dict) else None
                is_left_out = value == (LOSS_TYPES[self.loss_fn] if name == "loss_type" else None)
                text = json.dumps(example if is_left_out else value, ensure_ascii=False)
                lines += about_field(field) if comments else ()
                lines += [f"{'# ' if is_left_out else ''}{name} = {text}"] if comments or not is_left_out else ()
        return "\n".join(lines) + "\n"


_TABLES: dict[str, type[Table]] = {"hyperparameters": Hyperparameters, "train": LocalTraining}


class _File(Table):
    hyperparameters: Hyperparameters = Hyperparameters()
    train: LocalTraining = LocalTraining()


def _table_of(name: str) -> str:
    return "hyperparameters" if name in Hyperparameters.model_fields else "train"


def read_recipe(path: Path) -> tuple[Recipe, list[str]]:
    """Read a recipe's file. Paths in it begin at its folder; in the recipe they are absolute.

    Args:
        path: A TOML file with the tables `hyperparameters` and `train`. Tables of a training job are passed over.

    Returns:
        The recipe, and notes: what the file says that local training does not use.

    Raises:
        JobConfigError: The file is no recipe. Lists all that is wrong with it.
        ConfigurationError: The file cannot be read from the disk.
    """
    raw = read_toml(path)
    _refuse([raw] if isinstance(raw, Problem) else [], str(path))
    tables: dict[str, JSON] = dict(raw)  # type: ignore[arg-type] # a Problem was refused
    notes: list[str] = []
    for name in [name for name in tables if name not in _TABLES and _is_of_a_job(name, tables[name])]:
        notes.append(f"[{name}] is for a training job; local training does not use it")
        del tables[name]
    if isinstance(given := tables.get("hyperparameters"), dict):
        notes += [f"hyperparameters.{name} {why}" for name, why in _NOT_HERE.items() if name in given]
        tables["hyperparameters"] = {name: value for name, value in given.items() if name not in _NOT_HERE}
    problems = _problems(tables)
    values: dict[str, JSON] = {}
    for table in tables.values():
        values |= table if isinstance(table, dict) else {}
    problems += _resolve(values, path.resolve().parent)
    _refuse(problems, str(path))
    recipe = Recipe(**values)
    return recipe, [*notes, *_notes(recipe, values)]


def _is_of_a_job(name: str, table: JSON) -> bool:
    """Whether a table that is none of ours can be passed over. An unknown table with our fields has a wrong name."""
    is_known = any(name in kind.model_fields for kind in KINDS.values())
    is_ours = hint(name, _TABLES) or (isinstance(table, dict) and table.keys() & Recipe.model_fields.keys())
    return is_known or (isinstance(table, dict) and not is_ours)


def _problems(tables: Mapping[str, JSON]) -> list[Problem]:
    """Return all that is wrong with the tables of a file."""
    problems = table_problems(_File, tables)
    wrong = {problem.path for problem in problems}
    values = {}
    for table, kind in _TABLES.items():
        given = tables.get(table)
        for name, field in kind.model_fields.items():
            value = given.get(name) if isinstance(given, Mapping) else None
            values[name] = field.default if value is None else value if f"{table}.{name}" not in wrong else None
    return [*problems, *_conflicts(values)]


def _conflicts(values: Mapping[str, JSON]) -> Iterator[Problem]:
    """Yield what is wrong with values that are right by themselves. A wrong value is None."""
    warmup, context, tokens = (_number(values[name]) for name in ("warmup_steps", "max_context_tokens", _MAX_TOKENS))
    if warmup and values["lr_schedule"] == "constant":
        rule = (
            'is not used if lr_schedule is "constant"; set lr_schedule = "constant_with_warmup", or remove this field'
        )
        yield Problem("train.warmup_steps", warmup, rule, _TRL)
    if values["method"] == "qlora" and values["device"] == "cpu":
        rule = 'needs device = "cuda": its 4-bit weights are computed on a GPU; set method = "lora", or another device'
        yield Problem("train.method", "qlora", rule, _PEFT)
    if context and tokens and context <= tokens:
        rule = f"leaves no room for a prompt: a model call may take {tokens} tokens ({_MAX_TOKENS}); use more"
        yield Problem("train.max_context_tokens", context, rule, OURS)


def _resolve(values: dict[str, JSON], folder: Path) -> Iterator[Problem]:
    """Make paths absolute. Yields a problem for a file that is not there."""
    for name in ("model", "tokenizer"):
        if isinstance(value := values.get(name), str) and (folder / value).is_dir():
            values[name] = str(folder / value)
    if isinstance(template := values.get("chat_template"), str):
        values["chat_template"] = str(folder / template)
        if not (folder / template).is_file():
            yield Problem("train.chat_template", template, f"there is no file {folder / template}", OURS)


def _notes(recipe: Recipe, given: Mapping[str, JSON]) -> Iterator[str]:
    if recipe.method == "full":
        for name in sorted({"lora_rank", "lora_alpha", "lora_targets"} & given.keys()):
            yield f'{_table_of(name)}.{name} is not used: method = "full" trains all weights'
    clips = _CLIPS.get("importance_sampling" if recipe.loss_fn == "importance_sampling" else recipe.loss_type, _ALL)
    for name in sorted((_ALL - clips) & given.keys()):
        yield f"hyperparameters.{name} is not used: loss_fn {recipe.loss_fn} with loss_type {recipe.loss_type} has none"


def _refuse(problems: list[Problem], what: str) -> None:
    if problems:
        told = tuple(item._replace(value=shown(item.value, item.path)) for item in problems)
        lines = [
            f"\n{item.path or 'the file'} is {json.dumps(item.value, ensure_ascii=False)}: {item.rule}" for item in told
        ]
        raise JobConfigError(f"{what} has {plural(len(told), 'problem')}:{''.join(lines)}", problems=told)
