"""Rollouts in columns: what figures need of their records. A million of them take about 130 MB."""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import add, mul
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aws_rft_sdk.failures import RolloutStatus, error_type
from aws_rft_sdk.runs.records import RECORDS_FILE, Damage, RolloutRecord, id_of, parse_lines

K = TypeVar("K")
_MOST = sys.float_info.max
"""An integer may be greater, which `math.isfinite` does not take."""
STATUSES = tuple(RolloutStatus)
COMPLETED = STATUSES.index(RolloutStatus.COMPLETED)
_STATUS_CODES: dict[str, int] = {name: code for code, status in enumerate(STATUSES) for name in (status, status.value)}
_USED = [name for name in RolloutRecord.__dataclass_fields__ if name != "rewards"]


def _code(codes: dict[K, int], key: K) -> int:
    return codes.setdefault(key, len(codes))


class FirstTraceback(NamedTuple):
    """The first traceback of one kind of error."""

    failure: str | None
    """Value of a `FailureKind`, as the record has it."""
    error: str
    """Type and message, with `<id>` for the rollout's own id."""
    traceback: str


class RolloutTable:
    """Rollouts, one to a row. Rows are added in any order; of several rows of one rollout the last one added counts.

    `settle` sorts the rows and drops those that a later one replaces. Whoever reads columns settles first.

    Example:
        >>> table = RolloutTable.read("runs/monday")  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.prompt, self.sample = array("I"), array("I")
        self.reward = array("d")
        """NaN where there is none, or none that is a finite number."""
        self.turns, self.seconds = array("I"), array("d")
        self.status = array("B")
        """Positions in `STATUSES`."""
        self.failure = array("H")
        """Values of `failures`."""
        self.unsure_turns, self.foreign_calls, self.attempts = array("I"), array("I"), array("I")
        self.source, self.error = array("I"), array("I")
        """Values of `sources` and of `errors`."""
        self.prompt_turns, self.prompt_tokens = array("I"), array("q")
        """Turns whose prompt tokens are known, and the sum of these."""
        self.response_turns, self.response_tokens, self.response_squares = array("I"), array("q"), array("q")
        self.response_least, self.response_most = array("I"), array("I")
        self.context = array("I")
        """Most tokens of a turn, request and answer together. 0 where they are not known."""
        self.metrics: dict[str, tuple[array[int], array[float]]] = {}
        """Of each number that a handler reported: rows and values."""
        self.sources: dict[tuple[str | None, str | None], int] = {}
        """SDK version and handler hash."""
        self.errors: dict[str | None, int] = {None: 0}
        """Texts, with `<id>` for the rollout's own id."""
        self.failures: dict[str | None, int] = {None: 0}
        """Kinds of failure. A newer version may have written others than `FailureKind` has."""
        self.superseded = 0
        """Rows that a later one has replaced."""
        self.damage: Damage | None = None
        """Lines of the file that hold no record; None for a table that was not read from a file."""
        self._columns: tuple[array[Any], ...] = tuple(c for c in vars(self).values() if isinstance(c, array))
        self._appends = tuple(column.append for column in self._columns)
        self._tracebacks: dict[tuple[str | None, str | None], FirstTraceback] = {}
        self._settled = True

    @classmethod
    def of(cls, records: Iterable[RolloutRecord] | RolloutTable) -> RolloutTable:
        """Return a settled table of records. A table is returned itself."""
        if isinstance(records, RolloutTable):
            table = records
        else:
            table = cls()
            for record in records:
                table.add_record(record)
        table.settle()
        return table

    @classmethod
    def read(cls, folder: str | Path) -> RolloutTable:
        """Read the records of a folder, also while a run appends to it.

        Raises:
            DatasetError: The file cannot be read, or has lines and no record among them.
        """
        table = cls()
        table.read_lines(folder, table.add)
        return table

    def read_lines(self, folder: str | Path, add: Callable[[dict[str, Any]], None]) -> None:
        """Give each record of a folder to `add`, which adds it to this table and may look at more of its fields.

        Raises:
            DatasetError: The file cannot be read, or has lines and no record among them.
        """
        path = Path(folder) / RECORDS_FILE
        self.damage = Damage(path)
        deque(parse_lines(path, add, self.damage), maxlen=0)
        self.settle()

    def __len__(self) -> int:
        return len(self.prompt)

    def add_record(self, record: RolloutRecord) -> None:
        """Add a row."""
        self.add({name: getattr(record, name) for name in _USED})

    def add(self, fields: Mapping[str, Any]) -> None:
        """Add a row, given the JSON object of a record.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, OverflowError: It is no record. Nothing was added.
        """
        trajectory_id, reward = id_of(fields), fields["reward"]
        error, failure = fields.get("error"), fields.get("failure")
        if not isinstance(trajectory_id, str):
            raise ValueError(f"trajectory_id is {trajectory_id!r}")
        prompts, responses = fields.get("prompt_tokens") or (), fields.get("response_tokens") or ()
        metrics = fields.get("metrics", {})
        reported = [
            (name, value) for name, value in metrics.items() if type(value) in (int, float) and -_MOST <= value <= _MOST
        ]
        row = len(self.prompt)
        values = (
            fields["prompt_index"],
            fields["sample_index"],
            reward if reward is not None and -_MOST <= reward <= _MOST else math.nan,
            fields["turns"],
            fields["seconds"],
            _STATUS_CODES[fields["status"]],
            0 if failure is None else _code(self.failures, _name_of(failure)),
            fields.get("unsure_turns", 0),
            fields.get("foreign_calls", 0),
            fields.get("attempts", 1),
            _code(self.sources, (fields.get("sdk_version"), fields.get("handler_hash"))),
            0 if error is None else _code(self.errors, error.replace(trajectory_id, "<id>")),
            len(prompts),
            sum(prompts),
            len(responses),
            sum(responses),
            sum(map(mul, responses, responses)),
            min(responses) if responses else 0,
            max(responses) if responses else 0,
            max(map(add, prompts, responses), default=0),
        )
        try:
            for append, value in zip(self._appends, values, strict=True):
                append(value)
        except BaseException:
            for column in self._columns:
                del column[row:]
            raise
        for name, value in reported:
            rows, numbers = self.metrics.get(name) or self.metrics.setdefault(name, (array("I"), array("d")))
            rows.append(row)
            numbers.append(value)
        if isinstance(fields.get("traceback"), str):
            self._keep_traceback(failure, error or "", trajectory_id, fields["traceback"])
        self._settled = False

    def _keep_traceback(self, failure: str | None, error: str, trajectory_id: str, traceback: str) -> None:
        kind = None if failure is None else _name_of(failure)
        first = FirstTraceback(kind, error.replace(trajectory_id, "<id>"), traceback)
        self._tracebacks.setdefault((kind, error_type(error)), first)

    def settle(self) -> None:
        """Sort rows by prompt and sample, and keep the last one added of each rollout. Repeating it is free."""
        if self._settled:
            return
        count, samples = len(self), max(self.sample) + 1
        # One integer for each row: a list of tuples would take three times the memory and the time.
        keys = [(prompt * samples + sample) * count + row for row, (prompt, sample) in enumerate(self.keys)]
        keys.sort()
        kept, before = array("I"), -1
        for key in keys:
            rollout, row = divmod(key, count)
            if rollout == before:
                kept[-1] = row
            else:
                kept.append(row)
                before = rollout
        del keys
        self.superseded += count - len(kept)
        self._keep(kept)
        self._settled = True

    def limit(self, prompts: int, samples: int) -> None:
        """Drop the rows of prompts and samples that are not below these numbers. The table is settled afterwards."""
        self.settle()
        kept = array(
            "I", (row for row, (prompt, sample) in enumerate(self.keys) if prompt < prompts and sample < samples)
        )
        if len(kept) < len(self):
            self._keep(kept)

    def _keep(self, kept: array[int]) -> None:
        """Keep some rows, in the order given."""
        places = array("q", [-1]) * len(self)
        for place, row in enumerate(kept):
            places[row] = place
        for column in self._columns:
            column[:] = array(column.typecode, map(column.__getitem__, kept))
        for name, (rows, numbers) in list(self.metrics.items()):
            moved = array("q", map(places.__getitem__, rows))
            rows[:] = array("I", (place for place in moved if place >= 0))
            numbers[:] = array("d", (number for number, place in zip(numbers, moved, strict=True) if place >= 0))
            if not rows:
                del self.metrics[name]

    @property
    def keys(self) -> Iterator[tuple[int, int]]:
        """Prompt and sample of each row."""
        return zip(self.prompt, self.sample, strict=True)

    def common_errors(self, most: int) -> list[tuple[str, int]]:
        """Return the most common texts of errors with their numbers, the most common first."""
        counts = Counter(self.error)
        del counts[0]
        texts = list(self.errors)
        return [(texts[code] or "", count) for code, count in counts.most_common(most)]

    def first_tracebacks(self) -> list[FirstTraceback]:
        """Return the first traceback of each kind of error, in the order of the records.

        Those of attempts that a later one replaced are among them.
        """
        return list(self._tracebacks.values())

    def failure_counts(self) -> dict[str, int]:
        """Return how many rollouts failed or were not reported, by kind, the most first.

        The kind of a record that has none, since an older version wrote it, is "unknown".
        """
        pairs = zip(self.failure, self.status, strict=True)
        counts = Counter(failure for failure, status in pairs if status != COMPLETED)
        kinds = list(self.failures)
        return {kinds[code] or "unknown": count for code, count in counts.most_common()}

    def source_counts(self) -> dict[str, int]:
        """Return how many rows each version of SDK and handler has, by its name, the most first."""
        counts = Counter(self.source)
        versions = {code: version for version, code in self.sources.items()}
        return {_source_name(*versions[code]): count for code, count in counts.most_common()}


def _name_of(failure: object) -> str:
    if not isinstance(failure, str):
        raise ValueError(f"failure is {failure!r}")
    return str.__str__(failure)  # of a `FailureKind`, its value


def _source_name(sdk_version: str | None, handler_hash: str | None) -> str:
    return f"aws-rft-sdk {sdk_version or '(unknown)'}, handler {handler_hash or '(unknown)'}"
