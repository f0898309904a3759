"""Writes the numbers of a text in one way: ASCII digits, no LaTeX, no emphasis, "72" for "seventy-two"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from aws_rft_sdk.rewards.extract import ANSWER_CHARACTERS

CURRENCY = "$\u20ac\u00a3\u00a5\u20b9\u00a2"
_ODD_SIGNS: dict[int, int | str | None] = {
    **dict.fromkeys(map(ord, "\u2212\u2010\u2012\u2013"), "-"),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), None),
    **dict.fromkeys(map(ord, "\u21d2\u27f9\u2794\u279c"), "\u2192"),
    **str.maketrans("\u2019\u2044\u3001\u3002\u22c5\u00b7\u221e", "'/,.\u00d7\u00d7\u221a"),
}
"""What NFKC leaves."""
_SUPERSCRIPTS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_VULGAR_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_LATEX_SIGNS = {
    name: sign
    for sign, names in {
        "\u00d7": "times cdot", "\u00f7": "div", "\u00b1": "pm", "\u2260": "ne neq", "\u2265": "ge geq",
        "\u2264": "le leq", ">": "gt", "<": "lt", "\u2248": "approx", "\u2192": "to rightarrow Rightarrow implies",
        "\u00b0": "circ degree", "": "left right displaystyle", "\u221a": "sqrt log ln binom sin cos tan infty",
        "\u03c0": "pi alpha beta gamma theta lambda mu sigma phi omega", "or": "lor vee", "and": "land",
    }.items()
    for name in names.split()
}  # fmt: skip
_POWER_OF_TEN = r"(?:(?<=[0-9])\s?[*x\u00d7]\s?|(?P<alone>(?<![\w.^])))10\s?\^\s?\(?([+-]?[0-9]{1,3})\)?(?![0-9])"
_SIGN_WORD = rf"(?<![0-9)] )(?<![0-9)])\b(?i:minus|negative) (?=[{CURRENCY}]?[0-9])"
_STEPS: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (hint, re.compile(pattern), replacement)
    for hint, pattern, replacement in (
        ("\\", r"\\(?=[$%#&])|\\!", ""),
        ("\\left", r"(?<![\w)}])(?<![\w)}] )\\left\s?\(\s*([-+0-9.,/]+)\s*\\right\s?\)", r" \1 "),
        ("\\", r"\\[,;: ()\[\]]|~", " "),
        ("\\", r"\\(?:text\w*|math\w+|mbox|operatorname)\s?\{([^{}]*)\}?", r" \1 "),
        ("frac", r"(?<=[0-9])(?=\\[dtc]?frac)", " "),
        ("frac", r"\\[dtc]?frac\s?(?:\{([-+0-9., ]+)\}\s?\{([-+0-9., ]+)\}|([0-9])([0-9]))", r"\1\3/\2\4"),
        ("frac", r"\\[dtc]?frac\s?(?:\{([^{}]*)\})?", "\u221a \\1 \u221a"),  # of a formula
        ("\\", r"\A\s*([0-9]{1,9})\s*\\(?:times|cdot)\s*([0-9]{1,9})\s*\Z", lambda of: str(int(of[1]) * int(of[2]))),
        ("\\", r"\\([A-Za-z]+)", lambda name: _LATEX_SIGNS.get(name[1], " ")),
        ("{", r"\{([-+,.\u00b0]?[0-9.]*)\}", r"\1"),
        ("\u00b0", r"\^\u00b0", "\u00b0"),
        ("<<", r"<<[^<>\n]*>>", ""),  # GSM8K's calculator
        ("<", rf"<([{CURRENCY}]?[0-9][0-9.,]*)>", r"\1"),
        ("<", r"(?i:</?[a-z][^<>]{0,40}>)", " "),
        ("**", r"(?<![\w)])\*\*(?=\S)([^*\n]+)(?<=\S)\*\*", r"\1"),
        ("*", r"(?<![\w)])(?<![\w)]\s)\*+(?=\S)|(?<=\S)\*+(?![0-9(*])", ""),
        ("__", r"(?<![0-9])__|__(?![0-9])", ""),
        ("`", r"`+", ""),
        ("^", _POWER_OF_TEN, lambda power: f"{'' if power['alone'] is None else 1}e{power[2]}"),
        ("half a", r"\A\W*half an? ", "1/2 "),
        ("half", r"(?<=[0-9])(?: and (?:a|one) |-and-a-)half\b", " 1/2"),
        ("inus", _SIGN_WORD, "-"),
        ("egative", _SIGN_WORD, "-"),
    )
)
"""What a text contains when a step is needed, and what the step replaces."""
DIGIT = re.compile("[0-9]")


def plain(text: str) -> str:
    """Return a text with its numbers in one way of writing: ASCII, no LaTeX, no emphasis, no tags, digits for words."""
    text = text[: 2 * ANSWER_CHARACTERS]
    if not text.isascii():
        text = _VULGAR_FRACTION.sub(r" \g<0>", _SUPERSCRIPTS.sub(r"^\g<0>", text))
        text = unicodedata.normalize("NFKC", text).translate(_ODD_SIGNS)
    for hint, pattern, replacement in _STEPS:
        if hint in text:
            text = pattern.sub(replacement, text)
    if not DIGIT.search(text) and len(text.split()) <= 6:
        return _WORDS.sub(_digits, text)
    return text


_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_VALUES = {word: value for value, word in enumerate(f"{_ONES} seventeen eighteen nineteen".split())}
_WORD_VALUES |= {word: 10 * ten for ten, word in enumerate(_TENS.split(), 2)}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8}
_LARGE = {"thousand": 1000, "million": 10**6}
_ONE_WORD, _PART, _LARGE_WORD = "|".join(_WORD_VALUES), "|".join(_PARTS), "hundred|thousand|million"
_WORD_VALUES |= {"a": 1, "an": 1}
_WORDS = re.compile(
    rf"\b(?P<sign>(?:minus|negative)\s)?(?!an?\b(?!\s(?:{_PART}|{_LARGE_WORD}|dozen)))(?P<count>(?:an?|{_ONE_WORD})"
    rf"(?:(?:[\s-]|\sand\s)(?:{_ONE_WORD}|{_LARGE_WORD}))*)(?:[\s-](?P<part>{_PART})(?P<plural>s?))?"
    r"(?P<half>\sand\s(?:a|one)\shalf)?\b(?(part)|(?! of\b))",
    re.IGNORECASE,
)


def _digits(words: re.Match[str]) -> str:
    total = group = 0
    for word in re.findall("[a-z]+", words["count"].lower()):
        if word == "hundred":
            group *= 100
        elif word in _LARGE:
            total, group = total + group * _LARGE[word], 0
        else:
            group += _WORD_VALUES.get(word, 0)
    part = words["part"]
    if part and not words["plural"] and total + group != 1:
        return words[0]  # "the twenty-third"
    fraction = f"/{_PARTS[part.lower()]}" if part else " 1/2" if words["half"] else ""
    return f"{'-' if words['sign'] else ''}{total + group}{fraction}"
