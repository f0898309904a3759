"""Grades figures from financial reports, and answers yes or no. Percent, units and rounding do not matter."""

from aws_rft_sdk.rewards import finqa as reward

__all__ = ["reward"]
