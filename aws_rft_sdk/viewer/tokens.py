"""What the tokens of a trajectory show: how likely each sampled one was, and which of them a trainer learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.training.rows import rows_of
from aws_rft_sdk.types import Trajectory, Turn

_LEVELS = (0.0, -0.1, -0.5, -1.5, -4.0)
"""Log-probabilities at which the shade of a token changes."""
MOST_TOKENS = 4_000
"""Of one turn on a page. The raw JSON has all of them."""


class Token(NamedTuple):
    """One sampled token."""

    text: str
    logprob: float
    level: int
    """From 0, sure, to 5, unlikely."""


class TurnMask(NamedTuple):
    """What a turn adds to its training row."""

    row: int
    read: int
    """Tokens that the turn read and no earlier turn of the row did. They are not trained."""
    sampled: int
    """Tokens that it sampled. They are trained."""


class MaskedRow(NamedTuple):
    """One training row."""

    turns: tuple[int, ...]
    tokens: int
    trained: int
    began: str | None
    """Why it continues no earlier row. None for the first one."""


@dataclass(frozen=True)
class LossMask:
    """Which tokens of a trajectory a trainer learns from: those that the policy sampled, each in one row."""

    rows: tuple[MaskedRow, ...]
    turns: Mapping[int, TurnMask]
    """By the index of the turn."""
    unknown: str | None = None
    """Why nobody can tell. None if it is known."""


def tokens_of(turn: Turn) -> list[Token]:
    """Return the sampled tokens of a turn. Empty if the policy gave no log-probabilities."""
    choices = turn.response.get("choices") if isinstance(turn.response, Mapping) else None
    first = choices[0] if choices else {}
    logprobs = first.get("logprobs") if isinstance(first, Mapping) else None
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    found = []
    for entry in content or ():
        text, value = (entry.get(name) if isinstance(entry, Mapping) else None for name in ("token", "logprob"))
        if isinstance(text, str) and isinstance(value, int | float):
            found.append(Token(text, float(value), sum(value < level for level in _LEVELS)))
    return found


def loss_mask(trajectory: Trajectory) -> LossMask:
    """Return the rows of a trajectory, as `aws_rft_sdk.training.rows_of` makes them."""
    try:
        rows = rows_of(trajectory)
    except PayloadError as error:
        return LossMask((), {}, str(error))
    turns: dict[int, TurnMask] = {}
    found = []
    for number, row in enumerate(rows):
        counts = Counter(zip(row.turns, row.mask, strict=True))
        counts[row.turns[0], 0] += len(row.prompt_ids)
        members = tuple(dict.fromkeys(row.turns))
        turns |= {turn: TurnMask(number, counts[turn, 0], counts[turn, 1]) for turn in members}
        found.append(MaskedRow(members, len(row.ids), sum(row.mask), row.began))
    return LossMask(tuple(found), turns)
