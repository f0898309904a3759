r"""Decides which value an answer settles on: "72 or 73" settles on none, "70... no wait, 72" on 72, "72. No." on none.

A reader names the values: `first(text)` returns the first value of a text. This module does not know what values are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from aws_rft_sdk.rewards.extract import ANSWER_CHARACTERS, Answer


class Candidate(NamedTuple):
    """A value that a text names: anything with equality, and where it stands in the text."""

    value: object
    """None if something stands here that commits to no value, such as "72x" or "> 72"."""
    start: int
    end: int
    is_label: bool = False
    """Whether it only says when, such as the year in "8 % in 2019". A label is no second answer."""


FindCandidate = Callable[[str], "Candidate | None"]
"""Returns the first value that a text names, None if it names none."""
Hedges = Callable[[object, str], bool]
"""Says whether a text that follows a value names another one beside it."""

_FAR = 2_000  # how many characters after a value can take it back
_NEAR = 60  # how many characters after "or" can name another value
_SIGNS = r"[^\w\n~#]*"
_OR = "oder|ou|atau|\u0438\u043b\u0438"
_ASIAN_OR = "\u6216\u8005?|\u307e\u305f\u306f|\ub610\ub294|\uc774\uac70\ub098"
"""Stands between other words without spaces."""
_JOINT = re.compile(
    rf"(?:</\w{{1,9}}>)?{_SIGNS}(?:(?:\b(?:and|or|but|also|plus|versus|vs|as well as"
    rf"|unless|through|thru|i\.e|e\.g|works|fits|[eouy]|et|und|\u0438|{_OR})\b"
    rf"|{_ASIAN_OR}|[\u548c\u4e0e\u53ca]|\uc640){_SIGNS})*"
    rf"\n*{_SIGNS}",
    re.IGNORECASE,
)
"""What joins two values directly, and says nothing itself."""
_DOUBT = re.compile(
    r"(?:\b(?:(?P<alternative>(?<![0-9] )or(?! equivalently| in other words)|nor|otherwise|else|if not)"
    rf"|{_OR}|maybe|perhaps|possibly|alternatively|(?:could|might|may|can) (?:also |well )?be|and also|as well as)\b"
    rf"|{_ASIAN_OR})"
    r"(?:\W+(?:maybe|perhaps|possibly|even|also|the|it's|its?|is|be|option|choice|answer)\b|\W+[a-z]\s?=)*[^\w\n]*",
    re.IGNORECASE,
)
"""A value that follows this is one more. An alternative begins a sentence, or stands in that of the first value."""
_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
_SENTENCE_BEGINS = re.compile(r"[.!?\n][ (*]*\Z")
_EXPLAINED = re.compile(r"[^\w\n]*(?:in|of|from|for|at|on|per|by|with|each|is|are|was|were|more|less)\b", re.IGNORECASE)
"""After the second value: it belongs to an explanation, as in "72, 48 in April and 24 in May"."""
_CONDITION = re.compile(
    r"[^\w\n]*\b(if|when|assuming|depending|otherwise|(?:in|on|under|for|with|at|by)(?! (?:total|all)\b))\b", re.I
)
_BRACKETED = re.compile(r"\A\s*\([^()\n]*\)")
_OR_BEFORE = re.compile(
    rf"(?:\b(?:or|{_OR})|{_ASIAN_OR}|\\(?:n?eq?|[gl](?:t|eq?))"
    r"|(?:[<\u2260\u2264\u2265\u221a]|(?:^|[\s$])\w+\s?>)=?|\\(?:sqrt|frac|ln|log)(?:\[\w+\])?)"
    r"[\s$*({\\[]*\Z|[0-9-]\Z",
    re.IGNORECASE,
)
"""Before a marker: `17 or \\boxed{18}` names two, `2\\boxed{18}` is a formula, and `x > \\boxed{18}` is a bound."""
_DENIED_BEFORE = re.compile(
    r"(?:n['\u2019]t|\bnot|\bnever|\bdoubt)(?: (?:think|believe|say|choose|pick|go|sure|certain|that|if|whether|the))*"
    r"[^\S\n]*\Z",
    re.IGNORECASE,
)
"""Before a marker: "I don't think the answer is 72"."""
_PART_OF_MORE = re.compile(r"[})\]$\s]*(?:\^(?!\s?\{?\s?\\(?:circ|degree))|\\?times\b|\\cdot\b|[*/+\u00d7]\s?[0-9])")
"""After a box: what stands in it is a part of a formula, as in `\\boxed{72}^2`."""


def is_hedged(first: FindCandidate, value: object, rest: str) -> bool:
    """Say whether `rest` after a value names another one, joined directly or introduced by "maybe" and the like."""
    if any(_is_joined(first, value, tail) for tail in dict.fromkeys((rest, _BRACKETED.sub("", rest, count=1)))):
        return True
    end = _SENTENCE_END.search(rest)
    return any(
        other is not None and other.start == 0 and other.value not in (None, value)
        for doubt in _DOUBT.finditer(rest)
        if not (doubt["alternative"] and end and end.start() < doubt.start())
        or _SENTENCE_BEGINS.search(rest, max(0, doubt.start() - 4), doubt.start())
        for other in [first(rest[doubt.end() : doubt.end() + _NEAR])]
    )


def _is_joined(first: FindCandidate, value: object, rest: str) -> bool:
    other = first(rest)
    if other is None or other.is_label or other.value in (None, value):
        return False
    gap, after = rest[: other.start], rest[other.end :]
    one, two = _CONDITION.match(rest), _CONDITION.match(after)
    if one and two and (one[1] == two[1] or "otherwise" in two[1]):
        return True
    in_brackets = "(" in rest[: other.start + 1]
    if not (gap or in_brackets) or not _JOINT.fullmatch(gap):
        return False
    has_words = re.search(r"[\w&]", gap) is not None
    # A list over several lines has nothing but values. A remark in brackets is a value if it says nothing else.
    if "\n" in gap.strip(" ") and not has_words:
        return not after.partition("\n")[0].strip(" .*)]")
    if in_brackets and re.match(r"(?! (?:if|when|otherwise)\b)[^)\n]*[a-z]", after):
        return False
    return has_words or not _EXPLAINED.match(after)


_FILLERS = (
    r"(?:(?!(?:that|this|it|answer)\S{0,2} (?:is |was )?(?:wrong|not|incorrect|false))"
    r"\b(?:wait|no|it's|that's|its?|is|was|the|final|correct|right|answer|should|must|be|to|now|corrected|instead|i"
    r"|mean|meant|think)\b|[^\w\n]+)*"
)
_ONLY_FILLERS = re.compile(_FILLERS, re.IGNORECASE)
_CORRECTION = (
    r"\b(?:actually|correction|corrected|sorry|oops|edit|i meant?|make (?:that|it)|typo|hmm|hold on|update"
    r"|on (?:second thoughts?|reflection)|my (?:mistake|bad)|let me correct (?:that|this|it)|(?:new|revised) answer"
    r"|rather(?! than)|(?:it|that|this|answer) should (?:be|have been)"
    r"|the (?:correct|right|real|true) (?:answer|value|result) is)\b"
    r"|(?:^|[(,;.!?\u2026\u2014-])[\s*_]*(?:wait|no|should be)\b"
)
_WRONG = r"(?:not|wrong|incorrect|false|a (?:mistake|typo)|too (?:high|low|big|small|large|much))\b"
_DENIAL = (
    r"(?:^|[.!?,\n(]\s{0,3})(?:actually,? )?(?:no|nope|wrong|incorrect|false)(?:[.!)]|\s*$)"
    rf"|\A[^\w\n.,;:!?(]*(?:\w+ )?(?:is|was|would be|seems|looks) {_WRONG}"
    rf"|\b(?:that|this|which|it|answer|above)(?: is|'s| was)? (?!not ){_WRONG}"
    r"|\b(?:isn't|wasn't|can't be|cannot be|doesn't (?:look|seem)|not) (?:right|correct|true)\b"
    r"|\b(?:scratch|disregard|ignore|forget|strike) (?:that|this|it)\b|\bnever ?mind\b|\bjust kidding\b"
    r"|\bi (?:was|am) (?:wrong|mistaken)\b|\b(?:i|i've) made (?:a|an) (?:mistake|error)\b"
)
_TAKEN_BACK = re.compile(
    # The first characters of all that follows, so that a search passes over the rest quickly.
    r"(?:\A|\b(?=[acdefhijlmnorstuw])|(?=[.!?,\n(;\u2026\u2014-]|n't))"
    rf"(?:(?P<denial>{_DENIAL})|(?P<negation>\bnot\b|n't\b)|{_CORRECTION})(?P<fillers>{_FILLERS})",
    re.IGNORECASE,
)
_STRUCK_OUT = re.compile(r"~~.{0,200}?~~|<(del|strike)>.{0,200}?</\1>|\\[xb]?(?:cancel|sout)\{[^{}]{0,200}\}", re.S)


def settle(
    answers: Iterable[Answer], first: FindCandidate, clean: Callable[[str], str] = str, hedges: Hedges | None = None
) -> object | None:
    """Return the value of the first answer that names one. None if the answer names several or is taken back.

    `clean` prepares each text that `first` gets. `hedges` is for values that need a finer reading than `is_hedged`.
    """
    hedges = hedges or partial(is_hedged, first)
    remaining = iter(answers)
    for answer in remaining:
        text = clean(_STRUCK_OUT.sub(" ", answer.text))
        found = first(text)
        if found is None:
            continue
        before = answer.visible[max(0, answer.marker - _NEAR) : answer.marker]
        line = before.rpartition("\n")[2].strip(" ")
        if line and _DENIED_BEFORE.search(line):
            continue
        after = _STRUCK_OUT.sub(" ", answer.visible[answer.end : answer.end + ANSWER_CHARACTERS]).replace("\u2019", "'")
        if _PART_OF_MORE.match(after) or _OR_BEFORE.search(before[-24:]):
            return None
        previous = next(remaining, None) if line else None  # no value stands before one that begins its line
        if previous and previous.marker < answer.marker and previous.visible == answer.visible:
            # `\\boxed{72} or \\boxed{73}` names two.
            listed = clean(answer.visible[previous.start : answer.marker][-2 * _NEAR :])
            other = first(listed)
            gap = listed[other.end :] if other and other.value not in (None, found.value) else "\n"
            *earlier, last = re.split(r"[.!?]\s", gap)
            is_beside = not earlier or _DOUBT.search(last) is not None
            is_joined = (gap and _JOINT.fullmatch(gap)) or (other and is_beside and hedges(other.value, gap + text))
            if is_joined and "\n" not in gap.strip(" "):
                return None
        rest = (text[found.end : found.end + _FAR] + clean(after))[:_FAR]
        return _settled(found.value, rest, first, hedges) if rest.strip() else found.value
    return None


def _settled(value: object, rest: str, first: FindCandidate, hedges: Hedges) -> object | None:
    """Return the value that a text settles on which names `value` first and goes on with `rest`."""
    settled = None if hedges(value, rest) else value
    for taken_back in _TAKEN_BACK.finditer(rest):
        for begin in (taken_back.start("fillers"), taken_back.end()):
            tail = rest[begin:].partition("\n")[0].lstrip(" ,.:*\"'")
            new = first(tail[:_NEAR])
            if new is not None and new.value is not None and _ONLY_FILLERS.fullmatch(tail, 0, new.start):
                break
        else:
            settled = None if taken_back["denial"] else settled
            continue
        if not taken_back["negation"]:
            settled = None if hedges(new.value, tail[new.end :]) else new.value
        elif new.value == settled:
            settled = None
    return settled
