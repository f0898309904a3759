"""What a job would take: rollouts, hours, tokens, money. Figures, not verdicts; None where a figure is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.preflight.values import TrainingPlan
from aws_rft_sdk.runs.table import RolloutTable

ROLLOUT_STARTS_PER_SECOND = 5.0
"""Rollouts that the SageMaker service starts in a second. Source: hyperpod-recipes, `rollout_tps`."""
CONCURRENCY = 96
"""The SageMaker service's default for `rollout_max_concurrency`."""
PRICES = ("prefill", "sample", "train")
"""Kinds of tokens that the SageMaker service bills."""


@dataclass(frozen=True)
class Estimates:
    """What a job would take, if its rollouts were like those of the sample."""

    rollouts_per_step: int | None
    steps: int | None
    """The least of the plan's steps and of its epochs over all prompts."""
    rollouts: int | None
    rollouts_in_progress: float | None
    """Rollouts in progress at once, when as many start as the service allows. The worker must hold so many."""
    rollout_hours: float | None
    """Hours of rollouts alone. Training, evaluation and saving come on top."""
    prefill_tokens: int | None
    """Tokens that the policy reads in all turns."""
    sample_tokens: int | None
    """Tokens that the policy answers."""
    train_tokens: int | None
    """Tokens of the rows, if each rollout is one row: its longest request with the answer."""
    cost: float | None
    """By the prices that were given, in their currency."""
    worker_peak_bytes: int | None = None
    """Most memory that the process of the rollouts had, this package included."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return what is known as lines of text."""
        lines = []
        if self.rollouts is not None:
            lines.append(f"{self.steps} steps of {self.rollouts_per_step} rollouts are {self.rollouts:,} rollouts")
        if self.rollout_hours is not None and self.rollouts_in_progress is not None:
            at_once = f"{self.rollouts_in_progress:.0f} at once"
            lines.append(f"{self.rollout_hours:.1f} hours of rollouts, {at_once}, without training itself")
        if self.sample_tokens is not None:
            read = f"{self.prefill_tokens:,} tokens read, {self.sample_tokens:,} answered"
            lines.append(f"{read}, {self.train_tokens:,} trained if each rollout is one row")
        if self.cost is not None:
            lines.append(f"{self.cost:,.2f} by your prices")
        if self.worker_peak_bytes is not None:
            lines.append(f"{self.worker_peak_bytes / 2**20:,.0f} MiB of memory, this command included")
        return "\n".join(lines)


def estimate_job(
    table: RolloutTable,
    plan: TrainingPlan,
    prices: Mapping[str, float] | None = None,
    worker_peak_bytes: int | None = None,
) -> Estimates:
    """Return what a job would take.

    Args:
        table: Rollouts of the sample.
        plan: What the job will be run with.
        prices: Price of a million tokens of each kind in `PRICES`. A kind that is missing costs nothing.
        worker_peak_bytes: Handed on.
    """
    per_step = None if plan.batch_size is None else plan.batch_size * plan.group_size
    steps = _steps(plan)
    rollouts = None if per_step is None or steps is None else per_step * steps
    seconds = fmean(table.seconds) if len(table) else None
    at_once = None if seconds is None else min(plan.concurrency or CONCURRENCY, ROLLOUT_STARTS_PER_SECOND * seconds)
    hours = None
    if rollouts is not None and seconds is not None and at_once is not None:
        hours = rollouts * max(1 / ROLLOUT_STARTS_PER_SECOND, seconds / (plan.concurrency or CONCURRENCY)) / 3600
    read, answered, rows = (
        _all(rollouts, column, table) for column in (table.prompt_tokens, table.response_tokens, table.context)
    )
    counts = dict(zip(PRICES, (read, answered, rows), strict=True))
    cost = None
    if prices and read is not None:
        cost = math.fsum(price * (counts[kind] or 0) / 1e6 for kind, price in prices.items())
    at_once = None if at_once is None else max(1.0, at_once)
    return Estimates(per_step, steps, rollouts, at_once, hours, read, answered, rows, cost, worker_peak_bytes)


def read_prices(values: Mapping[str, JSON]) -> dict[str, float]:
    """Return the prices of a table, by kind of token.

    Raises:
        ConfigurationError: A name is no kind, or a price is no number of at least 0.
    """
    prices = {}
    for kind, price in values.items():
        if kind not in PRICES:
            raise ConfigurationError(f"{kind!r:.80} is no kind of token. Give prices of {', '.join(PRICES)}")
        if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price < math.inf:
            raise ConfigurationError(
                f"the price of {kind} is {price!r:.80}. Give the price of a million tokens, as 0.9"
            )
        prices[kind] = float(price)
    return prices


def _steps(plan: TrainingPlan) -> int | None:
    known = [] if plan.steps is None else [plan.steps]
    if plan.epochs is not None and plan.prompts is not None and plan.batch_size is not None:
        known.append(plan.epochs * max(1, plan.prompts // plan.batch_size))
    return min(known, default=None)


def _all(rollouts: int | None, column: object, table: RolloutTable) -> int | None:
    """Return the tokens of all rollouts of the job, from those of the sample that are known."""
    known = [value for value, turns in zip(column, table.response_turns, strict=True) if turns]  # type: ignore[call-overload]
    return round(rollouts * fmean(known)) if rollouts is not None and known else None
