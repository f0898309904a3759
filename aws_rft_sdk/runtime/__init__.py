"""A stand-in for the job runtime on this machine: serves the policy, records turns, takes rewards."""

from aws_rft_sdk.runtime.bedrock.server import LocalBedrock
from aws_rft_sdk.runtime.bedrock.trainers import Group, Sample, Trainer, TrainingStep, Update
from aws_rft_sdk.runtime.faults import Fault, Faults
from aws_rft_sdk.runtime.limits import RolloutLimits
from aws_rft_sdk.runtime.policies import Call, CallablePolicy, Passthrough, Policy, PolicyError
from aws_rft_sdk.runtime.recordings import ReplayPolicy, write_recordings
from aws_rft_sdk.runtime.records import TrajectoryReader, read_trajectories
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
