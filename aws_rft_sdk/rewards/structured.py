"""Rewards for answers that are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON, freeze
from aws_rft_sdk.rewards._json import held, is_same, schema_text, validator
from aws_rft_sdk.rewards.extract import Answer, Comparator, Extractor, Whole

_FENCED = re.compile(r"(`{3,}|~{3,})[ \t]*(?:json\b)?\s*(?P<text>.*?)\s*\1", re.DOTALL | re.IGNORECASE)
_TAGGED = re.compile(r"<answer>\s*(?P<text>.*?)\s*</answer>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Schema(Comparator):
    """1.0 when the answer is JSON that the schema allows, else 0.0.

    The answer is the whole text, or the whole of one `<answer>` or fenced block: JSON with prose around it is not what
    a program can read. `Extract(CodeFence(), Whole()) >> Schema(...)` also takes a block among prose.

    NaN, infinities and an object with one key twice are not JSON here: readers differ in what they make of them. Remote
    references are not fetched. Keywords are looked at in the schema's order, up to the first that is violated: put
    `maxLength` before a `pattern` and `maxItems` before `uniqueItems`, which may take long.

    Raises:
        ConfigurationError: `parses` is not from 0 to 1, or the schema is none, or refers to what it does not hold
            (when that is first used).

    Example:
        >>> Schema({"type": "object", "required": ["city"]}).score('{"city": "Paris"}', None)
        1.0
    """

    schema: Mapping[str, JSON]
    """A JSON Schema. Its `$schema` says which draft, the newest otherwise."""
    match: bool = field(default=False, kw_only=True)
    """Also ask that the value equals the ground truth, or what it holds as JSON text."""
    parses: float = field(default=0.0, kw_only=True)
    """Score of JSON that the schema does not allow."""
    _text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_number("parses", self.parses, low=0, high=1)
        object.__setattr__(self, "_text", schema_text("schema", self.schema))
        object.__setattr__(self, "schema", freeze(self.schema))

    def _extractor(self) -> Extractor:
        return Whole()

    def compare(self, answers: Iterator[Answer], ground_truth: JSON) -> float | None:
        """Return 1.0, `parses` or 0.0; None when it has to match and there is no ground truth."""
        is_valid = validator(self._text)
        if self.match and ground_truth is None:
            return None
        answer = next(answers, Answer.of(""))
        text = answer.text.strip() if answer.json is None else answer.json
        for wrapping in (_TAGGED, _FENCED):
            wrapped = wrapping.fullmatch(text)
            text = wrapped["text"] if wrapped else text
        try:
            value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
        except (ValueError, RecursionError):  # also an integer of more digits than Python reads
            return 0.0
        if not is_valid(value):
            return self.parses
        return float(not self.match or is_same(value, ground_truth) or is_same(value, held(ground_truth)))


JsonSchema = Schema
"""The name of `Schema` in earlier releases."""


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value
