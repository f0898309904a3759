"""Scores of finished rollouts: pure, deterministic, picklable. None means "cannot be judged" and is never 0."""

from aws_rft_sdk.rewards.rollout import Component, Reward, RewardResult, Rollout, TextReward, evaluate

__all__ = ["Component", "Reward", "RewardResult", "Rollout", "TextReward", "evaluate"]
