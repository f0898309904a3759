"""What is kept of a rollout: one JSON object a line, appended as rollouts end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from aws_rft_sdk._frozen import JSON, FrozenDict, thaw
from aws_rft_sdk.errors import DatasetError

RECORDS_FILE = "rollouts.jsonl"
DATABASE_FILE = "trajectories.db"
"""The local runtime's own, beside the records."""


class RolloutStatus(str, Enum):
    """How a rollout ended."""

    COMPLETED = "completed"
    """The handler returned and its reward was delivered."""
    FAILED = "failed"
    """The handler raised; the runtime was told, with the floor reward or as a failed trajectory."""
    UNREPORTED = "unreported"
    """The runtime was not told how it ended. The service would fail the job over it."""


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout that has ended."""

    id: str
    """Trajectory id; `not-started-<prompt>-<sample>` for a rollout that the runtime could not start."""
    prompt_index: int
    """Position of the prompt in the dataset, from 0."""
    sample_index: int
    """Position within the group of rollouts of this prompt, from 0."""
    reward: float | None
    """What the runtime got: the number, or the sum of one for each turn; None when it got none."""
    turns: int
    """Inference calls that began; those that the runtime recorded, where nobody else knows."""
    seconds: float
    """From the call of the handler until its feedback was delivered."""
    status: RolloutStatus
    error: str | None = None
    """Type and message of what was raised, None when nothing was."""
    rewards: tuple[float, ...] | None = None
    """One number for each turn; None when there was one for the whole trajectory, or none."""
    metrics: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Figures that the handler returned."""
    unsure_turns: int = 0
    """Turns that failed and may have been sampled all the same: if the agent made the call again, it was twice."""
    prompt_tokens: tuple[int, ...] | None = None
    """Tokens of the request of each turn that the runtime recorded; None when the policy did not say, of any turn."""
    response_tokens: tuple[int, ...] | None = None
    """Tokens of the answer of each turn that the runtime recorded; None when the policy did not say, of any turn."""
    attempts: int = 1
    """How often this rollout was begun, this time included: more than 1 after failures."""

    @property
    def key(self) -> tuple[int, int]:
        """Which rollout of the run this is: prompt and sample. The last record of a key counts."""
        return self.prompt_index, self.sample_index

    @property
    def ended_well(self) -> bool:
        """Whether the handler returned and its reward was delivered, however low: nothing is to be done again."""
        return self.status is RolloutStatus.COMPLETED

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the line end."""
        return json.dumps({**asdict(self), "metrics": thaw(self.metrics)}, default=str)


def parse_record(line: str | bytes) -> RolloutRecord:
    """Return the record of a line. Fields that older versions did not write have their defaults.

    Raises:
        ValueError: The line is no record.
    """
    try:
        fields = json.loads(line)
        for name in ("rewards", "prompt_tokens", "response_tokens"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        record = RolloutRecord(**{**fields, "status": RolloutStatus(fields["status"])})
        if not all(isinstance(index, int) for index in record.key):
            raise TypeError(f"prompt_index and sample_index are {record.key}")
        return record
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a rollout record ({error})") from error


def parse_records(lines: Iterable[bytes], path: Path) -> Iterator[RolloutRecord]:
    """Parse lines of a file of records. A last line that a crash has cut off is left out.

    Raises:
        DatasetError: Another line is no record.
    """
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_record(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                return  # only the last line can be without an end
            raise DatasetError(f"{path}, line {number}: {error}", line=number) from error
        yield record


def latest_records(records: Iterable[RolloutRecord]) -> list[RolloutRecord]:
    """Return the last record of each rollout, in the order in which these ended."""
    latest: dict[tuple[int, int], RolloutRecord] = {}
    for record in records:
        latest.pop(record.key, None)
        latest[record.key] = record
    return list(latest.values())


def read_records(folder: str | Path, *, superseded: bool = False) -> Iterator[RolloutRecord]:
    """Read the records of a folder in the order in which the rollouts ended, also while a run appends to it.

    Args:
        folder: What `--out` named.
        superseded: Whether failed attempts that were repeated are read too. Otherwise the last record of each rollout.

    Raises:
        DatasetError: The file cannot be read, or a line is no record. A last line that was cut off is left out.
    """
    path = Path(folder) / RECORDS_FILE
    try:
        with path.open("rb") as lines:
            records = parse_records(lines, path)
            yield from records if superseded else latest_records(records)
    except FileNotFoundError as error:
        raise DatasetError(f"{folder} holds no rollouts: there is no {RECORDS_FILE} in it") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error


def describe_error(error: BaseException) -> str:
    """Return type and message of an error, as records hold them."""
    try:
        message = str(error)
    except Exception as unprintable:  # an error of the user's own making
        message = f"no message, since that raised {type(unprintable).__name__}"
    # Messages may quote a model's half of a surrogate pair, which no terminal and no file takes.
    return f"{type(error).__name__}: {message}".encode(errors="backslashreplace").decode()
