r"""Finds where in a text the answer stands. Linear in the text.

An answer stands after the last of the markers `####`, `\boxed{`, `<answer>`, "answer is", "answer:", a heading "Final
answer" and a line that begins with `A:`. What follows a runaway continuation (the policy goes on to write a new
"Question:") is not looked at.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import chain
from typing import NamedTuple

REGION_CHARACTERS = 1_000
"""How much after a marker is looked at; also keeps integers below the digits that Python refuses to convert."""

MARKER = re.compile(
    r"^[ \t#*_]{0,9}(?:final )?answer[ \t*_]{0,9}$|####+|\\boxed\s?\{|<answer>|^[ \t*_]{0,9}A[ \t*_]{0,9}:"
    r"|\b(?:answer(?: to (?:the|this|that) (?:question|problem))?|(?:correct|right|best) (?:choice|option))[\s*_]{0,9}"
    r"(?:[:=]|(?:is|(?:should|must|will|would) be)\b(?! (?:correct|right|wrong)\b))",
    re.IGNORECASE | re.MULTILINE,
)
_END_TAG = "</answer>"
_LAST_MARKERS = 8
"""How many markers are looked at, from the last one, for one that a candidate follows."""
_RUNAWAY = re.compile(
    r"^[ \t*#]{0,9}(?:question|problem|exercise|human|user|q)[ \t]{0,3}[0-9]{0,4}[ \t*]{0,3}[:.]|<\|",
    re.IGNORECASE | re.MULTILINE,
)
_END_OF_TURN = re.compile(r"<\|\w{1,40}\|>\s*\Z")
_BEFORE_ANSWER = " \t\r\n:*_`"


class Bounds(NamedTuple):
    """Where the answer stands in a text, as positions."""

    marker: int
    start: int
    end: int
    """End of the answer's line."""
    limit: int
    """Where a runaway continuation begins, or the text ends."""


def region_bounds(text: str, candidate: re.Pattern[str] | None = None) -> Bounds | None:
    """Return where the line stands that the last marker of the text begins, None without a marker.

    With a candidate, a marker whose line has none is passed over: "#### 72", then a heading "#### Explanation".
    """
    first = MARKER.search(text)
    if first is None:
        return None
    runaway = _RUNAWAY.search(text, first.end())
    limit = runaway.start() if runaway else len(text)
    markers = deque(chain((first,), MARKER.finditer(text, first.end(), limit)), _LAST_MARKERS)
    last = _line_bounds(text, markers[-1], limit)
    if candidate is None:
        return last
    lines = (_line_bounds(text, found, limit) for found in reversed(markers))
    return next((line for line in lines if candidate.search(text, line.start, line.end)), last)


def _line_bounds(text: str, marker: re.Match[str], limit: int) -> Bounds:
    end = min(marker.end() + REGION_CHARACTERS, limit)
    region = text[marker.end() : end].lstrip(_BEFORE_ANSWER)
    line = region.partition("\n")[0].partition(_END_TAG)[0]
    return Bounds(marker.start(), end - len(region), end - len(region) + len(line), limit)


def answer_region(text: str) -> str | None:
    """Return the line that the last marker of the text begins, runaway continuation apart; None without a marker."""
    bounds = region_bounds(text)
    return None if bounds is None else text[bounds.start : bounds.end]


def runs_away(text: str) -> bool:
    """Say whether a text goes on with a new question or a chat template after its answer; one end of turn is none."""
    first = MARKER.search(text)
    runaway = _RUNAWAY.search(text, first.end()) if first else None
    return runaway is not None and not _END_OF_TURN.match(text, runaway.start())
