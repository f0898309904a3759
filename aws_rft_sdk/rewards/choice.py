"""A reward for answers that are one of several letters, such as "B" or "The answer is (B)"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_names
from aws_rft_sdk.rewards._settling import Candidate, is_hedged, settle
from aws_rft_sdk.rewards._visible import PROSE_MARKER
from aws_rft_sdk.rewards.extract import MARKED, Answer, Comparator, Extract, Extractor, lines_after
from aws_rft_sdk.rewards.text import FILLER_WORDS, LATEX, UNSPACED, references_of

_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # full-width forms
_NARROW |= {0x24B6 + number: ord("A") + number for number in range(26)}  # letters in circles
_NARROW |= str.maketrans("\u2019\u3001\u3002\u3010\u3011\u300c\u300d\u201c\u201d\u201e\u00ab\u00bb", "',.[]" + '"' * 7)
_NARROW[0x130] = ord("I")  # the only letter that is two in small letters
_NARROW |= dict.fromkeys([0x3000, 0xA0, 0x200B, 0x200C, 0x200D, 0x2060], ord(" "))
"""One character for each, so that places in the text stay what they are."""


def _narrowed(text: str) -> str:
    return text if text.isascii() else text.translate(_NARROW)


_MARKUP = re.compile(r"\\text\w*\s?\{|\\(?=[&%])")
_CLOSED = r"(?:[ \t)\]}\"'*_`$]|</\w{1,6}>){0,16}"
_JOINED = (
    r"(?i:or|ou|oder|\u0438\u043b\u0438|\ub610\ub294|maybe|perhaps|possibly|alternatively|otherwise|else|if not"
    r"|(?:could|might|may)(?: also)? be|can also be|and|und|et|y|\u0438|also|as well(?: as)?|plus|versus|vs"
    r"|to|through|thru)"
)
_IS_RIGHT = (
    r"(?:is|seems|must be|would be|should be)(?: \w+ly)?(?: the| my)?(?: most| only| final)?(?: \w+ly)?"
    r" (?:answer|choice|option|(?:correct|right|best|better)(?=[^\w\s]|\s*$"
    r"| (?:answer|choice|option|one|because|since|as|and|but)\b))"
)
_RIGHT = re.compile(rf"\A{_CLOSED} ?is (?:correct|right|the (?:correct |right |best )?(?:answer|choice|option))\b")
_GOES_ON = (
    rf"(?:{_JOINED}|{_IS_RIGHT}|is (?:true|the|my|our)|it is|are|were|because|since|as|for|but|if|unless|when|not|"
    r"instead|rather|over|fits|works|holds|remains|porque|parce|car|weil|denn|pois|given|due|"
    r"which|based|by|in|from|according|with|without|too|(?:obvious|clear|definite|probab)ly)\b"
)
"""Lower-case words that may follow a choice. Any other makes the letter a word of a sentence: "A man", "I think"."""
_RULED_OUT = (
    r"(?:is|are|was|were|can|could|would|seems?)(?: \w+ly| both| all| also| be)*"
    r"(?:n't| (?:wrong|incorrect|false|not|too|out|ruled|impossible|irrelevant|eliminated)\b)"
    r"|[\uac00\uc774\ub294\uc740] \uc544[\ub2c8\ub2d9]"
)
_SAID = (
    # The sets of first letters make the search quick.
    r"\b(?=[abcfghilmoprstvw])(?:(?:(?:correct|right|best|true|final|valid|accurate|appropriate|selected|chosen|my)"
    r" (?:final )?(?:answer|statement|alternative|letter|response|one|pick)|choice|option|selection|verdict|conclusion|"
    r"solution|winner)[\s*_]{0,9}(?:is\b|:|=|-|(?:must|should|would|has to) be\b)"
    r"|(?:(?:statement|option|choice|alternative|letter|one) (?:that|which|i)|what|(?:right|correct|best) answer)"
    r"(?: (?!wrong|false|incorrect|not|never|least|worst|excluded|eliminated)[a-z']{1,15}){1,5} is\b"
    r"|(?:choos(?:e|ing)|pick|select|go(?:ing)? (?:with|for)|vote for|say|opt for|settle on|guess|answer with|"
    r"looks like|(?:seems|appears) to be|leaves(?: us with)?(?: only)?)\b"
    r"|(?<!wrong )(?<!incorrect )(?<!false )(?:(?:it|that|this|answer)"
    r"(?:['\u2019]s| is| (?:must|has to|should|would|can only) be)\b"
    r"|answer(?:,(?: (?!not\b|never\b)[a-z']{1,15}){1,3}, is\b|[\"'] ?:))"
    r"|(?:so|thus|therefore|hence|consequently|finally)\b[,:]?(?= ALONE))"
    r"|^(?!wrong|false|incorrect|not|question|\uc624\ub2f5)(?:(?:[^\W\d_]{2,12}|\u7b54)[:\uff1a]|ans\b\.?)(?= ?ALONE)"
    rf"|(?<![\w'])(?=[@ocas(\[*])(?=(?:option |choice |answer )?[(\[*]{{0,4}}@[)\]*]{{0,4}}\s{_IS_RIGHT}"
    r"|statement @ is (?:\w+ )?true\b"
    r"|(?<!not )(?<!that )only (?:\w+ )?[(\[*]{0,4}@[)\]*]{0,4} (?:fits|works|remains)\b)"
    "|(?=[\u7b54\u6b63\u9009\u9078\u89e3\u662f])(?:\u7b54\u6848|\u6b63\u78ba|\u6b63\u786e|\u9009\u9879|\u9078\u9805|"
    "\u9009\u62e9|\u9078\u64c7|\u9009|\u9078|\u6b63\u89e3|\u7b54\u3048|\u89e3\u7b54|(?<!\u4e0d)\u662f(?=ALONE))"
    "(?:\u9009\u9879|\u9078\u9805|\u7b54\u6848)?(?:\u5e94\u8be5|\u61c9\u8a72)?"
    "[\u662f\u4e3a\u70ba\u9009\u9078\u306f:\uff1a]?"
).replace("ALONE", r"[(\[*\"']{0,4}@[)\]*\"']{0,4}[.\u3002]?[ \t]{0,9}$")
"""Words that make a choice the answer. "@" is a choice."""


class _Letters:
    """Reads the choices that may be named."""

    def __init__(self, choices: str) -> None:
        self.upper = upper = "".join(sorted(set(choices.upper())))
        letter = f"[{upper}{upper.lower()}]"
        edge = rf"(?![^\W_{UNSPACED}\uac00-\ud7af]|'[a-z]|[+#]|-[a-z]|\.[a-z])"
        no_word = rf"{edge}(?!\s+(?!{_GOES_ON})[a-z])"
        one = rf"(?P<label>{letter}){no_word}"
        lead = rf"(?:^[0-9]{{1,2}}[.)] |<(?={letter}>)|</?\w{{1,6}}>|{LATEX}|[^\w?<\\]|_|{FILLER_WORDS}){{0,16}}"
        others = rf"(?:(?:,|,? and|,? or|/) {letter})*(?:,? and|,? n?or|/) {letter}"
        # "B" or "BC", wherever it stands
        self.some = re.compile(rf"{letter}(?<![A-Za-z0-9].)(?:{no_word}|(?<=[{upper}])[{upper}]+\b)", re.MULTILINE)
        self.first_choice = re.compile(rf"{lead}(?:(?i:not) {letter}[,;]?(?: but)?{lead})?{one}")
        self.places = Extract(MARKED, _Said(choices))
        self.several = re.compile(rf"{lead}[{upper}]{{2,}}\b")  # "BC"
        self.ruled_out = re.compile(rf"{_CLOSED}(?:{others})? ?{_RULED_OUT}")  # after a choice: " and C are wrong"
        self.anywhere = re.compile(
            r"(?:^[0-9]{1,2}[.)] )?(?<![A-Za-z0-9'])(?<![a-z]\.)(?:(?i:option|choice|answer|statement) [(*]*)?"
            rf"(?!a |i |A [a-z]|I and I)(?P<label>{letter}){no_word}",
            re.MULTILINE,
        )
        # "B. A and C are true", "B since it is more than A or C": others that explain the choice
        self.explained = re.compile(
            r"(?:[.:] |\b(?i:than|n?either|both|as|because|since|while|whereas|although|but|(?<!if )not|of|over) )"
            rf"{letter}{others}"
        )
        self.also = re.compile(  # "B or both", "C is also possible"
            rf"\A{_CLOSED}[,(]? ?(?i:or|maybe|perhaps) (?i:both|all|any|either|neither|none)\b"
            rf"|\b(?P<label>[{upper}]) (?:\w+ )?also\b"
        )
        self.label = re.compile(rf"(?<![\w'])({letter})[.):](?=\s)")  # before a text: "A. Rome"
        self.option = re.compile(  # from the end of a choice to another one with the same mark: "A. Rome, B. Paris"
            rf"[*_]*([.):]).*?(?:[,;/|]|\b(?:and|or)) ?[(\[*]{{0,3}}(?P<label>{letter})\1(?=\s)"
        )
        self.line = re.compile(
            rf"^{lead}{one}{_CLOSED}(?:(?P<bare>[^\w\n?-]*)$|(?<=[)\]])|[.:,;)(/|&]|-(?=\s)|\?(?!\s*\Z)| ?{_GOES_ON}"
            rf"|\s{letter}{edge}|[\u662f\u3067](?!.{{0,2}}[\u4e0d\u9519\u932f]))",
            re.MULTILINE,
        )
        said = _SAID.replace("[@", letter[:-1]).replace("@", letter)
        self.said = re.compile(rf"(?<![A-Za-z0-9])(?:{PROSE_MARKER.pattern}|{said})", re.MULTILINE)

    def first(self, text: str) -> Candidate | None:
        """Return the choice that a text begins with."""
        found = self.first_choice.match(text)
        if found is None:
            several = self.several.match(text)
            return Candidate("", 0, several.end()) if several else None
        is_out = self.ruled_out.match(text, found.end())
        return None if is_out else Candidate(found["label"].upper(), 0, found.end())

    def hedges(self, value: object, rest: str) -> bool:
        """Say whether what follows a choice names another one."""
        rest = _RIGHT.sub("", rest.rstrip())
        sentence, _, next_line = rest.partition("\n")
        labels = {label[1].upper() for label in self.label.finditer(sentence)} - {value}
        option, also = self.option.match(sentence), self.also.search(sentence)
        if len(labels) > 1 or self.label.match(next_line.lstrip(" \t*_([-")) or (option and option["label"] != value):
            return True  # the options, one after the other
        if also and also["label"] != value:
            return True
        return is_hedged(self.next, value, self.explained.sub(" ", rest).lstrip(".:)"))

    def next(self, text: str) -> Candidate | None:
        """Return the next choice that a text names, wherever it stands."""
        found = self.anywhere.search(text)
        if found is None or self.ruled_out.match(text, found.end()):
            return None
        return Candidate(found["label"].upper(), *found.span())


_letters = lru_cache(maxsize=32)(_Letters)


@dataclass(frozen=True)
class _Said(Extractor):
    """What words make the answer, or else the last line or the first one, if it begins with a choice."""

    choices: str

    def answers(self, visible: str) -> Iterator[Answer]:
        letters = _letters(self.choices)
        text = _narrowed(visible)
        choice = letters.some.search(text)
        if choice is None:
            return
        # The marker of a choice, such as "Answer:", stands on its line, or in the 40 characters before that.
        begin = visible.rfind("\n", 0, max(0, visible.rfind("\n", 0, choice.start()) - 40)) + 1
        for answer in lines_after(letters.said, text.lower(), max(begin, len(text) - 10_000)):
            yield answer._replace(visible=visible)
        lines = list(letters.line.finditer(text, begin, len(text.rstrip())))
        if not lines:
            return
        first, last = lines[0], lines[-1]
        is_list = len({line["label"].upper() for line in lines}) > 1  # the options, not an answer
        bare = {line["label"].upper() for line in lines if line["bare"] is not None}
        ends_list = not is_list or (last["bare"] is not None and len(bare) == 1)
        is_last = ends_list and "\n" not in text[last.start("label") :].rstrip()
        is_first = not is_list and not text[: first.start()].strip()
        for line in [last] * is_last + [first] * is_first:
            end = visible.find("\n", line.start("label"))
            yield Answer(visible, line.start(), line.start(), end if end >= 0 else len(visible))


@dataclass(frozen=True)
class Choice(Comparator):
    r"""1.0 if the answer names the right choice, or one of several, else 0.0.

    The choice stands after a marker (`#### B`, `\boxed{B}`, "answer is (B)", "I choose B"), or is what the first or
    the last line begins with ("B", "(B)", "B. Paris"). An answer is wrong if it names two ("A or B", "A, B", "B, or
    maybe C"), echoes the options, or depends ("B if ..., otherwise C").

    Raises:
        ConfigurationError: There are not at least two choices, or one is not a single letter.

    Example:
        >>> Choice().score("So the answer is (b) Paris.", "B")
        1.0
        >>> Choice().score("A or B", "B")
        0.0
    """

    choices: str = "ABCDEFGHIJ"
    """The letters that may be named."""

    def __post_init__(self) -> None:
        (letters,) = check_names("choices", (self.choices,))
        if not re.fullmatch("[A-Za-z]+", letters) or len(set(letters.upper())) < 2:
            raise ConfigurationError(f"choices must be a text of at least two letters, not {self.choices!r:.80}")

    def _extractor(self) -> Extractor:
        return _letters(self.choices).places

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return 1.0 or 0.0. None if the ground truth names no choice."""
        right = {letter for text in references_of(ground_truth) if (letter := _named_by(text, self))}
        return float(self._named(answers) in right) if right else None

    def _named(self, answers: Iterator[Answer]) -> object:
        letters = _letters(self.choices)
        return settle(answers, letters.first, lambda text: _MARKUP.sub(" ", _narrowed(text)), letters.hedges)


@lru_cache(maxsize=4096)
def _named_by(reference: str, choice: Choice) -> object:
    return choice._named(choice._extractor().answers(reference))


MultipleChoice = Choice
