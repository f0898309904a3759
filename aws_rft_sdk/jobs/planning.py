"""What the file of a job will send, create and need; and sending it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple, TypeAlias

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import check_url
from aws_rft_sdk.datasets._text import plural
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs import graders, iam
from aws_rft_sdk.jobs._tables import shown
from aws_rft_sdk.jobs.config import KINDS, Config
from aws_rft_sdk.jobs.expecting import Expectation, expect
from aws_rft_sdk.jobs.graders import Grader
from aws_rft_sdk.jobs.reading import JobFile, read_job
from aws_rft_sdk.jobs.services import Asked, Created, Jobs, open_jobs, requests_of
from aws_rft_sdk.jobs.types import OURS, Job, Problem, Request, refuse
from aws_rft_sdk.runs import RolloutTable, measure
from aws_rft_sdk.runs.manifest import read_manifest
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD, hints

logger = logging.getLogger(__name__)

_Told: TypeAlias = Callable[[Created], object]
_SENSITIVE = ("equals", "notEquals")
"""Members that botocore's model of Bedrock calls sensitive: the metadata of logged requests."""
_ACCOUNT = "ACCOUNT"


@dataclass(frozen=True)
class Plan:
    """What `submit` would do with a file. Nothing was sent for it.

    Attributes:
        requests: The calls that create something, in order. What a call answers is in capitals in later ones.
        problems: All that is wrong with the file. `submit` refuses it while there are any.
        creates: What will exist afterwards, each with `kind` and `name`.
        statements: IAM statements that the caller needs.
        notes: What may not be meant.
        baseline: What the base policy scored in a run of `aws-rft rollout`. None if no run was named.
        endpoint: Where the requests would go.
        estimates: Size, time and cost of a job on SageMaker, and what speaks against it. None for other services.
    """

    requests: tuple[Request, ...]
    problems: tuple[Problem, ...]
    creates: tuple[Mapping[str, JSON], ...] = ()
    statements: tuple[Mapping[str, JSON], ...] = ()
    notes: tuple[str, ...] = ()
    baseline: Mapping[str, JSON] | None = None
    endpoint: str = "AWS"
    estimates: Expectation | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return everything by its name."""
        requests = [item.to_json() for item in self.requests]
        problems = [item._asdict() for item in self.problems]
        rest = {name: list(getattr(self, name)) for name in ("creates", "statements", "notes")}
        return {
            "requests": requests,
            "problems": problems,
            **rest,
            "baseline": self.baseline,
            "endpoint": self.endpoint,
            "estimates": self.estimates and self.estimates.to_json(),
        }


class Submission(NamedTuple):
    """What `submit` has made.

    Attributes:
        job: The job.
        files: Ids of the uploaded files, by the path as the job's file spells it.
        grader: ARN of the function. None if the service has no grader.
        where: `--on` and what else names the service on a command line.
    """

    job: Job
    files: Mapping[str, str]
    grader: str | None
    where: str


def plan(
    job: str | Path | JobFile,
    *,
    run: str | Path | None = None,
    endpoint: str | None = None,
    check_schema: bool = False,
    evaluation: bool = False,
) -> Plan:
    """Return what `submit` would do. Nothing is sent, and no credentials are needed.

    Args:
        job: The job's file, or its path.
        run: Folder of a run of `aws-rft rollout` with the base policy.
        endpoint: Another place for the services; None for AWS.
        check_schema: Whether to ask SageMaker for the schema of the job's document, and to check the document by it.
            That is the one call that is made, and it needs credentials. Other services have no schema.

        evaluation: Whether to evaluate the base model by `[evaluation]` of a SageMaker file, rather than to train.

    Raises:
        ServiceError, CredentialsError: SageMaker was asked for its schema, and refused or did not answer.
        ConfigurationError: The endpoint is no URL, an `[evaluation]` that is asked for is missing, or the file or the
            run's manifest cannot be read.
        DatasetError: The run's records cannot be read.
    """
    job = job if isinstance(job, JobFile) else read_job(job)
    baseline = None if run is None else _baseline(Path(run))
    place = "AWS" if endpoint is None else check_url(endpoint, "--endpoint")
    if job.config is None:
        return Plan((), job.problems, notes=job.notes, baseline=baseline, endpoint=place)
    asked = requests_of(job, evaluation=evaluation)
    rows = {name: job.rows[name] for name in asked.local_files() if name in job.rows}
    files = {name: asked.file_id(name) if name in rows else name for name in asked.local_files()}
    arn = _grader_arn(job.config)
    create = asked.create_request(asked.arguments(files, arn))
    checked = asked.create_request(asked.arguments(files, arn and arn.replace(_ACCOUNT, "0" * 12)))
    # What is right in the file is right in the request.
    found = list(job.problems) or asked.problems(checked)
    if check_schema and not found:
        service: Any = open_jobs(job.config.job.on, job.config.job.region, endpoint)
        found = asked.schema_problems(service, checked)
    problems = [item._replace(value=shown(item.value, item.path)) for item in found]
    deployment, notes = _deployment(asked, problems)
    groups = asked.setup_requests()
    requests = [*map(asked.upload_request, rows), *deployment, *groups, create]
    return Plan(
        tuple(item._replace(parameters=_masked(item.parameters), document=_masked(item.document)) for item in requests),
        tuple(problems),
        tuple(_masked(item) for item in _creates(asked, rows, groups)),
        tuple(_statements(asked.names(arn), job.config.job.on, deployment)),
        (*job.notes, *notes),
        baseline,
        place,
        None if evaluation or problems else expect(job, run),
    )


def submit(
    job: str | Path | JobFile,
    *,
    endpoint: str | None = None,
    evaluation: bool = False,
    jobs: Jobs | None = None,
    created: _Told = lambda item: None,
    say: Callable[[str], object] = logger.info,
) -> Submission:
    """Upload the data, deploy the grader if the file names a reward, and create the job.

    For SageMaker, the agent of a bare id is looked up first, the document is checked against the service's own schema,
    and model package groups are created if the file says so.

    Repeating it makes no second function, file on S3, group, or job of Nova or SageMaker. Files and jobs for
    open-weight models on Bedrock are made again.

    Args:
        job: The job's file, or its path.
        endpoint: Another place for the services; None for AWS.
        evaluation: As for `plan`.
        jobs: A service to use instead of a new one.
        created: Is told each thing as soon as it exists. If this call then stops half-way, by an error or by Ctrl-C,
            these are the things that exist.
        say: Is told how the deployment of the grader goes.

    Raises:
        JobConfigError: The file has problems, or its document does not fit the service's schema. Nothing was created.
        ServiceError, CredentialsError: A service refused a call or did not answer.
    """
    job = job if isinstance(job, JobFile) else read_job(job)
    planned = plan(job, endpoint=endpoint, evaluation=evaluation)
    refuse(planned.problems, f"{job.path} has {plural(len(planned.problems), 'problem')}")
    asked = requests_of(job, evaluation=evaluation)
    service: Any = jobs or open_jobs(asked.config.job.on, asked.config.job.region, endpoint)
    where = service_words(job, endpoint)
    asked.prepare(service, say)
    files: dict[str, str] = {}
    for name in dict.fromkeys(asked.local_files()):
        files[name] = asked.upload(service, name)
        created(Created("file", files[name], asked.remove_file(files[name], where)))
    grader = _grader(asked)
    arn = _deploy(grader, asked, endpoint, created, say) if grader else _grader_arn(asked.config)
    for item in asked.set_up(service):
        created(item)
    made = service.create(**asked.arguments(files, arn))
    created(Created("job", made.id, f"aws-rft job stop {made.id} {where}"))
    return Submission(made, files, arn, where)


def service_words(job: JobFile, endpoint: str | None) -> str:
    """Return the options that name the service of a file on a command line. Returns "" if the file has problems."""
    if job.config is None:
        return ""
    on, region = job.config.job.on, job.config.job.region
    return f"--on {on}{'' if region == KINDS[on].region() else f' --region {region}'}{_at(endpoint)}"


def _at(endpoint: str | None) -> str:
    return f" --endpoint {quote(endpoint)}" if endpoint else ""


def _function_name(config: Config) -> str:
    return (config.grader and config.grader.name) or config.job.name


def _grader_arn(config: Config) -> str | None:
    """Return the ARN of the grader. The account of a function that is yet to be deployed is not known.

    Returns None if the service has no grader.
    """
    if config.grader is None:
        return None
    return config.grader.lambda_arn or iam.Names(_ACCOUNT, config.job.region, _function_name(config)).function_arn


def _creates(asked: Asked, rows: Mapping[str, int], groups: Sequence[Request]) -> Iterator[dict[str, JSON]]:
    config = asked.config
    for name, count in rows.items():
        yield {"kind": "file", "name": name, "rows": count}
    if config.grader and config.grader.reward:
        yield {"kind": "grader", "name": _function_name(config), "reward": config.grader.reward}
    for request in groups:
        yield {"kind": "group", "name": request.parameters["ModelPackageGroupName"]}
    yield {"kind": "job", "name": asked.job_name, "model": config.job.model}


def _masked(value: JSON) -> JSON:
    """Return parameters without what looks like a secret, or what the service's model calls sensitive."""
    if isinstance(value, Mapping):
        return {key: "***" if key in _SENSITIVE else _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else shown(value)


def _baseline(folder: Path) -> dict[str, JSON]:
    """Return what the rollouts of a folder scored."""
    manifest = read_manifest(folder)
    found = measure(
        RolloutTable.read(folder),
        success_threshold=manifest.success_threshold if manifest else SUCCESS_THRESHOLD,
        prompts=manifest.rows if manifest else None,
    )
    mean = found.mean_reward
    return {
        "folder": str(folder),
        "rollouts": found.rollouts,
        "prompts": found.prompts,
        "mean_reward": mean and mean.value,
        "mean_reward_interval": mean and [mean.low, mean.high],
        "hints": [asdict(hint) for hint in hints(found)],
        "metrics": found.to_dict(),
    }


def _grader(asked: Asked) -> Grader | None:
    """Return the grader that is to be deployed. Returns None if there is none, or it exists."""
    table = asked.config.grader
    if table is None or table.reward is None:
        return None
    reward = str(asked.job.local(table.reward))
    return Grader(reward, _function_name(asked.config), asked.config.job.on, table.role, table.with_deps)


def _deployment(asked: Asked, problems: list[Problem]) -> tuple[list[Request], list[str]]:
    """Return the requests that deploy the grader, and notes. Adds to the problems."""
    grader = _grader(asked)
    if grader is None or any(problem.path.startswith("grader") for problem in problems):
        return [], []
    if grader.with_deps:
        role = grader.role or f"arn:aws:iam::{_ACCOUNT}:role/ROLE"
        note = "grader.with_deps: pip builds the zip when the job is submitted. Only then is it known whether it fits"
        return [Request("lambda", "CreateFunction", grader.creation(role))], [note]
    try:
        return graders.plan_deploy(grader, region=asked.config.job.region, account=_ACCOUNT), []
    except ConfigurationError as error:
        told = asked.config.grader and asked.config.grader.reward
        problems.append(Problem("grader.reward", told, str(error), OURS))
        return [], []


def _deploy(grader: Grader, asked: Asked, endpoint: str | None, created: _Told, say: Callable[[str], object]) -> str:
    """Deploy the grader, tried with the first rows of the training file. Returns its ARN."""
    region, begun = asked.config.job.region, False

    def tell(what: str) -> None:
        nonlocal begun
        begun = True
        say(what)

    remove = f"aws-rft reward undeploy {grader.name} --region {region}{_at(endpoint)}"
    samples = asked.job.local(name) if (name := next(iter(asked.job.rows), None)) else None
    try:
        made = graders.deploy(grader, samples=samples, region=region, endpoint_url=endpoint, say=tell)
    except BaseException:
        if begun:
            created(Created("grader", grader.name, remove))
        raise
    created(Created("grader", made.arn, remove))
    return made.arn


def _statements(names: iam.Names, on: str, deployment: Sequence[Request]) -> Iterator[Mapping[str, JSON]]:
    """Yield what whoever submits the job and follows it needs."""
    yield from iam.needs_of("caller", names, on).statements
    if actions := {action for request in deployment for action in iam.actions_of(request.service, request.operation)}:
        yield iam.statement(sorted(actions))
