"""Multi-turn RL jobs on SageMaker: CreateJob and its siblings, and everything that follows a job."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import EVALUATION, TRAINING, Prices
from aws_rft_sdk.datasets import Target
from aws_rft_sdk.errors import ConfigurationError, JobServiceError, RFTError, ServiceError
from aws_rft_sdk.jobs._aws import asking, asking_each, client, session_for, upload_file
from aws_rft_sdk.jobs._cloudwatch import JobLog, LogLine
from aws_rft_sdk.jobs._files import destination_problems, refuse_file
from aws_rft_sdk.jobs._mlflow import Mlflow
from aws_rft_sdk.jobs._nova_answers import code_of, conflict
from aws_rft_sdk.jobs._sagemaker_answers import (
    checkpoints_of,
    differing,
    document_of,
    evaluation_metrics,
    job_of,
    mlflow_arn,
    name_of,
    service_output,
)
from aws_rft_sdk.jobs._sagemaker_following import StepMetrics, follow_events, follow_log, looks, wait_for
from aws_rft_sdk.jobs._sagemaker_followup import How, continued, deploy_commands, evaluation, model_checkpoint
from aws_rft_sdk.jobs._sagemaker_request import problems
from aws_rft_sdk.jobs.evaluations import Evaluated, compare_traces, threshold_of
from aws_rft_sdk.jobs.iam import partition_of
from aws_rft_sdk.jobs.types import Checkpoint, Event, File, Job, refuse
from aws_rft_sdk.jobs.watching import POLL_SECONDS

__all__ = ["AgentRFT", "deploy_commands"]

logger = logging.getLogger(__name__)

QUOTA_SECONDS = 900.0
"""How long to wait for a place among the jobs that the account may run. An evaluation that has ended may keep its
place for a while."""
_FEW = 5
"""Looks for what the service shows late: a job that was just created, or the last metrics of one that has ended."""
_SETTLE_SECONDS = 2.0
_MISSING, _TAKEN, _QUOTA = "ResourceNotFound", "ResourceInUse", "ResourceLimitExceeded"
_PACKAGE_PAGES = 10
"""Pages of 100 model packages that are read of a group, the newest first."""


class AgentRFT:
    """Multi-turn RL jobs, and their evaluations, in one account and region. Safe to share between threads.

        jobs = AgentRFT("us-west-2")
        job = jobs.create(parameters)  # as `aws-rft job plan --json` prints them
        job = jobs.wait(job)
        found = jobs.evaluate(job)
        print(found.comparison.differences[0].verdict)

    A job is named by its name or its ARN, or is what a call returned. Names are unique in an account and region.

    Args:
        region: Of the jobs.
        session: A boto3 session for the credentials; None for boto3's usual sources.
        endpoint_url: A stand-in for AWS; None for AWS.
        sleep: Waits between two looks, in seconds.
        prices: What tokens cost, for the billed tokens that `events` tells. None for the known prices.

    Attributes:
        client: Returns boto3's client of a service, for example `client("sagemaker")`.

    Raises:
        ConfigurationError: boto3 is not installed, or the region is not AWS's.
    """

    def __init__(
        self,
        region: str = "us-west-2",
        *,
        session: Any = None,
        endpoint_url: str | None = None,
        sleep: Callable[[float], object] = time.sleep,
        prices: Prices | None = None,
    ) -> None:
        self.region = region
        self._sleep = sleep
        self._prices = prices
        self.client = functools.cache(
            functools.partial(client, session_for(region, session), endpoint_url=endpoint_url)
        )

    def __repr__(self) -> str:
        return f"AgentRFT(region={self.region!r})"

    # --- making jobs -------------------------------------------------------------------------------------------------

    def upload(self, path: str | Path, destination: str, *, check: bool = True) -> File:
        """Upload a file of prompts to S3. Safe to repeat: the same content has the same key.

        Args:
            path: A jsonl, json, csv or parquet file.
            destination: `s3://bucket/folder` or `bucket/folder`.
            check: Whether to check the file first, as `aws-rft dataset check --for mtrl` does.

        Returns:
            The file. Its id is its S3 URI.

        Raises:
            DatasetError: The file is missing or breaks rules. Nothing was sent.
            JobConfigError: The destination is no S3 URI. Nothing was sent.
            ServiceError: S3 refused the file, or did not answer.
        """
        path = Path(path)
        refuse(destination_problems(destination, "destination"), f"{path} cannot be uploaded")
        refuse_file(path, Target.MTRL, check=check)
        return upload_file(self.client("s3"), path, destination)

    def create(self, parameters: Mapping[str, JSON]) -> Job:
        """Create a job. Safe to repeat: the same call makes one job, also after its answer was lost.

        CreateJob has no client token, so the name alone says which job it is. If the name is taken, the job of that
        name is compared with the parameters, and returned if it is the same.

        Args:
            parameters: Of CreateJob. The document is a text of JSON.

        Raises:
            JobConfigError: Something is wrong; its `problems` are all that is. Nothing was sent.
            JobServiceError: SageMaker refused, or the name belongs to another job, which the message describes.
            ServiceError: No answer came. Repeat the call.
        """
        name = str(parameters.get("JobName"))
        refuse(problems(parameters), f"the job {name!r} cannot be created")
        with self._asking("CreateJob"):
            try:
                arn = self._sagemaker().create_job(**parameters)["JobArn"]
            except ClientError as error:
                if code_of(error) != _TAKEN:
                    raise
                return self._existing(parameters, error)
        try:
            return self._late(name, parameters["JobCategory"])
        except RFTError as error:  # the job exists, and the caller must know
            logger.warning("job=<%s>, error=<%s> | created, and could not be looked at", arn, error)
            return Job({"JobArn": arn, "JobName": name, "JobCategory": parameters["JobCategory"]}, name, "", "unknown")

    def _late(self, name: str, category: str | None) -> Job:
        """Return a job that may have been created just now. The service may not show it yet."""
        for look in range(_FEW):
            try:
                return self.get(name, category)
            except JobServiceError as error:
                if error.code != _MISSING or look == _FEW - 1:
                    raise
                self._sleep(_SETTLE_SECONDS)
        raise AssertionError  # the last look returns or raises

    def _existing(self, parameters: Mapping[str, JSON], error: ClientError) -> Job:
        """Return the job that an earlier call with the same parameters made.

        Raises:
            JobServiceError: The name belongs to another job.
        """
        name, action = parameters["JobName"], "sagemaker:CreateJob"
        try:
            job = self._late(name, None)
        except JobServiceError as missing:
            text = f"The name {name!r} belongs to something that cannot be looked at. Choose another name. {missing}"
            raise conflict(error, action, text) from None
        if not (different := differing(job, parameters)):
            if job.finished:
                logger.warning(
                    "job=<%s>, status=<%s> | exists and has ended; another name runs it again", name, job.status
                )
            return job
        told = "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")
        text = f"The name {name!r} belongs to {job['JobArn']} of {job.get('CreationTime')}, which is {job.status}"
        raise conflict(error, action, f"{text} and differs in {told}. Choose another name") from None

    def resume(
        self, job: str | Job, name: str, changes: Mapping[str, JSON] | None = None, *, checkpoint: str | None = None
    ) -> Job:
        """Go on with a job that failed or was stopped, at the step after its last resumable checkpoint.

        Base model, hyperparameters and datasets must stay. What may change is in the error about what may not.

        Args:
            job: The job that has ended.
            name: Of the new job. Safe to repeat with the same name.
            changes: For example `{"max_runtime_seconds": 86400}`.
            checkpoint: ARN of a model package of the checkpoint group. None for the last one.

        Raises:
            ConfigurationError: The job has no resumable checkpoint, or a change is not allowed. Nothing was sent.
            ServiceError: As for `create`.
        """
        return self._continue(job, name, "resume", changes, checkpoint)

    def iterate(
        self, job: str | Job, name: str, changes: Mapping[str, JSON] | None = None, *, checkpoint: str | None = None
    ) -> Job:
        """Begin a new run from the weights that a job has tuned. Optimizer and steps begin anew.

        All but the base model may change.

        Args:
            job: The job that has the weights.
            name: Of the new job. Safe to repeat with the same name.
            changes: For example `{"train": "s3://bucket/harder.jsonl", "hyperparameters": {"learning_rate": 5e-6}}`.
            checkpoint: ARN of a model package of the output group. None for the last one.

        Raises:
            ConfigurationError: The job has no model, or a change is not allowed. Nothing was sent.
            ServiceError: As for `create`.
        """
        return self._continue(job, name, "iterate", changes, checkpoint)

    def _continue(
        self, job: str | Job, name: str, how: How, changes: Mapping[str, JSON] | None, checkpoint: str | None
    ) -> Job:
        return self.create(continued(self.get(job), name, how, changes, checkpoint))

    # --- looking at jobs ---------------------------------------------------------------------------------------------

    def get(self, job: str | Job, category: str | None = None) -> Job:
        """Return a job as it is now. Safe to repeat. Its id is its name; `job["JobArn"]` is its ARN.

        Args:
            job: Its name or ARN, or a job.
            category: None for the one in the ARN, or else the first that has a job of the name: AgentRFT, then
                AgentRFTEvaluation.

        Raises:
            JobServiceError: There is no such job, or the caller may not see it.
        """
        name, known = name_of(job, self.region)
        categories = [category or known] if category or known else [TRAINING, EVALUATION]
        for number, tried in enumerate(categories, 1):
            with self._asking("DescribeJob", f"job/*/{name}"):
                try:
                    return job_of(self._sagemaker().describe_job(JobName=name, JobCategory=tried))
                except ClientError as error:
                    if code_of(error) != _MISSING or number == len(categories):
                        raise
        raise AssertionError  # the last category returns or raises

    def list(self, category: str | None = None) -> Iterator[Job]:
        """Yield the jobs, the newest first, page by page as they are asked for. They have no documents.

        Args:
            category: None for trainings and evaluations.
        """
        categories = [category] if category else [TRAINING, EVALUATION]
        rows = [self._listed(category) for category in categories]
        return merge(*rows, key=lambda job: str(job.get("CreationTime")), reverse=True)

    def _listed(self, category: str) -> Iterator[Job]:
        pages = self._sagemaker().get_paginator("list_jobs")
        found = pages.paginate(JobCategory=category, SortBy="CreationTime", SortOrder="Descending")
        for page in asking_each(found, "sagemaker:ListJobs"):
            yield from map(job_of, page.get("JobSummaries", ()))

    def stop(self, job: str | Job) -> Job:
        """Stop a job. Safe to repeat. A job that has ended is returned as it is. Its last checkpoint is kept."""
        now = self.get(job)
        if not now.finished:
            with self._asking("StopJob", f"job/*/{now.id}"):
                self._sagemaker().stop_job(JobName=now.id, JobCategory=now["JobCategory"])
            now = self.get(now)
        return now

    def delete(self, job: str | Job) -> None:
        """Delete a job that has ended. Its model packages stay. Does nothing if there is none, so repeating is safe.

        Raises:
            JobServiceError: The job runs.
        """
        try:
            now = self.get(job)
        except JobServiceError as error:
            if error.code == _MISSING:
                return
            raise
        with self._asking("DeleteJob", f"job/*/{now.id}"):
            try:
                self._sagemaker().delete_job(JobName=now.id, JobCategory=now["JobCategory"])
            except ClientError as error:
                if code_of(error) == _TAKEN:
                    text = f"The job {now.id} is {now.status}. Stop it first: aws-rft job stop {now.id} --on sagemaker"
                    raise conflict(error, "sagemaker:DeleteJob", text) from None
                if code_of(error) != _MISSING:
                    raise

    def wait(
        self,
        job: str | Job,
        *,
        poll_seconds: float = POLL_SECONDS,
        timeout_seconds: float | None = None,
        changed: Callable[[Job], object] = lambda job: None,
    ) -> Job:
        """Wait until a job has ended, and return it. Outages of up to 900 s are waited out.

        Args:
            job: The job.
            poll_seconds: Pause between two looks.
            timeout_seconds: How long to wait at most. None waits as long as the job takes, which may be days.
            changed: Is told the job each time its status or its secondary status is another.

        Raises:
            ServiceTimeoutError: The job has not ended in time. It goes on. Call `wait` again to go on waiting.
            ServiceError: The service refuses, or an outage lasts longer.
        """
        check_seconds("poll_seconds", poll_seconds)
        return wait_for(self._looks(job, poll_seconds), timeout_seconds, changed)

    def _looks(self, job: str | Job, poll_seconds: float) -> Iterator[Job]:
        return looks(functools.partial(self.get, job), poll_seconds, self._sleep)

    def schema(self, category: str = TRAINING, version: str | None = None) -> dict[str, JSON]:
        """Return the JSON schema of the documents of a category.

        Args:
            category: `AgentRFT` or `AgentRFTEvaluation`.
            version: None for the latest.
        """
        more = {"JobConfigSchemaVersion": version} if version else {}
        with self._asking("DescribeJobSchemaVersion"):
            answer = self._sagemaker().describe_job_schema_version(JobCategory=category, **more)
        found = json.loads(answer["JobConfigSchema"])
        return found if isinstance(found, dict) else {}

    # --- following jobs ----------------------------------------------------------------------------------------------

    def checkpoints(self, job: str | Job) -> Sequence[Checkpoint]:
        """Return the checkpoints that a job has saved so far, the oldest first.

        Those of the group of resumable checkpoints have `resumable` true. If the caller may not list model packages,
        there are only the last ones, which the job itself names.
        """
        now = self.get(job)
        groups = document_of(now).get("ModelPackageConfig", {}) if now["JobCategory"] == TRAINING else {}
        rows: list[Mapping[str, JSON]] = []
        for field in ("OutputModelPackageGroupArn", "IntermediateCheckpointModelPackageGroupArn"):
            if group := groups.get(field):
                rows += self._packages(str(group), now)
        return checkpoints_of(now, rows)

    def _packages(self, group: str, job: Job) -> Iterator[Mapping[str, JSON]]:
        """Yield the model packages of a group that were made while a job ran."""
        times = {"CreationTimeAfter": job["CreationTime"]}
        if job.get("EndTime"):
            times["CreationTimeBefore"] = job["EndTime"]
        pages = self._sagemaker().get_paginator("list_model_packages")
        found = pages.paginate(
            ModelPackageGroupName=group,
            SortBy="CreationTime",
            SortOrder="Descending",
            PaginationConfig={"PageSize": 100, "MaxItems": 100 * _PACKAGE_PAGES},
            **times,
        )
        try:
            for page in asking_each(found, "sagemaker:ListModelPackages", group):
                yield from page.get("ModelPackageSummaryList", ())
        except JobServiceError as error:  # watching goes on without the list
            logger.warning("group=<%s>, error=<%s> | the model packages cannot be listed", group, error)

    def events(self, job: str | Job, *, follow: bool = False, poll_seconds: float = POLL_SECONDS) -> Iterator[Event]:
        """Yield what a job says, each thing once: transitions, progress, billed tokens, checkpoints, steps' metrics.

        The metrics come from MLflow. A step whose metrics arrive in parts is told again with all of them. If MLflow
        cannot be read, an event says so, and the rest goes on. Leaving the loop never touches the job.

        Args:
            job: The job.
            follow: Whether to go on until the job has ended and its last metrics are read. After the first answer
                outages of up to 900 s are waited out.
            poll_seconds: Pause between two looks.

        Raises:
            ConfigurationError: `poll_seconds` is not above 0.
        """
        check_seconds("poll_seconds", poll_seconds)
        metrics = StepMetrics(self.mlflow)
        return follow_events(self._looks(job, poll_seconds), metrics, self._prices, follow=follow)

    def logs(self, job: str | Job, *, follow: bool = False, poll_seconds: float = POLL_SECONDS) -> Iterator[LogLine]:
        """Yield the lines of a job's log, each once. There are none before the job has started.

        Args:
            job: The job.
            follow: Whether to go on until the job has ended and its last lines are read.
            poll_seconds: Pause between two looks.
        """
        check_seconds("poll_seconds", poll_seconds)
        now = self.get(job)
        log = JobLog(self.client("logs"), now["JobCategory"], now.id)
        found = looks(lambda: (self.get(now).finished, log.read()), poll_seconds, self._sleep)
        return follow_log(found, follow=follow)

    def mlflow(self, job: Job) -> Mlflow | None:
        """Return a session with the MLflow app of a job. Returns None if its document names none."""
        arn = mlflow_arn(document_of(job))
        return None if arn is None else Mlflow(functools.partial(self._presigned, arn))

    def _presigned(self, arn: str) -> str:
        if ":mlflow-tracking-server/" in arn:
            name = arn.rpartition("/")[2]
            with self._asking("CreatePresignedMlflowTrackingServerUrl"):
                answer = self._sagemaker().create_presigned_mlflow_tracking_server_url(TrackingServerName=name)
        else:
            with self._asking("CreatePresignedMlflowAppUrl"):
                answer = self._sagemaker().create_presigned_mlflow_app_url(Arn=arn)
        return str(answer["AuthorizedUrl"])

    # --- evaluations -------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        job: str | Job,
        *,
        name: str | None = None,
        dataset: str | None = None,
        model_package: str | None = None,
        hyperparameters: Mapping[str, JSON] | None = None,
        poll_seconds: float = POLL_SECONDS,
        changed: Callable[[Job], object] = lambda job: None,
    ) -> Evaluated:
        """Evaluate the base model and then the tuned model with the agent of a training job, and compare them.

        One after the other, since an account may run one evaluation. Safe to repeat: evaluations that exist are waited
        for or read.

        Args:
            job: The training job.
            name: What the names of the evaluations begin with; None for the job's name. Another dataset needs another
                name.
            dataset: S3 URI or dataset ARN of the prompts. None for the validation data of the job.
            model_package: ARN of a model checkpoint to compare. None for the job's tuned model.
            hyperparameters: For example `{"eval_group_size": 4, "temperature": 1.0}`.
            poll_seconds: Pause between two looks at an evaluation.
            changed: Is told an evaluation each time its status or its secondary status is another.

        Raises:
            ConfigurationError: The job has no model, or no data to evaluate on. Nothing was sent.
            JobServiceError: SageMaker refused, or an evaluation failed.
        """
        now = self.get(job)
        package = model_package or model_checkpoint(now)
        if package is None:
            raise ConfigurationError(f"job {now.id} has no model to evaluate: it is {now.status}")
        asked = [
            evaluation(
                now,
                f"{(name or now.id)[: 63 - len(suffix)].rstrip('-')}{suffix}",
                model_package=chosen,
                dataset=dataset,
                hyperparameters=hyperparameters,
            )
            for suffix, chosen in (("-eval-base", None), ("-eval-tuned", package))
        ]
        base, tuned = (self._evaluated(parameters, poll_seconds, changed) for parameters in asked)
        base_traces, tuned_traces = (list(self.traces(item)) for item in (base, tuned))
        found, note = compare_traces(base_traces, tuned_traces, success_threshold=threshold_of(base))
        return Evaluated(base, tuned, self.evaluation_metrics(base), self.evaluation_metrics(tuned), found, note)

    def _evaluated(self, parameters: Mapping[str, JSON], poll_seconds: float, changed: Callable[[Job], object]) -> Job:
        begun = time.monotonic()
        while True:
            try:
                made = self.create(parameters)
                break
            except JobServiceError as error:
                if error.code != _QUOTA or time.monotonic() - begun > QUOTA_SECONDS:
                    raise
                logger.warning("job=<%s>, error=<%s> | waits for another evaluation", parameters["JobName"], error)
                self._sleep(poll_seconds)
        ended = self.wait(made, poll_seconds=poll_seconds, changed=changed)
        if ended.state != "succeeded":
            reason = f": {ended.failure}" if ended.failure else ""
            raise JobServiceError(f"evaluation {ended.id} is {ended.status}{reason}", action="sagemaker:CreateJob")
        return ended

    def evaluation_metrics(self, job: str | Job) -> dict[str, float]:
        """Return the figures of an evaluation that has ended, for example `eval/reward/pass_at_1`.

        They come from the job itself and from MLflow. Where both have a figure, MLflow's counts.
        """
        now = self.get(job)
        found = evaluation_metrics(service_output(now))
        for item in StepMetrics(self.mlflow).read(now):
            found |= {key: value for key, value in item.get("data", {}).items() if key.startswith("eval/")}
        return found

    def traces(self, job: str | Job) -> Iterator[Mapping[str, JSON]]:
        """Yield the rollouts of a job that MLflow has traces of: `id`, `prompt` and `reward`, None where unknown.

        Yields nothing if the job names no MLflow app, or if MLflow refuses.
        """
        now = self.get(job)
        details, mlflow = service_output(now).get("MlflowDetails", {}), self.mlflow(now)
        if mlflow is None or not details.get("ExperimentId") or not details.get("RunId"):
            return
        try:
            yield from mlflow.traces(str(details["ExperimentId"]), str(details["RunId"]))
        except ServiceError as error:
            logger.warning("job=<%s>, error=<%s> | the traces cannot be read", now.id, error)

    # --- asking ------------------------------------------------------------------------------------------------------

    def _sagemaker(self) -> Any:
        return self.client("sagemaker")

    def _asking(self, operation: str, resource: str | None = None) -> Any:
        arn = f"arn:{partition_of(self.region)}:sagemaker:{self.region}:*:{resource}" if resource else "*"
        return asking(f"sagemaker:{operation}", arn)
