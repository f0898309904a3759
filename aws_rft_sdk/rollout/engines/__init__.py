"""Where rollouts run: in this process, in other processes, on a cluster, or in an agent that is deployed already."""

from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.rollout.engines.base import Engine
from aws_rft_sdk.rollout.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine", "RolloutOutcome"]
