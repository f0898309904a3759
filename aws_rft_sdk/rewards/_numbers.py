"""Reads the number that a text gives as its answer. Exact: no floats, ASCII digits only, linear in the text.

An answer that names a second number ("72 or 73", "3 hours 20 minutes") gives none, unless the second one belongs to an
explanation ("10, since 4 + 6") or says the same ("25% (0.25)").
"""

from __future__ import annotations

import numbers
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.rewards._hedges import (
    DOUBT_BEFORE,
    EXPLAINS,
    GAP,
    JOINED,
    NEGATED,
    find_answer,
    joined_before,
    list_pattern,
)
from aws_rft_sdk.rewards._regions import REGION_CHARACTERS
from aws_rft_sdk.rewards._regions import answer_region as answer_region  # part of what this module offers

_TAIL_CHARACTERS = 2_000
"""How much of the end is searched when a number may stand anywhere."""

_DASH = r"\-" "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{FULLWIDTH HYPHEN-MINUS}"
_CURRENCY = "$\N{EURO SIGN}\N{POUND SIGN}\N{YEN SIGN}\N{INDIAN RUPEE SIGN}"
_NUMBER = re.compile(
    rf"(?P<paren>\()?(?<![\w.,:/^+{_DASH}])(?P<sign>[+{_DASH}] ?)?(?P<currency>[{_CURRENCY}] ?)?(?P<inner>[{_DASH}])?"
    r"(?:(?P<whole>[0-9]+(?:,[0-9]+)*)(?:\.(?P<decimals>[0-9]+))?|\.(?P<bare>[0-9]+))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,3})(?![0-9A-Za-z]))?",
)
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}")
_MIXED = re.compile(r" ([0-9]{1,9})/([0-9]{1,9})(?![0-9./])")
_OVER = re.compile(r" ?/ ?([0-9]{1,300})(?![0-9.,]*[0-9])")
_PERCENT = re.compile(r" ?%| ?percent\b", re.IGNORECASE)
_SCALE_WORD = re.compile(r"[ -]?(hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_SCALE_LETTER = re.compile(r"(?: (?=[mb]n\b))?(k|m|mm|mn|b|bn)\b", re.IGNORECASE)
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "k": 10**3,
    "m": 10**6,
    "mm": 10**6,
    "mn": 10**6,
    "b": 10**9,
    "bn": 10**9,
}
# What makes the number part of something else: 10:30, 1.2.3, 5-7, 1,23, 3 + 4, 3/4/5, 2^8, 1 234, 1e9999, 7 squared,
# 72_000, 2 pi.
_GOES_ON = re.compile(
    rf"(?::|(?:[,/]|\.{{1,3}}|\u2026)\s?)[0-9]|[{_DASH}]\s?[0-9]| [{_DASH}] ?[({_CURRENCY}]?[0-9]"
    r"| ?[+*x\u00d7\u00b7\u00f7^/]{1,2}[ (]{0,2}[0-9]"
    r"| [0-9]{3}(?![0-9])|[eE][+-]?[0-9]|[\d\u00b2\u00b3\u00b9\u2070\u2074-\u2079]"
    r"|_\{?[0-9]| ?[\u221a\u03c0]"
)
_INSIDE = re.compile(
    r"(?:[\u221a\u00b1]|\+/-|\\?\b(?:sqrt|log|ln)(?=[({])|\\(?:log|ln)\b|\\(?:[dt]?frac|binom)(?:\{[^{}]*\})?"
    r"|[\^_](?=\{))[\s({\[]*\Z"
)
"""What a number is only a part of: a root, a logarithm, a power, a fraction with letters, one of two signs."""
_INSIDE_CHARACTERS = 80
_YEAR_FIRST = re.compile(
    r"^\W*(?:in|for|during|by|as of)\s+(?:(?:fiscal|fy|the)\s+)*(?:year\s+)?(?:19|20)[0-9]{2},\s+", re.IGNORECASE
)
"""Says when, before the answer: "In 2019, $1.2 million"."""
_GLUED = re.compile(r"(?<![A-Za-z])(or|and|maybe)(?=[0-9])", re.IGNORECASE)
_UNIT = (
    r"(?:hours?|hrs?|minutes?|mins?|seconds?|secs?|days?|weeks?|months?|years?|dollars?|cents?|feet|foot|inch(?:es)?)"
)
_LISTED = re.compile(rf"\s*(?:{_UNIT}\b)?{GAP}", re.IGNORECASE)
_LISTED_NUMBER = list_pattern("[0-9]")
_LIST_GAP_CHARACTERS = 60
_AFTER_COMMA = re.compile(r"[,.]\s")
_EMPHASIS = re.compile(r"(?<![0-9])(?:\*\*|__)|(?:\*\*|__)(?![0-9])")
_GROUP_SPACE = re.compile("(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_LATEX_SIGN = re.compile(r"\\(times|cdot|div|pm|sqrt|pi)(?![A-Za-z])")
_SIGNS = {"times": "\u00d7", "cdot": "\u00b7", "div": "\u00f7", "pm": "\u00b1", "sqrt": "\u221a", "pi": "\u03c0"}
_POWER_OF_TEN = re.compile(r"(?<=[0-9]) ?[*x\u00d7\u00b7] ?10 ?\^ ?(?:\{ ?)?([+-]?[0-9]{1,3})(?![0-9])(?: ?\})?")
_FRAC = re.compile(r"\\[dt]?frac\s?(?:\{([^{}]{1,60})\}\s?\{([^{}]{1,60})\}|([0-9])([0-9]))")
_NO_FIGURE = re.compile(r"[A-Za-z\\\u221a\u03c0]")
_MIXED_FRAC = re.compile(r"(?<=[0-9])(?=\\[dt]?frac)")
_RUPEES = re.compile(r"\bRs\. ?(?=[0-9])", re.IGNORECASE)
_SIGN_WORD = re.compile(rf"(?<![0-9)\]}}] )\b(?:minus|negative) (?=[{_CURRENCY}]?[0-9])", re.IGNORECASE)
_LATEX_WORD = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s?\{([^{}]{0,80})\}?")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\(?:left|right|quad)\b|~")
_CALCULATION = re.compile(
    rf"(?<![\w.,])(?:[{_CURRENCY}(]{{0,2}}[0-9][0-9.,]{{0,20}}\)? ?[+*x\u00d7\u00b7\u00f7/{_DASH}] ?){{1,9}}"
    rf"[{_CURRENCY}(]{{0,2}}[0-9][0-9.,]{{0,20}}\)? ?= ?(?=[{_CURRENCY}]?[0-9])"
)
"""A calculation that has a result, up to the result."""
_FRACTION_REST = re.compile(r"^(?: [0-9]{1,9})? ?/ ?[0-9]{1,300}")
_DIGIT = re.compile("[0-9]")
_LETTER = re.compile("[A-Za-z]")
_NOT_WORDS = re.compile(r"[\s*_`:=]*\Z")
_NO_WORDS_BEFORE = re.compile(rf"[\s*_`:={_CURRENCY}]*\Z")
_REFERENCE_KEYS = ("final_answer", "answer", "ground_truth", "text")


class Number(NamedTuple):
    """A number as it was written."""

    value: int | Fraction
    percent: bool = False
    """Whether it was written with a percent sign or the word; the value is not divided."""
    decimals: int = 0
    """To how many digits after the point it is given: 3 for 0.125 and for 1.25e-1, 0 for 1.2 million."""


def reference_of(ground_truth: JSON) -> JSON:
    """Return what is right out of the shapes that datasets give it: itself, or the field of an object that holds it.

    An object is asked for `final_answer`, `answer`, `ground_truth` and `text`, in this order; None when it has none.
    """
    if not isinstance(ground_truth, Mapping):
        return ground_truth
    return next((ground_truth[key] for key in _REFERENCE_KEYS if ground_truth.get(key) is not None), None)


def reference_number(ground_truth: JSON, *, letters: bool = False) -> Number | None:
    """Return the number of a ground truth: a number, its text, or a worked solution that ends in one.

    None when it gives none, or more than one ("5 or 6").
    """
    reference = reference_of(ground_truth)
    if isinstance(reference, bool) or not isinstance(reference, str | Decimal | numbers.Real):
        return None
    if not isinstance(reference, str):
        if isinstance(reference, numbers.Rational):  # also those of numpy, whose integers would overflow
            return Number(Fraction(int(reference.numerator), int(reference.denominator)))
        written = Decimal(str(reference))  # 0.1 is a tenth, and has one decimal
        if not written.is_finite():
            return None
        return Number(Fraction(written), decimals=_decimals_of(written))
    return answer_number(reference, letters=letters) or read_number(reference, letters=letters)


def _decimals_of(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def answer_number(text: str, *, anywhere: bool = False, letters: bool = False) -> Number | None:
    """Return the number that a text gives as its answer, None when it gives none, or more than one.

    Args:
        text: The answer. A text that is nothing but a number, currency and unit apart, needs no marker.
        anywhere: Without a marker, take the last number of the text.
        letters: Read the suffixes k, m, mn, b, bn where they are attached to the number ("$1.2m").
    """
    answer = find_answer(text, _DIGIT)
    if answer is not None:
        number = read_number(answer.text, letters=letters)
        joined = joined_before(answer, _LISTED_NUMBER)
        other = read_number(joined, letters=letters) if joined else None
        # "\\boxed{72} or \\boxed{73}": the last marker counts, but not as one of a list.
        return None if number is not None and other is not None and not _is_same(number, other) else number
    short = text.strip()
    if len(short) <= REGION_CHARACTERS and "\n" not in short and _is_bare(_clean(short)):
        return read_number(short, letters=letters)
    if not anywhere:
        return None
    return _last_number(text[-_TAIL_CHARACTERS:], letters=letters)


def read_number(line: str, *, letters: bool = False) -> Number | None:
    """Return the first number of a line, or what stands after the last `=` of a calculation; None when it has none.

    A number that goes on into something else (a time, a range, an unfinished calculation, a malformed group of
    digits) is no number: half of it is not what was meant. Neither is one of several candidates.
    """
    line = _YEAR_FIRST.sub("", _GLUED.sub(r"\1 ", _clean(line[:REGION_CHARACTERS])))
    found = _NUMBER.search(line)
    if found is None:
        return None
    before = line[: found.start()]
    if NEGATED.search(before):
        return None
    number, rest = _parse(line, found, letters)
    head, is_calculation, tail = line.rpartition("=")
    unfinished = number is None or (before.rstrip().endswith("=") and head.count("=") > 0 and "=" in rest)
    if unfinished and is_calculation:
        # A calculation has one result. "x = 3 or x = 5" has two.
        return None if JOINED.search(head) else read_number(tail, letters=letters)
    return None if number is None or _is_hedged(number, line, len(line) - len(rest), letters) else number


def _is_hedged(number: Number, line: str, end: int, letters: bool) -> bool:
    """Say whether what follows a number on its line names another candidate."""
    rest = line[end:]
    if not _DIGIT.search(rest):
        return False
    if rest.lstrip().startswith("=") and not _LETTER.search(rest):
        result = read_number(rest.rpartition("=")[2], letters=letters)
        return result is not None and not _is_same(number, result)
    explained = EXPLAINS.search(line, end)
    line = line[:end] + _CALCULATION.sub(lambda found: " " * len(found[0]), rest)
    for found in _NUMBER.finditer(line, end):
        other, _ = _parse(line, found, letters)
        if other is not None and _is_same(number, other):
            continue
        before = line[max(end, found.start() - _LIST_GAP_CHARACTERS) : found.start()]
        if DOUBT_BEFORE.search(before) or explained is None or explained.start() > found.start():
            return True
    return False


def _is_same(one: Number, other: Number) -> bool:
    """Say whether two numbers are equal, where 25% is also 0.25."""
    if one.percent == other.percent:
        return one.value == other.value
    part, whole = (one, other) if one.percent else (other, one)
    return whole.value in (part.value, Fraction(part.value) / 100)


def _is_bare(text: str) -> bool:
    """Say whether a text is nothing but a number: no words before it, no other number after it."""
    found = _NUMBER.search(text)
    if found is None or not _NOT_WORDS.match(text[: found.start()]):
        return False
    return _DIGIT.search(_FRACTION_REST.sub("", text[found.end() :])) is None


def _last_number(text: str, *, letters: bool) -> Number | None:
    """Return the last number of a text, None when it is the last one of a list."""
    cleaned = _GLUED.sub(r"\1 ", _clean(text))
    last = previous = None
    end = 0
    for found in _NUMBER.finditer(cleaned):
        number, rest = _parse(cleaned, found, letters)
        if number is None:
            continue
        gap = cleaned[end : found.start()]
        if NEGATED.search(gap[-_LIST_GAP_CHARACTERS:]):
            continue
        listed = previous is not None and len(gap) <= _LIST_GAP_CHARACTERS and "\n" not in gap
        if listed and _LISTED.fullmatch(gap) and previous is not None and not _is_same(previous, number):
            last = None
        else:
            last = number
        previous, end = number, len(cleaned) - len(rest)
    return last


def _fraction(found: re.Match[str]) -> str:
    over, under = found[1] or found[3], found[2] or found[4]
    return found[0] if _NO_FIGURE.search(over + under) else f"{over}/{under}"


def _plain_fraction(found: re.Match[str]) -> str:
    return " " + unicodedata.normalize("NFKC", found[0]).replace("\N{FRACTION SLASH}", "/")


def _clean(line: str) -> str:
    line = _SIGN_WORD.sub("-", _RUPEES.sub("", line))
    if not line.isascii():
        line = _VULGAR.sub(_plain_fraction, _GROUP_SPACE.sub(",", line))
    line = line.replace("{,}", ",")  # LaTeX, for a comma that is no punctuation
    if "\\" in line:
        line = line.replace("\\$", "$").replace("\\%", "%").replace("\\(", " ").replace("\\)", " ")
        line = _LATEX_SIGN.sub(lambda found: _SIGNS[found[1]], _LATEX_SPACE.sub("", line))
        line = _MIXED_FRAC.sub(" ", line)
        line = _FRAC.sub(_fraction, line)
        line = _LATEX_WORD.sub(r" \1", line)
    if "^" in line:
        line = _POWER_OF_TEN.sub(r"e\1", line)
    if "**" in line or "__" in line:
        line = _EMPHASIS.sub("", line)
    return line


def _parse(line: str, found: re.Match[str], letters: bool) -> tuple[Number | None, str]:
    """Return the number that a match begins, None when it goes on into something else, and what follows it."""
    rest = line[found.end() :]
    before = line[: found.start()]
    value, decimals = _value(found)
    if value is None or _INSIDE.search(before[-_INSIDE_CHARACTERS:] + (found["paren"] or "")):
        return None, rest
    closed = bool(found["paren"]) and rest.startswith(")")
    rest = rest[1:] if closed else rest
    if over := _MIXED.match(rest) if isinstance(value, int) else None:
        value, rest = _add_fraction(value, over), rest[over.end() :]
    elif over := _OVER.match(rest):
        value, rest = (Fraction(value, int(over[1])) if int(over[1]) else None), rest[over.end() :]
    if value is None:
        return None, rest
    percent = _PERCENT.match(rest)
    rest = rest[percent.end() :] if percent else rest
    scale = _SCALE_WORD.match(rest) or (_SCALE_LETTER.match(rest) if letters else None)
    if scale:
        factor = _SCALES[scale[1].lower()]
        value, rest = value * factor, rest[scale.end() :]
        decimals = max(0, decimals - len(str(factor)) + 1)
    if (percent or scale) and found["paren"] and rest.startswith(")"):
        closed, rest = True, rest[1:]  # (12.5%), ($1.2 million)
    if _GOES_ON.match(rest) and not _AFTER_COMMA.match(rest):
        return None, rest
    negative = bool(found["sign"] and found["sign"][0] != "+") != bool(found["inner"])
    if closed and not negative and _NO_WORDS_BEFORE.match(before):
        negative = True  # accounting writes (5) for -5; after words it is a remark, "five (5)"
    return Number(-value if negative else value, percent is not None, decimals), rest


def _value(found: re.Match[str]) -> tuple[int | Fraction | None, int]:
    whole, decimals = found["whole"] or "0", found["decimals"] or found["bare"] or ""
    if "," in whole:
        if not _GROUPED.fullmatch(whole):
            return None, 0
        whole = whole.replace(",", "")
    value: int | Fraction = int(whole)
    if decimals:
        value = Fraction(int(whole + decimals), 10 ** len(decimals))
    exponent = int(found["exponent"] or 0)
    if exponent:
        value = Fraction(value) * Fraction(10) ** exponent
    return value, max(0, len(decimals) - exponent)


def _add_fraction(value: int | Fraction, over: re.Match[str]) -> Fraction | None:
    return value + Fraction(int(over[1]), int(over[2])) if int(over[2]) else None
