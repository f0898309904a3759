r"""Decides which value an answer settles on: "72 or 73" settles on none, "70... no wait, 72" on 72, "72. No." on none.

A reader names the values: `first(text)` returns the first value of a text. This module does not know what values are.
"""

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
    """None if something stands here that commits to no value, such as "72x" or "> 72"."""
    start: int
    """Where it stands in the text."""
    end: int


FindCandidate = Callable[[str], "Candidate | None"]
"""Returns the first value that a text names, None if it names none."""

# --- hedging ---

_NEAR = 60
"""How many characters after "or" can name another value."""
_SIGNS = r"[^\w\n~#]*"
_JOINT = re.compile(rf"{_SIGNS}(?:(?:\b(?:and|or|also|to|plus|versus|vs|as well as)\b){_SIGNS})*\n?{_SIGNS}", re.IGNORECASE)
"""What joins two values directly, and says nothing itself."""
_EXPLAINED = re.compile(r"[^\w\n]*(?:in|of|from|for|at|on|per|by|with|each|is|are|was|were|more|less)\b", re.IGNORECASE)
"""After the second value: it belongs to an explanation, as in "72, 48 in April and 24 in May"."""
_DOUBT = re.compile(
    r"\b(?:or(?! equivalently| in other words)|nor|maybe|perhaps|possibly|alternatively|otherwise|if not"
    r"|(?:could|might|may|can) (?:also |well )?be|and also|as well as)\b"
    r"(?:\W+(?:maybe|perhaps|possibly|even|also|the|it|its|is|it's|be|option|choice|answer)\b|\W+[a-z]\s?=)*[^\w\n]*",
    re.IGNORECASE,
)
"""A value that follows this is one more, wherever it stands."""
_CONDITION = re.compile(r"[^\w\n]*(?:if|when|assuming|depending|(?:in|on|under) (?:one|another|the (?:first|second|other)))\b", re.I)

# --- what the policy takes back ---

_FILLERS = (
    r"(?:\b(?:wait|no|it|is|it's|its|was|that's|the|final|correct|right|answer|should|must|be|to|now|corrected|instead|i|mean|think)\b"
    r"|[^\w\n]+)*"
)
_CORRECTION = (
    r"\b(?:actually|correction|corrected|sorry|oops|edit|i meant?|make (?:that|it)|typo|on second thoughts?|my (?:mistake|bad)|hmm"
    r"|rather(?! than)|(?:it|that|this|answer) should (?:be|have been)|the (?:correct|right|real|true) (?:answer|value|result) is"
    r"|but)\b|(?:^|[(,;.!?\u2026\u2014-])[\s*_]*(?:wait|no|should be)\b"
)
_DENIAL = (
    r"(?:^|[.!?,\n]|[.!?,]\s{1,3}|\n\s{0,3})(?:no|nope|wrong|incorrect|false)(?:[.!]|\s*$)"
    r"|\b(?:that|this|which|it|answer|above)(?:'s| is| was| isn't| can't be| cannot be| doesn't (?:look|seem))? "
    r"(?:not (?:right|correct|true)|(?<=n't )(?:right|correct|true)|(?<=n't be )(?:right|correct|true)"
    r"|(?<=look )right|(?<=not be )right|wrong|incorrect|false|a (?:mistake|typo))\b"
    r"|\b(?:scratch|disregard|ignore|forget|strike) (?:that|this|it)\b|\bnever ?mind\b|\bjust kidding\b"
    r"|\bi (?:was|am) (?:wrong|mistaken)\b|\b(?:i|i've) made (?:a|an) (?:mistake|error)\b"
)
_TAKEN_BACK = re.compile(rf"(?P<denial>{_DENIAL})|(?:{_CORRECTION}){_FILLERS}", re.IGNORECASE)
_STRUCK_OUT = re.compile(r"~~.{0,200}?~~|<(del|s|strike)>.{0,200}?</\1>|\\(?:x|b)?(?:cancel|sout)\{[^{}]{0,200}\}", re.DOTALL)
_PART_OF_MORE = re.compile(r"[})\]$\s]*(?:\^|\\?times\b|\\cdot\b|[*/+\u00d7]\s?[0-9])")
"""After a box: what stands in it is a part of a formula, as in `\\boxed{72}^2`."""


def settle(
    answers: Iterable[Answer], first: FindCandidate, clean: Callable[[str], str] = lambda text: text
) -> Value | None:
    """Return the value of the first answer that names one.

    One rule for hedging: a second, different value that is joined directly to the first, or that "or" and the like
    introduce. And one for corrections: what the policy takes back afterwards is not its answer.

    Args:
        answers: Where answers stand, the most likely first.
        first: Finds the first value of a text.
        clean: Prepares each text that `first` gets.

    Returns:
        The value. None if no answer names one, or the answer names several, or the policy takes it back.
    """
    remaining = iter(answers)
    for answer in remaining:
        text = clean(_STRUCK_OUT.sub(" ", answer.text))
        found = first(text)
        if found is None:
            continue
        after = _STRUCK_OUT.sub(" ", answer.after).replace("\u2019", "'")
        if _PART_OF_MORE.match(after) or _is_listed(found, answer, next(remaining, None), first, clean):
            return None
        return _settled(found, text[found.end :] + clean(after), first)
    return None


def _is_listed(
    found: Candidate, answer: Answer, previous: Answer | None, first: FindCandidate, clean: Callable[[str], str]
) -> bool:
    r"""Say whether the answer is joined to another one before it, as in `\boxed{72} or \boxed{73}`."""
    if previous is None or previous.marker >= answer.marker or previous.visible is not answer.visible:
        return False
    text = clean(answer.visible[previous.start : answer.marker][-2 * _NEAR :])
    other = first(text)
    return other is not None and other.value not in (None, found.value) and _is_joint(text[other.end :])


def _is_joint(gap: str) -> bool:
    return "\n" not in gap.strip(" ") and (_JOINT.fullmatch(gap) or _DOUBT.search(gap)) is not None


def _settled(found: Candidate, rest: str, first: FindCandidate) -> Value | None:
    """Return the value that a text settles on whose first value is `found` and which goes on with `rest`."""
    value = None if _is_hedged(found, rest, first) else found.value
    for taken_back in _TAKEN_BACK.finditer(rest):
        tail = rest[taken_back.end() :].partition("\n")[0]
        new = first(tail[:_NEAR])
        if new is not None and new.start == 0 and new.value is not None:
            value = None if _is_hedged(new, tail[new.end :], first) else new.value
        elif taken_back["denial"]:
            value = None
    return value


def _is_hedged(found: Candidate, rest: str, first: FindCandidate) -> bool:
    """Say whether a text goes on with another value beside the one found."""
    joint = _JOINT.match(rest)
    gap = joint[0] if joint else ""
    other = first(rest[len(gap) :])
    if other is None:
        return False
    is_other = other.value not in (None, found.value)
    after = rest[len(gap) + other.end :]
    if is_other and other.start == 0 and gap and not _EXPLAINED.match(after):
        # A list over several lines has nothing but values; a remark in brackets is a value if it says nothing else.
        if "\n" in gap:
            return not after.partition("\n")[0].strip(" .*")
        return "(" not in gap or not re.match(r"[^)\n]*[a-z]", after)
    if is_other and _CONDITION.match(rest) and _CONDITION.match(after):
        return True
    for doubt in _DOUBT.finditer(rest):
        other = first(rest[doubt.end() : doubt.end() + _NEAR])
        if other is not None and other.start == 0 and other.value not in (None, found.value):
            return True
    return False
