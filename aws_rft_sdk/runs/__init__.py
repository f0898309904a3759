"""Finished rollouts: read their records, measure them, compare two runs, run or score them again."""

from aws_rft_sdk.failures import RolloutStatus
from aws_rft_sdk.runs.metrics import Metrics, RunComparison, compare, measure
from aws_rft_sdk.runs.records import RolloutRecord, read_records
from aws_rft_sdk.runs.replay_report import ReplayedRollout, ReplayReport, ReplayStatus
from aws_rft_sdk.runs.replaying import replay, replay_rollouts
from aws_rft_sdk.runs.rescore_report import RescoreReport, rescore_report
from aws_rft_sdk.runs.rescoring import RescoredRollout, RescoreStatus, rescore
from aws_rft_sdk.runs.table import RolloutTable
from aws_rft_sdk.runs.truth import cell_truth, column_truth

__all__ = [
    "Metrics",
    "ReplayReport",
    "ReplayStatus",
    "ReplayedRollout",
    "RescoreReport",
    "RescoreStatus",
    "RescoredRollout",
    "RolloutRecord",
    "RolloutStatus",
    "RolloutTable",
    "RunComparison",
    "cell_truth",
    "column_truth",
    "compare",
    "measure",
    "read_records",
    "replay",
    "replay_rollouts",
    "rescore",
    "rescore_report",
]
