r"""Finds and reads the number that a text gives as its answer. Exact: no floats, ASCII digits only, linear in the text.

Where an answer stands: after the last of the markers `####`, `\boxed{`, "answer is", "answer:" and a line that begins
with `A:`. What follows a runaway continuation (the policy goes on to write a new "Question:") is not looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON

_REGION_CHARACTERS = 1_000
"""How much after a marker is looked at; also keeps integers below the digits that Python refuses to convert."""
_TAIL_CHARACTERS = 2_000
"""How much of the end is searched when a number may stand anywhere."""

MARKER = re.compile(
    r"####+|\\boxed\s?\{|\banswer\s{0,9}(?:is\b|[:=])|^[ \t*_]{0,9}A[ \t*_]{0,9}:", re.IGNORECASE | re.MULTILINE
)
_RUNAWAY = re.compile(
    r"^[ \t*#]{0,9}(?:question|problem|exercise|human|user|q)[ \t]{0,3}[0-9]{0,4}[ \t*]{0,3}[:.]|<\|",
    re.IGNORECASE | re.MULTILINE,
)
_DASH = r"\-" "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{FULLWIDTH HYPHEN-MINUS}"
_CURRENCY = "$\N{EURO SIGN}\N{POUND SIGN}\N{YEN SIGN}\N{INDIAN RUPEE SIGN}"
_NUMBER = re.compile(
    rf"(?P<paren>\()?(?<![\w.,:/^{_DASH}])(?P<sign>[+{_DASH}] ?)?(?P<currency>[{_CURRENCY}] ?)?(?P<inner>[{_DASH}])?"
    r"(?:(?P<whole>[0-9]+(?:,[0-9]+)*)(?:\.(?P<decimals>[0-9]+))?|\.(?P<bare>[0-9]+))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,3})(?![0-9A-Za-z]))?",
)
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}")
_MIXED = re.compile(r" ([0-9]{1,9})/([0-9]{1,9})(?![0-9./])")
_OVER = re.compile(r" ?/ ?([0-9]{1,300})(?![0-9.,]*[0-9])")
_PERCENT = re.compile(r" ?%| ?percent\b", re.IGNORECASE)
_SCALE_WORD = re.compile(r"[ -]?(hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_SCALE_LETTER = re.compile(r"(k|m|mm|mn|b|bn)\b", re.IGNORECASE)
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
# What makes the number part of something else: 10:30, 1.2.3, 5-7, 1,23, 3 + 4, 3/4/5, 2^8, 1 234, 1e9999, 7 squared.
_GOES_ON = re.compile(
    rf"[:.,/]\s?[0-9]|[{_DASH}]\s?[0-9]| [{_DASH}] ?[({_CURRENCY}]?[0-9]"
    r"| ?[+*x\u00d7\u00b7\u00f7^/]{1,2}[ (]{0,2}[0-9]"
    r"| [0-9]{3}(?![0-9])|[eE][+-]?[0-9]|[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u2079]"
)
_AFTER_COMMA = re.compile(r"[,.]\s")
_EMPHASIS = re.compile(r"(?<![0-9])(?:\*\*|__)|(?:\*\*|__)(?![0-9])")
_GROUP_SPACE = re.compile("(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_FRAC = re.compile(r"\\[dt]?frac\s?\{([^{}]{1,60})\}\s?\{([^{}]{1,60})\}")
_LATEX_WORD = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s?\{([^{}]{0,80})\}?")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\(?:left|right|quad)\b|~")
_FRACTION_REST = re.compile(r"^(?: [0-9]{1,9})? ?/ ?[0-9]{1,300}")
_DIGIT = re.compile("[0-9]")
_NOT_WORDS = re.compile(r"[\s*_`:=]*\Z")
_REFERENCE_KEYS = ("final_answer", "answer", "ground_truth", "text")


class Number(NamedTuple):
    """A number as it was written."""

    value: int | Fraction
    percent: bool = False
    """Whether it was written with a percent sign or the word; the value is not divided."""
    decimals: int = 0
    """How many digits stood after the point."""


def reference_of(ground_truth: JSON) -> JSON:
    """Return what is right out of the shapes that datasets give it: itself, or the field of an object that holds it.

    An object is asked for `final_answer`, `answer`, `ground_truth` and `text`, in this order; None when it has none.
    """
    if not isinstance(ground_truth, Mapping):
        return ground_truth
    return next((ground_truth[key] for key in _REFERENCE_KEYS if ground_truth.get(key) is not None), None)


def reference_number(ground_truth: JSON, *, letters: bool = False) -> Number | None:
    """Return the number of a ground truth: a number, its text, or a worked solution that ends in one; None without."""
    reference = reference_of(ground_truth)
    if isinstance(reference, bool) or not isinstance(reference, str | int | float | Decimal | Fraction):
        return None
    if not isinstance(reference, str):
        if isinstance(reference, float | Decimal) and not math.isfinite(reference):
            return None
        reference = Fraction(str(reference)) if isinstance(reference, float) else Fraction(reference)
        return Number(reference, decimals=0 if reference.denominator == 1 else 2)
    return answer_number(reference, letters=letters) or read_number(reference, letters=letters)


def answer_region(text: str) -> str | None:
    """Return the line that the last marker of the text begins, runaway continuation apart; None without a marker."""
    first = MARKER.search(text)
    if first is None:
        return None
    last = first
    runaway = _RUNAWAY.search(text, first.end())
    limit = runaway.start() if runaway else len(text)
    for found in MARKER.finditer(text, first.end(), limit):
        last = found
    end = min(last.end() + _REGION_CHARACTERS, limit)
    return text[last.end() : end].lstrip(" \t\r\n:*_`").partition("\n")[0]


def answer_number(text: str, *, anywhere: bool = False, letters: bool = False) -> Number | None:
    """Return the number that a text gives as its answer, None when it gives none.

    Args:
        text: The answer. A text that is nothing but a number, currency and unit apart, needs no marker.
        anywhere: Without a marker, take the last number of the text.
        letters: Read the suffixes k, m, mn, b, bn where they are attached to the number ("$1.2m").
    """
    region = answer_region(text)
    if region is not None:
        return read_number(region, letters=letters)
    short = text.strip()
    if len(short) <= _REGION_CHARACTERS and "\n" not in short and _is_bare(_clean(short)):
        return read_number(short, letters=letters)
    if not anywhere:
        return None
    return _last_number(text[-_TAIL_CHARACTERS:], letters=letters)


def read_number(line: str, *, letters: bool = False) -> Number | None:
    """Return the first number of a line, or what stands after the last `=` of a calculation; None when it has none.

    A number that goes on into something else (a time, a range, an unfinished calculation, a malformed group of
    digits) is no number: half of it is not what was meant.
    """
    line = _clean(line[:_REGION_CHARACTERS])
    found = _NUMBER.search(line)
    if found is None:
        return None
    number = _number(line, found, letters)
    if number is None and "=" in line:
        line = line.rpartition("=")[2]
        found = _NUMBER.search(line)
        return _number(line, found, letters) if found else None
    before = line[: found.start()]
    if before.rstrip().endswith("=") and line.count("=") > 1 and "=" in line[found.end() :]:
        return read_number(line.rpartition("=")[2], letters=letters)
    return number


def _is_bare(text: str) -> bool:
    """Say whether a text is nothing but a number: no words before it, no other number after it."""
    found = _NUMBER.search(text)
    if found is None or not _NOT_WORDS.match(text[: found.start()]):
        return False
    return _DIGIT.search(_FRACTION_REST.sub("", text[found.end() :])) is None


def _last_number(text: str, *, letters: bool) -> Number | None:
    last = None
    cleaned = _clean(text)
    for found in _NUMBER.finditer(cleaned):
        last = _number(cleaned, found, letters) or last
    return last


def _clean(line: str) -> str:
    if not line.isascii():
        line = _GROUP_SPACE.sub(",", line)
    line = line.replace("{,}", ",")  # LaTeX, for a comma that is no punctuation
    if "\\" in line:
        line = line.replace("\\$", "$").replace("\\%", "%")
        line = _FRAC.sub(r"\1/\2", _LATEX_SPACE.sub("", line))
        line = _LATEX_WORD.sub(r" \1", line)
    if "**" in line or "__" in line:
        line = _EMPHASIS.sub("", line)
    return line


def _number(line: str, found: re.Match[str], letters: bool) -> Number | None:
    value, decimals = _value(found)
    if value is None:
        return None
    rest = line[found.end() :]
    closed = bool(found["paren"]) and rest.startswith(")")
    rest = rest[1:] if closed else rest
    if over := _MIXED.match(rest) if isinstance(value, int) else None:
        value, rest = _add_fraction(value, over), rest[over.end() :]
    elif over := _OVER.match(rest):
        value, rest = (Fraction(value, int(over[1])) if int(over[1]) else None), rest[over.end() :]
    if value is None:
        return None
    percent = _PERCENT.match(rest)
    rest = rest[percent.end() :] if percent else rest
    scale = _SCALE_WORD.match(rest) or (_SCALE_LETTER.match(rest) if letters else None)
    if scale:
        value, rest = value * _SCALES[scale[1].lower()], rest[scale.end() :]
    if _GOES_ON.match(rest) and not _AFTER_COMMA.match(rest):
        return None
    negative = bool(found["sign"] and found["sign"][0] != "+") != bool(found["inner"])
    if closed and not negative and _NOT_WORDS.match(line[: found.start()]):
        negative = True  # accounting writes (5) for -5; after words it is a remark, "five (5)"
    return Number(-value if negative else value, percent is not None, decimals)


def _value(found: re.Match[str]) -> tuple[int | Fraction | None, int]:
    whole, decimals = found["whole"] or "0", found["decimals"] or found["bare"]
    if "," in whole:
        if not _GROUPED.fullmatch(whole):
            return None, 0
        whole = whole.replace(",", "")
    value: int | Fraction = int(whole)
    if decimals:
        value = Fraction(int(whole + decimals), 10 ** len(decimals))
    if found["exponent"]:
        value = Fraction(value) * Fraction(10) ** int(found["exponent"])
    return value, len(decimals or "")


def _add_fraction(value: int | Fraction, over: re.Match[str]) -> Fraction | None:
    return value + Fraction(int(over[1]), int(over[2])) if int(over[2]) else None
