"""From recorded turns to rows of tokens that a trainer learns from. Nothing is tokenised here."""

from __future__ import annotations

from dataclasses import dataclass

from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.types import Trajectory, Turn


@dataclass(frozen=True)
class Row:
    """Tokens that the policy read and sampled one after the other. A trajectory has one row or more.

    `completion_ids`, `logprobs`, `mask` and `turns` have the same length.
    """

    prompt_ids: tuple[int, ...]
    """What the policy read before it sampled for the first time."""
    completion_ids: tuple[int, ...]
    """What it sampled, and between it what was added to the conversation: results of tools, messages of the user."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each sampled token. 0 for the others."""
    mask: tuple[int, ...]
    """1 for each sampled token, 0 for the others."""
    turns: tuple[int, ...]
    """Index of the turn in which each token was sampled. For the others, of the turn that read them first."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens."""
        return self.prompt_ids + self.completion_ids


def rows_of(trajectory: Trajectory) -> list[Row]:
    """Return the rows of a trajectory, in the order in which they began.

    A turn whose prompt begins with all tokens of a row, token for token, continues that row; the longest one, if there
    are several. Any other turn begins a row. That happens when the agent changed its history, when the chat template
    shows old messages otherwise than new ones, and when a turn is repeated.

    Raises:
        PayloadError: A turn has no token ids, no log-probabilities or no tokens of its prompt.
    """
    rows: list[Row] = []
    for turn in trajectory.turns:
        prompt, sampled, logprobs = _tokens(trajectory, turn)
        found = [row for row in rows if prompt[: len(row.ids)] == row.ids]
        before = max(found, key=lambda row: len(row.ids), default=None)
        if before is None:
            ones, turns = (1,) * len(sampled), (turn.index,) * len(sampled)
            rows.append(Row(prompt, sampled, logprobs, ones, turns))
            continue
        added = prompt[len(before.ids) :]
        rows[rows.index(before)] = Row(
            before.prompt_ids,
            (*before.completion_ids, *added, *sampled),
            (*before.logprobs, *(0.0 for _ in added), *logprobs),
            (*before.mask, *(0 for _ in added), *(1 for _ in sampled)),
            (*before.turns, *(turn.index for _ in (*added, *sampled))),
        )
    return rows


def _tokens(trajectory: Trajectory, turn: Turn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    found = {"prompt_token_ids": turn.prompt_token_ids, "token_ids": turn.token_ids, "logprobs": turn.logprobs}
    if missing := [name for name, value in found.items() if value is None]:
        raise PayloadError(
            f"turn {turn.index} of trajectory {trajectory.trajectory_id} has no {' and no '.join(missing)}. Train with "
            "a TorchPolicy, or with an engine that answers `return_token_ids` and `logprobs`"
        )
    return turn.prompt_token_ids or (), turn.token_ids or (), turn.logprobs or ()
