"""Many rollouts of one handler: run them, record them, sum them up."""

from aws_rft_sdk.rollout.driver import run_rollouts
from aws_rft_sdk.rollout.loading import load_callable
from aws_rft_sdk.rollout.records import RolloutRecord, RolloutStatus, read_records
from aws_rft_sdk.rollout.replay import replay, replay_rollouts
from aws_rft_sdk.rollout.replaying_report import ReplayedRollout, ReplayReport, ReplayStatus
from aws_rft_sdk.rollout.rescore import RescoredRollout, RescoreStatus, rescore
from aws_rft_sdk.rollout.rescoring import RescoreReport, rescore_report
from aws_rft_sdk.rollout.rescoring_truth import cell_truth, column_truth
from aws_rft_sdk.rollout.summary import Summary, summarize

__all__ = [
    "ReplayReport",
    "ReplayStatus",
    "ReplayedRollout",
    "RescoreReport",
    "RescoreStatus",
    "RescoredRollout",
    "RolloutRecord",
    "RolloutStatus",
    "Summary",
    "cell_truth",
    "column_truth",
    "load_callable",
    "read_records",
    "replay",
    "replay_rollouts",
    "rescore",
    "rescore_report",
    "run_rollouts",
    "summarize",
]
