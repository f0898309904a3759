"""What a multi-turn RL job on SageMaker needs before it is created: its agent, its schema and its package groups."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jsonschema
from botocore.exceptions import ClientError

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, JobServiceError
from aws_rft_sdk.jobs._aws import asking
from aws_rft_sdk.jobs.types import Problem

logger = logging.getLogger(__name__)

Clients: TypeAlias = Callable[[str], Any]
"""Returns boto3's client of a service."""
_READY = "READY"
RESTRICTED = {"ManagedStorageType": "Restricted"}
"""Storage of groups for Nova models, whose weights the user may not read."""


def runtime_arn(client: Clients, runtime: str) -> str:
    """Return the ARN of an AgentCore runtime, by its id.

    Raises:
        ConfigurationError: The runtime is not ready for calls.
        ServiceError: There is no such runtime, or the caller may not see it.
    """
    with asking("bedrock-agentcore:GetAgentRuntime"):
        found = client("bedrock-agentcore-control").get_agent_runtime(agentRuntimeId=runtime)
    if (status := found.get("status", _READY)) != _READY:
        raise ConfigurationError(f"the AgentCore runtime {runtime} is {status}. Wait until it is {_READY}")
    return str(found["agentRuntimeArn"])


def schema_problems(schema: Mapping[str, JSON], parameters: Mapping[str, JSON]) -> list[Problem]:
    """Return what is wrong with the document of CreateJob by the service's own JSON schema.

    Raises:
        JobServiceError: The schema is none.
    """
    kind = jsonschema.validators.validator_for(schema)
    source = f"the service's schema {parameters['JobConfigSchemaVersion']} of {parameters['JobCategory']}"
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise JobServiceError(f"{source} is no JSON schema: {error.message}") from None
    errors = kind(schema).iter_errors(json.loads(parameters["JobConfigDocument"]))
    return [Problem(path, value, rule, source) for error in errors for path, value, rule in _leaves(error)]


def _leaves(error: jsonschema.ValidationError) -> Iterator[tuple[str, JSON, str]]:
    """Yield path, value and rule of an error. Of alternatives, yield what comes closest to fitting."""
    if error.context:
        error = jsonschema.exceptions.best_match([error]) or error
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    yield path, error.instance, error.message


def create_group(client: Clients, parameters: Mapping[str, JSON]) -> str | None:
    """Create a model package group. Returns its ARN, or None if it was there already.

    Raises:
        ConfigurationError: The group was there already, with another kind of storage than the model needs.
        ServiceError: SageMaker refused.
    """
    sagemaker, name = client("sagemaker"), parameters["ModelPackageGroupName"]
    with asking("sagemaker:CreateModelPackageGroup"):
        try:
            return str(sagemaker.create_model_package_group(**parameters)["ModelPackageGroupArn"])
        except ClientError as error:
            # SageMaker answers with the same code to a name that is taken and to other mistakes.
            try:
                found = sagemaker.describe_model_package_group(ModelPackageGroupName=name)
            except ClientError:
                raise error from None
    needed = parameters.get("ManagedConfiguration")
    if needed and found.get("ManagedConfiguration") != needed:
        raise ConfigurationError(
            f"the model package group {name} exists without restricted storage, which Nova models need. Name another"
        )
    logger.info("group=<%s> | exists already", found["ModelPackageGroupArn"])
    return None
