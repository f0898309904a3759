"""The file of a training job: its fields, each with its rule, default and source.

A field's definition is the only place that knows its range. What a problem says, what `aws-rft job init` writes and
what the documentation lists come from it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from aws_rft_sdk.jobs._forms import PRINTABLE, S3, File, LambdaArn, RoleArn, Text, Vpc
from aws_rft_sdk.jobs._shapes import BOTOCORE, FUNCTION_NAME
from aws_rft_sdk.jobs._tables import Form, Shape, Table, setting
from aws_rft_sdk.jobs.sagemaker_config import SageMakerConfig
from aws_rft_sdk.jobs.types import OURS

MANTLE = "Amazon Bedrock user guide, create and manage fine-tuning jobs for open-weight models using OpenAI APIs"
MANTLE_DATA = "Amazon Bedrock user guide, prepare data for open-weight models"
MANTLE_REWARD = "Amazon Bedrock user guide, setting up reward functions for open-weight models"
NOVA = "Amazon Bedrock user guide, create and manage fine-tuning jobs for Amazon Nova models"
_OPENAI = "openai client, ReinforcementHyperparameters"

_LAMBDA = "AWS Lambda API, CreateFunction"

MODELS = {"bedrock": ("openai.gpt-oss-20b", "qwen.qwen3-32b"), "nova": ("amazon.nova-2-lite-v1:0:256k",)}
"""Models whose fine-tuning is documented. Ids are opaque: another one is noted and is no problem."""
_NO_RANGE = "AWS publishes no range and no default."
NOT_ON_MANTLE = "OpenAI's API has it. Whether Bedrock takes it is not known."
_CHOSEN = "Left out, the service chooses."


_Path = Annotated[str, Field(pattern=PRINTABLE), Form("the path of a .jsonl file, from the folder of this file")]
_Reference = Annotated[
    str, Field(pattern=r"^.+:[^:]+$"), Form("a reward as path/to/file.py:NAME, from the folder of this file")
]
FunctionName = Annotated[
    str, Field(pattern=f"^{FUNCTION_NAME}$"), Form("the name of a Lambda function: at most 64 letters, digits, - and _")
]
_JobName = Annotated[
    str,
    Shape("JobName", "a name of at most 63 letters, digits, +, - and ., the first a letter or a digit"),
]
ModelName = Annotated[
    str,
    Shape("CustomModelName", "a name of at most 63 letters and digits, each with at most one - or _ behind it"),
]
_KmsKey = Annotated[str, Shape("KmsKeyId", "the ARN, id or alias/NAME of a KMS key")]
_Metadata = Annotated[
    dict[str, str],
    Shape("RequestMetadataMap", "a table with one key and one text, each of at most 256 characters"),
]
_Count = Annotated[int, Field(ge=1)]
_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Auto = Literal["auto"]


_ours, _mantle, _mantle_data, _mantle_reward, _openai, _boto, _nova, _lambda = (
    partial(setting, source) for source in (OURS, MANTLE, MANTLE_DATA, MANTLE_REWARD, _OPENAI, BOTOCORE, NOVA, _LAMBDA)
)


class Grader(Table):
    """What scores the answers: a Lambda function that exists, or a reward that is deployed first."""

    lambda_arn: LambdaArn | None = _mantle_reward(
        "A function that is deployed already, in the region of the job. Give this or `reward`.",
        sample="arn:aws:lambda:{region}:123456789012:function:my-grader",
    )
    reward: _Reference | None = _ours(
        "A reward to deploy as a function. Give this or `lambda_arn`.", example="reward.py:reward"
    )
    name: FunctionName | None = _lambda(
        "Name of the function that `reward` becomes. Left out, the job's name.", example="my-grader"
    )
    role: RoleArn | None = _lambda(
        "Role that the function runs as. Left out, a role is created.",
        example="arn:aws:iam::123456789012:role/my-grader",
    )
    with_deps: bool = _ours("Whether to add the packages that the reward imports.", default=False, example=True)


class BedrockJob(Table):
    """The job, for an open-weight model over Bedrock's OpenAI-compatible API."""

    on: Literal["bedrock"] = _ours("The service.", sample="bedrock", default=...)
    name: Text = _ours(
        "For you, and for the function that `grader.reward` becomes. Bedrock takes no name.",
        sample="my-job",
        default=...,
    )
    model: Text = _mantle(
        f"Documented are {' and '.join(MODELS['bedrock'])}.", sample=MODELS["bedrock"][0], default=...
    )
    region: Literal["us-west-2"] = _mantle(
        "Fine-tuning of open-weight models exists in us-west-2 only.", sample="us-west-2", default="us-west-2"
    )


class BedrockData(Table):
    """The prompts, checked by the rules of `aws-rft dataset check --for bedrock` and uploaded."""

    train: _Path = _mantle_data("100 to 20,000 rows.", sample="train.jsonl", default=...)
    validation: _Path | None = _mantle(
        "CloudTrail's records name this parameter, no page describes it.", example="validation.jsonl"
    )
    require_reference: bool = _mantle_data("Whether each row needs a reference_answer.", default=True, example=False)


class BedrockHyperparameters(Table):
    """What the job is run with. AWS publishes neither ranges nor defaults; the values written are the walkthrough's."""

    n_epochs: _Count | _Auto | None = _mantle(f"Passes over the data. {_NO_RANGE}", sample=1)
    batch_size: _Count | _Auto | None = _mantle(f"Prompts of a training step. {_NO_RANGE}", sample=4)
    learning_rate_multiplier: _Above0 | _Auto | None = _mantle(
        f"Factor on the model's learning rate. {_NO_RANGE} The walkthrough advises less than 1.0 if rewards are noisy.",
        sample=1.0,
    )
    compute_multiplier: _Above0 | _Auto | None = _openai(f"Compute for exploration. {NOT_ON_MANTLE}", example="auto")
    eval_interval: _Count | _Auto | None = _openai(f"Steps between evaluations. {NOT_ON_MANTLE}", example=10)
    eval_samples: _Count | _Auto | None = _openai(f"Samples of an evaluation. {NOT_ON_MANTLE}", example=1)
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = _openai(NOT_ON_MANTLE, example="medium")


class NovaJob(Table):
    """The job, for a Nova model over CreateModelCustomizationJob."""

    on: Literal["nova"] = _ours("The service.", sample="nova", default=...)
    name: _JobName = _boto("Unique in your account.", sample="my-job", default=...)
    model: Annotated[str, Shape("BaseModelIdentifier", "the id or the ARN of a base model")] = _nova(
        f"The base model: an id or an ARN. Documented is {MODELS['nova'][0]}.",
        sample=MODELS["nova"][0],
        default=...,
    )
    region: Literal["us-east-1"] = _nova(
        "Reinforcement fine-tuning of Nova exists in us-east-1 only.", sample="us-east-1", default="us-east-1"
    )
    role_arn: RoleArn = _boto(
        "Role that Bedrock runs the job as. `aws-rft iam show --for job-role` prints its policies.",
        sample="arn:aws:iam::123456789012:role/my-role",
        default=...,
    )
    custom_model_name: ModelName | None = _boto(
        "Name of the tuned model. Left out, the job's name.", example="my-model"
    )
    kms_key: _KmsKey | None = _boto(
        "Key that encrypts the tuned model. Left out, a key of AWS.", example="alias/my-key"
    )


class Filter(Table):
    """One condition on the metadata of a logged request. Give `equals` or `not_equals`."""

    equals: _Metadata | None = _boto("The metadata has this value.")
    not_equals: _Metadata | None = _boto("The metadata has another value.")


_Filters = Annotated[
    list[Filter], Field(min_length=1, max_length=16), Form("a list of 1 to 16 tables with equals or not_equals")
]


class Filters(Filter):
    """Which logged requests are trained on. Give exactly one of the fields."""

    and_all: _Filters | None = _boto("All conditions hold.")
    or_all: _Filters | None = _boto("One of the conditions holds.")


class NovaData(Table):
    """The prompts: a local file, checked as `aws-rft dataset check --for nova` does, an S3 URI, or invocation logs."""

    train: Text | None = _nova(
        "A .jsonl file, which is checked and uploaded, or the S3 URI of one. Give this or `invocation_logs`.",
        sample="train.jsonl",
    )
    validation: Annotated[list[Text], Field(max_length=10), Form("a list of at most 10 files or S3 URIs")] = _boto(
        "Files or S3 URIs that the model is measured on.", default=[], example=["validation.jsonl"]
    )
    upload_to: S3 | None = _ours(
        "Where local files go. Left out, `data` below `output.s3`.", example="s3://my-bucket/data/"
    )
    require_reference: bool = _mantle_data(
        "Whether each row of a local file needs a reference_answer.", default=True, example=False
    )
    invocation_logs: S3 | None = _boto(
        "Where Bedrock's invocation logs are. Give this or `train`.", example="s3://my-bucket/logs/"
    )
    use_prompt_response: bool = _boto("Whether logged answers are used, too.", default=False, example=True)
    filters: Filters | None = _boto(
        "Which logged requests are used. Left out, all.", example='{{equals = {{team = "a"}}}}'
    )


class NovaHyperparameters(Table):
    """What the job is run with, by the service's names. The service publishes ranges and no defaults."""

    epochCount: Annotated[int, Shape("EpochCount")] | None = _boto(
        f"Passes over the data. {_CHOSEN} nova-forge-sdk's template has 1.", sample=1
    )
    batchSize: Annotated[int, Shape("RFTBatchSize")] | None = _boto(
        f"Prompts of a training step. {_CHOSEN} nova-forge-sdk's template has 128, AWS's sample for GSM8K 32.",
        sample=32,
    )
    learningRate: Annotated[float, Shape("RFTLearningRate")] | None = _boto(
        f"{_CHOSEN} nova-forge-sdk's template has 1e-5.", sample=1e-5
    )
    trainingSamplePerPrompt: Annotated[int, Shape("RFTTrainingSamplePerPrompt")] | None = _boto(
        f"Answers sampled for a prompt. {_CHOSEN} nova-forge-sdk's template has 8.", sample=8
    )
    maxPromptLength: _Count | None = _boto(
        f"Tokens of a prompt. {_CHOSEN} No range is published. nova-forge-sdk's template has 8192.", example=8192
    )
    inferenceMaxTokens: _Count | None = _boto(
        f"Tokens of an answer. {_CHOSEN} No range is published. nova-forge-sdk's template has 2048.", example=2048
    )
    reasoningEffort: Annotated[str, Shape("ReasoningEffort")] | None = _boto(
        f"{_CHOSEN} nova-forge-sdk's template has medium.", example="medium"
    )
    evalInterval: Annotated[int, Shape("RFTEvalInterval")] | None = _boto(
        f"Steps between evaluations. {_CHOSEN} nova-forge-sdk's template has 10.", example=10
    )


class Output(Table):
    """Where the job writes."""

    s3: S3 = _boto("A prefix for metrics and, below `data`, local files.", sample="s3://my-bucket/jobs/", default=...)


class BedrockConfig(File):
    """The file of a job on Bedrock's OpenAI-compatible API."""

    job: BedrockJob
    data: BedrockData
    grader: Grader
    hyperparameters: BedrockHyperparameters = BedrockHyperparameters()


class NovaConfig(File):
    """The file of a job for a Nova model."""

    job: NovaJob
    data: NovaData
    grader: Grader
    hyperparameters: NovaHyperparameters = NovaHyperparameters()
    output: Output
    tags: Annotated[
        dict[Annotated[str, Shape("TagKey")], Annotated[str, Shape("TagValue")]],
        Field(max_length=200),
        Form(
            "a table of at most 200 tags: keys of 1 to 128 and texts of at most 256 letters, digits, spaces, ._:/=+@-"
        ),
    ] = _boto("Tags of the job and of the tuned model.", default={})
    vpc: Vpc | None = None


Config: TypeAlias = BedrockConfig | NovaConfig | SageMakerConfig
ConfigKind: TypeAlias = type[BedrockConfig] | type[NovaConfig] | type[SageMakerConfig]
KINDS: dict[str, ConfigKind] = {"bedrock": BedrockConfig, "nova": NovaConfig, "sagemaker": SageMakerConfig}
