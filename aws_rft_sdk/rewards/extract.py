r"""Finds the answer of a rollout. Comparing it with the ground truth is the comparators' part.

    gsm8k = Extract(Boxed() | AfterMarker("####"), LastNumber()) >> ExactNumber()

`Extract` tries its extractors in order. `one | other` is one extractor: of the answers of both, the last in the text
wins. An extractor sees the visible text only: thoughts are cut away, and so is a new question after the answer.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_names
from aws_rft_sdk.rewards._json import held
from aws_rft_sdk.rewards._visible import BOX, NOTHING, PROSE_MARKER, QUESTION, visible_text
from aws_rft_sdk.rewards._visible import strip_thoughts as strip_thoughts  # part of what this module offers
from aws_rft_sdk.rewards.rollout import Rollout, TextReward
from aws_rft_sdk.rewards.tools import tool_calls

ANSWER_CHARACTERS = 1_000
"""How much after a marker can be the answer. Also keeps integers below the digits that Python refuses to convert."""
_LAST_MARKERS = 8  # how many markers are looked at, from the last one


class Answer(NamedTuple):
    """A place in a visible text where an answer stands."""

    visible: str
    """The whole visible text."""
    marker: int
    """Where the marker of the answer begins."""
    start: int
    end: int
    json: str | None = None
    """JSON text of an answer that is a value of JSON: `"72"` and not `72` for the text 72. None for other answers."""

    @property
    def text(self) -> str:
        """The answer, without its marker."""
        return self.visible[self.start : self.end]

    @classmethod
    def of(cls, text: str) -> Answer:
        """Return a text that is nothing but the answer."""
        return cls(text, 0, 0, len(text))


class Extractor:
    """Base of extractors. Subclasses define `answers`, or `answers_of` if the text alone does not say."""

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the answers of a visible text, the last one first."""
        return iter(())

    def answers_of(self, rollout: Rollout) -> Iterator[Answer]:
        """Yield the answers of a rollout, the last one first."""
        return self.answers(visible_text(rollout.answer))

    def __or__(self, other: Extractor) -> Extractor:
        """Return the extractor that gives the answers of both, the last in the text first."""
        return _Union(self, other)

    def __rshift__(self, comparator: Comparator) -> Compared:
        """Return the reward that compares the answer with the ground truth."""
        if not isinstance(comparator, Comparator):
            raise ConfigurationError(f"after >> comes a comparator such as ExactNumber(), not {comparator!r:.80}")
        return Compared(self, comparator)


@dataclass(frozen=True, init=False)
class Extract(Extractor):
    """Tries extractors in order: the first that finds an answer wins. Raises ConfigurationError if there is none."""

    extractors: tuple[Extractor, ...]

    def __init__(self, *extractors: Extractor) -> None:
        if not extractors or not all(isinstance(each, Extractor) for each in extractors):
            raise ConfigurationError(f"Extract needs extractors such as Boxed(), not {extractors!r:.80}")
        object.__setattr__(self, "extractors", extractors)

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the answers of the first extractor, then those of the next."""
        return self._in_order(each.answers(visible) for each in self.extractors)

    def answers_of(self, rollout: Rollout) -> Iterator[Answer]:
        """Yield the answers of the first extractor, then those of the next."""
        return self._in_order(each.answers_of(rollout) for each in self.extractors)

    def _in_order(self, found: Iterator[Iterator[Answer]]) -> Iterator[Answer]:
        return itertools.chain.from_iterable(found)


class _Union(Extract):
    def _in_order(self, found: Iterator[Iterator[Answer]]) -> Iterator[Answer]:
        return iter(sorted(itertools.chain.from_iterable(found), key=lambda answer: -answer.marker))


@dataclass(frozen=True)
class Boxed(Extractor):
    r"""What stands in `\boxed{...}` or `\fbox{...}`, braces inside included. A box that is not closed was cut off."""

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the contents of the last boxes."""
        marks, visible = _last_marks(BOX, visible)
        for box in marks:
            depth = 1
            for brace in _BRACE.finditer(visible, box.end(), box.end() + 4 * ANSWER_CHARACTERS):
                depth += {"{": 1, "}": -1}.get(brace[0], 0)
                if not depth:
                    yield Answer(visible, box.start(), box.end(), brace.start())
                    break


def _last_marks(marker: re.Pattern[str], visible: str, begin: int = 0) -> tuple[list[re.Match[str]], str]:
    """Return the last marks before a new question, the last one first, and the text up to that question."""
    marks = list(marker.finditer(visible, begin))
    question = QUESTION.search(visible, marks[0].end()) if marks else None
    if question:
        visible = visible[: question.start()]
        marks = [mark for mark in marks if mark.start() < len(visible)]
    return marks[: -_LAST_MARKERS - 1 : -1], visible


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, init=False)
class AfterMarker(Extractor):
    """What follows a marker on its line. If nothing does, the next line that says something.

    Capitals matter. Emphasis (`**ANSWER:** 72`) and a full-width colon do not. Raises ConfigurationError if there is no
    marker, or one is empty.

    Example:
        >>> from aws_rft_sdk.rewards import ExactNumber
        >>> (AfterMarker("RESULT:") >> ExactNumber()).score("RESULT: 72 clips", 72)
        1.0
    """

    markers: tuple[str, ...]

    def __init__(self, *markers: str) -> None:
        names = check_names("markers", markers)
        if not names or not all(name.strip() for name in names):
            raise ConfigurationError(f"AfterMarker needs texts to look for, not {markers!r:.80}")
        object.__setattr__(self, "markers", names)

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield what follows the last markers."""
        return lines_after(_marker_pattern(self.markers), visible)


@functools.lru_cache(maxsize=64)
def _marker_pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name).replace(":", r"[*_ ]{0,4}[:\uff1a]") for name in markers))


def lines_after(marker: re.Pattern[str], visible: str, begin: int = 0) -> Iterator[Answer]:
    """Yield what follows the last marks after a place, on their lines or the next ones. The last one first."""
    marks, visible = _last_marks(marker, visible, begin)
    for mark in marks:
        start = NOTHING.match(visible, mark.end()).end()  # type: ignore[union-attr] # it matches nothing too
        if "\n" in visible[mark.end() : start] and (bullet := _BULLET.match(visible, start)):
            start = bullet.end()
        if not _REMARK.match(visible, start):
            end = min(len(visible), start + ANSWER_CHARACTERS)
            line_end = _LINE_END.search(visible, start, end)
            yield Answer(visible, mark.start(), start, line_end.start() if line_end else end)


_BULLET = re.compile(r"[-+>\u2022\u2013] +|1[.)] +(?![^\n]*\n\s*2[.)])")
_REMARK = re.compile(r"(?:explanation|reasoning|verif(?:ication|y)|check|note|step|proof|why)\b", re.IGNORECASE)
"""A heading after the answer."""
_LINE_END = re.compile(r"\r?\n|</answer>", re.IGNORECASE)


@dataclass(frozen=True)
class Prose(Extractor):
    """What follows "the answer is", "Answer:", a heading "Final answer", or `A:` at the beginning of a line."""

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield what follows the last of these."""
        return lines_after(PROSE_MARKER, visible)


@dataclass(frozen=True)
class Tag(Extractor):
    """What stands in `<name>...</name>`, or after a `<name>` that is never closed.

    Raises ConfigurationError if the name is no word.
    """

    name: str

    def __post_init__(self) -> None:
        (name,) = check_names("name", (self.name,))
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigurationError(f"a tag needs a name of letters, such as Tag('answer'), not {self.name!r:.80}")

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the contents of the last tags."""
        marks, visible = _last_marks(_tag_pattern(self.name), visible)
        for mark in marks:
            closing = _tag_pattern(f"/{self.name}").search(visible, mark.end())
            yield Answer(visible, mark.start(), mark.end(), closing.start() if closing else len(visible))


@functools.lru_cache(maxsize=64)
def _tag_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"<(?i:{name})>")


@dataclass(frozen=True)
class CodeFence(Extractor):
    """What stands in a fenced block of Markdown."""

    language: str | None = None
    """Of the block, capitals apart, such as "json". None for blocks of any language and of none."""

    def __post_init__(self) -> None:
        check_names("language", (self.language,) if self.language is not None else ())

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the contents of the last blocks."""
        for block in reversed(list(_FENCED.finditer(visible))):
            if self.language is None or block["language"].lower() == self.language.lower():
                yield Answer(visible, block.start(), *block.span("line" if block["line"] else "code"))


_FENCED = re.compile(
    r"(?<![`~])(?P<fence>`{3,}|~{3,})(?![`~])[ \t]*\{?\.?(?P<language>[\w+#-]*)\}?[ \t]*"
    r"(?:(?P<line>[{\[][^\n`]*[}\]])[ \t]*(?P=fence)"  # JSON on the line of its fence
    r"|[^\n`]*\r?\n(?P<code>.*?)(?:^[ \t]*(?P=fence)|(?P=fence)[ \t]*$|\Z))",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, init=False)
class JsonPath(Extractor):
    """A value of the JSON object or array that the answer is, or holds: in a fenced block or between sentences.

    The path are keys of objects and indexes of arrays, from the outside in: `JsonPath("result", 0, "price")`. Raises
    ConfigurationError if it is empty, or holds something else than texts and whole numbers.
    """

    path: tuple[str | int, ...]

    def __init__(self, *path: str | int) -> None:
        if not path or not all(type(step) in (str, int) for step in path):
            raise ConfigurationError(f"JsonPath needs keys and indexes such as JsonPath('answer'), not {path!r:.80}")
        object.__setattr__(self, "path", path)

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the value, of the last JSON text that has it."""
        begins = min((at for at in (visible.find("{"), visible.find("[")) if at >= 0), default=0)
        inside = visible[begins : max(visible.rfind("}"), visible.rfind("]")) + 1]
        for text in (*(fence.text for fence in CodeFence().answers(visible)), visible, inside):
            with contextlib.suppress(ValueError, RecursionError):
                if found := list(_value_at(json.loads(text), self.path)):
                    return iter(found)
        return iter(())


@dataclass(frozen=True)
class ToolArgument(Extractor):
    """An argument of the last call of a tool, for agents that answer with a call such as `submit(answer=72)`."""

    tool: str
    argument: str

    def __post_init__(self) -> None:
        if not all(check_names("tool and argument", (self.tool, self.argument))):
            raise ConfigurationError("ToolArgument needs two names, for example ToolArgument('submit', 'answer')")

    def answers_of(self, rollout: Rollout) -> Iterator[Answer]:
        """Yield the argument of the last call."""
        calls = [call for call in tool_calls(rollout) if call.name == self.tool]
        return _value_at(calls[-1].arguments, (self.argument,)) if calls else iter(())


def _value_at(value: Any, path: tuple[str | int, ...]) -> Iterator[Answer]:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return
    if value is not None:
        text = value if isinstance(value, str) else json.dumps(value)
        # A text that holds an object is that object: policies submit both.
        yield Answer.of(text)._replace(json=json.dumps(value) if held(value) is value else text)


@dataclass(frozen=True)
class LastNumber(Extractor):
    """The last number of the text that is no part of a calculation. A list of figures earns a lucky reward with it.

    A span of time such as "in 2 months" counts last.
    """

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the last numbers, the last one first."""
        found = deque(_FIGURE.finditer(visible, max(0, len(visible) - 2 * ANSWER_CHARACTERS)), 2 * _LAST_MARKERS)
        spans = {each: _SPAN.search(visible, max(0, each.start() - 8), each.end() + 8) is not None for each in found}
        for figure in sorted(found, key=lambda each: (spans[each], -each.start())):
            yield Answer(visible, figure.start(), figure.start(), figure.end())


_FIGURE = re.compile(
    r"(?<![\w.^])(?<![+*/\u00d7\u00f7])(?<![+*/\u00d7\u00f7] )-?[$\u20ac\u00a3]?[0-9](?:[0-9.,/]*[0-9])?"
    r"(?:%|(?: (?:percent|hundred|thousand|million|billion))\b)?(?![\w^]| ?[+*/\u00d7\u00f7] ?[0-9])"
)
_SPAN = re.compile(r"\b(?:in|over|within|for|after|every) [0-9]+ (?:second|minute|hour|day|week|month|year)")


@dataclass(frozen=True)
class Whole(Extractor):
    """The whole text. Of a text that is one JSON object, then the value of "answer"."""

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the text, unless it is empty."""
        text = visible.strip()
        if text:
            yield Answer.of(visible)
        if text.startswith(("{", "```")) and text.endswith(("}", "```")):
            yield from JsonPath("answer").answers(text)


MARKED = Boxed() | AfterMarker("####", "ANSWER:") | Tag("answer")
"""The places that only an answer has. They beat every sentence."""
STANDARD = Extract(MARKED, Prose(), Whole())
"""How a reward finds the answer unless you say otherwise."""
ANYWHERE = Extract(MARKED, Prose(), LastNumber())
"""For numbers that may stand anywhere in a text without a marker."""


class Comparator(TextReward):
    """Base of rewards that compare an answer with a ground truth. Subclasses define `compare`."""

    def _extractor(self) -> Extractor:
        """Where the answer stands unless the comparator comes after `>>`."""
        return STANDARD

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return the reward. None if the ground truth is of no use.

        Args:
            answers: Where answers stand, the most likely first. May be empty: then there is no answer.
            ground_truth: What is right.
        """
        raise NotImplementedError

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the reward of a text. None if the ground truth is of no use."""
        return self.compare(self._extractor().answers(visible_text(answer_text)), ground_truth)

    def __call__(self, rollout: Rollout) -> float | None:
        """Return the reward of a rollout. None if its ground truth is of no use."""
        return self.compare(self._extractor().answers_of(rollout), rollout.ground_truth)


@dataclass(frozen=True)
class Compared(Comparator):
    """An extractor and what its answer is compared by: `Extract(...) >> ExactNumber()`."""

    extract: Extractor
    comparator: Comparator

    def _extractor(self) -> Extractor:
        return self.extract

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return the reward of the comparator. None if the ground truth is of no use."""
        return self.comparator.compare(answers, ground_truth)


_REFERENCE_KEYS = ("final_answer", "answer", "ground_truth", "text")


def reference_of(ground_truth: JSON) -> JSON:
    """Return a ground truth as it is, or the first field of an object that is there: `final_answer` and so on.

    Returns None if the object has none of `final_answer`, `answer`, `ground_truth` and `text`.
    """
    if isinstance(ground_truth, str) or not isinstance(ground_truth, Mapping):
        return ground_truth
    return next((ground_truth[key] for key in _REFERENCE_KEYS if ground_truth.get(key) is not None), None)
