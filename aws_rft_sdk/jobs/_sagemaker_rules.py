"""What the document of a multi-turn RL job on SageMaker must be. Pure.

CreateJob takes the document as a text, so botocore's model has no rules for it. DescribeJobSchemaVersion tells the
service's own schema to whoever has an account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from aws_rft_sdk import agent_rft
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import Hyperparameter
from aws_rft_sdk.datasets._text import hint
from aws_rft_sdk.jobs import _forms
from aws_rft_sdk.jobs._tables import Form, Table
from aws_rft_sdk.jobs.types import Problem

EvaluationSeconds = Annotated[
    int,
    Form(f"a whole number from 1 to {agent_rft.EVALUATION_MAX_RUNTIME_SECONDS:,}"),
    Field(ge=1, le=agent_rft.EVALUATION_MAX_RUNTIME_SECONDS),
]
GUIDE = "Amazon SageMaker developer guide, multi-turn RL: create a job"
HYPERPARAMETERS = "Amazon SageMaker hyperpod-recipes, parameters of multi-turn RL"


class _AgentCore(Table):
    AgentRuntimeArn: _forms.AgentCoreArn
    Qualifier: _forms.Qualifier | None = None


class _Lambda(Table):
    LambdaArn: _forms.LambdaArn


class _Agent(Table):
    BedrockAgentCoreConfig: _AgentCore | None = None
    CustomAgentLambdaConfig: _Lambda | None = None


class _S3(Table):
    S3DataType: Literal["S3Prefix"]
    S3Uri: _forms.S3Prefix


class _Dataset(Table):
    DatasetArn: _forms.DatasetArn


class _Source(Table):
    S3DataSource: _S3 | None = None
    DatasetSource: _Dataset | None = None


class _Channel(Table):
    ChannelName: _forms.Text
    DataSource: _Source


class _Mlflow(Table):
    MlflowResourceArn: _forms.MlflowArn
    MlflowExperimentName: _forms.Text | None = None
    MlflowRunName: _forms.Text | None = None


class _Output(Table):
    S3OutputPath: _forms.S3Prefix
    KmsKeyArn: _forms.KmsKeyArn | None = None
    MlflowConfig: _Mlflow | None = None


class _Vpc(Table):
    Subnets: _forms.Subnets
    SecurityGroupIds: _forms.SecurityGroups


class _Stop(Table):
    MaxRuntimeInSeconds: Annotated[int, Field(ge=1)]


class _EvaluationStop(Table):
    MaxRuntimeInSeconds: EvaluationSeconds


class _Packages(Table):
    OutputModelPackageGroupArn: _forms.PackageGroupArn
    InputModelPackageArn: _forms.ModelPackageArn | None = None
    IntermediateCheckpointModelPackageGroupArn: _forms.PackageGroupArn


class _TunedModel(Table):
    InputModelPackageArn: _forms.ModelPackageArn


class _Evaluation(Table):
    BaseModelArn: _forms.HubModelArn
    AcceptEula: bool
    HyperParameters: Annotated[dict[str, str], Form("a table of texts")] | None = None


class _Training(_Evaluation):
    MlflowConfig: _Mlflow | None = None


class _Document(Table):
    AgentConfig: _Agent
    InputDataConfig: Annotated[list[_Channel], Form("a list of tables with ChannelName and DataSource")]
    OutputDataConfig: _Output
    VpcConfig: _Vpc | None = None


class _TrainingDocument(_Document):
    ModelPackageConfig: _Packages
    TrainingConfig: _Training
    StoppingCondition: _Stop | None = None


class _EvaluationDocument(_Document):
    ModelPackageConfig: _TunedModel | None = None
    EvaluationConfig: _Evaluation
    StoppingCondition: _EvaluationStop | None = None


KINDS: Mapping[str, type[Table]] = {agent_rft.TRAINING: _TrainingDocument, agent_rft.EVALUATION: _EvaluationDocument}


def absences(document: Mapping[str, JSON]) -> Iterator[Problem]:
    """Yield what a document lacks that no table requires."""
    needed = "train" if "TrainingConfig" in document else "evaluation"
    if needed not in [channel["ChannelName"] for channel in document["InputDataConfig"]]:
        yield Problem("InputDataConfig", None, f"has no channel {needed}", GUIDE)
    for number, channel in enumerate(document["InputDataConfig"]):
        yield from _one_of(f"InputDataConfig[{number}].DataSource", channel["DataSource"], _Source)
    yield from _one_of("AgentConfig", document["AgentConfig"], _Agent)
    if needed == "train" and "MlflowConfig" not in document["TrainingConfig"] | document["OutputDataConfig"]:
        yield Problem("TrainingConfig.MlflowConfig", None, "is missing; jobs without an MLflow app were refused", GUIDE)


def _one_of(path: str, table: Mapping[str, JSON], kind: type[Table]) -> Iterator[Problem]:
    if len(table) != 1:
        rule = f"must have exactly one of {', '.join(kind.model_fields)}"
        yield Problem(path, sorted(table), rule, GUIDE)


def conflicts(document: Mapping[str, JSON]) -> Iterator[Problem]:
    """Yield what is wrong with values of a document that have the right form. Blocks may be absent."""
    is_training = "EvaluationConfig" not in document
    name = "TrainingConfig" if is_training else "EvaluationConfig"
    config, packages = document.get(name, {}), document.get("ModelPackageConfig", {})
    base = config.get("BaseModelArn")
    if base:
        yield from _wrong_regions(document, name, base)
        values = config.get("HyperParameters", {})
        yield from _wrong_hyperparameters(f"{name}.HyperParameters", values, base, is_training=is_training)
    if config.get("AcceptEula") is False:
        rule = "must be true: the model has a licence. Read it in SageMaker's hub; if you accept it, write true"
        yield Problem(f"{name}.AcceptEula", False, rule, GUIDE)
    groups = [packages.get(f"{which}ModelPackageGroupArn") for which in ("Output", "IntermediateCheckpoint")]
    if groups[0] and groups[0] == groups[1]:
        path = "ModelPackageConfig.IntermediateCheckpointModelPackageGroupArn"
        yield Problem(path, groups[1], "must be another group than that of the tuned model", GUIDE)
    if "MlflowConfig" in config and "MlflowConfig" in document.get("OutputDataConfig", {}):
        yield Problem(f"{name}.MlflowConfig", None, "is in OutputDataConfig, too; leave one of them out", GUIDE)
    allowed = ("train", "validation") if is_training else ("evaluation",)
    seen: set[str] = set()
    for number, channel in enumerate(document.get("InputDataConfig", ())):
        if (given := channel["ChannelName"]) in seen or given not in allowed:
            rule = f"must be {' or '.join(allowed)}, each once"
            yield Problem(f"InputDataConfig[{number}].ChannelName", given, rule, GUIDE)
        seen.add(given)


def _wrong_regions(document: Mapping[str, JSON], name: str, base: str) -> Iterator[Problem]:
    region, model = base.split(":")[3], agent_rft.find_model(base)
    if model and region not in model.regions:
        rule = f"has no jobs for {model.name}; use {' or '.join(model.regions)}"
        yield Problem(f"{name}.BaseModelArn", region, rule, GUIDE)
    for path, arn in _arns(document, ""):
        if (found := arn.split(":")[3]) != region:
            yield Problem(path, arn, f"is in {found}, and the job runs in {region}; both must be in one region", GUIDE)


def _arns(value: JSON, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _arns(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _arns(item, f"{path}[{number}]")
    elif isinstance(value, str) and value.startswith("arn:") and value.count(":") >= 5:
        yield path, value


def known_hyperparameters(base_model: str, *, is_training: bool) -> Mapping[str, Hyperparameter] | None:
    """Return what a job of a model may set. Returns None for a model that this package does not know."""
    if not is_training:
        return agent_rft.EVALUATION_HYPERPARAMETERS
    model = agent_rft.find_model(base_model)
    return model.hyperparameters if model else None


def _wrong_hyperparameters(
    path: str, values: Mapping[str, JSON], base_model: str, *, is_training: bool
) -> Iterator[Problem]:
    known = known_hyperparameters(base_model, is_training=is_training)
    if known is None:
        return
    for name, value in values.items():
        if name not in known:
            yield Problem(f"{path}.{name}", value, _unknown(name, known, is_training), HYPERPARAMETERS)
        elif not known[name].allows(value):
            yield Problem(f"{path}.{name}", value, f"must be {known[name].rule}", HYPERPARAMETERS)


def _unknown(name: str, known: Mapping[str, Hyperparameter], is_training: bool) -> str:
    """Return why a job cannot set a hyperparameter, and what was meant."""
    if (right := agent_rft.REFUSED_NAMES.get(name)) in known:
        return f"is refused by the service; write {right}"
    if is_training and name in agent_rft.EVALUATION_HYPERPARAMETERS:
        return "is for evaluations; write it into [evaluation]"
    models = [model.name for model in agent_rft.MODELS.values() if name in model.hyperparameters]
    if models and not is_training:
        return "is for training; write it into [hyperparameters]"
    if models:
        return f"can be set for {' and '.join(models)} only; remove it"
    return "is no hyperparameter" + (hint(name, known) or f"; there are {', '.join(known)}")
