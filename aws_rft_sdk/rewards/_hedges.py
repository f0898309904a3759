"""Tells an answer from a list of candidates: "72 or 73", "B, or maybe C" and "yes and no" commit to nothing.

The readers of each kind (numbers, choices, yes and no) find a second candidate. Here stands what they share: the words
that join candidates, and the words that begin an explanation, in which other numbers are harmless.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aws_rft_sdk.rewards._regions import MARKER, region_bounds

_CLEAR_DOUBTS = (
    r"and/or|or(?!\W+(?:equivalently|in\s+other\s+words)\b)|nor|maybe|perhaps|possibly|probably|alternatively|"
    r"(?:could|might|may)(?:\s+(?:also|well))?\s+be|if\s+not"
)
_DOUBTS = (
    rf"(?:{_CLEAR_DOUBTS}|alternative|either|else|otherwise|another|also|can(?:\s+(?:also|well))?\s+be|"
    r"as\s+well(?:\s+as)?|but|versus|vs|plus)"
)
_JOINTS = rf"(?:{_DOUBTS}|and)"
WORD_FOLLOWS = rf"\s+(?!{_JOINTS}\b)(?-i:[a-z])"
"""After a letter or a yes that is part of a sentence and no candidate: "a city", "no change"."""
_FILLERS = r"(?:the|it|its|is|it's|even|option|choice|answer|likely)"
GAP = rf"(?:[\s,;:|/&+.*_`$()\[\]{{}}~\\]|\b{_JOINTS}\b|\b{_FILLERS}\b)*"
"""What stands between two candidates of a list, and nothing else does."""
JOINED = re.compile(rf"\b{_JOINTS}\b", re.IGNORECASE)
"""A word that joins two candidates, or two calculations."""
DOUBT_BEFORE = re.compile(
    rf"\b(?:{_CLEAR_DOUBTS})\b\W*(?:[A-Za-z']+\W+){{0,3}}\Z|\)[\s,;|/]*(?:and\b|plus\b)?\W*\Z", re.IGNORECASE
)
"""A candidate that follows this is one more, wherever it stands. Also: what follows a closed remark directly."""
EXPLAINS = re.compile(
    r"\b(?:since|because|(?<!well )as(?!\s+well)|for|from|per|in|on|at|by|with|within|after|before|when|where|"
    r"which|who|while|if(?!\s+not)|given|than|of|not|instead|rather|so|that|using|leaving|until|over|under|"
    r"during|between|compared|(?:up|down)(?!\s+to)|to(?=\s+[a-z])|means?|meaning|adding|including|i\.e|equivalently|equals)\b"
    r"|[:;]\s+(?=[A-Za-z]|[$]?[0-9][0-9.,]*\s?[A-Za-z+*/(])|\s[-\u2013\u2014]{1,2}\s+(?=[A-Za-z])|\u2014(?=[A-Za-z])"
    rf"|[=\u2248\u2192]|[(\[](?=[^()\[\]]*[A-Za-z=*+/\u00d7])|[.!?][\"')\]*_]*\s+(?=[A-Za-z(])(?!{_JOINTS}\b)",
    re.IGNORECASE,
)
"""After this, other numbers belong to an explanation: "10, since 4 + 6", "5 dollars for 3 apples"."""
NEGATED = re.compile(r"(?:\bnot|n['\u2019]t|\bneither)\W+(?:\w+\W+)?\Z", re.IGNORECASE)
"""What follows is said not to be the answer."""

_CANDIDATE = r"(?:[$(+-]{0,2}[0-9]|[A-Ja-j]\b|(?:yes|no)\b)"
_CONTINUES = re.compile(
    rf"[\s(*_]*(?:(?:or|maybe|perhaps|possibly|alternatively|otherwise|else|either)\b"
    rf"|(?:and|also|but|plus)\W+(?:(?:also|maybe|perhaps)\W+)?{_CANDIDATE}"
    rf"|(?:[$(+-]{{0,2}}[0-9][0-9.,]{{0,30}}%?|[A-J]|yes|no)[\s).*_]*\Z)",
    re.IGNORECASE,
)
_NEXT_LINES = 300
_FIRST_GAP = re.compile(rf"\A{GAP}", re.IGNORECASE)
_LAST_GAP = re.compile(rf"{GAP}\Z", re.IGNORECASE)
_NEW_SENTENCE = re.compile(r"\w|[.!?]\s")
"""Stands between two candidates that are no list, unless a word joins them."""


class Answer(NamedTuple):
    """What stands at the last marker of a text."""

    text: str
    """The line that the marker begins, with the next one if that goes on with it.

    It goes on when it begins with "or" and the like, or is nothing but another candidate.
    """
    before: str
    """What stands before the marker on its line: perhaps another marker with another answer."""


def find_answer(text: str, candidate: re.Pattern[str] | None = None) -> Answer | None:
    """Return what stands at the last marker of a text that a candidate follows, or the last; None without a marker."""
    bounds = region_bounds(text, candidate)
    if bounds is None:
        return None
    answer = text[bounds.start : bounds.end]
    following = text[bounds.end : min(bounds.end + _NEXT_LINES, bounds.limit)].lstrip().partition("\n")[0]
    if answer and following and _CONTINUES.match(following):
        answer = f"{answer}; {following}"
    return Answer(answer, text[max(0, bounds.marker - _NEXT_LINES) : bounds.marker].rpartition("\n")[2])


def list_pattern(candidate: str) -> re.Pattern[str]:
    """Return the pattern of a text that begins with a candidate and ends with one."""
    return re.compile(rf"\W*(?={candidate}).*(?:{candidate})[^\w\n]*\Z", re.IGNORECASE)


def joined_before(answer: Answer | None, listed: re.Pattern[str]) -> str:
    r"""Return the answer of another marker that the last one is joined with, the "72" of `\boxed{72} or \boxed{73}`.

    "" without one, and when they are not joined: "#### 10 then #### 20" answers 20, and "A: 48 + 24 is 72. The answer
    is 72" is a solution with its answer.
    """
    markers = list(MARKER.finditer(answer.before)) if answer is not None and answer.before else []
    between = answer.before[markers[-1].end() :] if answer is not None and markers else ""
    between = _FIRST_GAP.sub("", between)
    gap = _LAST_GAP.search(between)
    said = between[: gap.start()] if gap else ""
    is_joined = gap is not None and (JOINED.search(gap[0]) or not _NEW_SENTENCE.search(gap[0]))
    return said if is_joined and listed.match(said) else ""
