"""From the file of a multi-turn RL job on SageMaker to its documents, and what is wrong between its fields. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from aws_rft_sdk import agent_rft
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import BaseModel, Hyperparameter
from aws_rft_sdk.datasets._text import hint
from aws_rft_sdk.jobs import _forms
from aws_rft_sdk.jobs._files import is_s3
from aws_rft_sdk.jobs._sagemaker_request import evaluation_document, training_document
from aws_rft_sdk.jobs._sagemaker_rules import GUIDE, conflicts, known_hyperparameters
from aws_rft_sdk.jobs._tables import Values, fits, one_of, shown, value_at, words_of
from aws_rft_sdk.jobs.iam import partition_of
from aws_rft_sdk.jobs.types import OURS, Problem

Get: TypeAlias = Callable[[str], Any]
"""Returns the value at a path of a file, for example `job.model`; None if there is none or a wrong one."""
_OURS_IN_EVALUATION = ("dataset", "max_runtime_seconds")
_AGENTS = ("agentcore_arn", "agentcore_id", "lambda_arn")
GROUPS = ("model_package_group", "checkpoint_package_group")
_PATHS = {
    "AgentConfig.BedrockAgentCoreConfig": "agent.agentcore_arn",
    "AgentConfig.CustomAgentLambdaConfig": "agent.lambda_arn",
    "OutputDataConfig.KmsKeyArn": "output.kms_key",
    "OutputDataConfig.MlflowConfig": "output.mlflow_arn",
    "TrainingConfig.MlflowConfig": "output.mlflow_arn",
    "ModelPackageConfig.OutputModelPackageGroupArn": "output.model_package_group",
    "ModelPackageConfig.IntermediateCheckpointModelPackageGroupArn": "output.checkpoint_package_group",
    "ModelPackageConfig.InputModelPackageArn": "job.input_model_package",
    "TrainingConfig.BaseModelArn": "job.region",
    "TrainingConfig.AcceptEula": "job.accept_eula",
    "TrainingConfig.HyperParameters": "hyperparameters",
}
_EVALUATION_PATHS = {"EvaluationConfig.HyperParameters": "evaluation"}
"""Where the file says what stands in a document. Other paths of an evaluation are those of the training job."""
_CHANNELS = {"train": "data.train", "validation": "data.validation", "evaluation": "evaluation.dataset"}


def is_remote(data: str) -> bool:
    """Return whether data is on S3 or registered, rather than a file on this machine."""
    return is_s3(data) or data.startswith("arn:")


def base_model(get: Get) -> str | None:
    """Return the ARN of the base model. Returns None if the file names no model that is known."""
    name: str | None = get("job.model")
    region: str | None = get("job.region")
    if name is None or fits(_forms.HubModelArn, name):
        return name
    model = agent_rft.MODELS.get(name)
    return model.hub_arn(region, partition_of(region)) if model and region else None


def model_of(get: Get) -> BaseModel | None:
    """Return the facts of the base model. Returns None if it is another one."""
    return agent_rft.find_model(get("job.model") or "")


def batch_size(get: Get, model: BaseModel) -> int | None:
    """Return how many prompts a training step has. Returns None if the file has a wrong value."""
    size: int | None = _value(get, "hyperparameters.global_batch_size", model.hyperparameters["global_batch_size"])
    return size


def _value(get: Get, path: str, known: Hyperparameter) -> Any:
    """Return the value of a hyperparameter, or its default. Returns None if the file has a wrong one."""
    given = get(path)
    return known.default if given is None else known.read(given) if known.allows(given) else None


def runtime_id(get: Get) -> str | None:
    """Return the id of the AgentCore runtime, if the file has an id rather than an ARN."""
    given = get("agent.agentcore_arn")
    return get("agent.agentcore_id") or (given if given and not given.startswith("arn:") else None)


def agent_arn(get: Get) -> str | None:
    """Return the ARN of the agent. That of a bare id is made of the region and the account of the job's role."""
    bare = runtime_id(get)
    if bare is not None:
        return _arn(get, "bedrock-agentcore", f"runtime/{bare}")
    arn: str | None = get("agent.agentcore_arn") or get("agent.lambda_arn")
    return arn


def group_arn(get: Get, field: str) -> str | None:
    """Return the ARN of a model package group that the file names, one of `GROUPS`."""
    name: str | None = get(f"output.{field}")
    if name is None or name.startswith("arn:"):
        return name
    return _arn(get, "sagemaker", f"model-package-group/{name}")


def _arn(get: Get, service: str, resource: str) -> str | None:
    region, role = get("job.region"), get("job.role_arn")
    return f"arn:{partition_of(region)}:{service}:{region}:{role.split(':')[4]}:{resource}" if region and role else None


def training_of(get: Get, files: Mapping[str, str]) -> dict[str, JSON]:
    """Return the document of the training job.

    Args:
        get: Reads the file.
        files: S3 URIs of local files, by the path as the file spells it. Others are left out.
    """
    base = base_model(get)
    return training_document(
        base_model=base,
        agent=agent_arn(get),
        qualifier=get("agent.qualifier"),
        train=_data(get("data.train"), files),
        validation=_data(get("data.validation"), files),
        output=get("output.s3"),
        model_package_group=group_arn(get, GROUPS[0]),
        checkpoint_package_group=group_arn(get, GROUPS[1]),
        input_model_package=get("job.input_model_package"),
        accept_eula=get("job.accept_eula"),
        hyperparameters=_texts(get("hyperparameters"), base, is_training=True),
        mlflow_arn=get("output.mlflow_arn"),
        mlflow_experiment=get("output.mlflow_experiment"),
        mlflow_run=get("output.mlflow_run"),
        mlflow_in=get("output.mlflow_in"),
        kms_key=get("output.kms_key"),
        vpc=_vpc(get),
        max_runtime_seconds=get("job.max_runtime_seconds"),
    )


def evaluation_of(get: Get, files: Mapping[str, str]) -> dict[str, JSON]:
    """Return the document of an evaluation of the base model with the file's agent and `[evaluation]`.

    The arguments are those of `training_of`.
    """
    base, table = base_model(get), get("evaluation") or {}
    values = {name: value for name, value in table.items() if name not in _OURS_IN_EVALUATION}
    return evaluation_document(
        base_model=base,
        agent=agent_arn(get),
        qualifier=get("agent.qualifier"),
        dataset=_data(get("evaluation.dataset"), files),
        output=get("output.s3"),
        accept_eula=get("job.accept_eula"),
        hyperparameters=_texts(values, base, is_training=False),
        mlflow_arn=get("output.mlflow_arn"),
        mlflow_experiment=get("output.mlflow_experiment"),
        kms_key=get("output.kms_key"),
        vpc=_vpc(get),
        max_runtime_seconds=get("evaluation.max_runtime_seconds"),
    )


def _data(name: str | None, files: Mapping[str, str]) -> str | None:
    return files.get(name, name if is_remote(name) else None) if name else None


def _vpc(get: Get) -> dict[str, JSON] | None:
    if not get("vpc"):
        return None
    return {"SecurityGroupIds": get("vpc.security_group_ids"), "Subnets": get("vpc.subnet_ids")}


def _texts(values: Mapping[str, JSON] | None, base: str | None, *, is_training: bool) -> dict[str, JSON]:
    """Return hyperparameters as texts. A value that its rule does not allow stays as it is."""
    known = known_hyperparameters(base or "", is_training=is_training)
    given = {name: value for name, value in (values or {}).items() if value is not None}
    return {name: _text(value, known.get(name) if known else None) for name, value in given.items()}


def _text(value: JSON, known: Hyperparameter | None) -> JSON:
    if known is not None:
        return known.text(value) if known.allows(value) else value
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def file_conflicts(values: Values) -> Iterator[Problem]:
    """Yield what is wrong with values of a file that are right by themselves."""
    get = values.get
    yield from one_of(values, "agent", *_AGENTS)
    if values.written("agent.qualifier") and values.written("agent.lambda_arn"):
        rule = "is for an AgentCore runtime; remove it, or name an alias in lambda_arn"
        yield Problem("agent.qualifier", get("agent.qualifier"), rule, GUIDE)
    runtime = get("agent.agentcore_arn")
    if runtime and runtime.startswith("arn:") and not fits(_forms.AgentCoreArn, runtime):
        yield Problem("agent.agentcore_arn", runtime, f"must be {words_of(_forms.AgentCoreArn)}", GUIDE)
    yield from _wrong_model(get("job.model"), get("job.region"))
    for path in ("data.train", "data.validation", "evaluation.dataset"):
        yield from _wrong_data(path, get(path))
    if get("output.create_groups"):
        yield from _foreign_groups(get)
    local = [name for path in ("data.train", "data.validation") if (name := get(path)) and not is_remote(name)]
    if values.written("data.upload_to") and not local:
        yield Problem("data.upload_to", get("data.upload_to"), "is for local files; remove it", OURS)
    yield from _translated(training_of(get, {}), _PATHS, values)
    if values.written("evaluation"):
        yield from _translated(evaluation_of(get, {}), _EVALUATION_PATHS, values)


def _translated(document: Mapping[str, JSON], paths: Mapping[str, str], values: Values) -> Iterator[Problem]:
    """Yield the conflicts of a document with the paths and values of the file."""
    channels = enumerate(document.get("InputDataConfig", ()))
    paths = {f"InputDataConfig[{number}]": _CHANNELS[item["ChannelName"]] for number, item in channels} | {**paths}
    for problem in conflicts(document):
        begins = next((path for path in paths if problem.path.startswith(path)), None)
        if begins is None:
            continue  # of an evaluation, and told of the training job
        path = paths[begins]
        if path.endswith(("hyperparameters", "evaluation")):
            path += problem.path.removeprefix(begins)
        yield problem._replace(path=path, value=value_at(values.raw, path.split(".")))


def _wrong_model(model: str | None, region: str | None) -> Iterator[Problem]:
    if model is None or model in agent_rft.MODELS:
        return
    if fits(_forms.HubModelArn, model):
        if region and (found := model.split(":")[3]) != region:
            yield Problem("job.model", model, f"is in {found}, and the job runs in {region}; name one region", GUIDE)
        return
    rule = f"must be one of {', '.join(agent_rft.MODELS)}, or {words_of(_forms.HubModelArn)}"
    yield Problem("job.model", model, rule + hint(model, agent_rft.MODELS), GUIDE)


def _foreign_groups(get: Get) -> Iterator[Problem]:
    role = get("job.role_arn")
    for field in GROUPS:
        if role and (arn := group_arn(get, field)) and (found := arn.split(":")[4]) != (own := role.split(":")[4]):
            rule = f"is in the account {found}; create_groups makes groups in {own}, the account of job.role_arn"
            yield Problem(f"output.{field}", arn, rule, OURS)


def _wrong_data(path: str, data: str | None) -> Iterator[Problem]:
    form = _forms.DatasetArn if data and data.startswith("arn:") else _forms.S3Prefix
    if data and is_remote(data) and not fits(form, data):
        yield Problem(path, data, f"must be {words_of(form)}", GUIDE)


def file_notes(values: Values) -> Iterator[str]:
    """Yield what may not be meant, and what sources disagree about where the file does not decide it."""
    get, model = values.get, model_of(values.get)
    if model is None and (name := base_model(get)):
        yield f"job.model: {shown(name)} is not known here. Its hyperparameters are sent as they are, and not checked"
    for name, known in model.hyperparameters.items() if model else ():
        if known.conflict and not values.written(f"hyperparameters.{name}"):
            yield f"hyperparameters.{name}: left out, {known.default} is assumed. Sources disagree: {known.conflict}"
    if not values.written("output.mlflow_in"):
        yield (
            "output.mlflow_in: the MLflow app is named in TrainingConfig, as the official SDK does and as DescribeJob "
            'shows it. The developer guide has it in OutputDataConfig; mlflow_in = "output" does that'
        )
    tokens = get("hyperparameters.sampling_max_tokens")
    if model and model.name == "gpt-oss-20b" and isinstance(tokens, int) and tokens > _VALIDATION_TOKENS:
        yield (
            f"hyperparameters.sampling_max_tokens: validation of gpt-oss-20b may still end at {_VALIDATION_TOKENS:,} "
            "tokens. The public recipe writes the value where that model's recipe does not read it"
        )
    if get("hyperparameters.temperature") == 0:
        yield "hyperparameters.temperature: at 0 the rollouts of a group are alike, and nothing is learnt from them"
    size = _value(get, "evaluation.eval_group_size", agent_rft.EVALUATION_HYPERPARAMETERS["eval_group_size"])
    wanted = _value(get, "evaluation.pass_k_values", agent_rft.EVALUATION_HYPERPARAMETERS["pass_k_values"])
    if values.written("evaluation.pass_k_values") and wanted and size and (largest := max(wanted)) > size:
        yield f"evaluation.pass_k_values: pass@{largest} needs eval_group_size of {largest} or more"
    if (get("job.max_runtime_seconds") or 0) > agent_rft.MAX_RUNTIME_SECONDS:
        yield f"job.max_runtime_seconds: more than {agent_rft.MAX_RUNTIME_SECONDS:,} s needs a higher quota"
    if len(get("vpc.subnet_ids") or "12") < 2:
        yield "vpc.subnet_ids: the developer guide asks for two private subnets or more"
    for path in ("data.train", "data.validation", "evaluation.dataset"):
        if (data := get(path)) and is_remote(data):
            needs = ". The job needs more of them than a batch has" if path == "data.train" else ""
            yield f"{path}: {shown(data)} is not on this machine, so its prompts are not checked{needs}"


_VALIDATION_TOKENS = 4096
"""Fixed for validation in the recipe of gpt-oss-20b."""
