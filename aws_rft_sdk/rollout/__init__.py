"""Many rollouts of one handler: run them, record them, sum them up."""

from aws_rft_sdk.rollout.driver import run_rollouts
from aws_rft_sdk.rollout.loading import load_callable
from aws_rft_sdk.rollout.records import RolloutRecord, RolloutStatus, read_records
from aws_rft_sdk.rollout.summary import Summary, summarize

__all__ = [
    "RolloutRecord",
    "RolloutStatus",
    "Summary",
    "load_callable",
    "read_records",
    "run_rollouts",
    "summarize",
]
