"""The kinds of a Nova recipe: one class for each published recipe of reinforcement fine-tuning.

SageMaker training jobs (SMTJ) and HyperPod each have one for LoRA, one for all weights, and one for an evaluation.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from aws_rft_sdk.jobs._forms import S3, LambdaArn, RoleArn
from aws_rft_sdk.jobs._recipe_tables import (
    NO_RANGE,
    SAMPLE_ARN,
    SAMPLE_DATA,
    SAMPLE_OUT,
    Count,
    HyperPodFull,
    HyperPodFullRun,
    HyperPodLora,
    HyperPodRun,
    Name,
    NotBelow0,
    Run,
    Share,
    SmtjFull,
    SmtjLora,
    SmtjRun,
    Text,
    TopK,
    ours,
    parameter,
    published,
    sdk,
)
from aws_rft_sdk.jobs._tables import Form, Table


class Evaluation(Table):
    """What the model is evaluated with."""

    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = published(
        "inference.max_new_tokens", "Tokens of an answer.", default=32_768, sample=32_768
    )
    temperature: NotBelow0 = published("inference.temperature", f"Of sampling. {NO_RANGE}", default=0.0, sample=0.0)
    top_p: Share = published("inference.top_p", "Share of probability that sampling chooses from.", default=1.0)
    top_k: TopK = published(
        "inference.top_k", f"Tokens that sampling chooses from. -1 means all. {NO_RANGE}", default=-1, example=-1
    )
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = published(
        "inference.top_logprobs", "Most likely tokens that are told for each token. 0 tells none.", default=0, example=5
    )
    reasoning_effort: Literal["low", "medium", "high", "none"] = published(
        "inference.reasoning_effort", 'How much the model thinks. "none" writes null.', default="none", example="high"
    )


class _EvaluationRun(Run):
    reward_lambda_arn: LambdaArn = published(
        "rl_env.reward_lambda_arn", "The function of the reward.", sample=SAMPLE_ARN, default=...
    )


class SmtjEvaluationRun(_EvaluationRun):
    """The evaluation: a SageMaker training job. It names the model and the reward."""

    on: Literal["smtj"] = ours("", "SageMaker training jobs.", sample="smtj", default=...)
    replicas: Count = published("run.replicas", f"Instances. {NO_RANGE}", default=1, example=1)


class HyperPodEvaluationRun(_EvaluationRun):
    """The evaluation on HyperPod. It names the model, the data and the reward."""

    on: Literal["hyperpod"] = ours("", "HyperPod.", sample="hyperpod", default=...)
    data_s3_path: S3 = published("run.data_s3_path", "The prompts, a .jsonl file.", sample=SAMPLE_DATA, default=...)
    output_s3_path: S3 = published("run.output_s3_path", "Where the run writes.", sample=SAMPLE_OUT, default=...)
    replicas: Annotated[int, Field(ge=1, le=1), Form("1")] = published(
        "run.replicas", "Instances. HyperPod evaluates on one.", default=1, example=1
    )


class _Launch(Table):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    instance_type: Literal["ml.p5.48xlarge", "ml.p5en.48xlarge"] = parameter(
        "", "Instances.", default="ml.p5.48xlarge", example="ml.p5.48xlarge"
    )
    base_job_name: Name | None = sdk("", "Beginning of the job's name. Left out, the SDK chooses.", example="my-rft")


class SmtjLaunch(_Launch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    s3_output_path: S3 | None = sdk(
        "", "Where the job writes. Left out, `output` of the account's default bucket.", example=SAMPLE_OUT
    )
    role: RoleArn | None = sdk(
        "",
        "Role that the job runs as. Left out, the SDK's default.",
        example="arn:aws:iam::123456789012:role/my-role",
    )


class SmtjFullLaunch(SmtjLaunch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    instance_type: Literal["ml.p5en.48xlarge"] = parameter(
        "", "Instances. All weights of Nova Lite need p5en.", default="ml.p5en.48xlarge", example="ml.p5en.48xlarge"
    )


class SmtjEvaluationLaunch(SmtjLaunch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    data_s3_path: S3 | None = published(
        "", "The prompts. A training job takes them as a channel: run.data_s3_path is empty there.", sample=SAMPLE_DATA
    )


class HyperPodLaunch(_Launch):
    """What the `sagemaker` SDK needs besides the recipe. It stands in no recipe."""

    instance_type: Literal["ml.p5.48xlarge"] = parameter(
        "", "Instances.", default="ml.p5.48xlarge", example="ml.p5.48xlarge"
    )
    cluster_name: Text | None = sdk("", "The HyperPod cluster.", example="my-cluster")
    namespace: Text = parameter("", "Kubernetes' namespace.", default="kubeflow", example="kubeflow")


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
