"""The configuration of a Nova recipe: its fields, each with its rule, default, source and places in the recipe.

There is one class for each published recipe of reinforcement fine-tuning: SageMaker training jobs (SMTJ) and HyperPod,
each with LoRA, with all weights, and for an evaluation. Hyperparameters have the names of SageMaker's override
parameters where those exist.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from aws_rft_sdk.jobs._tables import Form, Table, setting
from aws_rft_sdk.jobs.config import S3, LambdaArn, RoleArn
from aws_rft_sdk.jobs.types import OURS

PARAMETERS = "hyperpod-recipes 2026-06-23, nova_recipe_template_parameters.json and base_override_parameters.json"
RECIPES = "hyperpod-recipes 2026-06-23, recipes of Nova Lite 2.0"
_GUIDE = "Amazon Nova user guide, reinforcement fine-tuning"
_SDK = "sagemaker-train 1.27.0"
HUB_MODEL = "nova-textgeneration-lite-v2"
"""The model's name in SageMaker's hub, which `RLVRTrainer` takes."""
MODEL_TYPE = "amazon.nova-2-lite-v1:0:256k"
_BASE_MODEL = "nova-lite-2/prod"
_NO_RANGE = "AWS publishes no range."

_TRAINING = "training_config"
_ROLLOUT, _TRAINER = f"{_TRAINING}.rollout", f"{_TRAINING}.trainer"
_GENERATOR, _REWARD = f"{_ROLLOUT}.generator", f"{_ROLLOUT}.rewards.api_endpoint"
_OPTIMIZER, _LORA = f"{_TRAINER}.optim_config", f"{_TRAINER}.peft.lora_tuning"

_Name = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$"),
    Form("a name of at most 63 letters, digits and hyphens, with a letter or a digit at both ends"),
]
_Text = Annotated[str, Field(min_length=1), Form("a text that is not empty")]
_Model = Annotated[
    str,
    Field(pattern=rf"^({_BASE_MODEL}|s3://[^/\s]+/\S+)$"),
    Form(f'"{_BASE_MODEL}", or the S3 URI of a checkpoint'),
]
_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Beta = Annotated[float, Field(ge=0, le=0.999999)]
_NotBelow0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_TopK = Annotated[int, Field(ge=-1)]
_SmallShare = Annotated[float, Field(ge=0, le=0.1)]


def _field(source: str, places: str, text: str, *, conflict: str = "", **about: Any) -> Any:
    """Define a field that stands at these places of the recipe, separated by spaces.

    `conflict` says how sources disagree about the default. A recipe whose author gave no value then has a note.
    """
    found = setting(source, text, **about)
    found.json_schema_extra |= {"places": places.split(), "conflict": conflict}
    return found


_parameter, _recipe, _guide, _ours, _sdk = (
    partial(_field, source) for source in (PARAMETERS, RECIPES, _GUIDE, OURS, _SDK)
)


class _Run(Table):
    """What is run, on what, and which reward scores it."""

    kind: Literal["lora", "full", "eval"] = _ours(
        "", "What the recipe does: train LoRA weights, train all weights, or evaluate.", sample="lora", default=...
    )
    name: _Name = _parameter("run.name", "Name of the run.", sample="my-rft-run", default=...)
    model_type: Literal["amazon.nova-2-lite-v1:0:256k"] = _recipe(
        "run.model_type", "The model. The published recipes are for this one.", default=MODEL_TYPE
    )
    model_name_or_path: _Model = _recipe("run.model_name_or_path", "Where training begins.", default=_BASE_MODEL)
    mlflow_tracking_uri: _Text | None = _parameter(
        "run.mlflow_tracking_uri",
        "MLflow's tracking server or app.",
        example="arn:aws:sagemaker:us-east-1:123456789012:mlflow-app/app-ABC",
    )
    mlflow_experiment_name: _Text | None = _parameter(
        "run.mlflow_experiment_name", "MLflow's experiment.", example="my-experiment"
    )
    mlflow_run_name: _Text | None = _parameter("run.mlflow_run_name", "MLflow's name of the run.", example="my-run")


_ARN = "arn:aws:lambda:us-east-1:123456789012:function:SageMaker-my-reward"
_DATA, _OUT = "s3://my-bucket/train.jsonl", "s3://my-bucket/out/"


class _TrainingRun(_Run):
    """What is trained, on what, and which reward scores it."""

    data_s3_path: S3 = _parameter("run.data_s3_path", "The prompts, a .jsonl file.", sample=_DATA, default=...)
    reward_lambda_arn: LambdaArn = _parameter(
        f"run.reward_lambda_arn {_REWARD}.lambda_arn",
        "The function of the reward. The recipe has it twice, and it is written to both places.",
        sample=_ARN,
        default=...,
    )


class SmtjRun(_TrainingRun):
    """A SageMaker training job: what is trained, on what, and which reward scores it."""

    on: Literal["smtj"] = _ours("", "SageMaker training jobs.", sample="smtj", default=...)
    replicas: Literal[2, 4, 6, 8] = _guide("run.replicas", "Instances.", default=4, example=2)


class HyperPodRun(_TrainingRun):
    """A HyperPod cluster: what is trained, on what, and which reward scores it."""

    on: Literal["hyperpod"] = _ours("", "HyperPod.", sample="hyperpod", default=...)
    output_s3_path: S3 = _parameter("run.output_s3_path", "Where the run writes.", sample=_OUT, default=...)
    replicas: Literal[2, 4, 8, 16] = _parameter("run.replicas", "Instances that train.", default=2, example=4)
    generation_replicas: _Count = _recipe(
        "run.generation_replicas", f"Instances that sample. {_NO_RANGE}", default=2, example=4
    )
    rollout_worker_replicas: _Count = _recipe(
        "run.rollout_worker_replicas",
        f"Workers that call the reward, up to 64 times at once each. {_NO_RANGE}",
        default=1,
        example=2,
    )


class HyperPodFullRun(HyperPodRun):
    """A HyperPod cluster: what is trained, on what, and which reward scores it."""

    replicas: Literal[2, 4, 8, 16] = _parameter(
        "run.replicas",
        "Instances that train.",
        default=4,
        example=4,
        conflict="the parameter file has 4 and the published recipe 2",
    )


class _Hyperparameters(Table):
    """What the policy is trained with."""

    max_steps: Annotated[int, Field(ge=5, le=100_000)] = _parameter(f"{_TRAINER}.max_steps", "Steps.", default=10)
    save_steps: Annotated[int, Field(ge=0, le=100_000)] = _parameter(
        f"{_TRAINER}.save_steps",
        "Steps between checkpoints, and not more than max_steps. 0 saves at the end only.",
        default=10,
        conflict="the parameter file has 10 and the published recipe the value of max_steps",
    )
    max_length: Annotated[int, Field(ge=4096, le=32_768)] = _parameter(
        f"{_TRAINING}.max_length", "Tokens of a prompt and its answer together.", default=8192, example=16_384
    )
    max_new_tokens: _Count = _recipe(
        f"{_GENERATOR}.max_new_tokens", f"Tokens of an answer. {_NO_RANGE}", default=6000, example=8192
    )
    reasoning_effort: Literal["low", "high", "none"] = _recipe(
        f"{_TRAINING}.reasoning_effort",
        'How much the model thinks. "none" writes null. Bedrock\'s "medium" is in no training recipe.',
        default="high",
        example="low",
    )
    temperature: _NotBelow0 = _recipe(
        f"{_GENERATOR}.temperature", f"Of sampling. {_NO_RANGE}", default=1.0, example=1.0
    )
    set_random_seed: bool = _recipe(
        f"{_GENERATOR}.set_random_seed", "Whether sampling is seeded.", default=True, example=False
    )
    weight_decay: _Share = _parameter(f"{_OPTIMIZER}.weight_decay", "Of AdamW.", default=0.0, example=0.01)
    adam_beta1: _Beta = _parameter(f"{_OPTIMIZER}.adam_beta1", "Of AdamW.", default=0.9, example=0.9)
    adam_beta2: _Beta = _parameter(f"{_OPTIMIZER}.adam_beta2", "Of AdamW.", default=0.95, example=0.95)
    lambda_batch_size: _Count | None = _guide(
        f"{_REWARD}.lambda_batch_size",
        f"Samples of one call of the reward. Left out, the service chooses. {_NO_RANGE} AWS's texts have 64 and 128.",
        example=64,
    )


class SmtjFull(_Hyperparameters):
    """What the policy is trained with."""

    global_batch_size: Annotated[int, Field(ge=16, le=256)] = _parameter(
        f"{_TRAINING}.global_batch_size", "Samples of a step.", default=64, sample=64
    )
    number_generation: Annotated[int, Field(ge=2, le=16)] = _recipe(
        f"{_ROLLOUT}.advantage_strategy.number_generation",
        "Answers sampled for a prompt. On SMTJ it is no override parameter: it stands in the recipe only.",
        default=2,
        sample=8,
        conflict="the published recipe has 2, the user guide 4, and HyperPod's recipe 8",
    )
    top_k: _TopK = _recipe(
        f"{_GENERATOR}.top_k",
        f"Tokens that sampling chooses from. {_NO_RANGE} HyperPod's recipe has 0, which means all.",
        default=1,
        sample=0,
        conflict="the published recipe has 1, which is greedy, and HyperPod's recipe 0",
    )
    max_steps: Annotated[int, Field(ge=5, le=100_000)] = _parameter(
        f"{_TRAINER}.max_steps",
        "Steps.",
        default=10,
        sample=10,
        conflict="the parameter file has 10 and the published recipe 5",
    )
    learning_rate: Annotated[float, Field(ge=1e-7, le=1e-3)] = _parameter(
        f"{_OPTIMIZER}.lr",
        "Of AdamW.",
        default=1e-5,
        sample=1e-5,
        conflict="the parameter file has 1e-05, the published recipe 0.0001 and the user guide 1e-06",
    )
    kl_loss_coef: _SmallShare = _parameter(
        f"{_TRAINER}.kl_loss_coef",
        "How strongly the policy is held to its start.",
        default=0.001,
        example=0.001,
        conflict="the published recipe has 0.001 and the user guide 0",
    )
    ent_coeff: _SmallShare = _recipe(f"{_TRAINER}.ent_coeff", "Weight of entropy.", default=0.0, example=0.001)
    lambda_concurrency_limit: _Count = _recipe(
        f"{_REWARD}.lambda_concurrency_limit", f"Calls of the reward at once. {_NO_RANGE}", default=12, example=64
    )


_ALPHA = "Scale of LoRA. AWS's comments name 32 to 192; the parameter file takes 16, 32 and 64 only."


class SmtjLora(SmtjFull):
    """What the policy is trained with."""

    global_batch_size: Annotated[int, Field(ge=16, le=128)] = _parameter(
        f"{_TRAINING}.global_batch_size", "Samples of a step.", default=64, sample=64
    )
    lora_alpha: Literal[16, 32, 64] = _parameter(
        f"{_LORA}.alpha",
        _ALPHA,
        default=32,
        sample=32,
        conflict="the parameter file and the published recipe have 32 and the user guide 64",
    )
    learning_rate_ratio: Annotated[float, Field(ge=0, le=100)] = _parameter(
        f"{_LORA}.lora_plus_lr_ratio",
        "Factor on the learning rate of LoRA's second matrix. The recipe of SMTJ calls it lora_plus_lr_ratio.",
        default=64.0,
        example=64.0,
    )


class _HyperPod(_Hyperparameters):
    """What the policy is trained with."""

    global_batch_size: Annotated[int, Field(ge=16, le=256)] = _parameter(
        f"{_TRAINING}.global_batch_size",
        "Samples of a step. A sample is one answer, not one prompt.",
        default=256,
        sample=256,
    )
    number_generation: Annotated[int, Field(ge=2, le=16)] = _parameter(
        f"{_ROLLOUT}.advantage_strategy.number_generation", "Answers sampled for a prompt.", default=8, sample=8
    )
    top_k: _TopK = _recipe(
        f"{_GENERATOR}.top_k",
        f"Tokens that sampling chooses from. 0 means all. {_NO_RANGE}",
        default=0,
        example=0,
    )
    max_length: Annotated[int, Field(ge=4096, le=32_768)] = _parameter(
        f"{_TRAINING}.max_length", "Tokens of a prompt and its answer together.", default=10_240, example=16_384
    )
    max_new_tokens: _Count = _recipe(
        f"{_GENERATOR}.max_new_tokens", f"Tokens of an answer. {_NO_RANGE}", default=8192, example=8192
    )
    max_steps: Annotated[int, Field(ge=5, le=100_000)] = _parameter(
        f"{_TRAINER}.max_steps",
        "Steps.",
        default=10,
        sample=10,
        conflict="the parameter file has 10 and the published recipe 100",
    )
    learning_rate: Annotated[float, Field(ge=1e-8, le=1e-3)] = _parameter(
        f"{_OPTIMIZER}.lr", "Of AdamW.", default=7e-7, sample=7e-7
    )
    ent_coeff: _SmallShare = _recipe(f"{_TRAINER}.ent_coeff", "Weight of entropy.", default=0.001, example=0.001)
    lambda_concurrency_limit: _Count = _recipe(
        f"{_REWARD}.lambda_concurrency_limit", f"Calls of the reward at once. {_NO_RANGE}", default=100, example=200
    )
    age_tolerance: Annotated[int, Field(ge=1, le=20)] = _guide(
        f"{_ROLLOUT}.rollout_strategy.age_tolerance",
        "Updates that the policy of a sample may be behind.",
        default=2,
        example=2,
    )
    refit_freq: Annotated[int, Field(ge=1, le=4)] = _guide(
        f"{_TRAINER}.refit_freq", "Steps between updates of the policy that samples.", default=4, example=4
    )
    clip_ratio_high: Annotated[float, Field(ge=0, le=0.5)] = _parameter(
        f"{_TRAINER}.clip_ratio_high", "How much more likely one update may make a token.", default=0.2, example=0.28
    )
    loss_scale: _NotBelow0 = _recipe(
        f"{_TRAINER}.loss_scale", f"Factor on the loss. {_NO_RANGE}", default=1.0, example=1.0
    )
    save_top_k: _Count = _recipe(
        f"{_TRAINER}.save_top_k", f"Checkpoints that are kept. {_NO_RANGE}", default=5, example=5
    )
    shuffle: bool = _recipe(f"{_TRAINING}.data.shuffle", "Whether prompts are shuffled.", default=False, example=True)


class HyperPodFull(_HyperPod):
    """What the policy is trained with."""

    max_context_length: Annotated[int, Field(ge=1, le=131_072)] = _parameter(
        "",
        "Context for which SageMaker's hub chooses instances. It is an override parameter and in no recipe.",
        default=8192,
        example=8192,
    )


class HyperPodLora(_HyperPod):
    """What the policy is trained with."""

    lora_alpha: Literal[16, 32, 64] = _parameter(f"{_LORA}.alpha", _ALPHA, default=32, sample=32)
    learning_rate_ratio: Annotated[float, Field(ge=1, le=70)] = _parameter(
        f"{_LORA}.loraplus_lr_ratio",
        "Factor on the learning rate of LoRA's second matrix. The recipe of HyperPod calls it loraplus_lr_ratio.",
        default=64.0,
        example=64.0,
    )


class Evaluation(Table):
    """What the model is evaluated with."""

    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = _recipe(
        "inference.max_new_tokens", "Tokens of an answer.", default=32_768, sample=32_768
    )
    temperature: _NotBelow0 = _recipe("inference.temperature", f"Of sampling. {_NO_RANGE}", default=0.0, sample=0.0)
    top_p: _Share = _recipe("inference.top_p", "Share of probability that sampling chooses from.", default=1.0)
    top_k: _TopK = _recipe(
        "inference.top_k", f"Tokens that sampling chooses from. -1 means all. {_NO_RANGE}", default=-1, example=-1
    )
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = _recipe(
        "inference.top_logprobs", "Most likely tokens that are told for each token. 0 tells none.", default=0, example=5
    )
    reasoning_effort: Literal["low", "medium", "high", "none"] = _recipe(
        "inference.reasoning_effort", 'How much the model thinks. "none" writes null.', default="none", example="high"
    )


class SmtjEvaluationRun(_Run):
    """An evaluation as a SageMaker training job: of which model, and which reward scores it."""

    on: Literal["smtj"] = _ours("", "SageMaker training jobs.", sample="smtj", default=...)
    reward_lambda_arn: LambdaArn = _recipe(
        "rl_env.reward_lambda_arn", "The function of the reward.", sample=_ARN, default=...
    )
    replicas: _Count = _recipe("run.replicas", f"Instances. {_NO_RANGE}", default=1, example=1)


class HyperPodEvaluationRun(SmtjEvaluationRun):
    """An evaluation on HyperPod: of which model, on what, and which reward scores it."""

    on: Literal["hyperpod"] = _ours("", "HyperPod.", sample="hyperpod", default=...)  # type: ignore[assignment]
    data_s3_path: S3 = _recipe("run.data_s3_path", "The prompts, a .jsonl file.", sample=_DATA, default=...)
    output_s3_path: S3 = _recipe("run.output_s3_path", "Where the run writes.", sample=_OUT, default=...)
    replicas: Literal[1] = _recipe("run.replicas", "Instances. HyperPod evaluates on one.", default=1, example=1)


class _Launch(Table):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    instance_type: Literal["ml.p5.48xlarge", "ml.p5en.48xlarge"] = _parameter(
        "", "Instances.", default="ml.p5.48xlarge", example="ml.p5.48xlarge"
    )
    base_job_name: _Name | None = _sdk("", "Beginning of the job's name. Left out, the SDK chooses.", example="my-rft")


class SmtjLaunch(_Launch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    s3_output_path: S3 | None = _sdk(
        "", "Where the job writes. Left out, `output` of the account's default bucket.", example=_OUT
    )
    role: RoleArn | None = _sdk(
        "",
        "Role that the job runs as. Left out, the SDK's default.",
        example="arn:aws:iam::123456789012:role/my-role",
    )


class SmtjFullLaunch(SmtjLaunch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    instance_type: Literal["ml.p5en.48xlarge"] = _parameter(  # type: ignore[assignment]
        "", "Instances. All weights of Nova Lite need p5en.", default="ml.p5en.48xlarge", example="ml.p5en.48xlarge"
    )


class SmtjEvaluationLaunch(SmtjLaunch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    data_s3_path: S3 | None = _recipe(
        "", "The prompts. A training job takes them as a channel: run.data_s3_path is empty there.", sample=_DATA
    )


class HyperPodLaunch(_Launch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    instance_type: Literal["ml.p5.48xlarge"] = _parameter(  # type: ignore[assignment]
        "", "Instances.", default="ml.p5.48xlarge", example="ml.p5.48xlarge"
    )
    cluster_name: _Text | None = _sdk("", "The HyperPod cluster.", example="my-cluster")
    namespace: _Text = _parameter("", "Kubernetes' namespace.", default="kubeflow", example="kubeflow")


class SmtjLoraRecipe(Table):
    """A recipe that trains LoRA weights with a SageMaker training job."""

    recipe: SmtjRun
    hyperparameters: SmtjLora = SmtjLora()
    launch: SmtjLaunch = SmtjLaunch()


class SmtjFullRecipe(Table):
    """A recipe that trains all weights with a SageMaker training job."""

    recipe: SmtjRun
    hyperparameters: SmtjFull = SmtjFull()
    launch: SmtjFullLaunch = SmtjFullLaunch()


class HyperPodLoraRecipe(Table):
    """A recipe that trains LoRA weights on HyperPod."""

    recipe: HyperPodRun
    hyperparameters: HyperPodLora = HyperPodLora()
    launch: HyperPodLaunch = HyperPodLaunch()


class HyperPodFullRecipe(Table):
    """A recipe that trains all weights on HyperPod."""

    recipe: HyperPodFullRun
    hyperparameters: HyperPodFull = HyperPodFull()
    launch: HyperPodLaunch = HyperPodLaunch()


class SmtjEvaluationRecipe(Table):
    """A recipe that evaluates a model with a SageMaker training job."""

    recipe: SmtjEvaluationRun
    hyperparameters: Evaluation = Evaluation()
    launch: SmtjEvaluationLaunch = SmtjEvaluationLaunch()


class HyperPodEvaluationRecipe(Table):
    """A recipe that evaluates a model on HyperPod."""

    recipe: HyperPodEvaluationRun
    hyperparameters: Evaluation = Evaluation()
    launch: HyperPodLaunch = HyperPodLaunch()


Config: TypeAlias = (
    SmtjLoraRecipe
    | SmtjFullRecipe
    | HyperPodLoraRecipe
    | HyperPodFullRecipe
    | SmtjEvaluationRecipe
    | HyperPodEvaluationRecipe
)
KINDS: dict[tuple[str, str], type[Config]] = {
    ("smtj", "lora"): SmtjLoraRecipe,
    ("smtj", "full"): SmtjFullRecipe,
    ("smtj", "eval"): SmtjEvaluationRecipe,
    ("hyperpod", "lora"): HyperPodLoraRecipe,
    ("hyperpod", "full"): HyperPodFullRecipe,
    ("hyperpod", "eval"): HyperPodEvaluationRecipe,
}
"""The class of a configuration, by `recipe.on` and `recipe.kind`."""
PLACES = ("smtj", "hyperpod")
TECHNIQUES = ("lora", "full", "eval")
