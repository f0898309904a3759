"""Metrics of a job under the names that the service logs them with. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from aws_rft_sdk.advantages import Advantages, is_dead
from aws_rft_sdk.runtime.sagemaker.rollouts import Rollout
from aws_rft_sdk.types import Trajectory, Turn

Metrics = dict[str, float]
Groups = Sequence[Sequence[Rollout]]
"""The rollouts of each prompt."""


def reward_of(rollout: Rollout) -> float:
    """Return the reward of a rollout: the sum of those of its turns."""
    return math.fsum(rollout.trajectory.rewards or ())


def prompt_tokens(turn: Turn) -> int:
    """Return how many tokens a model call read. 0 if the policy counts none."""
    return len(turn.prompt_token_ids) if turn.prompt_token_ids is not None else _used(turn, "prompt_tokens")


def sampled_tokens(turn: Turn) -> int:
    """Return how many tokens a model call sampled. 0 if the policy counts none."""
    return len(turn.token_ids) if turn.token_ids is not None else _used(turn, "completion_tokens")


def _used(turn: Turn, name: str) -> int:
    count = turn.usage.get(name) if isinstance(turn.usage, Mapping) else None
    return count if isinstance(count, int) else 0


def tokens_of(trajectory: Trajectory) -> tuple[int, int]:
    """Return how many tokens the model calls of a trajectory read and sampled."""
    return sum(map(prompt_tokens, trajectory.turns)), sum(map(sampled_tokens, trajectory.turns))


def rollout_metrics(prefix: str, groups: Groups) -> Metrics:
    """Return what is known of rollouts of every phase: rewards, turns, tokens and log-probabilities.

    Args:
        prefix: "rollout", "val" or "eval".
        groups: At least one group of at least one rollout.
    """
    rollouts = [rollout for group in groups for rollout in group]
    rewards = [reward_of(rollout) for rollout in rollouts]
    turns = [turn for rollout in rollouts for turn in rollout.trajectory.turns]
    logprobs = [logprob for turn in turns for logprob in turn.logprobs or ()]
    other = [logprob for logprob in logprobs if logprob != 0]
    zero = len(logprobs) - len(other)
    figures = {
        **_summary("reward", rewards),
        "reward/zero_frac": rewards.count(0.0) / len(rewards),
        **_summary("turns", [len(rollout.trajectory.turns) for rollout in rollouts], without="std"),
        "tokens/prompt_mean": statistics.fmean(map(prompt_tokens, turns)),
        **{
            name.replace("response/", "response_"): value
            for name, value in _summary("tokens/response", [sampled_tokens(turn) for turn in turns]).items()
        },
    }
    if logprobs:
        figures |= {
            "logprob/zero_count": zero,
            "logprob/zero_frac": zero / len(logprobs),
            "logprob/zero_per_group": zero / len(groups),
        }
    if other:
        figures |= {f"logprob/nz_{name.partition('/')[2]}": value for name, value in _summary("nz", other).items()}
    return {f"{prefix}/{name}": value for name, value in figures.items()}


def success_metrics(prefix: str, groups: Groups, *, threshold: float, ks: Iterable[int]) -> Metrics:
    """Return what validation and evaluation know beside `rollout_metrics`.

    pass@k and pass^k are the unbiased estimates: the share of sets of k rollouts of a prompt in which at least one, or
    all, reach the threshold. They are there for every k up to the number of rollouts of a prompt.
    """
    rewards = [[reward_of(rollout) for rollout in group] for group in groups]
    size = min(map(len, rewards))
    passed = [sum(reward >= threshold for reward in group) for group in rewards]
    figures: Metrics = {
        "reward/succeeded_rollouts": sum(passed),
        "reward/failed_rollouts": sum(map(len, rewards)) - sum(passed),
        "reward/num_prompts": len(rewards),
        "reward/rollouts_per_prompt": size,
        "reward/success_threshold": threshold,
    }
    if size > 1:
        within = [_summary("", group) for group in rewards]
        figures |= {f"reward{name}_within_groups": _mean(of[name] for of in within) for name in within[0]}
    for k in ks:
        if k <= size:
            sets = [(len(group), count) for group, count in zip(rewards, passed, strict=True)]
            figures[f"reward/pass_at_{k}"] = _mean(1 - math.comb(n - c, k) / math.comb(n, k) for n, c in sets)
            figures[f"reward/pass_power_{k}"] = _mean(math.comb(c, k) / math.comb(n, k) for n, c in sets)
    return {f"{prefix}/{name}": value for name, value in figures.items()}


def training_metrics(groups: Groups, advantages: Advantages, *, step: int, epoch: int) -> Metrics:
    """Return what only training knows: advantages, how much the batch teaches, and counts.

    Args:
        groups: Of the step.
        advantages: One for each turn of each rollout of each group.
        step: Number of the step.
        epoch: Number of the epoch, from 1.
    """
    rewards = [[reward_of(rollout) for rollout in group] for group in groups]
    rollouts = [rollout for group in groups for rollout in group]
    flat = [value for group in advantages for rollout in group for value in rollout]
    teaches = [any(value for rollout in group for value in rollout) for group in advantages]
    valid = [reward for group, counts in zip(rewards, teaches, strict=True) if counts for reward in group]
    dead = [group for group, counts in zip(rewards, teaches, strict=True) if not counts]
    read, sampled = (sum(counts) for counts in zip(*(tokens_of(r.trajectory) for r in rollouts), strict=True))
    calls = len(flat)
    return {
        "training/epoch": epoch,
        "training/global_step": step,
        "training/num_groups": len(groups),
        "training/num_trajectories": len(rollouts),
        "training/total_tokens": read + sampled,
        "training/num_datums": calls,
        "training/datums_per_trajectory": calls / len(rollouts),
        "training/action_tokens_mean": sampled / calls,
        "training/obs_tokens_mean": read / calls,
        "training/trainable_token_positions": sampled,
        "training/nontrainable_token_positions": read,
        "training/trainable_token_ratio": sampled / (read + sampled) if read + sampled else 0.0,
        "rollout/reward/valid_mean": _mean(valid) if valid else 0.0,
        **_summary("rollout/advantage", flat),
        "rollout/advantage/n_positive": sum(value > 0 for value in flat),
        "rollout/advantage/n_negative": sum(value < 0 for value in flat),
        "analysis/batch_completion_ratio": 1.0,
        "analysis/batch_valid_ratio": sum(teaches) / len(groups),
        "analysis/zero_adv_groups": len(dead),
        "analysis/zero_adv_nonzero_reward": sum(is_dead(group) and any(group) for group in dead),
        "analysis/zero_adv_zero_reward": sum(not any(group) for group in dead),
        "analysis/reward_variance_across_groups": statistics.pvariance([_mean(group) for group in rewards]),
        "analysis/mean_group_reward_spread": _mean(max(group) - min(group) for group in rewards),
    }


def _summary(name: str, values: Sequence[float], *, without: str = "") -> Metrics:
    figures = {
        "mean": statistics.fmean(values),
        "std": statistics.pstdev(values),
        "min": min(values),
        "max": max(values),
    }
    return {f"{name}/{key}": value for key, value in figures.items() if key != without}


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
