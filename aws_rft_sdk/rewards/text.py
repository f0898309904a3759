"""Rewards for answers that are compared as text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_names
from aws_rft_sdk.rewards._hedges import (
    DOUBT_BEFORE,
    GAP,
    JOINED,
    WORD_FOLLOWS,
    find_answer,
    joined_before,
    list_pattern,
)
from aws_rft_sdk.rewards.extract import reference_of
from aws_rft_sdk.rewards.rollout import TextReward

_SPACE = re.compile(r"\s+")
_LATEX_TEXT = re.compile(r"\\(?:text(?:bf|rm)?|mathrm|mathbf)\s?\{")
_BOXED_REST = re.compile(r"([^{}]*)\}[\s}$.*\])\\]*")
"""What follows the marker `\\boxed{`: the answer, the closing braces, and nothing else."""
_LISTED_TEXT = list_pattern(r"\w")
_EDGES = " \t\n*_`'\".,;:!\u2018\u2019\u201c\u201d\u00ab\u00bb"


def _plain(text: str) -> str:
    """Return a text as it is compared: Unicode in one form, no capitals, single spaces, no marks around it."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip(_EDGES)


def _references(ground_truth: JSON) -> tuple[str, ...]:
    reference = reference_of(ground_truth)
    if isinstance(reference, str):
        return (reference,)
    if isinstance(reference, Sequence):
        return tuple(item for item in reference if isinstance(item, str))
    return () if reference is None or isinstance(reference, bool) else (str(reference),)


@dataclass(frozen=True)
class ExactMatch(TextReward):
    """1.0 when the answer is the ground truth, or one of several, else 0.0.

    Unless `strict`, texts are compared without capitals, surplus spaces, marks around them (quotes, emphasis, full
    stop) and differences of Unicode form; an answer that is marked (`#### x`, "the answer is x") is compared without
    the rest.

    Example:
        >>> ExactMatch().score("The answer is **Paris**.", ["Paris", "City of Paris"])
        1.0
    """

    strict: bool = False
    """Compare the whole answer character by character."""

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0; None when the ground truth is not a text, a number, or a list with a text."""
        references = _references(ground_truth)
        if not references:
            return None
        if self.strict:
            return float(answer_text in references)
        answer = find_answer(answer_text)
        marked = answer.text if answer else ""
        boxed = _BOXED_REST.fullmatch(_LATEX_TEXT.sub("", marked))
        given = {_plain(answer_text), _plain(marked), _plain(boxed[1] if boxed else "")} - {""}
        joined = _plain(joined_before(answer, _LISTED_TEXT))
        # "\\boxed{Rome} or \\boxed{Paris}": the last marker counts, but not as one of a list.
        return float(
            any((plain := _plain(reference)) in given and plain in (joined or plain) for reference in references)
        )


@dataclass(frozen=True)
class MultipleChoice(TextReward):
    r"""1.0 when the answer names the right choice, else 0.0.

    The choice stands after the last marker (`#### B`, `\boxed{B}`, "answer is (B)", `Answer: B`), or is the last line
    that begins with it ("B", "(B)", "B. Paris"). Naming two ("A or B", "A, B", "B, or maybe C") is wrong.

    Raises:
        ConfigurationError: There are not at least two choices, or one is not a single letter.

    Example:
        >>> MultipleChoice().score("So the answer is (b) Paris.", "B")
        1.0
        >>> MultipleChoice().score("A or B", "B")
        0.0
    """

    choices: str = "ABCDEFGHIJ"
    """The letters that may be named."""

    def __post_init__(self) -> None:
        if not isinstance(self.choices, str):
            raise ConfigurationError(f"choices must be a text of letters, not {self.choices!r:.80}")
        if len(set(self.choices.upper())) < 2 or not self.choices.isalpha() or not self.choices.isascii():
            raise ConfigurationError(f"choices must be at least two letters, not {self.choices!r}")

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0; None when the ground truth names no choice."""
        reference = reference_of(ground_truth)
        right = self._named(reference) if isinstance(reference, str) else None
        if right is None:
            return None
        answer = find_answer(answer_text, re.compile(rf"(?<![\w'])[{self.choices}](?!\w)", re.IGNORECASE))
        if answer is not None:
            joined = self._named(joined_before(answer, _LISTED_LETTER))
            return float(self._named(answer.text) == right and joined in (None, right))
        lines = [line for line in answer_text[-2_000:].splitlines() if line.strip()]
        is_list = len(lines) > 1 and bool(_ONLY_LETTER.fullmatch(lines[-2])) and self._named(lines[-2]) != right
        return float(bool(lines) and not is_list and self._named(lines[-1]) == right)

    def _named(self, line: str) -> str | None:
        letters = self.choices.upper() + self.choices.lower()
        line = _LATEX_TEXT.sub("", line[:1_000])
        found = re.match(
            rf"[\s*_`\"'\[({{]{{0,9}}(?:(?:option|choice|letter)\s)?[\s*_`\"'(]{{0,3}}([{letters}])(?!\w)",
            line,
            re.IGNORECASE,
        )
        if found is None:
            return None
        rest = _RULED_OUT.sub(" ", line[found.end() :])
        # "A man walks" is a sentence that begins with an article.
        if _NOUN_FOLLOWS.match(rest) and found[0].strip() in ("A", "a", "I", "i") and not JOINED.match(rest.strip()):
            return None
        for other in re.finditer(rf"(?<![\w'])[{letters}](?![\w'])(?P<goes_on>{WORD_FOLLOWS})?", rest):
            if other[0][0].upper() != found[1].upper() and _is_one_more(rest[: other.start()], other):
                return None
        return found[1].upper()


_RULED_OUT = re.compile(
    r"(?<=[.:;(])\s*[A-J](?:(?:,|,? and|,? or) [A-J])* (?:is|are)(?: both| all)? (?:wrong|incorrect|false|not\b|too\b)",
)
_NOUN_FOLLOWS = re.compile(r" (?!(?:is|because|since|as|for|which)\b)[a-z]")
_ONLY_LETTER = re.compile(r"\W*[A-Za-z]\W*")
_LISTED_LETTER = list_pattern(r"\b[A-Z]")
_ONLY_GAP = re.compile(GAP, re.IGNORECASE)


def _is_one_more(gap: str, other: re.Match[str]) -> bool:
    """Say whether a letter after the choice names another one, which "B, a city" and "B. vitamin C" do not."""
    if other["goes_on"]:
        return bool(_ONLY_GAP.fullmatch(gap) and JOINED.search(gap)) and other[0][0] not in "AaIi"
    if other[0].islower() and not JOINED.search(gap) and not re.search(r"[,;/|&]", gap):
        return False
    return bool(_ONLY_GAP.fullmatch(gap) or DOUBT_BEFORE.search(gap[-60:]))


@dataclass(frozen=True)
class KeywordCoverage(TextReward):
    """The share of the keywords that occur in the answer as whole words, from 0.0 to 1.0.

    A measure of coverage, not of truth: an answer that lists words gets it too. Use it as a small part of a sum.

    Example:
        >>> KeywordCoverage().score("Paris lies on the Seine.", ["Seine", "Paris", "Louvre", "bridge"])
        0.5
    """

    keywords: tuple[str, ...] = ()
    """What to look for; empty to take the ground truth, which is then a text or a list of them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", check_names("keywords", self.keywords))

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the share; None when there are no keywords."""
        wanted = {_plain(word) for word in self.keywords or _references(ground_truth)} - {""}
        if not wanted:
            return None
        text = _plain(answer_text)
        return sum(bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)) for word in wanted) / len(wanted)
