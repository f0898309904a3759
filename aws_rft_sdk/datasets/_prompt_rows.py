"""What a row must be for multi-turn RL: a cell of text, or of JSON in text."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from typing import Any, NamedTuple

from aws_rft_sdk.datasets._leaks import Seen
from aws_rft_sdk.datasets._messages import seen_in, visible_text
from aws_rft_sdk.datasets._rows import Rows
from aws_rft_sdk.datasets._strict import oddities, parse
from aws_rft_sdk.datasets._text import hint, is_blank, plural, show
from aws_rft_sdk.datasets.packing import prompt_column
from aws_rft_sdk.datasets.report import Findings

_HOLDERS = ("reward_spec", "reward_model")
_ANSWERS = ("ground_truth", "reference_answer", "answer", "solution", "label", "completion", *_HOLDERS)
_QUESTIONS = ("question", "prompt", "input_seq", "problem")
_ASKING = (*_QUESTIONS, "instruction")
"""Columns whose text is a question, so that a job can use it."""
_LIKE_JSON = re.compile(r"""\s*(?:\[\s*)?\{\s*["']""")


class _Plan(NamedTuple):
    """What the keys of a JSON cell, and the names that it calls visible, tell."""

    visible: Any
    kind: tuple[str, ...]
    shown: tuple[str, ...]
    """Names of what the model sees, the question first. Empty if nobody knows: then it sees all of the cell."""
    answers: tuple[str, ...]
    """Names of what may give the answer away."""
    problems: tuple[str, ...]
    """What is wrong with `visible`."""


class PromptRows(Rows):
    """Rows with a prompt column, for multi-turn RL jobs."""

    _column = ""
    """The column of prompts. Empty until the first row has been seen."""

    def __init__(self, findings: Findings, max_tokens: int) -> None:
        super().__init__(findings, max_tokens)
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._unread: set[str] = set()

    def row(self, line: int, row: dict[str, Any]) -> None:
        column = self._column or self._choose(line, row)
        cell = row.get(column)
        if type(cell) is not str or is_blank(cell):
            if not self.is_foreign(line, row):
                self._no_prompt(line, row)
            return
        if column not in _ASKING and self.is_foreign(line, row):
            return
        value = self._object(line, cell)
        if value is None:
            visible, answers = cell, []
        else:
            plan = self._plan(value)
            visible = self._visible(line, cell, value, plan)
            answers = [_truth(value[name]) for name in plan.answers]
        if len(row) > 1:
            answers += [_truth(row[name]) for name in self._answer_columns(line, row)]
        self.once("prompt-duplicate", line, column, cell)
        self.length(line, column, visible)
        if answers:
            self.leaks(line, column, cell if value is None else value, visible, answers)

    def _choose(self, line: int, row: dict[str, Any]) -> str:
        """Choose the column of prompts, and say what is odd about it."""
        self._column = column = prompt_column(list(row))
        if column == "prompt":
            return column
        if name := self.foreign(row):
            if column in _ASKING:
                self._unread.update(_ANSWERS)
                problem = f"these are {name} rows: the job reads {column!r}, and nothing else reaches the handler"
                self.add("columns-ignored", line, column, problem, self.remedy(line, row))
            return column
        meant = [name for name in row if hint(name, ("prompt",))]
        question = f'; did you mean {meant[0]!r} to be "prompt"?' if meant else ""
        problem = f"the first column, {column!r}, is taken for the prompts{question}"
        self.add("prompt-column", line, column, problem)
        return column

    def _no_prompt(self, line: int, row: dict[str, Any]) -> None:
        column = self._column
        if column in row:
            rule, problem = "prompt-type", f"{show(row[column])} is no text"
            if isinstance(row[column], str):
                rule, problem = "prompt-empty", f"nothing can be seen of {show(row[column])}"
            self.add(rule, line, column, problem)
        elif "prompt" in row:  # so this is the column, and the rows before lack it
            for before in itertools.chain.from_iterable(self.kinds.values()):
                self.add("prompt-missing", before, "prompt", f"the row has no prompt, which line {line} has")
            self._column = "prompt"
            self.row(line, row)
        else:
            near = next((f"; did you mean {name!r} to be it?" for name in row if hint(name, (column,))), "")
            self.add("prompt-missing", line, column, f"the row has no column {column!r}{near}")

    def _answer_columns(self, line: int, row: dict[str, Any]) -> list[str]:
        """Return the columns that hold answers, and say once of each that nobody reads it."""
        names = [name for name in _ANSWERS if name in row and name != self._column]
        for name in names:
            if name not in self._unread:
                self._unread.add(name)
                problem = f"{name!r} never reaches the handler"
                self.add("columns-ignored", line, name, problem, self.remedy(line, row))
        return names

    def _object(self, line: int, cell: str) -> dict[str, Any] | None:
        """Return the JSON object that a cell is, None if it is something else."""
        value: Any = None
        if cell[0] in "{[ \t\r\n":
            try:
                value, odd = parse(cell.encode())
                if odd or self.odd:
                    self.note(line, oddities(value, self._column))
            except (ValueError, RecursionError) as error:
                if _LIKE_JSON.match(cell):
                    self.add("prompt-json", line, self._column, f"{show(cell)} is not JSON: {error}")
        if isinstance(value, dict):
            return value
        self.kinds["a JSON array" if isinstance(value, list) else "text"].append(line)
        return None

    def _visible(self, line: int, cell: str, value: dict[str, Any], plan: _Plan) -> str:
        """Check a JSON cell; return what the model is likely to see of it."""
        self.kinds[plan.kind].append(line)
        for problem in plan.problems:
            self.add("prompt-visible", line, self._column, problem)
        if not plan.shown:
            return "" if plan.problems else cell
        first = plan.shown[0]
        if plan.shown == ("question",) and type(value[first]) is str and not is_blank(value[first]):
            return str(value[first])  # as most cells are
        if first in _QUESTIONS and (value[first] is None or is_blank(_named(first, value[first]))):
            self.add("prompt-empty", line, self._column, f"there is no question in {show(cell)}")
        return "\n".join([_named(name, value[name]) for name in plan.shown])

    def seen(self, prompt: Any, field: str) -> list[Seen]:
        shown = self._plan(prompt).shown if isinstance(prompt, dict) else ()
        if not shown:
            return [Seen(field, prompt if isinstance(prompt, str) else json.dumps(prompt))]
        parts: list[Seen] = []
        for name in shown:
            told = isinstance(prompt[name], list)
            parts += seen_in(prompt[name], field) if told else [Seen(field, _named(name, prompt[name]))]
        return [part._replace(place=field) for part in parts]

    def _plan(self, value: dict[str, Any]) -> _Plan:
        keys, visible = tuple(value), value.get("visible")
        plan = self._plans.get(keys)
        if plan is None or plan.visible != visible:
            plan = self._plans[keys] = _plan(keys, visible)
        return plan

    def finish(self) -> None:
        super().finish()
        # A kind is the keys of a JSON object, or the name of something else.
        names = {kind: kind if isinstance(kind, str) else "a JSON object" for kind in self.kinds}
        sums: Counter[str] = Counter()
        for kind, lines in self.kinds.items():
            sums[names[kind]] += len(lines)
        (usual, count), *_ = sums.most_common(1) or [("", 0)]
        objects = [kind for kind in self.kinds if isinstance(kind, tuple)]
        common = max(objects, key=lambda kind: len(self.kinds[kind]), default=())
        for kind, lines in self.kinds.items():
            different = ", ".join(sorted({*kind} ^ {*common})) if isinstance(kind, tuple) else ""
            for line in lines:
                if names[kind] != usual:
                    problem = f"{names[kind]} here, and {usual} in {plural(count, 'row')}"
                    self.add("prompt-structure", line, self._column, problem)
                if different:
                    self.add("prompt-keys", line, self._column, f"keys that not all have: {different}")


def _plan(keys: tuple[str, ...], visible: Any) -> _Plan:
    problems: list[str] = []
    seen = [name for name in _QUESTIONS if name in keys]
    if visible is not None:
        if not isinstance(visible, list) or not visible or not all(isinstance(name, str) for name in visible):
            problems.append(f"visible is {show(visible)}, and not an array of names")
        else:
            problems += [
                f"visible names {name!r}, and the cell has no such field{hint(name, keys)}"
                for name in visible
                if name not in keys
            ]
            if "ground_truth" in visible:
                problems.append("visible names the ground truth")
            seen = [name for name in visible if name in keys and name != "ground_truth"]
    shown = tuple(sorted(seen, key=lambda name: name not in _QUESTIONS))  # the question first, wherever it is named
    answers = tuple(name for name in _ANSWERS if name in keys and name not in seen)
    return _Plan(visible, tuple(sorted(keys)), shown, answers, tuple(problems))


def _truth(answer: Any) -> Any:
    return answer.get("ground_truth", answer) if isinstance(answer, dict) else answer


def _named(name: str, value: Any) -> str:
    """Return what a model sees of a field. Its name may announce an answer; the question's name says nothing."""
    text = value if isinstance(value, str) else visible_text(value) if isinstance(value, list) else json.dumps(value)
    return text if name in _QUESTIONS else f"{name}: {text}"
