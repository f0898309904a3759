"""Finds the answer in what the model sees.

A short answer may stand in a question by chance ("20" often does), so it is a leak only behind words that announce an
answer, with no new question after it: the solved examples of a few-shot prompt end in answers too. A worked solution
in a prompt is a leak anywhere. A long answer of one line may be one of the choices to pick from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_LONG = 40
_MARKER = (
    r"(?:####|\\boxed\{|\b(?:answer|solution|result|label|ground[_ -]?truth|target|expected[_ ]output)\b(?:\s+is\b)?)"
    r"(?:[^\w\n-]|\n(?!\n)){0,8}?(?:the\s+)?(?:(?:final\s+)?answer\s+is:?\s*)?[\"'$(*]{0,3}"
)
_NEXT_QUESTION = re.compile(r"^\W*(?:question|q|problem|input|task|example|user)\b[^:\n]{0,12}:", re.I | re.M)


def answers_in(value: Any) -> Iterator[str]:
    """Yield the texts that give a reference answer away: its strings, and what follows its last `####`."""
    if isinstance(value, str):
        text = value.strip()
        if text:
            yield text
            final = text.rpartition("####")[2].strip()
            if final and final != text:
                yield final
    elif isinstance(value, dict):
        for item in value.values():
            yield from answers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from answers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def leak_of(answer: str, visible: str) -> tuple[str, str] | None:
    """Return rule and problem where `visible` gives `answer` away, None where it does not."""
    if answer not in visible:
        return None
    if len(answer) >= _LONG:
        if "\n" in answer or "####" in answer:
            return "answer-leak", "the whole worked answer stands in what the model sees"
        return "answer-in-prompt", "the whole answer stands in what the model sees"
    pattern = _MARKER + re.escape(answer) + r"(?![\w]|[.,]\d)"
    for match in re.finditer(pattern, visible, re.IGNORECASE):
        if not _NEXT_QUESTION.search(visible, match.end()):
            return "answer-leak", f"the model sees {match[0][-60:]!r}"
    return None
