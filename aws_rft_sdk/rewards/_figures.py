"""Reads numbers out of texts: "$1.2 million", "3/4", "1,234.50", "48 + 24 = 72", "2 hours 30 minutes", "seventy-two".

Exact: no floats. What looks like a number and is none ("72x", "> 72", "5-7", "10:30") has no value, and neither has
half of it.
"""

from __future__ import annotations

import functools
import numbers
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.rewards._settling import Candidate, settle
from aws_rft_sdk.rewards.extract import ANSWER_CHARACTERS, STANDARD, Answer, reference_of


@dataclass(frozen=True)
class Number:
    """A number as it is written."""

    value: Fraction
    percent: bool = False
    """Whether it is written with a percent sign or the word. The value is not divided."""
    decimals: int = 0
    """To how many digits after the point it is given: 3 for 0.125 and for 1.25e-1, 0 for 1.2 million."""
    others: tuple[Fraction, ...] = ()
    """The same quantity in other units: 150 for 2 hours 30 minutes, 72 for 6 dozen."""
    unit: str = ""

    def is_same(self, other: Number) -> bool:
        """Say whether two numbers are one quantity: 25% is also 0.25, and 2.5 hours are 150 minutes."""
        mine, theirs = _UNITS.get(self.unit), _UNITS.get(other.unit)
        if mine and theirs and mine[0] == theirs[0]:
            return self.value * mine[1] == other.value * theirs[1]
        if self.value == other.value:
            return True
        factor = Fraction(100) ** (int(self.percent) - int(other.percent))
        same = {other.value, other.value * factor, *other.others}
        return self.value in same or not same.isdisjoint(self.others)


_UNITS = {
    name: (dimension, size)
    for dimension, sizes in {
        "time": {"second sec": 1, "minute min": 60, "hour hr h": 3600, "day": 86400, "week": 604800},
        "calendar": {"month": 1, "year yr": 12},
        "length": {"inch inche": 1, "foot feet ft": 12, "yard": 36},
        "metres": {"mm": 1, "cm": 10, "m meter metre": 1000, "km kilometer kilometre": 1_000_000},
        "weight": {"ounce oz": 1, "pound lb": 16},
        "mass": {"g gram": 1, "kg kilogram": 1000},
        "volume": {"pint": 1, "quart": 2, "gallon": 8},
        "litres": {"ml": 1, "l liter litre": 1000},
        "money": {"cent \u00a2": 1, "dollar $": 100},
    }.items()
    for names, size in sizes.items()
    for name in names.split()
}

# --- one way of writing ---

_CURRENCY = "$\u20ac\u00a3\u00a5\u20b9\u00a2"
_VULGAR = (*range(0xBC, 0xBF), *range(0x2150, 0x215F))
_ODD_SIGNS: dict[int, int | str | None] = {
    **{0xFF01 + code: 0x21 + code for code in range(94)},  # full-width forms
    **dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\ufe63"), "-"),
    **dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f\u3000"), " "),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), None),
    **dict.fromkeys(map(ord, "\u21d2\u27f9\u2794\u279c"), "\u2192"),
    **{
        ord(sign): f"^{digit}"
        for digit, sign in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    },
    **{code: " " + unicodedata.normalize("NFKC", chr(code)).replace("\u2044", "/") for code in _VULGAR},
    **{0x2019: "'", 0x2044: "/", 0x3001: ",", 0x3002: ".", 0x22C5: "\u00d7", 0xB7: "\u00d7", 0x221E: "\u221a"},
}
_LATEX_SIGNS = {
    name: sign
    for sign, names in {
        "\u00d7": "times cdot", "\u00f7": "div", "\u00b1": "pm", "\u2260": "ne neq", "\u2265": "ge geq",
        "\u2264": "le leq", ">": "gt",
        "<": "lt", "\u2248": "approx", "\u2192": "to rightarrow Rightarrow implies", "\u00b0": "circ degree",
        "": "left right displaystyle dfrac tfrac", "\u221a": "sqrt log ln binom sin cos tan infty",
        "\u03c0": "pi alpha beta gamma theta lambda mu sigma phi omega", "or": "lor vee", "and": "land",
    }.items()
    for name in names.split()
}  # fmt: skip
_LATEX_STEPS = (
    (re.compile(r"\\(?=[$%#&])|\\!"), ""),
    (re.compile(r"\\[,;: ()\[\]]|~"), " "),
    (re.compile(r"\\(?:text\w*|math\w+|mbox|operatorname)\s?\{([^{}]*)\}?"), r" \1 "),
    (re.compile(r"(?<=[0-9])(?=\\[dtc]?frac)"), " "),
    (re.compile(r"\\[dtc]?frac\s?(?:\{([-+0-9., ]+)\}\s?\{([-+0-9., ]+)\}|([0-9])([0-9]))"), r"\1\3/\2\4"),
    (re.compile(r"\\[dtc]?frac\s?\{([^{}]*)\}"), "\u221a \\1 \u221a"),
    (re.compile(r"\\[dtc]?frac"), "\u221a"),
)
_LATEX_NAME = re.compile(r"\\([A-Za-z]+)")
_BRACES = re.compile(r"\{([-+,.\u00b0]?[0-9.]*)\}")
_TAG = re.compile(r"</?[a-z][^<>]{0,40}>", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w)])\*\*(?=\S)([^*\n]+)(?<=\S)\*\*")
_EMPHASIS = re.compile(r"(?<![\w)])(?<![\w)]\s)\*+(?=\S)|(?<=\S)\*+(?![0-9(*])|(?<![0-9])__|__(?![0-9])|`+")
_POWER_OF_TEN = re.compile(r"(?:(?<=[0-9])\s?[*x\u00d7]\s?|(?<![\w.^]))10\s?\^\s?\(?([+-]?[0-9]{1,3})\)?(?![0-9])")
_SIGN_WORD = re.compile(rf"(?<![0-9)] )(?<![0-9)])\b(?:minus|negative) (?=[{_CURRENCY}]?[0-9])", re.IGNORECASE)
_GLUED = re.compile(r"\b(or|and|maybe)(?=[0-9])")
_HALF = re.compile(r"(?<=[0-9]) and (?:a|one) half\b|(?<=[0-9])-and-a-half\b")
_DIGIT = re.compile("[0-9]")
_SHORT = 6
"""Up to how many words are read as number words."""


def plain(text: str) -> str:
    """Return a text with its numbers in one way of writing: ASCII, no LaTeX, no emphasis, no tags, digits for words."""
    text = text[: 2 * ANSWER_CHARACTERS]
    if not text.isascii():
        text = text.translate(_ODD_SIGNS)
    if "\\" in text:
        for pattern, replacement in _LATEX_STEPS:
            text = pattern.sub(replacement, text)
        text = _LATEX_NAME.sub(lambda name: _LATEX_SIGNS.get(name[1], " "), text)
    if "{" in text:
        text = _BRACES.sub(r"\1", text)
    if "\u00b0" in text:
        text = text.replace("^\u00b0", "\u00b0")
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "*" in text or "_" in text or "`" in text:
        text = _EMPHASIS.sub("", _BOLD.sub(r"\1", text))
    if "10" in text and "^" in text:
        text = _POWER_OF_TEN.sub(lambda power: f"e{power[1]}" if power[0][0] != "1" else f"1e{power[1]}", text)
    if "and" in text or "or" in text or "maybe" in text:
        text = _HALF.sub(" 1/2", _GLUED.sub(r"\1 ", text))
    if not _DIGIT.search(text):
        return _WORDS.sub(_digits, text) if len(text.split()) <= _SHORT else text
    return _SIGN_WORD.sub("-", text) if "inus" in text or "egative" in text else text


_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_VALUES = {word: value for value, word in enumerate(_ONES.split())}
_WORD_VALUES |= {word: 10 * ten for ten, word in enumerate(_TENS.split(), 2)}
_ONE_WORD = "|".join(_WORD_VALUES)
_WORDS = re.compile(
    rf"\b(?:(?:minus|negative)\s)?(?:{_ONE_WORD})"
    rf"(?:(?:[\s-]|\sand\s)(?:{_ONE_WORD}|hundred|thousand|million))*\b(?! of\b)",
    re.I,
)


def _digits(words: re.Match[str]) -> str:
    total = group = 0
    for word in re.findall("[a-z]+", words[0].lower()):
        if word == "hundred":
            group *= 100
        elif word in ("thousand", "million"):
            total, group = total + group * {"thousand": 10**3, "million": 10**6}[word], 0
        else:
            group += _WORD_VALUES.get(word, 0)
    return ("-" if words[0][:1].lower() in "mn" and words[0][:3].lower() in ("min", "neg") else "") + str(total + group)


# --- one quantity ---

_FIGURE = re.compile(
    rf"(?P<open>\(\s?)?(?P<sign>[+-]\s?)?(?P<currency>(?:[{_CURRENCY}]|\b(?:USD|EUR|GBP|INR|Rs\.?))\s?)?"
    r"(?P<bracket>\()?(?P<inner>-\s?)?"
    r"(?<![\w^])(?<![^s]\.)(?:"
    r"(?P<european>[0-9]{1,3}(?:[. ][0-9]{3})+,[0-9]{1,2}|[0-9]{1,3}(?:\.[0-9]{3}){2,}"
    r"|[0-9]+,[0-9]{1,2}(?=\s?(?:%|\u20ac|percent|euro))"
    r"|(?:(?<=\u20ac)|(?<=\u20ac\s))(?:[1-9][0-9]{0,2}\.[0-9]{3}|[0-9]+,[0-9]{1,2})"
    r"|[1-9][0-9]{0,2}\.[0-9]{3}(?=\s?\u20ac))(?![0-9]|[.,][0-9])"
    r"|(?P<whole>[0-9]{1,3}(?:[, '][0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]+)"
    r"(?:\.(?P<decimals>[0-9]+))?"
    r"|\.(?P<bare>[0-9]+))(?:[eE](?P<exponent>[+-]?[0-9]{1,3})(?!\w))?"
)
_OVER = re.compile(r"(?: {1,2}([0-9]{1,9}))?\s?/\s?(-?[0-9]{1,300})(?![0-9]|[.,][0-9]|\s?/\s?[0-9])")
_PERCENT = re.compile(r"\s?(?:%|per ?cent(?:age points?)?\b|pct\b|pp\b|(?P<basis>basis points?|bps)\b)", re.IGNORECASE)
_SCALE = re.compile(
    r"(?:\s?\((?:\$ )?in |[\s-]?)((?i:hundred|thousand|million|billion|trillion|lakh|crore|dozen))s?\b"
    r"|(k|K|M|B|\s?(?i:bn|mn|tn))(?![\w^])"
)
_MONEY_LETTER = re.compile(r"(?: (?=[mb]n\b))?(k|m|mm|mn|b|bn)(?![\w^])", re.IGNORECASE)
_SCALES = {"hundred": 100, "lakh": 10**5, "crore": 10**7, "dozen": 12} | {
    name: 10**power
    for power, names in {3: "thousand k", 6: "million m mm mn", 9: "billion b bn", 12: "trillion tn"}.items()
    for name in names.split()
}
_UNIT = re.compile(r"\s?([A-Za-z]+|\u00b0[CF]?)(?:\^[23]|[23]\b)?")
_LETTER = re.compile(
    r"\s?(?:[xyznXYZ\u03c0\u221a]{1,3}(?![A-Za-z0-9])(?!\s*[0-9($])"
    r"|(?<=[0-9])(?!or\b|and\b)(?:[a-zA-Z](?<![mgshlLWVCFJNtdp])(?![A-Za-z])|[A-Za-z]+[04-9_]\w*))"
)
"""Makes an expression of the number before it: "72x", "2 \u03c0", "0x48"."""
_CLOCK = re.compile(r":00(?=\s?[ap]\.?m\b)", re.IGNORECASE)
_BROKEN = re.compile(
    r"(?:[.,:_](?=[0-9])|(?:\.{2,3}|\u2026|~)\s?(?=[0-9])|[})\]]*\s?\^"
    r"|(?:[eE][+-]?)(?=[0-9])|\s?(?!<\|)[<>\u2264\u2265\u2260\u221a]|[\u0660-\u0669])[\w.,:^{}+-]*"
)
"""Makes one thing of the number before it and more digits: a time, a version, a power, half a group of digits."""
_BOUND = re.compile(
    r"(?:\s[a-z]+)?\s?(?:\+(?!\s*[0-9(a-z])|\bat (?:least|most)\b|\u00b1"
    r"|\b(?:or|and) (?:more|less|fewer|higher|lower|greater|above|below|over|under|up)\b"
    r"|\b(?:squared|cubed|factorial|mod|modulo|choose|halves|thirds|quarters"
    r"|(?:fif|six|ten|hundred|thousand)ths)\b)", re.IGNORECASE,
)  # fmt: skip
_NO_WORDS_BEFORE = re.compile(rf"[\s*_`:={_CURRENCY}]*\Z")
_FALL = re.compile(
    r"\b(?:decreas\w+|declin\w+|fell|fallen|drop\w*|reduc\w+|loss(?:es)?|lost|down|shrank|shrunk|lower)\b"
    r"(?: (?:in|for|from) (?:\w+ ){0,3}?)?"
    r"(?:\s?(?:of|by|was|is|about|approximately|a|an|the|[:=])\b)*\W*\Z", re.IGNORECASE,
)  # fmt: skip
_FALLS = re.compile(r"\s(?:\w+ )?(?:decrease|decline|drop|reduction|loss|lower)\b", re.IGNORECASE)


def _quantity(text: str, found: re.Match[str], finance: bool) -> tuple[Number | None, int]:
    """Return the number that a figure begins, with its percent sign, scale and unit, and where it ends."""
    value, decimals = _value(found)
    end = found.end()
    is_fraction = False
    if over := _OVER.match(text, end):
        if (over[1] and (value.denominator != 1 or decimals)) or not int(over[2]):
            return None, over.end()
        value = value + Fraction(int(over[1]), int(over[2])) if over[1] else value / int(over[2])
        end, is_fraction = over.end(), True
    bracketed = bool(found["open"] or found["bracket"])
    closed = bracketed and not is_fraction and text.startswith(")", end)
    end += closed
    percent = _PERCENT.match(text, end)
    if percent:
        value, end = (value / 100 if percent["basis"] else value), percent.end()
    others: tuple[Fraction, ...] = ()
    money = finance or found["currency"]
    if scale := (_MONEY_LETTER.match(text, end) if money else None) or _SCALE.match(text, end):
        name = (scale[1] or scale[2]).strip().lower()
        if name == "dozen":
            others = (12 * value,)
        else:
            value, decimals = value * _SCALES[name], max(0, decimals - len(str(_SCALES[name])) + 1)
        end = scale.end() + ("(" in scale[0] and text.startswith(")", scale.end()))
    if bracketed and not closed and (percent or scale) and text.startswith(")", end):
        closed, end = True, end + 1
    clock = _CLOCK.match(text, end)
    end = clock.end() if clock else end
    before = text[max(0, found.start() - 80) : found.start()]
    negative = bool(found["sign"] and found["sign"][0] == "-") != bool(found["inner"])
    if found["sign"] == "- " and before[-2:-1].isalpha():
        negative = False  # a dash between words
    if closed and not negative and _NO_WORDS_BEFORE.match(before):
        negative = True  # accounting writes (5) for -5; after words it is a remark, "five (5)"
    if finance and not negative and (_FALL.search(before) or _FALLS.match(text, end)):
        negative = True
    broken = _LETTER.match(text, end) or _BROKEN.match(text, end) or _BOUND.match(text, end)
    if broken:
        return None, broken.end()
    unit = _UNIT.match(text, end)
    name = unit[1].lower() if unit else (found["currency"] or "").strip()
    name = name if name in _UNITS else name.removesuffix("s")
    end = unit.end() if unit and name in _UNITS else end
    return Number(-value if negative else value, percent is not None, decimals, others, name), end


def _value(found: re.Match[str]) -> tuple[Fraction, int]:
    whole, decimals = found["whole"] or "0", found["decimals"] or found["bare"] or ""
    if found["european"]:
        whole, _, decimals = found["european"].replace(".", "").partition(",")
    whole = re.sub("[, ']", "", whole)
    value = Fraction(int(whole + decimals), 10 ** len(decimals)) if decimals else Fraction(int(whole))
    exponent = int(found["exponent"] or 0)
    return value * Fraction(10) ** exponent if exponent else value, max(0, len(decimals) - exponent)


# --- one candidate ---

_OPERATOR = re.compile(
    r"(?P<words>(?:\s[A-Za-z]+){0,2})\s*(?:(?P<equal>[-=]*>|\u2192|==?|\bequals\b|\bis equal to\b)|(?P<about>\u2248)"
    r"|(?P<minus>-|\bminus\b)|[+*\u00d7\u00f7/]{1,2}|\b[xX]\b|\b(?:plus|times|divided by)\b)"
    r"\s*(?=[-+(]*[$\u20ac\u00a3]?\s?[(-]?\.?[0-9])"
)
_TO = re.compile(rf"(?:\s?[a-z]+)?\s(?:to|through)\s(?=[{_CURRENCY}]?[0-9])")
_VARIABLE = re.compile(r"\s*[-+*\u00d7\u00f7^]\s*(?:[b-hj-z](?![A-Za-z'])|[\u221a\u03c0])")
_EXPRESSION_BEFORE = re.compile(
    r"(?:[<>\u2264\u2265\u2260\u00b1\u221a^_/\u00d7\u00f7+*]|[\w)]\s?-|!="
    r"|\b(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|\bat (?:least|most)|\bup to|\bequal to|\banything but|\bother than|\bexceeds|\b(?:sqrt|log|ln)"
    r"|^\W*(?:over|under|above|below|between))[\s({\[=$]*\Z", re.IGNORECASE,
)  # fmt: skip
_TERM_BEFORE = re.compile(r"(?<![A-Za-z])\w\Z|(?<![A-Za-z'])[b-hj-z]\s\Z")
_ARROW_BEFORE = re.compile(r"[-=]+>[\s$({]*\Z")
_NEGATED = re.compile(r"(?:\bnot|n't|\bneither|\brather than|\binstead of)\W+(?:\w+\W+)?\Z", re.IGNORECASE)
_AND = re.compile(r"\s?,?\s?(?:and )?(?=[0-9])")
_SAID_AGAIN = re.compile(
    r"(?:\s[A-Za-z]+)?\s*[(\[=,;]?\s*(?:\b(?:or|i\.e\.|that is|which is|equivalently)[\s,]*)*"
    r"(?:about|approximately|\u2248|~)?\s*(?=[-($\u20ac.0-9])"
)


def _candidate(text: str, found: re.Match[str], finance: bool) -> Candidate:
    """Return the value that begins with a figure: of a calculation its result, and None of half of a formula."""
    number, end = _quantity(text, found, finance)
    before = text[max(0, found.start() - 40) : found.start()]
    in_formula = bool(_EXPRESSION_BEFORE.search(before)) and not _ARROW_BEFORE.search(before)
    in_formula = in_formula or bool((found["sign"] or found["open"]) and _TERM_BEFORE.search(before))
    if number and (to := _TO.match(text, end)) and (following := _FIGURE.match(text, to.end())):
        upper, upper_end = _quantity(text, following, finance)
        if upper and upper.percent == number.percent:
            return Candidate(None, found.start(), upper_end)
    sides: list[Number | None] = []
    while operator := _OPERATOR.match(text, end):
        if operator["minus"] and operator["words"] and "=" not in text[end:].partition("\n")[0]:
            break
        following = _FIGURE.match(text, operator.end())
        if following is None:
            break
        if operator["equal"] or operator["about"]:
            sides = [] if operator["about"] else [*sides, None if in_formula else number]
            number, end = _quantity(text, following, finance)
            in_formula = False
        else:
            in_formula, (_, end) = True, _quantity(text, following, finance)
    variable = _VARIABLE.match(text, end)
    sides.append(None if in_formula or variable else number)
    values = [side for side in sides if side is not None]
    if not values or (number is None and not in_formula):
        return Candidate(None, found.start(), variable.end() if variable else end)
    result = values[-1]
    # "10/3 = 3.33" is a rounded result, "72 = 73" is none.
    if len(values) > 1 and not all(
        side.is_same(result) or (side.value.denominator > 1 and not side.decimals) for side in values
    ):
        return Candidate(None, found.start(), end)
    return Candidate(*_with_more(text, result, found.start(), end, finance))


def _with_more(text: str, number: Number, start: int, end: int, finance: bool) -> tuple[Number, int, int]:
    """Add the smaller unit of "2 hours 30 minutes", and the same quantity said again: "25% (0.25)"."""
    number, end = _compound(text, number, end, finance)
    while again := _SAID_AGAIN.match(text, end):
        following = _FIGURE.match(text, again.end())
        other, other_end = _quantity(text, following, finance) if following else (None, end)
        if other is None:
            break
        other, other_end = _compound(text, other, other_end, finance)
        if not number.is_same(other):
            break
        number = replace(number, others=(*number.others, other.value, *other.others))
        end = other_end + text.startswith((")", "]"), other_end)
    return number, start, end


def _compound(text: str, number: Number, end: int, finance: bool) -> tuple[Number, int]:
    """Add what a quantity has in a smaller unit."""
    mine = _UNITS.get(number.unit)
    gap = _AND.match(text, end) if mine else None
    following = _FIGURE.match(text, gap.end()) if gap else None
    other, other_end = _quantity(text, following, finance) if following else (None, end)
    theirs = _UNITS.get(other.unit) if other else None
    if not (mine and other and theirs) or mine[0] != theirs[0] or mine[1] <= theirs[1]:
        return number, end
    whole = number.value * mine[1] + other.value * theirs[1]
    return replace(number, value=whole / mine[1], others=(*number.others, whole / theirs[1])), other_end


# --- all candidates of a text ---

_MONTH = r"\b(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*\.?\s"
_LABEL = re.compile(
    rf"(?:{_MONTH}(?:[0-9]{{1,2}},? )?"
    r"|\b(?:in|for|during|by|since|from|to|through|until|of|ended|fy|fiscal|year|q[1-4]|the)\s(?:the )?"
    r"(?:fiscal |year )*|\()\Z", re.IGNORECASE,
)  # fmt: skip
"""Stands before a year that says when."""
_YEAR = re.compile(r"(?:19|20)[0-9]{2}(?![\w%]|[.,][0-9])(?P<says_when>:\s|'s\b|\s[-:]\s)?")
_DAY = re.compile(rf"{_MONTH}\Z", re.IGNORECASE)
_SPAN = re.compile(r"[0-9]+[ -](?:second|minute|hour|day|week|month|year|quarter)s?\b")
_SPAN_BEFORE = re.compile(r"\b(?:in|over|within|for|after|every|last|past|first|next)\s(?:the )?\Z", re.IGNORECASE)
_CONCLUSION = re.compile(
    r"(?:\b(?:so|thus|therefore|hence|making|makes?|gives?|giving|totall?ing|totals)\b"
    r"|\btotal(?: \w+){0,2} ?(?::|\b(?:is|was|of)\b)|\u2192|=>)"
    r"[^0-9.;:\n]{0,40}?(?=[-+($\u20ac\u00a3]*[0-9])", re.IGNORECASE,
)  # fmt: skip
_SENTENCE = re.compile(r"[^0-9]*[A-Za-z]|\W*[0-9.,]+(?:\s[a-z]+)?\s?[-+*/\u00d7\u00f7]\s?\$?[0-9]")
"""Begins with words or with a calculation, so that the answer may come last."""


def candidates(text: str, finance: bool = False) -> Iterator[Candidate]:
    """Yield the numbers that a plain text names, in order.

    Years and spans of time that say when come last. A sentence begins with its conclusion, if it has one:
    "48 in April and 24 in May, so 72".
    """
    if not _DIGIT.search(text):
        return
    position = 0
    if _SENTENCE.match(text):
        conclusions = list(_CONCLUSION.finditer(text))
        position = conclusions[-1].end() if conclusions else 0
    labels: list[Candidate] = []
    while found := _FIGURE.search(text, position):
        digits = max(found.start(), found.end("currency"), found.end("open"))
        before = text[max(0, digits - 40) : digits]
        year = _YEAR.match(text, digits)
        candidate = _candidate(text, found, finance)
        position = max(candidate.end, found.end())
        if year and (year["says_when"] or _LABEL.search(before)):
            labels.append(candidate._replace(is_label=True))
            position = year.end()
        elif _DAY.search(before) or (_SPAN_BEFORE.search(before) and _SPAN.match(text, digits)):
            labels.append(candidate._replace(is_label=True))
        elif _NEGATED.search(before):
            labels.append(Candidate(None, candidate.start, candidate.end))
        else:
            yield candidate
    yield from labels


def first_number(text: str) -> Candidate | None:
    """Return the first number that a plain text names."""
    return next(candidates(text), None)


def first_figure(text: str) -> Candidate | None:
    """Return the first number that a plain text names, as finance writes it: "$1.2m", "a loss of $5"."""
    return next(candidates(text, finance=True), None)


def settled_number(answers: Iterator[Answer], *, finance: bool = False) -> Number | None:
    """Return the number that an answer settles on. A text without a marker must be a line that names one number."""
    useful = (answer for answer in answers if not answer.is_whole or _names_one(answer.text, finance))
    number = settle(useful, first_figure if finance else first_number, plain)
    return number if isinstance(number, Number) else None


def _names_one(text: str, finance: bool) -> bool:
    if len(text) > ANSWER_CHARACTERS or "\n" in text.strip():
        return False
    named = list(candidates(plain(text), finance))
    return len(named) == 1


# --- what other modules call ---


def read_number(text: str, *, finance: bool = False) -> Number | None:
    """Return the first number of a text. None if it names none, or several as in "5 or 6"."""
    number = settle([Answer.of(text[:ANSWER_CHARACTERS])], first_figure if finance else first_number, plain)
    return number if isinstance(number, Number) else None


def reference_numbers(ground_truth: JSON, *, finance: bool = False) -> tuple[Number, ...]:
    """Return the numbers of a ground truth, each of which is right. See `reference_number`."""
    reference = reference_of(ground_truth)
    if not isinstance(reference, str) and isinstance(reference, Sequence):
        return tuple(number for item in reference if (number := reference_number(item, finance=finance)))
    number = reference_number(reference, finance=finance)
    return () if number is None else (number,)


def reference_number(ground_truth: JSON, *, finance: bool = False) -> Number | None:
    """Return the number of a ground truth: a number, its text, or a worked solution that ends in one.

    None if it gives no number, or more than one ("5 or 6").
    """
    reference = reference_of(ground_truth)
    if isinstance(reference, str):
        return _number_of_text(reference, finance)
    if isinstance(reference, bool) or not isinstance(reference, Decimal | numbers.Real):
        return None
    if isinstance(reference, numbers.Rational):  # also those of numpy, whose integers would overflow
        return Number(Fraction(int(reference.numerator), int(reference.denominator)))
    written = Decimal(str(reference))  # 0.1 is a tenth, and has one decimal
    return _without_noise(Number(Fraction(written), decimals=_decimals_of(written))) if written.is_finite() else None


@functools.lru_cache(maxsize=4096)
def _number_of_text(text: str, finance: bool) -> Number | None:
    number = settled_number(STANDARD.answers(text), finance=finance)
    return _without_noise(number or read_number(text, finance=finance))


_NOISE_DECIMALS = 15


def _without_noise(number: Number | None) -> Number | None:
    """Accept 0.3 for 0.30000000000000004, which is how a float writes 0.1 + 0.2."""
    if number is None or number.decimals < _NOISE_DECIMALS:
        return number
    rounded = Fraction(Decimal(number.value.numerator) / Decimal(number.value.denominator)).limit_denominator(10**12)
    return replace(number, others=(*number.others, rounded))


def _decimals_of(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
