"""Which prompts of a dataset a run says something about: some rollouts right, some wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.runs.metrics.groups import Groups
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import RolloutTable

MIXED = "mixed"


class Difficulty(str, Enum):
    """What a rule says of a prompt."""

    KEPT = "kept"
    TOO_EASY = "too easy"
    """The rewards are equal and right, or more rollouts succeed than the band allows."""
    TOO_HARD = "too hard"
    """The rewards are equal and not right, or fewer rollouts succeed than the band allows."""
    NOT_MEASURED = "not measured"
    """The run has fewer than two rewards of the prompt."""


@dataclass(frozen=True)
class Keep:
    """The prompts to keep: those whose rewards differ, or those whose share of successes lies in a band."""

    low: float | None = None
    """None to keep prompts whose rewards differ."""
    high: float | None = None

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Read `mixed` or `0.2..0.8`. Both ends of a band belong to it.

        Raises:
            ConfigurationError: It is neither.
        """
        if text == MIXED:
            return cls()
        try:
            low, high = map(float, text.split(".."))
        except ValueError:
            low = high = -1.0
        if not 0 <= low <= high <= 1:
            raise ConfigurationError(f"keep is {text!r}. Give mixed, or a band of success such as 0.2..0.8")
        return cls(low, high)

    def judge(self, rewards: int, share: float, *, differ: bool) -> Difficulty:
        """Return what becomes of a prompt with so many rewards, of which this share succeeded."""
        if rewards < 2:
            return Difficulty.NOT_MEASURED
        if self.low is None or self.high is None:
            return Difficulty.KEPT if differ else Difficulty.TOO_EASY if share == 1 else Difficulty.TOO_HARD
        return (
            Difficulty.TOO_HARD if share < self.low else Difficulty.TOO_EASY if share > self.high else Difficulty.KEPT
        )


def judge_prompts(
    records: Iterable[RolloutRecord] | RolloutTable,
    prompts: Sequence[str],
    keep: Keep,
    *,
    success_threshold: float = SUCCESS_THRESHOLD,
) -> dict[str, Difficulty]:
    """Return what becomes of each prompt of a run. One that the run has several times is kept if one of them is.

    Args:
        records: Rollouts of the run.
        prompts: The prompts of the run, in its order.
        keep: The rule.
        success_threshold: Lowest reward that counts as a success.

    Raises:
        ConfigurationError: The records have more prompts than that.
    """
    table = RolloutTable.of(records)
    found: dict[str, Difficulty] = {}
    for group in Groups(table, success_threshold):
        if group.prompt_index >= len(prompts):
            raise ConfigurationError(
                f"the run has a prompt {group.prompt_index}, and its dataset has {len(prompts)}: it has changed since"
            )
        share = group.successes / group.rewarded if group.rewarded else 0.0
        said = keep.judge(group.rewarded, share, differ=not group.has_no_variance)
        prompt = prompts[group.prompt_index]
        if found.get(prompt) is not Difficulty.KEPT:
            found[prompt] = said
    return found
