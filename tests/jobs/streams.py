"""Synthetic training runs, each with the alarms that it must raise. Generated from a seed."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from aws_rft_sdk.jobs import Step

Rng = random.Random
Make = Callable[[Rng], list[Step]]
Shape = Callable[[float], float]
"""From the share of the run that is over, 0 to 1."""


def rise(low: float, high: float, pace: float = 4.0) -> Shape:
    return lambda x: high - (high - low) * math.exp(-pace * x)


def line(start: float, end: float) -> Shape:
    return lambda x: start + (end - start) * x


def points(*at: tuple[float, float]) -> Shape:
    """Straight lines between points."""

    def shape(x: float) -> float:
        for (x0, y0), (x1, y1) in itertools.pairwise(at):
            if x <= x1:
                return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        return at[-1][1]

    return shape


def level(value: float) -> Shape:
    return lambda x: value


def run(
    rng: Rng,
    n: int = 67,
    *,
    reward: Shape | None = None,
    noise: float = 0.05,
    clip: bool = True,
    entropy: Shape | None = None,
    length: Shape | None = None,
    length_noise: float = 0.06,
    grad: Shape | None = None,
    grad_noise: float = 0.3,
    likeness: float = 0.0,
    **more: Shape,
) -> list[Step]:
    """A run like the walkthrough's, apart from what is given. `more` are further fields, without noise."""
    reward, entropy = reward or rise(0.56, 0.92), entropy or line(0.64, 0.58)
    length, grad = length or line(520, 430), grad or level(0.001)
    steps, drift = [], 0.0
    for i in range(n):
        x = i / max(n - 1, 1)
        drift = likeness * drift + math.sqrt(1 - likeness**2) * rng.gauss(0, noise)
        mean = reward(x) + drift
        steps.append(
            Step(
                step=i + 1,
                total_steps=n,
                reward_mean=min(max(mean, 0.0), 1.0) if clip else mean,
                entropy=max(entropy(x) * (1 + rng.gauss(0, 0.05)), 0.0),
                grad_norm=grad(x) * math.exp(rng.gauss(0, grad_noise)),
                advantage_mean=rng.gauss(0.01, 0.01),
                policy_loss=rng.gauss(0.1, 0.03),
                response_length_mean=length(x) * (1 + rng.gauss(0, length_noise)),
                **{name: shape(x) for name, shape in more.items()},
            )
        )
    return steps


def changed(steps: list[Step], at: Sequence[int], **values: object) -> list[Step]:
    """Replace fields of the steps at some positions, from 0."""
    return [replace(s, **values) if i in at else s for i, s in enumerate(steps)]  # type: ignore[arg-type]


def only(steps: list[Step], *names: str) -> list[Step]:
    return [Step(s.step, **{name: getattr(s, name) for name in names}) for s in steps]


def spiked(steps: list[Step], at: Sequence[int], factor: float) -> list[Step]:
    return [replace(s, grad_norm=(s.grad_norm or 0) * factor) if i in at else s for i, s in enumerate(steps)]


def validated(rng: Rng, shape: Shape, every: int = 5, noise: float = 0.02, **options: object) -> list[Step]:
    steps = run(rng, **options)  # type: ignore[arg-type]
    return [
        replace(s, validation_reward_mean=shape(i / len(steps)) + rng.gauss(0, noise)) if i % every == 0 else s
        for i, s in enumerate(steps)
    ]


def shares(rng: Rng, name: str, shape: Shape, noise: float = 0.05, **options: object) -> list[Step]:
    steps = run(rng, **options)  # type: ignore[arg-type]
    return [
        replace(s, **{name: min(max(shape(i / len(steps)) + rng.gauss(0, noise), 0.0), 1.0)})
        for i, s in enumerate(steps)
    ]


def restarted(rng: Rng) -> list[Step]:
    """Steps 31 to 40 run twice: the job came back from the checkpoint of step 30."""
    steps = run(rng)
    return steps[:40] + [replace(s, reward_mean=(s.reward_mean or 0) - 0.02) for s in steps[30:]]


SLOW_ENTROPY = line(0.62, 0.3)
COLLAPSE = rise(0.62, 0.01, 12)

STREAMS: dict[str, tuple[Make, set[str]]] = {
    # Healthy
    "walkthrough": (lambda r: run(r), set()),
    "walkthrough to 0.97 by mid-run": (lambda r: run(r, reward=points((0, 0.56), (0.5, 0.95), (1, 0.97))), set()),
    "very noisy small batches": (lambda r: run(r, reward=rise(0.45, 0.9), noise=0.15), set()),
    "long and noisy": (lambda r: run(r, 300, reward=rise(0.3, 0.7), noise=0.12), set()),
    "slow learning": (lambda r: run(r, 100, reward=line(0.4, 0.6), noise=0.05), set()),
    "hard task from near 0": (lambda r: run(r, 100, reward=line(0.01, 0.08), noise=0.01), set()),
    "warm-up dip": (lambda r: run(r, reward=points((0, 0.56), (0.12, 0.42), (0.6, 0.85), (1, 0.9))), set()),
    "late start": (lambda r: run(r, reward=points((0, 0.3), (0.4, 0.3), (0.8, 0.8), (1, 0.85))), set()),
    "late plateau": (lambda r: run(r, 120, reward=points((0, 0.5), (0.4, 0.9), (1, 0.9)), noise=0.04), set()),
    "fast rise, long plateau": (lambda r: run(r, 100, reward=rise(0.4, 0.88, 20), noise=0.04), set()),
    "entropy falls slowly with reward": (lambda r: run(r, entropy=SLOW_ENTROPY), set()),
    "entropy rises": (lambda r: run(r, entropy=line(0.6, 1.1)), set()),
    "low entropy from the start": (lambda r: run(r, entropy=level(0.06)), set()),
    "length grows with reward": (lambda r: run(r, reward=line(0.3, 0.8), length=line(400, 1200)), set()),
    "length wanders": (lambda r: run(r, length=lambda x: 500 + 60 * math.sin(9 * x)), set()),
    "gradients vary by factors": (lambda r: run(r, grad_noise=1.0), set()),
    "gradients fall steeply at first": (lambda r: run(r, grad=rise(0.05, 0.002, 30)), set()),
    "gradients grow slowly": (lambda r: run(r, grad=line(0.001, 0.004)), set()),
    "rewards from -1 to 1": (lambda r: run(r, reward=line(-0.3, 0.6), noise=0.1, clip=False), set()),
    "rewards to 5": (lambda r: run(r, reward=rise(1.5, 3.7), noise=0.3, clip=False), set()),
    "rewards to 100": (lambda r: run(r, reward=rise(30, 80), noise=6, clip=False), set()),
    "smoothed metrics": (lambda r: run(r, noise=0.05, likeness=0.7), set()),
    "reward only": (lambda r: only(run(r), "reward_mean"), set()),
    "no entropy": (lambda r: [replace(s, entropy=None) for s in run(r)], set()),
    "no metrics": (lambda r: only(run(r)), set()),
    "few dead groups": (lambda r: shares(r, "dead_group_share", line(0.3, 0.35)), set()),
    "dead groups because all is solved": (
        lambda r: shares(r, "dead_group_share", line(0.2, 0.8), reward=rise(0.5, 0.97)),
        set(),
    ),
    "some truncated": (lambda r: shares(r, "truncated_share", level(0.02), noise=0.01), set()),
    "truncated at first only": (lambda r: shares(r, "truncated_share", rise(0.3, 0.0, 12), noise=0.005), set()),
    "one step truncated": (lambda r: changed(run(r, truncated_share=level(0.01)), [60], truncated_share=0.9), set()),
    "short answers of one length": (lambda r: run(r, length=level(4.8), response_length_max=level(5)), set()),
    "validation rises": (lambda r: validated(r, rise(0.5, 0.8)), set()),
    "validation noisy": (lambda r: validated(r, rise(0.5, 0.7), every=4, noise=0.05), set()),
    "validation flat": (lambda r: validated(r, level(0.6)), set()),
    "one bad step": (lambda r: changed(run(r), [40], reward_mean=0.0), set()),
    "last step bad": (lambda r: changed(run(r), [66], reward_mean=0.0), set()),
    "every tenth step": (lambda r: [replace(s, step=10 * s.step) for s in run(r, 30)], set()),
    "from step 0": (lambda r: [replace(s, step=s.step - 1) for s in run(r)], set()),
    "resumed at step 50": (lambda r: run(r)[50:], set()),
    "restart": (restarted, set()),
    "out of order": (lambda r: sorted(run(r), key=lambda s: (s.step * 7) % 67), set()),
    **{f"{n} steps": (lambda r, n=n: run(r, n), set()) for n in (1, 2, 3, 5)},
    "5 flat steps": (lambda r: run(r, 5, reward=level(0.5)), set()),
    "12 flat steps": (lambda r: run(r, 12, reward=level(0.5)), set()),
    "no steps": (lambda r: [], set()),
    # Rewards
    "flat": (lambda r: run(r, reward=level(0.4)), {"reward_flat"}),
    "flat at 0": (lambda r: run(r, reward=level(0.0), noise=0), {"reward_flat"}),
    "flat and noisy": (lambda r: run(r, 100, reward=level(0.5), noise=0.08), {"reward_flat"}),
    "flat, small": (lambda r: run(r, 40, reward=level(0.05), noise=0.01), {"reward_flat"}),
    "flat to 5": (lambda r: run(r, reward=level(3.0), noise=0.2, clip=False), {"reward_flat"}),
    "flat with one lucky step": (
        lambda r: changed(run(r, reward=level(0.4)), [30], reward_mean=0.95),
        {"reward_flat"},
    ),
    "falls slowly": (lambda r: run(r, reward=line(0.6, 0.35)), {"reward_falling"}),
    "falls after a rise": (
        lambda r: run(r, reward=points((0, 0.5), (0.5, 0.85), (1, 0.4))),
        {"reward_falling"},
    ),
    "breaks down at once": (
        lambda r: run(r, reward=points((0, 0.5), (0.8, 0.85), (0.82, 0.1), (1, 0.1))),
        {"reward_falling"},
    ),
    "small rewards fall": (lambda r: run(r, reward=line(0.2, 0.03), noise=0.02), {"reward_falling"}),
    "saturated": (lambda r: run(r, reward=level(0.98), noise=0.01), {"reward_saturated"}),
    "saturated at 1": (lambda r: run(r, reward=level(1.0), noise=0), {"reward_saturated"}),
    "saturated, 20 steps": (lambda r: run(r, 20, reward=level(0.97), noise=0.02), {"reward_saturated"}),
    "saturated at 1.5": (
        lambda r: run(r, reward=level(1.47), noise=0.01, clip=False, reward_max=level(1.5)),
        {"reward_saturated"},
    ),
    "saturated and dead": (
        lambda r: shares(r, "dead_group_share", level(0.9), reward=level(0.98), noise=0.01),
        {"reward_saturated", "dead_groups"},
    ),
    # Entropy
    "entropy collapse": (lambda r: run(r, entropy=COLLAPSE), {"entropy_collapse"}),
    "entropy to 0": (lambda r: run(r, entropy=points((0, 0.6), (0.3, 0.0), (1, 0.0))), {"entropy_collapse"}),
    "late entropy collapse": (
        lambda r: run(r, entropy=points((0, 0.62), (0.7, 0.6), (0.8, 0.02), (1, 0.01))),
        {"entropy_collapse"},
    ),
    "collapse that hurts": (
        lambda r: run(r, entropy=COLLAPSE, reward=points((0, 0.5), (0.3, 0.7), (1, 0.2))),
        {"entropy_collapse", "reward_falling"},
    ),
    "collapse without learning": (
        lambda r: run(r, entropy=COLLAPSE, reward=level(0.5)),
        {"entropy_collapse", "reward_flat"},
    ),
    "entropy falls without learning": (
        lambda r: run(r, entropy=line(1.0, 0.15), reward=level(0.5)),
        {"entropy_collapse", "reward_flat"},
    ),
    # Gradients
    "gradient spike": (lambda r: spiked(run(r), [35], 100), {"gradient_spike"}),
    "mild gradient spike": (lambda r: spiked(run(r, grad_noise=0.15), [35], 12), {"gradient_spike"}),
    "last step spikes": (lambda r: spiked(run(r), [66], 100), {"gradient_spike"}),
    "early spike": (lambda r: spiked(run(r, 30), [3], 100), {"gradient_spike"}),
    "three spikes": (lambda r: spiked(run(r), [20, 40, 60], 50), {"gradient_spike"}),
    "infinite gradient": (
        lambda r: changed(run(r), [30], grad_norm=None, other={"actor/grad_norm": "inf"}),
        {"gradient_spike"},
    ),
    "spike and fall": (
        lambda r: spiked(run(r, reward=points((0, 0.5), (0.5, 0.8), (0.55, 0.2), (1, 0.2))), [34], 200),
        {"gradient_spike", "reward_falling"},
    ),
    # Lengths
    "length hacking": (lambda r: run(r, reward=level(0.55), length=line(500, 1500)), {"length_growth", "reward_flat"}),
    "length grows after the plateau": (
        lambda r: run(
            r, 100, reward=points((0, 0.4), (0.4, 0.8), (1, 0.8)), length=points((0, 500), (0.4, 500), (1, 1800))
        ),
        {"length_growth"},
    ),
    "length grows while reward falls": (
        lambda r: run(r, reward=line(0.7, 0.4), length=line(500, 1200)),
        {"length_growth", "reward_falling"},
    ),
    "at the limit": (
        lambda r: run(r, length=level(1015), length_noise=0.005, response_length_max=level(1024)),
        {"truncation"},
    ),
    "truncated": (lambda r: shares(r, "truncated_share", level(0.2)), {"truncation"}),
    "truncation grows": (lambda r: shares(r, "truncated_share", line(0.0, 0.3), noise=0.02), {"truncation"}),
    "length hacking to the limit": (
        lambda r: shares(r, "truncated_share", line(0, 0.5), reward=level(0.5), length=rise(500, 2000, 3)),
        {"truncation", "length_growth", "reward_flat"},
    ),
    # Groups
    "dead groups": (lambda r: shares(r, "dead_group_share", level(0.8), reward=line(0.1, 0.25)), {"dead_groups"}),
    "dead groups and flat": (
        lambda r: shares(r, "dead_group_share", level(0.85), reward=level(0.05), noise=0.02),
        {"dead_groups", "reward_flat"},
    ),
    "groups die": (
        lambda r: shares(r, "dead_group_share", points((0, 0.2), (0.5, 0.8), (1, 0.9)), reward=rise(0.3, 0.5)),
        {"dead_groups"},
    ),
    "no advantages": (
        lambda r: [replace(s, advantage_mean=0.0) for s in run(r, reward=level(0.5), noise=0.03)],
        {"dead_groups", "reward_flat"},
    ),
    "equal rewards": (lambda r: run(r, 10, reward=level(0.5), noise=0, reward_std=level(0.0)), {"dead_groups"}),
    # Validation
    "overfitting": (lambda r: validated(r, points((0, 0.5), (0.4, 0.7), (1, 0.45))), {"overfitting"}),
    "overfitting from the start": (lambda r: validated(r, line(0.7, 0.45)), {"overfitting"}),
    "validation falls with training": (
        lambda r: validated(r, line(0.7, 0.4), reward=line(0.8, 0.5)),
        {"reward_falling"},
    ),
    # Gaps
    "gap": (lambda r: [s for s in run(r) if not 20 <= s.step <= 25], {"missing_steps"}),
    "one step missing": (lambda r: [s for s in run(r) if s.step != 30], {"missing_steps"}),
    "many gaps": (lambda r: [s for s in run(r) if s.step % 9], {"missing_steps"}),
    "gap and collapse": (
        lambda r: [s for s in run(r, entropy=COLLAPSE) if not 50 <= s.step <= 52],
        {"missing_steps", "entropy_collapse"},
    ),
}
"""By name: how to make the steps of a run, and the kinds of alarms."""
