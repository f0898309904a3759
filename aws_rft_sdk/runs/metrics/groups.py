"""Rollouts by prompt. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics.passk import pass_at_k, pass_power_k
from aws_rft_sdk.runs.records import RolloutRecord

EQUAL_WITHIN = 1e-9
"""Rewards of a group that differ by less are equal: a trainer adds more than this before it divides by their spread."""


_GREATEST = 1e100
"""Of rewards: the squares of greater ones, which a spread needs, may be beyond floats."""


def reward_of(record: RolloutRecord) -> float | None:
    """Return the reward, None when there is none, or none that is a finite number."""
    return record.reward if record.reward is not None and math.isfinite(record.reward) else None


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt that have ended."""

    prompt_index: int
    samples: int
    rewards: tuple[float, ...]
    """Of those that have one, in the order of the samples."""
    successes: int

    @property
    def mean(self) -> float | None:
        """Mean of the rewards, None without any."""
        return fmean(self.rewards) if self.rewards else None

    @property
    def spread(self) -> float | None:
        """Greatest reward minus least, None with less than two: one reward says nothing about a spread."""
        return max(self.rewards) - min(self.rewards) if len(self.rewards) > 1 else None

    @property
    def has_no_variance(self) -> bool:
        """Whether there are at least two rewards, all equal: the advantage of each is zero."""
        return self.spread is not None and self.spread <= EQUAL_WITHIN

    def pass_at(self, k: int) -> float | None:
        """pass@k of this prompt. A rollout without a reward did not succeed. None with less than k rollouts."""
        return pass_at_k(self.samples, self.successes, k) if self.samples >= k else None

    def pass_power(self, k: int) -> float | None:
        """pass^k of this prompt. A rollout without a reward did not succeed. None with less than k rollouts."""
        return pass_power_k(self.samples, self.successes, k) if self.samples >= k else None


def group_rollouts(records: Iterable[RolloutRecord], success_threshold: float) -> list[Group]:
    """Return the groups in the order of the dataset. A rollout counts once; say which record counts beforehand.

    Raises:
        ConfigurationError: A reward is too large for figures to be computed.
    """
    by_prompt: dict[int, list[RolloutRecord]] = defaultdict(list)
    for record in records:
        by_prompt[record.prompt_index].append(record)
    groups = []
    for prompt_index, members in sorted(by_prompt.items()):
        members.sort(key=lambda record: record.sample_index)
        rewards = tuple(reward for reward in map(reward_of, members) if reward is not None)
        if rewards and max(map(abs, rewards)) > _GREATEST:
            greatest = max(rewards, key=abs)
            raise ConfigurationError(
                f"a reward of prompt {prompt_index} is {greatest:g}; metrics take rewards up to {_GREATEST:g}"
            )
        successes = sum(reward >= success_threshold for reward in rewards)
        groups.append(Group(prompt_index, len(members), rewards, successes))
    return groups
