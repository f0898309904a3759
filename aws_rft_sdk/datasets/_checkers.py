"""What a row must be for each target: one class for each kind of row."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from json.scanner import make_scanner
from typing import Any, NamedTuple

from aws_rft_sdk.datasets._chat import check_messages, check_tools, is_object_text, plain_text, show, visible_text
from aws_rft_sdk.datasets._leaks import answers_in, leak_of
from aws_rft_sdk.datasets.report import Findings, Kinds, Repeats
from aws_rft_sdk.datasets.rules import Target

_CHAT_KEYS = ("messages", "reference_answer", "id", "tools")
_METADATA_KEYS = frozenset({"prompt", "answer", "task", "info"})


def scanner(decoder: json.JSONDecoder) -> Callable[[str, int], tuple[Any, int]]:
    """Return what a decoder finds values with, bare: it costs half of what `json.loads` does for a short row.

    It raises StopIteration where no value begins, and takes no white space before one.
    """
    return make_scanner(decoder)  # type: ignore[arg-type] # typeshed takes it for a class of itself


_scan = scanner(json.JSONDecoder())


def estimate_tokens(text: str) -> int:
    """Return roughly how many tokens a text has: a token is four ASCII characters, or one other character."""
    if text.isascii():
        return len(text) // 4
    other = len(text) - len(text.encode("ascii", "ignore"))
    return (len(text) - other) // 4 + other


def _is_in(answer: str, visible: str) -> bool:
    """Return whether an answer, or what follows its last `####`, stands in a text in any way."""
    # The end of a worked solution is in a text wherever the whole is; without a mark, the end is the whole.
    return answer.rpartition("####")[2].strip() in visible


class _Rows:
    """What all kinds of rows share: lengths, prompts and ids that are there twice, leaks."""

    def __init__(self, findings: Findings, max_tokens: int) -> None:
        self.findings = findings
        self.max_tokens = max_tokens
        self.longest_tokens = 0
        self.prompts, self.ids = Repeats(), Repeats()
        self.kinds = Kinds()

    def _see(self, line: int, field: str, text: str) -> None:
        """Note a prompt that is longer than all before."""
        tokens = estimate_tokens(text)
        if tokens > self.max_tokens:
            problem = f"about {tokens:,} tokens, and {self.max_tokens:,} fit"
            self.findings.add("sequence-length", line, field, problem)
        self.longest_tokens = max(self.longest_tokens, tokens)

    def _leaks(self, line: int, field: str, answer: Any, visible: str) -> None:
        if answer is None or (type(answer) is str and not _is_in(answer, visible)):
            return  # as it is nearly always
        for text in answers_in(answer):
            if leak := leak_of(text, visible):
                self.findings.add(leak[0], line, field, leak[1])
                return

    def _id(self, line: int, value: Any) -> None:
        if not isinstance(value, str) or not value.strip():
            self.findings.add("id-type", line, "id", f"{show(value)} is no id")
        else:
            self.ids.add(value.strip(), line)

    def finish(self) -> None:
        """Note what can be said when all rows have been seen."""
        for line, first in self.prompts.find():
            self.findings.add("prompt-duplicate", line, self.prompt_field, f"the prompt of line {first} again")
        for line, first in self.ids.find():
            self.findings.add("id-duplicate", line, "id", f"the id of line {first} again")

    prompt_field = "prompt"

    def _optional_fields(self, required: tuple[str, ...]) -> None:
        kinds = {keys: lines for keys, lines in self.kinds.lines.items() if isinstance(keys, tuple)}
        total = sum(map(len, kinds.values()))
        for key in sorted({key for keys in kinds for key in keys} - set(required)):
            having = sum(len(lines) for keys, lines in kinds.items() if key in keys)
            if having == total:
                continue
            odd = having * 2 > total  # the few rows that differ are the ones to look at
            for keys, lines in kinds.items():
                if (key in keys) is not odd:
                    state = "is absent" if odd else "is present"
                    for line in lines:
                        self.findings.add(
                            "optional-field", line, key, f"{state} here, and {having} of {total} rows have it"
                        )


class _Shape(NamedTuple):
    """What is known of rows by their keys alone."""

    problems: tuple[tuple[str, str, str], ...]
    has_id: bool
    has_tools: bool
    note_line: Callable[[int], None]
    """Notes the line of a row of this shape."""


class ChatRows(_Rows):
    """Rows of `messages` and `reference_answer`, for Bedrock and for Nova with a reward Lambda."""

    prompt_field = "messages"

    def __init__(self, findings: Findings, max_tokens: int, target: Target, require_reference: bool) -> None:
        super().__init__(findings, max_tokens)
        self._target = target
        self._required = ("messages", "reference_answer") if require_reference else ("messages",)
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._add_hash, self._add_line = self.prompts.hashes.append, self.prompts.lines.append

    def row(self, line: int, row: dict[str, Any]) -> int:
        """Note every rule that a row breaks; return how many keys its objects have, 0 when that is not known."""
        keys = tuple(row)
        shape = self._shapes.get(keys) or self._new_shape(keys)
        shape.note_line(line)
        if shape.problems:
            for problem in shape.problems:
                self.findings.add(problem[0], line, problem[1], problem[2])
        messages = row.get("messages")
        text = plain_text(messages)
        if text is None:
            count = 0
            text = self._closer(line, row, messages)
        else:
            count = len(keys) + 2 * len(messages)  # type: ignore[arg-type] # plain_text has seen that it is a list
        if text:
            self._add_hash(hash(text))
            self._add_line(line)
            if len(text) > self.longest_tokens:
                self._see(line, "messages", text)
        reference = row.get("reference_answer")
        if type(reference) is not str or not reference or reference.isspace():
            if "reference_answer" in row:
                self._reference(line, reference, text)
                count = count + len(reference) if count and type(reference) is dict else 0
        elif _is_in(reference, text):
            self._leaks(line, self._field(messages, reference), reference, text)
        truth = row.get("ground_truth")
        if truth is not None and (type(truth) is not str or truth in text) and truth != reference:
            self._leaks(line, "messages", truth, text)
        if shape.has_id:
            self._id(line, row["id"])
        if shape.has_tools:
            check_tools(row["tools"], lambda rule, field, problem: self.findings.add(rule, line, field, problem))
        return count

    def _new_shape(self, keys: tuple[str, ...]) -> _Shape:
        problems = [
            (f"{key.split('_')[0]}-missing", key, f"the row has no {key}") for key in self._required if key not in keys
        ]
        for key in keys:
            near = difflib.get_close_matches(key.lower().replace("-", "_"), _CHAT_KEYS, 1, 0.85)
            if key not in _CHAT_KEYS and near and near[0] not in keys:
                problems.append(("key-suspect", key, f"{key!r} is nearly {near[0]!r}"))
        shape = _Shape(tuple(problems), "id" in keys, "tools" in keys, self.kinds.of(keys).append)
        self._shapes[keys] = shape
        return shape

    def _closer(self, line: int, row: dict[str, Any], messages: Any) -> str:
        if "messages" not in row:
            return ""
        check_messages(
            messages, "messages", self._target, lambda rule, field, text: self.findings.add(rule, line, field, text)
        )
        return visible_text(messages)

    def _reference(self, line: int, reference: Any, text: str) -> None:
        if not isinstance(reference, str | dict):
            problem = f"{show(reference)} is neither text nor an object"
            self.findings.add("reference-type", line, "reference_answer", problem)
        elif not reference or (isinstance(reference, str) and not reference.strip()):
            self.findings.add("reference-empty", line, "reference_answer", f"{show(reference)} is empty")
        else:
            for answer in reference.values() if isinstance(reference, dict) else (reference,):
                self._leaks(line, "messages", answer, text)

    def _field(self, messages: Any, reference: str) -> str:
        """Name the message that holds the answer."""
        for index, message in enumerate(messages):
            if any(leak_of(text, visible_text([message])) for text in answers_in(reference)):
                return f"messages[{index}].content"
        return "messages"

    def finish(self) -> None:
        super().finish()
        self._optional_fields(self._required)


class MultiturnRows(_Rows):
    """Rows of `id` and `metadata`, for Nova Forge with an environment of one's own."""

    prompt_field = "metadata.prompt"

    def row(self, line: int, row: dict[str, Any]) -> int:
        """Note every rule that a row breaks; return how many keys its objects have, 0 when that is not known."""
        metadata = row.get("metadata")
        if len(row) != 2 or metadata is None or "id" not in row:
            self._keys(line, row)
        if "id" in row:
            self._id(line, row["id"])
        if isinstance(metadata, dict):
            info = metadata.get("info")
            self._metadata(line, metadata)
            return 2 + len(metadata) + (len(info) if type(info) is dict else 0)
        if "metadata" in row:
            self.findings.add("metadata-type", line, "metadata", f"{show(metadata)} is no object")
        return 0

    def _keys(self, line: int, row: dict[str, Any]) -> None:
        for key in row.keys() - {"id", "metadata"}:
            self.findings.add("key-unknown", line, key, f"a row has no field {key!r}")
        for key in ("id", "metadata"):
            if key not in row:
                self.findings.add(f"{key}-missing", line, key, f"the row has no {key}")

    def _metadata(self, line: int, metadata: dict[str, Any]) -> None:
        def note(rule: str, field: str, problem: str) -> None:
            self.findings.add(rule, line, field, problem)

        self.kinds.add(tuple(metadata), line)
        if not metadata.keys() <= _METADATA_KEYS:
            for key in metadata.keys() - _METADATA_KEYS:
                note("metadata-key", f"metadata.{key}", f"metadata has no field {key!r}")
        for key in ("answer", "task"):
            if type(metadata.get(key, "")) is not str:
                note("metadata-value", f"metadata.{key}", f"{show(metadata[key])} is no text")
        info = metadata.get("info", {})
        if type(info) is not dict and not is_object_text(info):
            note("metadata-value", "metadata.info", f"{show(info)} is no object, nor one as JSON text")
        prompt = metadata.get("prompt")
        text = ""
        if "prompt" not in metadata:
            note("prompt-missing", "metadata.prompt", "the metadata has no prompt")
        elif isinstance(prompt, list):
            if plain_text(prompt) is None:
                check_messages(prompt, "metadata.prompt", Target.NOVA_MULTITURN, note)
            text = visible_text(prompt)
        elif not isinstance(prompt, str):
            note("prompt-type", "metadata.prompt", f"{show(prompt)} is neither text nor messages")
        elif not prompt.strip():
            note("prompt-empty", "metadata.prompt", f"{show(prompt)} is empty")
        else:
            text = prompt
        if text:
            self.prompts.add(text, line)
            if len(text) > self.longest_tokens:
                self._see(line, "metadata.prompt", text)
            self._leaks(line, "metadata.prompt", metadata.get("answer"), text)

    def finish(self) -> None:
        super().finish()
        self._optional_fields(("prompt",))


_ANSWER_COLUMNS = ("ground_truth", "reference_answer", "answer", "solution", "label", "reward_spec")
_SEEN_KEYS = ("question", "prompt", "input_seq", "problem")


class PromptRows(_Rows):
    """Rows with a prompt column, for multi-turn RL jobs."""

    def __init__(self, findings: Findings, max_tokens: int) -> None:
        super().__init__(findings, max_tokens)
        self._column: str | None = None
        self._plans: dict[tuple[str, ...], tuple[Callable[[int], None], tuple[str, ...]]] = {}
        self._warned: set[str] = set()
        self._add_hash, self._add_line = self.prompts.hashes.append, self.prompts.lines.append

    def row(self, line: int, row: dict[Any, Any]) -> int:
        """Note every rule that a row breaks; return how many keys its objects have, 0 when that is not known."""
        if self.tables and (None in row or next(reversed(row.values()), "") is None):
            self.findings.add("row-cells", line, "", "the row has another number of cells than the header")
            row = {key: value for key, value in row.items() if key is not None}
        if self._column is None:
            self._column = self._choose(line, row)
        column = self._column
        if column not in row:
            self.findings.add("prompt-missing", line, column, f"the row has no column {column!r}")
            return 0
        cell = row[column]
        if type(cell) is not str:
            self.findings.add("prompt-type", line, column, f"{show(cell)} is no text")
            return 0
        if not cell or cell.isspace():
            self.findings.add("prompt-empty", line, column, f"{show(cell)} is empty")
            return 0
        self._add_hash(hash(cell))
        self._add_line(line)
        if len(row) > 1:
            self._other_columns(line, row)
        visible, answers = self._structure(line, cell)
        if len(visible) > self.longest_tokens:
            self._see(line, column, visible)
        if len(row) > 1:
            answers.extend(row[name] for name in _ANSWER_COLUMNS if name in row and name != column)
        for answer in answers:
            if type(answer) is not str or _is_in(answer, visible):
                self._leaks(line, column, answer, visible)
        return len(row) + cell.count('":')

    @property
    def prompt_field(self) -> str:  # type: ignore[override] # known once the first row has been seen
        """The column of prompts."""
        return self._column or "prompt"

    tables = False
    """Whether rows come from csv, where an absent cell reads as None."""

    def _choose(self, line: int, row: dict[str, Any]) -> str:
        if "prompt" in row:
            return "prompt"
        first = next(iter(row))
        self.findings.add("prompt-column", line, first, f"the first column, {first!r}, is taken for the prompts")
        return first

    def _other_columns(self, line: int, row: dict[str, Any]) -> None:
        for name in _ANSWER_COLUMNS:
            if name in row and name != self._column and name not in self._warned:
                self._warned.add(name)  # the same in all rows: said once
                self.findings.add("columns-ignored", line, name, f"{name!r} never reaches the handler")

    def _structure(self, line: int, cell: str) -> tuple[str, list[Any]]:
        """Return what the model is likely to see of a prompt, and the answers it holds."""
        text = cell.strip(" \t\r\n")
        if text[:1] not in ("{", "["):
            self.kinds.add("text", line)
            return cell, []
        try:
            value, end = _scan(text, 0)
        except (StopIteration, ValueError, RecursionError):
            end = 0
        if end != len(text):
            self.kinds.add("text", line)
            return cell, []
        if not isinstance(value, dict):
            self.kinds.add("a JSON array", line)
            return cell, []
        keys = tuple(value)
        plan = self._plans.get(keys)
        if plan is None:
            lines = self.kinds.of(tuple(sorted(keys)))
            plan = self._plans[keys] = lines.append, tuple(name for name in _ANSWER_COLUMNS if name in keys)
        plan[0](line)
        names = value.get("visible")
        seen = names if type(names) is list else _SEEN_KEYS
        shown = [_text(value[name]) for name in seen if type(name) is str and name in value]
        if not shown:
            return cell, []
        answers = [value[name] for name in plan[1] if name not in seen]
        if "reward_spec" in value:
            answers = [a.get("ground_truth") if type(a) is dict and "ground_truth" in a else a for a in answers]
        return shown[0] if len(shown) == 1 else "\n".join(shown), answers

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


def _text(value: Any) -> str:
    return value if isinstance(value, str) else visible_text(value) if isinstance(value, list) else json.dumps(value)
