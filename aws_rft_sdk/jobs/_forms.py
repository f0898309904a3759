"""Forms of values that the files of several services have, and of ARNs."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from aws_rft_sdk.jobs._shapes import BOTOCORE
from aws_rft_sdk.jobs._tables import Form, Shape, Table, setting, table_of

PRINTABLE = r"^[^\s\p{C}]([^\p{C}]*[^\s\p{C}])?$"
Text = Annotated[
    str,
    Field(pattern=PRINTABLE),
    Form("a text that is not empty, without control characters and without spaces around it"),
]
LambdaArn = Annotated[
    str,
    Shape(
        "LambdaArn",
        "the ARN of a Lambda function, arn:aws:lambda:REGION:ACCOUNT:function:NAME, of at most 512 characters",
    ),
]
RoleArn = Annotated[str, Shape("RoleArn", "the ARN of an IAM role, arn:aws:iam::ACCOUNT:role/NAME")]
S3 = Annotated[str, Shape("S3Uri", "an S3 URI, s3://BUCKET/KEY, of at most 1,024 characters without spaces")]

S3Prefix = Annotated[
    str,
    Field(pattern=r"^s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[^\p{C}]*)?$", max_length=1024),
    Form("an S3 URI, s3://BUCKET/KEY, of at most 1,024 characters"),
]
AgentCoreArn = Annotated[
    str,
    Shape(
        "AgentRuntimeArn",
        "the ARN of an AgentCore runtime, arn:aws:bedrock-agentcore:REGION:ACCOUNT:runtime/NAME-ID with an id of 10 "
        "letters and digits, and no endpoint behind it",
        "bedrock-agentcore-control",
    ),
]
Qualifier = Annotated[
    str,
    Field(pattern=r"^([a-zA-Z][a-zA-Z0-9_]{0,47}|[1-9][0-9]{0,4})$"),
    Form("the name of an endpoint, at most 48 letters, digits and _, or the number of a version"),
]
DatasetArn = Annotated[
    str,
    Field(
        pattern=r"^arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:([0-9]{12}|aws):hub-content/[^/\s]+/DataSet/[^/\s]+(/[^/\s]+)?$"
    ),
    Form("the ARN of a registered dataset, arn:aws:sagemaker:REGION:ACCOUNT:hub-content/HUB/DataSet/NAME/VERSION"),
]
HubModelArn = Annotated[
    str,
    Field(pattern=r"^arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:aws:hub-content/SageMakerPublicHub/Model/[^/\s]+(/[^/\s]+)?$"),
    Form("the ARN of a model, arn:aws:sagemaker:REGION:aws:hub-content/SageMakerPublicHub/Model/ID"),
]
KmsKeyArn = Annotated[
    str,
    Field(pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
    Form("the ARN of a KMS key of one region, arn:aws:kms:REGION:ACCOUNT:key/ID"),
]
MlflowArn = Annotated[
    str,
    Shape("MlflowAppArn", "the ARN of an MLflow app, arn:aws:sagemaker:REGION:ACCOUNT:mlflow-app/ID", "sagemaker"),
]
PackageGroupArn = Annotated[
    str,
    Shape(
        "ModelPackageGroupArn",
        "the ARN of a model package group, arn:aws:sagemaker:REGION:ACCOUNT:model-package-group/NAME",
        "sagemaker",
    ),
]
ModelPackageArn = Annotated[
    str,
    Shape(
        "ModelPackageArn",
        "the ARN of a model package, arn:aws:sagemaker:REGION:ACCOUNT:model-package/GROUP/VERSION",
        "sagemaker",
    ),
]
Subnets = Annotated[list[str], Shape("SubnetIds", "a list of 1 to 16 ids")]
SecurityGroups = Annotated[list[str], Shape("SecurityGroupIds", "a list of 1 to 5 ids")]

_boto = partial(setting, BOTOCORE)


class Vpc(Table):
    """The network that the job runs in. Without this table, the service's own."""

    subnet_ids: Subnets = _boto("Subnets.", default=..., example=["subnet-0123456789abcdef0"])
    security_group_ids: SecurityGroups = _boto("Security groups.", default=..., example=["sg-0123456789abcdef0"])


class File(Table):
    """The file of a job."""

    @classmethod
    def region(cls) -> str:
        """Return the region that a file has which names none."""
        job = table_of(cls.model_fields["job"])
        return str(job.model_fields["region"].default) if job else ""
