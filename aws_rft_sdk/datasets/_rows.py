"""What a row must be for each target that takes messages, and the rules over all rows."""

from __future__ import annotations

import contextlib
import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from shlex import quote
from typing import Any

from aws_rft_sdk.datasets._interop import kind_of
from aws_rft_sdk.datasets._leaks import Seen, answers_in, leak_of, may_leak
from aws_rft_sdk.datasets._messages import Found, conversation, seen_in, visible_text
from aws_rft_sdk.datasets._models import CHAT, MULTITURN, PLAIN_CHAT, broken_rules
from aws_rft_sdk.datasets._text import estimate_tokens, holds_nothing, nearest, plural, show
from aws_rft_sdk.datasets._tools import look_at_tools
from aws_rft_sdk.datasets.report import Findings, beside
from aws_rft_sdk.datasets.rules import Target
from aws_rft_sdk.datasets.shapes import Shape, convert_rows
from aws_rft_sdk.errors import DatasetError

_CHAT_KEYS = ("messages", "reference_answer", "id", "tools")
_WANTED = {
    Target.MTRL: '{"prompt": datasets.pack(question=..., ground_truth=...)}',
    Target.BEDROCK: '{"messages": [{"role": "user", "content": ...}], "reference_answer": ...}',
    Target.NOVA: '{"id": ..., "messages": [{"role": "user", "content": ...}], "reference_answer": ...}',
    Target.NOVA_MULTITURN: '{"id": ..., "metadata": {"prompt": ..., "answer": ...}}',
}
_ANSWER = re.compile(r'(?:answer|ground_truth)\\*":')
"""A field of a row, or of the cell in it, that holds what a reward compares with."""


class Rows:
    """What all kinds of rows share: lengths, repeated prompts and ids, leaks, rows made for something else."""

    def __init__(self, findings: Findings, max_tokens: int) -> None:
        self.findings, self.add = findings, findings.add
        self.longest_tokens = 0
        self.odd = True
        """Whether the row at hand may hold what `oddities` looks for, also in the JSON that a cell holds as text."""
        self.kinds: defaultdict[Any, array[int]] = defaultdict(partial(array, "q"))
        """Lines of rows by how they are made, to tell the few from the many. Eight bytes a row."""
        self._max_tokens = max_tokens
        self._first: defaultdict[str, dict[int, int]] = defaultdict(dict)
        self._foreign: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._foreign_counts: Counter[str] = Counter()
        self._misspelt: set[str] = set()
        """Fields that were said to be, most likely, others."""

    def row(self, line: int, row: dict[str, Any]) -> None:
        """Note every rule that the row at `line` breaks."""
        raise NotImplementedError

    def note(self, line: int, found: Iterable[Found]) -> None:
        for rule, field, problem in found:
            self.add(rule, line, field, problem)

    def foreign(self, row: Mapping[str, Any]) -> str:
        """Return what a row of another kind than the target's is called; empty if its keys tell of no such kind."""
        name = kind_of(row)
        return "" if name == self.findings.target.value else name

    def is_foreign(self, line: int, row: dict[str, Any]) -> bool:
        """Return whether a row is made for something else, and count it. Rows of a kind make one finding."""
        if name := self.foreign(row):
            self._foreign.setdefault(name, (line, row))
            self._foreign_counts[name] += 1
        return bool(name)

    def remedy(self, line: int, row: Mapping[str, Any]) -> str:
        """Return the command that makes such rows into the target's, or what to write if the command loses answers."""
        path, target = self.findings.path, self.findings.target
        with contextlib.suppress(DatasetError):  # then the command would fail too, so the advice is to write the rows
            made = json.dumps(next(convert_rows([(line, row)], Shape(target.value))), default=str)
            if row.keys() == {"prompt"} or _ANSWER.search(made):
                to = target.value
                return f"aws-rft dataset convert {quote(str(path))} {beside(path, to)} --to {to}"
        return f"write each row as {_WANTED[target]}, for example with datasets.write_rows"

    def once(self, rule: str, line: int, field: str, value: str) -> None:
        """Note a value that was there before. A hash of each value is kept, not the value."""
        if (first := self._first[rule].setdefault(hash(value), line)) != line:
            self.add(rule, line, field, f"the {rule.partition('-')[0]} of line {first} again")

    def length(self, line: int, field: str, text: str) -> None:
        """Note a prompt that is too long."""
        tokens = estimate_tokens(text)
        if tokens > self.longest_tokens:
            self.longest_tokens = tokens
        if tokens > self._max_tokens:
            self.add("sequence-length", line, field, f"about {tokens:,} tokens, and {self._max_tokens:,} fit")

    def prompt(self, line: int, field: str, prompt: Any, answers: list[Any], tools: set[str] | None = None) -> None:
        """Note what is wrong with a prompt of text or messages that go together with these answers and tools."""
        text = prompt if type(prompt) is str else visible_text(prompt)
        if found := conversation(prompt, field, tools):
            self.note(line, found)
        if text:
            self.once("prompt-duplicate", line, field, text)
            self.length(line, field, text)
            self.leaks(line, field, prompt, text, answers)

    def leaks(self, line: int, field: str, prompt: Any, visible: str, answers: list[Any]) -> None:
        """Note the first of the answers that `visible` gives away, which is all that a model sees of a prompt."""
        absent = None
        for answer in answers:
            if answer is None or answer == absent:
                continue
            if type(answer) is str:
                # The end of a worked solution is in a text wherever the whole is. Most answers are nowhere.
                end = answer.rpartition("####")[2].strip()
                if end not in visible:
                    absent = end
                    continue
            for text in answers_in(answer):
                if may_leak(text, visible) and (leak := leak_of(text, self.seen(prompt, field))):
                    self.note(line, [leak])
                    return

    def seen(self, prompt: Any, field: str) -> list[Seen]:
        """Take apart what a model sees of a prompt. Few answers may leak, so that few prompts are taken apart."""
        return seen_in(prompt, field)

    def finish(self) -> None:
        """Note what can be said when all rows have been seen."""
        for name, (line, row) in self._foreign.items():
            count = self._foreign_counts[name]
            problem = f"this is a {name} row" if count == 1 else f"these are {name} rows, {count:,} from here on"
            self.add("row-shape", line, "", problem, self.remedy(line, row))

    def optional_fields(self, required: tuple[str, ...]) -> None:
        """Note fields that only some rows have."""
        total = sum(map(len, self.kinds.values()))
        for key in sorted({key for keys in self.kinds for key in keys} - {*required, *self._misspelt}):
            having = sum(len(lines) for keys, lines in self.kinds.items() if key in keys)
            if having == total:
                continue
            odd = having * 2 > total  # the few rows that differ are the ones to look at
            problem = f"is {'absent' if odd else 'present'} here, and {having} of {plural(total, 'row')} have it"
            for keys, lines in self.kinds.items():
                for line in lines if (key in keys) is not odd else ():
                    self.add("optional-field", line, key, problem)


_IS_PLAIN = PLAIN_CHAT.isinstance_python


class ChatRows(Rows):
    """Rows of `messages` and `reference_answer`, for Bedrock and for Nova with a reward Lambda."""

    def __init__(self, findings: Findings, max_tokens: int, require_reference: bool) -> None:
        super().__init__(findings, max_tokens)
        self._shape = CHAT[findings.target]
        self._is_good = self._shape.isinstance_python
        self._required = ("messages", "reference_answer") if require_reference else ("messages",)
        self._tools: Any = ...
        self._of_tools: tuple[list[Found], set[str]] = [], set()
        """What is known of the tools that were looked at last. Most rows have the tools of the row before."""

    def row(self, line: int, row: dict[str, Any]) -> None:
        if "messages" not in row and self.is_foreign(line, row):
            return
        self.kinds[tuple(row)].append(line)
        if ("tools" in row or not _IS_PLAIN(row)) and not self._is_good(row):
            self.note(line, broken_rules(self._shape, row))
        if "id" in row and isinstance(row["id"], str):
            self.once("id-duplicate", line, "id", row["id"].strip())
        tools = None
        if "tools" in row:
            if row["tools"] != self._tools:
                self._tools, self._of_tools = row["tools"], look_at_tools(row["tools"])
            found, tools = self._of_tools
            self.note(line, found)
        reference = row.get("reference_answer")
        if "reference_answer" in row and (wrong := _reference(reference)):
            self.note(line, [wrong])
        answers = [*reference.values()] if type(reference) is dict else [reference]
        self.prompt(line, "messages", row.get("messages"), [*answers, row.get("ground_truth")], tools)

    def finish(self) -> None:
        for keys, lines in self.kinds.items():
            found = self._wrong_keys(keys)
            for line in lines if found else ():
                self.note(line, found)
        super().finish()
        self.optional_fields(self._required)

    def _wrong_keys(self, keys: tuple[str, ...]) -> list[Found]:
        """Return what is wrong with rows of these keys."""
        meant = {near: key for key in keys if key not in _CHAT_KEYS and (near := nearest(key, _CHAT_KEYS))}
        self._misspelt.update(meant.values())
        found = [("key-suspect", key, f'unknown field {key!r}; did you mean "{near}"?') for near, key in meant.items()]
        for key in self._required:
            if key not in keys:
                instead = f", but {meant[key]!r}" if key in meant else ""
                found.append((f"{key.split('_')[0]}-missing", key, f"the row has no {key}{instead}"))
        return found


def _reference(reference: Any) -> Found | None:
    for answer in reference.values() if type(reference) is dict else (reference,):
        if type(answer) is str and answer[-1:].isalnum():
            return None  # as most answers are
    if holds_nothing(reference.rpartition("####")[2] if type(reference) is str else reference):
        return "reference-empty", "reference_answer", f"there is no answer in {show(reference)}"
    if not isinstance(reference, str | dict):
        return "reference-type", "reference_answer", f"{show(reference)} is neither text nor an object"
    return None if reference else ("reference-object", "reference_answer", "the object is empty")


class MultiturnRows(Rows):
    """Rows of `id` and `metadata`, for Nova Forge with an environment of one's own."""

    _is_good = MULTITURN.isinstance_python

    def row(self, line: int, row: dict[str, Any]) -> None:
        if "metadata" not in row and self.is_foreign(line, row):
            return
        if not self._is_good(row):
            found = [*broken_rules(MULTITURN, row)]
            self._misspelt.update(field.removeprefix("metadata.") for rule, field, _ in found if rule == "metadata-key")
            self.note(line, found)
        if isinstance(row.get("id"), str):
            self.once("id-duplicate", line, "id", row["id"].strip())
        if isinstance(metadata := row.get("metadata"), dict):
            self.kinds[tuple(metadata)].append(line)
            self.prompt(line, "metadata.prompt", metadata.get("prompt"), [metadata.get("answer")])

    def finish(self) -> None:
        super().finish()
        self.optional_fields(("prompt",))
