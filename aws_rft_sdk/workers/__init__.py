"""Workers: receive rollout payloads and run the handler, over HTTP (AgentCore and custom agents) and from queues.

The names are resolved when they are first used: the Lambda forwarder is in here too, and must be light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws_rft_sdk.workers.nova_forge import NovaForgeQueues, NovaForgeWorker, TaskTable
    from aws_rft_sdk.workers.outcomes import is_settled
    from aws_rft_sdk.workers.pool import RolloutPool, Submitted
    from aws_rft_sdk.workers.sqs import SqsWorker

_HOMES = {
    "NovaForgeQueues": "nova_forge",
    "NovaForgeWorker": "nova_forge",
    "RolloutPool": "pool",
    "SqsWorker": "sqs",
    "Submitted": "pool",
    "TaskTable": "nova_forge",
    "is_settled": "outcomes",
}

__all__ = ["NovaForgeQueues", "NovaForgeWorker", "RolloutPool", "SqsWorker", "Submitted", "TaskTable", "is_settled"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
