"""What Bedrock answers, as values of this package, and messages as Bedrock takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from botocore.exceptions import ClientError

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, JobServiceError, ServiceConnectionError
from aws_rft_sdk.jobs.types import Job, Resource
from aws_rft_sdk.wire import MESSAGE_MAX_LENGTH, loggable

_STATES = {
    "InProgress": "running",
    "Stopping": "running",
    "Completed": "succeeded",
    "Failed": "failed",
    "Stopped": "cancelled",
}


_SAME = (
    "roleArn",
    "trainingDataConfig",
    "validationDataConfig",
    "outputDataConfig",
    "vpcConfig",
    "customizationConfig",
)
_ECHOED = {"outputModelName": "customModelName", **{name: name for name in _SAME}}
"""What GetModelCustomizationJob answers, and the parameter that it was."""


@dataclass(frozen=True)
class ModelDeployment(Resource):
    """A tuned model that can be called. Its id is the ARN to pass to `NovaJobs.converse`.

    Attributes:
        status: `Creating`, `Active`, `Failed`, or a word that this package does not know.
        model: ARN of the tuned model.
        failure: Why the deployment failed. None if it did not, or if the service does not say.
    """

    status: str
    model: str
    failure: str | None = None


def job_of(answer: Mapping[str, JSON]) -> Job:
    """Read what GetModelCustomizationJob answered, or a row of the list. The id is the job's name."""
    raw = plain(answer)
    status = str(raw.get("status", ""))
    state = _STATES.get(status, "unknown")
    phases = {name.removesuffix("Details"): part.get("status") for name, part in raw.get("statusDetails", {}).items()}
    if status == "InProgress" and phases and set(phases.values()) == {"NotStarted"}:
        state = "queued"
    failure = None
    if state == "failed":
        failed = [name for name, phase in phases.items() if phase == "Failed"]
        failure = raw.get("failureMessage") or (f"{', '.join(failed)} failed" if failed else None)
    tuned = raw.get("outputModelArn") or raw.get("customModelArn")
    return Job(
        raw, raw.get("jobName") or raw["jobArn"], status, state, tuned if state == "succeeded" else None, failure
    )


def deployment_of(answer: Mapping[str, JSON]) -> ModelDeployment:
    """Read what GetCustomModelDeployment answered, or a row of the list."""
    raw = plain(answer)
    return ModelDeployment(
        raw, raw["customModelDeploymentArn"], str(raw.get("status", "")), raw["modelArn"], raw.get("failureMessage")
    )


def plain(answer: JSON) -> JSON:
    """Return an answer of boto3 as JSON: dates as texts, and nothing about the HTTP response."""
    if isinstance(answer, Mapping):
        return {name: plain(value) for name, value in answer.items() if name != "ResponseMetadata"}
    if isinstance(answer, list):
        return [plain(value) for value in answer]
    return answer.isoformat() if isinstance(answer, datetime) else answer


def differing(job: Job, parameters: Mapping[str, JSON]) -> list[str]:
    """Return the names of the parameters that a job was not made with, as far as the service shows them."""
    return [ours for theirs, ours in _ECHOED.items() if _filled(job.get(theirs)) != _filled(parameters.get(ours))]


def _filled(value: JSON) -> JSON:
    """Return a value without empty tables and lists, which services add to what they echo."""
    if isinstance(value, Mapping):
        return {name: inner for name, item in value.items() if (inner := _filled(item)) not in (None, {}, [])} or None
    return value


def id_of(resource: str | Resource) -> str:
    """Return the ARN or name of a resource.

    Raises:
        ConfigurationError: It is no text, or an empty one.
    """
    found = resource.id if isinstance(resource, Resource) else resource
    if not found or not isinstance(found, str):
        raise ConfigurationError(f"{found!r} is no ARN or name")
    return found


def code_of(error: ClientError) -> str:
    """Return the service's name of an error."""
    return str(error.response["Error"]["Code"])


def conflict(error: ClientError, action: str, what: str) -> JobServiceError:
    """Return the error of a call that another resource, or the state of this one, does not allow."""
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    words = loggable(str(error.response["Error"].get("Message", "")), MESSAGE_MAX_LENGTH).rstrip(".")
    return JobServiceError(f"{action} was refused ({code}): {words}. {what}", action=action, status=status, code=code)


def converse_messages(messages: str | Sequence[Mapping[str, JSON]]) -> dict[str, JSON]:
    """Return Converse's `messages`, and `system` if there are messages of that role."""
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    found: dict[str, JSON] = {"messages": []}
    for turn in given:
        content = turn.get("content")
        blocks = [{"text": content}] if isinstance(content, str) else content
        if turn.get("role") == "system":
            found.setdefault("system", []).extend(blocks)
        else:
            found["messages"].append({**turn, "content": blocks})
    return found


def whole(events: Iterable[Mapping[str, JSON]]) -> Iterator[Mapping[str, JSON]]:
    """Yield the events of a stream, and raise if the last one is missing. boto3 takes a lost connection for the end.

    Raises:
        ServiceConnectionError: The stream ended too early.
    """
    ended = False
    for event in events:
        ended = ended or "messageStop" in event
        yield event
    if not ended:
        raise ServiceConnectionError("the connection broke before the answer was whole. Ask again")


def reply_text(answer: Mapping[str, JSON]) -> str:
    """Return the text in an answer of `NovaJobs.converse`, or in one event of a stream. May be empty."""
    if delta := answer.get("contentBlockDelta"):
        return str(delta["delta"].get("text", ""))
    content = answer.get("output", {}).get("message", {}).get("content", ())
    return "".join(block.get("text", "") for block in content)
