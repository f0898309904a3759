"""Rules: could a job learn from these prompts and this reward?"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from statistics import fmean

from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN
from aws_rft_sdk.runs.metrics.hints import ZERO_VARIANCE_SHARE
from aws_rft_sdk.runs.metrics.intervals import estimate, mean_over_prompts, wilson
from aws_rft_sdk.runs.preflight.sample import OURS, Sample, interval_of
from aws_rft_sdk.runs.preflight.values import Reason, Verdict
from aws_rft_sdk.runs.table import COMPLETED

_OPENAI = "OpenAI, reinforcement fine-tuning use cases"
_NOVA = "AWS, Nova reinforcement fine-tuning, data guidance"
_HEADROOM = "arXiv 2504.13837"

NO_SUCCESS_BOUND = 0.03
LEAST_SUCCESS = 0.05
MOST_SUCCESS = 0.95
LEAST_HEADROOM = 0.05
MOST_FLIPS = 0.05
LENGTH_CORRELATION = 0.5
_LENGTH_CERTAIN = 0.3
"""The near end of the interval of the correlation must be beyond this."""
FEW_PROMPTS = 32
"""95 % of the time a share of one half is then within 17 points."""
TOO_FEW_PROMPTS = 16
"""95 % of the time a share of one half is then within 25 points, which says nothing."""


def _success(sample: Sample) -> Iterator[Reason]:
    """Whether there is success, and room for more."""
    known, success = len(sample.groups.rewards), sample.metrics.success
    if not known or success is None:
        return
    share, count = success.value, sum(sample.groups.successes)
    bound = 1 - 0.05 ** (1 / known)
    varies = any(max(rewards) - min(rewards) > EQUAL_WITHIN for rewards in sample.compared)
    if count == 0:
        text = f"no rollout of {known} reached a reward of {sample.threshold:g}; the true share is below {bound:.1%}"
        if bound >= NO_SUCCESS_BOUND:
            verdict, advice = Verdict.UNKNOWN, "Sample more rollouts: 100 without a success mean less than 3 %."
        elif varies:
            verdict, advice = Verdict.WARN, "Rewards differ below the success threshold. Check that it fits the reward."
        else:
            verdict, advice = Verdict.NO_GO, "Fine-tune on examples first, take easier prompts, or repair the reward."
        yield Reason("success_zero", verdict, 0.0, (0.0, bound), NO_SUCCESS_BOUND, _NOVA, text, advice)
    else:
        few = share < LEAST_SUCCESS
        advice = "Fine-tune on examples first, or take easier prompts: below 5 % training struggles." if few else ""
        verdict = Verdict.WARN if few else Verdict.GO
        text = f"{share:.1%} of the rollouts succeed"
        yield Reason("success_zero", verdict, share, interval_of(success), LEAST_SUCCESS, _NOVA, text, advice)
    much = share > MOST_SUCCESS
    advice = "Take harder prompts: there is nothing left to learn." if much else ""
    verdict, text = Verdict.WARN if much else Verdict.GO, f"{share:.1%} of the rollouts succeed"
    yield Reason("success_ceiling", verdict, share, interval_of(success), MOST_SUCCESS, _NOVA, text, advice)


def _rewards_equal(sample: Sample) -> Iterator[Reason]:
    known = sample.groups.rewards
    if len(known) < 2:
        return
    spread = max(known) - min(known)
    verdict, advice = Verdict.GO, ""
    text = f"rewards go from {min(known):g} to {max(known):g}"
    if sample.are_equal:
        verdict = Verdict.NO_GO if len(sample.compared) >= TOO_FEW_PROMPTS else Verdict.UNKNOWN
        text = f"all {len(known)} rewards are {known[0]:g}, so no rollout is better than another"
        advice = "Repair the reward, or take prompts of another difficulty."
    yield Reason("rewards_equal", verdict, spread, None, EQUAL_WITHIN, _OPENAI, text, advice)


def _dead_groups(sample: Sample) -> Iterator[Reason]:
    size, dead = sample.plan.group_size, sample.dead
    if dead is None:
        return
    few = dead.value > ZERO_VARIANCE_SHARE
    advice = (
        "Take prompts of middling difficulty (aws-rft dataset filter), larger groups, or a finer reward." if few else ""
    )
    text = f"{dead.value:.0%} of the groups of {size} would have equal rewards and teach nothing"
    verdict = Verdict.WARN if few else Verdict.GO
    yield Reason("dead_groups", verdict, dead.value, interval_of(dead), ZERO_VARIANCE_SHARE, OURS, text, advice)


def _headroom(sample: Sample) -> Iterator[Reason]:
    sizes = sorted(sample.groups.samples)
    k = min(sample.plan.group_size, sizes[len(sizes) // 2] if sizes else 0)
    if k < 2 or (not any(sample.groups.successes) and not sample.are_equal):
        return  # without a success, pass@k says nothing of rewards that differ; success_zero says so
    many, one = sample.groups.pass_at(k), sample.groups.pass_at(1)
    gains = array("d", (last - first for first, last in zip(one, many, strict=True)))
    found = estimate([mean_over_prompts(gains, (0.0, 1.0))])[0]
    if found is None:
        return
    little = found.value < LEAST_HEADROOM
    advice = (
        "Training sharpens what some rollouts reach already. Take prompts that some rollouts solve." if little else ""
    )
    text = f"pass@{k} is {100 * found.value:.1f} points above pass@1"
    verdict = Verdict.WARN if little else Verdict.GO
    yield Reason("headroom", verdict, found.value, interval_of(found), LEAST_HEADROOM, _HEADROOM, text, advice)


def _sample_size(sample: Sample) -> Iterator[Reason]:
    prompts = len(sample.compared)
    verdict = Verdict.UNKNOWN if prompts < TOO_FEW_PROMPTS else Verdict.WARN if prompts < FEW_PROMPTS else Verdict.GO
    error = 0.98 / math.sqrt(prompts) if prompts else 1.0
    text = f"{prompts} prompts have two rewards or more: shares are known within {100 * min(1.0, error):.0f} points"
    needed = _prompts_needed(sample)
    if needed is not None and needed > prompts:
        text += f"; {needed} prompts would tell whether more than half of the groups are dead"
    advice = "" if verdict is Verdict.GO else "Sample 64 prompts or more, with several rollouts of each."
    yield Reason("sample_too_small", verdict, prompts, None, FEW_PROMPTS, OURS, text, advice)


def _prompts_needed(sample: Sample) -> int | None:
    """Return how many prompts it takes to tell the share of dead groups from the threshold, at 95 % confidence."""
    if sample.dead is None:
        return None
    distance = max(0.01, abs(sample.dead.value - ZERO_VARIANCE_SHARE))
    return math.ceil(max(FEW_PROMPTS, (0.98 / distance) ** 2))


def _noise(sample: Sample) -> Iterator[Reason]:
    if sample.checks.repeated_rewards is None or not sample.checks.repeated_rewards[0]:
        return
    repeated, changed = sample.checks.repeated_rewards
    share = changed / repeated
    verdict, advice = Verdict.GO, ""
    if share > MOST_FLIPS:
        verdict, advice = Verdict.WARN, "Make the reward deterministic, or let a judge vote."
    text = f"{changed} of {repeated} rollouts got another reward for the same answers"
    yield Reason("reward_noise", verdict, share, wilson(share, repeated), MOST_FLIPS, OURS, text, advice)


def _components(sample: Sample) -> Iterator[Reason]:
    if not sample.table.metrics or sample.are_equal:
        return
    dead = []
    for name, (rows, values) in sorted(sample.table.metrics.items()):
        column = array("d", [math.nan]) * len(sample.table)
        for row, value in zip(rows, values, strict=True):
            column[row] = value
        known = [value == value for value in column]
        groups = [group for group in sample.by_group(column, only=known) if len(group) > 1]
        if groups and all(max(group) - min(group) <= EQUAL_WITHIN for group in groups):
            dead.append(name)
    verdict, advice, text = (
        Verdict.GO,
        "",
        f"all {len(sample.table.metrics)} figures of the handler differ in some group",
    )
    if dead:
        verdict, text = Verdict.WARN, f"the same for all rollouts of a prompt, in every group: {', '.join(dead)}"
        advice = "A part of a reward that is constant within groups teaches nothing. Repair it, or leave it out."
    yield Reason("component_dead", verdict, len(dead), None, 0, OURS, text, advice)


def _length(sample: Sample) -> Iterator[Reason]:
    table = sample.table
    wanted = [
        turns > 0 and reward == reward and status == COMPLETED
        for turns, reward, status in zip(table.response_turns, table.reward, table.status, strict=True)
    ]
    pairs: list[tuple[float, float]] = []
    groups = 0
    columns = (sample.by_group(column, only=wanted) for column in (table.response_tokens, table.reward))
    for lengths, rewards in zip(*columns, strict=True):
        if len(rewards) > 1:
            groups += 1
            middle, mean = fmean(lengths), fmean(rewards)
            pairs += [(length - middle, reward - mean) for length, reward in zip(lengths, rewards, strict=True)]
    squares = [math.fsum(pair[side] ** 2 for pair in pairs) for side in (0, 1)]
    free = len(pairs) - groups - 2
    if free < 4 or not all(squares):
        return
    value = max(-1.0, min(1.0, math.fsum(a * b for a, b in pairs) / math.sqrt(squares[0] * squares[1])))
    inner = math.atanh(max(-0.999999, min(0.999999, value)))
    low, high = (math.tanh(inner + sign * 1.959964 / math.sqrt(free)) for sign in (-1, 1))
    follows = abs(value) >= LENGTH_CORRELATION and (low > _LENGTH_CERTAIN or high < -_LENGTH_CERTAIN)
    kind = "longer" if value > 0 else "shorter"
    verdict, advice = Verdict.GO, ""
    if follows:
        verdict, advice = Verdict.WARN, f"Look whether the reward pays for {kind} answers rather than for right ones."
    text = f"within groups, reward and length correlate with {value:+.2f}"
    yield Reason("reward_follows_length", verdict, value, (low, high), LENGTH_CORRELATION, OURS, text, advice)


RULES = (_success, _rewards_equal, _dead_groups, _headroom, _noise, _components, _length, _sample_size)
