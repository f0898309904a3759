"""What the rules of a preflight share: the rollouts, what is asked of them, and the sources of thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import compress

from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs.metrics import Estimate, Metrics, measure
from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN, Groups
from aws_rft_sdk.runs.preflight.dead_groups import dead_group_share
from aws_rft_sdk.runs.preflight.values import Checks, TrainingPlan
from aws_rft_sdk.runs.table import COMPLETED, RolloutTable

OURS = "this package, a proposal"
MTRL = "AWS, SageMaker multi-turn RL, hyperparameters and best practices"


class Sample:
    """Rollouts, and what rules ask of them."""

    def __init__(self, table: RolloutTable, plan: TrainingPlan, checks: Checks, success_threshold: float) -> None:
        self.table, self.plan, self.checks = table, plan, checks
        self.threshold = success_threshold
        self.groups = Groups(table, success_threshold)

    @cached_property
    def metrics(self) -> Metrics:
        """Figures of the rollouts."""
        return measure(self.table, success_threshold=self.threshold, max_tokens=self.plan.max_tokens)

    @cached_property
    def rewards(self) -> list[list[float]]:
        """Rewards of each prompt."""
        flat = iter(self.groups.rewards)
        return [[next(flat) for _ in range(count)] for count in self.groups.rewarded]

    @property
    def compared(self) -> list[list[float]]:
        """Rewards of each prompt that has two of them."""
        return [rewards for rewards in self.rewards if len(rewards) > 1]

    @property
    def are_equal(self) -> bool:
        """Whether all rewards are one number."""
        known = self.groups.rewards
        return len(known) > 1 and max(known) - min(known) <= EQUAL_WITHIN

    def by_group(self, column: Sequence[float], *, only: Sequence[bool]) -> Iterator[list[float]]:
        """Yield the values of a column of the table, prompt by prompt, of those rows that are wanted."""
        start = 0
        for count in self.groups.ended:
            rows = slice(start, start + count)
            yield list(compress(column[rows], only[rows]))
            start += count

    @cached_property
    def dead(self) -> Estimate | None:
        """Share of dead groups of the job's size. None if no prompt has two rewards."""
        return dead_group_share(self.compared, self.plan.group_size)

    @cached_property
    def limited(self) -> int:
        """How many rollouts failed because they used up a limit."""
        code = self.table.failures.get(FailureKind.LIMIT.value)
        pairs = zip(self.table.failure, self.table.status, strict=True)
        return sum(failure == code and status != COMPLETED for failure, status in pairs)


def interval_of(found: Estimate) -> tuple[float, float] | None:
    """Return both ends, if they are known."""
    return None if found.low is None or found.high is None else (found.low, found.high)
