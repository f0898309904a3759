"""Runs of shapes that no limit was fitted to: written after the limits were fixed."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from aws_rft_sdk.jobs import Step
from tests.jobs.streams import Make, changed, level, line, points, rise, run, shares, spiked, validated

Rng = random.Random


def binomial(rng: Rng, n: int, p: object, rollouts: int) -> list[Step]:
    """Rewards of 0 and 1, so that the noise is that of so many rollouts."""
    steps = run(rng, n)
    chance = [p(i / (n - 1)) for i in range(n)]  # type: ignore[operator]
    return [
        replace(s, reward_mean=sum(rng.random() < c for _ in range(rollouts)) / rollouts)
        for s, c in zip(steps, chance, strict=True)
    ]


def walk(rng: Rng) -> list[Step]:
    """Difficulty of batches differs: a rise with a slow wave on it."""
    return run(rng, 90, reward=lambda x: 0.5 + 0.3 * x + 0.04 * math.sin(25 * x), noise=0.04)


def mantle_like(rng: Rng) -> list[Step]:
    steps = binomial(rng, 67, rise(0.56, 0.94, 5), 16)
    return [replace(s, grad_norm=0.0009 * math.exp(rng.gauss(0, 0.5))) for s in steps]


HARD_STREAMS: dict[str, tuple[Make, set[str]]] = {
    "binomial 16": (mantle_like, set()),
    "binomial 8, 75 steps": (lambda r: binomial(r, 75, rise(0.5, 0.9, 4), 8), set()),
    "binomial 32 hard": (lambda r: binomial(r, 100, line(0.03, 0.2), 32), set()),
    "wave on a rise": (walk, set()),
    "two-stage learning": (
        lambda r: run(r, 100, reward=points((0, 0.1), (0.2, 0.4), (0.6, 0.4), (0.75, 0.8), (1, 0.82))),
        set(),
    ),
    "dip in the middle": (
        lambda r: run(r, 80, reward=points((0, 0.4), (0.4, 0.75), (0.5, 0.55), (0.65, 0.78), (1, 0.9))),
        set(),
    ),
    "curriculum saw-tooth": (
        lambda r: run(r, 90, reward=lambda x: 0.4 + 0.3 * x + 0.2 * ((3 * x) % 1)),
        set(),
    ),
    "heavy tails": (
        lambda r: [
            replace(s, reward_mean=max((s.reward_mean or 0) - (0.4 if r.random() < 0.08 else 0), 0)) for s in run(r)
        ],
        set(),
    ),
    "lengths halve then recover": (lambda r: run(r, length=points((0, 600), (0.5, 300), (1, 520))), set()),
    "length noise 25 %": (lambda r: run(r, length_noise=0.25), set()),
    "length grows 20 % flat late": (
        lambda r: run(r, 100, reward=rise(0.4, 0.9, 6), length=line(500, 600)),
        set(),
    ),
    "entropy drops a third at once": (lambda r: run(r, entropy=points((0, 0.9), (0.1, 0.55), (1, 0.5))), set()),
    "entropy halves": (lambda r: run(r, 150, entropy=rise(1.2, 0.4, 3)), set()),
    "gradients drift 10 times": (lambda r: run(r, 150, grad=lambda x: 0.001 * 10**x), set()),
    "gradient wave": (lambda r: run(r, grad=lambda x: 0.002 + 0.0015 * math.sin(20 * x)), set()),
    "40 steps watch": (lambda r: run(r, 67)[:40], set()),
    "20 steps watch": (lambda r: run(r, 67)[:20], set()),
    "10 steps watch": (lambda r: run(r, 67)[:10], set()),
    "validation dips once": (
        lambda r: changed(validated(r, rise(0.5, 0.75)), [45], validation_reward_mean=0.55),
        set(),
    ),
    "validation each step noisy": (lambda r: validated(r, rise(0.5, 0.7), every=1, noise=0.06), set()),
    "validation of few rows": (lambda r: validated(r, level(0.6), every=10, noise=0.05), set()),
    "every other step": (lambda r: run(r)[::2], set()),
    "two restarts": (lambda r: run(r, 60)[:30] + run(r, 60)[20:45] + run(r, 60)[40:], set()),
    "rewards -1 to 0": (lambda r: run(r, reward=rise(-0.8, -0.2), noise=0.08, clip=False), set()),
    "tiny rewards": (lambda r: run(r, reward=line(0.001, 0.004), noise=0.0003), set()),
    "constant everything but rising": (
        lambda r: run(r, reward=line(0.3, 0.9), noise=0, grad_noise=0, length_noise=0),
        set(),
    ),
    "500 steps": (lambda r: run(r, 500, noise=0.08), set()),
    # wrong ones
    "binomial flat": (lambda r: binomial(r, 75, level(0.3), 64), {"reward_flat"}),
    "binomial all wrong": (lambda r: binomial(r, 40, level(0.0), 16), {"reward_flat"}),
    "binomial solved": (lambda r: binomial(r, 60, level(0.985), 32), {"reward_saturated"}),
    "leaks the answer": (
        lambda r: run(r, 80, reward=points((0, 0.4), (0.05, 1.0), (1, 1.0)), noise=0.01),
        {"reward_saturated"},
    ),
    "oscillates around a level": (
        lambda r: run(r, 90, reward=lambda x: 0.5 + 0.03 * math.sin(40 * x)),
        {"reward_flat"},
    ),
    "falls from the start, then stays": (
        lambda r: run(r, reward=points((0, 0.6), (0.3, 0.2), (1, 0.2))),
        {"reward_falling"},
    ),
    "rise, collapse of entropy and reward": (
        lambda r: run(
            r,
            100,
            reward=points((0, 0.4), (0.5, 0.8), (0.6, 0.1), (1, 0.1)),
            entropy=points((0, 0.7), (0.5, 0.6), (0.58, 0.02), (1, 0.01)),
        ),
        {"entropy_collapse", "reward_falling"},
    ),
    "collapse in 3 steps": (
        lambda r: run(r, 40, entropy=points((0, 0.6), (0.08, 0.01), (1, 0.005))),
        {"entropy_collapse"},
    ),
    "spike burst": (lambda r: spiked(run(r), [30, 31, 32, 33], 40), {"gradient_spike"}),
    "gradient steps up for good": (
        lambda r: run(r, grad=points((0, 0.001), (0.6, 0.001), (0.61, 0.05), (1, 0.05))),
        {"gradient_spike"},
    ),
    "length doubles late": (
        lambda r: run(
            r, 80, reward=points((0, 0.5), (0.3, 0.8), (1, 0.8)), length=points((0, 400), (0.6, 400), (1, 1400))
        ),
        {"length_growth"},
    ),
    "length grows, noisy": (
        lambda r: run(r, 100, reward=level(0.5), length=line(300, 700), length_noise=0.2),
        {"length_growth", "reward_flat"},
    ),
    "dead share noisy": (
        lambda r: shares(r, "dead_group_share", level(0.75), noise=0.15, reward=line(0.1, 0.3)),
        {"dead_groups"},
    ),
    "no advantage in the last third": (
        lambda r: changed(run(r, reward=points((0, 0.2), (0.6, 0.5), (1, 0.5))), range(44, 67), dead_group_share=1.0),
        {"dead_groups"},
    ),
    "truncation from the middle": (
        lambda r: shares(r, "truncated_share", points((0, 0.0), (0.5, 0.0), (0.7, 0.2), (1, 0.2)), noise=0.02),
        {"truncation"},
    ),
    "overfits late": (
        lambda r: validated(r, points((0, 0.4), (0.6, 0.75), (1, 0.5)), n=120, every=10),
        {"overfitting"},
    ),
    "overfits, four points": (
        lambda r: validated(r, points((0, 0.5), (0.3, 0.75), (1, 0.35)), every=16, noise=0.01),
        {"overfitting"},
    ),
    "gap at the end": (lambda r: [s for s in run(r) if s.step not in (64, 65)], {"missing_steps"}),
    "half of the steps lost": (lambda r: [s for s in run(r) if s.step <= 20 or s.step >= 50], {"missing_steps"}),
    "random third lost": (lambda r: [s for s in run(r) if r.random() > 0.33], {"missing_steps"}),
    # A third look
    "len grows w saturating reward": (lambda r: run(r, reward=rise(0.3, 0.85, 4), length=line(500, 1500)), set()),
    "len x3 with reward, noise": (
        lambda r: run(r, 80, reward=line(0.2, 0.7), noise=0.1, length=line(400, 1300), length_noise=0.12),
        set(),
    ),
    "very noisy sd .2": (lambda r: run(r, 67, reward=rise(0.5, 0.9), noise=0.2), set()),
    "plateau from step 20": (lambda r: run(r, 60, reward=points((0, 0.5), (0.33, 0.88), (1, 0.88)), noise=0.03), set()),
    "overshoot then settle": (
        lambda r: run(r, 80, reward=points((0, 0.4), (0.5, 0.88), (0.7, 0.82), (1, 0.85)), noise=0.04),
        set(),
    ),
    "slow small": (lambda r: run(r, 60, reward=line(0.5, 0.62), noise=0.04), set()),
    "20 steps learning": (lambda r: run(r, 20, reward=line(0.4, 0.7)), set()),
    "12 steps noisy down-ish": (lambda r: run(r, 12, reward=level(0.6), noise=0.1), set()),
    "zeros as placeholder": (lambda r: [replace(s, advantage_mean=0.0, policy_loss=0.0) for s in run(r)], set()),
    "lengths constant": (lambda r: [replace(s, response_length_mean=512.0) for s in run(r)], set()),
    "rewards NaN in some": (lambda r: [replace(s, reward_mean=None) if r.random() < 0.2 else s for s in run(r)], set()),
    "kl grows": (lambda r: run(r, kl=line(0, 0.2)), set()),
    "entropy noisy small": (lambda r: run(r, entropy=line(0.2, 0.08)), set()),
    "constant flat no noise": (lambda r: run(r, 50, reward=level(0.5), noise=0), {"reward_flat"}),
    "25 steps flat": (lambda r: run(r, 25, reward=level(0.5), noise=0.03), {"reward_flat"}),
    "saturated .955": (lambda r: run(r, 60, reward=level(0.96), noise=0.02), {"reward_saturated"}),
    "collapse 0.62 to 0.03 by 20": (
        lambda r: run(
            r, 60, entropy=points((0, 0.62), (0.33, 0.03), (1, 0.02)), reward=points((0, 0.5), (0.33, 0.7), (1, 0.7))
        ),
        {"entropy_collapse"},
    ),
    "some steps zero adv": (
        lambda r: [replace(s, advantage_mean=0.0) if r.random() < 0.7 else s for s in run(r, reward=line(0.2, 0.4))],
        {"dead_groups"},
    ),
    "pinned 2048": (
        lambda r: [
            replace(s, response_length_mean=2048.0 if s.step > 30 else s.response_length_mean)
            for s in run(r, reward=rise(0.3, 0.7), length=line(1500, 1900))
        ],
        {"truncation"},
    ),
    "fall 15%": (lambda r: run(r, 67, reward=points((0, 0.5), (0.4, 0.85), (1, 0.68)), noise=0.04), {"reward_falling"}),
    "spike 20x": (lambda r: spiked(run(r, grad_noise=0.4), [50], 40), {"gradient_spike"}),
    "overfit per step": (
        lambda r: validated(r, points((0, 0.5), (0.5, 0.75), (1, 0.55)), every=1, noise=0.04),
        {"overfitting"},
    ),
    "trunc 8%": (lambda r: shares(r, "truncated_share", level(0.09), noise=0.03), {"truncation"}),
    "flat 200 noisy": (lambda r: run(r, 200, reward=level(0.6), noise=0.15), {"reward_flat"}),
    "AR flat": (lambda r: run(r, 100, reward=level(0.5), noise=0.05, likeness=0.5), {"reward_flat"}),
    "AR plateau": (lambda r: run(r, 100, reward=rise(0.4, 0.8, 8), noise=0.06, likeness=0.6), set()),
    "dead from the start, yet solved": (
        lambda r: shares(r, "dead_group_share", level(0.8), reward=rise(0.5, 0.95)),
        {"dead_groups"},
    ),
    "no advantage in most steps, yet solved": (
        lambda r: [replace(s, advantage_mean=0.0) if r.random() < 0.7 else s for s in run(r, reward=rise(0.5, 0.95))],
        {"dead_groups"},
    ),
    "means of advantages are rounding errors": (
        lambda r: [replace(s, advantage_mean=r.choice([0.0, 3e-18])) for s in run(r, 40, reward=level(0.4))],
        {"reward_flat"},
    ),
    "entropy falls because all is solved": (
        lambda r: run(
            r,
            60,
            reward=points((0, 0.1), (0.2, 0.15), (0.6, 0.95), (1, 0.98)),
            entropy=points((0, 1.6), (0.2, 1.4), (0.6, 0.35), (1, 0.05)),
        ),
        set(),
    ),
    # Found by a reviewer's own runs
    "validation sinks slowly": (
        lambda r: validated(r, points((0, 0.5), (0.4, 0.65), (1, 0.54)), n=120, every=10, noise=0.01),
        {"overfitting"},
    ),
    "saturated within a fifth of the run": (
        lambda r: run(r, 100, reward=points((0, 0.6), (0.18, 0.985), (1, 0.99)), noise=0.01),
        {"reward_saturated"},
    ),
    "solved by a third of the run": (
        lambda r: run(r, 100, reward=points((0, 0.5), (0.35, 0.97), (1, 0.98)), noise=0.01),
        set(),
    ),
    "lengths explode in the last steps": (
        lambda r: run(
            r, 100, reward=points((0, 0.4), (0.6, 0.8), (1, 0.8)), length=points((0, 500), (0.85, 500), (1, 2500))
        ),
        {"length_growth"},
    ),
    "spike among noisy gradients": (lambda r: spiked(run(r, 120, grad_noise=0.4), [80], 40), {"gradient_spike"}),
    "entropy rises, then collapses": (
        lambda r: run(r, 100, reward=rise(0.4, 0.7), entropy=points((0, 0.3), (0.4, 1.0), (0.7, 0.06), (1, 0.04))),
        {"entropy_collapse"},
    ),
    "entropy rises and comes back": (lambda r: run(r, 100, entropy=points((0, 0.3), (0.4, 0.9), (1, 0.28))), set()),
    "entropy falls to an eighth": (
        lambda r: run(r, 100, reward=rise(0.4, 0.7), entropy=points((0, 0.62), (0.6, 0.08), (1, 0.075))),
        {"entropy_collapse"},
    ),
    "grader breaks near the end": (
        lambda r: run(r, 100, reward=lambda x: 0.4 + 0.4 * x if x < 0.8 else 0.0, noise=0.03),
        {"reward_falling"},
    ),
    "first step logged, then every tenth": (
        lambda r: [replace(s, step=max(10 * (s.step - 1), 1)) for s in run(r, 31)],
        set(),
    ),
    "collapse within the first steps": (
        lambda r: run(r, entropy=lambda x: max(0.05, 0.62 * math.exp(-17 * x))),
        {"entropy_collapse"},
    ),
}
"""By name: how to make the steps of a run, and the kinds of alarms."""
