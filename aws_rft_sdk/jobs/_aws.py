"""AWS clients for jobs. Nothing else in this room imports boto3."""

from __future__ import annotations

import threading
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError

from aws_rft_sdk._hosts import check_url, dual_stack_suffix, is_loopback_url
from aws_rft_sdk.credentials import Credentials
from aws_rft_sdk.errors import ConfigurationError, CredentialsError

_ATTEMPTS = 5
"""Of a call: botocore repeats throttled calls, faults of the service and lost connections, with backoff."""
_PLACEHOLDER = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}


class Session:
    """A boto3 session in one region. A session of the user's own is not changed, and may have another region.

    Attributes:
        region_name: Region of the clients.
    """

    def __init__(self, region_name: str, given: Any) -> None:
        self.region_name = region_name
        self._given = given
        self._boto3 = given if given is not None else _new_session(region_name)
        self._lock = threading.Lock()  # a boto3 session makes one client at a time

    def get_credentials(self) -> Any:
        """Return botocore credentials. Returns None if there are none."""
        return self._boto3.get_credentials()

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client of the region."""
        with self._lock:
            return self._boto3.client(service, region_name=self.region_name, **options)

    def has_local_credentials(self) -> bool:
        """Return whether there are credentials that load without a metadata service on the network."""
        try:
            return Credentials(self._given, network=False).keys() is not None
        except CredentialsError:  # for example, the SSO session has expired
            return False


def session_for(region: str | None, session: Any = None) -> Session:
    """Return a session whose clients are in a region.

    Args:
        region: None for the session's own: that of the environment or the profile.
        session: A boto3 session for the credentials; None for boto3's usual sources. It is not changed.

    Raises:
        ConfigurationError: boto3 is not installed, there is no region, or the region is not AWS's.
    """
    if isinstance(session, Session):
        session, region = session._boto3, region or session.region_name
    found = region or (session if session is not None else _new_session()).region_name
    if found is None:
        raise ConfigurationError("no AWS region. Pass region=, for example region='us-east-1', or set AWS_REGION")
    if dual_stack_suffix(found) is None:
        raise ConfigurationError(f"region is {found!r}, which is not an AWS region. Use for example 'us-east-1'")
    return Session(found, session)


def client(session: Session, service: str, *, endpoint_url: str | None = None) -> Any:
    """Return a boto3 client. Safe to share between threads.

    Args:
        session: From `session_for`.
        service: boto3's name of the service, for example `lambda`.
        endpoint_url: None for AWS. A server on this machine also works without credentials.

    Raises:
        ConfigurationError: The endpoint is no URL, or boto3 cannot make the client.
    """
    options: dict[str, Any] = {"config": Config(retries={"mode": "standard", "total_max_attempts": _ATTEMPTS})}
    if endpoint_url is not None:
        options["endpoint_url"] = check_url(endpoint_url, "endpoint_url=")
        if is_loopback_url(endpoint_url) and not session.has_local_credentials():
            options |= _PLACEHOLDER
    try:
        return session.client(service, **options)
    except BotoCoreError as error:
        raise ConfigurationError(f"boto3 cannot make a client of {service}: {error}") from error


def account_of(session: Session, *, endpoint_url: str | None = None) -> str:
    """Return the id of the account that the credentials belong to: 12 digits.

    Raises:
        CredentialsError: There are no credentials, or they have expired.
        ServiceError: STS did not answer, or refused the call.
    """
    return str(client(session, "sts", endpoint_url=endpoint_url).get_caller_identity()["Account"])


def _new_session(region_name: str | None = None) -> Any:
    try:
        import boto3
    except ImportError as error:
        raise ConfigurationError("jobs need boto3. Type: pip install 'aws-rft-sdk[aws]'") from error
    try:
        return boto3.session.Session(region_name=region_name)
    except BotoCoreError as error:
        raise ConfigurationError(f"boto3 cannot begin a session: {error}") from error
