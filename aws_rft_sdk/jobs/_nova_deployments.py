"""Deployments of tuned Nova models for on-demand inference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from aws_rft_sdk.errors import JobServiceError, ServiceTimeoutError
from aws_rft_sdk.jobs._aws import asking
from aws_rft_sdk.jobs._nova_answers import ModelDeployment, code_of, deployment_of, plain

_CREATE = "bedrock:CreateCustomModelDeployment"
_MISSING = "ResourceNotFoundException"


class Deployments:
    """The deployments of one account and region. Its methods are those of `NovaJobs`, with ids and ARNs only.

    Args:
        client: Returns boto3's client of Bedrock.
        sleep: Waits between two looks at a deployment, in seconds.
    """

    def __init__(self, client: Callable[[], Any], sleep: Callable[[float], object]) -> None:
        self._client = client
        self._sleep = sleep

    def make(self, model: str, name: str, poll_seconds: float, timeout_seconds: float) -> ModelDeployment:
        """Deploy a model by its ARN, and wait until it can be called."""
        found = self._find(name)
        if found is None:
            try:
                with asking(_CREATE, model):
                    made = self._client().create_custom_model_deployment(modelDeploymentName=name, modelArn=model)
                found = ModelDeployment(plain(made), made["customModelDeploymentArn"], "Creating", model)
            except JobServiceError:
                found = self._find(name)  # botocore repeats a call whose answer was lost
                if found is None:
                    raise
        if found.model != model:
            text = (
                f"the deployment {name!r} is of {found.model}, and not of {model}. Choose another name, or undeploy it"
            )
            raise JobServiceError(text, action=_CREATE)
        return self._active(found, poll_seconds, timeout_seconds)

    def get(self, deployment: str) -> ModelDeployment:
        """Return a deployment as it is now."""
        with asking("bedrock:GetCustomModelDeployment"):
            return deployment_of(self._client().get_custom_model_deployment(customModelDeploymentIdentifier=deployment))

    def delete(self, deployment: str) -> None:
        """Delete a deployment. Does nothing if there is none."""
        with asking("bedrock:DeleteCustomModelDeployment"):
            try:
                self._client().delete_custom_model_deployment(customModelDeploymentIdentifier=deployment)
            except ClientError as error:
                if code_of(error) != _MISSING:
                    raise

    def _active(self, found: ModelDeployment, poll_seconds: float, timeout_seconds: float) -> ModelDeployment:
        for _ in range(math.ceil(timeout_seconds / poll_seconds)):
            if found.status in ("Active", "Failed"):
                break
            self._sleep(poll_seconds)
            found = self.get(found.id)
        if found.status == "Active":
            return found
        if found.status == "Failed":
            raise JobServiceError(
                f"the deployment {found.id} failed: {found.failure or 'Bedrock gives no reason'}. Before you deploy by "
                f"this name again, remove it with undeploy({found.id!r})",
                action=_CREATE,
            )
        raise ServiceTimeoutError(
            f"the deployment {found.id} is still {found.status} after {timeout_seconds:g} s. Call deploy again to wait"
        )

    def _find(self, name: str) -> ModelDeployment | None:
        try:
            return self.get(name)
        except JobServiceError as error:
            if error.code != _MISSING:
                raise
            return None
