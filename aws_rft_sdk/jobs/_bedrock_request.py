"""The request that creates a job for an open-weight model on Bedrock, and what can be wrong with it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.jobs.iam import partition_of
from aws_rft_sdk.jobs.types import File, Problem

MODELS = ("openai.gpt-oss-20b", "qwen.qwen3-32b")
"""Models that AWS documents for reinforcement fine-tuning over this API, in us-west-2. The service decides."""

_LAMBDA_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):lambda:(?P<region>[a-z0-9-]+):\d{12}:function:[a-zA-Z0-9-_]{1,64}(:(\$LATEST|[a-zA-Z0-9-_]{1,128}))?"
)
_GUIDE = "Amazon Bedrock user guide, create and manage fine-tuning jobs for open-weight models using OpenAI APIs"
_OPENAI_TYPES = "openai, ReinforcementHyperparameters"
_OURS = "this package"
_WHOLE, _NUMBER = "a whole number of at least 1, or 'auto'", "a number above 0, or 'auto'"
_HYPERPARAMETERS = {
    **dict.fromkeys(("n_epochs", "batch_size"), (_WHOLE, _GUIDE)),
    "learning_rate_multiplier": (_NUMBER, _GUIDE),
    **dict.fromkeys(("eval_interval", "eval_samples"), (_WHOLE, _OPENAI_TYPES)),
    "compute_multiplier": (_NUMBER, _OPENAI_TYPES),
    "reasoning_effort": ("default, low, medium or high", _OPENAI_TYPES),
}


def create_body(
    model: str,
    training_file: str | File,
    grader: str | Mapping[str, JSON],
    hyperparameters: Mapping[str, JSON] | None = None,
    validation_file: str | File | None = None,
) -> dict[str, JSON]:
    """Return the JSON that creates a job. Nothing is checked and nothing is sent.

    Args:
        model: Id of the model to tune.
        training_file: Id of an uploaded file, or the file.
        grader: ARN of a Lambda function, or the grader's JSON.
        hyperparameters: By the service's names. The service chooses those that are absent.
        validation_file: Like `training_file`. None for none.
    """
    raw = {"type": "lambda", "lambda": {"function": grader}} if isinstance(grader, str) else grader
    reinforcement: dict[str, JSON] = {"grader": raw}
    if hyperparameters:
        reinforcement["hyperparameters"] = hyperparameters
    body: dict[str, JSON] = {
        "model": model,
        "training_file": getattr(training_file, "id", training_file),
        "method": {"type": "reinforcement", "reinforcement": reinforcement},
    }
    return (
        body
        if validation_file is None
        else {**body, "validation_file": getattr(validation_file, "id", validation_file)}
    )


def problems(body: Mapping[str, JSON], region: str | None = None) -> list[Problem]:
    """Return all that is wrong with a body of `create_body`, by its paths there.

    AWS publishes no ranges for the hyperparameters of this API, so only their types and signs are checked.

    Args:
        body: What would be sent.
        region: Region of the job. None if it is unknown, then the region of the grader is not checked.
    """
    found = []
    model = body["model"]
    if not is_text(model):
        found.append(Problem("model", model, f"must be the id of a model, for example {MODELS[0]!r}", _GUIDE))
    elif model.startswith("amazon.nova"):
        rule = f"must be an open-weight model, for example {MODELS[0]!r}; Nova is tuned with NovaJobs, --on nova"
        found.append(Problem("model", model, rule, _GUIDE))
    for name in ("training_file", "validation_file"):
        if name in body and not _is_file_id(body[name]):
            rule = "must be the id of an uploaded file; upload(path) returns it"
            found.append(Problem(name, body[name], rule, _GUIDE))
    reinforcement = body["method"]["reinforcement"]
    found += _grader_problems(reinforcement["grader"], region)
    path = "method.reinforcement.hyperparameters"
    given = reinforcement.get("hyperparameters", {})
    if not isinstance(given, Mapping):
        return [*found, Problem(path, given, "must be a mapping of names to values", _OURS)]
    for name, value in given.items():
        rule, source = _HYPERPARAMETERS.get(name, ("", _OURS))
        if not rule:
            known = f"must have one of the known names: {', '.join(_HYPERPARAMETERS)}"
            found.append(Problem(f"{path}.{name}", value, known, source))
        elif not _keeps(rule, value):
            found.append(Problem(f"{path}.{name}", value, f"must be {rule}", source))
    return found


def _grader_problems(grader: JSON, region: str | None) -> list[Problem]:
    path = "method.reinforcement.grader"
    example = f"arn:aws:lambda:{region or 'us-west-2'}:123456789012:function:NAME"
    if not isinstance(grader, Mapping) or not is_text(grader.get("type")):
        rule = f"must be the ARN of a Lambda function, such as {example}, or an object with a type"
        return [Problem(path, grader, rule, _GUIDE)]
    if grader["type"] != "lambda":
        return []
    target = grader.get("lambda")
    arn = target.get("function") if isinstance(target, Mapping) else None
    match = _LAMBDA_ARN.fullmatch(arn) if isinstance(arn, str) else None
    if match is None:
        return [Problem(f"{path}.lambda.function", arn, f"must be the ARN of a Lambda function, as {example}", _GUIDE)]
    if region is not None and match["region"] != region:
        rule = f"must be a function in {region}, where the job runs; deploy it there"
        return [Problem(f"{path}.lambda.function", arn, rule, _OURS)]
    if match["partition"] != (partition := partition_of(match["region"])):
        rule = f"must begin with arn:{partition}: as {match['region']} is in no other partition of AWS"
        return [Problem(f"{path}.lambda.function", arn, rule, _OURS)]
    return []


def _keeps(rule: str, value: JSON) -> bool:
    if rule not in (_WHOLE, _NUMBER):
        return value in ("default", "low", "medium", "high")
    if isinstance(value, str):
        return value == "auto"
    return is_number(value) and value > 0 and (rule == _NUMBER or isinstance(value, int))


def is_text(value: JSON) -> bool:
    """Whether a value can be an id: printable text that is not empty and has no spaces around it."""
    return isinstance(value, str) and bool(value) and value == value.strip() and value.isprintable()


def _is_file_id(value: JSON) -> bool:
    return is_text(value) and not re.search(r"[\s/\\]|\.(jsonl?|csv|parquet|gz)$", value)
