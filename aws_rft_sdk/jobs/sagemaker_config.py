"""The file of a multi-turn RL job on SageMaker: its fields, each with its rule, default and source.

Ranges and defaults of hyperparameters are in `aws_rft_sdk.agent_rft`. Rules between fields are in `_sagemaker_rules`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from aws_rft_sdk import agent_rft
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import Hyperparameter
from aws_rft_sdk.jobs._forms import (
    S3,
    File,
    KmsKeyArn,
    LambdaArn,
    MlflowArn,
    ModelPackageArn,
    Qualifier,
    RoleArn,
    S3Prefix,
    Text,
    Vpc,
)
from aws_rft_sdk.jobs._sagemaker_rules import GUIDE, HYPERPARAMETERS, EvaluationSeconds
from aws_rft_sdk.jobs._tables import Form, Shape, Table, setting
from aws_rft_sdk.jobs.types import OURS

_MODEL = "botocore service model sagemaker 2017-07-24"
_EVALUATION = "Amazon SageMaker developer guide, multi-turn RL: evaluation"
_SDK = "sagemaker-train 1.27.0, the official SDK"
_MODELS = "Amazon SageMaker hyperpod-recipes, records of multi-turn RL"

_JobName = Annotated[str, Shape("JobName", "a name of at most 63 letters, digits and inner hyphens", "sagemaker")]
_SchemaVersion = Annotated[str, Shape("JobSchemaVersion", "three numbers with dots", "sagemaker")]
_Region = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$"), Form("an AWS region, for example us-west-2")]
_Runtime = Annotated[
    str,
    Field(pattern=r"^(arn:\S+|[a-zA-Z][a-zA-Z0-9_]{0,99}-[a-zA-Z0-9]{10})$"),
    Form("the ARN or the id of an AgentCore runtime"),
]
_RuntimeId = Annotated[
    str,
    Shape(
        "AgentRuntimeId",
        "the id of an AgentCore runtime, NAME-ID with 10 letters and digits",
        "bedrock-agentcore-control",
    ),
]
_Group = Annotated[
    str,
    Field(
        pattern=r"^(arn:aws[a-z-]*:sagemaker:[a-z0-9-]{9,16}:[0-9]{12}:model-package-group/)?[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$"
    ),
    Form("the ARN or the name of a model package group. A name has at most 63 letters, digits and inner hyphens"),
]
_Data = Annotated[
    str,
    Text,
    Form("the path of a .jsonl, .json, .csv or .parquet file, an S3 URI, or the ARN of a registered dataset"),
]
_Seconds = Annotated[int, Field(ge=1)]
_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_ours, _boto, _guide, _sdk, _evaluation = (
    partial(setting, source) for source in (OURS, _MODEL, GUIDE, _SDK, _EVALUATION)
)


class SageMakerJob(Table):
    """The multi-turn RL job, over SageMaker's CreateJob."""

    on: Literal["sagemaker"] = _ours("The service.", sample="sagemaker", default=...)
    name: _JobName = _boto(
        "Unique in the account and region: the service has nothing else to know a repeated call by.",
        sample="my-job",
        default=...,
    )
    model: Text = setting(
        _MODELS,
        f"One of {', '.join(agent_rft.MODELS)}, or the ARN of a model in SageMaker's public hub.",
        sample="gpt-oss-20b",
        default=...,
    )
    region: _Region = setting(
        _MODELS,
        "; ".join(f"{model.name}: {' or '.join(model.regions)}" for model in agent_rft.MODELS.values()) + ".",
        sample="us-west-2",
        default="us-west-2",
    )
    role_arn: RoleArn = _boto(
        "Role that SageMaker runs the job as.", sample="arn:aws:iam::123456789012:role/my-role", default=...
    )
    accept_eula: bool = _guide(
        "Write true if you have read the licence of the model and accept it. Jobs need that.",
        sample=True,
        default=False,
    )
    max_runtime_seconds: _Seconds | None = _guide(
        f"Time limit. Left out, the service's {agent_rft.MAX_RUNTIME_SECONDS:,} s.",
        example=agent_rft.MAX_RUNTIME_SECONDS,
    )
    schema_version: _SchemaVersion = _sdk(
        "Of the job's document.", default=agent_rft.SCHEMA_VERSION, example=agent_rft.SCHEMA_VERSION
    )
    input_model_package: ModelPackageArn | None = _guide(
        "A checkpoint to go on from. After a resumable one the job does the next step, and all but the time limit must "
        "be as before. After a model it begins with step 1, and only the base model must be the same.",
        example="arn:aws:sagemaker:{region}:123456789012:model-package/my-model/1",
    )


class Agent(Table):
    """The agent that the rollouts are sent to. Give exactly one of its three names."""

    agentcore_arn: _Runtime | None = _guide(
        "An AgentCore runtime. Its ARN, or its id if it is in the account of `job.role_arn`.",
        sample="arn:aws:bedrock-agentcore:{region}:123456789012:runtime/my_agent-AbCdEfGhIj",
    )
    agentcore_id: _RuntimeId | None = _sdk("The id of the AgentCore runtime.", example="my_agent-AbCdEfGhIj")
    lambda_arn: LambdaArn | None = _guide(
        "A Lambda function that forwards rollouts to the agent.",
        example="arn:aws:lambda:{region}:123456789012:function:my-forwarder",
    )
    qualifier: Qualifier = _sdk(
        "Endpoint or version of the AgentCore runtime that is called.", default="DEFAULT", example="DEFAULT"
    )


class SageMakerData(Table):
    """The prompts. A local file is checked as `aws-rft dataset check --for mtrl` does, and uploaded."""

    train: _Data = _guide("More prompts than a batch has.", sample="prompts.jsonl", default=...)
    validation: _Data | None = _guide(
        "Prompts that the model is measured on.", example="s3://my-bucket/validation.jsonl"
    )
    upload_to: S3 | None = _ours(
        "Where local files go. Left out, `data` below `output.s3`.", example="s3://my-bucket/data/"
    )


class SageMakerOutput(Table):
    """Where the job writes: artifacts, tuned models, checkpoints, metrics and traces."""

    s3: S3Prefix = _guide("A prefix for artifacts.", sample="s3://my-bucket/jobs/", default=...)
    kms_key: KmsKeyArn | None = _guide(
        "Key that encrypts them. Left out, a key of AWS.",
        example="arn:aws:kms:{region}:123456789012:key/01234567-89ab-cdef-0123-456789abcdef",
    )
    model_package_group: _Group = _guide("Group of the tuned model.", sample="my-model", default=...)
    checkpoint_package_group: _Group = _guide(
        "Group of the resumable checkpoints. It must be another one.", sample="my-model-checkpoints", default=...
    )
    create_groups: bool = _ours("Whether `submit` creates the groups that do not exist.", default=False, example=True)
    mlflow_arn: MlflowArn = _guide(
        "MLflow app for metrics and traces.",
        sample="arn:aws:sagemaker:{region}:123456789012:mlflow-app/app-EXAMPLE",
        default=...,
    )
    mlflow_experiment: Text | None = _guide("Name of the experiment in MLflow.", example="my-experiment")
    mlflow_run: Text | None = _guide("Name of the job's run in MLflow.", example="my-run")
    mlflow_in: Literal["training", "output"] = _sdk(
        "Block of the document that names the MLflow app. The official SDK writes it into TrainingConfig, and "
        "DescribeJob shows it there. The developer guide writes it into OutputDataConfig.",
        default="training",
        example="training",
    )


def _tuned(purpose: str, name: str, *, sample: JSON = None) -> JSON:
    """Define a field of a hyperparameter of training. Its rules are those of the models that have it."""
    models: dict[str, list[str]] = {}
    for model in agent_rft.MODELS.values():
        if found := model.hyperparameters.get(name):
            models.setdefault(_rule(found), []).append(model.name)
    everywhere = [list(agent_rft.MODELS)] == list(models.values())
    rules = [rule if everywhere else f"{rule}, for {', '.join(names)}" for rule, names in models.items()]
    default = next(
        model.hyperparameters[name].default for model in agent_rft.MODELS.values() if name in model.hyperparameters
    )
    return setting(HYPERPARAMETERS, purpose, sample=sample, example=default, rule="; ".join(rules))


def _judged(purpose: str, name: str) -> JSON:
    """Define a field of a hyperparameter of evaluations."""
    found = agent_rft.EVALUATION_HYPERPARAMETERS[name]
    return setting(_EVALUATION, purpose, example=found.default, rule=_rule(found))


def _rule(found: Hyperparameter) -> str:
    default = ", ".join(map(str, found.default)) if isinstance(found.default, tuple) else found.default
    return f"{found.rule} (default {default})"


class _Hyperparameters(Table):
    """Names are checked by `_sagemaker_rules`, which knows the model."""

    model_config = ConfigDict(extra="allow")


class SageMakerHyperparameters(_Hyperparameters):
    """What the job is run with, by the service's names. Only what is written here is sent."""

    global_batch_size: JSON = _tuned("Prompts of a training step.", "global_batch_size", sample=32)
    group_size: JSON = _tuned("Rollouts of a prompt.", "group_size", sample=8)
    max_steps: JSON = _tuned("Training steps at most.", "max_steps", sample=20)
    max_epochs: JSON = _tuned("Passes over the prompts at most.", "max_epochs")
    learning_rate: JSON = _tuned("Size of an update.", "learning_rate")
    advantage_method: JSON = _tuned("How rewards become advantages.", "advantage_method")
    loss_fn: JSON = _tuned("Loss of the policy.", "loss_fn")
    clip_low_threshold: JSON = _tuned("Lowest probability ratio that is not clipped.", "clip_low_threshold")
    clip_high_threshold: JSON = _tuned("Highest probability ratio that is not clipped.", "clip_high_threshold")
    temperature: JSON = _tuned("Of sampling in training. Validation has 0.", "temperature")
    sampling_top_p: JSON = _tuned("Of sampling in training.", "sampling_top_p")
    sampling_max_tokens: JSON = _tuned("Tokens of a turn at most.", "sampling_max_tokens")
    val_every: JSON = _tuned("Training steps between two validations.", "val_every")
    save_every: JSON = _tuned("Training steps between two checkpoints.", "save_every")
    lora_rank: JSON = _tuned("Rank of the adapter.", "lora_rank")
    lora_alpha: JSON = _tuned("Scale of the adapter.", "lora_alpha")
    lora_plus_lr_ratio: JSON = _tuned("Learning rate of the adapter's B over that of its A.", "lora_plus_lr_ratio")
    adam_beta1: JSON = _tuned("Of the optimizer.", "adam_beta1")
    adam_beta2: JSON = _tuned("Of the optimizer.", "adam_beta2")
    adam_eps: JSON = _tuned("Of the optimizer.", "adam_eps")
    adam_weight_decay: JSON = _tuned("Of the optimizer.", "adam_weight_decay")
    adam_grad_clip_norm: JSON = _tuned("Norm that gradients are clipped at.", "adam_grad_clip_norm")
    max_steps_off_policy: JSON = _tuned(
        "Steps that a rollout may be older than its update. 0 is on-policy.", "max_steps_off_policy"
    )
    rollout_timeout: JSON = _tuned("Seconds of a rollout at most.", "rollout_timeout")
    rollout_max_retries: JSON = _tuned("Retries of a failed rollout.", "rollout_max_retries")
    rollout_max_concurrency: JSON = _tuned("Rollouts at once.", "rollout_max_concurrency")
    success_threshold: JSON = _tuned("Least reward of a success.", "success_threshold")
    pass_k_values: JSON = _tuned("The k of pass@k.", "pass_k_values")


class Evaluation(_Hyperparameters):
    """What evaluations of base and tuned model are run with. `aws-rft job evaluate` sends it; `submit` does not."""

    dataset: _Data = _evaluation(
        "Prompts that are not trained on. A local file is checked and uploaded.",
        example="s3://my-bucket/evaluation.jsonl",
        default=...,
    )
    max_runtime_seconds: EvaluationSeconds = _evaluation(
        "Time limit.", default=agent_rft.MAX_RUNTIME_SECONDS, example=agent_rft.MAX_RUNTIME_SECONDS
    )
    eval_group_size: JSON = _judged("Rollouts of a prompt. pass@k needs k of them.", "eval_group_size")
    temperature: JSON = _judged("Of sampling.", "temperature")
    sampling_top_p: JSON = _judged("Of sampling.", "sampling_top_p")
    sampling_max_tokens: JSON = _judged("Tokens of a turn at most.", "sampling_max_tokens")
    rollout_timeout: JSON = _judged("Seconds of a rollout at most.", "rollout_timeout")
    rollout_max_retries: JSON = _judged("Retries of a failed rollout.", "rollout_max_retries")
    rollout_max_concurrency: JSON = _judged("Rollouts at once.", "rollout_max_concurrency")
    success_threshold: JSON = _judged("Least reward of a success.", "success_threshold")
    pass_k_values: JSON = _judged("The k of pass@k and pass^k.", "pass_k_values")


class Prices(Table):
    """USD for a million tokens, for estimates. Nothing of it is sent. The examples were seen for gpt-oss-20b."""

    prefill: _Price = _ours("Tokens that the model reads in rollouts.", default=..., example=0.12)
    sample: _Price = _ours("Tokens that the model writes in rollouts.", default=..., example=0.3)
    train: _Price = _ours("Tokens that the model is trained on.", default=..., example=0.36)


class SageMakerConfig(File):
    """The file of a multi-turn RL job on SageMaker."""

    grader: ClassVar[None] = None
    """The agent itself tells the rewards."""
    job: SageMakerJob
    agent: Agent
    data: SageMakerData
    output: SageMakerOutput
    hyperparameters: SageMakerHyperparameters = SageMakerHyperparameters()
    evaluation: Evaluation | None = None
    vpc: Vpc | None = None
    prices: Prices | None = None
    tags: Annotated[
        dict[
            Annotated[str, Shape("TagKey", service="sagemaker")], Annotated[str, Shape("TagValue", service="sagemaker")]
        ],
        Field(max_length=50),
        Form("a table of at most 50 tags: keys of 1 to 128 and texts of at most 256 letters, digits, spaces, ._:/=+@-"),
    ] = _boto("Tags of the job.", default={})
