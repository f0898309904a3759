"""Lambda and IAM of one account and region, and the names of what a grader consists of."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, JobServiceError
from aws_rft_sdk.jobs import _aws, iam
from aws_rft_sdk.jobs._refusals import refusal

TAG = "aws-rft:grader"
"""Marks what `deploy` makes. Its value is the name of the function."""
_MISSING = ("ResourceNotFoundException", "NoSuchEntity")


def role_name(function: str, region: str) -> str:
    """Return the name of the role that `deploy` makes for a function: at most 64 characters."""
    name = f"aws-rft-{region}-{function}"
    return name if len(name) <= 64 else f"{name[:55]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class Cloud:
    """Lambda and IAM of one account and region."""

    def __init__(self, region: str | None, session: Any, endpoint_url: str | None) -> None:
        self.session = _aws.session_for(region, session)
        self.region = self.session.region_name
        self.endpoint_url = endpoint_url
        self._clients = {
            name: _aws.client(self.session, name, endpoint_url=endpoint_url) for name in ("iam", "lambda", "sts")
        }

    def client(self, service: str) -> Any:
        """Return boto3's client of `iam`, `lambda` or `sts`."""
        return self._clients[service]

    def account(self) -> str:
        """Return the id of the account."""
        return str(self.call("sts", "GetCallerIdentity", "*")["Account"])

    def call(self, service: str, operation: str, resource: str, **parameters: JSON) -> Any:
        """Call AWS. Errors are those of this package."""
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
        try:
            return getattr(self._clients[service], method)(**parameters)
        except Exception as error:
            raise refusal(error, iam.actions_of(service, operation)[0], resource) from None

    def find(self, service: str, operation: str, resource: str, **parameters: JSON) -> Any:
        """Call AWS. Returns None if what is asked for is not there."""
        try:
            return self.call(service, operation, resource, **parameters)
        except JobServiceError as error:
            if error.code in _MISSING:
                return None
            raise

    def own_function(self, name: str) -> Any:
        """Return a function that `deploy` has made, None if there is none. Refuses one that it has not made."""
        found = self.find("lambda", "GetFunction", name, FunctionName=name)
        if found and found.get("Tags", {}).get(TAG) != name:
            raise ConfigurationError(
                f"the function {name} in {self.region} was not made by aws-rft: it lacks the tag {TAG}={name}. It is "
                "left as it is. Choose another name"
            )
        return found

    def own_role(self, function: str) -> Any:
        """Return the role that `deploy` has made for a function, None if there is none. Refuses one of others."""
        name = role_name(function, self.region)
        found = self.find("iam", "GetRole", name, RoleName=name)
        if found is None:
            return None
        if {"Key": TAG, "Value": function} not in found["Role"].get("Tags", []):
            raise ConfigurationError(
                f"the role {name} was not made by aws-rft: it lacks the tag {TAG}={function}. It is left as it is. "
                "Choose another name for the function, or pass --role"
            )
        return found["Role"]

    def undeploy(self, name: str) -> str:
        """Return the command that removes a function and its role."""
        where = f" --endpoint {self.endpoint_url}" if self.endpoint_url else ""
        return f"aws-rft reward undeploy {name} --region {self.region}{where}"
