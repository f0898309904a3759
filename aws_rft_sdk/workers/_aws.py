"""Makes the AWS clients of the workers: botocore's, which every Lambda function has too. Imported on first use."""

from __future__ import annotations

import re
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.settings import REGION_VARIABLES, environment

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
"""More than the 20 seconds that a long poll takes."""

_QUEUE_HOST = re.compile(r"https?://(?:sqs(?:-fips)?\.([a-z0-9-]+)\.|([a-z0-9-]+)\.queue\.amazonaws\.com)")


def aws_client(service: str, *, queue_url: str | None = None, attempts: int = 3, connections: int = 10) -> Any:
    """Return a botocore client with the credentials of the process. It is safe in several threads.

    Args:
        service: "sqs" or "dynamodb".
        queue_url: A queue whose URL may tell the region; the environment comes after it.
        attempts: Requests for one call at most.
        connections: How many calls may be on their way at once.

    Raises:
        ConfigurationError: There is no region.
    """
    # Not needed by those who bring a client of their own, and slow to import at the cold start of a function.
    import botocore.config
    import botocore.session

    session = botocore.session.get_session()
    found = region_of(queue_url or "") or session.get_config_variable("region")
    found = found or next((value for name in REGION_VARIABLES if (value := environment(name))), None)
    if found is None:
        raise ConfigurationError(f"no AWS region for {service}: set {' or '.join(REGION_VARIABLES)}")
    config = botocore.config.Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=connections,
    )
    return session.create_client(service, region_name=found, config=config)


def region_of(queue_url: str) -> str | None:
    """Return the region that a queue's URL tells, None for the URL of another service that speaks SQS."""
    match = _QUEUE_HOST.match(queue_url)
    return (match[1] or match[2]) if match else None
