"""The request that creates a job for an open-weight model on Bedrock, and what can be wrong with it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.jobs._shapes import broken_rule
from aws_rft_sdk.jobs._tables import table_problems
from aws_rft_sdk.jobs.config import MANTLE, MODELS, BedrockHyperparameters
from aws_rft_sdk.jobs.iam import function_rule
from aws_rft_sdk.jobs.types import OURS, File, Problem

_MODEL = MODELS["bedrock"][0]


def create_body(
    model: str,
    training_file: str | File,
    grader: str | Mapping[str, JSON],
    hyperparameters: Mapping[str, JSON] | None = None,
    validation_file: str | File | None = None,
) -> dict[str, JSON]:
    """Return the JSON that creates a job. The arguments are those of `BedrockJobs.create`. Nothing is checked."""
    raw = {"type": "lambda", "lambda": {"function": grader}} if isinstance(grader, str) else grader
    reinforcement: dict[str, JSON] = {"grader": raw}
    if hyperparameters:
        reinforcement["hyperparameters"] = hyperparameters
    files = {"training_file": training_file}
    if validation_file is not None:
        files["validation_file"] = validation_file
    return {
        "model": model,
        **{name: getattr(file, "id", file) for name, file in files.items()},
        "method": {"type": "reinforcement", "reinforcement": reinforcement},
    }


def problems(body: Mapping[str, JSON], region: str | None = None) -> list[Problem]:
    """Return all that is wrong with a body of `create_body`, by its paths there.

    AWS publishes no ranges for the hyperparameters of this API, so only their types and signs are checked.

    Args:
        body: What would be sent.
        region: Region of the job. None if it is unknown, then the region of the grader is not checked.
    """
    found = []
    if rule := model_rule(body["model"]):
        found.append(Problem("model", body["model"], rule, MANTLE))
    for name in ("training_file", "validation_file"):
        if name in body and not _is_file_id(body[name]):
            rule = "must be the id of an uploaded file; upload(path) returns it"
            found.append(Problem(name, body[name], rule, MANTLE))
    reinforcement = body["method"]["reinforcement"]
    found += _grader_problems(reinforcement["grader"], region)
    path = "method.reinforcement.hyperparameters"
    given = reinforcement.get("hyperparameters", {})
    if not isinstance(given, Mapping):
        return [*found, Problem(path, given, "must be a mapping of names to values", OURS)]
    wrong = table_problems(BedrockHyperparameters, dict(given))
    none = "must have a value; the service chooses those that are absent"
    wrong += [Problem(name, None, none, OURS) for name, value in given.items() if value is None]
    return found + [problem._replace(path=f"{path}.{problem.path}") for problem in wrong]


def model_rule(model: JSON) -> str | None:
    """Return what a model must be. Returns None if it is so."""
    if is_text(model) and not model.startswith("amazon.nova"):
        return None
    return f"must be the id of an open-weight model, for example {_MODEL!r}; Nova is tuned with NovaJobs, --on nova"


def _grader_problems(grader: JSON, region: str | None) -> list[Problem]:
    path = "method.reinforcement.grader"
    example = f"arn:aws:lambda:{region or 'us-west-2'}:123456789012:function:NAME"
    if not isinstance(grader, Mapping) or not is_text(grader.get("type")):
        rule = f"must be the ARN of a Lambda function, such as {example}, or an object with a type"
        return [Problem(path, grader, rule, MANTLE)]
    if grader["type"] != "lambda":
        return []
    target = grader.get("lambda")
    arn = target.get("function") if isinstance(target, Mapping) else None
    if not isinstance(arn, str) or broken_rule("LambdaArn", arn):
        return [Problem(f"{path}.lambda.function", arn, f"must be the ARN of a Lambda function, as {example}", MANTLE)]
    if region is not None and (wrong := function_rule(arn, region)):
        return [Problem(f"{path}.lambda.function", arn, wrong, OURS)]
    return []


def is_text(value: JSON) -> bool:
    """Whether a value can be an id: printable text that is not empty and has no spaces around it."""
    return isinstance(value, str) and bool(value) and value == value.strip() and value.isprintable()


def _is_file_id(value: JSON) -> bool:
    return is_text(value) and not re.search(r"[\s/\\]|\.(jsonl?|csv|parquet|gz)$", value)
