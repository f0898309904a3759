"""A run as alarms see it: the series of its metrics, and what its rewards do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

from aws_rft_sdk.jobs._trends import Trend, levels, spread, trend
from aws_rft_sdk.jobs.steps import Step

_TREND_STEPS = 12
"""Steps before the reward can be falling."""
_FLAT_STEPS = 25
"""Steps before the reward can be flat. AWS advises one change per 25 to 50 steps."""
LEVEL_STEPS = 8
"""Steps before levels, such as entropy or the share of dead groups, are judged."""
SIGNIFICANT = 2.3
"""Standard errors of a trend that noise explains in 1 of 100 runs."""
_SURE = 3.0
"""Standard errors of a change that more than one comparison may have found."""
_SATURATED = 0.95


class Found(NamedTuple):
    """What an alarm has found: where, and the figures in words."""

    step: int
    evidence: str


class Series(NamedTuple):
    """The values of a metric, and the steps that have one."""

    at: list[int]
    values: list[float]

    def last(self) -> list[float]:
        """Return the values of the last quarter, 5 at least."""
        return self.values[-max(5, len(self.values) // 4) :]


@dataclass(frozen=True)
class Run:
    """The steps of a run by number, and what its rewards do."""

    steps: tuple[Step, ...]

    def series(self, name: str) -> Series:
        pairs = [(step.step, value) for step in self.steps if is_finite(value := getattr(step, name))]
        return Series([at for at, _ in pairs], [value for _, value in pairs])

    @cached_property
    def reward(self) -> Series:
        return self.series("reward_mean")

    def before_reward(self, level: float) -> Run:
        """Return the steps before the reward first held a level for 5 steps."""
        at, values = self.reward
        reached = next((step for step, window in zip(at, levels(values, 5), strict=False) if window >= level), math.inf)
        return Run(tuple(step for step in self.steps if step.step < reached))

    @cached_property
    def trend(self) -> Trend:
        return trend(self.reward.values)

    @cached_property
    def ceiling(self) -> float | None:
        """The highest reward there is. None if nobody says, and rewards are above 1."""
        most = _high([*self.reward.values, 0.0])
        highest = self.series("reward_max").values
        if highest:
            return max(1.0, _high(highest))
        return 1.0 if most <= 1.0 else None

    @cached_property
    def range(self) -> float:
        """From the lowest to the highest reward, as far as is known."""
        lowest = min([0.0, *self.series("reward_min").values, *self.reward.values])
        return (self.ceiling or _high(self.reward.values)) - lowest

    def notable(self, level: float, share: float = 0.05) -> float:
        """Return the least change of the reward that matters: a share of the range, and less where rewards are low."""
        return min(share * self.range, max(0.3 * abs(level), 0.002 * self.range))

    @cached_property
    def falling(self) -> Found | None:
        at, values = self.reward
        if len(values) < _TREND_STEPS:
            return None
        width = max(5, len(values) // 8)
        windows = levels(values, width)
        best = max(range(len(windows)), key=windows.__getitem__)
        drop = windows[best] - windows[-1]
        error = 1.25 * spread(values) * math.sqrt(2 / width) * self.trend.inflation
        sudden = drop >= max(self.notable(windows[best], 0.1), (_SURE + 0.6) * error) and drop > 0
        slow = self.trend.significance <= -_SURE and -self.trend.change >= self.notable(windows[0])
        if not sudden and not slow:
            return None
        return Found(
            at[min(best + width, len(at)) - 1],
            f"mean reward fell from {windows[best]:.3g} (steps {at[best]} to {at[best + width - 1]}) "
            f"to {windows[-1]:.3g} (last {width} steps)",
        )

    @cached_property
    def saturated(self) -> Found | None:
        at, values = self.reward
        if len(values) < LEVEL_STEPS or self.ceiling is None or at[0] > max(10, at[-1] // 10):
            return None  # unknown, or the begin of the run is
        skipped = max(3, len(values) // 7)  # with half of the window, this is a fifth of the run
        rest = values[skipped:]
        early = rest[: max(5, len(values) // 8)]
        doubt = min(2 * spread(rest) / math.sqrt(len(early)), 0.02 * self.ceiling)
        if min(median(early), median(rest), median(self.reward.last())) < _SATURATED * self.ceiling - doubt:
            return None
        return Found(
            at[skipped],
            f"mean reward is {median(early):.3g} of at most {self.ceiling:.3g} from step {at[skipped]} on",
        )

    @cached_property
    def rose(self) -> bool:
        """Whether the reward has risen, slowly over the run or at once."""
        values = self.reward.values
        if len(values) < 5:
            return False
        level = median(values[:5])
        if self.trend.significance >= SIGNIFICANT and self.trend.change >= self.notable(level, 0.01):
            return True
        width = max(5, len(values) // 8)
        noise = 1.25 * spread(values) * self.trend.inflation
        best = max(levels(values, width)) if len(values) > width else level
        return any(
            best - median(values[:first])
            >= max(self.notable(level), (_SURE + 0.6) * noise * math.sqrt(1 / first + 1 / width))
            for first in (3, width)
        )

    @cached_property
    def flat(self) -> Found | None:
        """Flat is no rise, and so little noise that a rise of 15 % of the range would have shown."""
        at, values = self.reward
        if len(values) < _FLAT_STEPS or self.rose or self.falling or self.saturated:
            return None
        if self.trend.change + 1.5 * self.trend.error >= 0.15 * self.range and spread(values) > 0:
            return None
        late = trend(values[len(values) // 2 :])
        if late.significance >= _SURE and late.change >= self.notable(median(values)):
            return None  # it rises by now
        return Found(
            at[-1],
            f"mean reward is {median(values):.3g} over {len(values)} steps: change {self.trend.change:+.2g}, standard "
            f"error {self.trend.error:.2g}",
        )


def is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _high(values: Sequence[float]) -> float:
    """Return a high value that is no outlier: nine of ten are not above it."""
    return sorted(values)[int(0.9 * (len(values) - 1))]
