"""Training jobs on AWS: plan, submit, follow and use them, with graders and IAM policies.

`config` describes a job's file, and `reading` reads it. `planning` says what it will send, and sends it through
`services`: `bedrock` for open-weight models, `nova` for Nova, `sagemaker` for multi-turn RL. `graders` makes Lambda
functions of rewards, and `iam` has the policies. `steps` reads the metrics of a job, `alarms` judges them, `watching`
follows a job, `report` writes down how it went, and `evaluations` compares base and tuned model. `_bedrock_*`,
`_nova_*`, `_sagemaker_*`, `_mlflow`, `_cloudwatch` and `_grader` are parts of these. `_tables`, `_shapes` and `_files`
check what is sent. `_aws`, `_cloud` and `_refusals` call AWS and turn its errors into ours. `nova_recipe` and
`_recipe_*` write recipes of Nova for SageMaker training jobs and HyperPod.

The names are resolved when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_NAMES = {
    "alarms": "Alarm",
    "bedrock": "BedrockJobs",
    "evaluations": "Evaluated",
    "graders": "Deployment Grader",
    "nova": "ModelDeployment NovaJobs",
    "nova_recipe": "NovaRecipe make_recipe read_recipe",
    "planning": "Plan Submission plan submit",
    "reading": "JobFile init_text read_job",
    "report": "report_csv report_html",
    "sagemaker": "AgentRFT",
    "services": "Created",
    "steps": "Step read_step read_steps",
    "types": "Checkpoint Event File Job Problem Request Resource",
    "watching": "Watched watch",
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
    from aws_rft_sdk.jobs.alarms import Alarm as Alarm
    from aws_rft_sdk.jobs.bedrock import BedrockJobs as BedrockJobs
    from aws_rft_sdk.jobs.evaluations import Evaluated as Evaluated
    from aws_rft_sdk.jobs.nova import ModelDeployment as ModelDeployment, NovaJobs as NovaJobs
    from aws_rft_sdk.jobs.nova_recipe import NovaRecipe as NovaRecipe, make_recipe as make_recipe
    from aws_rft_sdk.jobs.nova_recipe import read_recipe as read_recipe
    from aws_rft_sdk.jobs.graders import Deployment as Deployment, Grader as Grader
    from aws_rft_sdk.jobs.planning import Plan as Plan, Submission as Submission, plan as plan, submit as submit
    from aws_rft_sdk.jobs.reading import JobFile as JobFile, init_text as init_text, read_job as read_job
    from aws_rft_sdk.jobs.report import report_csv as report_csv, report_html as report_html
    from aws_rft_sdk.jobs.sagemaker import AgentRFT as AgentRFT
    from aws_rft_sdk.jobs.services import Created as Created
    from aws_rft_sdk.jobs.steps import Step as Step, read_step as read_step, read_steps as read_steps
    from aws_rft_sdk.jobs.types import Checkpoint as Checkpoint, Event as Event, File as File, Job as Job
    from aws_rft_sdk.jobs.types import Problem as Problem, Request as Request, Resource as Resource
    from aws_rft_sdk.jobs.watching import Watched as Watched, watch as watch
