"""Many rollouts of one handler: run them, record them, measure them, run or score them again."""

from aws_rft_sdk.rollout.driver import run_rollouts
from aws_rft_sdk.rollout.loading import load_callable
from aws_rft_sdk.rollout.metrics import Comparison, Metrics, compare, measure
from aws_rft_sdk.rollout.records import RolloutRecord, RolloutStatus, read_records
from aws_rft_sdk.rollout.replaying.replay import replay, replay_rollouts
from aws_rft_sdk.rollout.replaying.report import ReplayedRollout, ReplayReport, ReplayStatus
from aws_rft_sdk.rollout.rescoring.report import RescoreReport, rescore_report
from aws_rft_sdk.rollout.rescoring.rescore import RescoredRollout, RescoreStatus, rescore
from aws_rft_sdk.rollout.rescoring.truth import cell_truth, column_truth

__all__ = [
    "Comparison",
    "Metrics",
    "ReplayReport",
    "ReplayStatus",
    "ReplayedRollout",
    "RescoreReport",
    "RescoreStatus",
    "RescoredRollout",
    "RolloutRecord",
    "RolloutStatus",
    "cell_truth",
    "column_truth",
    "compare",
    "load_callable",
    "measure",
    "read_records",
    "replay",
    "replay_rollouts",
    "rescore",
    "rescore_report",
    "run_rollouts",
]
