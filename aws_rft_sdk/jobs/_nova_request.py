"""The parameters of CreateModelCustomizationJob for reinforcement fine-tuning, and what is wrong with them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.jobs._shapes import shape_problems
from aws_rft_sdk.jobs.types import OURS, Problem

RFT = "REINFORCEMENT_FINE_TUNING"
_GUIDE = "Amazon Bedrock user guide, create and manage fine-tuning jobs for Amazon Nova models"


def create_parameters(
    model: str,
    training_data: str | Mapping[str, JSON],
    grader: str | Mapping[str, JSON],
    *,
    job_name: str,
    role_arn: str,
    output: str,
    custom_model_name: str | None = None,
    hyperparameters: Mapping[str, JSON] | None = None,
    validators: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    kms_key: str | None = None,
    vpc: Mapping[str, JSON] | None = None,
) -> dict[str, JSON]:
    """Return the parameters of CreateModelCustomizationJob. Nothing is checked; see `problems`.

    The arguments are those of `NovaJobs.create`, with S3 URIs in the place of files.
    """
    source = {"invocationLogsConfig": training_data} if isinstance(training_data, Mapping) else {"s3Uri": training_data}
    rft: dict[str, JSON] = {
        "graderConfig": grader if isinstance(grader, Mapping) else {"lambdaGrader": {"lambdaArn": grader}}
    }
    if hyperparameters not in (None, {}):
        rft["hyperParameters"] = hyperparameters
    # A value of the wrong type is passed on, for `problems` to find.
    files = [{"s3Uri": uri} for uri in validators] if isinstance(validators, list | tuple) else validators
    tag_list = [{"key": key, "value": tags[key]} for key in tags] or None if isinstance(tags, Mapping) else tags
    optional = {
        "validationDataConfig": {"validators": files} if files else None,
        "jobTags": tag_list,
        "customModelTags": tag_list,
        "customModelKmsKeyId": kms_key,
        "vpcConfig": vpc,
    }
    parameters = {
        "jobName": job_name,
        "customModelName": job_name if custom_model_name is None else custom_model_name,
        "roleArn": role_arn,
        "baseModelIdentifier": model,
        "customizationType": RFT,
        "trainingDataConfig": source,
        "outputDataConfig": {"s3Uri": output},
        "customizationConfig": {"rftConfig": rft},
        **{name: value for name, value in optional.items() if value is not None},
    }
    text = json.dumps(thaw(parameters), sort_keys=True, default=str)
    # The same call makes one job, also when the answer of the first call was lost and the user repeats it.
    return {**thaw(parameters), "clientRequestToken": hashlib.sha256(text.encode()).hexdigest()}


def problems(parameters: Mapping[str, JSON]) -> list[Problem]:
    """Return everything that is wrong with parameters of CreateModelCustomizationJob, before anything is sent.

    Checked are botocore's model of the service, and the rules that only the documentation has.
    """
    return [*shape_problems("bedrock", "CreateModelCustomizationJob", parameters), *_documented(parameters)]


def _documented(parameters: Mapping[str, JSON]) -> Iterator[Problem]:
    kind = parameters.get("customizationType")
    if kind != RFT:
        yield Problem("customizationType", kind, f"must be {RFT}", _GUIDE)
    path, data = "trainingDataConfig", _table(parameters, "trainingDataConfig")
    if len(data.keys() & {"s3Uri", "invocationLogsConfig"}) != 1:
        yield Problem(path, sorted(data), "must have exactly one of s3Uri, invocationLogsConfig", _GUIDE)
    filters = _table(data, "invocationLogsConfig", "requestMetadataFilters")
    for name, number, condition in _items(filters, "andAll", "orAll"):
        if len(condition) != 1:
            where = f"{path}.invocationLogsConfig.requestMetadataFilters.{name}[{number}]"
            yield Problem(where, sorted(condition), "must have exactly one of equals, notEquals", _GUIDE)
    path, rft = "customizationConfig.rftConfig", _table(parameters, "customizationConfig", "rftConfig")
    if "graderConfig" not in rft:
        yield Problem(f"{path}.graderConfig", None, "is missing. A job needs a grader: a Lambda function", _GUIDE)
    for name in ("maxPromptLength", "inferenceMaxTokens"):
        tokens = _table(rft, "hyperParameters").get(name)
        if isinstance(tokens, int) and tokens < 1:
            yield Problem(f"{path}.hyperParameters.{name}", tokens, "must be at least 1", OURS)
    for name, number, tag in _items(parameters, "jobTags", "customModelTags"):
        yield from tag_problems(f"{name}[{number}].key", tag.get("key"))


def tag_problems(path: str, key: JSON) -> Iterator[Problem]:
    """Yield what is wrong with the key of a tag that the service's model has no rule for."""
    if str(key).lower().startswith("aws:"):
        rule = "must not begin with aws:, which AWS keeps for itself"
        yield Problem(path, key, rule, "Amazon Bedrock user guide, tagging")


def _items(table: Mapping[str, JSON], *names: str) -> Iterator[tuple[str, int, Mapping[str, JSON]]]:
    """Yield name, number and table of the tables that are in lists of these names."""
    for name in names:
        items = table.get(name)
        for number, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, Mapping):
                yield name, number, item


def _table(value: Mapping[str, JSON], *names: str) -> Mapping[str, JSON]:
    """Return a table inside tables. Returns an empty one if it is absent or no table."""
    for name in names:
        inner = value.get(name)
        value = inner if isinstance(inner, Mapping) else {}
    return value
