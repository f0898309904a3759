"""The documents of multi-turn RL jobs on SageMaker, the parameters of CreateJob, and what is wrong with them. Pure.

CreateJob takes a job's whole configuration as the text of a JSON document. botocore knows nothing of that document.
docs/sagemaker-documents.md lists where these documents differ from those of the official SDK, and why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from aws_rft_sdk import agent_rft
from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.jobs._nova_request import tag_problems
from aws_rft_sdk.jobs._sagemaker_rules import GUIDE, KINDS, absences, conflicts
from aws_rft_sdk.jobs._shapes import shape_problems
from aws_rft_sdk.jobs._tables import table_problems
from aws_rft_sdk.jobs.types import Problem

MlflowPlace = Literal["training", "output"]


def training_document(
    *,
    base_model: str | None,
    agent: str | None,
    train: str | None,
    output: str | None,
    model_package_group: str | None,
    checkpoint_package_group: str | None,
    accept_eula: bool | None,
    mlflow_arn: str | None,
    qualifier: str | None = "DEFAULT",
    validation: str | None = None,
    hyperparameters: Mapping[str, str] | None = None,
    input_model_package: str | None = None,
    mlflow_experiment: str | None = None,
    mlflow_run: str | None = None,
    mlflow_in: MlflowPlace = "training",
    kms_key: str | None = None,
    vpc: Mapping[str, JSON] | None = None,
    max_runtime_seconds: int | None = None,
) -> dict[str, JSON]:
    """Return the document of a training job. Nothing is checked. What is None is left out.

    Args:
        base_model: ARN of the model in SageMaker's public hub.
        agent: ARN of an AgentCore runtime, or of the Lambda function that forwards rollouts to the agent.
        train: S3 URI of the prompts, or the ARN of a dataset.
        output: S3 URI that the job writes below.
        model_package_group: ARN of the group for the tuned model.
        checkpoint_package_group: ARN of the group for resumable checkpoints. It must be another one.
        accept_eula: Whether the user accepts the licence of the base model.
        mlflow_arn: ARN of the MLflow app that takes metrics and traces.
        qualifier: Endpoint or version of the AgentCore runtime. Not used for a Lambda function.
        validation: As `train`, for the prompts that the model is measured on.
        hyperparameters: Texts by the service's names.
        input_model_package: ARN of a checkpoint to go on from.
        mlflow_experiment: Name of the experiment in MLflow.
        mlflow_run: Name of the run in MLflow.
        mlflow_in: Block of the document that names the MLflow app. Sources disagree.
        kms_key: ARN of the key that encrypts what the job writes.
        vpc: `Subnets` and `SecurityGroupIds`.
        max_runtime_seconds: Time limit of the job.
    """
    mlflow = _mlflow(mlflow_arn, mlflow_experiment, mlflow_run)
    return _given(
        AgentConfig=_agent(agent, qualifier),
        InputDataConfig=[*_channel("train", train), *_channel("validation", validation)],
        OutputDataConfig=_given(
            S3OutputPath=output, KmsKeyArn=kms_key, MlflowConfig=mlflow if mlflow_in == "output" else None
        ),
        ModelPackageConfig=_given(
            OutputModelPackageGroupArn=model_package_group,
            InputModelPackageArn=input_model_package,
            IntermediateCheckpointModelPackageGroupArn=checkpoint_package_group,
        ),
        TrainingConfig=_given(
            BaseModelArn=base_model,
            MlflowConfig=mlflow if mlflow_in == "training" else None,
            AcceptEula=accept_eula,
            HyperParameters=dict(hyperparameters or {}),
        ),
        VpcConfig=vpc,
        StoppingCondition=_given(MaxRuntimeInSeconds=max_runtime_seconds),
    )


def evaluation_document(
    *,
    base_model: str | None,
    agent: str | None,
    dataset: str | None,
    output: str | None,
    accept_eula: bool | None,
    mlflow_arn: str | None = None,
    model_package: str | None = None,
    qualifier: str | None = "DEFAULT",
    hyperparameters: Mapping[str, str] | None = None,
    mlflow_experiment: str | None = None,
    mlflow_run: str | None = None,
    kms_key: str | None = None,
    vpc: Mapping[str, JSON] | None = None,
    max_runtime_seconds: int | None = agent_rft.MAX_RUNTIME_SECONDS,
) -> dict[str, JSON]:
    """Return the document of an evaluation. Nothing is checked. What is None is left out.

    The arguments are those of `training_document`, with these differences. `dataset` names the prompts. Without
    `model_package`, the ARN of the tuned model, the base model is evaluated. Without `mlflow_experiment` it is
    `mtrl-eval-` and the id of the base model, so that the evaluations of base and tuned model are beside each other.
    Without `mlflow_run` it is `base-model-eval` or `fine-tuned-model-eval`.
    """
    experiment = mlflow_experiment or (base_model and f"mtrl-eval-{agent_rft.hub_id(base_model)}")
    run = mlflow_run or ("fine-tuned-model-eval" if model_package else "base-model-eval")
    return _given(
        AgentConfig=_agent(agent, qualifier),
        InputDataConfig=_channel("evaluation", dataset),
        OutputDataConfig=_given(
            S3OutputPath=output, KmsKeyArn=kms_key, MlflowConfig=_mlflow(mlflow_arn, experiment, run)
        ),
        EvaluationConfig=_given(
            BaseModelArn=base_model, AcceptEula=accept_eula, HyperParameters=dict(hyperparameters or {})
        ),
        ModelPackageConfig=_given(InputModelPackageArn=model_package),
        VpcConfig=vpc,
        StoppingCondition=_given(MaxRuntimeInSeconds=max_runtime_seconds),
    )


def create_parameters(
    document: Mapping[str, JSON],
    *,
    job_name: str,
    role_arn: str,
    category: str,
    tags: Mapping[str, str] | None = None,
    schema_version: str = agent_rft.SCHEMA_VERSION,
) -> dict[str, JSON]:
    """Return the parameters of CreateJob. Nothing is checked; see `problems`.

    Args:
        document: From `training_document` or `evaluation_document`. It travels as compact JSON, keys in their order.
        job_name: Unique in the account and region. It is the only thing by which the service knows a repeated call.
        role_arn: Role that the service runs the job as.
        category: `agent_rft.TRAINING` or `agent_rft.EVALUATION`.
        tags: Of the job.
        schema_version: Of the document.
    """
    parameters: dict[str, JSON] = {
        "JobName": job_name,
        "RoleArn": role_arn,
        "JobCategory": category,
        "JobConfigSchemaVersion": schema_version,
        "JobConfigDocument": json.dumps(thaw(document), separators=(",", ":"), ensure_ascii=False),
    }
    if tags:
        parameters["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    return parameters


def problems(parameters: Mapping[str, JSON]) -> list[Problem]:
    """Return everything that is wrong with parameters of CreateJob, before anything is sent.

    Checked are botocore's model of CreateJob, the form of the document, and `conflicts`. Paths in the document begin
    with the name of its block, for example `TrainingConfig.HyperParameters.group_size`.
    """
    found = shape_problems("sagemaker", "CreateJob", parameters)
    tags = parameters.get("Tags")
    for number, tag in enumerate(tags if isinstance(tags, list) and not found else ()):
        found += tag_problems(f"Tags[{number}].Key", tag["Key"])
    category, text = parameters.get("JobCategory"), parameters.get("JobConfigDocument")
    if not isinstance(category, str) or category not in KINDS:
        found = [item for item in found if item.path != "JobCategory"]
        return [*found, Problem("JobCategory", category, f"must be {' or '.join(KINDS)}", GUIDE)]
    if not isinstance(text, str):
        return found
    try:
        document = json.loads(text)
    except ValueError as error:
        return [*found, Problem("JobConfigDocument", text[:200], f"is no JSON: {error}", GUIDE)]
    if not isinstance(document, dict):
        return [*found, Problem("JobConfigDocument", text[:200], "must be a JSON object", GUIDE)]
    formal = table_problems(KINDS[category], document)
    found += [item._replace(source=GUIDE) for item in formal]
    return found if formal else [*found, *absences(document), *conflicts(document)]


def _given(**blocks: Any) -> dict[str, JSON]:
    return {name: value for name, value in blocks.items() if value not in (None, {}, [])}


def _agent(arn: str | None, qualifier: str | None) -> dict[str, JSON]:
    if arn is None:
        return {}
    if ":lambda:" in arn:
        return {"CustomAgentLambdaConfig": {"LambdaArn": arn}}
    return {"BedrockAgentCoreConfig": _given(AgentRuntimeArn=arn, Qualifier=qualifier)}


def _channel(name: str, data: str | None) -> list[dict[str, JSON]]:
    if data is None:
        return []
    source = (
        {"DatasetSource": {"DatasetArn": data}}
        if data.startswith("arn:")
        else {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": data}}
    )
    return [{"ChannelName": name, "DataSource": source}]


def _mlflow(arn: str | None, experiment: str | None, run: str | None) -> dict[str, JSON]:
    if arn is None:
        return {}
    return _given(MlflowResourceArn=arn, MlflowExperimentName=experiment, MlflowRunName=run)
