"""Finds the answer in what the model sees.

A short answer may stand in a question by chance ("20" often does), so it is a leak only behind words that announce an
answer, with no new question after it: the solved examples of a few-shot prompt end in answers too. Nor is it one where
it is the first of several to choose from ("Answer yes or no"). A worked solution in a prompt is a leak anywhere. A long
answer of one line may be one of the choices to pick from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_LONG = 40
_REACH = 80
"""Characters before an answer in which the words stand that announce it."""
_WORDS = r"(?<![^\W_])(?:answer|solution|result|label|ground[_ -]?truth|target|expected[_ ]output)\b"
_IS = r"(?:\s+(?:to|of|for)(?:\s+\w+){1,4})?\s+(?:is|equals|(?:should|will|must)\s+be)\b"
# A mark that is quoted is spoken of; a word alone ("the target 20 km away") announces nothing.
_ANNOUNCED = re.compile(
    rf"(?:####(?![\"'`])|\\boxed\{{|{_WORDS}(?:{_IS}|(?=[^\w.!?]{{0,8}}?[:=>\[*\"'\n-])))"
    r"(?:[^\w\n.!?-]|-(?=\s)|\n(?!\n)){0,8}?(?:the\s+)?(?:(?:final\s+)?answer\s+is:?\s*)?[\"'$(*]{0,3}\Z",
    re.IGNORECASE,
)
_LAST_WORDS = ("answer", "solution", "result", "label", "truth", "target", "output", "is", "equals", "be", "boxed")
"""Ends of what announces an answer: a search for all of it costs ten times as much as a look at the last word."""
_BETWEEN = " \t\n:=*\"'$([{>-"
_GOES_ON = re.compile(r"\w|[.,]\d")
_CHOICE = re.compile(r"[\"'`*)\]]*\s*(?:or\b|[/|]|,\s*[\"'`*(]*\w+[\"'`*)]*\s*(?:,|/|or\b|and\b|\)))", re.IGNORECASE)
_LISTED = re.compile(r"\)\s*\w")
_QUESTION = re.compile(r"^\W*(?:question|q|problem|input|task|example|user)\b[^:\n]{0,12}:", re.I | re.M)


class Seen(NamedTuple):
    """A text that the model sees."""

    place: str
    text: str
    asks: bool = True
    """Whether the row's own question is in it."""
    answers: bool = False
    """Whether it answers another question, asked before the row's own."""


def answers_in(value: Any) -> Iterator[str]:
    """Yield the texts that give a reference answer away: its strings, and what follows its last `####`."""
    if isinstance(value, str):
        text = value.strip()
        if text:
            yield text
            final = text.rpartition("####")[2].strip()
            if final and final != text:
                yield final
    elif isinstance(value, dict):
        for item in value.values():
            yield from answers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from answers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def may_leak(answer: str, visible: str) -> bool:
    """Return whether a closer look at all that is visible is worth while; most answers stand there by chance."""
    return answer in visible and (len(answer) >= _LONG or next(_places(answer, visible), -1) >= 0)


def leak_of(answer: str, seen: Iterable[Seen]) -> tuple[str, str, str] | None:
    """Return rule, place and problem where what is seen gives `answer` away, None where it does not."""
    for part in seen:
        if answer not in part.text:
            continue
        if len(answer) >= _LONG:
            if "\n" in answer or "####" in answer:
                return "answer-leak", part.place, "the whole worked answer stands in what the model sees"
            return "answer-in-prompt", part.place, "the whole answer stands in what the model sees"
        if not part.answers and (words := _announced(answer, part)):
            return "answer-leak", part.place, f"the model sees {words[-60:]!r}"
    return None


def _announced(answer: str, part: Seen) -> str:
    """Return the words with which a text gives `answer` away, none where it does not."""
    text = part.text
    for start in _places(answer, text):
        end = start + len(answer)
        words = _ANNOUNCED.search(text, max(0, start - _REACH), start)
        if (
            words
            and not _GOES_ON.match(text, end)
            and not _QUESTION.search(text, end)
            and (part.asks or not _QUESTION.search(text, 0, start))
            and not _CHOICE.match(text, end)
            and not (len(answer) == 1 and answer.isalpha() and _LISTED.match(text, end))
        ):
            return words[0] + answer
    return ""


def _places(answer: str, text: str) -> Iterator[int]:
    """Yield where an answer stands behind a mark, or a word that may announce it."""
    end = 0
    while (start := text.find(answer, end)) >= 0:  # a pattern that holds the answer would be slow to make
        end = start + len(answer)
        if not start or text[start - 1].isalnum() or text[end : end + 1].isalnum():
            continue
        before = text[max(0, start - _REACH) : start].rstrip(_BETWEEN)
        last = before[-1:]
        if last and last not in ".!?" and (not last.isalnum() or before.lower().endswith(_LAST_WORDS)):
            yield start
