"""What is kept of a rollout: one JSON object a line, appended as rollouts end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType

from aws_rft_sdk._frozen import JSON, FrozenDict, thaw
from aws_rft_sdk.errors import ConfigurationError, DatasetError

RECORDS_FILE = "rollouts.jsonl"


class RolloutStatus(str, Enum):
    """How a rollout ended."""

    COMPLETED = "completed"
    """The handler returned and its reward was delivered."""
    FAILED = "failed"
    """The handler raised; the runtime was told, with the floor reward or as a failed trajectory."""
    UNREPORTED = "unreported"
    """The runtime was not told how it ended. The service would fail the job over it."""


@dataclass(frozen=True)
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
    """Inference calls that began."""
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

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the line end."""
        return json.dumps({**asdict(self), "metrics": thaw(self.metrics)}, default=str)


class RecordWriter:
    """Appends records to `rollouts.jsonl` in a folder that it makes. Not for several threads.

    Raises:
        ConfigurationError: The file exists already, or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / RECORDS_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="utf-8")
        except FileExistsError as error:
            raise ConfigurationError(f"{error.filename} exists already; choose another folder") from error
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error

    def write(self, record: RolloutRecord) -> None:
        """Append a record. It has left this process when the call returns."""
        self._file.write(record.to_json() + "\n")
        self._file.flush()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_records(folder: str | Path) -> Iterator[RolloutRecord]:
    """Read the records of a folder in the order in which the rollouts ended.

    Raises:
        DatasetError: The file cannot be read, or a line is no record.
    """
    path = Path(folder) / RECORDS_FILE
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _parse(path, number, line)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error


def _parse(path: Path, number: int, line: str) -> RolloutRecord:
    try:
        fields = json.loads(line)
        rewards = fields.pop("rewards", None)
        return RolloutRecord(
            **{**fields, "status": RolloutStatus(fields["status"])}, rewards=None if rewards is None else tuple(rewards)
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{path}, line {number}: not a rollout record ({error})", line=number) from error
