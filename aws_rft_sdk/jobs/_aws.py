"""AWS clients for jobs, and their errors as errors of this package. Nothing else in this room imports boto3."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EventStreamError
from urllib3.exceptions import HTTPError

from aws_rft_sdk._hosts import check_url, dual_stack_suffix, is_loopback_url
from aws_rft_sdk.credentials import Credentials
from aws_rft_sdk.errors import ConfigurationError, CredentialsError
from aws_rft_sdk.jobs._files import digest_of, upload_uri
from aws_rft_sdk.jobs._refusals import refusal
from aws_rft_sdk.jobs.types import File

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_ATTEMPTS = 5
"""Of a call: botocore repeats throttled calls, faults of the service and lost connections, with backoff."""
_SILENCE_SECONDS = {"bedrock-runtime": 600.0, "lambda": 910.0}
"""How long a service may work at its answer, where that is more than 60 s."""
_STREAM_STATUS = {"throttlingException": 429, "validationException": 400, "serviceUnavailableException": 503}
"""The status that an error has outside of a stream."""
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


def client(session: Session, service: str, *, endpoint_url: str | None = None, attempts: int = _ATTEMPTS) -> Any:
    """Return a boto3 client. Safe to share between threads.

    Args:
        session: From `session_for`.
        service: boto3's name of the service, for example `lambda`.
        endpoint_url: None for AWS. A server on this machine also works without credentials.
        attempts: How often botocore sends a call at most. 1 for callers that repeat calls themselves.

    Raises:
        ConfigurationError: The endpoint is no URL, or boto3 cannot make the client.
    """
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts}, read_timeout=_SILENCE_SECONDS.get(service, 60.0)
    )
    options: dict[str, Any] = {"config": config}
    if endpoint_url is not None:
        options["endpoint_url"] = check_url(endpoint_url, "endpoint_url=")
        options["config"] = config.merge(Config(s3={"addressing_style": "path"}))  # buckets are no hosts there
        if is_loopback_url(endpoint_url) and not session.has_local_credentials():
            options |= _PLACEHOLDER
    try:
        return session.client(service, **options)
    except BotoCoreError as error:
        raise ConfigurationError(f"boto3 cannot make a client of {service}: {error}") from error


@contextmanager
def asking(action: str, resource: str = "*") -> Iterator[None]:
    """Turn what boto3 raises in the body of a `with` into the error of this package that `refusal` returns.

    Args:
        action: IAM action of the call, for example `s3:PutObject`.
        resource: ARN that the action concerns.
    """
    try:
        yield
    except (BotoCoreError, ClientError, HTTPError) as error:
        if isinstance(error, EventStreamError):  # in a stream that began with status 200
            status = _STREAM_STATUS.get(error.response["Error"]["Code"], 500)
            error.response.setdefault("ResponseMetadata", {})["HTTPStatusCode"] = status
        raise refusal(error, action, resource) from None


def asking_each(items: Iterable[_Item], action: str, resource: str = "*") -> Iterator[_Item]:
    """Yield items that boto3 asks a service for one by one: pages, or events. Errors are those of `asking`."""
    with asking(action, resource):
        yield from items


def upload_file(s3: Any, path: Path, destination: str) -> File:
    """Upload a file to S3. Safe to repeat: the same content has the same key. Returns the file; its id is its URI.

    Args:
        s3: boto3's client of `s3`.
        path: The file.
        destination: `s3://bucket/folder` or `bucket/folder`.
    """
    uri, digest, size = upload_uri(path, destination), digest_of(path), path.stat().st_size
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    with path.open("rb") as file, asking("s3:PutObject", f"arn:aws:s3:::{bucket}/{key}"):
        s3.put_object(Bucket=bucket, Key=key, Body=file, ChecksumSHA256=base64.b64encode(digest).decode())
    logger.info("uri=<%s>, bytes=<%d> | uploaded", uri, size)
    return File({"s3Uri": uri, "bucket": bucket, "key": key, "bytes": size}, uri)


def _new_session(region_name: str | None = None) -> Any:
    try:
        import boto3
    except ImportError as error:
        raise ConfigurationError("jobs need boto3. Type: pip install 'aws-rft-sdk[aws]'") from error
    try:
        return boto3.session.Session(region_name=region_name)
    except BotoCoreError as error:
        raise ConfigurationError(f"boto3 cannot begin a session: {error}") from error
