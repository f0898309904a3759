"""Rewards for mathematical expressions, by the math-verify library (the extra `rewards`), which is imported on use."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._numbers import answer_region, reference_of
from aws_rft_sdk.rewards.rollout import TextReward

_FORMULA = re.compile(r"[\\^_{}()\[\]=<>]")
_TOO_HARD = re.compile(
    r"(?:\^|\*\*)[^\n]{0,12}(?:\^|\*\*)|(?:\^|\*\*)\s?[({]?\s?[0-9]{4}|[0-9]{60}|[0-9)]\s?!"
    r"|[)\]}]\s?(?:\^|\*\*)\s?[({]?\s?(?:[2-9][0-9]|[0-9]{3})"
)
"""Towers of powers, exponents from 1,000, of brackets from 20, very long integers, factorials: small texts that take
seconds to hours to evaluate. They are compared as text. No pattern finds all of them: give untrusted answers a process
that may be killed."""


@dataclass(frozen=True)
class MathVerify(TextReward):
    """1.0 when the answer is mathematically equal to the ground truth, else 0.0, by math-verify.

    Good for symbolic mathematics: fractions, roots, intervals, sets, expressions. Too lenient for figures with percent
    signs and not made for yes and no: use `ExactNumber` or `FinQA` there.

    Works in any thread: math-verify's own time limit uses a signal, which only the main thread can, so it is off.
    Instead only the end of the text is looked at, and expressions that explode (towers of powers, factorials) are
    wrong. What else is slow is not interrupted.

    Raises:
        ConfigurationError: math-verify is not installed (when it is first used).
    """

    max_characters: int = 2_000
    """How much of the end of the answer is looked at."""

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0; None when the ground truth gives no expression."""
        reference = reference_of(ground_truth)
        if reference is None or isinstance(reference, bool) or not isinstance(reference, str | int | float):
            return None
        parse, verify = _library()
        gold = parse(_gold(str(reference)), parsing_timeout=None)
        if not gold:
            return None
        answer = _expression(answer_text, self.max_characters)
        if _TOO_HARD.search(answer):
            return float(answer.strip() in (_gold(str(reference)).strip(), str(reference).strip()))
        # The order matters: verify(gold, answer) is not symmetric.
        return float(verify(gold, parse(answer, parsing_timeout=None), timeout_seconds=None))


def _gold(reference: str) -> str:
    """Return a ground truth as math-verify reads it: formulas need delimiters, which datasets leave out."""
    text = _expression(reference, None)
    is_bare = "$" not in text and "\\boxed" not in text and "\\[" not in text and "\\(" not in text
    return f"${text}$" if is_bare and _FORMULA.search(text) else text


def _expression(text: str, limit: int | None) -> str:
    """Return what math-verify should read: the line after `####` or `A:`, which it does not know, else the text."""
    text = text[-limit:] if limit else text
    region = answer_region(text)
    return region if region is not None and "\\boxed" not in text else text


@functools.cache
def _library() -> tuple[Callable[..., list[Any]], Callable[..., bool]]:
    try:
        library = importlib.import_module("math_verify")
    except ModuleNotFoundError as error:
        raise ConfigurationError("MathVerify needs math-verify: pip install 'aws-rft-sdk[rewards]'") from error
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).addFilter(_without_timeout_notice)
    return library.parse, library.verify


def _without_timeout_notice(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Timeout is disabled")
