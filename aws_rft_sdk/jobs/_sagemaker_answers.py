"""Reads what SageMaker answers about multi-turn RL jobs. Nothing of it is dropped. Pure functions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import EVALUATION, TRAINING, Prices, known_prices
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._nova_answers import plain
from aws_rft_sdk.jobs.types import Checkpoint, Event, Job

CATEGORIES = {category.lower(): category for category in (TRAINING, EVALUATION)}
"""By how an ARN may spell them."""
_OUTCOMES = {"Completed": "succeeded", "Failed": "failed", "Stopped": "cancelled"}
_STATES = {**_OUTCOMES, "InProgress": "running", "Stopping": "running"}
_DELETION = ("Deleting", "DeleteFailed")
_LEVELS = {"Failed": "error", "MaxRuntimeExceeded": "error", "Interrupted": "warn", "Restarting": "warn"}
_TOKEN_COUNTS = {
    "PrefillTokenCount": "prefill",
    "SampleTokenCount": "sample",
    "TrainTokenCount": "train",
    "TrainingTokenCount": "train",  # as training sessions spell it
}
_OVERTIME = "the job reached its time limit. `aws-rft job resume` goes on from its last checkpoint"
_STRICT = ("TrainingConfig.HyperParameters", "EvaluationConfig.HyperParameters", "ModelPackageConfig", "InputData")
"""Parts of a document to which the service adds nothing that matters. Elsewhere it may add its defaults."""
_BARE_REWARD_METRICS = ("pass_at", "pass_power", "mean", "std", "min", "max", "zero_frac", "succeeded", "failed")


def job_of(answer: Mapping[str, JSON]) -> Job:
    """Read what DescribeJob answered, or a row of ListJobs. The id is the job's name."""
    raw = plain(answer)
    status, state = str(raw.get("JobStatus", "")), _STATES.get(str(raw.get("JobStatus")), "unknown")
    if status in _DELETION:  # only jobs that have ended can be deleted
        ends = (_OUTCOMES.get(item.get("Status")) for item in reversed(raw.get("SecondaryStatusTransitions") or ()))
        state = next(filter(None, ends), "cancelled")
    failure = None
    if state in ("failed", "cancelled"):
        overtime = _OVERTIME if phase_of(raw) == "MaxRuntimeExceeded" else None
        failure = raw.get("FailureReason") or overtime
    tuned = service_output(raw).get("OutputModelPackageArn") if state == "succeeded" else None
    return Job(raw, str(raw.get("JobName") or raw.get("JobArn")), status, state, tuned or None, failure)


def name_of(job: str | Job, region: str) -> tuple[str, str | None]:
    """Return the name of a job, and its category if that is known.

    Args:
        job: A name, an ARN or a job.
        region: Of the jobs that can be asked for.

    Raises:
        ConfigurationError: It is no name, or the ARN of something else or of a job in another region.
    """
    if isinstance(job, Job):
        return job.id, job.get("JobCategory")
    if not job or not isinstance(job, str):
        raise ConfigurationError(f"{job!r:.80} is no name or ARN of a job")
    if not job.startswith("arn:"):
        return job, None
    _, _, *rest = job.split(":")
    parts = rest[-1].split("/")
    if len(rest) != 4 or len(parts) != 3 or parts[0] != "job":
        raise ConfigurationError(f"{job!r:.300} is no ARN of a job: arn:aws:sagemaker:REGION:ACCOUNT:job/CATEGORY/NAME")
    if rest[1] != region:
        raise ConfigurationError(f"{job} is in {rest[1]}, and not in {region}; type --region {rest[1]}")
    return parts[2], CATEGORIES.get(parts[1].lower())


def phase_of(job: Mapping[str, JSON]) -> str:
    """Return the secondary status: what the job is doing. DescribeJob and ListJobs name it differently."""
    return str(job.get("SecondaryStatus") or job.get("JobSecondaryStatus") or "")


def document_of(job: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the document of a job, with `ServiceOutput`. Returns {} for a row of ListJobs, which has none."""
    try:
        found = json.loads(job.get("JobConfigDocument") or "{}")
    except (ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def service_output(job: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return what the service has added to the document of a job."""
    return _table(document_of(job), "ServiceOutput")


def mlflow_arn(document: Mapping[str, JSON]) -> str | None:
    """Return the ARN of the MLflow app that a job writes to. Sources disagree about where the document has it."""
    return next((config.get("MlflowResourceArn") for config in _mlflow_configs(document) if config), None)


def _mlflow_configs(document: Mapping[str, JSON]) -> list[Mapping[str, JSON]]:
    return [_table(_table(document, block), "MlflowConfig") for block in ("TrainingConfig", "OutputDataConfig")]


def base_model_of(document: Mapping[str, JSON]) -> str:
    """Return the ARN of the base model. Returns "" if the document names none."""
    blocks = (_table(document, name) for name in ("TrainingConfig", "EvaluationConfig"))
    return str(next((block["BaseModelArn"] for block in blocks if "BaseModelArn" in block), ""))


class Progress(NamedTuple):
    """How far a job is.

    Attributes:
        step: The step that is being made, from 1 over all epochs.
        total_steps: Steps of the whole job.
        text: Both in words, with the epoch.
    """

    step: int
    total_steps: int
    text: str

    @property
    def share(self) -> float:
        """Share of the steps that are done, from 0 to 1."""
        return min(max(self.step - 1, 0) / self.total_steps, 1.0)


def progress_of(job: Mapping[str, JSON]) -> Progress | None:
    """Return the progress of a job. Returns None if the service does not say, or names no total."""
    info = {name: _count(value) for name, value in _table(service_output(job), "ProgressInfo").items()}
    step, most = info.get("CurrentStep", 0), info.get("MaxSteps", 0)
    epochs, per_epoch = info.get("MaxEpoch", 0), info.get("StepsPerEpoch", 0)
    if epochs and per_epoch:
        epoch = max(info.get("CurrentEpoch", 1), 1)
        step, total = (epoch - 1) * per_epoch + step, min(epochs * per_epoch, most or epochs * per_epoch)
        return Progress(step, total, f"step {step} of {total} (epoch {epoch} of {epochs})")
    return Progress(step, most, f"step {step} of {most}") if most else None


def usage_of(job: Mapping[str, JSON]) -> dict[str, int]:
    """Return the tokens that are billed so far, by kind. Returns {} if the service does not say."""
    counts = _table(service_output(job), "BillableTokenUsage")
    return {kind: _count(counts[name]) for name, kind in _TOKEN_COUNTS.items() if name in counts}


def usage_text(job: Mapping[str, JSON], prices: Prices | None = None) -> str | None:
    """Return the billed tokens and their cost in words. Returns None if the service does not say.

    Args:
        job: From DescribeJob.
        prices: None for the known prices of the job's model and region. If there are none, no cost is told.
    """
    tokens = usage_of(job)
    if not tokens:
        return None
    region = str(job.get("JobArn", "")).split(":")[3:4]
    prices = prices or known_prices(base_model_of(document_of(job)), "".join(region))
    text = ", ".join(f"{count:,} {kind}" for kind, count in tokens.items()) + " tokens"
    if prices is None:
        return text
    return f"{text}, ${prices.cost(**tokens):,.2f} at the prices of {prices.seen or prices.source}"


def parts_of(job: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return what a look at a job shows beside its status. Empty for jobs of other services."""
    if "JobConfigDocument" not in job:
        return {}
    progress, rollouts = progress_of(job), _rollouts_of(job)
    share = f", {progress.share:.0%} done" if progress and job.get("JobStatus") == "InProgress" else ""
    found = {
        "phase": phase_of(job),
        "progress": progress and f"{progress.text}{share}",
        "rollouts": rollouts and f"{rollouts[0]:,} of {rollouts[1]:,}",
        "billed": usage_text(job),
    }
    return {name: value for name, value in found.items() if value}


def _rollouts_of(job: Mapping[str, JSON]) -> tuple[int, int] | None:
    info = _table(service_output(job), "RolloutInfo")
    total = _count(info.get("Total"))
    return (_count(info.get("Completed")), total) if total else None


# --- events ----------------------------------------------------------------------------------------------------------


def events_of(job: Job, prices: Prices | None = None) -> Iterator[Event]:
    """Yield what a job says now, the oldest first. An event that is news has another id.

    The service keeps transitions, so all of them come at each look. Of progress, tokens and checkpoints it tells only
    the present.
    """
    for item in job.get("SecondaryStatusTransitions") or ():
        told = f": {item['StatusMessage']}" if item.get("StatusMessage") else ""
        news = (item.get("Status"), item.get("StartTime"), item.get("StatusMessage"))
        level = _LEVELS.get(str(item.get("Status")), "info")
        yield event("transition", news, item, f"{item.get('Status')}{told}", item.get("StartTime"), level)
    output, at = service_output(job), job.get("LastModifiedTime")
    progress, rollouts = progress_of(job), _rollouts_of(job)
    if progress or rollouts:
        step = progress.step if progress else 0
        tenth = 10 * rollouts[0] // rollouts[1] if rollouts else 0
        texts = [progress.text] if progress else []
        texts += [f"{rollouts[0]:,} of {rollouts[1]:,} rollouts"] if rollouts else []
        raw = {name: output[name] for name in ("ProgressInfo", "RolloutInfo") if name in output}
        yield event("progress", (step, tenth), raw, ", ".join(texts), at)
    if text := usage_text(job, prices):
        counted = (progress and progress.step, job.finished and usage_of(job))
        yield event(
            "usage", counted, {"BillableTokenUsage": output["BillableTokenUsage"]}, f"billed so far: {text}", at
        )
    for name in ("ModelCheckpoint", "ResumableCheckpoint", "OutputModelPackageArn"):
        if arn := output.get(name):
            yield event("checkpoint", (name, arn), {name: arn}, f"{name} is {arn}", at)
    if metrics := evaluation_metrics(output):
        yield event("metrics", metrics, {"data": {"step": 0, **metrics}}, "metrics of the evaluation", at)


def event(kind: str, news: JSON, raw: Mapping[str, JSON], message: str, at: JSON = None, level: str = "info") -> Event:
    """Return an event.

    Args:
        kind: What it is about.
        news: What tells it from other events of the kind.
        raw: What the service said.
        message: For people.
        at: When, in seconds since 1970 or as the text of a date.
        level: `info`, `warn` or `error`.
    """
    digest = hashlib.sha256(json.dumps(news, sort_keys=True, default=str).encode()).hexdigest()[:16]
    created = datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() if isinstance(at, str) else at
    whole = {"id": f"{kind}-{digest}", "type": kind, "created_at": created, **raw}
    return Event(whole, whole["id"], message=message, level=level, created_at=created)


def evaluation_metrics(output: Mapping[str, JSON]) -> dict[str, float]:
    """Return the metrics of an evaluation by their names in MLflow, for example `eval/reward/mean`.

    The form of the block `EvaluationMetrics` is not documented: names may lack their prefix, values may be texts.
    """
    found: dict[str, float] = {}
    for name, value in _numbers(_table(output, "EvaluationMetrics")):
        bare = "/" not in name and name.startswith(_BARE_REWARD_METRICS)
        found[name if name.startswith("eval/") else f"eval/reward/{name}" if bare else f"eval/{name}"] = value
    return found


def _numbers(table: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue  # a note, such as the name of a data set
        if math.isfinite(number):
            yield f"{prefix}{name}", number


def checkpoints_of(job: Mapping[str, JSON], packages: Iterable[Mapping[str, JSON]] = ()) -> list[Checkpoint]:
    """Return the checkpoints of a job, the oldest first.

    Args:
        job: From DescribeJob.
        packages: Rows of ListModelPackages, of both groups of the job.
    """
    output, groups = service_output(job), _table(document_of(job), "ModelPackageConfig")
    resumable = group_name(groups.get("IntermediateCheckpointModelPackageGroupArn"))
    rows = {str(row["ModelPackageArn"]): dict(plain(row)) for row in packages}
    for name in ("ModelCheckpoint", "ResumableCheckpoint", "OutputModelPackageArn"):
        if arn := output.get(name):
            rows.setdefault(str(arn), {"ModelPackageArn": arn})
    found = [
        Checkpoint({**row, "resumable": group_name(arn) == resumable}, arn, step=_step_of(row), model=arn)
        for arn, row in rows.items()
    ]
    return sorted(found, key=lambda item: (str(item.get("CreationTime", "~")), item.id))


def group_name(arn: str | None) -> str:
    """Return the name of a model package group, of its ARN or that of one of its packages."""
    parts = str(arn or "").partition("/")[2].split("/")
    return parts[0]


def _step_of(row: Mapping[str, JSON]) -> int | None:
    words = str(row.get("ModelPackageDescription") or "").lower().replace("=", " ").split()
    after = words[words.index("step") + 1 :] if "step" in words else []
    digits = after[0].strip(".,:;") if after else ""
    return int(digits) if digits.isdecimal() else None


# --- whose job it is -------------------------------------------------------------------------------------------------


def differing(job: Job, parameters: Mapping[str, JSON]) -> list[str]:
    """Return in what a job differs from parameters of CreateJob, in words. Empty if it may be what they made.

    What the service adds on its own, such as defaults and its own tags, is no difference.
    """
    theirs, ours = _comparable(job), _comparable(parameters)
    found = []
    for path in sorted({*theirs, *ours}):
        if path.startswith("Tags.") and "Tags" not in job:
            continue  # the service need not show them
        one, two = theirs.get(path), ours.get(path)
        if one != two and (two is not None or path.startswith(_STRICT)):
            found.append(f"{path}, which is {json.dumps(one)} there and {json.dumps(two)} here")
    return found


def _comparable(of: Mapping[str, JSON]) -> dict[str, JSON]:
    document = {name: value for name, value in document_of(of).items() if name != "ServiceOutput"}
    found = {name: of.get(name) for name in ("RoleArn", "JobCategory", "JobConfigSchemaVersion")}
    tags = {tag["Key"]: tag["Value"] for tag in of.get("Tags") or ()}
    found |= {f"Tags.{key}": value for key, value in tags.items() if not key.startswith("aws:")}
    for place, value in _leaves(document):
        found[place.replace("TrainingConfig.Mlflow", "Mlflow").replace("OutputDataConfig.Mlflow", "Mlflow")] = value
    return found


def _leaves(value: JSON, path: str = "") -> Iterator[tuple[str, JSON]]:
    if isinstance(value, list) and all(isinstance(item, Mapping) and "ChannelName" in item for item in value):
        value = {item["ChannelName"]: item.get("DataSource") for item in value}
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _table(of: Mapping[str, JSON], name: str) -> Mapping[str, JSON]:
    found = of.get(name)
    return found if isinstance(found, Mapping) else {}


def _count(value: JSON) -> int:
    try:
        return max(int(value), 0)
    except (TypeError, ValueError, OverflowError):
        return 0
