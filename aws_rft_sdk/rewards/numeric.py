"""Rewards for answers that are a number: exact for school mathematics, with an explicit tolerance for finance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._figures import Number, reference_numbers, settled_number
from aws_rft_sdk.rewards._settling import Candidate, settle
from aws_rft_sdk.rewards.extract import ANYWHERE, STANDARD, Answer, Comparator, Extractor, reference_of

_exact = lru_cache(maxsize=64)(Fraction)


@dataclass(frozen=True)
class ExactNumber(Comparator):
    r"""1.0 when the answer gives the number of the ground truth, else 0.0.

    Without `>>`, the answer stands after the last of `####`, `\boxed{`, `<answer>` and `ANSWER:`. If there is none, it
    stands after "the answer is", "Answer:" or `A:`. A text of one line that names one number needs no marker.

    The number may be written with commas, currency, units, a percent sign (25% is 25), LaTeX, fractions, `1 1/2`, `(5)`
    for -5, "1.2 million", "2 hours 30 minutes" (2.5, and 150) or words. A formula (`\sqrt{72}`, `72x`) or a bound
    (`> 72`) is no number. Numbers are compared exactly, as fractions. An answer is wrong if it names no number, names
    several ("72 or 73") or is taken back ("72. Actually 96").

    Raises:
        ConfigurationError: A tolerance is not a finite number of at least 0.

    Example:
        >>> ExactNumber().score("So she pays #### $1,234.00.", 1234)
        1.0
        >>> ExactNumber().score("#### 10:30", "10")
        0.0
        >>> print(ExactNumber().score("#### 72", None))
        None
    """

    tolerance: float = 0.0
    """Largest absolute difference that still counts as equal."""
    anywhere: bool = False
    """Without a marker, take the last number of the text, which a runaway answer makes a lottery."""
    relative_tolerance: float = 0.0
    """Largest difference that still counts as equal, as a part of the right number: 0.01 for 1 %."""

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, low=0)
        check_number("relative_tolerance", self.relative_tolerance, low=0)

    def _extractor(self) -> Extractor:
        return ANYWHERE if self.anywhere else STANDARD

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0. None if the ground truth names no number, or two ("5 or 6"). Of a list, each is right."""
        rights = reference_numbers(ground_truth)
        if not rights:
            return None
        given = settled_number(answers)
        if given is None:
            return 0.0
        accepted = [value for right in rights for value in (right.value, *right.others)]
        return float(any(self._is_equal(value, right) for value in (given.value, *given.others) for right in accepted))

    def _is_equal(self, value: Fraction, right: Fraction) -> bool:
        if value == right or not (self.tolerance or self.relative_tolerance):
            return value == right
        allowed = max(_exact(str(self.tolerance)), _exact(str(self.relative_tolerance)) * abs(right))
        return abs(value - right) <= allowed


gsm8k = ExactNumber()
"""The reward of GSM8K: the number after the last `####` is the right one."""

_WORD = re.compile(
    r"\b(?:yes|true|(?:no|false)(?:(?<=\band no)|(?<=\bor no)"
    r"|(?! +(?!(?:and|or|if|but|for|in|when|at|otherwise|under|unless)\b)[a-z])))\b",
    re.IGNORECASE,
)
"""A yes or a no, but not the "no" of "there was no change"."""
_YES_NO = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


def _first_word(text: str) -> Candidate | None:
    found = _WORD.search(text)
    return Candidate(_YES_NO[found[0].lower()], found.start(), found.end()) if found else None


@dataclass(frozen=True)
class FinQA(Comparator):
    """1.0 for the right figure, `close` for one within the tolerance, else 0.0; yes and no are compared as words.

    With answer a, gold g and d = max(2, decimals that g is written with):
    exact when a = g or round(a, d) = round(g, d) != 0;
    close when |a - g| < relative_tolerance * |g| or |a - g| < absolute_tolerance.

    Read as well: scale letters ("$1.2m") and signs in words ("a decrease of 5%" is -5%). A year only says when ("2019:
    5.2"). The scale of "5.2 million" may be left out, since tables give it. The answer stands where `ExactNumber` finds
    it. An answer that names two figures, or yes and no, is wrong.

    Raises:
        ConfigurationError: A tolerance is not a finite number of at least 0, or `close` is not from 0 to 1.

    Example:
        >>> FinQA().score("ANSWER: **$1.2 million**", 1_200_000)
        1.0
        >>> FinQA().score("ANSWER: 25%", 0.25)
        1.0
    """

    relative_tolerance: float = 0.01
    absolute_tolerance: float = 0.0
    close: float = 0.95
    """Score of an answer within the tolerance that is not exact."""
    percent: Literal["marked", "either"] = "marked"
    """When a factor of 100 is forgiven: "marked" if one of the two is written with a percent sign, "either" always."""
    anywhere: bool = False
    """Without a marker, take the last number of the text, as the published function does: listing figures pays."""

    def __post_init__(self) -> None:
        check_number("relative_tolerance", self.relative_tolerance, low=0)
        check_number("absolute_tolerance", self.absolute_tolerance, low=0)
        check_number("close", self.close, low=0, high=1)
        if self.percent not in ("marked", "either"):
            raise ConfigurationError(f"percent must be 'marked' or 'either', not {self.percent!r}")

    def _extractor(self) -> Extractor:
        return ANYWHERE if self.anywhere else STANDARD

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return 1.0, `close` or 0.0. None if the ground truth is neither yes, no nor a number."""
        word = _YES_NO.get(str(reference_of(ground_truth)).strip(" \t\n.!").lower())
        if word is not None:
            return float(settle(answers, _first_word) == word)
        rights = reference_numbers(ground_truth, finance=True)
        if not rights:
            return None
        given = settled_number(answers, finance=True)
        if given is None:
            return 0.0
        return max(self._compare(value, right) for right in rights for value in self._readings(given, right))

    def _readings(self, given: Number, right: Number) -> list[Fraction]:
        readings = [given.value, *given.others]
        if self.percent == "either" or (right.percent and not given.percent):
            readings.append(given.value * 100)
        if self.percent == "either" or (given.percent and not right.percent):
            readings.append(given.value / 100)
        if given.scale == 1 and not given.unit[0]:  # "5.2" out of a table in millions
            readings.append(given.value * right.scale)
        return readings

    def _compare(self, given: Fraction, right: Number) -> float:
        digits = max(2, right.decimals)
        difference = abs(given - right.value)
        # What rounds to nothing is compared as it is: 0.0001 is not 0.
        if not difference or round(given, digits) == round(right.value, digits) != 0:
            return 1.0
        relative = _exact(str(self.relative_tolerance)) * abs(right.value)
        allowed = max(relative, _exact(str(self.absolute_tolerance)))
        return self.close if difference < allowed else 0.0


finqa = FinQA()
"""The reward of financial questions, with a relative tolerance of 1 %."""
