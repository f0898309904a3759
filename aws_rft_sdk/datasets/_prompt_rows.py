"""What a row must be for multi-turn RL: a cell of text, or of JSON in text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from json.scanner import make_scanner
from typing import Any, NamedTuple, NoReturn

from aws_rft_sdk.datasets._chat import seen_in, visible_text
from aws_rft_sdk.datasets._checkers import Rows, keys_in, may_repeat
from aws_rft_sdk.datasets._leaks import Seen
from aws_rft_sdk.datasets._text import hint, is_blank, show
from aws_rft_sdk.datasets.report import Findings

_ANSWER_COLUMNS = ("ground_truth", "reference_answer", "answer", "solution", "label", "reward_spec")
_SEEN_KEYS = ("question", "prompt", "input_seq", "problem")
_LIKE_JSON = re.compile(r"""\s*(?:\[\s*)?\{\s*["']""")
_SPACE = " \t\r\n"


class NotFinite(ValueError):
    """There is a number that JSON does not have."""


def _refuse_constant(name: str) -> NoReturn:
    raise NotFinite(name)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotFinite(text)
    return value


scan: Callable[[str, int], tuple[Any, int]] = make_scanner(
    json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)  # type: ignore[arg-type] # typeshed is wrong
)
"""Finds a value in a text, bare: it costs half of what `json.loads` does for a short row.

It raises StopIteration where no value begins, takes no white space before one, and NotFinite for what is no number.
"""


class _Plan(NamedTuple):
    """What is known of a JSON cell by its keys and the names that it calls visible."""

    visible: Any
    first: str
    """Name of what the model sees first; empty when it is not known to be any."""
    alone: bool
    """Whether it sees nothing else, and nothing is wrong with `visible`."""
    answers: tuple[str, ...]
    """Names of what may give the answer away."""
    note_line: Callable[[int], None]
    shown: tuple[str, ...]
    problems: tuple[str, ...]
    """What is wrong with `visible`."""


class PromptRows(Rows):
    """Rows with a prompt column, for multi-turn RL jobs."""

    def __init__(self, findings: Findings, max_tokens: int) -> None:
        super().__init__(findings, max_tokens)
        self._column = ""
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._others: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._warned: set[str] = set()
        self._add_hash, self._add_line = self.prompts.hashes.append, self.prompts.lines.append

    def row(self, line: int, row: dict[str, Any], json_text: str) -> bool:
        column = self._column or self._choose(line, row)
        cell = row.get(column)
        if type(cell) is not str or (not "!" <= cell < "\x7f" and is_blank(cell)):
            self._no_prompt(line, row)
            return may_repeat(row, json_text)
        self._add_hash(hash(cell))
        self._add_line(line)
        value = self._object(line, cell)
        if value is None:
            visible, known = cell, len(row) + cell.count('":')
        else:
            visible, known = self._visible(line, cell, value), len(row) + len(value)
        if len(row) > 1:
            self._gives_away(line, row, self._answer_columns(line, row), visible, value)
        if len(visible) > 4 * self.short or (len(visible) > self.short and not visible.isascii()):
            self._see(line, column, visible)
        marks = json_text.count('":')
        if marks == known:
            return False
        if value is None:
            return may_repeat(row, json_text)
        known = keys_in(row) + keys_in(value)
        # The quotes of a string in the cell have three backslashes before them.
        return marks != known and marks - json_text.count('\\\\\\":') != known

    def cell(self, row: dict[str, Any]) -> tuple[str, str]:
        """Return name and text of the prompt's cell."""
        cell = row.get(self._column)
        return (self._column, cell) if isinstance(cell, str) else ("", "")

    @property
    def prompt_field(self) -> str:  # type: ignore[override] # known once the first row has been seen
        """The column of prompts."""
        return self._column or "prompt"

    def _choose(self, line: int, row: dict[str, Any]) -> str:
        self._column = "prompt" if "prompt" in row else next(iter(row))
        if self._column != "prompt":
            meant = [name for name in row if hint(name, ("prompt",))]
            question = f'; did you mean {meant[0]!r} to be "prompt"?' if meant else ""
            problem = f"the first column, {self._column!r}, is taken for the prompts{question}"
            self.findings.add("prompt-column", line, self._column, problem)
        return self._column

    def _no_prompt(self, line: int, row: dict[str, Any]) -> None:
        column = self._column
        if column in row:
            rule, problem = "prompt-type", f"{show(row[column])} is no text"
            if isinstance(row[column], str):
                rule, problem = "prompt-empty", f"nothing can be seen of {show(row[column])}"
            self.findings.add(rule, line, column, problem)
        elif "prompt" in row:  # so this is the column, and it is the rows before that lack it
            for before in self.prompts.lines:
                self.findings.add("prompt-missing", before, "prompt", f"the row has no prompt, which line {line} has")
            self._column = "prompt"
            self._others.clear()
            self.row(line, row, "")
        else:
            near = next((f"; did you mean {name!r} to be it?" for name in row if hint(name, (column,))), "")
            self.findings.add("prompt-missing", line, column, f"the row has no column {column!r}{near}")

    def _answer_columns(self, line: int, row: dict[str, Any]) -> tuple[str, ...]:
        """Return the columns that hold answers, and say once of each that nobody reads it."""
        keys = tuple(row)
        names = self._others.get(keys)
        if names is None:
            names = self._others[keys] = tuple(name for name in _ANSWER_COLUMNS if name in row and name != self._column)
            for name in names:
                if name not in self._warned:
                    self._warned.add(name)
                    self.findings.add("columns-ignored", line, name, f"{name!r} never reaches the handler")
        return names

    def _object(self, line: int, cell: str) -> dict[str, Any] | None:
        """Return the JSON object that a cell is, None when it is none."""
        if cell[0] not in "{[ \t\r\n":
            self.kinds.add("text", line)
            return None
        problem = ""
        try:
            value, end = scan(cell, 0)
            if end != len(cell) and cell[end:].strip(_SPACE):
                problem = f"more text after the value, at character {end + 1}"
        except StopIteration:  # white space first, or no JSON
            text = cell.lstrip(_SPACE)
            if text != cell and text[:1] in ("{", "["):
                return self._object(line, text)
            problem = "no value begins"
        except NotFinite as error:
            self.findings.add("row-constant", line, self._column, f"{error} in the prompt is not JSON")
            value = None
        except (ValueError, RecursionError) as error:
            problem = str(error)
        if problem:
            self.kinds.add("text", line)
            if _LIKE_JSON.match(cell):
                self.findings.add("prompt-json", line, self._column, f"{show(cell)} is not JSON: {problem}")
        elif type(value) is dict:
            return value
        elif value is not None:
            self.kinds.add("a JSON array", line)
        return None

    def _visible(self, line: int, cell: str, value: dict[str, Any]) -> str:
        """Check a JSON cell; return what the model is likely to see of it."""
        keys = tuple(value)
        plan = self._plans.get(keys)
        if plan is None or plan[0] != value.get("visible"):
            plan = self._plans[keys] = self._plan(keys, value)
        _, first, alone, answers, note_line, shown, problems = plan
        note_line(line)
        text = value[first] if first else None
        if not alone or type(text) is not str or not "!" <= text < "\x7f":
            for problem in problems:
                self.findings.add("prompt-visible", line, self._column, problem)
            if first in _SEEN_KEYS and _asks_nothing(text):
                self.findings.add("prompt-empty", line, self._column, f"there is no question in {show(cell)}")
            text = "\n".join([_named(name, value[name]) for name in shown]) if shown or problems else cell
        self._gives_away(line, value, answers, text, value)
        return text

    def _gives_away(
        self, line: int, fields: dict[str, Any], names: tuple[str, ...], visible: str, cell: dict[str, Any] | None
    ) -> None:
        """Note an answer among `fields` that the model sees in a cell; the cell is None when it is all visible."""
        before, there = None, False  # the end of the answer before, which is often the same, and whether it is visible
        for name in names:
            answer = fields[name]
            if type(answer) is str:
                end = answer.rpartition("####")[2].strip()
                if end == before:
                    if not there or answer not in visible:
                        continue
                else:
                    before, there = end, end in visible
                    if not there:  # as it is nearly always
                        continue
            elif name == "reward_spec" and type(answer) is dict:
                answer = answer.get("ground_truth", answer)
            if self._leaks(line, answer, visible, partial(self._seen, visible, cell)):
                return

    def _seen(self, visible: str, cell: dict[str, Any] | None) -> list[Seen]:
        shown = self._plans[tuple(cell)].shown if cell else ()
        if cell is None or not shown:
            return [Seen(self._column, visible)]
        parts: list[Seen] = []
        for name in shown:
            if isinstance(cell[name], list):
                parts += [part._replace(place=self._column) for part in seen_in(cell[name], self._column)]
            else:
                parts.append(Seen(self._column, _named(name, cell[name])))
        return parts

    def _plan(self, keys: tuple[str, ...], value: dict[str, Any]) -> _Plan:
        visible = value.get("visible")
        problems = []
        seen = [name for name in _SEEN_KEYS if name in keys]
        if visible is not None and (
            type(visible) is not list or not visible or any(type(name) is not str for name in visible)
        ):
            problems.append(f"visible is {show(visible)}, and not an array of names")
        elif visible is not None:
            problems += [
                f"visible names {name!r}, and the cell has no such field{hint(name, keys)}"
                for name in visible
                if name not in keys
            ]
            if "ground_truth" in visible:
                problems.append("visible names the ground truth")
            seen = [name for name in visible if name in keys and name != "ground_truth"]
        # A question goes before the rest, wherever it is named.
        shown = tuple(sorted(seen, key=lambda name: name not in _SEEN_KEYS))
        answers = tuple(name for name in _ANSWER_COLUMNS if name in keys and name not in seen)
        note_line = self.kinds.of(tuple(sorted(keys))).append
        alone = len(shown) < 2 and not problems
        return _Plan(visible, shown[0] if shown else "", alone, answers, note_line, shown, tuple(problems))

    def finish(self) -> None:
        super().finish()
        kinds = self.kinds.lines
        objects = {keys: lines for keys, lines in kinds.items() if isinstance(keys, tuple)}
        sums = {kind: len(lines) for kind, lines in kinds.items() if isinstance(kind, str)}
        if objects:
            sums["a JSON object"] = sum(map(len, objects.values()))
        usual = max(sums, key=lambda kind: sums[kind], default="")
        for kind, lines in kinds.items():
            name = kind if isinstance(kind, str) else "a JSON object"
            if name != usual:
                for line in lines:
                    problem = f"{name} here, and {usual} in {sums[usual]} rows"
                    self.findings.add("prompt-structure", line, self.prompt_field, problem)
        common = max(objects, key=lambda keys: len(objects[keys]), default=())
        for keys, lines in objects.items():
            if keys != common:
                different = ", ".join(sorted(set(keys) ^ set(common)))
                for line in lines:
                    self.findings.add("prompt-keys", line, self.prompt_field, f"keys that not all have: {different}")


def _asks_nothing(question: Any) -> bool:
    text = visible_text(question) if isinstance(question, list) else question
    return is_blank(text) if isinstance(text, str) else text is None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else visible_text(value) if isinstance(value, list) else json.dumps(value)


def _named(name: str, value: Any) -> str:
    """Return what a model sees of a field: by its name one may announce an answer, the question's says nothing."""
    return _text(value) if name in _SEEN_KEYS else f"{name}: {_text(value)}"
