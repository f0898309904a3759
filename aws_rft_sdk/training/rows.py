"""From recorded turns to rows of tokens that a trainer learns from. Nothing is tokenised here."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.runtime import chat
from aws_rft_sdk.types import Trajectory, Turn

_SIZE = array("q").itemsize


@dataclass(frozen=True)
class Row:
    """Tokens that the policy read and sampled one after the other. A trajectory has one row or more.

    `completion_ids`, `logprobs`, `mask` and `turns` have the same length. Each row holds at least one sampled token.
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
    began: str | None = None
    """Why the row continues no earlier row, in words. None for the first row of a trajectory."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens."""
        return self.prompt_ids + self.completion_ids

    def per_token(self, of_turns: Sequence[float]) -> tuple[float, ...]:
        """Return one number for each token of the completion, from one number for each turn of the trajectory.

        Args:
            of_turns: For example the advantages of the turns, as a method of `grpo.ADVANTAGES` returns them.

        Returns:
            The number of its turn for each sampled token. 0 for the others.
        """
        return tuple(of_turns[turn] if sampled else 0.0 for turn, sampled in zip(self.turns, self.mask, strict=True))


def rows_of(trajectory: Trajectory) -> list[Row]:
    """Return the rows of a trajectory, in the order in which they began. Each sampled token is in one row, once.

    A turn whose prompt begins with all tokens of a row, token for token, continues that row; the longest one, if there
    are several. Any other turn begins a row, and `Row.began` says why. That happens when the agent changed its history,
    when another agent of the rollout has a conversation of its own, when the chat template shows old messages otherwise
    than new ones, and when an engine tokenises the text of an answer otherwise than it was sampled.

    A turn that was repeated begins a row too, and both answers are trained. Both are samples of the policy, and the
    record does not tell which of them the agent read: an agent that votes reads both. An answer that was lost on its
    way adds noise, and no bias unless the loss depended on what was sampled.

    Returns:
        The rows. An empty list if no turn sampled a token.

    Raises:
        PayloadError: A turn has no token ids, no log-probabilities or no tokens of its prompt, or it has more
            log-probabilities than tokens or fewer.
    """
    rows: list[_Growing] = []
    for turn in trajectory.turns:
        prompt, sampled, logprobs = _tokens(trajectory, turn)
        if not sampled:
            continue
        packed = _packed(prompt)
        continued = max((row for row in rows if packed.startswith(row.packed)), key=len, default=None)
        if continued is None:
            continued = _Growing(prompt, packed, _reason(turn, packed, rows))
            rows.append(continued)
        continued.add(turn, prompt[len(continued) :], sampled, logprobs)
    return [row.finish() for row in rows]


def row_of_completion(completion: Mapping[str, Any]) -> Row:
    """Return the row of one chat completion, all of whose tokens were sampled.

    Raises:
        PayloadError: The completion has no token ids, no log-probabilities or no tokens of its prompt.
    """
    prompt, sampled = chat.read_prompt_token_ids(completion), chat.read_token_ids(completion)
    logprobs = chat.read_logprobs(completion)
    if not prompt or not sampled or not logprobs or len(logprobs) != len(sampled):
        raise PayloadError(
            "a completion has no prompt_token_ids, or not one log-probability for each of its token_ids. A trainer "
            "learns from the completions of its own policy: leave out LocalBedrock's policy="
        )
    return Row(prompt, sampled, logprobs, (1,) * len(sampled), (0,) * len(sampled))


class _Growing:
    """A row that further turns may continue."""

    def __init__(self, prompt: tuple[int, ...], packed: bytes, began: str | None) -> None:
        self.prompt, self.began = prompt, began
        self.packed = bytearray(packed)
        """All tokens. Bytes are compared far faster than numbers."""
        self.completion, self.logprobs = list[int](), list[float]()
        self.mask, self.turns = list[int](), list[int]()
        self.prompts = dict[int, int]()
        """The turn that sampled after this many tokens."""

    def __len__(self) -> int:
        return len(self.packed) // _SIZE

    def add(self, turn: Turn, read: tuple[int, ...], sampled: tuple[int, ...], logprobs: tuple[float, ...]) -> None:
        self.prompts[len(self) + len(read)] = turn.index
        self.packed += _packed(read) + _packed(sampled)
        self.completion += read + sampled
        self.logprobs += (0.0,) * len(read) + logprobs
        self.mask += (0,) * len(read) + (1,) * len(sampled)
        self.turns += (turn.index,) * len(read + sampled)

    def finish(self) -> Row:
        completion, logprobs = tuple(self.completion), tuple(self.logprobs)
        return Row(self.prompt, completion, logprobs, tuple(self.mask), tuple(self.turns), self.began)


def _reason(turn: Turn, packed: bytes, rows: list[_Growing]) -> str | None:
    """Say why a prompt continues none of the rows. Returns None if there are no rows."""
    if not rows:
        return None
    shared = [_common(packed, row.packed) for row in rows]
    common = max(shared)
    number = shared.index(common)
    row = rows[number]
    if common == 0:
        return f"turn {turn.index} has not even its first token in common with an earlier row"
    if common * _SIZE < len(packed):
        place = max(common - len(row.prompt), 0)
        is_sampled = common >= len(row.prompt) and row.mask[place]
        who = f"turn {row.turns[place]} {'sampled' if is_sampled else 'read'}"
        return f"turn {turn.index} parts from row {number} at token {common} of {len(row)}, which {who}"
    if common in row.prompts:
        return f"turn {turn.index} repeats the prompt of turn {row.prompts[common]}"
    return f"turn {turn.index} reads only the first {common} of the {len(row)} tokens of row {number}"


def _common(one: bytes, other: bytes | bytearray) -> int:
    """Return how many tokens two rows have in common at their beginning."""
    low, high = 0, min(len(one), len(other)) // _SIZE
    while low < high:
        middle = (low + high + 1) // 2
        if one.startswith(other[low * _SIZE : middle * _SIZE], low * _SIZE):
            low = middle
        else:
            high = middle - 1
    return low


def _packed(tokens: Sequence[int]) -> bytes:
    return array("q", tokens).tobytes()


def _tokens(trajectory: Trajectory, turn: Turn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    prompt, sampled, logprobs = turn.prompt_token_ids, turn.token_ids, turn.logprobs
    if prompt is not None and sampled is not None and len(sampled) == len(logprobs or ()):
        return prompt, sampled, logprobs or ()
    found = {"prompt_token_ids": prompt, "token_ids": sampled, "logprobs": logprobs}
    missing = [name for name, value in found.items() if value is None] or ["logprobs"]
    raise PayloadError(
        f"turn {turn.index} of trajectory {trajectory.trajectory_id} has no {' and no '.join(missing)}, or not one "
        "log-probability for each sampled token. Train with a TorchPolicy, or with an engine that answers "
        "`return_token_ids` and `logprobs`"
    )
