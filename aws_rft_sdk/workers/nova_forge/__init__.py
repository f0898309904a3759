"""Nova Forge's bring-your-own-orchestrator flow: the same decorated handler, its model calls going over queues."""

from aws_rft_sdk.workers.nova_forge.messages import GenerateResponse, Task, cell_of
from aws_rft_sdk.workers.nova_forge.tasks import TaskTable
from aws_rft_sdk.workers.nova_forge.worker import (
    MAX_ATTEMPTS,
    MAX_ROLLOUTS,
    TURN_SECONDS,
    VISIBILITY_SECONDS,
    NovaForgeQueues,
    NovaForgeWorker,
)

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_ROLLOUTS",
    "TURN_SECONDS",
    "VISIBILITY_SECONDS",
    "GenerateResponse",
    "NovaForgeQueues",
    "NovaForgeWorker",
    "Task",
    "TaskTable",
    "cell_of",
]
