"""Rewards for answers that are compared as text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.rewards._checks import check_names
from aws_rft_sdk.rewards._settling import Candidate, settle
from aws_rft_sdk.rewards._visible import visible_text
from aws_rft_sdk.rewards.extract import STANDARD, Answer, Comparator, Extractor, Whole, reference_of
from aws_rft_sdk.rewards.rollout import TextReward

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese. For a class of `re`."""
_NO_WORD_EDGES = UNSPACED + "\uac00-\ud7af"  # Korean writes particles onto its words

_MARKUP = re.compile(r"\\(?:text\w{0,8}|math\w{1,8}|emph|mbox)\s?(?=\{)|\\[,;:! ]|\\(?=[&%$#_()\[\]])|[{}]")
_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\uff07", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", None),
    }
)
_ACCENTS = re.compile("(?<=[A-Za-z])[\u0300-\u036f]+")
_BEFORE = " *_`'\"$,;:!?([\u00bf\u00a1\u00ab\u00bb\u300a\u300c\u300e"
_AFTER = " *_`'\"$,;:!?.)]\u00ab\u00bb\u3001\u3002\u300b\u300d\u300f"
_INITIAL = re.compile(r"(?<=\b[a-z])\.(?=[a-z]\b)")  # U.S.A. is USA
_ARTICLE = re.compile(r"(?:an?|the) (?=\S)")


def fold(text: str) -> str:
    """Return a text as it is compared: no capitals, accents, LaTeX or invisible characters, single spaces."""
    text = _MARKUP.sub("", text)
    if not text.isascii():
        accented = unicodedata.normalize("NFKD", text.translate(_SAME))
        text = unicodedata.normalize("NFKC", _ACCENTS.sub("", accented))
    return " ".join(text.casefold().split())


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """Return a folded text without an article before it and marks around it."""
    return _INITIAL.sub("", _ARTICLE.sub("", fold(text).lstrip(_BEFORE).rstrip(_AFTER), count=1))


def references_of(ground_truth: JSON) -> tuple[str, ...]:
    """Return the texts that are right. Empty if the ground truth is of no use."""
    reference = reference_of(ground_truth)
    items = reference if isinstance(reference, Sequence) and not isinstance(reference, str) else (reference,)
    return tuple(text for item in items for text in _spellings(item))


def _spellings(reference: JSON) -> tuple[str, ...]:
    if isinstance(reference, bool):
        return ("true", "yes") if reference else ("false", "no")
    if isinstance(reference, float) and reference.is_integer():
        return str(reference), str(int(reference))
    return (str(reference),) if isinstance(reference, str | int | float) else ()


LATEX = r"\\[(\[]|\\[a-z]{1,10}(?:\s?\{|\s)"
FILLER_WORDS = (
    r"(?i:\b(?:the|my|our|final|only|correct|right|best|most|very|answer|option|choice|statement|letter|is|it|that|"
    r"(?:it|that)['\u2019]s|i think|i believe|i['\u2019]d say|(?:must|would|should) be|of course|clearly|definitely|"
    r"obviously|certainly|surely|simply|undoubtedly|evidently|presumably|apparently|"
    r"almost|indeed|actually|probably|likely)\b)"
)
"""What says nothing before an answer. No two begin alike, so that repeating them tries no text in many ways."""
_LEAD = re.compile(rf"(?:[\s*_`'\"\u2018\u201c\u201e#>\u2022,:=\uff1a(\[{{$]|-(?=\s)|{LATEX}|{FILLER_WORDS}){{0,16}}")
_EXPLAINS = (
    r",? (?:because|since|not)\b|[,;] (?:as|which|who|where)\b"
    r"|\sis (?:correct|the (?:(?:correct|right|final) )?answer)\b"
    r"|\s?[,:;\u2013\u2014-] (?=(?:the|an?) [\w ]{1,40} (?:of|in|from|that|which|who|where)\b)"
)
_EXPLAINED = re.compile(_EXPLAINS, re.IGNORECASE)
_CUT = re.compile(
    rf"(?=[\s.!?,:;\u2013\u2014\u3002\uff01\uff1f(\uff08<}}-])"
    rf"(?:\s*[.!?](?=\s|$)|\s*[\u3002\uff01\uff1f\n(\uff08<}}]|{_EXPLAINS})",
    re.IGNORECASE,
)
"""Where an answer may end and words about it begin."""
_ROOM = 200  # how many characters of marks and markup an answer may have beside its text
_REMARK = re.compile(
    r"\s*[(\uff08](?!\s*(?:or|and|maybe|perhaps|possibly|also)\b)[^()\uff08\uff09\n]{0,200}[)\uff09]", re.IGNORECASE
)
_OR = r"(?:or|maybe|perhaps|possibly|alternatively)\b"
_SENTENCE = (
    r"(?:so|this|that|it|i|we|done|end|hope|thanks?|the \w+ (?:of|in))\b"
    r"|[^\n]*\b(?:is|are|was|were|has|makes?|fits)\b"
)
_JOINED = re.compile(
    rf"(?:</\w{{1,20}}>)?[\s()\]}}*_`'\"$]*(?:[,;/|&]|->|=>|\u2192|\\text\s?\{{)?\s*(?:\b(?:and\b|{_OR})|[,;/|&]\s)"
    rf"|[\s.!?)]*{_OR}|[ \t*_`'\"$}})\]]*\n(?!\s|{_SENTENCE})[^\n.!?:]{{1,40}}\.?\s*(?:\n|\Z)",
    re.IGNORECASE,
)
"""What joins a second answer to one that stands before. Also a line that is no sentence."""
_NO_NAME = re.compile(r"(?:no|wait|it|that|i|the answer)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Text(Comparator):
    """1.0 if the answer is the ground truth, or one of several, else 0.0.

    Capitals, accents, an article at the beginning, marks around the text (quotes, emphasis, LaTeX, punctuation) and
    Unicode forms do not matter, nor does a remark: "Paris (France)", "Paris. It lies on the Seine." An answer that
    names several is wrong. "Paris, France" is not "Paris": list both if both are right.

    Example:
        >>> Text().score("The answer is **Paris**.", ["Paris", "City of Paris"])
        1.0
        >>> Text().score("Paris or Rome", "Paris")
        0.0
    """

    strict: bool = False
    """Compare the whole answer character by character."""

    def _extractor(self) -> Extractor:
        return Whole() if self.strict else STANDARD

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0. None if the ground truth is empty, or no text, number or boolean, and no list with one."""
        references = [text for text in references_of(ground_truth) if text.strip()]
        if not references:
            return None
        if self.strict:
            return float(next(answers, Answer.of("")).text in references)
        right = frozenset(map(_plain, references)) - {""}
        return float(settle(answers, partial(_read, right), hedges=_joins_another) in right)


ExactMatch = Text


def _read(right: frozenset[str], text: str) -> Candidate | None:
    """Return the longest beginning of a text that is right, or else what stands before the first cut."""
    longest = _ROOM + 8 * max(map(len, right), default=0)
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    cuts = [cut.start() for cut in islice(_CUT.finditer(text, start, start + longest), 16)]
    folded = fold(text[: start + longest])
    for end in (len(text), *reversed(cuts)) if any(each in folded for each in right) else ():
        for begin in (0, start):
            if end - begin <= longest and (value := _plain(text[begin:end])) in right:
                remark = _REMARK.match(text, end)
                return Candidate(value, 0, remark.end() if remark else end)
    end = cuts[0] if cuts else len(text)
    value = _plain(text[start:end]) if end - start <= _ROOM else ""
    is_name = 0 < len(value.split()) <= 5 and not _NO_NAME.match(text)  # of more words it is a sentence
    return Candidate(value, 0, end) if is_name else None


def _joins_another(value: object, rest: str) -> bool:
    return not _EXPLAINED.match(rest) and _JOINED.match(rest) is not None


_TOKEN = re.compile(rf"[{_NO_WORD_EDGES}]|[^\W{_NO_WORD_EDGES}]+")


@dataclass(frozen=True)
class F1(Comparator):
    """The overlap of the words of the answer and of the ground truth, from 0.0 to 1.0, as for SQuAD.

    F1 = 2 * precision * recall / (precision + recall) over words, without capitals, accents, punctuation, articles. Of
    several ground truths the best counts. Scripts without spaces are compared character by character. An answer that is
    taken back afterwards ("No.", "Actually, Rome") gets nothing.

    Example:
        >>> F1().score("The answer is the city of Paris.", ["Paris", "Paris, France"])
        0.5
    """

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return the best F1. None if the ground truth is no text, number or boolean, and no list with one."""
        references = references_of(ground_truth)
        given = _tokens(str(settle(answers, _everything, hedges=_joins_another) or ""))
        return max((_overlap(given, _tokens(reference)) for reference in references), default=None)


def _everything(text: str) -> Candidate:
    return Candidate(text, 0, len(text))


def _tokens(text: str) -> Counter[str]:
    return Counter(token for token in _TOKEN.findall(fold(text)) if token not in ("a", "an", "the"))


def _overlap(given: Counter[str], right: Counter[str]) -> float:
    if not given or not right:
        return float(given == right)
    return 2 * (given & right).total() / (given.total() + right.total())


@dataclass(frozen=True)
class KeywordCoverage(TextReward):
    """The share of the keywords that occur in the answer as whole words, from 0.0 to 1.0.

    A plural ("rivers" for river), the singular of a keyword without capitals ("river" for rivers), and a possessive
    ("Bob's") count. "C" does not stand in "C++", nor "net" in ".NET". Scripts without spaces have no word boundaries.
    "not Paris" covers Paris, and an answer that lists words gets all of them: use it as a small part of a sum.

    Example:
        >>> KeywordCoverage().score("Paris lies on the Seine.", ["Seine", "Paris", "Louvre", "bridge"])
        0.5
    """

    keywords: tuple[str, ...] = ()
    """What to look for. Empty to take the ground truth, which is then a text or a list of them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", check_names("keywords", self.keywords))

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the share. None if there are no keywords."""
        wanted = _patterns(self.keywords or references_of(ground_truth))
        if not wanted:
            return None
        text = fold(visible_text(answer_text))
        return sum(pattern.search(text) is not None for pattern in wanted) / len(wanted)


@lru_cache(maxsize=1024)
def _patterns(words: tuple[str, ...]) -> list[re.Pattern[str]]:
    wanted = {fold(word).strip(" *_`'\",;:!?"): word.islower() for word in words}
    return [_as_pattern(word, is_common) for word, is_common in wanted.items() if word]


_PLURAL = re.compile(r"(?:(?<=[a-z]{2}[^aeiou])ie|(?<=[a-z][osxz])e|(?<=[cs]h)e|(?<=[a-z]{2}[a-hj-rtv-z]))s$")
_NO_PLURAL = re.compile(r"\b(?:news?|goods?|(?:econom|polit|phys)ics?)$")
"""With and without the last letter they are two words."""


def _as_pattern(word: str, is_common: bool) -> re.Pattern[str]:
    edge = rf"[^\W{_NO_WORD_EDGES}]"
    before = r"(?<!\w)" if word.startswith(".") else ""
    if re.match(edge, word):
        before = rf"(?<!{edge})(?<!\d[.,])(?<!(?<!\w)\.)"
    stem, plural = word, ""
    if not _NO_PLURAL.search(word):
        stem = _PLURAL.sub(lambda ending: "y" if ending[0] == "ies" else "", word) if is_common else word
        if re.search(r"[^aeiou]y$", stem):
            stem, plural = stem[:-1], "(?:y|ies?)"
        elif re.search(r"[a-z]{3}$", stem):
            plural = "(?:es?)?" if re.search(r"(?:[sxzo]|[cs]h)$", stem) else "s?"
    escaped = re.sub(r"\\[ -]", "[ -]", re.escape(stem)) + plural
    if not re.search(rf"{edge}$", word):
        return re.compile(f"{before}{escaped}(?!{re.escape(word[-1])})")
    return re.compile(rf"{before}{escaped}(?:'s?(?!{edge}))?(?!{edge}|'[a-z]|[+#]|[.,]?\d)")
