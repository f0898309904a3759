"""What a check found."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from aws_rft_sdk._frozen import FrozenDict
from aws_rft_sdk.datasets.rules import RULES, Severity, Target


@dataclass(frozen=True)
class Problem:
    """One place where one rule is broken."""

    rule: str
    """Id in `RULES`."""
    severity: Severity
    line: int | None
    """Line of a jsonl or csv file, row of a json or parquet file, from 1; None when it is the file as a whole."""
    field: str
    """Path inside the row, such as `messages[0].role`; empty when it is the row or the file."""
    problem: str
    """What is wrong with the value."""
    fix: str

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**vars(self), "severity": self.severity.value}


@dataclass(frozen=True)
class Report:
    """All problems of a dataset."""

    path: str
    target: Target
    rows: int
    """Rows that hold something, right or wrong."""
    longest_tokens: int
    """Tokens of the longest prompt, by a rough count: four ASCII characters are one, any other character is one."""
    problems: tuple[Problem, ...]
    """In the order of `RULES`, then of the file. Of a rule broken very often, the first ones only."""
    counts: Mapping[str, int] = field(default_factory=FrozenDict)
    """How often each rule was broken, all places counted; rules that were kept are absent."""

    @property
    def errors(self) -> int:
        """How many errors there are, all places counted."""
        return self._count(Severity.ERROR)

    @property
    def warnings(self) -> int:
        """How many warnings there are, all places counted."""
        return self._count(Severity.WARNING)

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def _count(self, severity: Severity) -> int:
        return sum(count for rule, count in self.counts.items() if RULES[rule].severity is severity)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values, the sums first."""
        return {
            "path": self.path,
            "target": self.target.value,
            "ok": self.ok,
            "rows": self.rows,
            "errors": self.errors,
            "warnings": self.warnings,
            "longest_tokens": self.longest_tokens,
            "counts": dict(self.counts),
            "problems": [problem.as_json() for problem in self.problems],
        }


class Findings:
    """Collects problems, all of them in number and the first of each rule in full."""

    def __init__(self, target: Target, ignore: Collection[str], keep: int) -> None:
        self._target, self._ignore, self._keep = target, frozenset(ignore), keep
        self._problems: dict[str, list[Problem]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, rule: str, line: int | None, field: str, problem: str) -> None:
        """Note a problem, unless its rule is ignored or is none of this target's."""
        known = RULES[rule]
        if rule in self._ignore or self._target not in known.targets:
            return
        self._counts[rule] += 1
        if self._counts[rule] <= self._keep:
            self._problems.setdefault(rule, []).append(Problem(rule, known.severity, line, field, problem, known.fix))

    def report(self, path: str, rows: int, longest_tokens: int) -> Report:
        """Put everything in order."""
        ordered = tuple(
            problem
            for rule in RULES
            for problem in sorted(self._problems.get(rule, ()), key=lambda problem: problem.line or 0)
        )
        counts = FrozenDict({rule: self._counts[rule] for rule in RULES if rule in self._counts})
        return Report(path, self._target, rows, longest_tokens, ordered, counts)


class Kinds:
    """Tells rows that are made differently from the others, and says which lines those are. Eight bytes a row."""

    def __init__(self) -> None:
        self.lines: dict[Any, array[int]] = {}

    def of(self, kind: object) -> array[int]:
        """Return the lines of the rows of `kind`, to add to."""
        return self.lines.setdefault(kind, array("q"))

    def add(self, kind: object, line: int) -> None:
        """Note that the row at `line` is of `kind`."""
        (self.lines.get(kind) or self.of(kind)).append(line)


_PASS_ROWS = 1_000_000


class Repeats:
    """Finds values that are there twice. Sixteen bytes a value, besides a table for a part of them at a time."""

    def __init__(self) -> None:
        self.hashes = array("q")
        self.lines = array("q")

    def add(self, value: str, line: int) -> None:
        """Note the value at `line`."""
        self.hashes.append(hash(value))
        self.lines.append(line)

    def find(self) -> list[tuple[int, int]]:
        """Return the lines of values seen before, each with the line where the value was first."""
        total = len(self.hashes)
        passes = 1 + total // _PASS_ROWS
        if passes == 1 and len(set(self.hashes)) == total:
            return []
        found = []
        for part in range(passes):
            first: dict[int, int] = {}
            for value, line in zip(self.hashes, self.lines, strict=True):
                if value % passes == part and (before := first.setdefault(value, line)) != line:
                    found.append((line, before))
        return sorted(found)
