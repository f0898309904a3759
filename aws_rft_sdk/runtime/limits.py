"""Limits of a rollout: past one of them, the runtime refuses its next inference call."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime._recent import Recent
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.trajectories import Entry, Trajectories
from aws_rft_sdk.wire import LIMIT_ERROR_CODE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolloutLimits:
    """What one rollout may use. None stands for no limit.

    An inference call is refused if the turns before it have used up a limit. So the turn that crosses a limit of tokens
    or cost is still answered. The refusal is a 400 whose code is `rollout_limit_exceeded`. It is no turn, and no client
    repeats it. A handler that catches the error may return a reward as usual. Otherwise the rollout fails, and the kind
    of its failure is "limit".

    Raises:
        ConfigurationError: A field has a value that it cannot have. The text names the field.
    """

    max_turns: int | None = None
    """Turns, those in flight included."""
    max_total_tokens: int | None = None
    """Tokens of all requests and answers together, as the `usage` of the answers counts them."""
    max_cost: float | None = None
    """Cost of these tokens, in the currency of the prices. Needs `price_per_million`."""
    price_per_million: tuple[float, float] | None = None
    """Price of a million tokens of requests, and of a million tokens of answers."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_total_tokens"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=1, whole=True)
        if (self.max_cost is None) != (self.price_per_million is None):
            raise ConfigurationError(
                "max_cost and price_per_million need each other. Give both, for example max_cost=0.05 and "
                "price_per_million=(0.3, 1.2) for input and output tokens"
            )
        if self.max_cost is None or self.price_per_million is None:
            return
        check_number("max_cost", self.max_cost, low=0)
        prices: object = self.price_per_million
        if not isinstance(prices, list | tuple) or len(prices) != 2:
            raise ConfigurationError(
                f"price_per_million must be the prices of input and output tokens, like (0.3, 1.2), not {prices!r:.80}"
            )
        for price in prices:
            check_number("each price of price_per_million", price, low=0)
        if not self.max_cost or not any(prices):
            raise ConfigurationError("max_cost and one of the prices of price_per_million must be above 0")


class Used(NamedTuple):
    """What the turns of a trajectory have used."""

    tokens: int = 0
    cost: float = 0.0


class Limiter:
    """Counts what trajectories use, and refuses what is past their limits.

    Args:
        limits: The limits of each trajectory.
        trajectories: The trajectories.

    Concurrency: for the server's event loop.
    """

    def __init__(self, limits: RolloutLimits, trajectories: Trajectories) -> None:
        self._limits = limits
        self._counts_tokens = limits.max_total_tokens is not None or limits.max_cost is not None
        self._trajectories = trajectories
        self._used: Recent[int, Used] = Recent()
        """By the number of the trajectory. What is not here is counted from the records."""
        self._has_warned = False

    def check(self, entry: Entry) -> None:
        """Let a further turn of a trajectory begin.

        Raises:
            Refusal: 400 with a code of its own: a limit is used up. The text says which.
        """
        limits = self._limits
        if limits.max_turns is not None and entry.begun >= limits.max_turns:
            raise _refusal(f"max_turns={limits.max_turns}", entry)
        if not self._counts_tokens:
            return
        used = self._used.get(entry.number)
        if used is None:
            answers = self._trajectories.answers(entry) if entry.state.turns else ()
            used = self._used[entry.number] = self._sum(answer for *_, answer in answers)
        if limits.max_total_tokens is not None and used.tokens >= limits.max_total_tokens:
            raise _refusal(f"max_total_tokens={limits.max_total_tokens}", entry, f", tokens: {used.tokens}")
        if limits.max_cost is not None and used.cost >= limits.max_cost:
            raise _refusal(f"max_cost={limits.max_cost:g}", entry, f", cost: {used.cost:.6g}")

    def note(self, entry: Entry, response: bytes) -> None:
        """Count a turn that was recorded.

        Args:
            entry: Its trajectory.
            response: The chat completion as JSON.
        """
        if self._counts_tokens and entry.number in self._used:
            self._used[entry.number] = self._sum([response], self._used[entry.number])

    def _sum(self, responses: Iterable[bytes], used: Used = Used()) -> Used:  # noqa: B008 - a constant
        prices = self._limits.price_per_million or (0.0, 0.0)
        for response in responses:
            tokens = _tokens(json.loads(response))
            if tokens is None:
                self._warn()
                continue
            total, *parts = tokens
            cost = sum(part * price for part, price in zip(parts, prices, strict=True)) / 1_000_000
            used = Used(used.tokens + total, used.cost + cost)
        return used

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "an answer of the policy has no usage, so its tokens count for nothing: max_total_tokens and max_cost "
                "do not hold for such answers"
            )


def _refusal(limit: str, entry: Entry, used: str = "") -> Refusal:
    # Clients look for phrases in the texts of errors. This one has none about contexts, rates or lengths.
    text = f"The rollout has reached its limit {limit} (turns: {entry.begun}{used}). It gets no further turn"
    return Refusal(400, text, code=LIMIT_ERROR_CODE)


def _tokens(completion: Any) -> tuple[int, int, int] | None:
    """Return all tokens of a turn, those of its request and those of its answer. Returns None if it has no usage."""
    usage = completion.get("usage") if isinstance(completion, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    given = [usage.get(name) for name in ("total_tokens", "prompt_tokens", "completion_tokens")]
    total, asked, answered = (value if type(value) is int else 0 for value in given)
    return total or asked + answered, asked, answered
