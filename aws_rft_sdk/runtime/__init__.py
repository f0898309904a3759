"""Stand-ins for the services on this machine: the job runtime, Bedrock's fine-tuning, and SageMaker's jobs."""

from aws_rft_sdk.runtime.bedrock.server import LocalBedrock
from aws_rft_sdk.runtime.bedrock.trainers import Group, Sample, Trainer, TrainingStep, Update
from aws_rft_sdk.runtime.faults import Fault, Faults
from aws_rft_sdk.runtime.limits import RolloutLimits
from aws_rft_sdk.runtime.policies import Call, CallablePolicy, Passthrough, Policy, PolicyError
from aws_rft_sdk.runtime.recordings import ReplayPolicy, write_recordings
from aws_rft_sdk.runtime.records import TrajectoryReader, read_trajectories
from aws_rft_sdk.runtime.sagemaker.server import LocalJobs
from aws_rft_sdk.runtime.scripts import ScriptedPolicy, call, scripted
from aws_rft_sdk.runtime.server import LocalRuntime
from aws_rft_sdk.runtime.stand_in import StandInPolicy, standin
from aws_rft_sdk.runtime.state import Problem
from aws_rft_sdk.runtime.upstream import UpstreamPolicy

__all__ = [
    "Call",
    "CallablePolicy",
    "Fault",
    "Faults",
    "Group",
    "LocalBedrock",
    "LocalJobs",
    "LocalRuntime",
    "Passthrough",
    "Policy",
    "PolicyError",
    "Problem",
    "ReplayPolicy",
    "RolloutLimits",
    "Sample",
    "ScriptedPolicy",
    "StandInPolicy",
    "Trainer",
    "TrainingStep",
    "TrajectoryReader",
    "Update",
    "UpstreamPolicy",
    "call",
    "read_trajectories",
    "scripted",
    "standin",
    "write_recordings",
]
