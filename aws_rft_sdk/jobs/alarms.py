"""Alarms: what is wrong with a training run, by its metrics. Pure functions over steps.

An alarm needs enough steps, an effect that matters, and a trend that noise does not explain. So one odd value is no
trend, a noisy run is no flat one, and the first steps raise nothing. Alarms describe the run as it stands. A run that
has recovered raises none, apart from `gradient_spike` and `missing_steps`, which are events. Each kind is decided on
its own. If entropy collapses and the reward falls with it, there are two alarms: the second says that the collapse
hurts.

Where a source names a number, the number is the source's, and the source is named. The other numbers are ours, tried
on generated runs (`tests/jobs/streams.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, median
from typing import NamedTuple

from aws_rft_sdk.jobs._advice import ADVICE
from aws_rft_sdk.jobs._run import LEVEL_STEPS, SIGNIFICANT, Found, Run, Series, is_finite
from aws_rft_sdk.jobs._trends import levels, spread, trend
from aws_rft_sdk.jobs.steps import Step, field_of, in_order

KINDS = tuple(ADVICE)
"""All kinds of alarms."""

_NEAR_CEILING = 0.85
"""Share of the highest reward from which dead groups are a success, if the reward rose there."""
_SOLVED = 0.9
"""Share of the highest reward from which low entropy is a success, if entropy fell as the reward rose."""
_SPIKE = 5.0
"""Times the usual gradient."""
_SPIKE_DEVIATIONS = 5.5
_DEAD_SHARE = 0.5
_DEAD_STEPS = 0.25
"""Share of steps in which no group at all had an advantage."""
_TRUNCATED = 0.05
_SHORT_CAP = 64.0
"""Responses of fewer tokens are of similar length by nature."""


class Alarm(NamedTuple):
    """Something that is wrong with a run.

    Attributes:
        kind: One of `KINDS`.
        step: Where it began, or showed.
        evidence: The figures, in words.
        advice: What to do.
        source: Who says so, and whose numbers the limits are.
    """

    kind: str
    step: int
    evidence: str
    advice: str
    source: str


def alarms(steps: Iterable[Step], *, max_response_tokens: float | None = None) -> list[Alarm]:
    """Return what is wrong with a run, in order of the steps; nothing for a healthy run.

    Args:
        steps: In any order. Of two records of a step the later one counts.
        max_response_tokens: The job's limit for a response. None if it is not known; then truncation shows only in
            `truncated_share`, or in lengths that stay at their maximum.
    """
    run = Run(tuple(in_order(steps)))
    found = {
        "reward_flat": run.flat,
        "reward_falling": run.falling,
        "reward_saturated": run.saturated,
        "entropy_collapse": _entropy_collapse(run),
        "gradient_spike": _gradient_spike(run),
        "length_growth": _length_growth(run),
        "dead_groups": _dead_groups(run),
        "truncation": _truncation(run, max_response_tokens),
        "overfitting": _overfitting(run),
        "missing_steps": _missing_steps(run),
    }
    raised = [Alarm(kind, *alarm, *ADVICE[kind]) for kind, alarm in found.items() if alarm is not None]
    return sorted(raised, key=lambda alarm: alarm.step)


def _entropy_collapse(run: Run) -> Found | None:
    at, values = run.series("entropy")
    if len(values) < LEVEL_STEPS:
        return None
    begin, end = max(values[:3]), median(values[-5:])
    # A rise of entropy that is only taken back is no collapse.
    start = begin if end > begin / 2 else max([begin, *levels(values, 5)])
    limit = max((0.15 if run.rose else 0.25) * start, 0.01)
    if end > limit or start <= 0 or _is_earned(run, start, limit):
        return None
    low = len(values)
    while low and values[low - 1] <= 2 * limit:
        low -= 1
    began = at[min(low, len(at) - 1)]
    return Found(began, f"entropy is {end:.2g} in the last 5 steps, after {start:.2g} before")


def _is_earned(run: Run, start: float, limit: float) -> bool:
    """Say whether the task was solved before entropy was low, and entropy fell while the reward rose.

    A policy that knows the answers has little entropy.
    """
    both = [s for s in run.steps if is_finite(s.reward_mean) and is_finite(s.entropy)]
    rewards, entropies = levels([s.reward_mean or 0.0 for s in both], 5), levels([s.entropy or 0.0 for s in both], 5)
    if not rewards or not run.rose or run.ceiling is None:
        return False
    solved = _SOLVED * run.ceiling
    at_half, at_end = (
        next((entropy for reward, entropy in zip(rewards, entropies, strict=True) if reward >= level), 0.0)
        for level in ((rewards[0] + solved) / 2, solved)
    )
    return at_end > limit and at_half <= 0.75 * start


def _gradient_spike(run: Run) -> Found | None:
    for step in run.steps:
        kept = [value for name, value in step.other.items() if field_of(name) == "grad_norm"]
        if any("inf" in str(value) for value in (step.grad_norm, *kept)):
            return Found(step.step, "the norm of the gradient is infinite")
    at, values = run.series("grad_norm")
    spikes = [index for index in range(1, len(values)) if _is_spike(values, index)] if len(values) > 5 else []
    if not spikes:
        return None
    worst = max(spikes, key=values.__getitem__)
    evidence = f"gradient norm {values[worst]:.3g} at step {at[worst]}, usual is {median(values):.3g}"
    return Found(at[spikes[0]], evidence + (f"; {len(spikes)} steps have spikes" if len(spikes) > 1 else ""))


def _is_spike(values: Sequence[float], index: int) -> bool:
    """Compare a gradient with the 20 before it on a log scale, as gradients vary by factors; at the begin with others.

    An early gradient must be above all before it by that factor: at the begin gradients may fall steeply.
    """
    before = [value for value in values[max(0, index - 20) : index] if value > 0]
    others = before if len(before) >= 5 else [v for i, v in enumerate(values[:12]) if i != index and v > 0]
    if len(others) < 5 or not before or values[index] <= 0:
        return False
    logs = [math.log(value) for value in others]
    deviation = max(spread([math.log(value) for value in values if value > 0]), 0.1)
    above = math.log(values[index]) - median(logs)
    early = len(before) < 5 and values[index] < _SPIKE * max(before)
    return above >= math.log(_SPIKE) and above >= _SPIKE_DEVIATIONS * deviation and not early


def _length_growth(run: Run) -> Found | None:
    both = [s for s in run.steps if is_finite(s.response_length_mean) and is_finite(s.reward_mean)]
    # What the reward gained before lengths grew does not pay for the growth.
    for stretch, factor in ((both, 1.3), (both[len(both) // 2 :], 1.8), (both[len(both) * 3 // 4 :], 1.8)):
        if len(stretch) < 15:
            continue
        lengths = [step.response_length_mean or 0.0 for step in stretch]
        width = max(3, len(lengths) // 8)
        first, last = median(lengths[:width]), median(lengths[-width:])
        begin = median(step.response_length_mean or 0.0 for step in both[:width])
        sudden = last - first >= 5 * spread(lengths) * math.sqrt(2 / width)
        if last < max(factor * first, 1.3 * begin) or not (sudden or trend(lengths).significance >= SIGNIFICANT):
            continue
        rewards = [step.reward_mean or 0.0 for step in stretch]
        paid = trend(rewards)
        level = median(rewards[:width])
        unpaid = paid.significance < SIGNIFICANT and paid.change + paid.error < 0.15 * run.range
        if unpaid or paid.change < run.notable(level):
            return Found(
                stretch[-1].step,
                f"mean length grew from {first:.4g} to {last:.4g} tokens since step {stretch[0].step}, while the mean "
                f"reward changed by {paid.change:+.2g}",
            )
    return None


def _dead_groups(run: Run) -> Found | None:
    if run.rose and not run.saturated and run.ceiling and median(run.reward.last()) >= _NEAR_CEILING * run.ceiling:
        return _dead(run, run.before_reward(_NEAR_CEILING * run.ceiling))  # later most groups are solved: a success
    return _dead(run, run)


def _dead(whole: Run, run: Run) -> Found | None:
    at, shares = series = run.series("dead_group_share")
    if len(shares) >= 5:
        share = max(median(series.last()), median(shares))
        if share <= _DEAD_SHARE:
            return None
        return Found(at[-1], f"{share:.0%} of the groups have equal rewards, and so no advantage")
    for name in ("reward_std", "advantage_mean"):
        at, values = series = run.series(name)
        zero = [value == 0 for value in values]
        if len(values) < 5 or (name == "advantage_mean" and _zero_by_construction(whole, values)):
            continue
        share = max(fmean(zero), fmean(zero[-len(series.last()) :]))
        if share >= _DEAD_STEPS:
            return Found(at[-1], f"{name} is exactly 0 in {share:.0%} of the steps: no group has an advantage there")
    return None


def _zero_by_construction(run: Run, means: Sequence[float]) -> bool:
    """Say whether advantages of living groups cancel out in the mean. Some services report the mean over all rollouts.

    Then some means are off 0 by rounding, or the model learns although all means are 0.
    """
    return any(0 < abs(mean) < 1e-9 for mean in means) or (not any(means) and run.rose)


def _truncation(run: Run, cap: float | None) -> Found | None:
    at, shares = series = run.series("truncated_share")
    if len(shares) >= 5:
        recent = sorted(series.last())[:-1]  # without the largest: one odd step is no trend
        if fmean(recent) <= _TRUNCATED:
            return None
        return Found(at[-1], f"{fmean(recent):.0%} of the responses in the last {len(recent) + 1} steps were cut off")
    at, means = series = run.series("response_length_mean")
    length = median(series.last()) if len(means) >= 5 else 0.0
    limit = cap or _guessed_cap(series.last(), run.series("response_length_max"))
    if limit is None or length < 0.9 * limit:
        return None
    return Found(at[-1], f"mean length is {length:.4g} tokens, {'' if cap else 'as if '}at the limit of {limit:.4g}")


def _guessed_cap(means: Sequence[float], longest: Series) -> float | None:
    """Return the token limit if lengths show it: the longest always end at the same number, or all are a power of 2."""
    recent = longest.last()
    if len(recent) >= 5 and median(recent) == max(longest.values) >= _SHORT_CAP:
        return max(recent)
    power = 2.0 ** math.ceil(math.log2(max([*means, 1.0])))
    return power if power >= 1024 and min(means) >= 0.98 * power else None


def _overfitting(run: Run) -> Found | None:
    at, values = run.series("validation_reward_mean")
    if len(values) < 4 or not run.rose:
        return None
    width = max(2, len(values) // 6)
    windows = [fmean(values[i : i + width]) for i in range(len(values) - width + 1)]
    best = max(range(len(windows)), key=windows.__getitem__)
    drop = windows[best] - windows[-1]
    bends = sorted(abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False))
    # The largest bend may be the best point itself.
    noise = max(1.5 * fmean(bends[:-1] or bends) / math.sqrt(6), 0.01 * run.range)
    doubt = noise * math.sqrt(2 / width)
    limits = ((0.08, 3.5), (0.05, 5.0))[: 1 if len(values) < 10 else 2]  # few values tell little about their noise
    fell = any(drop >= max(run.notable(windows[best], share), errors * doubt) for share, errors in limits)
    since = [value for step, value in zip(*run.reward, strict=True) if step >= at[best]]
    third = max(len(since) // 3, 1)
    held = len(since) >= 3 and median(since[-third:]) >= median(since[:third]) - run.notable(1)
    if not fell or not held or run.falling:
        return None
    return Found(
        at[best + width - 1],
        f"validation reward fell from {windows[best]:.3g} to {windows[-1]:.3g}, while the training reward held or rose",
    )


def _missing_steps(run: Run) -> Found | None:
    """Find gaps. Jobs that report every tenth step have none, and a file may begin at any step."""
    numbers = [step.step for step in run.steps]
    strides = sorted(b - a for a, b in itertools.pairwise(numbers))
    if len(strides) < 2:
        return None
    stride = strides[(len(strides) - 1) // 2]
    gaps = [(a + stride, b - stride) for a, b in itertools.pairwise(numbers) if b - a > stride]
    if not gaps:
        return None
    return Found(gaps[0][0], f"no record of {', '.join(_gaps(gaps))}")


def _gaps(gaps: Sequence[tuple[int, int]]) -> Iterator[str]:
    for first, last in gaps[:5]:
        yield f"step {first}" if first >= last else f"steps {first} to {last}"
    if len(gaps) > 5:
        yield f"and {len(gaps) - 5} more gaps"
