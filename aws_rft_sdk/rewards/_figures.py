"""Reads numbers out of texts, exactly: "$1.2 million", "3/4", "48 + 24 = 72", "2 hours 30 minutes", "seventy-two".

What looks like a number and is a part of more ("72x", "> 72", "5-7", "10:30", "half of 72") has no value.
"""

from __future__ import annotations

import functools
import numbers
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.rewards._plain_numbers import CURRENCY, DIGIT, plain
from aws_rft_sdk.rewards._settling import Candidate, is_hedged, settle
from aws_rft_sdk.rewards.extract import ANSWER_CHARACTERS, STANDARD, Answer, reference_of

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
_NO_UNIT = ("", 1)


@dataclass(frozen=True)
class Number:
    """A number as it is written."""

    value: Fraction
    percent: bool = False
    """Whether it is written with a percent sign. The value is not divided."""
    decimals: int = 0
    """To how many digits after the point it is given: 3 for 0.125 and for 1.25e-1, 0 for 1.2 million."""
    others: tuple[Fraction, ...] = ()
    """The same quantity in other units: 150 for 2 hours 30 minutes."""
    unit: tuple[str, int] = _NO_UNIT
    """What it measures, and how many of the smallest unit its unit is: ("time", 60) for minutes."""
    scale: int = 1
    """The scale that it is written with, 1,000,000 for "5.2 million". The value is multiplied."""

    def is_same(self, other: Number) -> bool:
        """Say whether two numbers are one quantity: 25% is also 0.25, and 2.5 hours are 150 minutes."""
        (dimension, size), (their_dimension, their_size) = self.unit, other.unit
        if dimension == their_dimension and self.value * size == other.value * their_size:
            return True
        factor = Fraction(100) ** (int(self.percent) - int(other.percent))
        return not {self.value, *self.others}.isdisjoint((other.value, other.value * factor, *other.others))


_SCALES = {"\u5343": 1000, "hundred": 100, "lakh": 10**5, "crore": 10**7, "dozen": 12} | {
    name: 10**power
    for power, names in {3: "thousand k", 6: "million m mm mn", 9: "billion b bn", 12: "trillion tn"}.items()
    for name in names.split()
}
_SCALES |= dict.fromkeys("\u4e07\u842c\ub9cc", 10**4) | dict.fromkeys("\u4ebf\u5104\uc5b5", 10**8)
_SCALE = "(?i:hundred|thousand|million|billion|trillion|lakh|crore|dozen)"
_CLOSED = r"(?(open)\)|(?(bracket)\)|(?!)))"
_MYRIAD = "\u5343\u4e07\u842c\u4ebf\u5104\ub9cc\uc5b5"
_ASIAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"  # letters of languages that put no spaces around a number
_QUANTITY = rf"""
    (?P<open>\(\s?)? (?P<sign>[+-]\s?)? (?P<currency>(?:[{CURRENCY}]|\b(?:USD|EUR|GBP|INR|Rs\.?))\s?)?
    (?P<bracket>\()? (?P<inner>-\s?)? (?:(?<![\w^])|(?<=[{_ASIAN}])|(?<=\bor)|(?<=\band)|(?<=\bmaybe)) (?<![^s]\.)
    (?:
        (?P<european>
            [0-9]{{1,3}}(?:[.\ ][0-9]{{3}})+,[0-9]{{1,2}}  |  [0-9]{{1,3}}(?:\.[0-9]{{3}}){{2,}}
            |  0,[0-9]+  |  [0-9]+,[0-9]{{1,2}}(?=\s?(?:%|\u20ac|percent|euro))
            |  [1-9][0-9]{{0,2}}\.[0-9]{{3}}(?=\s?\u20ac)
            |  (?:(?<=\u20ac)|(?<=\u20ac\s))(?:[1-9][0-9]{{0,2}}\.[0-9]{{3}}|[0-9]+,[0-9]{{1,2}})
        )(?![0-9]|[.,][0-9])
        |  (?P<whole>(?:[0-9]{{1,3}}(?:[,\ '_][0-9]{{3}})+|[0-9]{{1,2}}(?:,[0-9]{{2}})+,[0-9]{{3}})(?![0-9])|[0-9]+)
        (?:\.(?P<decimals>[0-9]+))?
        |  \.(?P<bare>[0-9]+)
    )
    (?:[eE](?P<exponent>[+-]?[0-9]{{1,3}})(?!\w))?
    (?:(?:\ {{1,2}}(?P<above>[0-9]{{1,9}}))?\s?/\s?(?P<below>-?[0-9]{{1,300}})(?![0-9]|[.,][0-9]|\s?/\s?[0-9]))?
    (?P<closed>{_CLOSED})?
    (?P<percent>\s?(?:%|(?i:per\ ?cent(?:age\ points?)?|pct|pp|(?P<basis>basis\ points?|bps))\b))?
    (?:
        \s?\((?:\$\ )?in\ (?P<scale_in>{_SCALE})s?\)  |  (?:\s{{1,2}}|-)?(?P<scale>{_SCALE})s?\b
        |  \s?(?P<myriad>[{_MYRIAD}])
        |  (?P<letter>LETTERS|\s?(?i:bn|mn|tn))(?![\w^])
    )?
    (?P<closed_too>{_CLOSED})?
    (?::00(?=\s?(?i:[ap]\.?m)\b))?
    (?:
        (?P<more>
            \s?[xyznXYZ\u03c0\u221a]{{1,3}}(?![A-Za-z0-9])(?!\s*[0-9($])MULTIPLE  # 72x
            |  (?<=[0-9])(?!(?:or|and)\b)(?:[a-zA-Z](?<![mgshlLWVCFJNtdpMULTIPLY])(?![A-Za-z])  # 72a
                |(?![A-Za-z]+[23]?(?!\w))[A-Za-z_]\w*)  # 0x48, 72nm2x
            |  (?<=[{_MYRIAD}])[0-9]|\s?(?:\u4ee5\u4e0a|\u4ee5\u4e0b|\u5206\u4e4b)
            |  (?:(?:[.,:]|(?:\.{{2,3}}|~)\s?)(?=[0-9])|[}})\]]*\s?\^|\s?(?!<\|)[<>\u2264\u2265\u2260\u221a]
                |[\u0660-\u0669])[\w.,:^{{}}+-]*  # a time, a version, a power, half a group of digits
            |  (?:\s[a-z]+)?\s?(?i:\+(?!\s*[{CURRENCY}]?\s?[0-9(a-z])|\u00b1|\bat\ (?:least|most)\b
                |\b(?:or|and)\ (?:more|less|fewer|higher|lower|greater|above|below|over|under|up)\b
                |\b(?:more|less|fewer)\ than\ (?=[{CURRENCY}]?[0-9])
                |\b(?:squared|cubed|factorial|mod|modulo|choose|halves|thirds|quarters
                    |(?:fif|six|ten|hundred|thousand)ths)\b)
        )
        |  \s?(?P<unit>(?:{"|".join(map(re.escape, _UNITS))})s?)(?![\w^])
    )?
"""
_LONGEST_SIGN = 16  # how many characters of a figure can stand before its first digit
_NO_WORDS_BEFORE = re.compile(rf"[\s*_`:={CURRENCY}]*\Z")
_FALL = re.compile(
    r"\b(?:decreas\w+|declin\w+|fell|fallen|drop\w*|reduc\w+|loss(?:es)?|lost|down|shrank|shrunk|lower)\b"
    r"(?: (?:in|for|from) (?:(?!to\b)\w+ ){0,3}?)?(?:\s?(?:of|by|was|is|about|approximately|a|an|the|[:=])\b)*\W*\Z",
    re.IGNORECASE,
)
_FALLS = re.compile(r"\s(?:\w+ )?(?:decrease|decline|drop|reduction|loss|lower)\b", re.IGNORECASE)

_OPERATOR = re.compile(
    r"\)?(?P<words>[A-Za-z]{0,9}(?:\s[A-Za-z]+){0,2})\s*"
    r"(?:(?P<equal>[-=]*>|\u2192|==?|\bequals\b|\bis equal to\b)|(?P<about>\u2248)"
    r"|(?P<is>\b(?:is|are|makes?|gives?)\b)|(?P<to>(?<=\s)(?:to|through)\b)"
    r"|(?P<minus>-|\bminus\b)|[+*\u00d7\u00f7/]{1,2}|\b[xX]\b|\b(?:plus|times|(?:divided|multiplied) by)\b)"
    r"\s*(?=[-+(]*[$\u20ac\u00a3]?\s?[(-]?\.?[0-9])"
)
_VARIABLE = re.compile(r"\s*[-+*\u00d7\u00f7^]\s*(?:[b-hj-z](?![A-Za-z'])|[\u221a\u03c0])")
_PART_BEFORE = re.compile(
    r"(?:[<\u2264\u2265\u2260\u00b1\u221a^_/\u00d7\u00f7+*]|(?<![-=])>|[\w)]\s?-|!="
    r"|\b(?:more|less|fewer|greater|larger|smaller|higher|lower) than|\bat (?:least|most)|\bup to|\bequal to"
    r"|\banything but|\bother than|\bexceeds|\b(?:sqrt|log|ln)|^\W*(?:over|under|above|below|between)"
    r"|\b(?:half|twice|double|triple|times|thirds?|quarters?|dozen|square|cube|root|reciprocal)(?: of)?(?=[\s$]*\Z)"
    r"|\u4e0d\u662f|\u8d85\u8fc7|[\u5927\u5c0f\u591a\u5c11]\u4e8e|\u81f3\u5c11|\u6700\u591a|\u4e0d\u5230|\u5206\u4e4b"
    r"|\b(?:m(?:ay|ai|en)or (?:do )?que|(?:gr\u00f6\u00dfer|kleiner|mehr|weniger) als"
    r"|(?:m\u00e1s|mais|menos|plus|moins) de|(?:sup|inf)\u00e9rieure? \u00e0"
    r"|\u0431\u043e\u043b\u044c\u0448\u0435|\u043c\u0435\u043d\u044c\u0448\u0435"
    r"|\u0431\u043e\u043b\u0435\u0435|\u043c\u0435\u043d\u0435\u0435))[\s({\[=$]*\Z",
    re.IGNORECASE,
)
"""The number after it is a part of a formula, of a bound or of another number."""
_TERM_BEFORE = re.compile(r"(?<![A-Za-z])\w\Z|(?<![A-Za-z'])[b-hj-z]\s\Z")
_CHANGED_FROM = re.compile(
    r"\b(?:fell|dropped|declined|decreased|rose|grew|increased|climbed|went)\b[^0-9.]*\bfrom\s\Z"
)
_NEGATED = re.compile(
    r"(?:\b(?:not|cannot|never|nor|no es|nicht|pas|n\u00e3o \u00e9|\u043d\u0435)|n't"
    r"|\bneither|\brather than|\binstead of)\W+(?:\w+\W+)?\Z",
    re.IGNORECASE,
)
_AND = re.compile(r"\s?,?\s?(?:and )?(?=[0-9])")
_SAID_AGAIN = re.compile(
    r"(?:\s[A-Za-z]+)?\s*[(\[=,;]?\s*(?:\b(?:or|i\.e\.|that is|which is|equivalently)[\s,]*)*"
    r"(?:about|approximately|\u2248|~)?\s*(?=[-($\u20ac.0-9])"
)

_MONTH = (
    r"\b(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?|oct(?:ober)?"
    r"|(?:sept|nov|dec)(?:ember)?)\.?\s"
)
_LABEL = re.compile(
    rf"(?:{_MONTH}(?:[0-9]{{1,2}},? )?"
    r"|\b(?:in|for|during|by|since|from|to|through|until|of|ended|fy|fiscal|year|q[1-4]|the)\s(?:the )?"
    r"(?:fiscal |year )*|\()\Z", re.IGNORECASE,
)  # fmt: skip
"""Stands before a year that says when."""
_YEAR = re.compile(r"(?:19|20)[0-9]{2}(?![\w%]|[.,][0-9])(?P<says_when>:\s|'s\b|\s[-:]\s)?")
_DAY = re.compile(rf"{_MONTH}\Z", re.IGNORECASE)
_SPAN = re.compile(r"[0-9]+[ -](?:second|minute|hour|day|week|month|year|quarter)s?\b")
_NAMED_BY = re.compile(r"[0-9]+-(?:[KQ]\b|(?:second|minute|hour|day|week|month|year|quarter)\s[a-z])")
"""Names a thing, as in "the 10-K" and "a 5-year average"."""
_SPAN_BEFORE = re.compile(r"\b(?:in|over|within|for|after|every|last|past|first|next)\s(?:the )?\Z", re.IGNORECASE)
_CONCLUSION = re.compile(
    r"(?:\b(?:so|thus|therefore|hence|making|makes?|gives?|giving|totall?ing|totals)\b"
    r"|\btotal(?: \w+){0,2} ?(?::|\b(?:is|was|of)\b)|\u2192|=>)"
    r"[^0-9.;:\n]{0,40}?(?=[-+($\u20ac\u00a3]*[0-9])", re.IGNORECASE,
)  # fmt: skip
_SENTENCE = re.compile(
    r"[^0-9]*[A-Za-z]|\W*[0-9.,]+(?:\s[a-z]+)?\s?[-+*/\u00d7\u00f7]\s?\$?[0-9]"
    r"|\W*[0-9.,]+(?: [a-z]+){0,2} and \$?[0-9.,]+(?: [a-z]+){0,2} (?:makes?|gives?)\b"
)
"""Begins with words or with a calculation, so that the answer may come last."""
_BREAKDOWN = re.compile(
    r"\W*(?!Total|Answer|Result|Sum|Final)[A-Z][a-z]+: \W?[0-9][0-9.,]*(?: \w+)?[,;] (?:and )?[A-Z][a-z]+: "
)
"""Names parts and no whole: "April: 48, May: 24"."""


class _Reader:
    """Reads numbers as schools write them, or as finance does: "$1.2m", "a loss of $5", "1.5x"."""

    def __init__(self, finance: bool) -> None:
        self.finance = finance
        letters = r"(?(currency)\s?|)(?i:k|mm?|b)" if finance else r"[kKMB]|(?(currency)[mb]|(?!))"
        pattern = _QUANTITY.replace("LETTERS", letters)
        pattern = pattern.replace("MULTIPLE", "(?<!x)" if finance else "")
        self.figure = re.compile(pattern.replace("MULTIPLY", "x" if finance else ""), re.VERBOSE)

    def first(self, text: str) -> Candidate | None:
        """Return the first number of a plain text."""
        return next(self.candidates(text), None)

    def names_one(self, text: str) -> bool:
        """Say whether a text is a line with one number."""
        is_line = len(text) <= ANSWER_CHARACTERS and "\n" not in text.strip()
        return is_line and len(list(self.candidates(plain(text)))) == 1

    def settled(self, answers: Iterable[Answer]) -> Number | None:
        """Return the number that answers settle on."""
        number = settle(answers, self.first, plain, self._hedges)
        return number if isinstance(number, Number) else None

    def _hedges(self, number: object, rest: str) -> bool:
        return rest.startswith("!}") or is_hedged(self.first, number, rest)  # a factorial in a box

    def candidates(self, text: str) -> Iterator[Candidate]:
        """Yield the numbers of a plain text from its conclusion on: "48 and 24, so 72". What says when comes last."""
        digit = DIGIT.search(text)
        if not digit:
            return
        conclusions = list(_CONCLUSION.finditer(text)) if _SENTENCE.match(text) else []
        if not conclusions and (breakdown := _BREAKDOWN.match(text)):
            yield Candidate(None, *breakdown.span())
            return
        position = conclusions[-1].end() if conclusions else max(0, digit.start() - _LONGEST_SIGN)
        labels: list[Candidate] = []
        while found := self.figure.search(text, position):
            digits = max(found.start(), found.end("currency"), found.end("open"))
            before = text[max(0, digits - 40) : digits]
            year = _YEAR.match(text, digits)
            is_year = year and (year["says_when"] or _LABEL.search(before))
            is_span = _SPAN.match(text, digits) and _SPAN_BEFORE.search(before)
            candidate = self._candidate(text, found)
            position = year.end() if year and is_year else max(candidate.end, found.end())
            if is_year or is_span or _DAY.search(before) or _NAMED_BY.match(text, digits):
                labels.append(candidate._replace(is_label=True))
            elif _NEGATED.search(before):
                labels.append(Candidate(None, candidate.start, candidate.end))
            else:
                yield candidate
        yield from labels

    def _candidate(self, text: str, found: re.Match[str]) -> Candidate:
        """Return the value that a figure begins. A calculation gives its result, a part of a formula gives None."""
        number, start, end = self._quantity(found), found.start(), found.end()
        is_part = _PART_BEFORE.search(text, max(0, start - 40), max(start, found.end("open"))) is not None
        if found["sign"] or found["open"]:
            is_part = is_part or _TERM_BEFORE.search(text, max(0, start - 2), start) is not None
        sides: list[Number | None] = []
        while operator := _OPERATOR.match(text, end):
            other, other_end = self._next(text, operator)
            is_dash = operator["minus"] and operator["words"] and "=" not in text[end:].partition("\n")[0]
            if not other_end or is_dash or (operator["is"] and not is_part):
                break
            if operator["to"] and (number is None or other is None or number.percent != other.percent):
                break
            end = other_end
            if operator["to"] and _CHANGED_FROM.search(text, 0, start):
                number = other
            elif operator["equal"] or operator["is"] or operator["about"]:
                sides = [] if operator["about"] else [*sides, None if is_part else number]
                number, is_part = other, False
            else:
                is_part = True
        variable = _VARIABLE.match(text, end)
        sides.append(None if is_part or variable else number)
        values = [side for side in sides if side is not None]
        if not values or (number is None and not is_part):
            return Candidate(None, start, variable.end() if variable else end)
        result = values[-1]
        # "10/3 = 3.33" is a rounded result, "72 = 73" is none.
        if all(side.is_same(result) or (side.value.denominator > 1 and not side.decimals) for side in values):
            return Candidate(*self._with_more(text, result, start, end))
        return Candidate(None, start, end)

    def _quantity(self, found: re.Match[str]) -> Number | None:
        """Return the number of a figure with its percent sign, scale and unit. None if it is a part of more."""
        value, decimals = _value(found)
        if found["more"] or (found["below"] and not int(found["below"])):
            return None
        if found["below"]:
            below = int(found["below"])
            value = value + Fraction(int(found["above"]), below) if found["above"] else value / below
        others = (value,) if found["basis"] else ()
        value = value / 100 if found["basis"] else value
        scale = 1
        if name := found["scale_in"] or found["scale"] or found["letter"] or found["myriad"]:
            scale = _SCALES[name.strip().lower()]
            value, decimals = value * scale, max(0, decimals - len(str(scale)) + 1)
        name = (found["unit"] or found["currency"] or "").strip().lower()
        unit = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"), _NO_UNIT)
        value = -value if self._is_negative(found) else value
        return Number(value, found["percent"] is not None, decimals, others, unit, scale)

    def _next(self, text: str, gap: re.Match[str] | None) -> tuple[Number | None, int]:
        """Return the number after a gap, and its end. None and 0 if no figure stands there, None if it is no number."""
        found = self.figure.match(text, gap.end()) if gap else None
        return (self._quantity(found), found.end()) if found else (None, 0)

    def _is_negative(self, found: re.Match[str]) -> bool:
        before = found.string[max(0, found.start() - 80) : found.start()]
        signs = (found["sign"] or "") + (found["inner"] or "")
        if signs.count("-") == 1 and not (found["sign"] == "- " and before[-2:-1].isalpha()):  # a dash between words
            return True
        # Accounting writes (5) for -5. After words it is a remark, "five (5)".
        if (found["closed"] or found["closed_too"]) and not found["below"] and _NO_WORDS_BEFORE.match(before):
            return True
        return self.finance and bool(_FALL.search(before) or _FALLS.match(found.string, found.end()))

    def _with_more(self, text: str, number: Number, start: int, end: int) -> tuple[Number, int, int]:
        """Add the smaller unit of "2 hours 30 minutes", and the same quantity said again: "25% (0.25)"."""
        number, end = self._compound(text, number, end)
        while again := _SAID_AGAIN.match(text, end):
            other, other_end = self._next(text, again)
            if other is None:
                break
            other, other_end = self._compound(text, other, other_end)
            if not number.is_same(other):
                break
            number = replace(number, others=(*number.others, other.value, *other.others))
            end = other_end + text.startswith((")", "]"), other_end)
        return number, start, end

    def _compound(self, text: str, number: Number, end: int) -> tuple[Number, int]:
        """Add what a quantity has in a smaller unit."""
        dimension, size = number.unit
        other, other_end = self._next(text, _AND.match(text, end)) if dimension else (None, 0)
        if other is None or dimension != other.unit[0] or size <= other.unit[1]:
            return number, end
        whole = number.value * size + other.value * other.unit[1]
        return replace(number, value=whole / size, others=(*number.others, whole / other.unit[1])), other_end


def _value(found: re.Match[str]) -> tuple[Fraction, int]:
    whole, decimals = found["whole"] or "0", found["decimals"] or found["bare"] or ""
    if found["european"]:
        whole, _, decimals = found["european"].replace(".", "").partition(",")
    whole = re.sub("[, '_]", "", whole)
    value = Fraction(int(whole + decimals), 10 ** len(decimals)) if decimals else Fraction(int(whole))
    exponent = int(found["exponent"] or 0)
    return value * Fraction(10) ** exponent if exponent else value, max(0, len(decimals) - exponent)


_READERS = {finance: _Reader(finance) for finance in (False, True)}


def settled_number(answers: Iterator[Answer], *, finance: bool = False) -> Number | None:
    """Return the number that an answer settles on. A text without a marker must be a line that names one number."""
    reader = _READERS[finance]
    return reader.settled(each for each in answers if each.text != each.visible or reader.names_one(each.text))


def read_number(text: str, *, finance: bool = False) -> Number | None:
    """Return the first number of a text. None if it names none, or several as in "5 or 6"."""
    return _READERS[finance].settled([Answer.of(text[:ANSWER_CHARACTERS])])


def reference_numbers(ground_truth: JSON, *, finance: bool = False) -> tuple[Number, ...]:
    """Return the right numbers of a ground truth: one, or those of a list. Leaves out what names none or several."""
    reference = reference_of(ground_truth)
    items = reference if isinstance(reference, Sequence) and not isinstance(reference, str) else (reference,)
    return tuple(number for item in items if (number := _reference_number(reference_of(item), finance)))


def _reference_number(reference: JSON, finance: bool) -> Number | None:
    if isinstance(reference, str):
        return _number_of_text(reference, finance)
    if isinstance(reference, bool) or not isinstance(reference, Decimal | numbers.Real):
        return None
    if isinstance(reference, numbers.Rational):  # also those of numpy, whose integers would overflow
        return Number(Fraction(int(reference.numerator), int(reference.denominator)))
    written = Decimal(str(reference))  # 0.1 is a tenth, and has one decimal
    exponent = written.as_tuple().exponent
    return _without_noise(Number(Fraction(written), decimals=max(0, -exponent))) if isinstance(exponent, int) else None


@functools.lru_cache(maxsize=4096)
def _number_of_text(text: str, finance: bool) -> Number | None:
    number = settled_number(STANDARD.answers(text), finance=finance)
    return _without_noise(number or read_number(text, finance=finance))


def _without_noise(number: Number | None) -> Number | None:
    """Accept 0.3 for 0.30000000000000004, which is how a float writes 0.1 + 0.2."""
    if number is None or number.decimals < 15:
        return number
    rounded = Fraction(Decimal(number.value.numerator) / Decimal(number.value.denominator)).limit_denominator(10**12)
    return replace(number, others=(*number.others, rounded))
