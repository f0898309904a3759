"""What a check found."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
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
        names = ("path", "ok", "rows", "errors", "warnings", "longest_tokens")
        problems = [problem.as_json() for problem in self.problems]
        sums = {name: getattr(self, name) for name in names}
        return {"target": self.target.value, **sums, "counts": dict(self.counts), "problems": problems}


class Findings:
    """Collects problems, all of them in number and the first of each rule in full."""

    def __init__(self, path: Path, target: Target, ignore: Collection[str], keep: int) -> None:
        self.path, self.target, self._ignore, self._keep = path, target, frozenset(ignore), keep
        self._problems: defaultdict[str, list[Problem]] = defaultdict(list)
        self._counts: Counter[str] = Counter()

    def add(self, rule: str, line: int | None, field: str, problem: str, fix: str = "") -> None:
        """Note a problem, unless its rule is ignored or is none of this target's. An empty fix is the rule's."""
        known = RULES[rule]
        if rule in self._ignore or self.target not in known.targets:
            return
        self._counts[rule] += 1
        if self._counts[rule] <= self._keep:
            fix = fix or _IN_OUT.sub(self._in_out, known.fix)
            severity = known.severity_for(self.target)
            self._problems[rule].append(Problem(rule, severity, line, field, problem, fix))

    def _in_out(self, found: re.Match[str]) -> str:
        return f"{quote(str(self.path))} {beside(self.path, 'new', found[1])}"

    def report(self, rows: int, longest_tokens: int) -> Report:
        """Put everything in order."""
        ordered = tuple(
            problem for rule in RULES for problem in sorted(self._problems[rule], key=lambda problem: problem.line or 0)
        )
        counts = FrozenDict({rule: self._counts[rule] for rule in RULES if rule in self._counts})
        return Report(str(self.path), self.target, rows, longest_tokens, ordered, counts)


_IN_OUT = re.compile(r"\bIN OUT(\.\w+)?")


def beside(path: Path, name: str, suffix: str | None = ".jsonl") -> str:
    """Return the quoted path of a new file in the same folder. Without a suffix it has the one of `path`."""
    stem, dot, rest = path.name.partition(".")
    return quote(str(path.with_name(f"{stem}-{name}{suffix or dot + rest}")))
