"""Rewards for answers that are a number: exact for school mathematics, with an explicit tolerance for finance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._hedges import (
    DOUBT_BEFORE,
    GAP,
    JOINED,
    WORD_FOLLOWS,
    find_answer,
    joined_before,
    list_pattern,
)
from aws_rft_sdk.rewards._numbers import Number, answer_number, reference_number, reference_of
from aws_rft_sdk.rewards.rollout import TextReward


@dataclass(frozen=True)
class ExactNumber(TextReward):
    r"""1.0 when the answer gives the number of the ground truth, else 0.0.

    The answer stands after the last of `####`, `\boxed{`, "answer is", "answer:" and `A:` at the beginning of a line,
    or is the whole text. Commas, currency, units, percent signs, signs, decimals, fractions, `1 1/2`, `(5)` for -5,
    "1.2 million" and a trailing full stop are understood. A percent sign is a unit here: 25% is 25, not 0.25. A formula
    (`\sqrt{72}`, `x+72`) is no number, and cannot be judged as a ground truth.
    A runaway continuation (the policy goes on with a new "Question:") is ignored. Digits other than 0 to 9 are no
    digits.

    Numbers are compared exactly (as fractions), so that no digit may differ. An answer without a number is wrong, 0.0,
    and so is one with several ("72 or 73"), unless the others explain the first ("72, since 48 + 24 is 72").

    Raises:
        ConfigurationError: The tolerance is not a finite number of at least 0.

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

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, low=0)

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0; None when the ground truth gives no number, or several ("5 or 6").

        Args:
            answer_text: The answer.
            ground_truth: A number, its text, a solution that ends in one, or an object with one of these under
                `final_answer`, `answer`, `ground_truth` or `text`.
        """
        right = reference_number(ground_truth)
        if right is None:
            return None
        given = answer_number(answer_text, anywhere=self.anywhere)
        if given is None:
            return 0.0
        if not self.tolerance:
            return float(given.value == right.value)
        return float(abs(Fraction(given.value) - right.value) <= Fraction(str(self.tolerance)))


gsm8k = ExactNumber()
"""The reward of GSM8K: the number after the last `####` is the right one."""

_YES_NO = re.compile(r"\W{0,9}(yes|no)\b", re.IGNORECASE)
_ONE_MORE = re.compile(rf"\b(?P<word>yes|no)\b(?P<goes_on>{WORD_FOLLOWS})?", re.IGNORECASE)
_ANY_WORD = re.compile(r"\b(?:yes|no)\b", re.IGNORECASE)
_ONLY_GAP = re.compile(GAP, re.IGNORECASE)
_LISTED_WORD = list_pattern(r"\b(?:yes|no)")
_YES_NO_CHARACTERS = 300


@dataclass(frozen=True)
class FinQA(TextReward):
    """1.0 for the right figure, `close` for one within the tolerance, else 0.0; yes and no are compared as words.

    With answer a, gold g and d = max(2, decimals that g is written with):
    exact when a = g or round(a, d) = round(g, d) != 0;
    close when |a - g| < relative_tolerance * |g| or |a - g| < absolute_tolerance.

    Scale words are whole words ("1.2 million"), scale letters are attached to the number ("$1.2m"). The answer stands
    after the last marker (`ANSWER:` and those of `ExactNumber`), or is the whole text. An answer that names several
    figures, or yes and no, is wrong.

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

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0, `close` or 0.0; None when the ground truth is neither yes, no nor a number."""
        reference = reference_of(ground_truth)
        if isinstance(reference, str) and reference.strip().lower() in ("yes", "no"):
            answer = find_answer(answer_text, _ANY_WORD)
            word = _yes_or_no(answer_text if answer is None else answer.text)
            joined = _yes_or_no(joined_before(answer, _LISTED_WORD))
            return float(word == reference.strip().lower() and joined in (None, word))
        right = reference_number(ground_truth, letters=True)
        if right is None:
            return None
        given = answer_number(answer_text, anywhere=self.anywhere, letters=True)
        return 0.0 if given is None else max(self._compare(value, right) for value in self._readings(given, right))

    def _readings(self, given: Number, right: Number) -> list[Fraction]:
        value = Fraction(given.value)
        readings = [value]
        if self.percent == "either" or (right.percent and not given.percent):
            readings.append(value * 100)
        if self.percent == "either" or (given.percent and not right.percent):
            readings.append(value / 100)
        return readings

    def _compare(self, given: Fraction, right: Number) -> float:
        digits = max(2, right.decimals)
        rounded = round(Fraction(right.value), digits)
        # What rounds to nothing is compared as it is: 0.0001 is not 0.
        if given == right.value or (rounded and round(given, digits) == rounded):
            return 1.0
        difference = abs(given - right.value)
        relative = Fraction(str(self.relative_tolerance)) * abs(Fraction(right.value))
        return self.close if difference < relative or difference < Fraction(str(self.absolute_tolerance)) else 0.0


def _yes_or_no(answer: str) -> str | None:
    """Return the word that an answer begins with, None when it is neither, or both."""
    word = _YES_NO.match(answer)
    if word is None:
        return None
    rest = answer[word.end() : word.end() + _YES_NO_CHARACTERS]
    for other in _ONE_MORE.finditer(rest):
        if other["word"].lower() == word[1].lower():
            continue
        gap = rest[: other.start()]
        # "yes, no change was seen" is a yes; "yes, no", "yes and no longer so" and "yes, it did, or no" are nothing.
        is_listed = _ONLY_GAP.fullmatch(gap) and (JOINED.search(gap) or not other["goes_on"])
        if is_listed or (DOUBT_BEFORE.search(gap[-60:]) and not other["goes_on"]):
            return None
    return word[1].lower()


finqa = FinQA()
"""The reward of financial questions, with a relative tolerance of 1 %."""
