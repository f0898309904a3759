"""Finds the formula or the words of an answer, and writes a formula as math-verify reads it."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from aws_rft_sdk.rewards._settling import Candidate, settle
from aws_rft_sdk.rewards.extract import Answer, Extractor

_CHARACTERS = 4_000  # how much of a text is searched for a formula

_CONNECTORS = r"(?<![A-Za-z])(?:or|and|maybe|perhaps)(?![A-Za-z])"
_FUNCTIONS = "[dt]?frac|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|infinity|infty"
_A_WORD = (
    rf"(?<![\\A-Za-z])(?!{_CONNECTORS}|(?:{_FUNCTIONS})(?![A-Za-z]))(?:[\u3040-\u30ff\u3400-\u9fff]+"
    r"|(?:[A-Za-z]{3,}|is|so|we|by|of|to|in|at|it|as|an|be|do|if|he|my|no|on|up|us)(?:['\u2019]t)?(?![A-Za-z]))"
)
_BREAK = re.compile(
    rf"\\begin\b.*\\end\s?\{{[^{{}}]*\}}|\\[a-z]+\*?(?:\s?\{{[^{{}}]*\}})?|(?P<line>\n)|(?P<word>{_A_WORD})",
    re.IGNORECASE | re.DOTALL,
)
"""Where a formula ends: at a word or a line. Commands of LaTeX are looked at first, with the words in their braces."""
_UNIT = re.compile(
    rf"(?<=[0-9}}\u03c0])\s?(?:{_A_WORD}|(?:km|cm|mm|m|ft|mi|in)(?:/(?:s|h|hr|min))?(?:\^?[23\u00b2\u00b3])?)"
    rf"(?:\s{_A_WORD})?(?=[\s.,;!)]*(?:$|{_CONNECTORS}))",
    re.IGNORECASE,
)
_DELIMITED = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$(?=\S)([^$\n]*[^\s$\\])\$(?![0-9])|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL
)
_JOINT = (
    rf"[\s*$)]{{0,9}}(?:\\text\s?\{{\s?)?(?:,|;|/|\||&|->|=>|\u2192|\\to\b)?(?:[\s,]{{0,9}}{_CONNECTORS}){{0,3}}\s?\}}?"
    r"(?:\\[,;: ]|\\q?quad\b|[\s*$(]){0,9}"
)
_BETWEEN_FORMULAS = re.compile(_JOINT)
_BETWEEN_BOXES = re.compile(rf"\}}{_JOINT}\\(?:boxed|fbox)\s?\{{")
_LEADING = re.compile(rf"(?:->|=>|\\approx\b|[\s*#`.,;:=\u2248\u2192\u21d2\u2234](?!(?<=\.)[0-9])|{_CONNECTORS})*")
_TRAILING = re.compile(rf"(?<![\s*`.,;:(])(?:[\s*`.,;:(]|{_CONNECTORS})*\Z")
_NAMED = re.compile(r"\$[a-zA-Z]\$ (?:is|are|equals|=)\s")
_SAYS_SOMETHING = re.compile(r"[0-9\\=^\u221a\u221e\u03c0\u00bc-\u00be\u2150-\u215e]")
_WORDY = re.compile(rf"\\text\s?\{{(?:([^{{}}]*[0-9][^{{}}]*)|[^{{}}]*({_CONNECTORS})[^{{}}]*)\}}")
"""Text that holds more than words: `\\text{5 apples}`, `\\text{ apples or }`."""
_MINUS = re.compile(r"(?<![A-Za-z])(?:minus|negative)\s+(?=[0-9\u221a\u03c0(])", re.IGNORECASE)
_SIMPLE_FRACTION = re.compile(r"(?<![\w}])\\?[dt]?frac\s?\{?([0-9]+)\}?\s?\{?([0-9]+)\}?")
_DENIED = re.compile(r"(?:(?:not|n['\u2019]t)(?: equal to| be| equal)?|(?:could|might) be)\s*\Z", re.IGNORECASE)


def _formulas(text: str) -> list[Candidate]:
    """Return the formulas of a text. Formulas between delimiters that a comma or "or" joins are one."""
    text = _MINUS.sub(lambda word: "-".ljust(len(word[0])), text)
    found: list[Candidate] = []
    for match in _DELIMITED.finditer(text):
        start, formula = match.start(), match[match.lastindex or 0]
        if _NAMED.match(text, start):
            continue
        if found and _BETWEEN_FORMULAS.fullmatch(text, found[-1].end, start):
            before = found.pop()
            formula, start = f"{before.value}{_connector(text[before.end : start])}{formula}", before.start
        found.append(Candidate(formula, start, match.end()))
    if not found:
        bare = _UNIT.sub(lambda unit: " " * len(unit[0]), text)
        breaks = [match for match in _BREAK.finditer(bare) if match.lastgroup]
        words = any(match["word"] for match in breaks)
        edges = [0, *(edge for match in breaks for edge in match.span()), len(bare)]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            start = _LEADING.match(bare, start, end).end()  # type: ignore[union-attr] # it matches nothing too
            formula = _TRAILING.sub("", bare[start:end])
            if (_SAYS_SOMETHING if words else re.compile(r"[\w\u2205\u221e]")).search(formula):
                unit = _UNIT.match(text, start + len(formula))
                found.append(Candidate(formula, start, unit.end() if unit else start + len(formula)))
    return [each for each in found if not _DENIED.search(text[max(0, each.start - 20) : each.start])]


def _connector(text: str) -> str:
    return " and " if "and" in text else ", "


@dataclass(frozen=True)
class _Formula:
    value: Fraction | str
    """1/2 and 0.5 are one value: who names both does not hedge."""
    text: str = field(compare=False)


SETS_IN_WORDS = {
    formula: re.compile(rf"[\s$*.]*(?:\\text[a-z]*\s?\{{\s*)?(?:{words})\s*\}}?[\s$*.]*", re.IGNORECASE)
    for formula, words in (
        (r"\emptyset", r"no (?:real )?solutions?|(?:the )?empty set"),
        (r"\mathbb{R}", r"(?:all|any|every|the set of(?: all)?) reals?(?: numbers?)?"),
    )
}
"""What a whole answer in words says of the solutions."""


def _first_formula(text: str) -> Candidate | None:
    text = text[:_CHARACTERS]
    for formula, words in SETS_IN_WORDS.items():
        if words.fullmatch(text):
            return Candidate(_Formula(formula, formula), 0, len(text))
    joined = _BETWEEN_BOXES.sub(lambda gap: _connector(gap[0]), text)
    found = Candidate(joined, 0, len(text)) if joined != text else next(iter(_formulas(text)), None)
    if found is None:
        return None
    formula = str(found.value)
    plain = _SIMPLE_FRACTION.sub(r"\1/\2", formula.strip(" $"))
    is_number = re.fullmatch(r"-?[0-9]{0,40}\.?[0-9]{1,40}|-?[0-9]{1,40}/0*[1-9][0-9]{0,40}", plain)
    return found._replace(value=_Formula(Fraction(plain) if is_number else formula, formula))


def _joined(found: Iterable[Answer]) -> Iterator[Answer]:
    r"""Yield answers, `\boxed{1} and \boxed{2}` as one."""
    answers = iter(found)
    while last := next(answers, None):
        # The next answer may be costly to find, so it is looked at only if a box may stand before.
        while "}" in last.visible[max(0, last.marker - 60) : last.marker] and (each := next(answers, None)):
            if not _BETWEEN_BOXES.fullmatch(last.visible, each.end, last.start):
                answers = itertools.chain([each], answers)
                break
            last = last._replace(marker=each.marker, start=each.start)
        yield from (last, last)  # twice: `settle` takes the next answer for one before it that it may be joined to


@dataclass(frozen=True)
class LastFormula(Extractor):
    """The last formula of a text: between delimiters, or among words."""

    def answers(self, visible: str) -> Iterator[Answer]:
        before = max(0, len(visible) - _CHARACTERS)
        for found in reversed(_formulas(visible[before:])):
            yield Answer(visible, before + found.start, before + found.start, before + found.end)


_TEXT_COMMAND = re.compile(r"\\(?:text|mbox|math)[a-z]*\s?\{([^{}]*)\}")
_CLAUSE = re.compile(r"[,.;:!?\n]|\b(?:because|since)\b")


def _first_words(text: str) -> Candidate | None:
    """Return the words that a text begins with. None if they are no words but a formula."""
    clause = _CLAUSE.split(_TEXT_COMMAND.sub(r"\1", text).strip("$*`\"'()#. \n"), maxsplit=1)[0]
    words = " ".join(clause.casefold().split())
    is_words = re.fullmatch(r"(?:[^\W\d_]|[ '\u2019-])+", words) and re.search(rf"{_A_WORD}", words)
    return Candidate(words, 0, len(text)) if is_words else None


_SCRIPTS = re.compile("([\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+)|[\u2080-\u208b]+")  # superscripts, subscripts
_VULGAR_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_NAMES = str.maketrans({
    "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": r"\div ", "\u00b1": r"\pm ",
    "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2248": r"\approx ", "\u221e": r"\infty ",
    "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2205": r"\emptyset ", "\u2208": r"\in ", "\u00b0": r"^\circ ",
    "\u211d": r"\mathbb{R}", "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2044": "/",
})  # fmt: skip
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[\w)])\*\*(?=[\w(])", "^"),
        (r"\*\*|(?<![\w)])\*|`", ""),
        (r"\\varnothing|\\O\b", r"\\emptyset"),
        (r"\\langle\b", "("),
        (r"\\rangle\b", ")"),
        (r"!=|\\not\s?=", r"\\ne "),
        (r"(?:\\text\s?\{\s*)?(?:\\?%|(?<![A-Za-z])(?:percent|pct)(?![A-Za-z]))(?:\s*\})?", ""),
        (r"(?<=[0-9])[eE]([+-]?[0-9]{1,4})(?![\w.])", r"\\cdot 10^{\1}"),
        (r"(?<![0-9.])([0-9]{1,9}) ([0-9]{1,9})/([0-9]{1,9})(?![0-9.])", r"\1\\frac{\2}{\3}"),
        (r"(?:\u221a|(?<![A-Za-z\\])sqrt|\\sqrt(?=\s?\())\s?\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}"),
        (r"\u221a\s?([0-9]+(?:\.[0-9]+)?|[A-Za-z])", r"\\sqrt{\1}"),
        (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])", r"\\\1 "),
        (r"(?<=[0-9])(?:\\[,;:! ]\s?|\s)(?=[0-9]{3}(?![0-9]))", ""),
        (r"\A\s*\\text[a-z]*\s?\{[^{}]*\}\s*=?\s*(?=[0-9$\\(-])", ""),
        (r"[\u20ac\u00a3\u00a5\u20b9]", ""),
        (r"\\\{\s*[a-zA-Z]\s*(?:\\in\b[^:|]*)?(?:\\mid\b|\||:)(.*)\\\}", r"\1"),
        (r"(?:~|\s)+", " "),
    )
]
_BOTH = r"\pm"
_REPEATING = re.compile(r"([0-9]{0,30})\.([0-9]{0,30})\\overline\s?\{([0-9]{1,30})\}")
_DEGREES = re.compile(r"([0-9.]+)\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ)")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")


def _latex(text: str) -> str:
    """Return a formula as math-verify reads it. Percent signs are units: 10 % is 10, not 0.1."""
    if text.isascii() and text.isdigit():  # most answers: quicker
        return text
    if not text.isascii():
        text = _SCRIPTS.sub(lambda found: f"{'^' if found[1] else '_'}{{{_plain(found[0])}}}", text)
        text = _VULGAR_FRACTION.sub(lambda found: rf"\frac{{{_plain(found[0])}}}".replace("\u2044", "}{"), text)
        text = _plain(text.translate(_NAMES))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _REPEATING.sub(_fraction, text)
    if text.count(_BOTH) == 1:
        text = f"{text.replace(_BOTH, '+')}, {text.replace(_BOTH, '-')}"
    if _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"{\\frac{\1\\pi}{180}}", text)
    return text.strip(" $").rstrip(" .,;:")


def _fraction(decimal: re.Match[str]) -> str:
    once, again = decimal[1] + decimal[2], decimal[3]
    return rf"\frac{{{int(once + again) - int(once or 0)}}}{{{'9' * len(again)}{'0' * len(decimal[2])}}}"


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")


def settled_formula(answers: Iterable[Answer]) -> str:
    """Return the formula that answers settle on, as math-verify reads it. "" if there is none."""
    found = settle(_joined(answers), _first_formula, lambda text: _WORDY.sub(r" \1\2 ", text))
    return _latex(found.text) if isinstance(found, _Formula) else ""


def settled_words(answers: Iterable[Answer]) -> str:
    """Return the words that answers settle on, without capitals. "" if there are none."""
    return str(settle(_joined(answers), _first_words) or "")
