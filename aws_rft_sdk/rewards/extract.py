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
from aws_rft_sdk.rewards.rollout import Rollout, TextReward
from aws_rft_sdk.rewards.tools import tool_calls

ANSWER_CHARACTERS = 1_000
"""How much after a marker can be the answer. Also keeps integers below the digits that Python refuses to convert."""
_LAST_MARKERS = 8
"""How many markers are looked at, from the last one."""

# --- the visible text ---

_TAG_NAMES = "think|thinking|thought|thoughts|reasoning|scratchpad|reflection|seed:think"
_THOUGHT_MARK = re.compile(
    rf"<(?:/?(?i:{_TAG_NAMES})>|\|(?i:begin|end)_(?:of|internal)_thought\|>"
    r"|\|channel\|>\s{0,9}(?:analysis|commentary|final)\b(?:\s{0,9}<\|message\|>)?)|\[/?THINK\]|\u25c1/?think\u25b7"
)
_CLOSING = re.compile(r".(?:/|\|end|\|channel\|>\s*final)", re.IGNORECASE)
_HARMONY_AS_TEXT = "assistantfinal"
"""What is left of harmony's final channel if the special tokens are not decoded."""
_SOLUTION = re.compile(r"<\|(?:begin|end)_of_(?:solution|answer)\|>", re.IGNORECASE)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end|return|end_of_turn|eos)\|>|</s>|<end_of_turn>|<eos>"
)


def strip_thoughts(text: str) -> str | None:
    r"""Return what the policy says, without what it thinks. Linear in the text.

    Known thoughts: `<think>`, `<thinking>`, `<thought>`, `<reasoning>`, `<scratchpad>`, `<reflection>`,
    `<|begin_of_thought|>`, `<|begin_internal_thought|>`, `[THINK]`, `<seed:think>`, and harmony's channels other than
    the final one. They may nest. A closing tag alone ends a thought that began in the prompt. The text ends with the
    policy's turn, for example at `<|im_end|>`.

    Returns:
        The visible text. None if the text ends inside a thought, so that there is no answer.

    Example:
        >>> strip_thoughts("<think>6 * 7 is 42?</think>#### 42")
        '#### 42'
    """
    visible: list[str] = []
    depth, end = 0, 0
    for mark in _THOUGHT_MARK.finditer(text):
        if not _CLOSING.match(mark[0]):
            if not depth:
                visible.append(text[end : mark.start()])
            depth += 1
        elif depth:
            # The final channel ends all of harmony's other channels.
            depth = 0 if mark[0].startswith("<|channel") else depth - 1
        else:
            visible.clear()
        end = mark.end()
    if depth:
        return None
    visible.append(text[end:].rpartition(_HARMONY_AS_TEXT)[2])
    return _END_OF_TURN.split(_SOLUTION.sub("\n", "".join(visible)).lstrip("\ufeff"), maxsplit=1)[0]


_QUESTION = re.compile(
    r"[\n<](?:(?<=\n)[ \t*#]{0,9}(?i:question|problem|exercise|human|user|q)[ \t]{0,3}[0-9]{0,4}[ \t*]{0,3}[:.]"
    r"|(?<=<)\|)"
)
"""A new question that the policy asks itself after its answer, or a template of a chat."""


# --- answers ---


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

    @property
    def before(self) -> str:
        """What the policy says before the marker."""
        return self.visible[: self.marker]

    @property
    def after(self) -> str:
        """What the policy says after the answer, up to 1,000 characters and to a new question that it asks itself."""
        return _QUESTION.split(self.visible[self.end : self.end + ANSWER_CHARACTERS], maxsplit=1)[0]

    @property
    def is_whole(self) -> bool:
        """Whether the answer is the whole text, so that no marker says where it stands."""
        return self.start == 0 and self.end == len(self.visible)

    @classmethod
    def of(cls, text: str) -> Answer:
        """Return a text that is nothing but the answer."""
        return cls(text, 0, 0, len(text))


class Extractor:
    """Base of extractors. Subclasses define `answers`."""

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the answers of a visible text, the last one first."""
        raise NotImplementedError

    def answers_in(self, text: str) -> Iterator[Answer]:
        """Yield the answers of a text that may hold thoughts. None if it ends inside one."""
        return self.answers(visible_text(text))

    def answers_of(self, rollout: Rollout) -> Iterator[Answer]:
        """Yield the answers of a rollout, the last one first."""
        return self.answers_in(rollout.answer)

    def __or__(self, other: Extractor) -> Extractor:
        """Return the extractor that gives the answers of both, the last in the text first."""
        return _Union((*(self.extractors if isinstance(self, _Union) else (self,)), other))

    def __rshift__(self, comparator: Comparator) -> Compared:
        """Return the reward that compares the answer with the ground truth."""
        if not isinstance(comparator, Comparator):
            raise ConfigurationError(
                f"{comparator!r:.80} is no comparator. After >> write one, for example ExactNumber() or Text()"
            )
        return Compared(self, comparator)


@dataclass(frozen=True)
class _Union(Extractor):
    extractors: tuple[Extractor, ...]

    def answers(self, visible: str) -> Iterator[Answer]:
        found = [answer for each in self.extractors for answer in each.answers(visible)]
        if not found:
            return iter(())
        found.sort(key=lambda answer: -answer.marker)
        # A new question ends the answer to the first one, whatever marks the answer to the new one.
        question = _QUESTION.search(visible, found[-1].end) if len(found) > 1 else None
        return iter([each for each in found if question is None or each.marker < question.start()])


@dataclass(frozen=True, init=False)
class Extract(Extractor):
    """Tries extractors in order: the first that finds an answer wins.

    Raises:
        ConfigurationError: There is no extractor, or one is something else.
    """

    extractors: tuple[Extractor, ...]

    def __init__(self, *extractors: Extractor) -> None:
        if not extractors or not all(isinstance(each, Extractor) for each in extractors):
            raise ConfigurationError(f"Extract needs extractors such as Boxed(), not {extractors!r:.80}")
        object.__setattr__(self, "extractors", extractors)

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the answers of the first extractor, then those of the next."""
        return itertools.chain.from_iterable(each.answers(visible) for each in self.extractors)

    def answers_of(self, rollout: Rollout) -> Iterator[Answer]:
        """Yield the answers of the first extractor, then those of the next."""
        return itertools.chain.from_iterable(each.answers_of(rollout) for each in self.extractors)


@dataclass(frozen=True)
class Boxed(Extractor):
    r"""What stands in `\boxed{...}` or `\fbox{...}`, braces inside included. A box that is not closed was cut off."""

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the contents of the last boxes."""
        for found in _last_marks(_BOX, visible)[0]:
            depth = 1
            for brace in _BRACE.finditer(visible, found.end(), found.end() + 4 * ANSWER_CHARACTERS):
                depth += {"{": 1, "}": -1}.get(brace[0], 0)
                if not depth:
                    yield Answer(visible, found.start(), found.end(), brace.start())
                    break


def _last_marks(marker: re.Pattern[str], visible: str, begin: int = 0) -> tuple[list[re.Match[str]], int]:
    """Return the last marks before a new question, the last one first, and where the new question begins."""
    first = marker.search(visible, begin)
    if first is None:
        return [], len(visible)
    question = _QUESTION.search(visible, first.end())
    limit = question.start() if question else len(visible)
    return [*reversed(deque(marker.finditer(visible, first.start(), limit), _LAST_MARKERS))], limit


_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, init=False)
class AfterMarker(Extractor):
    """What follows a marker on its line. If nothing does, the next line that says something.

    Markers are compared as they are written, capitals included. Emphasis around them does not matter
    (`**ANSWER:** 72`), nor does a full-width colon.

    Raises:
        ConfigurationError: There is no marker, or one is empty.

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
    marks, limit = _last_marks(marker, visible, begin)
    for mark in marks:
        start = _NOTHING.match(visible, mark.end(), limit).end()  # type: ignore[union-attr] # it matches nothing too
        if "\n" in visible[mark.end() : start] and (bullet := _BULLET.match(visible, start, limit)):
            start = bullet.end()
        if not _REMARK.match(visible, start, limit):
            end = min(limit, start + ANSWER_CHARACTERS)
            line_end = _LINE_END.search(visible, start, end)
            yield Answer(visible, mark.start(), start, line_end.start() if line_end else end)


_NOTHING = re.compile(
    r"(?:```\w*\n|[\s:#*_`\uff1a]|(?:the )?(?:final |correct )?answer(?: is\b)?(?=[\s:*\uff1a]))*", re.IGNORECASE
)
"""What says nothing between a marker and its answer: spaces, emphasis, a fence, another marker."""
_BULLET = re.compile(r"[-+>\u2022\u2013] +|1[.)] +(?![^\n]*\n\s*2[.)])")
_REMARK = re.compile(r"(?:explanation|reasoning|verif(?:ication|y)|check|note|step|proof|why)\b", re.IGNORECASE)
"""A heading after the answer."""
_LINE_END = re.compile(r"\r?\n|</answer>", re.IGNORECASE)
_IS = (
    r"[\s*_]{0,9}(?:[:=\uff1a]|[ \t][\u2013\u2014-][ \t]|(?i:is|(?:should|must|will|would) be)\b"
    r"(?! (?i:correct|right|wrong|greater|more|less|fewer|larger|smaller|bigger|between|divisible|a multiple)\b))"
)
_LINE_BEGINS = "|".join(rf"(?<=^{marks}.)" for marks in ("", r"[ \t*_]", r"[ \t*_]{2}", r"[ \t*_]{3}"))
# Begins with a set of characters, so that a search passes over all others quickly.
PROSE_MARKER = re.compile(
    r"[AaCcOoRr#\u7b54\u041e\u043e\uc815]"
    r"(?:(?<![A-Za-z0-9_].)(?:(?<=[Aa])(?i:nswer(?: to (?:the|this|that) (?:question|problem))?)"
    r"|(?:(?<=orrect .)|(?<=ight .)|(?<=est .))(?i:hoice|ption))" + _IS + "|"
    r"(?<=[Aa])(?:(?<=^.)|(?<=[#*_].)|(?<=[#*_] .)|(?<=inal .)|(?<=INAL .))(?i:nswer)[ \t*_]{0,9}$"
    rf"|(?<=[Aa])(?:{_LINE_BEGINS})[ \t*_]{{0,9}}[:\uff1a]"
    r"|(?<=^#)#{0,2}[ \t](?=\W{0,9}[0-9][0-9,.]{0,30}\W{0,9}$)"
    r"|(?<=\u7b54)(?:\u6848[\u662f\u4e3a:\uff1a]|\u3048[\u306f:\uff1a])"
    r"|(?<=\uc815)\ub2f5[\uc740:\uff1a]"
    r"|(?<!\w.)(?<!falsche .)(?<!falschen .)(?<!mauvaise .)(?<!fausse .)"  # not: a wrong answer
    r"(?<!\u0435\u043f\u0440\u0430\u0432\u0438\u043b\u044c\u043d\u044b\u0439 .)"
    r"(?<!\u0435\u0432\u0435\u0440\u043d\u044b\u0439 .)"
    r"(?i:(?<=A)ntwort|(?<=O)pci[o\u00f3]n|(?<=R)(?:espuesta|esposta|isposta|[e\u00e9]ponse)|(?<=\u041e)\u0442\u0432\u0435\u0442)"
    r"(?i: cor(?:rec|re|ret)ta| finale?)?"
    r"[\s*_]{0,9}(?:[:=\uff1a]|[ \t][\u2013\u2014-][ \t]|(?i:(?:est?|ist|lautet|\u00e9|\u00e8)\b(?: donc\b| la\b)?)))",
    re.MULTILINE,
)


_ANY_MARKER = re.compile(rf"{PROSE_MARKER.pattern}|####|{_BOX.pattern}|<(?i:answer)>", re.MULTILINE)


@functools.lru_cache(maxsize=4)  # the extractors of a chain read the same text
def visible_text(text: str) -> str:
    """Return what an extractor sees: a text without thoughts, up to the question that the policy asks itself next.

    Returns "" if the text ends inside a thought.
    """
    visible = strip_thoughts(text) or ""
    if _QUESTION.search(visible):
        for mark in _ANY_MARKER.finditer(visible):
            start = _NOTHING.match(visible, mark.end()).end()  # type: ignore[union-attr] # it matches nothing too
            if not _QUESTION.match(visible, start - 1):  # "Answer:", then the question again, is no answer yet
                question = _QUESTION.search(visible, start)
                return visible[: question.start()] if question else visible
    return visible


@dataclass(frozen=True)
class Prose(Extractor):
    """What follows "the answer is", "Answer:", a heading "Final answer", or `A:` at the beginning of a line."""

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield what follows the last of these."""
        return lines_after(PROSE_MARKER, visible)


@dataclass(frozen=True)
class Tag(Extractor):
    """What stands in `<name>...</name>`, or after a `<name>` that is never closed.

    Raises:
        ConfigurationError: The name is no word.
    """

    name: str

    def __post_init__(self) -> None:
        (name,) = check_names("name", (self.name,))
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigurationError(
                f"a tag needs a name made of letters, such as Tag('answer'), not {self.name!r:.80}"
            )

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the contents of the last tags."""
        marks, limit = _last_marks(_tag_pattern(self.name), visible)
        for mark in marks:
            closing = _tag_pattern(f"/{self.name}").search(visible, mark.end(), limit)
            yield Answer(visible, mark.start(), mark.end(), closing.start() if closing else limit)


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

    Args:
        path: Keys of objects and indexes of arrays, from the outside in: `JsonPath("result", 0, "price")`.

    Raises:
        ConfigurationError: The path is empty, or holds something else than texts and whole numbers.
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

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield nothing: a text has no calls."""
        return iter(())

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
    """The last number of the text, without its line. A list of figures earns a lucky reward with it.

    A number inside a calculation does not count. A span of time such as "in 2 months" counts last.
    """

    def answers(self, visible: str) -> Iterator[Answer]:
        """Yield the last numbers, the last one first."""
        found = deque(_FIGURE.finditer(visible, max(0, len(visible) - 2 * ANSWER_CHARACTERS)), 2 * _LAST_MARKERS)
        for figure in sorted(found, key=lambda each: (_is_span(visible, each), -each.start())):
            yield Answer(visible, figure.start(), figure.start(), figure.end())


def _is_span(visible: str, figure: re.Match[str]) -> bool:
    return _SPAN.search(visible, max(0, figure.start() - 8), figure.end() + 8) is not None


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


# --- comparing ---


class Comparator(TextReward):
    """Base of rewards that compare an answer with a ground truth. Subclasses define `compare`."""

    @property
    def extract(self) -> Extractor:
        """Where the answer stands unless the comparator comes after `>>`."""
        return STANDARD

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return the reward.

        Args:
            answers: Where answers stand, the most likely first. May be empty: then there is no answer.
            ground_truth: What is right.

        Returns:
            The reward. None if the ground truth is of no use.
        """
        raise NotImplementedError

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the reward of a text. None if the ground truth is of no use."""
        return self.compare(self.extract.answers_in(answer_text), ground_truth)

    def __call__(self, rollout: Rollout) -> float | None:
        """Return the reward of a rollout. None if its ground truth is of no use."""
        return self.compare(self.extract.answers_of(rollout), rollout.ground_truth)


@dataclass(frozen=True)
class Compared(TextReward):
    """An extractor and what its answer is compared by: `Extract(...) >> ExactNumber()`."""

    extract: Extractor
    comparator: Comparator

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the reward of a text. None if the ground truth is of no use."""
        return self.comparator.compare(self.extract.answers_in(answer_text), ground_truth)

    def __call__(self, rollout: Rollout) -> float | None:
        """Return the reward of a rollout. None if its ground truth is of no use."""
        return self.comparator.compare(self.extract.answers_of(rollout), rollout.ground_truth)


_REFERENCE_KEYS = ("final_answer", "answer", "ground_truth", "text")


def reference_of(ground_truth: JSON) -> JSON:
    """Return what is right out of the shapes that datasets give it.

    Returns:
        The ground truth itself. Of an object, its `final_answer`, `answer`, `ground_truth` or `text`, the first that
        is there; None if none is.
    """
    if isinstance(ground_truth, str) or not isinstance(ground_truth, Mapping):
        return ground_truth
    return next((ground_truth[key] for key in _REFERENCE_KEYS if ground_truth.get(key) is not None), None)
