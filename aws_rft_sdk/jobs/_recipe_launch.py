"""How the `sagemaker` SDK runs a Nova recipe: as code, as JSON, or called, if the package is there.

Arguments are those of sagemaker-train 1.27.0. The package is no dependency of this one.
"""

from __future__ import annotations

import json
import pprint
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.jobs._recipe_kinds import Config, HyperPodLaunch, SmtjEvaluationLaunch, SmtjLaunch
from aws_rft_sdk.jobs._recipe_tables import HUB_MODEL

EVALUATION_IMAGE = "708977205387.dkr.ecr.us-east-1.amazonaws.com/nova-evaluation-repo:SM-TJ-Eval-V2-latest"
"""The container that evaluates, in us-east-1."""
_CONFIGS = "sagemaker.core.training.configs"
_PARAMETERS = (
    *("learning_rate", "lora_alpha", "learning_rate_ratio", "max_steps", "save_steps", "global_batch_size"),
    *("max_length", "number_generation", "max_context_length"),
)
"""Hyperparameters that the hub knows as override parameters."""
_DROPS = (
    "sagemaker-train 1.27.0 fills the placeholders of the hub's recipe only, as its source reads: other keys of "
    "`overrides` show in get_resolved_recipe() and may not reach the job. On SMTJ number_generation, top_k and "
    "max_new_tokens are such keys. To run the YAML as it is, pass it to ModelTrainer.from_recipe(training_recipe=...)"
)


@dataclass(frozen=True)
class Launch:
    """A call of the `sagemaker` SDK.

    Attributes:
        trainer: What is made: `RLVRTrainer`, or `ModelTrainer.from_recipe` for an evaluation.
        compute: The class of the compute, and its arguments.
        arguments: The other arguments of the trainer. Enumerations are texts such as `TrainingType.LORA`.
        hyperparameters: What is set on the trainer after it was made, by the hub's names.
        train: The arguments of `train`.
        notes: What the SDK does differently from what one would expect.
    """

    trainer: str
    compute: tuple[str, Mapping[str, JSON]]
    arguments: Mapping[str, JSON]
    hyperparameters: Mapping[str, JSON] = field(default_factory=dict)
    train: Mapping[str, JSON] = field(default_factory=lambda: {"wait": False})
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Return everything by its name."""
        name, about = self.compute
        return {
            "trainer": self.trainer,
            "compute": {"class": name, "arguments": dict(about)},
            "arguments": dict(self.arguments),
            "hyperparameters": dict(self.hyperparameters),
            "train": dict(self.train),
            "notes": list(self.notes),
        }

    def code(self) -> str:
        """Return the call as a Python program."""
        name, about = self.compute
        kind = self.arguments.get("training_type")
        inputs = self.arguments.get("input_data_config")
        configs = f"InputData, {name}" if inputs else name
        modules = {_CONFIGS: configs, "sagemaker.train": self.trainer.partition(".")[0]}
        modules |= {"sagemaker.train.common": "TrainingType"} if kind else {}
        lines = [f"from {module} import {names}" for module, names in modules.items()]
        arguments = {key: _pretty(value) for key, value in self.arguments.items()}
        arguments |= {"compute": f"{name}({_keywords(about)})"} | ({"training_type": str(kind)} if kind else {})
        if inputs:
            arguments["input_data_config"] = f"[{', '.join(f'InputData({_keywords(item)})' for item in inputs)}]"
        lines += ["", f"trainer = {self.trainer}("]
        lines += [f"    {key}={value}," for key, value in arguments.items()] + [")"]
        lines += [f"trainer.hyperparameters.{key} = {value!r}" for key, value in self.hyperparameters.items()]
        if self.hyperparameters:
            lines.append("print(trainer.get_resolved_recipe())  # what the SDK will send")
        return "\n".join([*lines, f"trainer.train({_keywords(self.train)})"]) + "\n"

    def run(self) -> object:
        """Call the SDK, which starts the job. Repeating it starts another one.

        Returns:
            What `train` returns.

        Raises:
            UnavailableError: The package `sagemaker` is not installed.
        """
        try:
            train, configs = import_module("sagemaker.train"), import_module(_CONFIGS)
            common = import_module("sagemaker.train.common")
        except ImportError as error:
            raise UnavailableError(
                f"the sagemaker SDK cannot be imported: {error}. Type: pip install 'sagemaker>=3.19.0'"
            ) from error
        arguments: dict[str, Any] = dict(self.arguments)
        if kind := arguments.get("training_type"):
            arguments["training_type"] = getattr(common.TrainingType, kind.partition(".")[2])
        if inputs := arguments.get("input_data_config"):
            arguments["input_data_config"] = [configs.InputData(**item) for item in inputs]
        name, about = self.compute
        make: Any = train
        for part in self.trainer.split("."):
            make = getattr(make, part)
        trainer = make(**arguments, compute=getattr(configs, name)(**about))
        for key, value in self.hyperparameters.items():
            setattr(trainer.hyperparameters, key, value)
        return trainer.train(**self.train)


def _pretty(value: JSON) -> str:
    return pprint.pformat(value, width=100, sort_dicts=False).replace("\n", "\n    ")


def _keywords(arguments: Mapping[str, JSON]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def launch_of(config: Config, recipe: Mapping[str, JSON], recipe_file: str) -> Launch:
    """Return how a recipe is run.

    Raises:
        ConfigurationError: The SDK cannot run this kind of recipe, or a field of `launch` is missing.
    """
    launch, run = config.launch, config.recipe
    if isinstance(launch, HyperPodLaunch):
        if run.kind == "eval":
            text = "the SDK starts no evaluation with a recipe on HyperPod; type: hyperpod start-job --recipe"
            raise ConfigurationError(f"{text} {recipe_file}")
        if launch.cluster_name is None:
            raise ConfigurationError("launch.cluster_name is missing; give the name of the HyperPod cluster")
        about: dict[str, JSON] = {"cluster_name": launch.cluster_name, "instance_type": launch.instance_type}
        about |= {"namespace": launch.namespace, "node_count": run.replicas}
        return _training(config, recipe, ("HyperPodCompute", about))
    about = {"instance_type": launch.instance_type, "instance_count": run.replicas}
    compute = ("TrainingJobCompute", about)
    if not isinstance(launch, SmtjEvaluationLaunch):
        return _training(config, recipe, compute)
    if launch.data_s3_path is None:
        raise ConfigurationError("launch.data_s3_path is missing; give the S3 URI of the prompts")
    arguments = {
        "training_recipe": recipe_file,
        "training_image": EVALUATION_IMAGE,
        "input_data_config": [{"channel_name": "train", "data_source": launch.data_s3_path}],
        **_shared(launch),
    }
    note = "the image is the one of us-east-1. Other regions have other accounts"
    return Launch("ModelTrainer.from_recipe", compute, arguments, notes=(note,))


def _shared(launch: Any) -> dict[str, JSON]:
    found = {"base_job_name": launch.base_job_name}
    if isinstance(launch, SmtjLaunch):
        found |= {"role": launch.role}
    return {key: value for key, value in found.items() if value is not None}


def _training(config: Config, recipe: Mapping[str, JSON], compute: tuple[str, Mapping[str, JSON]]) -> Launch:
    run, launch = recipe["run"], config.launch
    output = launch.s3_output_path if isinstance(launch, SmtjLaunch) else run["output_s3_path"]
    base = run["model_name_or_path"] if run["model_name_or_path"].startswith("s3://") else None
    arguments = {
        "model": base or HUB_MODEL,
        "base_model_name": HUB_MODEL if base else None,
        "training_type": f"TrainingType.{'LORA' if config.recipe.kind == 'lora' else 'FULL'}",
        "custom_reward_function": run["reward_lambda_arn"],
        "training_dataset": run["data_s3_path"],
        "s3_output_path": output,
        "mlflow_resource_arn": run.get("mlflow_tracking_uri"),
        "mlflow_experiment_name": run.get("mlflow_experiment_name"),
        "mlflow_run_name": run.get("mlflow_run_name"),
        "overrides": {"training_config": recipe["training_config"]},
        **_shared(launch),
    }
    given = json.loads(config.hyperparameters.model_dump_json())
    save = recipe["training_config"]["trainer"]["save_steps"]
    given["save_steps"] = save
    skipped = ("number_generation",) if config.recipe.on == "smtj" else ()
    hyperparameters = {key: given[key] for key in _PARAMETERS if key in given and key not in skipped}
    told = {key: value for key, value in arguments.items() if value is not None}
    return Launch("RLVRTrainer", compute, told, hyperparameters, notes=(_DROPS,))
