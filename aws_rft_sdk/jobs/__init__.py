"""Training jobs on Bedrock: plan, submit, follow and use them, with graders and IAM policies.

The names are resolved when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_NAMES = {
    "bedrock": "BedrockJobs",
    "nova": "ModelDeployment NovaJobs",
    "steps": "Step",
    "types": "Checkpoint Event File Job Problem Request Resource",
}
"""The public names, by their modules."""
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # `X as X` is how type checkers know a name as public
    # isort: off
    from aws_rft_sdk.jobs.bedrock import BedrockJobs as BedrockJobs
    from aws_rft_sdk.jobs.nova import ModelDeployment as ModelDeployment, NovaJobs as NovaJobs
    from aws_rft_sdk.jobs.steps import Step as Step
    from aws_rft_sdk.jobs.types import Checkpoint as Checkpoint, Event as Event, File as File, Job as Job
    from aws_rft_sdk.jobs.types import Problem as Problem, Request as Request, Resource as Resource
