"""What is kept of a rollout: one JSON object a line, appended as rollouts end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from aws_rft_sdk._frozen import JSON, FrozenDict, thaw
from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.failures import FailureKind, RolloutStatus, error_type

logger = logging.getLogger(__name__)
T = TypeVar("T")

RECORDS_FILE = "rollouts.jsonl"
STARTED_FILE = "started.jsonl"
"""Of each rollout that began: trajectory id, prompt, sample and attempt. Of one that was given up: its id."""
DATABASE_FILE = "trajectories.db"
"""The local runtime's own, beside the records."""
_NAMED_LINES = 5
FAULTS = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What parsing a line may raise that holds no record."""
_raw_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout that has ended."""

    trajectory_id: str
    """The runtime's id; `not-started-<prompt>-<sample>` for a rollout that the runtime could not start."""
    prompt_index: int
    """Position of the prompt in the dataset, from 0."""
    sample_index: int
    """Position within the group of rollouts of this prompt, from 0."""
    reward: float | None
    """The number, or the sum of one for each turn. None if the runtime got none, and if infrastructure broke the
    rollout: whatever the runtime got then is in `floor`."""
    turns: int
    """Inference calls that were sampled or may have been; those that the runtime recorded, where nobody else knows."""
    seconds: float
    """From the call of the handler until its feedback was delivered."""
    status: RolloutStatus
    error: str | None = None
    """Type and message of what was raised, None when nothing was."""
    failure: FailureKind | None = None
    """Why it failed or was not reported; None if it completed, and in records of versions before 0.2."""
    traceback: str | None = None
    """Traceback of what was raised, at most 20,000 characters. Only the first record of each kind of error of a run has
    one."""
    floor: float | None = None
    """What the runtime got in place of a reward when infrastructure broke the rollout. `reward` is None then."""
    rewards: tuple[float, ...] | None = None
    """One number for each turn; None when there was one for the whole trajectory, or none."""
    metrics: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Figures that the handler returned."""
    state: JSON = None
    """Final state of the environment that the handler returned, of any size; None if it returned none."""
    unsure_turns: int = 0
    """Turns that failed and may have been sampled all the same: if the agent made the call again, it was twice."""
    refused_calls: int = 0
    """Inference calls that the runtime turned away. They are no turns."""
    foreign_calls: int = 0
    """Calls of a `runtime_model` that went to its production model while the rollout was in progress."""
    prompt_tokens: tuple[int, ...] | None = None
    """Tokens of the request of each turn that the runtime recorded; None when the policy did not say, of any turn."""
    response_tokens: tuple[int, ...] | None = None
    """Tokens of the answer of each turn that the runtime recorded; None when the policy did not say, of any turn."""
    attempts: int = 1
    """How often this rollout was begun, this time included: more than 1 after failures."""
    sdk_version: str | None = None
    """Version of this package that ran it; None where nobody wrote it down."""
    handler_hash: str | None = None
    """`Manifest.handler_hash` of the run; None where nobody wrote it down."""

    @property
    def id(self) -> str:
        """The former name of `trajectory_id`."""
        return self.trajectory_id

    @property
    def key(self) -> tuple[int, int]:
        """Which rollout of the run this is: prompt and sample. The last record of a key counts."""
        return self.prompt_index, self.sample_index

    @property
    def ended_well(self) -> bool:
        """Whether the handler returned and its reward was delivered, however low: nothing is to be done again."""
        return self.status is RolloutStatus.COMPLETED

    @property
    def reason(self) -> tuple[FailureKind | None, str | None]:
        """Kind and type of the error: two failures with the same reason are of one kind of error."""
        return self.failure, error_type(self.error)

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the line end."""
        values = {**asdict(self), "metrics": thaw(self.metrics)}
        for name in ("traceback", "state"):
            if values[name] is None:
                del values[name]  # nearly every record is without
        return json.dumps(values, default=str)


@dataclass
class Damage:
    """Lines of a file that hold no record. They are left out, and the rest of the file is used."""

    path: Path
    count: int = 0
    lines: list[tuple[int, str]] = field(default_factory=list)
    """Number, from 1, and fault of the first 5 of them."""

    def add(self, line: int, fault: str) -> None:
        """Note a line."""
        self.count += 1
        if len(self.lines) < _NAMED_LINES:
            self.lines.append((line, fault))

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        named = "; ".join(f"line {line}: {fault}" for line, fault in self.lines)
        more = f"; and {self.count - len(self.lines)} more" if self.count > len(self.lines) else ""
        left_out = "1 line is no record and was" if self.count == 1 else f"{self.count} lines are no records and were"
        return f"{self.path}: {left_out} left out ({named}{more})"


_FIELDS = frozenset(item.name for item in fields(RolloutRecord))
_KINDS: dict[str, tuple[type, ...]] = {
    "trajectory_id": (str,),
    "prompt_index": (int,),
    "sample_index": (int,),
    "reward": (int, float, type(None)),
    "turns": (int,),
    "seconds": (int, float),
    "metrics": (dict, FrozenDict),
    "traceback": (str, type(None)),
}


def id_of(fields: Mapping[str, JSON]) -> JSON:
    """Return the trajectory id in the JSON object of a record. Versions before 0.2 named it `id`.

    Raises:
        KeyError: The object has neither name.
    """
    return fields["trajectory_id"] if "trajectory_id" in fields else fields["id"]


def parse_record(values: Mapping[str, JSON]) -> RolloutRecord:
    """Return the record that a JSON object holds.

    Fields that are not known are skipped: a newer version has written them. Fields that older versions did not write
    have their defaults. A kind of failure that is not known is None.

    Raises:
        ValueError: The object is no record.
    """
    known = {name: value for name, value in values.items() if name in _FIELDS}
    known["trajectory_id"] = id_of(values)
    for name in ("rewards", "prompt_tokens", "response_tokens"):
        if known.get(name) is not None:
            known[name] = tuple(known[name])
    if known.get("failure") is not None:
        known["failure"] = next((kind for kind in FailureKind if kind == known["failure"]), None)
    record = RolloutRecord(**{**known, "status": RolloutStatus(values["status"])})
    for name, kinds in _KINDS.items():
        if type(getattr(record, name)) not in kinds:
            raise ValueError(f"{name} is {getattr(record, name)!r}")
    return record


def decode_line(line: bytes) -> JSON:
    """Return the JSON of a line. Takes two thirds of the time of `json.loads`, which guesses encodings.

    Raises:
        ValueError: The line is not one JSON value in UTF-8.
    """
    text = line.decode().strip()
    value, end = _raw_decode(text)
    if end < len(text):
        raise ValueError(f"more text follows the JSON at character {end}")
    return value


def parse_lines(path: Path, parse: Callable[[dict[str, JSON]], T], damage: Damage) -> Iterator[T]:
    """Read a file of records line by line, also while a run appends to it.

    Args:
        path: The file. Its last line may be cut off by a crash, or may not be written in full yet: it is left out.
        parse: Is given the JSON object of a line, and raises ValueError, TypeError, KeyError, AttributeError or
            OverflowError if that is no record.
        damage: Is told about each other line that holds no record.

    Raises:
        DatasetError: The file cannot be read, or has lines and no record among them.
    """
    found = False
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    parsed = parse(decode_line(line))
                except FAULTS as error:
                    if line.endswith(b"\n"):  # only the last line can be without an end
                        damage.add(number, str(error) if isinstance(error, ValueError) else f"no record ({error!r})")
                    continue
                found = True
                yield parsed
    except FileNotFoundError as error:
        raise DatasetError(f"{path.parent} holds no rollouts: there is no {path.name} in it") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    if damage and not found:
        raise DatasetError(f"{path} holds no records; {damage.lines[0][1]}", line=damage.lines[0][0])


def latest_records(records: Iterable[RolloutRecord]) -> list[RolloutRecord]:
    """Return the last record of each rollout, in the order in which these ended."""
    latest: dict[tuple[int, int], RolloutRecord] = {}
    for record in records:
        latest.pop(record.key, None)
        latest[record.key] = record
    return list(latest.values())


def read_records(
    folder: str | Path, *, superseded: bool = False, damage: Damage | None = None
) -> Iterator[RolloutRecord]:
    """Read the records of a folder in the order in which the rollouts ended, also while a run appends to it.

    Args:
        folder: What `--out` named.
        superseded: Whether failed attempts that were repeated are read too. Otherwise the last record of each rollout.
        damage: Is told which lines hold no record. None to log them as one warning at the end.

    Raises:
        DatasetError: The file cannot be read, or has lines and no record among them.
    """
    path = Path(folder) / RECORDS_FILE
    found = Damage(path) if damage is None else damage
    records = parse_lines(path, parse_record, found)
    yield from records if superseded else latest_records(records)
    if damage is None and found:
        logger.warning("%s", found)
