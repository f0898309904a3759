"""Many rollouts of one handler: run them and record them. `aws_rft_sdk.runs` looks at what they left."""

from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.rollout.driver import run_rollouts
from aws_rft_sdk.rollout.options import RunOptions
from aws_rft_sdk.rollout.running import DatasetRun, RunListener, RunStatus, run
from aws_rft_sdk.runs import (
    RolloutRecord,
    RolloutStatus,
    compare,
    measure,
    read_records,
    replay,
    replay_rollouts,
    rescore,
    rescore_report,
)

__all__ = [
    "DatasetRun",
    "RolloutRecord",
    "RolloutStatus",
    "RunListener",
    "RunOptions",
    "RunStatus",
    "compare",
    "load_callable",
    "measure",
    "read_records",
    "replay",
    "replay_rollouts",
    "rescore",
    "rescore_report",
    "run",
    "run_rollouts",
]
