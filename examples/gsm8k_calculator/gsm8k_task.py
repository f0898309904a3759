"""A word problem as it travels: the prompt cell, what the model sees of it, and the reward of an answer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal

FINAL_MARK = "####"
"""Begins the line with the final answer, `#### <number>`."""

_FINAL_LINE = re.compile(rf"^[ \t]*{FINAL_MARK}(.*)$", re.MULTILINE)
_NUMBER = re.compile(
    r"""(?P<sign>-)? [$€£]? (?(sign)|(?P<late_sign>-)?)  # -$5 and $-5
        (?P<whole>[0-9]{1,3}(?:,[0-9]{3})+ | [0-9]+)?    # 1,234 or 1234
        (?P<fraction>\.[0-9]+)?
        \s?%? \.?""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Task:
    """A question and its answer."""

    question: str
    """The text of the user's message, word for word. The model sees nothing else."""
    answer: str | None = None
    """The number that is right, as text; None when nobody knows it, as in production."""

    @classmethod
    def parse(cls, cell: str) -> Task:
        """Read a prompt cell: a JSON object with `question` and `answer`. Any other text is a question of its own."""
        try:
            fields = json.loads(cell)
        except ValueError:
            return cls(cell)
        if not isinstance(fields, dict) or not isinstance(fields.get("question"), str):
            return cls(cell)
        answer = fields.get("answer")
        return cls(fields["question"], None if answer is None else str(answer))

    def cell(self) -> str:
        """Return the prompt cell of this task; `parse` of it gives the task again."""
        return json.dumps({"question": self.question, "answer": self.answer}, ensure_ascii=False)

    def reward(self, text: str) -> float | None:
        """Return 1.0 if the final number of `text` equals the answer exactly, else 0.0; None without an answer.

        Raises:
            ValueError: The answer of this task is not a number, so nothing can equal it.
        """
        if self.answer is None:
            return None
        expected = parse_number(self.answer)
        if expected is None:
            raise ValueError(f"the answer of the task is not a number: {self.answer!r}")
        return float(final_number(text) == expected)


def final_number(text: str) -> Decimal | None:
    """Return the number of the last line `#### <number>`, None if there is no such line."""
    numbers = [number for line in _FINAL_LINE.findall(text) if (number := parse_number(line)) is not None]
    return numbers[-1] if numbers else None


def parse_number(text: str) -> Decimal | None:
    """Return the value of a number as people write it, such as "-$1,250.50" or "12%"; None for anything else."""
    match = _NUMBER.fullmatch(text.strip().replace("\N{MINUS SIGN}", "-"))
    if match is None or not (match["whole"] or match["fraction"]):
        return None
    value = Decimal((match["whole"] or "0").replace(",", "") + (match["fraction"] or ""))
    return value.copy_negate() if match["sign"] or match["late_sign"] else value
