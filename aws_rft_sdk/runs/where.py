"""The filter language of `--where` and of the page: `reward<0.5 and (tool=calculator or not error=none)`.

    filter     = all {"or" all}
    all        = one {"and" one}
    one        = "not" one | "(" filter ")" | comparison
    comparison = field operator value
    operator   = "<" | "<=" | ">" | ">=" | "=" | "!=" | "~"       ("~" means: contains)
    value      = a number | a word | 'a text' | "a text" | none   (none means: there is no value)

A comparison with a missing value does not hold, except `field=none`. `!=` and `not` are the exact opposite of what they
negate, so `reward!=1` also finds rollouts without a reward. Letters are compared without regard to case, but for tools.
Everything the user types reaches SQL as a parameter.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from aws_rft_sdk.errors import ConfigurationError

ROLES = ("system", "user", "assistant", "call", "tool")
"""Whose text can be searched: `text.user~...`. "call" is what tools were called with, "tool" what they answered."""
OUTCOMES = ("completed", "failed", "unreported", "unrewarded", "open")
"""How a rollout ended. "unrewarded": it was sealed and no reward came. "open": it was not sealed, or still runs."""
NUMBERS = ("reward", "turns", "tokens", "seconds", "group", "sample", "attempts")
WORDS = ("outcome", "error", "tool", "id", "trajectory_id", "prompt")
TEXTS = ("text", *(f"text.{role}" for role in ROLES))
FIELDS = (*NUMBERS, *WORDS, *TEXTS)
METRICS = "metrics."
"""Begins the name of a figure that the handler returned, such as a component of the reward: `metrics.format=1`."""

_MOST_COMPARISONS, _MOST_NESTED = 100, 50  # SQLite takes expressions of a depth of 1000
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<operator><=|>=|!=|[<>=~])|(?P<bracket>[()])"""
    r"""|(?P<word>[^\s()<>=!~'"]+))""",
    re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""A kana, or a Chinese or Japanese ideograph."""
_BARE = re.compile(r"[^\s()<>=!~'\"\\]+")
_KEYWORDS = ("and", "or", "not", "none")

Value = float | str | None


@dataclass(frozen=True)
class Comparison:
    """A field compared with a value. None stands for a missing value."""

    field: str
    operator: str
    value: Value

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, str):
            is_bare = _BARE.fullmatch(value) and value.lower() not in _KEYWORDS
            shown = value if is_bare else _quoted(value)
        else:
            shown = "none" if value is None else repr(value).removesuffix(".0")
        name = self.field.removeprefix(METRICS)
        plain = not self.field.startswith(METRICS) or _BARE.fullmatch(name)
        return f"{self.field if plain else METRICS + _quoted(name)}{self.operator}{shown}"


@dataclass(frozen=True)
class Not:
    """The opposite of a filter."""

    part: Where

    def __str__(self) -> str:
        return f"not {_within(self.part, (And, Or))}"


@dataclass(frozen=True)
class And:
    """All of at least two filters."""

    parts: tuple[Where, ...]

    def __str__(self) -> str:
        return " and ".join(_within(part, (And, Or)) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """Any of at least two filters."""

    parts: tuple[Where, ...]

    def __str__(self) -> str:
        return " or ".join(_within(part, (Or,)) for part in self.parts)


Where = Comparison | Not | And | Or
"""A filter. Its text, by `str`, is parsed to an equal filter."""


def both(*filters: Where | None) -> Where | None:
    """Return a filter that demands all of these. None for those that demand nothing."""
    parts = tuple(part for part in filters if part is not None)
    return And(parts) if len(parts) > 1 else parts[0] if parts else None


def comparisons(where: Where) -> Iterator[Comparison]:
    """Yield the comparisons of a filter from left to right."""
    if isinstance(where, Comparison):
        yield where
    else:
        for part in (where.part,) if isinstance(where, Not) else where.parts:
            yield from comparisons(part)


def needs_turns(where: Where | None) -> bool:
    """Return whether a filter looks at what only the recorded turns tell: tools and texts of messages."""
    return where is not None and any(one.field == "tool" or one.field in TEXTS for one in comparisons(where))


def _within(part: Where, weaker: tuple[type, ...]) -> str:
    return f"({part})" if isinstance(part, weaker) else str(part)


def _quoted(text: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"


# --- reading ---------------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def parse_where(text: str) -> Where:
    """Return the filter that a text describes, see the grammar of this module.

    Raises:
        ConfigurationError: The text is no filter. The message names the place and what may stand there.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[_Token] = []
        self._position = 0
        self._comparisons = 0
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigurationError("the filter is not valid Unicode text; type it in UTF-8")
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                place += len(text[place:]) - len(text[place:].lstrip())
                self._fail(place, "this quote is not closed" if text[place] in "'\"" else f"{text[place]!r} is unknown")
            kind = found.lastgroup
            self._tokens.append(_Token(kind, found[kind], found.start(kind), found.end(kind)))
            place = found.end()
        self._tokens.append(_Token("end", "", len(text), len(text)))

    def parse(self) -> Where:
        where = self._any(0)
        if self._next.kind != "end":
            self._fail(self._next.start, "join comparisons with `and` or `or`")
        return where

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self) -> _Token:
        token = self._next
        self._position += token.kind != "end"
        return token

    def _skip(self, text: str) -> bool:
        found = self._next.kind in ("word", "bracket") and self._next.text.lower() == text
        self._position += found
        return found

    def _any(self, depth: int) -> Where:
        parts = [self._all(depth)]
        while self._skip("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self, depth: int) -> Where:
        parts = [self._one(depth)]
        while self._skip("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self, depth: int) -> Where:
        start = self._next.start
        if depth > _MOST_NESTED:
            self._fail(start, f"more than {_MOST_NESTED} `not` and brackets stand within each other")
        if self._skip("not"):
            return Not(self._one(depth + 1))
        if self._skip("("):
            inner = self._any(depth + 1)
            if not self._skip(")"):
                self._fail(self._next.start, f"the bracket at character {start + 1} is not closed; type )")
            return inner
        self._comparisons += 1
        if self._comparisons > _MOST_COMPARISONS:
            self._fail(start, f"this is comparison {_MOST_COMPARISONS + 1}; a filter has at most {_MOST_COMPARISONS}")
        return self._comparison()

    def _comparison(self) -> Comparison:
        token = self._take()
        if token.kind != "word" or token.text.lower() in _KEYWORDS:
            self._fail(token.start, "a field is missing; type for example reward<0.5")
        field = token.text
        if field == METRICS and self._next.kind == "text" and self._next.start == token.end:
            field += _unquoted(self._take().text)
        if not (field in FIELDS or (field.startswith(METRICS) and field != METRICS)):
            close = difflib.get_close_matches(field, FIELDS, 1)
            meant = f" Did you mean {close[0]}?" if close else ""
            self._fail(
                token.start, f"there is no field {field!r}.{meant} Fields are {', '.join(FIELDS)} and {METRICS}<name>"
            )
        operator, start = self._take(), self._next.start
        if operator.kind != "operator":
            self._fail(operator.start, f"after {field} an operator is missing; type one of < <= > >= = != ~")
        if self._next.kind == "operator" and self._next.text == "=":
            self._fail(start, "type a single =")
        found = self._take()
        is_none = found.kind == "word" and found.text.lower() == "none"
        if found.kind not in ("word", "text") or (found.text.lower() in _KEYWORDS and not is_none):
            self._fail(start, f"after {field}{operator.text} a value is missing; put quotes around texts")
        return self._checked(field, operator, found, is_none)

    def _checked(self, field: str, operator: _Token, found: _Token, is_none: bool) -> Comparison:
        sign = operator.text
        if field in TEXTS:
            value = _unquoted(found.text) if found.kind == "text" else found.text
            if sign != "~" or is_none:
                self._fail(operator.start, f"texts can be searched only; type {field}~'some words'")
            if not any(character.isalnum() for character in value):
                self._fail(found.start, "there is no letter and no digit to search for")
            return Comparison(field, sign, value)
        if is_none:
            if sign not in ("=", "!="):
                self._fail(operator.start, f"none has no size; type {field}=none or {field}!=none")
            return Comparison(field, sign, None)
        if field in WORDS:
            word = _unquoted(found.text) if found.kind == "text" else found.text
            if sign not in ("=", "!=", "~"):
                self._fail(operator.start, f"{field} is a text; type {field}=..., {field}!=... or {field}~...")
            if field == "outcome" and sign != "~" and word.lower() not in OUTCOMES:
                self._fail(found.start, f"there is no outcome {word!r}; outcomes are {', '.join(OUTCOMES)}")
            return Comparison(field, sign, word)
        if sign == "~":
            self._fail(operator.start, f"{field} is a number; type < <= > >= = or !=")
        if found.kind != "word" or not _NUMBER.fullmatch(found.text) or not math.isfinite(float(found.text)):
            self._fail(found.start, f"{field} is a number, and {found.text!r:.80} is none; type for example {field}<1")
        return Comparison(field, sign, float(found.text))

    def _fail(self, place: int, problem: str) -> NoReturn:
        raise ConfigurationError(f"the filter {self._text!r:.200} is wrong at character {place + 1}: {problem}")


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)


# --- to SQL ----------------------------------------------------------------------------------------------------------


class Sql(NamedTuple):
    """A piece of SQL and its parameters."""

    text: str
    parameters: tuple[float | str, ...] = ()


_COLUMNS = {"group": '"group"', "id": "trajectory_id", "error": "error_kind"}
_METRIC = "(SELECT value FROM metrics WHERE metrics.number = rollouts.number AND name = ?)"


def to_sql(where: Where, *, full_text: bool = True) -> Sql:
    """Return a condition on the index's table `rollouts`, which is 1 or 0 and never NULL.

    Args:
        where: The filter.
        full_text: Whether SQLite has FTS5. Otherwise texts are searched word for word, without an index.
    """
    if isinstance(where, Comparison):
        return _compare(where, full_text)
    if isinstance(where, Not):
        inner = to_sql(where.part, full_text=full_text)
        return Sql(f"NOT ({inner.text})", inner.parameters)
    parts = [to_sql(part, full_text=full_text) for part in where.parts]
    joint = " AND " if isinstance(where, And) else " OR "
    return Sql(
        joint.join(f"({part.text})" for part in parts), tuple(value for part in parts for value in part.parameters)
    )


def sort_column(field: str) -> Sql:
    """Return what rollouts are sorted by: a field with one value.

    Raises:
        ConfigurationError: There is no such field, or it has many values.
    """
    if field.startswith(METRICS) and field != METRICS:
        return Sql(_METRIC, (field.removeprefix(METRICS),))
    sortable = ("started_at", *(name for name in (*NUMBERS, *WORDS) if name != "tool"))
    if field not in sortable:
        raise ConfigurationError(f"rollouts cannot be sorted by {field!r}; type one of {', '.join(sortable)}")
    return Sql(_COLUMNS.get(field, field))


def _compare(one: Comparison, full_text: bool) -> Sql:
    field, sign, value = one.field, one.operator, one.value
    if sign == "!=":
        equal = _compare(Comparison(field, "=", value), full_text)
        return Sql(f"NOT ({equal.text})", equal.parameters)
    if field in TEXTS:
        return _search(field.partition(".")[2], str(value), full_text)
    if field == "tool":
        test, values = _word_test("tool", sign, value)
        found = f"EXISTS (SELECT 1 FROM tool_calls WHERE tool_calls.place = rollouts.place AND {test})"  # noqa: S608
        return Sql(f"NOT {found}" if value is None else found, values)
    if field == "error" and value is not None:
        tests = [_word_test(column, sign, value) for column in ("error_kind", "error_type", "error")]
        used = tests if sign == "~" else tests[:2]  # a message is never given whole
        return Sql(" OR ".join(f"ifnull({test}, 0)" for test, _ in used), tuple(v for _, vs in used for v in vs))
    if field in ("id", "trajectory_id") and sign == "=" and value is not None:
        return Sql("trajectory_id >= ? AND substr(trajectory_id, 1, ?) = ?", (str(value), len(str(value)), str(value)))
    column = sort_column(field)
    if value is None:
        return Sql(f"{column.text} IS NULL", column.parameters)
    if field in WORDS:
        test, values = _word_test(column.text, sign, value)
        return Sql(f"ifnull({test}, 0)", values)
    return Sql(f"ifnull({column.text} {sign} ?, 0)", (*column.parameters, float(value)))


def _word_test(column: str, sign: str, value: Value) -> tuple[str, tuple[str, ...]]:
    if value is None:
        return "1", ()
    if sign == "~":
        return f"instr(lower({column}), lower(?)) > 0", (str(value),)
    return (f"{column} = ?" if column == "tool" else f"lower({column}) = lower(?)"), (str(value),)


def spread(text: str) -> str:
    """Return a text with spaces around each Chinese or Japanese character, as texts are indexed and searched.

    These languages have no spaces between words. SQLite would take a whole sentence for one word.
    """
    return text if text.isascii() else _UNSPACED.sub(r" \g<0> ", text)


def _search(role: str, words: str, full_text: bool) -> Sql:
    parameters: tuple[str, ...]
    words = spread(words)
    if full_text:
        phrase = '"' + words.replace('"', '""').replace("\0", " ") + '" *'  # words in this order; the last may go on
        test, parameters = "texts MATCH ?", (f"{{{role}}} : {phrase}" if role else phrase,)
    else:
        columns = (role,) if role else ROLES
        test, parameters = " OR ".join(f"instr(lower({column}), lower(?)) > 0" for column in columns), (words,)
        parameters *= len(columns)
    # The rowid of a text is the key of its turn.
    found = f"place IS NOT NULL AND place IN (SELECT rowid >> 24 FROM texts WHERE {test})"  # noqa: S608
    return Sql(found, parameters)
