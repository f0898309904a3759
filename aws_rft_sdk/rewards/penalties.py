"""Penalties: 0.0 for an answer without the fault, down to -1.0. Parts of a sum, not rewards of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.rollout import TextReward
from aws_rft_sdk.rewards.text import UNSPACED

_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
# No word has 25 characters ("aaaa...", "1111..."). Punctuation counts in long runs only ("!!!!...", ". . . .").
_SPACED = rf"[^\W{UNSPACED}]{{1,24}}(?!\w)|\w|[^\w\s](?=(?:\s?[^\w\s]){{31}})"
_ASCII_TOKEN = re.compile(_SPACED, re.ASCII)
_TOKEN = re.compile(rf"(?=([{UNSPACED}]{{1,4}}))[{UNSPACED}]|{_SPACED}")  # four characters are two words of Chinese


@dataclass(frozen=True)
class Length(TextReward):
    """0.0 up to `soft`, falling in a straight line to -1.0 at `hard`, -1.0 beyond.

    The soft overlong punishment of DAPO (Yu et al. 2025, equation 13), in characters or words instead of tokens.
    In scripts without spaces (Chinese, Japanese, Thai), each character is a word.

    Raises:
        ConfigurationError: Not 0 <= soft < hard, or one is no whole number.

    Example:
        >>> Length(soft=10, hard=20).score("x" * 15)
        -0.5
    """

    soft: int
    hard: int
    unit: Literal["characters", "words"] = "characters"

    def __post_init__(self) -> None:
        check_number("soft", self.soft, low=0, whole=True)
        check_number("hard", self.hard, low=0, whole=True)
        if not self.soft < self.hard:
            raise ConfigurationError(f"soft must be less than hard, not {self.soft} and {self.hard}")
        if self.unit not in ("characters", "words"):
            raise ConfigurationError(f"unit must be 'characters' or 'words', not {self.unit!r}")

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return the penalty. The ground truth is not looked at."""
        length = len(answer_text) if self.unit == "characters" else sum(1 for _ in _WORD.finditer(answer_text))
        excess = min(max(length - self.soft, 0), self.hard - self.soft)
        return -excess / (self.hard - self.soft) if excess else 0.0


@dataclass(frozen=True)
class Repetition(TextReward):
    """The share of word sequences that were there before, times -1: 0.0 without repetition, towards -1.0.

    -(1 - distinct n-grams / n-grams), the repetition penalty of Yeo et al. 2025. In scripts without spaces (Chinese,
    Japanese, Thai), four characters in a row are a word. Each character counts as a word in runs of more than 24
    letters or digits, and of more than 31 punctuation marks.

    Raises:
        ConfigurationError: n is no whole number of at least 1.

    Example:
        >>> Repetition(n=2).score("to be or not to be")
        -0.2
    """

    n: int = 3
    """How many words make a sequence."""

    def __post_init__(self) -> None:
        check_number("n", self.n, low=1, whole=True)

    def score(self, answer_text: str, ground_truth: JSON = None) -> float | None:
        """Return the penalty. The ground truth is not looked at."""
        text = answer_text.lower()
        is_ascii = text.isascii()  # then quicker
        words = _ASCII_TOKEN.findall(text) if is_ascii else [found[1] or found[0] for found in _TOKEN.finditer(text)]
        total = len(words) - self.n + 1
        if total < 1:
            return 0.0
        distinct = len(set(zip(*(words[start:] for start in range(self.n)), strict=False)))
        return (distinct - total) / total if distinct < total else 0.0
