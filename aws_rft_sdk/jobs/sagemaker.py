"""Multi-turn RL jobs on SageMaker: CreateJob and its siblings, and everything that follows a job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from botocore.exceptions import ClientError

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import MAX_RUNTIME_SECONDS
from aws_rft_sdk.datasets import Target
from aws_rft_sdk.errors import ConfigurationError, JobServiceError, RFTError
from aws_rft_sdk.jobs._aws import upload_file
from aws_rft_sdk.jobs._files import destination_problems, refuse_file
from aws_rft_sdk.jobs._nova_answers import code_of, conflict
from aws_rft_sdk.jobs._sagemaker_answers import differing
from aws_rft_sdk.jobs._sagemaker_followup import How, continued, deploy_commands, evaluation, model_checkpoint
from aws_rft_sdk.jobs._sagemaker_looking import MISSING, JobReader
from aws_rft_sdk.jobs._sagemaker_request import problems
from aws_rft_sdk.jobs.evaluations import Evaluated, evaluated
from aws_rft_sdk.jobs.types import File, Job, refuse
from aws_rft_sdk.jobs.watching import POLL_SECONDS

__all__ = ["AgentRFT", "deploy_commands"]

logger = logging.getLogger(__name__)

QUOTA_SECONDS = 900.0
"""How long to wait for a place among the jobs that the account may run. An evaluation that has ended may keep its
place for a while."""
_FEW = 5
"""Looks for a job that was just created, which the service may not show yet."""
_SETTLE_SECONDS = 2.0
"""Between these looks."""
_TAKEN, _QUOTA = "ResourceInUse", "ResourceLimitExceeded"


class AgentRFT(JobReader):
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
                if code_of(error) not in (_TAKEN, _QUOTA):
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
                if error.code != MISSING or look == _FEW - 1:
                    raise
                self._sleep(_SETTLE_SECONDS)
        raise AssertionError  # the last look returns or raises

    def _existing(self, parameters: Mapping[str, JSON], error: ClientError) -> Job:
        """Return the job that an earlier call with the same parameters made.

        After a lost answer, the job itself may fill the quota, and the quota may be checked before the name.

        Raises:
            JobServiceError: The name belongs to another job.
            ClientError: The quota is filled by other jobs.
        """
        name, action = parameters["JobName"], "sagemaker:CreateJob"
        is_taken = code_of(error) == _TAKEN
        try:
            job = self._late(name, None) if is_taken else self.get(name)
        except JobServiceError as missing:
            if not is_taken:
                raise error from None
            text = f"The name {name!r} belongs to something that cannot be looked at. Choose another name. {missing}"
            raise conflict(error, action, text) from None
        if not (different := differing(job, parameters)):
            level = logging.WARNING if job.state in ("failed", "cancelled") else logging.INFO
            logger.log(level, "job=<%s>, status=<%s> | exists; another name runs it again", name, job.status)
            return job
        told = "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")
        text = f"The name {name!r} belongs to {job['JobArn']} of {job.get('CreationTime')}, which is {job.status}"
        raise conflict(error, action, f"{text} and differs in {told}. Choose another name") from None

    def resume(
        self, job: str | Job, name: str, changes: Mapping[str, JSON] | None = None, *, checkpoint: str | None = None
    ) -> Job:
        """Go on with a job that failed or was stopped, at the step after its last resumable checkpoint.

        Base model, hyperparameters and datasets must stay: the checkpoint belongs to that run.

        Args:
            job: The job that has ended.
            name: Of the new job. Safe to repeat with the same name.
            changes: For example `{"max_runtime_seconds": 86400}`. The names are `agent`, `qualifier`, `output`,
                `model_package_group`, `checkpoint_package_group`, `mlflow_arn`, `mlflow_experiment`, `mlflow_run`,
                `kms_key`, `vpc`, `max_runtime_seconds`, `role_arn` and `tags`.
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
                The names are those of `resume`, and `train`, `validation` and `hyperparameters`. Hyperparameters that
                are not named stay, and None removes one.
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

    # --- ending jobs -------------------------------------------------------------------------------------------------

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
            if error.code == MISSING:
                return
            raise
        with self._asking("DeleteJob", f"job/*/{now.id}"):
            try:
                self._sagemaker().delete_job(JobName=now.id, JobCategory=now["JobCategory"])
            except ClientError as error:
                if code_of(error) == _TAKEN:
                    text = f"The job {now.id} is {now.status}. Stop it first: aws-rft job stop {now.id} --on sagemaker"
                    raise conflict(error, "sagemaker:DeleteJob", text) from None
                if code_of(error) != MISSING:
                    raise

    # --- evaluations -------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        job: str | Job,
        *,
        name: str | None = None,
        dataset: str | None = None,
        model_package: str | None = None,
        hyperparameters: Mapping[str, JSON] | None = None,
        max_runtime_seconds: int = MAX_RUNTIME_SECONDS,
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
            max_runtime_seconds: Time limit of each evaluation.
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
                max_runtime_seconds=max_runtime_seconds,
            )
            for suffix, chosen in (("-eval-base", None), ("-eval-tuned", package))
        ]
        ended = [self._evaluated(parameters, poll_seconds, changed) for parameters in asked]
        return evaluated(ended, [*map(self.evaluation_metrics, ended)], [[*self.traces(item)] for item in ended])

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
            raise JobServiceError(
                f"evaluation {ended.id} is {ended.status}{reason}. Another name runs it again",
                action="sagemaker:CreateJob",
            )
        return ended
