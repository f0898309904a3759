"""Finds the jobs that use an agent. Redeploying the agent would fail them: their rollouts in progress die."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from aws_rft_sdk.agent_rft import EVALUATION, MODELS, TRAINING
from aws_rft_sdk.errors import ConfigurationError, JobServiceError
from aws_rft_sdk.jobs._aws import asking_each
from aws_rft_sdk.jobs._sagemaker_answers import document_of, job_of
from aws_rft_sdk.jobs._sagemaker_looking import MISSING
from aws_rft_sdk.jobs.sagemaker import AgentRFT
from aws_rft_sdk.jobs.types import Job

_RUNNING = ("InProgress", "Stopping")
"""In this order, a job that is stopped between the two calls is not missed."""
_ARN = re.compile(
    r"arn:[\w-]+:(?:bedrock-agentcore:(?P<region>[\w-]+):\d{12}:runtime/(?P<name>[\w-]+)(?:/runtime-endpoint/[\w-]+)?"
    r"|lambda:(?P<function_region>[\w-]+):\d{12}:function:(?P<function>[\w-]+)(?::[\w$-]+)?)"
)
_ID_END = re.compile(r"-[a-zA-Z0-9]{10}$")
"""The id of an AgentCore runtime is its name, a hyphen, and 10 characters that AgentCore adds."""
_NAME = re.compile(r"(?P<name>[a-zA-Z0-9][\w-]*)(?::[\w$-]+)?")


class Agent(NamedTuple):
    """An agent as it is deployed, without the version or alias.

    Attributes:
        name: Id or name of the AgentCore runtime, or name of the Lambda function.
        arn: None if only the name is known.
        region: None if only the name is known.
    """

    name: str
    arn: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, text: str) -> Agent:
        """Read the ARN, id or name of an AgentCore runtime, or the ARN or name of a Lambda function.

        Raises:
            ConfigurationError: It is none of these.
        """
        if found := _ARN.fullmatch(text):
            name = found["name"] or found["function"]
            end = found.end("name" if found["name"] else "function")
            return cls(name, text[:end], found["region"] or found["function_region"])
        if found := _NAME.fullmatch(text):
            return cls(found["name"])
        raise ConfigurationError(
            f"{text!r:.200} is no agent. Give the ARN, id or name of an AgentCore runtime, or the ARN or name of a "
            "Lambda function"
        )

    def is_agent_of(self, job: Job) -> bool:
        """Whether a job calls this agent. Also true if the job does not say which agent it calls."""
        config = document_of(job).get("AgentConfig") or {}
        arns = [
            block.get(member)
            for block, member in (
                (config.get("BedrockAgentCoreConfig") or {}, "AgentRuntimeArn"),
                (config.get("CustomAgentLambdaConfig") or {}, "LambdaArn"),
            )
        ]
        arn = next(filter(None, arns), "")
        if not _ARN.fullmatch(arn):
            return True
        other = Agent.of(arn)
        if self.arn is None and ":runtime/" in arn and self.name == _ID_END.sub("", other.name):
            return True
        return self.name == other.name and self.arn in (None, other.arn)


def regions_of(agent: str) -> tuple[str, ...]:
    """Return the regions that may have jobs with an agent: its own, or if only its name is known all that have jobs.

    Raises:
        ConfigurationError: It is no agent.
    """
    region = Agent.of(agent).region
    return (region,) if region else tuple(sorted({name for model in MODELS.values() for name in model.regions}))


def jobs_using(agent: str, jobs: AgentRFT) -> Iterator[Job]:
    """Yield the trainings and evaluations in a region that call an agent and have not ended. Safe to repeat.

    Args:
        agent: ARN, id or name of an AgentCore runtime, or ARN or name of a Lambda function. Its qualifier or alias does
            not matter: all of them are redeployed.
        jobs: The jobs of the account and region.

    Raises:
        ConfigurationError: It is no agent.
        ServiceError: SageMaker cannot be asked. Then there may be such jobs.
    """
    wanted, seen = Agent.of(agent), set()
    for category in (TRAINING, EVALUATION):
        for status in _RUNNING:
            pages = jobs.client("sagemaker").get_paginator("list_jobs")
            for page in asking_each(pages.paginate(JobCategory=category, StatusEquals=status), "sagemaker:ListJobs"):
                for row in map(job_of, page.get("JobSummaries", ())):
                    job = _now(row, category, jobs)
                    if job and (category, job.id) not in seen and wanted.is_agent_of(job):
                        seen.add((category, job.id))
                        yield job


def _now(row: Job, category: str, jobs: AgentRFT) -> Job | None:
    """Return a job as it is now, with its document. Returns None if it has ended meanwhile."""
    try:
        job = jobs.get(row.id, category)
    except JobServiceError as error:
        if error.code == MISSING:
            return None
        raise
    return job if job.status in _RUNNING else None
