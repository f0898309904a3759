"""Rewards for mathematical expressions, by the math-verify library (the extra `rewards`), which is imported on use."""

from __future__ import annotations

import functools
import importlib.util
import numbers
import re
from dataclasses import dataclass
from decimal import Decimal

from aws_rft_sdk._checks import check_number, check_seconds
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import _math_worker
from aws_rft_sdk.rewards._regions import answer_region
from aws_rft_sdk.rewards.extract import reference_of
from aws_rft_sdk.rewards.rollout import TextReward

_DELIMITER = re.compile(r"\$|\\boxed|\\\[|\\\(")
_FORMULA = re.compile(r"[\\^_{}()\[\]=<>]")
_WORD = re.compile(r"(?<!\\)\b(?:no|(?!and\b)[A-Za-z]{3,})\b")
_EDGES = " \t\r\n*`.,;"
_MAX_SECONDS = 3_600


@dataclass(frozen=True)
class MathVerify(TextReward):
    """1.0 when the answer is mathematically equal to the ground truth, else 0.0, by math-verify.

    Good for symbolic mathematics: fractions, roots, intervals, sets, expressions, with or without delimiters (`$x^2$`,
    `x^2`) as long as there are no words among them. Too lenient for figures with percent signs and not made for yes and
    no: use `ExactNumber` or `FinQA` there.

    math-verify runs in processes of its own, up to 4, which are started on use, serve all threads of this process, and
    end with it. An expression that takes too long ends its process: small texts (towers of powers, sums of many
    symbols) may take hours. An answer for which that happens is wrong, 0.0, since a policy could otherwise escape a bad
    score by it. A ground truth for which it happens cannot be judged, None, and neither can anything when the machine
    gives no processor time. Only the end of the answer is looked at. POSIX only.

    The limit makes the result depend on the machine for expressions that are close to it. It is of processor time, so
    that a busy machine does not matter.

    Raises:
        ConfigurationError: A limit is not positive; math-verify is not installed or cannot be started (when it is first
            used).
    """

    max_characters: int = 2_000
    """How much of the end of the answer is looked at."""
    timeout_seconds: float = 2.0
    """Limit of processor time, for the answer and for the ground truth."""

    def __post_init__(self) -> None:
        check_number("max_characters", self.max_characters, low=1, whole=True)
        check_seconds("timeout_seconds", self.timeout_seconds, _MAX_SECONDS)

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0; None when the ground truth gives no expression, or none in time."""
        reference = reference_of(ground_truth)
        if isinstance(reference, bool) or not isinstance(reference, str | Decimal | numbers.Real):
            return None
        _check_installed()
        answer = _expression(answer_text, self.max_characters)
        try:
            equal = _math_worker.is_equal(_gold(reference), _delimited(answer), self.timeout_seconds)
        except _math_worker.WorkerStartError as error:
            raise ConfigurationError("no process with math-verify could be started") from error
        return None if equal is None else float(equal)


def _gold(reference: str | Decimal | numbers.Real) -> str:
    """Return a ground truth as math-verify reads it, a number without an exponent."""
    if not isinstance(reference, str):
        return str(reference) if isinstance(reference, numbers.Rational) else format(Decimal(str(reference)), "f")
    text = _expression(reference, None)
    return f"${text}$" if not _DELIMITER.search(text) and _FORMULA.search(text) else _delimited(text)


def _delimited(text: str) -> str:
    """Return a formula with the delimiters that datasets and policies leave out, without which `2x + 3` reads as 2."""
    return text if _DELIMITER.search(text) or _WORD.search(text) else f"${text.strip(_EDGES)}$"


def _expression(text: str, limit: int | None) -> str:
    """Return what math-verify should read: the line after `####` or `A:`, which it does not know, else the text."""
    text = text[-limit:] if limit else text
    region = answer_region(text)
    return region if region is not None and "\\boxed" not in text else text


@functools.cache
def _check_installed() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigurationError("MathVerify needs math-verify: pip install 'aws-rft-sdk[rewards]'")
