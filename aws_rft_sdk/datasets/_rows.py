"""What a row must be for each target that takes messages, and the rules over all rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aws_rft_sdk.datasets._foreign import foreign, remedy
from aws_rft_sdk.datasets._leaks import Seen, answers_in, leak_of, may_leak
from aws_rft_sdk.datasets._messages import (
    Found,
    content_text,
    conversation,
    order,
    seen_in,
    unknown_calls,
    visible_text,
)
from aws_rft_sdk.datasets._models import CHAT, MULTITURN, PLAIN_CHAT, PLAIN_MULTITURN, broken_rules
from aws_rft_sdk.datasets._text import holds_nothing, nearest, plural, show
from aws_rft_sdk.datasets._tools import Tools
from aws_rft_sdk.datasets.report import Findings, Kinds, Repeats
from aws_rft_sdk.datasets.rules import Target

_CHAT_KEYS = ("messages", "reference_answer", "id", "tools")


def estimate_tokens(text: str) -> int:
    """Return roughly how many tokens a text has: a token is four ASCII characters, or one other character."""
    if text.isascii():
        return len(text) // 4
    other = len(text) - len(text.encode("ascii", "ignore"))
    return (len(text) - other) // 4 + other


class Rows:
    """What all kinds of rows share: lengths, repeated prompts and ids, leaks, rows made for something else."""

    prompt_field = "prompt"

    def __init__(self, path: Path, target: Target, findings: Findings, max_tokens: int) -> None:
        self.path, self.target, self.findings = path, target, findings
        self.longest_tokens = self._short = 0
        self.odd = True
        """Whether the row at hand may hold what `oddities` looks for, also in the JSON that a cell holds as text."""
        self.kinds = Kinds()
        self.prompts, self.ids = Repeats(), Repeats()
        self._max_tokens = max_tokens
        self._foreign: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._foreign_counts: dict[str, int] = {}
        self._misspelt: set[str] = set()
        """Fields that were said to be, most likely, others."""

    def row(self, line: int, row: dict[str, Any]) -> None:
        """Note every rule that the row at `line` breaks."""
        raise NotImplementedError

    def note(self, line: int, found: Iterable[Found]) -> None:
        """Note the rules that a row breaks."""
        for rule, field, problem in found:
            self.findings.add(rule, line, field, problem)

    def is_foreign(self, line: int, row: dict[str, Any]) -> bool:
        """Return whether a row is made for something else, and count it. All rows of a kind make one finding."""
        if name := foreign(row, self.target):
            self._foreign.setdefault(name, (line, row))
            self._foreign_counts[name] = self._foreign_counts.get(name, 0) + 1
        return bool(name)

    def see(self, line: int, field: str, text: str, whole: str = "") -> None:
        """Note a prompt that is too long, or there twice: `whole`, which is the same as the text unless it is given."""
        self.prompts.add(whole or text, line)
        if len(text) > 4 * self._short or (len(text) > self._short and not text.isascii()):
            tokens = estimate_tokens(text)
            if tokens > self._max_tokens:
                problem = f"about {tokens:,} tokens, and {self._max_tokens:,} fit"
                self.findings.add("sequence-length", line, field, problem)
            self.longest_tokens = max(self.longest_tokens, tokens)
            self._short = min(self.longest_tokens, self._max_tokens)

    def plain_text(self, line: int, messages: list[dict[str, Any]], field: str) -> str:
        """Check the order of messages that break no rule by themselves and call no tools, and return their text."""
        if len(messages) == 1 and messages[0]["role"] == "user":
            return content_text(messages[0]["content"])
        if wrong := order(field, *[message["role"] for message in messages]):
            self.note(line, wrong)
        return "\n".join(
            [
                f"{message['role']}: {content if type(content := message['content']) is str else content_text(content)}"
                for message in messages
            ]
        )

    def leaks(self, line: int, answers: list[Any], visible: str, prompt: Any, field: str) -> None:
        """Note the first of the answers that `visible` gives away, which is all that a model sees of a prompt."""
        absent = None
        for answer in answers:
            if answer == absent:
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
            self.findings.add("row-shape", line, "", problem, remedy(self.path, line, row, self.target))
        for line, first in self.prompts.found:
            self.findings.add("prompt-duplicate", line, self.prompt_field, f"the prompt of line {first} again")
        for line, first in self.ids.found:
            self.findings.add("id-duplicate", line, "id", f"the id of line {first} again")

    def optional_fields(self, required: tuple[str, ...]) -> None:
        """Note fields that only some rows have."""
        kinds = self.kinds
        total = sum(map(len, kinds.values()))
        for key in sorted({key for keys in kinds for key in keys} - {*required, *self._misspelt}):
            having = sum(len(lines) for keys, lines in kinds.items() if key in keys)
            if having == total:
                continue
            odd = having * 2 > total  # the few rows that differ are the ones to look at
            problem = f"is {'absent' if odd else 'present'} here, and {having} of {plural(total, 'row')} have it"
            for lines in (lines for keys, lines in kinds.items() if (key in keys) is not odd):
                for line in lines:
                    self.findings.add("optional-field", line, key, problem)


class ChatRows(Rows):
    """Rows of `messages` and `reference_answer`, for Bedrock and for Nova with a reward Lambda."""

    prompt_field = "messages"

    def __init__(
        self, path: Path, target: Target, findings: Findings, max_tokens: int, require_reference: bool
    ) -> None:
        super().__init__(path, target, findings, max_tokens)
        self._model = CHAT[target]
        self._is_good = self._model.isinstance_python
        self._required = ("messages", "reference_answer") if require_reference else ("messages",)
        self._known: dict[tuple[str, ...], tuple[array[int], list[Found]]] = {}
        self._tools = Tools()

    def row(self, line: int, row: dict[str, Any]) -> None:
        if "messages" not in row and self.is_foreign(line, row):
            return
        keys = tuple(row)
        lines, wrong = self._known.get(keys) or self._new(keys)
        lines.append(line)
        if wrong:
            self.note(line, wrong)
        messages: Any = row.get("messages")
        if "tools" not in row and _IS_PLAIN_CHAT(row):
            text = self.plain_text(line, messages, "messages")
        else:
            if not self._is_good(row):
                self.note(line, (found for found in broken_rules(self._model, row) if found[0] != "messages-missing"))
            if together := conversation(messages, "messages"):
                self.note(line, together)
            text = visible_text(messages)
        if text:
            self.see(line, "messages", text)
        if "id" in row and isinstance(row["id"], str):
            self.ids.add(row["id"].strip(), line)
        if "tools" in row:
            self.note(line, self._tools.problems(row["tools"]))
            self.note(line, unknown_calls(messages, self._tools.names))
        reference = row.get("reference_answer")
        answers = [*reference.values()] if type(reference) is dict else [reference]
        for answer in answers:
            if type(answer) is str and answer[-1:].isalnum():
                break  # this is an answer, beyond doubt
        else:
            if "reference_answer" in row and (found := _reference(reference)):
                self.note(line, [found])
        answers.append(row.get("ground_truth"))
        self.leaks(line, answers, text, messages, "messages")

    def _new(self, keys: tuple[str, ...]) -> tuple[array[int], list[Found]]:
        """Return, and remember, where the lines of rows of these keys are noted and what is wrong with such rows."""
        meant = {near: key for key in keys if key not in _CHAT_KEYS and (near := nearest(key, _CHAT_KEYS))}
        self._misspelt.update(meant.values())
        found = [("key-suspect", key, f'unknown field {key!r}; did you mean "{near}"?') for near, key in meant.items()]
        for key in self._required:
            if key not in keys:
                instead = f", but {meant[key]!r}" if key in meant else ""
                found.append((f"{key.split('_')[0]}-missing", key, f"the row has no {key}{instead}"))
        self._known[keys] = self.kinds[keys], found
        return self._known[keys]

    def finish(self) -> None:
        super().finish()
        self.optional_fields(self._required)


def _reference(reference: Any) -> Found | None:
    if holds_nothing(reference.rpartition("####")[2] if type(reference) is str else reference):
        return "reference-empty", "reference_answer", f"there is no answer in {show(reference)}"
    if type(reference) is not str and not isinstance(reference, dict):
        return "reference-type", "reference_answer", f"{show(reference)} is neither text nor an object"
    return None if reference else ("reference-object", "reference_answer", "the object is empty")


_IS_PLAIN_CHAT = PLAIN_CHAT.isinstance_python
_IS_PLAIN_MULTITURN = PLAIN_MULTITURN.isinstance_python


class MultiturnRows(Rows):
    """Rows of `id` and `metadata`, for Nova Forge with an environment of one's own."""

    prompt_field = "metadata.prompt"

    def row(self, line: int, row: dict[str, Any]) -> None:
        if "metadata" not in row and self.is_foreign(line, row):
            return
        plain = _IS_PLAIN_MULTITURN(row)
        if not plain:
            for rule, field, problem in broken_rules(MULTITURN, row):
                self.findings.add(rule, line, field, problem)
                if rule == "metadata-key":
                    self._misspelt.add(field.removeprefix("metadata."))
        if isinstance(row.get("id"), str):
            self.ids.add(row["id"].strip(), line)
        metadata = row.get("metadata")
        if not isinstance(metadata, dict):
            return
        self.kinds[tuple(metadata)].append(line)
        prompt: Any = metadata.get("prompt")
        if isinstance(prompt, str):
            text = prompt
        elif plain:
            text = self.plain_text(line, prompt, "metadata.prompt")
        else:
            self.note(line, conversation(prompt, "metadata.prompt"))
            text = visible_text(prompt)
        if text:
            self.see(line, "metadata.prompt", text)
            self.leaks(line, [metadata.get("answer")], text, prompt, "metadata.prompt")

    def finish(self) -> None:
        super().finish()
        self.optional_fields(("prompt",))
