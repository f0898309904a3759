"""Rules: do the rollouts fit into the limits of the job, the model and the platform?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from aws_rft_sdk.runs.metrics.hints import AT_LIMIT_SHARE
from aws_rft_sdk.runs.metrics.intervals import wilson
from aws_rft_sdk.runs.preflight.estimates import estimate_job
from aws_rft_sdk.runs.preflight.sample import MTRL, Sample
from aws_rft_sdk.runs.preflight.values import Reason, Verdict
from aws_rft_sdk.runs.table import COMPLETED, RolloutTable

MOST_AT_MAX_TURNS = 0.1
_NEAR_LIMIT = 0.9


def _batch(sample: Sample) -> Iterator[Reason]:
    prompts, batch = sample.plan.prompts, sample.plan.batch_size
    if prompts is None or batch is None:
        return
    verdict, advice = Verdict.GO, ""
    if prompts <= batch:
        verdict, advice = (
            Verdict.NO_GO,
            (f"Add prompts, or take batches of fewer than {prompts}. If the job has more prompts, name its DATASET."),
        )
    text = f"{prompts} prompts, and {batch} in a step"
    yield Reason("prompts_vs_batch", verdict, prompts, None, batch, MTRL, text, advice)


def _context(sample: Sample) -> Iterator[Reason]:
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


def _seconds(sample: Sample) -> Iterator[Reason]:
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


def _token_cap(sample: Sample) -> Iterator[Reason]:
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
    yield Reason("token_cap", verdict, share, interval, AT_LIMIT_SHARE, MTRL, text + ", the most", advice)


def _max_turns(sample: Sample) -> Iterator[Reason]:
    total, limit = len(sample.table), sample.plan.max_turns
    at_limit = sample.limited + sum(
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
    yield Reason("max_turns", verdict, share, wilson(share, total), MOST_AT_MAX_TURNS, MTRL, text, advice)


def _sequence(sample: Sample) -> Iterator[Reason]:
    """Judge the longest sequence that the agent may reach, by the service's rule for sizing."""
    plan, found = sample.plan, _growth(sample.table)
    if plan.model is None or found is None or None in (plan.max_turns, plan.max_tokens, plan.context_tokens):
        return
    turns, answer, limit = (int(number or 0) for number in (plan.max_turns, plan.max_tokens, plan.context_tokens))
    prompt, tool = found
    longest = round(turns * (answer + tool) + prompt)
    much = longest > limit
    advice = "Lower max_turns or sampling_max_tokens, or shorten tool results." if much else ""
    text = (
        f"{turns} turns of at most {answer} answered tokens, with {tool:.0f} tokens of tool results each and a prompt "
        f"of {prompt:.0f}, may have {longest} tokens, and the model takes {limit}"
    )
    yield Reason("sequence_size", Verdict.WARN if much else Verdict.GO, longest, None, limit, MTRL, text, advice)


def _growth(table: RolloutTable) -> tuple[float, float] | None:
    """Return the tokens of a prompt, and those that a turn adds besides its answer, in the mean.

    Only sums of a rollout are known. This takes it that its history grows by the same number of tokens each turn.
    """
    prompts, added = [], []
    columns = (table.response_turns, table.prompt_tokens, table.response_tokens, table.context)
    for turns, read, answered, longest in zip(*columns, strict=True):
        if turns:
            answer = answered / turns
            step = max(0.0, 2 * (longest - answer - read / turns) / (turns - 1)) if turns > 1 else 0.0
            prompts.append(max(0.0, read / turns - step * (turns - 1) / 2))
            if turns > 1:
                added.append(max(0.0, step - answer))
    return (fmean(prompts), fmean(added) if added else 0.0) if prompts else None


def _runtime(sample: Sample) -> Iterator[Reason]:
    hours, limit = estimate_job(sample.table, sample.plan).hours, sample.plan.max_runtime_seconds
    if hours is None or limit is None:
        return
    much = hours > limit / 3600
    advice = "Take fewer steps, raise max_runtime_seconds and the quota, or resume from a checkpoint." if much else ""
    text = f"the job takes about {hours:.1f} hours, and the service stops it after {limit / 3600:.1f}"
    verdict = Verdict.WARN if much else Verdict.GO
    yield Reason("job_hours", verdict, hours, None, limit / 3600, "the job's time limit", text, advice)


RULES = (_batch, _context, _seconds, _token_cap, _max_turns, _sequence, _runtime)
