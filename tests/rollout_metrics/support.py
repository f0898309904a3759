"""Rollouts for tests, and the figures of the table computed a second time, from the file alone.

`recompute` shares no code with the package: it reads JSON lines, enumerates subsets instead of using binomial
coefficients, and lets numpy do the rest.
"""

import itertools
import json

import numpy as np
from hypothesis import strategies as st

from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs import RolloutRecord, RolloutStatus
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runs.records import RECORDS_FILE

COMPLETED, FAILED, UNREPORTED = RolloutStatus.COMPLETED, RolloutStatus.FAILED, RolloutStatus.UNREPORTED


def record(prompt=0, sample=0, reward=1.0, **fields):
    values = {"turns": 1, "seconds": 1.0, "status": UNREPORTED if reward is None else COMPLETED}
    return RolloutRecord(
        trajectory_id=f"{prompt}-{sample}", prompt_index=prompt, sample_index=sample, reward=reward, **(values | fields)
    )


def table(*groups, **fields):
    """Return records of groups given as rows of rewards."""
    return [record(p, s, reward, **fields) for p, row in enumerate(groups) for s, reward in enumerate(row)]


def write(folder, records, *, dataset=None, rows=None, settings=None, threshold=1.0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORDS_FILE).write_text("".join(r.to_json() + "\n" for r in records))
    if dataset is not None:
        rows = len({r.prompt_index for r in records}) if rows is None else rows
        Manifest("agent.py:handler", {}, "data.jsonl", dataset, rows, settings or {}, threshold).write(folder)
    return folder


REWARDS = st.sampled_from([None, -0.5, 0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.5])
KINDS = st.sampled_from([None, FailureKind.AGENT, FailureKind.TIMEOUT, FailureKind.INFRASTRUCTURE])
TOKENS = st.none() | st.lists(st.integers(0, 4096), min_size=1, max_size=3).map(tuple)


@st.composite
def tables(draw, max_prompts=6, max_group=6):
    """Return records of groups of any size, with gaps, failures and repeated attempts, in any order of prompts."""
    records = []
    for prompt in draw(st.lists(st.integers(0, 9), unique=True, max_size=max_prompts)):
        for sample in range(draw(st.integers(1, max_group))):
            tokens = draw(TOKENS)
            for attempt in range(1, draw(st.sampled_from([2, 2, 2, 3]))):
                reward = draw(REWARDS)
                status = draw(st.sampled_from([COMPLETED, FAILED, UNREPORTED if reward is None else COMPLETED]))
                records.append(
                    record(
                        prompt,
                        sample,
                        reward,
                        status=status,
                        failure=None if status is COMPLETED else draw(KINDS),
                        turns=draw(st.integers(0, 20)),
                        seconds=draw(st.floats(0, 900)),
                        unsure_turns=draw(st.integers(0, 1)),
                        attempts=attempt,
                        prompt_tokens=tokens,
                        response_tokens=tokens,
                    )
                )
    return records


def recompute(folder, threshold=1.0, failures_as_zero=False):
    """Return all figures but the ends of intervals, under their flat names."""
    rows = {}
    lines = [json.loads(line) for line in (folder / RECORDS_FILE).read_text().splitlines()]
    for row in lines:
        rows[row["prompt_index"], row["sample_index"]] = row
    groups = {}
    for (prompt, _), row in sorted(rows.items()):
        group = groups.setdefault(prompt, [])
        if row["status"] == "completed" or failures_as_zero:
            group.append(row["reward"] if row["status"] == "completed" else 0.0)
    ended = [sum(key[0] == prompt for key in rows) for prompt in groups]
    judged = {prompt: [r for r in rewards if r is not None] for prompt, rewards in groups.items()}
    rewards = [r for group in judged.values() for r in group]
    compared = [group for group in judged.values() if len(group) >= 2]
    flat = [group[0] for group in compared if max(group) - min(group) <= 1e-9]
    varied = [group for group in compared if max(group) - min(group) > 1e-9]
    means = [np.mean(group) for group in judged.values() if group]
    size, largest = max(ended, default=0), max(map(len, groups.values()), default=0)
    expected = max(groups, default=-1) + 1
    prompt_tokens = [n for row in rows.values() for n in row["prompt_tokens"] or ()]
    responses = [row["response_tokens"] for row in rows.values() if row["response_tokens"]]
    response_tokens = [n for row in responses for n in row]
    seconds = [row["seconds"] for row in rows.values()]
    turns = [row["turns"] for row in rows.values()]
    statuses = [row["status"] for row in rows.values()]
    figures = {
        "eval/reward/mean": mean(rewards),
        "eval/reward/std": np.std(rewards) if len(rewards) > 1 else None,
        "eval/reward/min": min(rewards, default=None),
        "eval/reward/max": max(rewards, default=None),
        "eval/reward/zero_frac": mean([r == 0 for r in rewards]),
        "eval/reward/num_prompts": len(groups),
        "eval/reward/rollouts_per_prompt": size,
        "eval/reward/success_threshold": threshold,
        "eval/reward/succeeded_rollouts": sum(r >= threshold for r in rewards),
        "eval/reward/failed_rollouts": sum(r < threshold for r in rewards),
        "eval/reward/mean_within_groups": mean([np.mean(group) for group in compared]),
        "eval/reward/std_within_groups": mean([np.std(group) for group in compared]),
        "eval/reward/min_within_groups": mean([min(group) for group in compared]),
        "eval/reward/max_within_groups": mean([max(group) for group in compared]),
        "eval/reward/std_across_groups": np.std(means) if len(means) > 1 else None,
        "eval/turns/mean": mean(turns),
        "eval/turns/min": min(turns, default=None),
        "eval/turns/max": max(turns, default=None),
        "eval/tokens/prompt_mean": mean(prompt_tokens),
        "eval/tokens/response_mean": mean(response_tokens),
        "eval/tokens/response_std": np.std(response_tokens) if len(response_tokens) > 1 else None,
        "eval/tokens/response_min": min(response_tokens, default=None),
        "eval/tokens/response_max": max(response_tokens, default=None),
        "eval/tokens/at_limit_frac": mean([max(row) >= max(response_tokens) for row in responses]),
        "eval/tokens/rollouts": len(responses),
        "eval/seconds/mean": mean(seconds),
        "eval/seconds/p50": np.percentile(seconds, 50) if seconds else None,
        "eval/seconds/p99": np.percentile(seconds, 99) if seconds else None,
        "eval/seconds/max": max(seconds, default=None),
        "eval/rollouts/total": len(rows),
        "eval/rollouts/completed": statuses.count("completed"),
        "eval/rollouts/failed": statuses.count("failed"),
        "eval/rollouts/unreported": statuses.count("unreported"),
        "eval/rollouts/left_out": 0 if failures_as_zero else len(rows) - statuses.count("completed"),
        "eval/rollouts/no_reward": sum(map(len, groups.values())) - len(rewards),
        "eval/rollouts/superseded": len(lines) - len(rows),
        "eval/rollouts/retried": sum(row["attempts"] > 1 for row in rows.values()),
        "eval/rollouts/unsure_turns": sum(row["unsure_turns"] for row in rows.values()),
        "analysis/batch_completion_ratio": sum(len(g) == size for g in judged.values()) / expected
        if expected
        else None,
        "analysis/batch_valid_ratio": len(varied) / expected if compared else None,
        "eval/reward/valid_mean": mean([r for group in varied for r in group]),
        "analysis/compared_groups": len(compared),
        "analysis/zero_adv_groups": len(flat),
        "analysis/zero_adv_nonzero_reward": sum(r != 0 for r in flat),
        "analysis/zero_adv_zero_reward": sum(r == 0 for r in flat),
        "analysis/zero_adv_all_right": sum(r >= threshold for r in flat),
        "analysis/zero_adv_all_wrong": sum(r < threshold and r <= 0 for r in flat),
        "analysis/zero_adv_other": sum(0 < r < threshold for r in flat),
        "analysis/reward_variance_across_groups": np.var(means) if len(means) > 1 else None,
        "analysis/mean_group_reward_spread": mean([max(group) - min(group) for group in compared]),
    }
    for k in sorted({k for k in (1, 2, 4, 8, 16, 32, largest) if 0 < k <= largest}):
        enough = [[r is not None and r >= threshold for r in g] for g in groups.values() if len(g) >= k]
        figures[f"eval/reward/pass_at_{k}"] = mean([share_of_subsets(any, g, k) for g in enough])
        figures[f"eval/reward/pass_power_{k}"] = mean([share_of_subsets(all, g, k) for g in enough])
        figures[f"eval/reward/pass_left_out_{k}"] = len(groups) - len(enough)
    return {name: value if value is None else float(value) for name, value in figures.items()}


def share_of_subsets(test, outcomes, k):
    return mean([test(subset) for subset in itertools.combinations(outcomes, k)])


def mean(values):
    return float(np.mean(values)) if len(values) else None
