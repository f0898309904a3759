"""Rewards for mathematical expressions, by the math-verify library (the extra `rewards`), which is imported on use."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from aws_rft_sdk._checks import check_number, check_seconds
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import _math_worker
from aws_rft_sdk.rewards._formulas import LastFormula, settled_formula, settled_words
from aws_rft_sdk.rewards.extract import MARKED, Answer, Comparator, Extract, Prose, Whole, reference_of

_MAX_SECONDS = 3_600


@dataclass(frozen=True)
class Math(Comparator):
    r"""1.0 when the answer is mathematically equal to the ground truth, else 0.0, by math-verify.

    Good for symbolic mathematics: fractions, roots, intervals, sets, matrices, expressions, with or without delimiters
    (`$x^2$`, `x²`). The answer is what stands in the last box, after `####` or "the answer is", and so on. Without
    them, it is the last formula. `x = 5` is 5, and an inequality is its interval. A percent sign is a unit: 10 % is 10,
    and not 0.1. "12 or 13" is the set of both.

    The ground truth is a number or a text with an expression. A list holds several that are right. A ground truth in
    words ("even") is compared as words.

    math-verify runs in processes of its own, up to 4, which are started on use, serve all threads of this process, and
    end with it. An expression that takes too long ends its process: small texts (towers of powers, sums of many
    symbols) may take hours. An answer for which that happens is wrong, 0.0, since a policy could otherwise escape a bad
    score by it. A ground truth for which it happens cannot be judged, None, and neither can anything when the machine
    gives no processor time. POSIX only.

    The limit makes the result depend on the machine for expressions that are close to it. It is of processor time, so
    that a busy machine does not matter.

    Raises:
        ConfigurationError: A limit is not positive; math-verify is not installed or cannot be started (when it is first
            used).
    """

    max_characters: int = 2_000
    """Longest expression that is compared. A longer answer is wrong."""
    timeout_seconds: float = 2.0
    """Limit of processor time, for the answer and for the ground truth."""

    extract = Extract(MARKED, Prose(), LastFormula(), Whole())

    def __post_init__(self) -> None:
        check_number("max_characters", self.max_characters, low=1, whole=True)
        check_seconds("timeout_seconds", self.timeout_seconds, _MAX_SECONDS)

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0. None if the ground truth gives no expression, or none in time."""
        reference = reference_of(ground_truth)
        golds = [_read_gold(gold) for gold in (reference if isinstance(reference, list | tuple) else [reference])]
        _check_installed()
        as_words, as_formula = itertools.tee(answers)
        words = {gold.words for gold in golds if gold.words}
        if words and settled_words(as_words) in words:
            return 1.0
        answer = settled_formula(as_formula)
        answer = answer if len(answer) <= self.max_characters else ""
        try:
            verdicts = {_math_worker.is_equal(gold.latex, answer, self.timeout_seconds) for gold in golds if gold.latex}
        except _math_worker.WorkerStartError as error:
            raise ConfigurationError("no process with math-verify could be started") from error
        return 1.0 if True in verdicts else 0.0 if words or False in verdicts else None


MathVerify = Math
"""The name of `Math` in earlier releases."""


class _Gold(NamedTuple):
    """One of the two, or none of them if the ground truth is of no use."""

    words: str = ""
    latex: str = ""


def _read_gold(gold: JSON) -> _Gold:
    if isinstance(gold, str):
        return _read_text(gold)
    if isinstance(gold, bool) or not isinstance(gold, Decimal | numbers.Real):
        return _Gold()
    if isinstance(gold, numbers.Rational):
        return _Gold(latex=str(gold))
    return _Gold(latex=format(Decimal(str(gold)), "f") if math.isfinite(gold) else "")


@functools.lru_cache(1_024)  # a group of rollouts has one ground truth
def _read_text(gold: str) -> _Gold:
    words = settled_words(itertools.islice(Math.extract.answers(gold), 1))
    return _Gold(words=words) if words else _Gold(latex=settled_formula(Math.extract.answers(gold)))


@functools.cache
def _check_installed() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigurationError("MathVerify needs math-verify: pip install 'aws-rft-sdk[rewards]'")
