"""From `--on`, `--region` and `--endpoint` to the service, and what the two services do differently."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import NamedTuple, TypeAlias

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import check_url
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs import _bedrock_request, bedrock, nova
from aws_rft_sdk.jobs._files import is_s3
from aws_rft_sdk.jobs.config import KINDS, BedrockConfig, NovaConfig
from aws_rft_sdk.jobs.reading import JobFile
from aws_rft_sdk.jobs.types import Problem, Request

logger = logging.getLogger(__name__)

Jobs: TypeAlias = bedrock.BedrockJobs | nova.NovaJobs


def open_jobs(on: str, region: str | None = None, endpoint: str | None = None) -> Jobs:
    """Return the service.

    Args:
        on: "bedrock" or "nova".
        region: None for the region in which the service fine-tunes.
        endpoint: Another place for the service, such as a stand-in on this machine; None for AWS.

    Raises:
        ConfigurationError: The service is unknown, the region or the endpoint is wrong, or boto3 is missing for Nova.
    """
    if on not in KINDS:
        raise ConfigurationError(f"--on is {on!r:.80}; use {' or '.join(KINDS)}")
    region = KINDS[on].region() if region is None else region
    endpoint = endpoint and check_url(endpoint, "--endpoint")
    if on == "bedrock":
        return bedrock.BedrockJobs(region, base_url=endpoint)
    return nova.NovaJobs(region, endpoint_url=endpoint)


class Created(NamedTuple):
    """Something that `submit` has created.

    Attributes:
        kind: `file`, `grader` or `job`.
        id: The service's id or ARN.
        remove: The command that removes it.
    """

    kind: str
    id: str
    remove: str


class BedrockRequests:
    """What the file of a job for an open-weight model asks of Bedrock's OpenAI-compatible API."""

    service = "bedrock-mantle"

    def __init__(self, job: JobFile, config: BedrockConfig) -> None:
        self.job = job
        self.config = config

    def local_files(self) -> list[str]:
        """Return the data files that are uploaded, in order, as the job's file spells them."""
        return [name for name in (self.config.data.train, self.config.data.validation) if name]

    def file_id(self, name: str) -> str:
        """Return the id of a file, or what stands for it in a plan if only the upload tells."""
        return f"ID-OF:{Path(name).stem}"

    def upload_request(self, name: str) -> Request:
        """Return the request that uploads a file."""
        return Request(self.service, "CreateFile", {"purpose": "fine-tune", "file": str(self.job.local(name))})

    def upload(self, jobs: bedrock.BedrockJobs, name: str) -> str:
        """Upload a file that has been checked, and return its id."""
        return jobs.upload(self.job.local(name), check=False).id

    def arguments(self, files: Mapping[str, str], grader: str) -> dict[str, JSON]:
        """Return the arguments of `create`.

        Args:
            files: The ids of uploaded files, by the path as the job's file spells it.
            grader: ARN of the function.
        """
        data = self.config.data
        return {
            "model": self.config.job.model,
            "training_file": files[data.train],
            "grader": grader,
            "hyperparameters": self.config.hyperparameters.model_dump(exclude_none=True),
            "validation_file": files[data.validation] if data.validation else None,
        }

    def create_request(self, arguments: Mapping[str, JSON]) -> Request:
        """Return the request that creates the job."""
        return Request(self.service, "CreateFineTuningJob", _bedrock_request.create_body(**arguments))

    def problems(self, request: Request) -> list[Problem]:
        """Return what is wrong with the request of `create_request`, by its own paths."""
        return _bedrock_request.problems(request.parameters, self.config.job.region)

    def remove_file(self, file: str, where: str) -> str:
        """Return the command that removes an uploaded file. `where` is `--on` and what else names the service."""
        return f"aws-rft job delete-file {file} {where}"


class NovaRequests:
    """What the file of a job for a Nova model asks of Bedrock and S3. Its methods are those of `BedrockRequests`."""

    service = "bedrock"

    def __init__(self, job: JobFile, config: NovaConfig) -> None:
        self.job = job
        self.config = config
        self.folder = config.data.upload_to or f"{config.output.s3.rstrip('/')}/data"

    def local_files(self) -> list[str]:  # noqa: D102
        data = self.config.data
        return [name for name in (data.train, *data.validation) if name and not is_s3(name)]

    def file_id(self, name: str) -> str:  # noqa: D102
        return nova.upload_uri(self.job.local(name), self.folder)

    def upload_request(self, name: str) -> Request:  # noqa: D102
        bucket, _, key = self.file_id(name).removeprefix("s3://").partition("/")
        return Request("s3", "PutObject", {"Bucket": bucket, "Key": key, "Body": str(self.job.local(name))})

    def upload(self, jobs: nova.NovaJobs, name: str) -> str:  # noqa: D102
        return jobs.upload(self.job.local(name), self.folder, check=False).id

    def arguments(self, files: Mapping[str, str], grader: str) -> dict[str, JSON]:  # noqa: D102
        job, data, vpc = self.config.job, self.config.data, self.config.vpc
        return {
            "model": job.model,
            "training_data": files.get(data.train, data.train) if data.train else self._logs(),
            "grader": grader,
            "job_name": job.name,
            "role_arn": job.role_arn,
            "output": self.config.output.s3,
            "custom_model_name": job.custom_model_name,
            "hyperparameters": self.config.hyperparameters.model_dump(exclude_none=True),
            "validators": [files.get(name, name) for name in data.validation],
            "tags": self.config.tags,
            "kms_key": job.kms_key,
            "vpc": vpc and {"subnetIds": vpc.subnet_ids, "securityGroupIds": vpc.security_group_ids},
        }

    def _logs(self) -> dict[str, JSON]:
        data = self.config.data
        logs: dict[str, JSON] = {"invocationLogSource": {"s3Uri": data.invocation_logs}}
        if data.use_prompt_response:
            logs["usePromptResponse"] = True
        if data.filters:
            named = data.filters.model_dump(exclude_none=True)
            logs["requestMetadataFilters"] = _camel(named)
        return logs

    def create_request(self, arguments: Mapping[str, JSON]) -> Request:  # noqa: D102
        return Request(self.service, "CreateModelCustomizationJob", nova.create_parameters(**arguments))

    def problems(self, request: Request) -> list[Problem]:  # noqa: D102
        return nova.problems(request.parameters)

    def remove_file(self, file: str, where: str) -> str:  # noqa: D102
        return f"aws s3 rm {quote(file)}"


_FILTERS = {"equals": "equals", "not_equals": "notEquals", "and_all": "andAll", "or_all": "orAll"}


def _camel(filters: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        _FILTERS[name]: [_camel(item) for item in value] if isinstance(value, list) else value
        for name, value in filters.items()
    }


Asked: TypeAlias = BedrockRequests | NovaRequests


def requests_of(job: JobFile) -> Asked:
    """Return what a file that could be read asks of its service."""
    if isinstance(job.config, NovaConfig):
        return NovaRequests(job, job.config)
    if isinstance(job.config, BedrockConfig):
        return BedrockRequests(job, job.config)
    raise ConfigurationError(f"{job.path} has problems; aws-rft job plan names them")
