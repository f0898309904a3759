"""What comes after a multi-turn RL job: the parameters of a job that resumes it, iterates on it or evaluates it. Pure.

A resumable checkpoint has the optimizer and the number of the step. The job that resumes goes on with the next step of
the same run, so what defines the run must stay. A model checkpoint has the weights alone. An iteration begins at step 1
with a new optimizer, and may change everything but the base model.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from typing import Literal

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.agent_rft import (
    EVALUATION,
    EVALUATION_HYPERPARAMETERS,
    MAX_RUNTIME_SECONDS,
    REFUSED_NAMES,
    TRAINING,
    find_model,
)
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._sagemaker_answers import (
    base_model_of,
    document_of,
    group_name,
    mlflow_arn,
    phase_of,
    service_output,
)
from aws_rft_sdk.jobs._sagemaker_request import (
    create_parameters,
    evaluation_document,
    problems,
    training_document,
)
from aws_rft_sdk.jobs.types import Job, refuse

How = Literal["resume", "iterate"]

_SAME_RUN = (
    "a resumable checkpoint goes on with the next step of the same run, so base model, hyperparameters (lora_rank and "
    "lora_alpha among them) and datasets must stay. `iterate` takes the weights alone and may change them"
)
_SAME_BASE = "the checkpoint is an adapter of its base model. Create a new job for another model"
_FIXED = {
    "resume": dict.fromkeys(("hyperparameters", "train", "validation"), _SAME_RUN) | {"base_model": _SAME_RUN},
    "iterate": {"base_model": _SAME_BASE},
}
"""What may not change, and why."""
_NOTHING: dict[str, JSON] = dict.fromkeys(
    (
        *("base_model", "agent", "train", "output", "model_package_group", "checkpoint_package_group"),
        *("accept_eula", "mlflow_arn"),
    )
)
"""Arguments of `training_document` that have no defaults."""
CHANGES = (
    *("agent", "qualifier", "train", "validation", "hyperparameters", "output", "model_package_group"),
    *("checkpoint_package_group", "mlflow_arn", "mlflow_experiment", "mlflow_run", "kms_key", "vpc"),
    *("max_runtime_seconds", "role_arn", "tags"),
)
"""What a job that goes on from a checkpoint may change: arguments of `training_document` and `create_parameters`."""
_TABLES = ("hyperparameters", "vpc", "tags")
"""Those of them that are tables. The time limit is a number, and the others are texts."""
_INSTANCE = "ml.g6e.48xlarge"
"""The developer guide's example, with the image for large models."""
_MLFLOW = {
    "mlflow_arn": "MlflowResourceArn",
    "mlflow_experiment": "MlflowExperimentName",
    "mlflow_run": "MlflowRunName",
}
_WHOLE = ("AgentConfig", "VpcConfig")
"""Blocks that a change replaces as a whole."""
_CARRIED = (
    *("sampling_max_tokens", "success_threshold", "pass_k_values"),
    *("rollout_timeout", "rollout_max_retries", "rollout_max_concurrency"),
)
"""Hyperparameters of a training job that mean the same in an evaluation. Its temperature is for exploring."""


def continued(
    job: Job, name: str, how: How, changes: Mapping[str, JSON] | None = None, checkpoint: str | None = None
) -> dict[str, JSON]:
    """Return the parameters of a job that goes on from a checkpoint of another one.

    Args:
        job: The job that has the checkpoint, from DescribeJob.
        name: Of the new job.
        how: "resume" or "iterate".
        changes: By the names in `CHANGES`. `hyperparameters` are merged with those of the job; None removes one.
        checkpoint: ARN of a model package. None for the job's last one of the kind.

    Raises:
        ConfigurationError: The job has no such checkpoint, or a change is not allowed.
        JobConfigError: A changed value is wrong.
    """
    changes = dict(changes or {})
    _refuse_changes(changes, how)
    if job.get("JobCategory", TRAINING) != TRAINING:
        raise ConfigurationError(f"job {job.id} is an evaluation, and has no checkpoint to go on from")
    if how == "resume" and not job.finished:
        raise ConfigurationError(f"job {job.id} is {job.status}, so there is nothing to resume. Stop it first")
    if how == "resume" and job.state == "succeeded" and phase_of(job) != "MaxRuntimeExceeded":
        raise ConfigurationError(f"job {job.id} has made all its steps. `iterate` begins a new run from its weights")
    old = _created(job)
    role, tags = changes.pop("role_arn", job["RoleArn"]), changes.pop("tags", _tags(job))
    package = _checkpoint(job, how, checkpoint)
    hyperparameters = changes.pop("hyperparameters", {})
    if "qualifier" in changes:
        changes.setdefault("agent", _runtime(job, old))
    mlflow = {theirs: changes.pop(ours) for ours, theirs in _MLFLOW.items() if ours in changes}
    new = _merged(old, training_document(**{**_NOTHING, **changes, "input_model_package": package}))
    if mlflow:  # where the document has it
        block = "OutputDataConfig" if "MlflowConfig" in old.get("OutputDataConfig", {}) else "TrainingConfig"
        new = _merged(new, {block: {"MlflowConfig": mlflow}})
    if hyperparameters:
        merged = {**old["TrainingConfig"].get("HyperParameters", {}), **texts(hyperparameters)}
        new["TrainingConfig"]["HyperParameters"] = {key: value for key, value in merged.items() if value is not None}
    create = partial(create_parameters, job_name=name, category=TRAINING, schema_version=job["JobConfigSchemaVersion"])
    parameters = create(new, role_arn=role, tags=tags)
    _refuse_new(parameters, create(old, role_arn=job["RoleArn"]), f"{name} cannot {how} {job.id}")
    return parameters


def evaluation(
    job: Job,
    name: str,
    *,
    model_package: str | None,
    dataset: str | None = None,
    hyperparameters: Mapping[str, JSON] | None = None,
    max_runtime_seconds: int = MAX_RUNTIME_SECONDS,
) -> dict[str, JSON]:
    """Return the parameters of an evaluation with the agent of a training job.

    Args:
        job: The training job, from DescribeJob.
        name: Of the evaluation.
        model_package: ARN of the tuned model or a model checkpoint. None for the base model.
        dataset: S3 URI or dataset ARN of the prompts. None for the validation data of the job.
        hyperparameters: By the names of evaluations. Limits and thresholds that the job sets hold unless given here.
        max_runtime_seconds: Time limit.

    Raises:
        ConfigurationError: The job has no validation data, and none are given.
        JobConfigError: A value is wrong.
    """
    old = document_of(job)
    training, output = old.get("TrainingConfig", {}), old.get("OutputDataConfig", {})
    given = texts(hyperparameters or {})
    if wrong := [f"{key} (write {REFUSED_NAMES[key]})" for key in given if key in REFUSED_NAMES]:
        raise ConfigurationError(f"an evaluation has no hyperparameter {', '.join(wrong)}")
    if wrong := [key for key in given if key not in EVALUATION_HYPERPARAMETERS]:
        known = ", ".join(EVALUATION_HYPERPARAMETERS)
        raise ConfigurationError(f"an evaluation has no hyperparameter {', '.join(wrong)}; it has {known}")
    carried = {key: value for key, value in training.get("HyperParameters", {}).items() if key in _CARRIED}
    agent = old.get("AgentConfig", {})
    runtime = agent.get("BedrockAgentCoreConfig", {})
    found = evaluation_document(
        base_model=base_model_of(old),
        agent=runtime.get("AgentRuntimeArn") or agent.get("CustomAgentLambdaConfig", {}).get("LambdaArn"),
        qualifier=runtime.get("Qualifier"),
        dataset=dataset or _validation(job, old),
        output=output.get("S3OutputPath"),
        accept_eula=training.get("AcceptEula"),
        mlflow_arn=mlflow_arn(old),
        model_package=model_package,
        hyperparameters={**carried, **given},
        mlflow_run=name,
        kms_key=output.get("KmsKeyArn"),
        vpc=old.get("VpcConfig"),
        max_runtime_seconds=max_runtime_seconds,
    )
    parameters = create_parameters(found, job_name=name, role_arn=job["RoleArn"], category=EVALUATION, tags=_tags(job))
    refuse(problems(parameters), f"the evaluation {name} cannot be created")
    return parameters


def texts(hyperparameters: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return hyperparameters as the texts that travel. None stays None."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, list | tuple) else value if value is None else str(value)
        for name, value in hyperparameters.items()
    }


def model_checkpoint(job: Job) -> str | None:
    """Return the ARN of the tuned model, or else of the last model checkpoint. Returns None if there is none."""
    output = service_output(job)
    return output.get("OutputModelPackageArn") or output.get("ModelCheckpoint")


def deploy_commands(job: Job, name: str) -> list[str]:
    """Return the commands that deploy the model of a job. None of them is run, and roles are left to fill in.

    Args:
        job: From DescribeJob.
        name: Of the deployment.

    Raises:
        ConfigurationError: The job has no model.
    """
    package, region = model_checkpoint(job), job["JobArn"].split(":")[3]
    if package is None:
        raise ConfigurationError(f"job {job.id} has no model to deploy: it is {job.status}")
    look = f"aws sagemaker describe-model-package --region {region} --model-package-name {package}"
    model = find_model(base_model_of(document_of(job)))
    if model is not None and model.weights is None:
        return [f"# The weights of {model.name} are kept by AWS. Deploy the package from SageMaker or Bedrock", look]
    variant = f"VariantName=all,ModelName={name},InitialInstanceCount=1,InstanceType={_INSTANCE}"
    sagemaker = {
        "create-model": f"--model-name {name} --primary-container ModelPackageName={package} --execution-role-arn ROLE",
        "create-endpoint-config": f"--endpoint-config-name {name} --production-variants {variant}",
        "create-endpoint": f"--endpoint-name {name} --endpoint-config-name {name}",
    }
    uri = "InferenceSpecification.Containers[0].ModelDataSource.S3DataSource.S3Uri"
    source = shlex.quote('{"s3DataSource": {"s3Uri": "URI"}}')
    return [
        "# An endpoint of SageMaker. ROLE is one that SageMaker may assume:",
        *(f"aws sagemaker {operation} --region {region} {words}" for operation, words in sagemaker.items()),
        "# Or an import into Bedrock. The first command prints URI, the place of the merged weights:",
        f"{look} --query {shlex.quote(uri)} --output text",
        f"aws bedrock create-model-import-job --region {region} --job-name {name} --imported-model-name {name} "
        f"--role-arn ROLE --model-data-source {source}",
    ]


def _refuse_changes(changes: Mapping[str, JSON], how: How) -> None:
    for change, value in changes.items():
        if (reason := _FIXED[how].get(change)) is not None:
            raise ConfigurationError(f"{how} cannot change {change}: {reason}")
        if change not in CHANGES:
            raise ConfigurationError(f"{how} knows no change {change!r}; known are {', '.join(CHANGES)}")
        if value is None:
            raise ConfigurationError(
                f"{how} cannot remove {change}. Submit a file with job.input_model_package instead"
            )
        if change in _TABLES and not isinstance(value, Mapping):
            raise ConfigurationError(f"{how} cannot set {change} to {value!r:.100}: it must be a table")
        if change not in (*_TABLES, "max_runtime_seconds") and not isinstance(value, str):
            raise ConfigurationError(f"{how} cannot set {change} to {value!r:.100}: it must be a text")


def _runtime(job: Job, document: Mapping[str, JSON]) -> str:
    """Return the ARN of the AgentCore runtime that a job calls."""
    found = document.get("AgentConfig", {}).get("BedrockAgentCoreConfig", {}).get("AgentRuntimeArn")
    if not found:
        raise ConfigurationError(
            f"the agent of job {job.id} is a Lambda function, which has no qualifier. Change agent to an ARN with an "
            "alias instead"
        )
    return str(found)


def _checkpoint(job: Job, how: How, chosen: str | None) -> str:
    groups = document_of(job).get("ModelPackageConfig", {})
    field = "IntermediateCheckpointModelPackageGroupArn" if how == "resume" else "OutputModelPackageGroupArn"
    group, kind = group_name(groups.get(field)), "resumable" if how == "resume" else "model"
    if chosen is not None:
        if group_name(chosen) != group:
            raise ConfigurationError(
                f"{chosen} is no {kind} checkpoint of job {job.id}: those are in the model package group {group}"
            )
        return chosen
    found = service_output(job).get("ResumableCheckpoint") if how == "resume" else model_checkpoint(job)
    if not found:
        raise ConfigurationError(f"job {job.id} has no {kind} checkpoint: it ended before its first step was saved")
    return str(found)


def _created(job: Job) -> dict[str, JSON]:
    """Return the document as the job was created."""
    return {name: thaw(value) for name, value in document_of(job).items() if name != "ServiceOutput"}


def _tags(job: Job) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in job.get("Tags") or () if not tag["Key"].startswith("aws:")}


def _validation(job: Job, document: Mapping[str, JSON]) -> str:
    channels = {item.get("ChannelName"): item.get("DataSource", {}) for item in document.get("InputDataConfig", ())}
    source = channels.get("validation", {})
    found = source.get("S3DataSource", {}).get("S3Uri") or source.get("DatasetSource", {}).get("DatasetArn")
    if not found:
        raise ConfigurationError(
            f"job {job.id} has no validation data, and its training data say nothing about new prompts. Give dataset="
        )
    return str(found)


def _merged(old: JSON, new: JSON, name: str = "") -> JSON:
    """Return a document with the values of another one put over it. Channels are replaced by their names."""
    if name in _WHOLE or not isinstance(old, dict) or not isinstance(new, dict):
        if name == "InputDataConfig":
            taken = {item["ChannelName"] for item in new}
            return [*new, *(item for item in old if item.get("ChannelName") not in taken)]
        return new
    return {**old, **{key: _merged(old.get(key), value, key) for key, value in new.items()}}


def _refuse_new(parameters: Mapping[str, JSON], before: Mapping[str, JSON], what: str) -> None:
    """Raise if there are problems that the job that was created before did not have: the service took those."""
    accepted = {(item.path, item.rule) for item in problems(before)}
    refuse([item for item in problems(parameters) if (item.path, item.rule) not in accepted], what)
