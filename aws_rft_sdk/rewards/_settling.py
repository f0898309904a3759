r"""Decides which value an answer settles on: "72 or 73" settles on none, "70... no wait, 72" on 72, "72. No." on none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aws_rft_sdk.rewards.extract import Answer

Value = object
"""Anything with equality: a number, a letter, a text."""


class Candidate(NamedTuple):
    """A value that a text names."""

    value: Value
    start: int
    """Where it stands in the text."""
    end: int


FindCandidate = Callable[[str], "Candidate | None"]
"""Returns the first value that a text names, None if it names none."""

_AFTERWARDS = 300
"""How many characters after the answer can take it back."""
_STRUCK_OUT = re.compile(r"~~.*?~~|<(del|s|strike)>.*?</\1>", re.DOTALL)
_JOINT = re.compile(
    r"[\s\"'*_`$)\]}?\\]*(?:(?:,|;|/|\||&|->|=>|\u2192|\u21d2|\\to\b|\\text\s?\{)?\s*(?:\b(?:or|and|maybe|perhaps)\b\s*\}?)*)"
    r"[\s\"'*_`$(\[{\\]*",
    re.IGNORECASE,
)
"""What joins two candidates directly, and says nothing itself."""
_CORRECTION = re.compile(
    r"\b(?:actually|correction|sorry|oops|i mean|make that|scratch that|rather|wait|no|should be|typo)\b[\s,:;.!\u2014-]*"
    r"(?:(?:wait|no|it|is|it's|that's|the answer|should be|must be|to|now|correct(?:ed)?|be)\b[\s,:;.!\u2014-]*)*",
    re.IGNORECASE,
)
"""What follows is the answer, and what stands before is not."""
_DENIAL = re.compile(
    r"(?:^|[.!?\n]\s*)no[.!]|\b(?:that|this|which|it)(?:'s|\u2019s| is| was)? (?:not (?:right|correct|true)|wrong|incorrect|false)\b"
    r"|\bscratch that\b|\bnever ?mind\b|\bi (?:was|am) wrong\b",
    re.IGNORECASE,
)
_TO_THE_VALUE = 12
"""How many characters may stand between a correction and the value that it gives."""


def settle(answers: Iterable[Answer], first: FindCandidate) -> Value | None:
    """Return the value of the first answer that names one.

    One rule for hedging: a second, different value that is joined directly to the first by "or", "and", a slash, a
    comma or an arrow. And one for corrections: what the policy takes back afterwards is not its answer.

    Returns:
        The value. None if no answer names one, or the answer names several, or the policy takes it back.
    """
    for answer in answers:
        text = _STRUCK_OUT.sub(" ", answer.text)
        found = first(text)
        if found is not None:
            return _settled(found, text[found.end :] + _STRUCK_OUT.sub(" ", answer.after[:_AFTERWARDS]), first)
    return None


def _settled(found: Candidate, rest: str, first: FindCandidate) -> Value | None:
    joint = _JOINT.match(rest)
    gap = joint.end() if joint else 0
    other = first(rest[gap:]) if gap else None
    if other is not None and other.start == 0 and other.value != found.value:
        return None
    value: Value | None = found.value
    for taken_back in re.finditer(rf"(?P<denial>{_DENIAL.pattern})|{_CORRECTION.pattern}", rest, re.IGNORECASE):
        new = first(rest[taken_back.end() :].partition("\n")[0])
        if new is not None and new.start <= _TO_THE_VALUE:
            value = new.value
        elif taken_back["denial"]:
            value = None
    return value
