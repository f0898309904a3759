"""How texts of models and tools are shown. They are hostile: whatever they hold must do no harm to a page."""

from __future__ import annotations

import re
from typing import NamedTuple

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""All that has no picture, or changes how others are shown. Tabs, line ends and joiners of letters are harmless."""
SHOWN = 20_000
"""Characters of one text on a page. The raw JSON has all of it."""
FOLDED = 1_500
"""Longer texts are folded."""


class Shown(NamedTuple):
    """A text as a page shows it."""

    text: str
    left_out: int
    """Characters that are not shown."""
    is_long: bool
    """Whether to fold it."""


def show_text(text: str, most: int = SHOWN) -> Shown:
    """Return a text with its invisible characters named, and cut off after `most` characters."""
    cut = text[:most]
    named = INVISIBLE.sub(lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", cut.replace("\r\n", "\n"))
    return Shown(named, len(text) - len(cut), len(text) > FOLDED or text.count("\n") > 25)


def excerpt(text: str | None, most: int = 160) -> str:
    """Return the beginning of a text on one line."""
    cut = " ".join(show_text(text or "", most).text.split())
    return cut + ("…" if text is not None and len(text) > most else "")
