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
        return sum(n for rule, n in self.counts.items() if RULES[rule].severity_for(self.target) is severity)

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

    def add(self, rule: str, line: int | None, field: str, problem: str, fix: str = "") -> None:
        """Note a problem, unless its rule is ignored or is none of this target's. An empty fix is the rule's."""
        known = RULES[rule]
        if rule in self._ignore or self._target not in known.targets:
            return
        self._counts[rule] += 1
        if self._counts[rule] <= self._keep:
            severity = known.severity_for(self._target)
            self._problems.setdefault(rule, []).append(Problem(rule, severity, line, field, problem, fix or known.fix))

    def report(self, path: str, rows: int, longest_tokens: int) -> Report:
        """Put everything in order."""
        ordered = tuple(
            problem
            for rule in RULES
            for problem in sorted(self._problems.get(rule, ()), key=lambda problem: problem.line or 0)
        )
        counts = FrozenDict({rule: self._counts[rule] for rule in RULES if rule in self._counts})
        return Report(path, self._target, rows, longest_tokens, ordered, counts)


class Kinds(dict[Any, "array[int]"]):
    """Lines of rows by how they are made, to tell the few from the many. Eight bytes a row."""

    def __missing__(self, kind: Any) -> array[int]:
        lines = self[kind] = array("q")
        return lines


class Repeats:
    """Finds values that are there twice. It keeps a hash of each value, not the value."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self.found: list[tuple[int, int]] = []
        """Lines of values seen before, each with the line where the value was first."""

    def add(self, value: str, line: int) -> None:
        """Note the value at `line`."""
        if (first := self._first.setdefault(hash(value), line)) != line:
            self.found.append((line, first))
