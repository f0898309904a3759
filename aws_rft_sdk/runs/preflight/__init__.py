"""Whether a training job would learn, before it is paid for. Pure: what was measured comes in, a verdict comes out."""

from aws_rft_sdk.runs.preflight.dead_groups import dead_group_share
from aws_rft_sdk.runs.preflight.rules import preflight
from aws_rft_sdk.runs.preflight.values import Checks, Preflight, Reason, TrainingPlan, Verdict

__all__ = ["Checks", "Preflight", "Reason", "TrainingPlan", "Verdict", "dead_group_share", "preflight"]
