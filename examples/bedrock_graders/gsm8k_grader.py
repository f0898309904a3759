"""Grades answers to word problems by their last number, as `#### 72`. The reference may have any of the usual forms."""

from aws_rft_sdk.rewards import gsm8k as reward

__all__ = ["reward"]
