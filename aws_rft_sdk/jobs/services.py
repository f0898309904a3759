"""From `--on`, `--region` and `--endpoint` to the service, and what the services do differently."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from aws_rft_sdk import agent_rft
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import check_url
from aws_rft_sdk.errors import ConfigurationError, JobServiceError
from aws_rft_sdk.jobs import (
    _bedrock_request,
    _sagemaker_file,
    _sagemaker_request,
    _sagemaker_setup,
    bedrock,
    iam,
    nova,
)
from aws_rft_sdk.jobs._files import is_s3, upload_uri
from aws_rft_sdk.jobs._tables import value_at
from aws_rft_sdk.jobs.config import KINDS, BedrockConfig, Config, NovaConfig
from aws_rft_sdk.jobs.reading import JobFile
from aws_rft_sdk.jobs.sagemaker import AgentRFT
from aws_rft_sdk.jobs.sagemaker_config import SageMakerConfig
from aws_rft_sdk.jobs.types import Problem, Request, refuse

logger = logging.getLogger(__name__)

Jobs: TypeAlias = bedrock.BedrockJobs | nova.NovaJobs | AgentRFT


def open_jobs(on: str, region: str | None = None, endpoint: str | None = None) -> Jobs:
    """Return the service.

    Args:
        on: "bedrock", "nova" or "sagemaker".
        region: None for the region in which the service fine-tunes, for SageMaker us-west-2.
        endpoint: Another place for the service, such as a stand-in on this machine; None for AWS.

    Raises:
        ConfigurationError: The service is unknown, the region or the endpoint is wrong, or boto3 is missing.
    """
    if on not in KINDS:
        raise ConfigurationError(f"--on is {on!r:.80}; use {' or '.join(KINDS)}")
    region = KINDS[on].region() if region is None else region
    endpoint = endpoint and check_url(endpoint, "--endpoint")
    if on == "bedrock":
        return bedrock.BedrockJobs(region, base_url=endpoint)
    if on == "sagemaker":
        return AgentRFT(region, endpoint_url=endpoint)
    return nova.NovaJobs(region, endpoint_url=endpoint)


class Created(NamedTuple):
    """Something that `submit` has created.

    Attributes:
        kind: `file`, `grader`, `group` or `job`.
        id: The service's id or ARN.
        remove: The command that removes it.
    """

    kind: str
    id: str
    remove: str


_Config = TypeVar("_Config", bound=Config)


class _Requests(Generic[_Config]):
    """What the file of a job asks of a service, apart from what the services do differently."""

    def __init__(self, job: JobFile, config: _Config) -> None:
        self.job = job
        self.config = config

    @property
    def job_name(self) -> str:
        """Name of the job."""
        return self.config.job.name

    def setup_requests(self) -> list[Request]:
        """Return the requests that create what the job needs, after the upload of its files."""
        return []

    def prepare(self, jobs: Any, say: Callable[[str], object]) -> None:
        """Ask the service what only it can tell, before anything is created.

        Raises:
            JobConfigError: The service refuses the request, or would.
        """

    def schema_problems(self, jobs: Any, request: Request) -> list[Problem]:
        """Return what is wrong with the request of `create_request` by a schema that the service tells, if it does."""
        return []

    def set_up(self, jobs: Any) -> Iterator[Created]:
        """Create what `setup_requests` says, and yield it. What exists already is left as it is."""
        yield from ()


class BedrockRequests(_Requests[BedrockConfig]):
    """What the file of a job for an open-weight model asks of Bedrock's OpenAI-compatible API."""

    service = "bedrock-mantle"

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

    def arguments(self, files: Mapping[str, str], grader: str | None) -> dict[str, JSON]:
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

    def names(self, grader: str | None) -> iam.Names:
        """Return what the caller's policy is about. `grader` is the ARN of the function."""
        return iam.Names((grader or "").split(":")[4], self.config.job.region, grader)

    def create_request(self, arguments: Mapping[str, JSON]) -> Request:
        """Return the request that creates the job."""
        return Request(self.service, "CreateFineTuningJob", _bedrock_request.create_body(**arguments))

    def problems(self, request: Request) -> list[Problem]:
        """Return what is wrong with the request of `create_request`, by its own paths."""
        return _bedrock_request.problems(request.parameters, self.config.job.region)

    def remove_file(self, file: str, where: str) -> str:
        """Return the command that removes an uploaded file. `where` is `--on` and what else names the service."""
        return f"aws-rft job delete-file {file} {where}"


class NovaRequests(_Requests[NovaConfig]):
    """What the file of a job for a Nova model asks of Bedrock and S3. Its methods are those of `BedrockRequests`."""

    service = "bedrock"

    def __init__(self, job: JobFile, config: NovaConfig) -> None:
        super().__init__(job, config)
        self.folder = config.data.upload_to or f"{config.output.s3.rstrip('/')}/data"

    def local_files(self) -> list[str]:  # noqa: D102
        data = self.config.data
        return [name for name in (data.train, *data.validation) if name and not is_s3(name)]

    def file_id(self, name: str) -> str:  # noqa: D102
        return upload_uri(self.job.local(name), self.folder)

    def upload_request(self, name: str) -> Request:  # noqa: D102
        return _put_request(self.file_id(name), self.job.local(name))

    def upload(self, jobs: nova.NovaJobs, name: str) -> str:  # noqa: D102
        return jobs.upload(self.job.local(name), self.folder, check=False).id

    def arguments(self, files: Mapping[str, str], grader: str | None) -> dict[str, JSON]:  # noqa: D102
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

    def names(self, grader: str | None) -> iam.Names:  # noqa: D102
        account, job = (grader or "").split(":")[4], self.config.job
        return iam.Names(account, job.region, grader, _bucket(self.config.output.s3), role=job.role_arn)

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


def _bucket(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[0]


def _put_request(uri: str, file: Path) -> Request:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return Request("s3", "PutObject", {"Bucket": bucket, "Key": key, "Body": str(file)})


class SageMakerRequests(_Requests[SageMakerConfig]):
    """What the file of a multi-turn RL job asks of SageMaker and S3. Its methods are those of `BedrockRequests`."""

    service = "sagemaker"

    def __init__(self, job: JobFile, config: SageMakerConfig) -> None:
        super().__init__(job, config)
        self.folder = config.data.upload_to or f"{config.output.s3.rstrip('/')}/data"
        self._values = config.model_dump(exclude_none=True)
        self._agent: str | None = None

    def _get(self, path: str) -> Any:
        if path == "agent.agentcore_arn" and self._agent:
            return self._agent
        return value_at(self._values, path.split("."))

    def local_files(self) -> list[str]:  # noqa: D102
        data = self.config.data
        return [name for name in (data.train, data.validation) if name and not _sagemaker_file.is_remote(name)]

    def file_id(self, name: str) -> str:  # noqa: D102
        return upload_uri(self.job.local(name), self.folder)

    def upload_request(self, name: str) -> Request:  # noqa: D102
        return _put_request(self.file_id(name), self.job.local(name))

    def upload(self, jobs: AgentRFT, name: str) -> str:  # noqa: D102
        return jobs.upload(self.job.local(name), self.folder, check=False).id

    def arguments(self, files: Mapping[str, str], grader: str | None) -> dict[str, JSON]:
        """Return the arguments of `create`. There is no grader: the agent tells the rewards."""
        document = _sagemaker_file.training_of(self._get, files)
        return self._create_arguments(document, agent_rft.TRAINING)

    def _create_arguments(self, document: Mapping[str, JSON], category: str) -> dict[str, JSON]:
        parameters = _sagemaker_request.create_parameters(
            document,
            job_name=self.job_name,
            role_arn=self.config.job.role_arn,
            category=category,
            tags=self.config.tags,
            schema_version=self.config.job.schema_version,
        )
        return {"parameters": parameters}

    def names(self, grader: str | None) -> iam.Names:  # noqa: D102
        job, output = self.config.job, self.config.output
        agent = _sagemaker_file.agent_arn(self._get) or ""
        is_function = agent == self.config.agent.lambda_arn
        return iam.Names(
            job.role_arn.split(":")[4],
            job.region,
            function=agent if is_function else None,
            bucket=_bucket(output.s3),
            role=job.role_arn,
            agent=None if is_function else agent,
            mlflow=output.mlflow_arn,
            kms_key=output.kms_key,
            vpc=self.config.vpc is not None,
        )

    def create_request(self, arguments: Mapping[str, JSON]) -> Request:  # noqa: D102
        parameters = arguments["parameters"]
        return Request(self.service, "CreateJob", parameters, json.loads(parameters["JobConfigDocument"]))

    def problems(self, request: Request) -> list[Problem]:  # noqa: D102
        return _sagemaker_request.problems(request.parameters)

    def remove_file(self, file: str, where: str) -> str:  # noqa: D102
        return f"aws s3 rm {quote(file)}"

    def setup_requests(self) -> list[Request]:
        """Return the requests that create the model package groups."""
        if not self.config.output.create_groups:
            return []
        arns = [_sagemaker_file.group_arn(self._get, field) or "" for field in _sagemaker_file.GROUPS]
        common: dict[str, JSON] = {}
        if (model := _sagemaker_file.model_of(self._get)) and model.weights is None:
            common["ManagedConfiguration"] = _sagemaker_setup.RESTRICTED
        if self.config.tags:
            common["Tags"] = [{"Key": key, "Value": value} for key, value in self.config.tags.items()]
        return [
            Request(
                self.service, "CreateModelPackageGroup", {"ModelPackageGroupName": arn.rpartition("/")[2], **common}
            )
            for arn in arns
        ]

    def prepare(self, jobs: AgentRFT, say: Callable[[str], object]) -> None:
        """Confirm the agent of a bare id, and check the document against the service's own schema."""
        if bare := _sagemaker_file.runtime_id(self._get):
            self._agent = _sagemaker_setup.runtime_arn(jobs.client, bare)
            say(f"the agent is {self._agent}")
        files = {name: self.file_id(name) for name in self.local_files()}
        try:
            found = self.schema_problems(jobs, self.create_request(self.arguments(files, None)))
        except JobServiceError as error:
            if not (error.code or "").startswith("AccessDenied"):
                raise
            say(f"the document is not checked against the service's schema: {error}")
            return
        refuse(found, f"the document of {self.job.path} does not fit the service's schema")

    def schema_problems(self, jobs: AgentRFT, request: Request) -> list[Problem]:  # noqa: D102
        parameters = request.parameters
        schema = jobs.schema(parameters["JobCategory"], parameters["JobConfigSchemaVersion"])
        return _sagemaker_setup.schema_problems(schema, parameters)

    def set_up(self, jobs: AgentRFT) -> Iterator[Created]:
        """Create the model package groups."""
        for request in self.setup_requests():
            name = request.parameters["ModelPackageGroupName"]
            if arn := _sagemaker_setup.create_group(jobs.client, request.parameters):
                remove = f"aws sagemaker delete-model-package-group --model-package-group-name {name}"
                yield Created("group", arn, remove)


class EvaluationRequests(SageMakerRequests):
    """What the evaluation of the base model asks of SageMaker and S3, by `[evaluation]` of the file."""

    @property
    def job_name(self) -> str:
        """Name of the evaluation: the job's name and `-eval`."""
        return f"{self.config.job.name[:58].rstrip('-')}-eval"

    def local_files(self) -> list[str]:  # noqa: D102
        dataset = self._get("evaluation.dataset")
        return [] if _sagemaker_file.is_remote(dataset) else [dataset]

    def arguments(self, files: Mapping[str, str], grader: str | None) -> dict[str, JSON]:  # noqa: D102
        return self._create_arguments(_sagemaker_file.evaluation_of(self._get, files), agent_rft.EVALUATION)

    def setup_requests(self) -> list[Request]:
        """Return none. An evaluation makes no model."""
        return []


Asked: TypeAlias = BedrockRequests | NovaRequests | SageMakerRequests


def requests_of(job: JobFile, *, evaluation: bool = False) -> Asked:
    """Return what a file that could be read asks of its service.

    Args:
        job: The file.
        evaluation: Whether to evaluate the base model rather than to train.

    Raises:
        ConfigurationError: The file has problems, or says nothing of an evaluation.
    """
    if evaluation and job.config:
        if not isinstance(job.config, SageMakerConfig) or job.config.evaluation is None:
            raise ConfigurationError(f"{job.path} has no [evaluation] of a job on SageMaker. Add one with a dataset")
        return EvaluationRequests(job, job.config)
    if isinstance(job.config, NovaConfig):
        return NovaRequests(job, job.config)
    if isinstance(job.config, SageMakerConfig):
        return SageMakerRequests(job, job.config)
    if isinstance(job.config, BedrockConfig):
        return BedrockRequests(job, job.config)
    raise ConfigurationError(f"{job.path} has problems; aws-rft job plan names them")
