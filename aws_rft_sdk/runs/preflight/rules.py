"""The rules of a preflight. Each is a function of the sample that yields reasons, or none if it cannot be measured."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import compress
from statistics import fmean

from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD, Estimate, Metrics, measure
from aws_rft_sdk.runs.metrics.groups import EQUAL_WITHIN, Groups
from aws_rft_sdk.runs.metrics.hints import AT_LIMIT_SHARE, FAILED_SHARE
from aws_rft_sdk.runs.metrics.intervals import estimate, mean_over_prompts, wilson
from aws_rft_sdk.runs.preflight.dead_groups import dead_group_share
from aws_rft_sdk.runs.preflight.values import Checks, Preflight, Reason, TrainingPlan, Verdict
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import COMPLETED, RolloutTable

OURS = "this package, a proposal"
_OPENAI = "OpenAI, reinforcement fine-tuning use cases"
_NOVA = "AWS, Nova reinforcement fine-tuning, data guidance"
_MTRL = "AWS, SageMaker multi-turn RL, hyperparameters and best practices"
_HEADROOM = "arXiv 2504.13837"
_SERVICE = "SageMaker job runtime: it fails a job over this"

NO_SUCCESS_BOUND = 0.03
LEAST_SUCCESS = 0.05
MOST_SUCCESS = 0.95
LEAST_LIVE = 0.5
LEAST_HEADROOM = 0.05
MOST_FLIPS = 0.05
MOST_AT_MAX_TURNS = 0.1
LENGTH_CORRELATION = 0.5
_LENGTH_CERTAIN = 0.3
"""The near end of the interval of the correlation must be beyond this."""
FEW_PROMPTS = 32
"""95 % of the time a share of one half is then within 17 points."""
TOO_FEW_PROMPTS = 16
"""95 % of the time a share of one half is then within 25 points, which says nothing."""
_NEAR_LIMIT = 0.9

_ORDER = {verdict: place for place, verdict in enumerate((Verdict.NO_GO, Verdict.UNKNOWN, Verdict.WARN, Verdict.GO))}


def preflight(
    records: Iterable[RolloutRecord] | RolloutTable,
    plan: TrainingPlan | None = None,
    checks: Checks | None = None,
    *,
    success_threshold: float = SUCCESS_THRESHOLD,
) -> Preflight:
    """Judge whether a job would learn, from rollouts of the base policy.

    Args:
        records: Rollouts that have ended, of a sample of the prompts: several of each prompt.
        plan: What the job will be run with. None for the service's defaults.
        checks: What else was measured. None for nothing.
        success_threshold: Lowest reward that counts as a success.

    Returns:
        The reasons. A rule that nothing is known about has none.

    Raises:
        ConfigurationError: A reward is too large for figures to be computed.
    """
    sample = _Sample(RolloutTable.of(records), plan or TrainingPlan(), checks or Checks(), success_threshold)
    reasons = [reason for rule in _RULES for reason in rule(sample)]
    return Preflight(tuple(sorted(reasons, key=lambda reason: _ORDER[reason.verdict])))


class _Sample:
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


# --- learnable? ------------------------------------------------------------------------------------------------------


def _success(sample: _Sample) -> Iterator[Reason]:
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
        yield Reason("success_zero", verdict, share, _interval(success), LEAST_SUCCESS, _NOVA, text, advice)
    much = share > MOST_SUCCESS
    advice = "Take harder prompts: there is nothing left to learn." if much else ""
    verdict, text = Verdict.WARN if much else Verdict.GO, f"{share:.1%} of the rollouts succeed"
    yield Reason("success_ceiling", verdict, share, _interval(success), MOST_SUCCESS, _NOVA, text, advice)


def _rewards_equal(sample: _Sample) -> Iterator[Reason]:
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


def _dead_groups(sample: _Sample) -> Iterator[Reason]:
    size = sample.plan.group_size
    dead = dead_group_share(sample.compared, size)
    if dead is None:
        return
    few = dead.value > 1 - LEAST_LIVE
    advice = (
        "Take prompts of middling difficulty (aws-rft dataset filter), larger groups, or a finer reward." if few else ""
    )
    text = f"{dead.value:.0%} of the groups of {size} would have equal rewards and teach nothing"
    verdict = Verdict.WARN if few else Verdict.GO
    yield Reason("dead_groups", verdict, dead.value, _interval(dead), 1 - LEAST_LIVE, OURS, text, advice)


def _headroom(sample: _Sample) -> Iterator[Reason]:
    sizes = sorted(sample.groups.samples)
    k = min(sample.plan.group_size, sizes[len(sizes) // 2] if sizes else 0)
    if k < 2:
        return
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
    yield Reason("headroom", verdict, found.value, _interval(found), LEAST_HEADROOM, _HEADROOM, text, advice)


def _sample_size(sample: _Sample) -> Iterator[Reason]:
    prompts = len(sample.compared)
    verdict = Verdict.UNKNOWN if prompts < TOO_FEW_PROMPTS else Verdict.WARN if prompts < FEW_PROMPTS else Verdict.GO
    error = 0.98 / math.sqrt(prompts) if prompts else 1.0
    text = f"{prompts} prompts have two rewards or more: shares are known within {100 * min(1.0, error):.0f} points"
    advice = "" if verdict is Verdict.GO else "Sample 64 prompts or more, with several rollouts of each."
    yield Reason("sample_too_small", verdict, prompts, None, FEW_PROMPTS, OURS, text, advice)


def _noise(sample: _Sample) -> Iterator[Reason]:
    if sample.checks.repeated_rewards is None or not sample.checks.repeated_rewards[0]:
        return
    repeated, changed = sample.checks.repeated_rewards
    share = changed / repeated
    verdict, advice = Verdict.GO, ""
    if share > MOST_FLIPS:
        verdict, advice = Verdict.WARN, "Make the reward deterministic, or let a judge vote."
    text = f"{changed} of {repeated} rollouts got another reward for the same answers"
    yield Reason("reward_noise", verdict, share, wilson(share, repeated), MOST_FLIPS, OURS, text, advice)


def _components(sample: _Sample) -> Iterator[Reason]:
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


def _length(sample: _Sample) -> Iterator[Reason]:
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


# --- right? ----------------------------------------------------------------------------------------------------------


def _failures(sample: _Sample) -> Iterator[Reason]:
    total = len(sample.table)
    if not total:
        return
    lost = total - len(sample.groups.rewards) - _limited(sample)
    share = lost / total
    verdict, advice = Verdict.GO, ""
    if share > FAILED_SHARE:
        verdict = Verdict.NO_GO
        advice = "Repair what fails first: aws-rft show RUN --failed. More retries do not repair an environment."
    text = f"{lost} of {total} rollouts failed or have no reward"
    yield Reason("failed_share", verdict, share, wilson(share, total), FAILED_SHARE, _MTRL, text, advice)


def _no_turns(sample: _Sample) -> Iterator[Reason]:
    pairs = zip(sample.table.turns, sample.table.status, strict=True)
    without = sum(turns == 0 for turns, status in pairs if status == COMPLETED)
    advice = "Let every rollout call the model at least once: the service fails a job over one that does not."
    yield _count("no_turns", without, "rollouts completed without a call of the model", advice)


def _foreign(sample: _Sample) -> Iterator[Reason]:
    foreign = sum(sample.table.foreign_calls) + (sample.checks.foreign_calls or 0)
    advice = "Wrap every model of the agent: a call of another model is not trained."
    yield _count("foreign_model", foreign, "calls went to a model that is not the policy", advice)


def _untracked(sample: _Sample) -> Iterator[Reason]:
    if (count := sample.checks.untracked_calls) is not None:
        advice = "Run aws-rft prove: it names the cause. Use wrap_model, and call it within the rollout."
        yield _count("untracked", count, "calls of the policy reached no trajectory, or a wrong one", advice)


def _count(rule: str, value: int, text: str, advice: str) -> Reason:
    verdict = Verdict.NO_GO if value else Verdict.GO
    return Reason(rule, verdict, value, None, 0, _SERVICE, f"{value} {text}", advice if value else "")


# --- fits? -----------------------------------------------------------------------------------------------------------


def _batch(sample: _Sample) -> Iterator[Reason]:
    prompts, batch = sample.plan.prompts, sample.plan.batch_size
    if prompts is None or batch is None:
        return
    verdict, advice = Verdict.GO, ""
    if prompts <= batch:
        verdict, advice = Verdict.NO_GO, f"Add prompts, or take batches of fewer than {prompts}."
    text = f"{prompts} prompts, and {batch} in a step"
    yield Reason("prompts_vs_batch", verdict, prompts, None, batch, _MTRL, text, advice)


def _context(sample: _Sample) -> Iterator[Reason]:
    longest, limit = max(sample.table.context, default=0), sample.plan.context_tokens
    if not longest or limit is None:
        return
    verdict, advice = Verdict.GO, ""
    if longest > limit:
        verdict, advice = Verdict.NO_GO, "Take fewer turns, shorter tool results, or a model that takes more."
    elif longest > _NEAR_LIMIT * limit:
        verdict, advice = Verdict.WARN, "Answers grow in training. Leave more room."
    text = f"the longest request with its answer has {longest} tokens, and the model takes {limit}"
    yield Reason("context_length", verdict, longest, None, limit, "the model's limit", text, advice)


def _seconds(sample: _Sample) -> Iterator[Reason]:
    slow = sample.metrics.seconds.p99
    if slow is None:
        return
    limits = [sample.plan.rollout_timeout_seconds, sample.plan.platform_seconds or math.inf]
    limit = min(limits)
    verdict, advice = Verdict.GO, ""
    if slow > limit:
        verdict, advice = Verdict.NO_GO, "Make rollouts faster, allow fewer turns, or raise rollout_timeout."
    source = "rollout_timeout" if limit == limits[0] else "the platform's limit of a call"
    text = f"99 % of the rollouts end within {slow:.1f} s, and {limit:.0f} s are allowed"
    yield Reason("rollout_seconds", verdict, slow, None, limit, source, text, advice)


def _token_cap(sample: _Sample) -> Iterator[Reason]:
    tokens = sample.metrics.tokens
    if tokens is None or tokens.limit is None or tokens.at_limit_share is None:
        return
    share, limit = tokens.at_limit_share, tokens.limit
    much = share > AT_LIMIT_SHARE
    advice = "Raise sampling_max_tokens, or ask for shorter answers." if much else ""
    verdict, text = (
        Verdict.WARN if much else Verdict.GO,
        f"{share:.1%} of the rollouts have an answer of {limit} tokens",
    )
    interval = wilson(share, tokens.rollouts)
    yield Reason("token_cap", verdict, share, interval, AT_LIMIT_SHARE, _MTRL, text + ", the most", advice)


def _max_turns(sample: _Sample) -> Iterator[Reason]:
    total, limit = len(sample.table), sample.plan.max_turns
    at_limit = _limited(sample) + sum(
        limit is not None and turns >= limit and status == COMPLETED
        for turns, status in zip(sample.table.turns, sample.table.status, strict=True)
    )
    if not total or (limit is None and not at_limit):
        return
    share = at_limit / total
    much = share > MOST_AT_MAX_TURNS
    advice = (
        "Allow about 1.5 times the turns that an expert needs, or find why the agent goes in circles." if much else ""
    )
    verdict, text = Verdict.WARN if much else Verdict.GO, f"{share:.1%} of the rollouts ended at the limit of turns"
    yield Reason("max_turns", verdict, share, wilson(share, total), MOST_AT_MAX_TURNS, _MTRL, text, advice)


def _limited(sample: _Sample) -> int:
    """Return how many rollouts failed because they used up a limit."""
    code = sample.table.failures.get(FailureKind.LIMIT.value)
    pairs = zip(sample.table.failure, sample.table.status, strict=True)
    return sum(failure == code and status != COMPLETED for failure, status in pairs)


def _interval(found: Estimate) -> tuple[float, float] | None:
    return None if found.low is None or found.high is None else (found.low, found.high)


_RULES = (
    *(_failures, _no_turns, _foreign, _untracked),
    *(_success, _rewards_equal, _dead_groups, _headroom, _noise, _components, _length, _sample_size),
    *(_batch, _context, _seconds, _token_cap, _max_turns),
)
