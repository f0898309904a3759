"""Looking at multi-turn RL jobs on SageMaker: what they are, say, log and have measured. It only reads."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from typing import Any

from botocore.exceptions import ClientError

from aws_rft_sdk._checks import check_seconds, is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import EVALUATION, TRAINING, Prices
from aws_rft_sdk.errors import JobServiceError, ServiceError
from aws_rft_sdk.jobs._aws import asking, asking_each, client, session_for
from aws_rft_sdk.jobs._cloudwatch import JobLog, LogLine
from aws_rft_sdk.jobs._mlflow import Mlflow
from aws_rft_sdk.jobs._nova_answers import code_of, conflict
from aws_rft_sdk.jobs._sagemaker_answers import (
    checkpoints_of,
    document_of,
    evaluation_metrics,
    job_of,
    mlflow_arn,
    name_of,
    service_output,
)
from aws_rft_sdk.jobs._sagemaker_following import StepMetrics, follow_events, follow_log, looks, wait_for
from aws_rft_sdk.jobs.iam import partition_of
from aws_rft_sdk.jobs.types import Checkpoint, Event, Job
from aws_rft_sdk.jobs.watching import POLL_SECONDS

logger = logging.getLogger(__name__)

MISSING = "ResourceNotFound"
_PACKAGE_PAGES = 10
"""Pages of 100 model packages that are read of a group, the newest first."""


class JobReader:
    """Multi-turn RL jobs in one account and region, to look at. The arguments are those of `AgentRFT`."""

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
        self._unlisted: set[str] = set()  # groups whose packages the caller may not list: warned of once
        self.client = functools.cache(
            functools.partial(client, session_for(region, session), endpoint_url=endpoint_url)
        )

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
                    if code_of(error) != MISSING or len(categories) == 1:
                        raise
                    if number == len(categories):
                        text = f"Neither a training job nor an evaluation in {self.region} has the name {name!r}"
                        raise conflict(error, "sagemaker:DescribeJob", text) from None
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

        Raises:
            JobServiceError: The service refuses, or its schema is no JSON object.
        """
        more = {"JobConfigSchemaVersion": version} if version else {}
        with self._asking("DescribeJobSchemaVersion"):
            answer = self._sagemaker().describe_job_schema_version(JobCategory=category, **more)
        try:
            found = json.loads(answer["JobConfigSchema"])
        except ValueError:
            found = None
        if not isinstance(found, dict):  # nothing could be checked by it
            raise JobServiceError(
                f"the schema of {category} is no JSON object", action="sagemaker:DescribeJobSchemaVersion"
            )
        return found

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
            level = logging.DEBUG if group in self._unlisted else logging.WARNING
            self._unlisted.add(group)
            logger.log(level, "group=<%s>, error=<%s> | the model packages cannot be listed", group, error)

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
        return None if arn is None else Mlflow(functools.partial(self._presigned, arn), self._sleep)

    def _presigned(self, arn: str) -> str:
        if ":mlflow-tracking-server/" in arn:
            name = arn.rpartition("/")[2]
            with self._asking("CreatePresignedMlflowTrackingServerUrl"):
                answer = self._sagemaker().create_presigned_mlflow_tracking_server_url(TrackingServerName=name)
        else:
            with self._asking("CreatePresignedMlflowAppUrl"):
                answer = self._sagemaker().create_presigned_mlflow_app_url(Arn=arn)
        return str(answer["AuthorizedUrl"])

    def evaluation_metrics(self, job: str | Job) -> dict[str, float]:
        """Return the figures of an evaluation that has ended, for example `eval/reward/pass_at_1`.

        They come from the job itself and from MLflow. Where both have a figure, MLflow's counts. A figure that is no
        finite number, such as a mean of nothing, is left out.
        """
        now = self.get(job)
        found = evaluation_metrics(service_output(now))
        for item in StepMetrics(self.mlflow).read(now):
            data = item.get("data", {})
            found |= {key: value for key, value in data.items() if key.startswith("eval/") and is_number(value)}
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
