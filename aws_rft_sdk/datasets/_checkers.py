"""What a row must be for each target: one class for each kind of row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from aws_rft_sdk.datasets._chat import calls_of, check_messages, plain_text, seen_in, visible_text
from aws_rft_sdk.datasets._leaks import Seen, answers_in, leak_of, may_leak
from aws_rft_sdk.datasets._text import hint, holds_nothing, is_blank, is_object_text, nearest, show
from aws_rft_sdk.datasets._tools import check_tools
from aws_rft_sdk.datasets.report import Findings, Kinds, Repeats
from aws_rft_sdk.datasets.rules import Target

_CHAT_KEYS = ("messages", "reference_answer", "id", "tools")
_METADATA_KEYS = frozenset({"prompt", "answer", "task", "info"})


def estimate_tokens(text: str) -> int:
    """Return roughly how many tokens a text has: a token is four ASCII characters, or one other character."""
    if text.isascii():
        return len(text) // 4
    other = len(text) - len(text.encode("ascii", "ignore"))
    return (len(text) - other) // 4 + other


def is_in(answer: str, visible: str) -> bool:
    """Return whether an answer, or what follows its last `####`, stands in a text in any way."""
    # The end of a worked solution is in a text wherever the whole is; without a mark, the end is the whole.
    return answer.rpartition("####")[2].strip() in visible


def keys_in(value: Any) -> int:
    """Return how many keys all objects in a value have."""
    if type(value) is dict:
        return len(value) + sum(map(keys_in, value.values()))
    return sum(map(keys_in, value)) if type(value) is list else 0


def may_repeat(value: Any, text: str) -> bool:
    """Return whether an object in a value may have a key twice, by how often a quote and a colon stand in its text.

    Those behind a backslash are part of a string.
    """
    return text.count('":') - text.count('\\":') != keys_in(value)


class Rows:
    """What all kinds of rows share: lengths, prompts and ids that are there twice, leaks."""

    def __init__(self, findings: Findings, max_tokens: int) -> None:
        self.findings = findings
        self.max_tokens = max_tokens
        self.longest_tokens = self.short = 0
        self.prompts, self.ids = Repeats(), Repeats()
        self.kinds = Kinds()
        self.misspelt: set[str] = set()
        """Fields that were said to be, most likely, others."""

    def row(self, line: int, row: dict[str, Any], json_text: str) -> bool:
        """Note every rule that a row breaks.

        Args:
            line: Where it is.
            row: The row.
            json_text: Its JSON text; empty when it comes from another format.

        Returns:
            Whether an object in it may have a key twice, so that a closer look at the text is needed.
        """
        raise NotImplementedError

    def cell(self, row: dict[str, Any]) -> tuple[str, str]:
        """Return name and text of a cell that may hold JSON; two empty texts when there is none."""
        return "", ""

    def _see(self, line: int, field: str, text: str) -> None:
        """Note a prompt that may be too long, or longer than all before: one of more tokens than `short`."""
        tokens = estimate_tokens(text)
        if tokens > self.max_tokens:
            problem = f"about {tokens:,} tokens, and {self.max_tokens:,} fit"
            self.findings.add("sequence-length", line, field, problem)
        self.longest_tokens = max(self.longest_tokens, tokens)
        self.short = min(self.longest_tokens, self.max_tokens)

    def _leaks(self, line: int, answer: Any, visible: str, seen: Callable[[], list[Seen]]) -> bool:
        """Note an answer that is given away; return whether it is. What is seen is taken apart when need be only."""
        for text in answers_in(answer):
            if may_leak(text, visible) and (leak := leak_of(text, seen())):
                rule, place, problem = leak
                self.findings.add(rule, line, place, problem)
                return True
        return False

    def _id(self, line: int, value: Any) -> None:
        if not isinstance(value, str) or is_blank(value):
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
        for key in sorted({key for keys in kinds for key in keys} - {*required, *self.misspelt}):
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


def _instead(key: str | None) -> str:
    return f", but {key!r}" if key else ""


def _is_new(truth: str, reference: Any, text: str) -> bool:
    """Return whether a ground truth stands in a text, and is not the end of the reference, which was looked for."""
    return truth in text and not (type(reference) is str and reference.rpartition("####")[2].strip() == truth)


class _Shape(NamedTuple):
    """What is known of rows by their keys alone."""

    problems: tuple[tuple[str, str, str], ...]
    has_id: bool
    has_tools: bool
    note_line: Callable[[int], None]
    """Notes the line of a row of this shape."""


_NONE_YET = object()


class ChatRows(Rows):
    """Rows of `messages` and `reference_answer`, for Bedrock and for Nova with a reward Lambda."""

    prompt_field = "messages"

    def __init__(self, findings: Findings, max_tokens: int, target: Target, require_reference: bool) -> None:
        super().__init__(findings, max_tokens)
        self._target = target
        self._required = ("messages", "reference_answer") if require_reference else ("messages",)
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._good_tools: Any = _NONE_YET
        self._names: set[str] = set()
        self._add_hash, self._add_line = self.prompts.hashes.append, self.prompts.lines.append

    def row(self, line: int, row: dict[str, Any], json_text: str) -> bool:
        keys = tuple(row)
        shape = self._shapes.get(keys) or self._new_shape(keys)
        shape.note_line(line)
        if shape.problems:
            for problem in shape.problems:
                self.findings.add(problem[0], line, problem[1], problem[2])
        messages = row.get("messages")
        text = plain_text(messages)
        if text is None:
            known = 0
            text = self._closer(line, row, messages)
        else:
            known = len(keys) + 2 * len(messages)  # type: ignore[arg-type] # plain_text has seen that it is a list
        if text:
            self._add_hash(hash(text))
            self._add_line(line)
            if len(text) > 4 * self.short or (len(text) > self.short and not text.isascii()):
                self._see(line, "messages", text)
        reference, leaks = row.get("reference_answer"), False
        if type(reference) is not str:
            if "reference_answer" in row:
                leaks = self._reference(line, reference, text, messages)
                known += len(reference) if type(reference) is dict else 0
        elif is_in(reference, text) or (not "!" <= reference < "\x7f" and is_blank(reference)):
            leaks = self._reference(line, reference, text, messages)
        truth = row.get("ground_truth")
        if truth is not None and not leaks and (type(truth) is not str or _is_new(truth, reference, text)):
            self._leaks(line, truth, text, partial(seen_in, messages, "messages"))
        if shape.has_id:
            self._id(line, row["id"])
        if shape.has_tools:
            self._tools(line, row["tools"], messages)
        return known != json_text.count('":') and may_repeat(row, json_text)

    def _new_shape(self, keys: tuple[str, ...]) -> _Shape:
        meant = {near: key for key in keys if key not in _CHAT_KEYS and (near := nearest(key, _CHAT_KEYS))}
        problems = [
            (f"{key.split('_')[0]}-missing", key, f"the row has no {key}" + _instead(meant.get(key)))
            for key in self._required
            if key not in keys
        ]
        problems += [
            ("key-suspect", key, f'unknown field {key!r}; did you mean "{near}"?') for near, key in meant.items()
        ]
        self.misspelt.update(meant.values())
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

    def _tools(self, line: int, tools: Any, messages: Any) -> None:
        if tools != self._good_tools:  # most rows of a dataset have the same ones
            problems: list[tuple[str, str, str]] = []
            self._names = check_tools(tools, lambda *problem: problems.append(problem))
            for rule, field, problem in problems:
                self.findings.add(rule, line, field, problem)
            self._good_tools = _NONE_YET if problems else tools
        for place, name in calls_of(messages):
            if name not in self._names:
                problem = f"{show(name)} is no tool{hint(name, self._names)}"
                self.findings.add("tool-call-unknown", line, place, problem)

    def _reference(self, line: int, reference: Any, text: str, messages: Any) -> bool:
        """Note what is wrong with a reference; return whether the model sees it."""
        if not isinstance(reference, str | dict):
            problem = f"{show(reference)} is neither text nor an object"
            self.findings.add("reference-type", line, "reference_answer", problem)
        elif holds_nothing(reference.rpartition("####")[2] if isinstance(reference, str) else reference):
            self.findings.add("reference-empty", line, "reference_answer", f"there is no answer in {show(reference)}")
        else:
            for answer in (reference,) if isinstance(reference, str) else reference.values():
                if (type(answer) is not str or is_in(answer, text)) and self._leaks(
                    line, answer, text, partial(seen_in, messages, "messages")
                ):
                    return True
        return False

    def finish(self) -> None:
        super().finish()
        self._optional_fields(self._required)


class MultiturnRows(Rows):
    """Rows of `id` and `metadata`, for Nova Forge with an environment of one's own."""

    prompt_field = "metadata.prompt"

    def row(self, line: int, row: dict[str, Any], json_text: str) -> bool:
        metadata = row.get("metadata")
        if len(row) != 2 or metadata is None or "id" not in row:
            self._keys(line, row)
        if "id" in row:
            self._id(line, row["id"])
        known = len(row)
        if isinstance(metadata, dict):
            self._metadata(line, metadata)
            info = metadata.get("info")
            known += len(metadata) + (len(info) if type(info) is dict else 0)
        elif "metadata" in row:
            self.findings.add("metadata-type", line, "metadata", f"{show(metadata)} is no object")
        return known != json_text.count('":') and may_repeat(row, json_text)

    def _keys(self, line: int, row: dict[str, Any]) -> None:
        for key in row.keys() - {"id", "metadata"}:
            self.findings.add("key-unknown", line, key, f"a row has no field {key!r}{hint(key, ('id', 'metadata'))}")
        for key in ("id", "metadata"):
            if key not in row:
                self.findings.add(f"{key}-missing", line, key, f"the row has no {key}")

    def _metadata(self, line: int, metadata: dict[str, Any]) -> None:
        def note(rule: str, field: str, problem: str) -> None:
            self.findings.add(rule, line, field, problem)

        self.kinds.add(tuple(metadata), line)
        if not metadata.keys() <= _METADATA_KEYS:
            for key in metadata.keys() - _METADATA_KEYS:
                note("metadata-key", f"metadata.{key}", f"metadata has no field {key!r}{hint(key, _METADATA_KEYS)}")
                self.misspelt.add(key)
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
        elif is_blank(prompt):
            note("prompt-empty", "metadata.prompt", f"nothing can be seen of {show(prompt)}")
        else:
            text = prompt
        if text:
            self.prompts.add(text, line)
            if len(text) > 4 * self.short or (len(text) > self.short and not text.isascii()):
                self._see(line, "metadata.prompt", text)
            answer = metadata.get("answer")
            if type(answer) is str and is_in(answer, text):
                self._leaks(line, answer, text, partial(seen_in, prompt, "metadata.prompt"))

    def finish(self) -> None:
        super().finish()
        self._optional_fields(("prompt",))
