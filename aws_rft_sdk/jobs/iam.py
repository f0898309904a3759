"""IAM: which action a call needs, and the policies of everybody who takes part in a job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError

Audience = Literal["caller", "agent", "job-role", "grader", "forwarder"]
Statement = dict[str, JSON]
Policy = dict[str, JSON]

PRINCIPAL = re.compile(
    r"arn:(?P<partition>[\w-]+):(iam|sts)::(?P<account>\d{12}):(?P<kind>role|user|assumed-role)/(?P<path>.+)"
)
"""ARN of a role, a user or a session of a role."""
_MANTLE = (
    *("CreateFile", "GetFile", "ListFiles", "DeleteFile"),
    *("CreateFineTuningJob", "GetFineTuningJob", "ListFineTuningJobs", "CancelFineTuningJob"),
    *("CreateInference", "CallWithBearerToken"),
)
_NOVA = (
    *("CreateModelCustomizationJob", "GetModelCustomizationJob"),
    *("ListModelCustomizationJobs", "StopModelCustomizationJob"),
    *("CreateCustomModelDeployment", "GetCustomModelDeployment", "DeleteCustomModelDeployment"),
    *("InvokeModel", "InvokeModelWithResponseStream"),
)
_JOB_ACTIONS = ("CreateJob", "DescribeJob", "StopJob", "DeleteJob", "AddTags")
_AGENTCORE_ACTIONS = ("GetAgentRuntime", "InvokeAgentRuntime", "StopRuntimeSession")
_NETWORK_ACTIONS = (
    *("CreateNetworkInterface", "CreateNetworkInterfacePermission", "DeleteNetworkInterface"),
    *("DeleteNetworkInterfacePermission", "DescribeNetworkInterfaces", "DescribeSecurityGroups"),
    *("DescribeSubnets", "DescribeVpcs", "DescribeDhcpOptions"),
)
"""Of a job in a network of yours."""
_HUB = (("hub", ""), ("hub-content", "/Model/*"))
_MLFLOW_READS = ("GetRun", "GetMetricHistory", "SearchTraces")
_MLFLOW_WRITES = (
    *("CreateExperiment", "GetExperimentByName", "CreateRun", "UpdateRun", "LogBatch"),
    *("StartTrace", "EndTrace", "ListArtifacts"),
)
_JOBS_SERVICE = "job.sagemaker.amazonaws.com"
"""Runs multi-turn RL jobs. It assumes the job's role with session tags."""
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
"""By the first letters of their regions."""


def partition_of(region: str) -> str:
    """Return `aws`, or the part of AWS that a region belongs to."""
    return next((name for prefix, name in _PARTITIONS.items() if region.startswith(prefix)), "aws")


def function_rule(arn: str, region: str) -> str | None:
    """Return why a Lambda function cannot grade a job in a region. Returns None if it can."""
    _, partition, _, found, *_ = arn.split(":")
    if found != region:
        return f"is a function in {found}, and the job runs in {region}; deploy the function in {region}"
    if partition != (own := partition_of(region)):
        return f"must begin with arn:{own}: as {region} is in no other partition of AWS"
    return None


_RUNTIME = ("Sample", "SampleWithResponseStream", "CompleteRollout", "UpdateReward")
_ACTIONS = {
    ("bedrock", "CreateModelCustomizationJob"): ("bedrock:CreateModelCustomizationJob", "iam:PassRole"),
    ("bedrock-mantle", "ListFineTuningEvents"): ("bedrock-mantle:GetFineTuningJob",),
    ("bedrock-mantle", "ListFineTuningJobCheckpoints"): ("bedrock-mantle:GetFineTuningJob",),
    ("bedrock-runtime", "Converse"): ("bedrock:InvokeModel",),
    ("bedrock-runtime", "ConverseStream"): ("bedrock:InvokeModelWithResponseStream",),
    ("iam", "CreateRole"): ("iam:CreateRole", "iam:TagRole"),
    ("lambda", "CreateFunction"): ("lambda:CreateFunction", "lambda:TagResource", "iam:PassRole"),
    ("lambda", "Invoke"): ("lambda:InvokeFunction",),
    ("sagemaker", "CreateJob"): ("sagemaker:CreateJob", "sagemaker:AddTags", "iam:PassRole"),
    ("lambda", "UpdateFunctionConfiguration"): ("lambda:UpdateFunctionConfiguration", "iam:PassRole"),
}
"""Actions of the operations that need others than the one of their own name."""


def actions_of(service: str, operation: str) -> tuple[str, ...]:
    """Return the IAM actions that a call needs, for example `lambda:InvokeFunction` for `lambda`, `Invoke`.

    The first one is that of the operation itself.
    """
    return _ACTIONS.get((service, operation), (f"{service}:{operation}",))


def statement(
    actions: Sequence[str], resources: Sequence[str] = ("*",), condition: Mapping[str, JSON] | None = None
) -> Statement:
    """Return the policy statement that allows actions on resources."""
    allowed: Statement = {"Effect": "Allow", "Action": sorted(actions), "Resource": list(resources)}
    return {**allowed, "Condition": dict(condition)} if condition else allowed


def policy(statements: Sequence[Statement]) -> Policy:
    """Return a policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


@dataclass(frozen=True)
class Names:
    """What the policies are about. Everything that is not named becomes a wildcard within the account and the region.

    Attributes:
        account: Id of the account, 12 digits.
        region: Region of the job and its functions.
        function: Name of the Lambda function, or its ARN.
        bucket: S3 bucket of the training data and the output.
        models: Models that are called: ids, ids of inference profiles, or ARNs.
        queue: ARN of the SQS queue that the forwarder sends to.
        role: ARN of the role that the service runs the job as.
        agent: ARN of the AgentCore runtime that is the agent.
        mlflow: ARN of the MLflow app that a job on SageMaker writes to.
        kms_key: ARN of the key that encrypts what a job on SageMaker writes.
        vpc: Whether a job on SageMaker runs in a network of yours.
    """

    account: str
    region: str
    function: str | None = None
    bucket: str | None = None
    models: tuple[str, ...] = ()
    queue: str | None = None
    role: str | None = None
    agent: str | None = None
    mlflow: str | None = None
    kms_key: str | None = None
    vpc: bool = False

    @property
    def partition(self) -> str:
        """`aws`, or the part of AWS that the region belongs to."""
        return partition_of(self.region)

    def arn(self, service: str, resource: str, *, account: str | None = None, region: str | None = None) -> str:
        """Return an ARN, in this account and region unless others are given."""
        account = self.account if account is None else account
        return f"arn:{self.partition}:{service}:{region or self.region}:{account}:{resource}"

    @property
    def function_name(self) -> str:
        """Name of the function, `*` if it is not known."""
        return (self.function or "*").partition(":function:")[2].partition(":")[0] or self.function or "*"

    @property
    def bucket_arn(self) -> str:
        """ARN of the bucket."""
        return f"arn:{self.partition}:s3:::{self.bucket or '*'}"

    @property
    def role_arn(self) -> str:
        """ARN of the role of the job."""
        return self.role or f"arn:{self.partition}:iam::{self.account}:role/*"

    @property
    def runtime_arn(self) -> str | None:
        """ARN of the AgentCore runtime. None if only a function is named: it is the agent then."""
        return self.agent or (None if self.function else self.arn("bedrock-agentcore", "runtime/*"))

    @property
    def function_arn(self) -> str:
        """ARN of the function."""
        is_arn = self.function is not None and self.function.startswith("arn:")
        return self.function if is_arn and self.function else self.arn("lambda", f"function:{self.function_name}")


@dataclass(frozen=True)
class Needs:
    """What somebody needs.

    Attributes:
        statements: What the permissions policy must allow.
        trust: Who may assume the role. None if `audience` need not be a role.
    """

    statements: tuple[Statement, ...]
    trust: Policy | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return the policy documents as `policy` and, for a role, `trust`."""
        return {"policy": policy(self.statements), **({"trust": self.trust} if self.trust else {})}


def needs_of(audience: str, names: Names, on: str = "bedrock") -> Needs:
    """Return what somebody needs for a job.

    Args:
        audience: `caller` submits and follows jobs; `agent` serves rollouts; `job-role` is the role that the service
            runs a Nova job or a job on SageMaker as; `grader` and `forwarder` are the roles of Lambda functions.
        names: What the policies are about.
        on: The service of the jobs: `bedrock`, `nova` or `sagemaker`.

    Raises:
        ConfigurationError: The audience is unknown.
    """
    if audience == "caller":
        return Needs(tuple(_sagemaker_caller(names) if on == "sagemaker" else _caller(names, on)))
    if audience == "agent":
        return Needs(_agent(names), trust("bedrock-agentcore.amazonaws.com", names))
    if audience == "job-role" and on == "sagemaker":
        trusted = trust(_JOBS_SERVICE, names, actions=("sts:AssumeRole", "sts:TagSession"))
        return Needs(tuple(_sagemaker_role(names)), trusted)
    if audience == "job-role":
        jobs = names.arn("bedrock", "model-customization-job/*")
        return Needs(_job_role(names), trust("bedrock.amazonaws.com", names, jobs))
    if audience == "grader":
        return Needs((*_logs(names), *invoke_models(names)), trust("lambda.amazonaws.com", names))
    if audience == "forwarder":
        send = [statement(["sqs:SendMessage"], [names.queue])] if names.queue else []
        return Needs((*_logs(names), *send), trust("lambda.amazonaws.com", names))
    raise ConfigurationError(f"{audience!r} is unknown; use one of {', '.join(get_args(Audience))}")


def trust(
    service: str, names: Names, source_arn: str | None = None, actions: Sequence[str] = ("sts:AssumeRole",)
) -> Policy:
    """Return the policy by which a service may assume a role, only on behalf of this account."""
    condition: dict[str, JSON] = {"StringEquals": {"aws:SourceAccount": names.account}}
    if source_arn:
        condition["ArnLike"] = {"aws:SourceArn": source_arn}
    action = [*actions] if len(actions) > 1 else actions[0]
    allowed = {"Effect": "Allow", "Principal": {"Service": service}, "Action": action}
    return policy([{**allowed, "Condition": condition}])


def invoke_function(names: Names) -> Statement:
    """Return the statement that allows to call the function, and no other."""
    return statement(["lambda:InvokeFunction"], [names.function_arn])


def invoke_models(names: Names, actions: Sequence[str] = ("bedrock:InvokeModel",)) -> list[Statement]:
    """Return the statements that allow to call the models, and no others.

    Through an inference profile a model is called in several regions. That is allowed through this profile only.
    """
    statements = []
    for model in names.models:
        resource, foundation = _model_resources(model, names)
        statements.append(statement(actions, [resource]))
        if foundation:
            through = {"StringEquals": {"bedrock:InferenceProfileArn": resource}}
            statements.append(statement(actions, [foundation], through))
    return statements


_PROFILES = ("us", "eu", "apac", "ap", "jp", "au", "ca", "global", "us-gov")
"""Prefixes of the ids of inference profiles: where their regions are."""


def _model_resources(model: str, names: Names) -> tuple[str, str | None]:
    """Return the ARN of a model or inference profile, and for a profile that of the model in any region."""
    where, _, rest = (model.rpartition("/")[2] if ":inference-profile/" in model else model).partition(".")
    is_profile = where in _PROFILES and "." in rest
    foundation = names.arn("bedrock", f"foundation-model/{rest}", account="", region="*") if is_profile else None
    if model.startswith("arn:"):
        return model, foundation
    if is_profile:
        return names.arn("bedrock", f"inference-profile/{model}"), foundation
    return names.arn("bedrock", f"foundation-model/{model}", account=""), None


def _caller(names: Names, on: str) -> list[Statement]:
    if on != "nova":
        return [statement([f"bedrock-mantle:{name}" for name in _MANTLE]), invoke_function(names)]
    return [
        statement([f"bedrock:{name}" for name in _NOVA]),
        _pass_role(names, "bedrock.amazonaws.com"),
        statement(["s3:PutObject"], [f"{names.bucket_arn}/*"]),
        invoke_function(names),
    ]


def _pass_role(names: Names, service: str) -> Statement:
    return statement(["iam:PassRole"], [names.role_arn], {"StringEquals": {"iam:PassedToService": service}})


def _sagemaker_caller(names: Names) -> list[Statement]:
    """Return what `aws-rft job` needs for jobs on SageMaker: from `plan` and `submit` to `evaluate` and `guard`."""
    logs = names.arn("logs", "log-group:/aws/sagemaker/Job/*")
    kind = "TrackingServer" if ":mlflow-tracking-server/" in (names.mlflow or "") else "App"
    presigned = f"sagemaker:CreatePresignedMlflow{kind}Url"
    grant = [statement(["kms:CreateGrant", "kms:DescribeKey"], [names.kms_key])] if names.kms_key else []
    return [
        statement([f"sagemaker:{name}" for name in _JOB_ACTIONS], [names.arn("sagemaker", "job/*")]),
        statement([f"sagemaker:{name}" for name in ("ListJobs", "ListJobSchemaVersions", "DescribeJobSchemaVersion")]),
        _pass_role(names, _JOBS_SERVICE),
        statement(["s3:PutObject"], [f"{names.bucket_arn}/*"]),
        _packages(names, "CreateModelPackageGroup", "ListModelPackages"),
        _mlflow(names, presigned, "sagemaker-mlflow:GetTraceArtifact"),
        statement(["logs:DescribeLogStreams", "logs:GetLogEvents"], [logs, f"{logs}:*"]),
        *([statement(["bedrock-agentcore:GetAgentRuntime"], [runtime])] if (runtime := names.runtime_arn) else []),
        *grant,
    ]


def _packages(names: Names, *more: str) -> Statement:
    """Return the statement on groups and versions of tuned models. Their names need not be known."""
    resources = [names.arn("sagemaker", f"{kind}/*") for kind in ("model-package-group", "model-package")]
    actions = ("DescribeModelPackageGroup", "DescribeModelPackage", *more)
    return statement([f"sagemaker:{name}" for name in actions], resources)


def _mlflow(names: Names, *more: str) -> Statement:
    """Return the statement on the MLflow app. Whoever calls its API needs `CallMlflowAppApi` besides the action."""
    actions = ["sagemaker:CallMlflowAppApi", *(f"sagemaker-mlflow:{name}" for name in _MLFLOW_READS)]
    return statement([*actions, *more], [names.mlflow or names.arn("sagemaker", "mlflow-app/*")])


def _use_key(key: str, service: str) -> Statement:
    """Return the statement on what a service encrypts and decrypts with a key."""
    return statement(["kms:Decrypt", "kms:GenerateDataKey"], [key], {"StringEquals": {"kms:ViaService": service}})


def _sagemaker_role(names: Names) -> Iterator[Statement]:
    """Yield what a job on SageMaker does in its role: AmazonSageMakerJobFullAccess, on the resources of the job."""
    own = {"StringEquals": {"aws:ResourceAccount": names.account}}
    public = [names.arn("sagemaker", f"{kind}/SageMakerPublicHub{rest}", account="aws") for kind, rest in _HUB]
    yield statement(["s3:GetObject", "s3:PutObject"], [f"{names.bucket_arn}/*"], own)
    yield statement(["s3:ListBucket"], [names.bucket_arn], own)
    yield statement(["sagemaker:DescribeHubContent"], public)
    yield _packages(names, "AccessModelPackage", "CreateModelPackage")
    yield _mlflow(names, "sagemaker:DescribeMlflowApp", *(f"sagemaker-mlflow:{name}" for name in _MLFLOW_WRITES))
    if names.function:
        yield invoke_function(names)
    if runtime := names.runtime_arn:
        actions = [f"bedrock-agentcore:{name}" for name in _AGENTCORE_ACTIONS]
        yield statement(actions, [runtime, f"{runtime}/*"])
    group = names.arn("logs", "log-group:/aws/sagemaker/*")
    actions = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
    yield statement(actions, [group, f"{group}:*"])
    if names.kms_key:
        yield _use_key(names.kms_key, f"s3.{names.region}.amazonaws.com")
        yield statement(["kms:DescribeKey"], [names.kms_key])
    if names.vpc:
        created = {"StringEquals": {"ec2:CreateAction": "CreateNetworkInterface"}}
        yield statement([f"ec2:{name}" for name in _NETWORK_ACTIONS])
        yield statement(["ec2:CreateTags"], [names.arn("ec2", "network-interface/*")], created)


def _agent(names: Names) -> tuple[Statement, ...]:
    own = {"StringEquals": {"aws:ResourceAccount": names.account}}
    actions = ("bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream")
    any_model = [statement(actions, [names.arn("bedrock", "foundation-model/*", account="")])]
    key = [_use_key(names.kms_key, f"sagemaker.{names.region}.amazonaws.com")] if names.kms_key else []
    return (
        statement([f"sagemaker:{name}" for name in _RUNTIME], [names.arn("sagemaker", "job/*")], own),
        statement(["sagemaker:CallWithBearerToken"]),
        *key,
        *(invoke_models(names, actions) or any_model),
    )


def _job_role(names: Names) -> tuple[Statement, ...]:
    bucket = names.bucket_arn
    own = {"StringEquals": {"aws:ResourceAccount": names.account}}
    return (
        statement(["s3:GetObject", "s3:ListBucket"], [bucket, f"{bucket}/*"], own),
        statement(["s3:PutObject"], [f"{bucket}/*"], own),
        invoke_function(names),
    )


def _logs(names: Names) -> tuple[Statement, Statement]:
    group = names.arn("logs", f"log-group:/aws/lambda/{names.function_name}")
    return (
        statement(["logs:CreateLogGroup"], [group]),
        statement(["logs:CreateLogStream", "logs:PutLogEvents"], [f"{group}:*"]),
    )
