"""Reinforcement fine-tuning of Nova models: Bedrock's CreateModelCustomizationJob, and deployments of what it makes."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from aws_rft_sdk._checks import check_seconds, check_type
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets import Target
from aws_rft_sdk.errors import ConfigurationError, JobServiceError, RFTError
from aws_rft_sdk.jobs._aws import asking, asking_each, client, session_for, upload_file
from aws_rft_sdk.jobs._files import check_file, destination_problems, is_s3, refuse_file, upload_uri
from aws_rft_sdk.jobs._nova_answers import (
    ModelDeployment,
    code_of,
    conflict,
    converse_messages,
    differing,
    id_of,
    job_of,
    reply_text,
    whole,
)
from aws_rft_sdk.jobs._nova_deployments import Deployments
from aws_rft_sdk.jobs._nova_request import RFT, create_parameters, problems
from aws_rft_sdk.jobs._shapes import value_problems
from aws_rft_sdk.jobs.types import File, Job, Problem, refuse

__all__ = ["ModelDeployment", "NovaJobs", "create_parameters", "problems", "reply_text", "upload_uri"]

logger = logging.getLogger(__name__)

_CREATE = "bedrock:CreateModelCustomizationJob"
_TRAINING = "trainingDataConfig.s3Uri"
_TAKEN = ("ConflictException", "ResourceInUseException")


class NovaJobs:
    """Training jobs of Nova models in one account and region. Safe to share between threads.

        jobs = NovaJobs()
        job = jobs.create(
            "amazon.nova-2-lite-v1:0:256k", "train.jsonl", "arn:aws:lambda:us-east-1:123456789012:function:gsm8k",
            job_name="gsm8k", role_arn="arn:aws:iam::123456789012:role/nova-rft", output="s3://bucket/gsm8k",
        )
        # once jobs.get(job).state is "succeeded":
        deployment = jobs.deploy(job, "gsm8k")
        print(reply_text(jobs.converse(deployment, "What is 6 times 12?")))
        jobs.undeploy(deployment)

    Args:
        region: Reinforcement fine-tuning of Nova is documented for us-east-1.
        session: A boto3 session for the credentials; None for boto3's usual sources.
        endpoint_url: A stand-in for AWS; None for AWS.
        sleep: Waits between two looks at a deployment, in seconds.

    Raises:
        ConfigurationError: boto3 is not installed, or the region is not AWS's.
    """

    def __init__(
        self,
        region: str = "us-east-1",
        *,
        session: Any = None,
        endpoint_url: str | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.region = region
        self._client = functools.cache(
            functools.partial(client, session_for(region, session), endpoint_url=endpoint_url)
        )
        self._deployments = Deployments(functools.partial(self._client, "bedrock"), sleep)

    def __repr__(self) -> str:
        return f"NovaJobs(region={self.region!r})"

    def upload(self, path: str | Path, destination: str, *, check: bool = True, require_reference: bool = True) -> File:
        """Upload a file of prompts to S3. Safe to repeat: the same content has the same key.

        Args:
            path: A jsonl file.
            destination: `s3://bucket/folder` or `bucket/folder`.
            check: Whether to check the file first, as `aws-rft dataset check --for nova` does.
            require_reference: Whether each row needs a reference_answer.

        Returns:
            The file. Its id is its S3 URI.

        Raises:
            DatasetError: The file is missing or breaks rules. Nothing was sent.
            JobConfigError: The destination is no S3 URI. Nothing was sent.
            ServiceError: S3 refused the file, or did not answer.
        """
        path = Path(path)
        refuse(destination_problems(destination, "destination"), f"{path} cannot be uploaded")
        refuse_file(path, Target.NOVA, check=check, require_reference=require_reference)
        return upload_file(self._client("s3"), path, destination)

    def create(
        self,
        model: str,
        training_data: str | Path | File | Mapping[str, JSON],
        grader: str | Mapping[str, JSON],
        *,
        job_name: str,
        role_arn: str,
        output: str,
        custom_model_name: str | None = None,
        hyperparameters: Mapping[str, JSON] | None = None,
        validators: Sequence[str | Path | File] = (),
        tags: Mapping[str, str] | None = None,
        kms_key: str | None = None,
        vpc: Mapping[str, JSON] | None = None,
        upload_to: str | None = None,
        require_reference: bool = True,
    ) -> Job:
        """Create a job. Everything is checked first, local files included. Then local files are uploaded.

        The same call makes one job, however often it is repeated, for example after its answer was lost.

        Args:
            model: Id or ARN of the base model.
            training_data: A local jsonl file, its S3 URI, what `upload` returned, or the API's `invocationLogsConfig`.
            grader: ARN of a Lambda function, or the API's `graderConfig`.
            job_name: Unique in the account and region.
            role_arn: Role that Bedrock runs the job as.
            output: S3 URI that the job writes below.
            custom_model_name: Name of the tuned model; None for the job's name.
            hyperparameters: By the API's names, for example `batchSize`.
            validators: At most 10 files, as for `training_data`.
            tags: Of the job and of the tuned model.
            kms_key: Encrypts the tuned model; None for a key of AWS.
            vpc: The API's `vpcConfig`.
            upload_to: Where local files go; None for the folder `data` below `output`.
            require_reference: Whether each row of a local file needs a reference_answer.

        Raises:
            JobConfigError: Something is wrong; its `problems` are all that is. Nothing was sent.
            JobServiceError: Bedrock or S3 refused, or the name belongs to another job, which the message describes.
            ServiceError: No answer came. Repeat the call.
        """
        check_type("validators", validators, (list, tuple), "a list of files")
        folder = upload_to or f"{str(output).rstrip('/')}/data"
        files = _DataFiles(training_data, validators, folder)
        first, *others = files.asked.values()
        parameters = create_parameters(
            *(model, first, grader),
            job_name=job_name,
            role_arn=role_arn,
            output=output,
            custom_model_name=custom_model_name,
            hyperparameters=hyperparameters,
            validators=others,
            tags=tags,
            kms_key=kms_key,
            vpc=vpc,
        )
        found = [problem for problem in problems(parameters) if problem.path not in files.local]
        if files.local and upload_to:
            found += destination_problems(upload_to, "upload_to")
        found += files.problems(hyperparameters, require_reference=require_reference)
        refuse(found, f"the job {job_name!r} cannot be created")
        for path, file in files.local.items():
            if self.upload(file, folder, check=False).id != files.asked[path]:
                raise ConfigurationError(f"{file} was changed while it was uploaded. Call create again")
        return self._create(parameters)

    def _create(self, parameters: Mapping[str, JSON]) -> Job:
        with asking(_CREATE):
            try:
                arn = self._client("bedrock").create_model_customization_job(**parameters)["jobArn"]
            except ClientError as error:
                if code_of(error) not in _TAKEN:
                    raise
                return self._existing(parameters, error)
        name = parameters["jobName"]
        try:
            return self.get(name)
        except RFTError as error:  # the job exists, and the caller must know
            logger.warning("job=<%s>, error=<%s> | created, and could not be looked at", arn, error)
            return Job({"jobArn": arn, "jobName": name}, name, "", "unknown")

    def _existing(self, parameters: Mapping[str, JSON], error: ClientError) -> Job:
        """Return the job that an earlier call with the same parameters made.

        Raises:
            JobServiceError: The name belongs to another job.
        """
        name = parameters["jobName"]
        try:
            job = self.get(name)
        except JobServiceError as missing:
            text = f"If no job is called {name!r}, a model is called {parameters['customModelName']!r} already"
            raise conflict(error, _CREATE, f"{text}: choose another custom_model_name. {missing}") from None
        if job.get("clientRequestToken") == parameters["clientRequestToken"]:
            return job
        told = ", ".join(differing(job, parameters)) or "what Bedrock does not show"
        text = f"The name {name!r} belongs to {job['jobArn']}, which is {job.status} and differs in {told}"
        raise conflict(error, _CREATE, f"{text}. Choose another job_name") from None

    def get(self, job: str | Job) -> Job:
        """Return a job as it is now. Safe to repeat. Its id is its name; `job["jobArn"]` is its ARN.

        Args:
            job: Its name or ARN, or a job.

        Raises:
            JobServiceError: There is no such job, or the caller may not see it.
        """
        with asking("bedrock:GetModelCustomizationJob"):
            return job_of(self._client("bedrock").get_model_customization_job(jobIdentifier=id_of(job)))

    def list(self) -> Iterator[Job]:
        """Yield the reinforcement fine-tuning jobs, the newest first, page by page as they are asked for."""
        pages = (
            self._client("bedrock")
            .get_paginator("list_model_customization_jobs")
            .paginate(sortBy="CreationTime", sortOrder="Descending")
        )
        for page in asking_each(pages, "bedrock:ListModelCustomizationJobs"):
            for row in page.get("modelCustomizationJobSummaries", ()):
                if row.get("customizationType", RFT) == RFT:
                    yield job_of(row)

    def stop(self, job: str | Job) -> Job:
        """Stop a job. Safe to repeat: a job that is stopping or has stopped is returned as it is.

        Raises:
            JobServiceError: The job has ended already, or there is no such job.
        """
        with asking("bedrock:StopModelCustomizationJob"):
            try:
                self._client("bedrock").stop_model_customization_job(jobIdentifier=id_of(job))
            except ClientError as error:
                if code_of(error) not in _TAKEN:
                    raise
                now = self.get(job)
                if now.status not in ("Stopping", "Stopped"):
                    text = f"The job {now.id} cannot be stopped: it is {now.status}"
                    raise conflict(error, "bedrock:StopModelCustomizationJob", text) from None
        return self.get(job)

    def deploy(
        self,
        model: str | Job,
        name: str,
        *,
        poll_seconds: float = 15.0,
        timeout_seconds: float = 3600.0,
    ) -> ModelDeployment:
        """Deploy a tuned model for on-demand inference, and wait until it can be called.

        Safe to repeat: a deployment of this name and model that exists is waited for.

        Args:
            model: ARN of the tuned model, or the job that made it: a job, its ARN or its name.
            name: Unique in the account and region.
            poll_seconds: Between two looks at the deployment.
            timeout_seconds: How long to wait at most.

        Raises:
            ConfigurationError: The job has not succeeded.
            JobConfigError: A parameter is wrong. Nothing was sent.
            JobServiceError: Bedrock refused, the deployment failed, or another model is deployed by this name.
            ServiceTimeoutError: The deployment is still being created. Call `deploy` again to go on waiting.
        """
        check_seconds("poll_seconds", poll_seconds)
        check_seconds("timeout_seconds", timeout_seconds)
        refuse(value_problems("ModelDeploymentName", name, "name"), "the model cannot be deployed")
        return self._deployments.make(self._tuned_model(model), name, poll_seconds, timeout_seconds)

    def _tuned_model(self, model: str | Job) -> str:
        if isinstance(model, str) and ":custom-model/" in model:
            return model
        job = model if isinstance(model, Job) and model.finished else self.get(model)
        if job.tuned_model is None:
            raise ConfigurationError(f"job {job.id} has no model to deploy: it is {job.status or 'unknown'}")
        return job.tuned_model

    def deployment(self, deployment: str | ModelDeployment) -> ModelDeployment:
        """Return a deployment, by its ARN or name, as it is now.

        Raises:
            JobServiceError: There is no such deployment, or the caller may not see it.
        """
        return self._deployments.get(id_of(deployment))

    def undeploy(self, deployment: str | ModelDeployment) -> None:
        """Delete a deployment, by its ARN or name. Does nothing if there is none, so that repeating is safe."""
        self._deployments.delete(id_of(deployment))

    def converse(
        self,
        deployment: str | ModelDeployment,
        messages: str | Sequence[Mapping[str, JSON]],
        *,
        stream: bool = False,
        **options: JSON,
    ) -> JSON:
        """Talk to a deployed model. A call that is repeated samples again.

        Args:
            deployment: Its ARN. A base model's id also works.
            messages: A question, or messages whose content is a text or the API's list of blocks. The texts of
                messages of the role `system` become the API's `system`.
            stream: Whether to return an iterator of the API's events instead of its answer.
            options: More of the API's parameters, for example `inferenceConfig={"maxTokens": 512}`.

        Returns:
            What boto3's `converse` returns, or an iterator of the events of `converse_stream`. `reply_text` finds the
            text in both.
        """
        request = {"modelId": id_of(deployment), **converse_messages(messages), **options}
        runtime = self._client("bedrock-runtime")
        action = "bedrock:InvokeModelWithResponseStream" if stream else "bedrock:InvokeModel"
        with asking(action, request["modelId"]):
            if stream:
                return whole(asking_each(runtime.converse_stream(**request)["stream"], action, request["modelId"]))
            return runtime.converse(**request)


class _DataFiles:
    """The data of a job by its places in the request.

    Attributes:
        local: Files that must be uploaded.
        asked: What the request says: for a local file that is there the URI that it will have.
    """

    def __init__(self, training: object, validators: Sequence[object], folder: str) -> None:
        paths = [_TRAINING, *(f"validationDataConfig.validators[{number}].s3Uri" for number in range(len(validators)))]
        given = dict(zip(paths, (training, *validators), strict=True))
        self.local = {
            path: Path(data) for path, data in given.items() if isinstance(data, str | Path) and not is_s3(data)
        }
        uris = {path: upload_uri(file, folder) for path, file in self.local.items() if file.is_file()}
        uris |= {path: data.id for path, data in given.items() if isinstance(data, File)}
        self.asked: dict[str, Any] = {**given, **uris}

    def problems(self, hyperparameters: object, *, require_reference: bool) -> list[Problem]:
        """Return what is wrong with the local files."""
        sizes = hyperparameters if isinstance(hyperparameters, Mapping) else {}
        found: list[Problem] = []
        for path, file in self.local.items():
            is_training = path == _TRAINING
            options: dict[str, Any] = {"require_reference": require_reference, "is_training": is_training}
            found += check_file(file, Target.NOVA, path, sizes=sizes, **options).problems
        return found
