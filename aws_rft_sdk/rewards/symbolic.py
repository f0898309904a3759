"""Rewards for mathematical expressions, by the math-verify library (the extra `rewards`), which is imported on use."""

from __future__ import annotations

import functools
import itertools
import numbers
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from aws_rft_sdk._checks import check_number, check_seconds, is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.rewards import _math_worker
from aws_rft_sdk.rewards._formulas import SETS_IN_WORDS, LastFormula, settled_formula, settled_words
from aws_rft_sdk.rewards.extract import MARKED, Answer, Comparator, Extract, Extractor, Prose, Whole, reference_of

_ARITHMETIC = re.compile(r"(?:[0-9\s+*/^(){}-]|\\(?:[dt]?frac|times|cdot|div|sqrt|left|right)\b)+")
_SET = re.compile(r"\\\{[^()\[\]]*,[^()\[\]]*\\\}")
_ORDERED = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\s?\{[\s~]*([kcm]?[gmlL]|s|min|hr?)\s*\}\Z")
"""Units of which one is a multiple of another."""
_FORMULAS = Extract(MARKED, Prose(), LastFormula(), Whole())


@dataclass(frozen=True)
class Math(Comparator):
    r"""1.0 when the answer is mathematically equal to the ground truth, else 0.0, by math-verify.

    Good for fractions, roots, intervals, sets, matrices and expressions, with or without delimiters (`$x^2$`, `x²`).
    The answer is what stands in the last box, after `####` or "the answer is", and so on. Without them, it is the last
    formula. `x = 5` is 5, and an inequality is its interval. A percent sign is a unit: 10 % is 10, and not 0.1.
    "12 or 13" is the set of both.

    The ground truth is a number or a text with an expression. A list holds several that are right. A ground truth in
    words ("even") is compared as words.

    math-verify runs in up to 4 processes of its own. They start on use, serve all threads, and end with this process.
    Small texts (towers of powers) may take hours, so an expression that takes too long ends its process. Such an answer
    is wrong, 0.0, since a policy could otherwise escape a bad score by it. Such a ground truth cannot be judged, None.
    The limit is of processor time, so that a busy machine does not matter. POSIX only.

    Raises:
        ConfigurationError: A limit is not positive. Or, when first used: math-verify is not installed.
    """

    max_characters: int = 2_000
    """Longest expression that is compared. A longer answer is wrong."""
    timeout_seconds: float = 2.0
    """Limit of processor time, for the answer and for the ground truth."""

    def __post_init__(self) -> None:
        check_number("max_characters", self.max_characters, low=1, whole=True)
        check_seconds("timeout_seconds", self.timeout_seconds, 3_600)

    def _extractor(self) -> Extractor:
        return _FORMULAS

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0. None if the ground truth gives no expression, or none in time."""
        reference = reference_of(ground_truth)
        golds = [_read_gold(gold) for gold in (reference if isinstance(reference, list | tuple) else [reference])]
        as_words, as_formula = itertools.tee(answers)
        words = {words for words, _ in golds if words}
        if words and settled_words(as_words) in words:
            return 1.0
        answer = settled_formula(as_formula)
        answer = answer if len(answer) <= self.max_characters else ""
        verdicts = {_is_equal(latex, answer, self.timeout_seconds) for _, latex in golds if latex}
        return 1.0 if True in verdicts else 0.0 if words or False in verdicts else None


MathVerify = Math
"""The name of `Math` in earlier releases."""


def _read_gold(gold: JSON) -> tuple[str, str]:
    """Return the words or the formula of a ground truth: one of the two is "", or both."""
    if isinstance(gold, str):
        return _read_text(gold)
    if not is_number(gold, Decimal | numbers.Real):
        return "", ""
    return "", str(gold) if isinstance(gold, numbers.Rational) else format(Decimal(str(gold)), "f")


@functools.lru_cache(1_024)  # a group of rollouts has one ground truth
def _read_text(gold: str) -> tuple[str, str]:
    words = settled_words(itertools.islice(_FORMULAS.answers(gold), 1))
    formula = settled_formula(_FORMULAS.answers(gold))
    return words, formula if not words or formula in SETS_IN_WORDS else ""


def _is_equal(gold: str, answer: str, seconds: float) -> bool | None:
    kinds = _kinds(gold), _kinds(answer)
    if any(one and other and one != other for one, other in zip(*kinds, strict=True)):
        return False
    verdict = _math_worker.is_equal(gold, answer, seconds)
    sides = answer.split("=")
    if verdict and len(sides) > 1 and all(map(_ARITHMETIC.fullmatch, sides)):  # "2 + 2 = 5" is not 5
        return all(_math_worker.is_equal(*pair, seconds) is not False for pair in itertools.pairwise(sides))
    return verdict


def _kinds(latex: str) -> tuple[str, str]:
    """Return whether a formula is a set or has an order, and its unit. Each is "" if the formula does not say."""
    plain = latex.replace(r"\left", "").replace(r"\right", "").strip()
    brackets = "set" if _SET.fullmatch(plain) else "ordered" if _ORDERED.fullmatch(plain) else ""
    unit = _UNIT.search(plain)
    return brackets, unit[1] if unit else ""
