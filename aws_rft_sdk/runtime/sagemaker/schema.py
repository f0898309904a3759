"""The JSON schemas of the jobs' documents, and what they say of a document.

The service's own schemas are not public. These are made from `agent_rft`, so ranges and names are those of each model.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from aws_rft_sdk import agent_rft
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import EVALUATION, MODELS, SCHEMA_VERSION, TRAINING, BaseModel, Hyperparameter

CONFIG_BLOCKS = {TRAINING: "TrainingConfig", EVALUATION: "EvaluationConfig"}
"""The block of a document that names the base model, by category."""
VERSIONS = (SCHEMA_VERSION,)
_S3_URI = "^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$"
_ARN = r"^arn:aws[a-z\-]*:%s:[a-z0-9\-]+:[0-9]{12}:%s$"
_GROUP = _ARN % ("sagemaker", "model-package-group/.+")
_INTEGER, _NUMBER = r"^-?[0-9]+$", r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def schema(category: str) -> dict[str, JSON]:
    """Return the JSON schema (draft 2020-12) of a category's documents."""
    is_training = category == TRAINING
    config = CONFIG_BLOCKS[category]
    packages = {"InputModelPackageArn": _text(_ARN % ("sagemaker", "model-package/.+"))}
    groups = {
        name: _text(_GROUP) for name in ("OutputModelPackageGroupArn", "IntermediateCheckpointModelPackageGroupArn")
    }
    configuration: dict[str, JSON] = {
        "BaseModelArn": {
            "type": "string",
            "pattern": f"/SageMakerPublicHub/Model/({'|'.join(model.hub_id for model in MODELS.values())})(/.+)?$",
            "description": f"must be the hub ARN of one of {', '.join(model.hub_id for model in MODELS.values())}",
        },
        "AcceptEula": {"const": True, "description": "must be true: the model's licence has to be accepted"},
        "HyperParameters": {"type": "object", "maxProperties": 50, "additionalProperties": {"type": "string"}},
    }
    if is_training:
        configuration["MlflowConfig"] = _MLFLOW
    blocks: dict[str, JSON] = {
        "AgentConfig": _AGENT,
        "InputDataConfig": _channels(("train", "validation") if is_training else ("evaluation",)),
        "OutputDataConfig": _object(
            {"S3OutputPath": _text(_S3_URI), "KmsKeyArn": {"type": "string"}, "MlflowConfig": _MLFLOW}, ["S3OutputPath"]
        ),
        "ModelPackageConfig": _object(packages | groups, list(groups)) if is_training else _object(packages),
        config: _object(configuration, ["BaseModelArn", "AcceptEula"]),
        "VpcConfig": _object({"Subnets": _texts(16), "SecurityGroupIds": _texts(5)}, ["Subnets", "SecurityGroupIds"]),
        "StoppingCondition": _object(
            {
                "MaxRuntimeInSeconds": {
                    "type": "integer",
                    "minimum": 1,
                    **({} if is_training else {"maximum": agent_rft.EVALUATION_MAX_RUNTIME_SECONDS}),
                }
            }
        ),
    }
    required = [name for name in blocks if name not in ("VpcConfig", "StoppingCondition")]
    if not is_training:
        required.remove("ModelPackageConfig")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{category} {SCHEMA_VERSION}",
        **_object(blocks, required),
        "allOf": [_of_model(model, category) for model in MODELS.values()],
        **(_HAS_MLFLOW if is_training else {}),
    }


def hyperparameters(category: str, model: BaseModel) -> Mapping[str, Hyperparameter]:
    """Return what a job of a category may set for a model."""
    return model.hyperparameters if category == TRAINING else agent_rft.EVALUATION_HYPERPARAMETERS


def document_problems(category: str, document: JSON) -> Iterator[str]:
    """Yield what the schema, and the ranges that it cannot express, say against a document. Each names its path."""
    errors = sorted(_validator(category).iter_errors(document), key=lambda error: [str(part) for part in error.path])
    for error in errors:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        # The texts of other keywords repeat the whole value or the whole schema.
        said = error.schema.get("description") if error.validator in ("pattern", "const", "anyOf", "oneOf") else None
        yield f"JobConfigDocument{path}: {said or error.message[:300]}"
    if errors:
        return
    block = document[CONFIG_BLOCKS[category]]
    model = agent_rft.find_model(block["BaseModelArn"])
    if model is None:
        return
    for name, text in block.get("HyperParameters", {}).items():
        rule = hyperparameters(category, model)[name]
        if not rule.allows(text):
            yield f"JobConfigDocument.{CONFIG_BLOCKS[category]}.HyperParameters.{name}: {text!r:.80} is not {rule.rule}"


@functools.cache
def schema_text(category: str) -> str:
    """Return the schema as DescribeJobSchemaVersion answers with it."""
    return json.dumps(schema(category))


@functools.cache
def _validator(category: str) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(schema(category))


def _object(properties: Mapping[str, JSON], required: list[str] | None = None) -> dict[str, JSON]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required or [],
        "additionalProperties": False,
    }


def _text(pattern: str) -> dict[str, JSON]:
    return {"type": "string", "pattern": pattern}


def _texts(most: int) -> dict[str, JSON]:
    return {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": most}


_MLFLOW = _object(
    {
        "MlflowResourceArn": _text(_ARN % ("sagemaker", "mlflow-(app|tracking-server)/.+")),
        "MlflowExperimentName": {"type": "string", "minLength": 1, "maxLength": 256},
        "MlflowRunName": {"type": "string", "minLength": 1, "maxLength": 256},
    },
    ["MlflowResourceArn"],
)
_HAS_MLFLOW: dict[str, JSON] = {
    "anyOf": [
        {"properties": {block: {"required": ["MlflowConfig"]}}} for block in ("TrainingConfig", "OutputDataConfig")
    ],
    "description": "MlflowConfig is missing from TrainingConfig",
}
"""Sources disagree about the place. Jobs have been seen with either."""
_AGENT = {
    **_object(
        {
            "BedrockAgentCoreConfig": _object(
                {
                    "AgentRuntimeArn": _text(_ARN % ("bedrock-agentcore", "runtime/[A-Za-z0-9_-]+")),
                    "Qualifier": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,48}$"},
                },
                ["AgentRuntimeArn"],
            ),
            "CustomAgentLambdaConfig": _object(
                {"LambdaArn": _text(_ARN % ("lambda", r"function:[A-Za-z0-9_-]+(:[A-Za-z0-9_$-]+)?"))}, ["LambdaArn"]
            ),
        }
    ),
    "minProperties": 1,
    "maxProperties": 1,
}


def _channels(names: tuple[str, ...]) -> dict[str, JSON]:
    s3 = _object({"S3DataType": {"const": "S3Prefix"}, "S3Uri": _text(_S3_URI)}, ["S3DataType", "S3Uri"])
    registry = _object({"DatasetArn": _text("^arn:.+")}, ["DatasetArn"])
    source = {**_object({"S3DataSource": s3, "DatasetSource": registry}), "minProperties": 1, "maxProperties": 1}
    channel = _object(
        {"ChannelName": {"enum": list(names)}, "DataSource": source},
        ["ChannelName", "DataSource"],
    )
    needed = {"properties": {"ChannelName": {"const": names[0]}}, "required": ["ChannelName"]}
    return {
        "type": "array",
        "items": channel,
        "minItems": 1,
        "maxItems": len(names),
        "contains": needed,
        "maxContains": 1,
    }


def _of_model(model: BaseModel, category: str) -> dict[str, JSON]:
    """Return the rule on the hyperparameters of one model."""
    config = CONFIG_BLOCKS[category]
    table = {name: _hyperparameter(rule) for name, rule in hyperparameters(category, model).items()}
    names = {"type": "object", "properties": table, "additionalProperties": False}
    is_model = {
        "properties": {
            config: {
                "properties": {"BaseModelArn": {"type": "string", "pattern": f"/Model/{model.hub_id}(/.+)?$"}},
                "required": ["BaseModelArn"],
            }
        },
        "required": [config],
    }
    return {"if": is_model, "then": {"properties": {config: {"properties": {"HyperParameters": names}}}}}


def _hyperparameter(rule: Hyperparameter) -> dict[str, JSON]:
    """Return the schema of a hyperparameter's text. Its range stands in the description, and the stand-in checks it."""
    told: dict[str, JSON] = {
        "type": "string",
        "default": rule.text(rule.default),
        "description": f"must be {rule.rule}",
    }
    if rule.choices:
        return {**told, "enum": [str(choice) for choice in rule.choices]}
    if isinstance(rule.default, tuple):
        return {**told, "pattern": r"^ *[0-9]+( *, *[0-9]+)* *$"}
    return {**told, "pattern": _INTEGER if isinstance(rule.default, int) else _NUMBER}
