"""What a judge gives back, and what it cost. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from aws_rft_sdk.rewards.judge_failures import Failure
from aws_rft_sdk.rewards.rollout import RewardResult


@dataclass(frozen=True)
class JudgeResult(RewardResult):
    """A reward by a judge. Without a verdict, `reward` is None and `failure` says why; a judged 0.5 has no failure."""

    explanation: str = ""
    """What the judge said before it graded. Never part of the reward."""
    failure: Failure | None = None
    detail: str = ""
    """More about the failure, for people; "" without one."""


@dataclass(frozen=True)
class Comparison:
    """Which of two answers a judge prefers, asked in both orders."""

    preference: float | None
    """1.0 for the first, 0.0 for the second, 0.5 for neither; mean of both orders, None without both verdicts."""
    agrees: bool | None = None
    """Whether both orders gave one verdict. If not, the judge went by position, at least in part."""
    explanations: tuple[str, ...] = ()
    failure: Failure | None = None
    detail: str = ""


@dataclass(frozen=True)
class JudgeCost:
    """What a judge has used in this process."""

    calls: int = 0
    """Requests that were made, retries included."""
    retries: int = 0
    cache_hits: int = 0
    """Verdicts that came from the cache, for which no request was made."""
    failures: int = 0
    """Questions that ended without a verdict."""
    input_tokens: int = 0
    """As the provider reports them; 0 for one that does not."""
    output_tokens: int = 0

    def price(self, input_per_million: float, output_per_million: float) -> float:
        """Return the price of the tokens, in the currency of the two prices for a million."""
        return (self.input_tokens * input_per_million + self.output_tokens * output_per_million) / 1_000_000
