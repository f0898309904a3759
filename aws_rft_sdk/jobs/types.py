"""What the services of training jobs answer, and what a plan is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import JobConfigError

OURS = "this package"
"""Source of a rule that is ours."""


class Problem(NamedTuple):
    """One thing that is wrong with a job's configuration.

    Attributes:
        path: Of the field, dotted, for example `hyperparameters.batch_size`.
        value: What the file says there; None if the field is missing.
        rule: What the field must be, and what to type instead.
        source: Where the rule is documented.
    """

    path: str
    value: JSON
    rule: str
    source: str


def refuse(problems: Sequence[Problem], what: str) -> None:
    """Raise if there are problems.

    Args:
        problems: All that is wrong.
        what: What cannot be done, for example `the job cannot be created`.

    Raises:
        JobConfigError: There are problems. Its message lists them.
    """
    if problems:
        lines = [
            f"\n{path or 'the file'} is {value!r:.200}: {rule} ({source})" for path, value, rule, source in problems
        ]
        raise JobConfigError(f"{what}; nothing was sent:{''.join(lines)}", problems=tuple(problems))


class Request(NamedTuple):
    """One call that a plan would make.

    Attributes:
        service: boto3's name of the service, or `bedrock-mantle` for the OpenAI-compatible one.
        operation: boto3's or IAM's name of the operation, for example `CreateFineTuningJob`.
        parameters: The body or the parameters, secrets masked.
        document: The JSON document that the parameters hold as a text. None for calls without one.
    """

    service: str
    operation: str
    parameters: JSON
    document: JSON = None

    def to_json(self) -> dict[str, JSON]:
        """Return everything by its name. `document` only if there is one."""
        return {name: value for name, value in self._asdict().items() if name != "document" or value is not None}


@dataclass(frozen=True)
class Resource(Mapping[str, JSON]):
    """What a service answered, as a mapping with the service's own keys, and its id.

    Nothing is dropped: fields that this package does not know are in the mapping.

    Attributes:
        raw: The answer as JSON.
        id: The id that other calls take: an id of a file or a job, or an ARN.
    """

    raw: Mapping[str, JSON] = field(repr=False)
    id: str

    def __getitem__(self, key: str) -> JSON:
        return self.raw[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)


@dataclass(frozen=True)
class File(Resource):
    """An uploaded file."""


@dataclass(frozen=True)
class Job(Resource):
    """A training job.

    Attributes:
        status: The service's own word.
        state: What the word means: `queued`, `running`, `succeeded`, `failed`, `cancelled`, or `unknown` for a word
            that this package does not know.
        tuned_model: The model to call once the job has succeeded; None before.
        failure: Why the job failed; None if it did not, or if the service does not say.
    """

    status: str
    state: str
    tuned_model: str | None = None
    failure: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the job has ended, well or not. A job of unknown state has not."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Event(Resource):
    """Something that a job said. `aws_rft_sdk.jobs.steps.read_step` reads the metrics of a training step from it.

    Attributes:
        message: For people.
        level: `info`, `warn` or `error`.
        created_at: Seconds since 1970; None if the service does not say.
    """

    message: str = ""
    level: str = "info"
    created_at: float | None = None


@dataclass(frozen=True)
class Checkpoint(Resource):
    """A state of the model that a job saved on its way.

    Attributes:
        step: The training step after which it was saved; None if the service does not say.
        model: What to pass as `model` to call it.
    """

    step: int | None
    model: str
