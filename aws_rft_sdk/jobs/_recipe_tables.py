"""Tables of a Nova recipe that trains: fields, each with its rule, default, source and places in the recipe.

Hyperparameters have the names of SageMaker's override parameters where those exist.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from aws_rft_sdk.jobs._forms import S3, LambdaArn
from aws_rft_sdk.jobs._tables import Form, Table, setting
from aws_rft_sdk.jobs.types import OURS

PARAMETERS = "hyperpod-recipes 2026-06-23, nova_recipe_template_parameters.json and base_override_parameters.json"
RECIPES = "hyperpod-recipes 2026-06-23, recipes of Nova Lite 2.0"
_GUIDE = "Amazon Nova user guide, reinforcement fine-tuning"
_SDK = "sagemaker-train 1.27.0"
HUB_MODEL = "nova-textgeneration-lite-v2"
"""The model's name in SageMaker's hub, which `RLVRTrainer` takes."""
MODEL_TYPE = "amazon.nova-2-lite-v1:0:256k"
_BASE_MODEL = "nova-lite-2/prod"
NO_RANGE = "AWS publishes no range."

_TRAINING = "training_config"
_ROLLOUT, _TRAINER = f"{_TRAINING}.rollout", f"{_TRAINING}.trainer"
_GENERATOR, _REWARD = f"{_ROLLOUT}.generator", f"{_ROLLOUT}.rewards.api_endpoint"
_OPTIMIZER, _LORA = f"{_TRAINER}.optim_config", f"{_TRAINER}.peft.lora_tuning"

Name = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$"),
    Form("a name of at most 63 letters, digits and hyphens, with a letter or a digit at both ends"),
]
Text = Annotated[str, Field(min_length=1), Form("a text that is not empty")]
_Model = Annotated[
    str,
    Field(pattern=rf"^({_BASE_MODEL}|s3://[^/\s]+/\S+)$"),
    Form(f'"{_BASE_MODEL}", or the S3 URI of a checkpoint'),
]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
_Beta = Annotated[float, Field(ge=0, le=0.999999)]
NotBelow0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=-1)]
_SmallShare = Annotated[float, Field(ge=0, le=0.1)]


def field_at_places(source: str, places: str, text: str, *, conflict: str = "", **about: Any) -> Any:
    """Define a field that stands at these places of the recipe, separated by spaces.

    `conflict` says how sources disagree about the default. A recipe whose author gave no value then has a note.
    """
    found = setting(source, text, **about)
    found.json_schema_extra |= {"places": places.split(), "conflict": conflict}
    return found


parameter, published, guide, ours, sdk = (
    partial(field_at_places, source) for source in (PARAMETERS, RECIPES, _GUIDE, OURS, _SDK)
)


class Run(Table):
    """What is run, on what, and which reward scores it."""

    kind: Literal["lora", "full", "eval"] = ours(
        "", "What the recipe does: train LoRA weights, train all weights, or evaluate.", sample="lora", default=...
    )
    name: Name = parameter("run.name", "Name of the run.", sample="my-rft-run", default=...)
    model_type: Literal["amazon.nova-2-lite-v1:0:256k"] = published(
        "run.model_type", "The model. The published recipes are for this one.", default=MODEL_TYPE
    )
    model_name_or_path: _Model = published("run.model_name_or_path", "Where training begins.", default=_BASE_MODEL)
    mlflow_tracking_uri: Text | None = parameter(
        "run.mlflow_tracking_uri",
        "MLflow's tracking server or app.",
        example="arn:aws:sagemaker:us-east-1:123456789012:mlflow-app/app-ABC",
    )
    mlflow_experiment_name: Text | None = parameter(
        "run.mlflow_experiment_name", "MLflow's experiment.", example="my-experiment"
    )
    mlflow_run_name: Text | None = parameter("run.mlflow_run_name", "MLflow's name of the run.", example="my-run")


SAMPLE_ARN = "arn:aws:lambda:us-east-1:123456789012:function:SageMaker-my-reward"
SAMPLE_DATA, SAMPLE_OUT = "s3://my-bucket/train.jsonl", "s3://my-bucket/out/"


class _TrainingRun(Run):
    """What is trained, on what, and which reward scores it."""

    data_s3_path: S3 = parameter("run.data_s3_path", "The prompts, a .jsonl file.", sample=SAMPLE_DATA, default=...)
    reward_lambda_arn: LambdaArn = parameter(
        f"run.reward_lambda_arn {_REWARD}.lambda_arn",
        "The function of the reward. The recipe has it twice, and it is written to both places.",
        sample=SAMPLE_ARN,
        default=...,
    )


class SmtjRun(_TrainingRun):
    """A SageMaker training job: what is trained, on what, and which reward scores it."""

    on: Literal["smtj"] = ours("", "SageMaker training jobs.", sample="smtj", default=...)
    replicas: Literal[2, 4, 6, 8] = guide("run.replicas", "Instances.", default=4, example=2)


class HyperPodRun(_TrainingRun):
    """A HyperPod cluster: what is trained, on what, and which reward scores it."""

    on: Literal["hyperpod"] = ours("", "HyperPod.", sample="hyperpod", default=...)
    output_s3_path: S3 = parameter("run.output_s3_path", "Where the run writes.", sample=SAMPLE_OUT, default=...)
    replicas: Literal[2, 4, 8, 16] = parameter("run.replicas", "Instances that train.", default=2, example=4)
    generation_replicas: Count = published(
        "run.generation_replicas", f"Instances that sample. {NO_RANGE}", default=2, example=4
    )
    rollout_worker_replicas: Count = published(
        "run.rollout_worker_replicas",
        f"Workers that call the reward, up to 64 times at once each. {NO_RANGE}",
        default=1,
        example=2,
    )


class HyperPodFullRun(HyperPodRun):
    """A HyperPod cluster: what is trained, on what, and which reward scores it."""

    replicas: Literal[2, 4, 8, 16] = parameter(
        "run.replicas",
        "Instances that train.",
        default=4,
        example=4,
        conflict="the parameter file has 4 and the published recipe 2",
    )


class _Hyperparameters(Table):
    """What the policy is trained with."""

    max_steps: Annotated[int, Field(ge=5, le=100_000)] = parameter(f"{_TRAINER}.max_steps", "Steps.", default=10)
    save_steps: Annotated[int, Field(ge=0, le=100_000)] | None = parameter(
        f"{_TRAINER}.save_steps",
        "Steps between checkpoints, and not more than max_steps. 0 saves at the end only. Left out, 10 or max_steps.",
        example=10,
        conflict="the parameter file has 10 and the published recipe the value of max_steps",
    )
    max_length: Annotated[int, Field(ge=4096, le=32_768)] = parameter(
        f"{_TRAINING}.max_length", "Tokens of a prompt and its answer together.", default=8192, example=16_384
    )
    max_new_tokens: Count = published(
        f"{_GENERATOR}.max_new_tokens", f"Tokens of an answer. {NO_RANGE}", default=6000, example=8192
    )
    reasoning_effort: Literal["low", "high", "none"] = published(
        f"{_TRAINING}.reasoning_effort",
        'How much the model thinks. "none" writes null. Bedrock\'s "medium" is in no training recipe.',
        default="high",
        example="low",
    )
    temperature: NotBelow0 = published(
        f"{_GENERATOR}.temperature", f"Of sampling. {NO_RANGE}", default=1.0, example=1.0
    )
    set_random_seed: bool = published(
        f"{_GENERATOR}.set_random_seed", "Whether sampling is seeded.", default=True, example=False
    )
    weight_decay: Share = parameter(f"{_OPTIMIZER}.weight_decay", "Of AdamW.", default=0.0, example=0.01)
    adam_beta1: _Beta = parameter(f"{_OPTIMIZER}.adam_beta1", "Of AdamW.", default=0.9, example=0.9)
    adam_beta2: _Beta = parameter(f"{_OPTIMIZER}.adam_beta2", "Of AdamW.", default=0.95, example=0.95)
    lambda_batch_size: Count | None = guide(
        f"{_REWARD}.lambda_batch_size",
        f"Samples of one call of the reward. Left out, the service chooses. {NO_RANGE} AWS's texts have 64 and 128.",
        example=64,
    )


class SmtjFull(_Hyperparameters):
    """What the policy is trained with."""

    global_batch_size: Annotated[int, Field(ge=16, le=256)] = parameter(
        f"{_TRAINING}.global_batch_size", "Samples of a step.", default=64, sample=64
    )
    number_generation: Annotated[int, Field(ge=2, le=16)] = published(
        f"{_ROLLOUT}.advantage_strategy.number_generation",
        "Answers sampled for a prompt. On SMTJ it is no override parameter: it stands in the recipe only.",
        default=2,
        sample=8,
        conflict="the published recipe has 2, the user guide 4, and HyperPod's recipe 8",
    )
    top_k: TopK = published(
        f"{_GENERATOR}.top_k",
        f"Tokens that sampling chooses from. {NO_RANGE} HyperPod's recipe has 0, which means all.",
        default=1,
        sample=0,
        conflict="the published recipe has 1, which is greedy, and HyperPod's recipe 0",
    )
    max_steps: Annotated[int, Field(ge=5, le=100_000)] = parameter(
        f"{_TRAINER}.max_steps",
        "Steps.",
        default=10,
        sample=10,
        conflict="the parameter file has 10 and the published recipe 5",
    )
    learning_rate: Annotated[float, Field(ge=1e-7, le=1e-3)] = parameter(
        f"{_OPTIMIZER}.lr",
        "Of AdamW.",
        default=1e-5,
        sample=1e-5,
        conflict="the parameter file has 1e-05, the published recipe 0.0001 and the user guide 1e-06",
    )
    kl_loss_coef: _SmallShare = parameter(
        f"{_TRAINER}.kl_loss_coef",
        "How strongly the policy is held to its start.",
        default=0.001,
        example=0.001,
        conflict="the published recipe has 0.001 and the user guide 0",
    )
    ent_coeff: _SmallShare = published(f"{_TRAINER}.ent_coeff", "Weight of entropy.", default=0.0, example=0.001)
    lambda_concurrency_limit: Count = published(
        f"{_REWARD}.lambda_concurrency_limit", f"Calls of the reward at once. {NO_RANGE}", default=12, example=64
    )


_ALPHA = "Scale of LoRA. AWS's comments name 32 to 192; the parameter file takes 16, 32 and 64 only."


class SmtjLora(SmtjFull):
    """What the policy is trained with."""

    global_batch_size: Annotated[int, Field(ge=16, le=128)] = parameter(
        f"{_TRAINING}.global_batch_size", "Samples of a step.", default=64, sample=64
    )
    lora_alpha: Literal[16, 32, 64] = parameter(
        f"{_LORA}.alpha",
        _ALPHA,
        default=32,
        sample=32,
        conflict="the parameter file and the published recipe have 32 and the user guide 64",
    )
    learning_rate_ratio: Annotated[float, Field(ge=0, le=100)] = parameter(
        f"{_LORA}.lora_plus_lr_ratio",
        "Factor on the learning rate of LoRA's second matrix. The recipe of SMTJ calls it lora_plus_lr_ratio.",
        default=64.0,
        example=64.0,
    )


class _HyperPod(_Hyperparameters):
    """What the policy is trained with."""

    global_batch_size: Annotated[int, Field(ge=16, le=256)] = parameter(
        f"{_TRAINING}.global_batch_size",
        "Samples of a step. A sample is one answer, not one prompt.",
        default=256,
        sample=256,
    )
    number_generation: Annotated[int, Field(ge=2, le=16)] = parameter(
        f"{_ROLLOUT}.advantage_strategy.number_generation", "Answers sampled for a prompt.", default=8, sample=8
    )
    top_k: TopK = published(
        f"{_GENERATOR}.top_k",
        f"Tokens that sampling chooses from. 0 means all. {NO_RANGE}",
        default=0,
        example=0,
    )
    max_length: Annotated[int, Field(ge=4096, le=32_768)] = parameter(
        f"{_TRAINING}.max_length", "Tokens of a prompt and its answer together.", default=10_240, example=16_384
    )
    max_new_tokens: Count = published(
        f"{_GENERATOR}.max_new_tokens", f"Tokens of an answer. {NO_RANGE}", default=8192, example=8192
    )
    max_steps: Annotated[int, Field(ge=5, le=100_000)] = parameter(
        f"{_TRAINER}.max_steps",
        "Steps.",
        default=10,
        sample=10,
        conflict="the parameter file has 10 and the published recipe 100",
    )
    learning_rate: Annotated[float, Field(ge=1e-8, le=1e-3)] = parameter(
        f"{_OPTIMIZER}.lr", "Of AdamW.", default=7e-7, sample=7e-7
    )
    ent_coeff: _SmallShare = published(f"{_TRAINER}.ent_coeff", "Weight of entropy.", default=0.001, example=0.001)
    lambda_concurrency_limit: Count = published(
        f"{_REWARD}.lambda_concurrency_limit", f"Calls of the reward at once. {NO_RANGE}", default=100, example=200
    )
    age_tolerance: Annotated[int, Field(ge=1, le=20)] = guide(
        f"{_ROLLOUT}.rollout_strategy.age_tolerance",
        "Updates that the policy of a sample may be behind.",
        default=2,
        example=2,
    )
    refit_freq: Annotated[int, Field(ge=1, le=4)] = guide(
        f"{_TRAINER}.refit_freq", "Steps between updates of the policy that samples.", default=4, example=4
    )
    clip_ratio_high: Annotated[float, Field(ge=0, le=0.5)] = parameter(
        f"{_TRAINER}.clip_ratio_high", "How much more likely one update may make a token.", default=0.2, example=0.28
    )
    loss_scale: NotBelow0 = published(
        f"{_TRAINER}.loss_scale", f"Factor on the loss. {NO_RANGE}", default=1.0, example=1.0
    )
    save_top_k: Count = published(
        f"{_TRAINER}.save_top_k", f"Checkpoints that are kept. {NO_RANGE}", default=5, example=5
    )
    shuffle: bool = published(f"{_TRAINING}.data.shuffle", "Whether prompts are shuffled.", default=False, example=True)


class HyperPodFull(_HyperPod):
    """What the policy is trained with."""

    max_context_length: Annotated[int, Field(ge=1, le=131_072)] = parameter(
        "",
        "Context for which SageMaker's hub chooses instances. It is an override parameter and in no recipe.",
        default=8192,
        example=8192,
    )


class HyperPodLora(_HyperPod):
    """What the policy is trained with."""

    lora_alpha: Literal[16, 32, 64] = parameter(f"{_LORA}.alpha", _ALPHA, default=32, sample=32)
    learning_rate_ratio: Annotated[float, Field(ge=1, le=70)] = parameter(
        f"{_LORA}.loraplus_lr_ratio",
        "Factor on the learning rate of LoRA's second matrix. The recipe of HyperPod calls it loraplus_lr_ratio.",
        default=64.0,
        example=64.0,
    )
