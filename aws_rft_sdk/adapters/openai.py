"""For OpenAI clients, and for everything that is built from the arguments of one."""

from __future__ import annotations

from collections.abc import Iterable

from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.credentials import shared_credentials
from aws_rft_sdk.errors import NoActiveRolloutError
from aws_rft_sdk.settings import resolve_endpoint

UNSIGNED = "unsigned"
"""API key sent to a runtime on this machine when there are no AWS credentials; OpenAI clients demand some key."""


def runtime_client_args(*, region: str | None = None, trusted_endpoints: Iterable[str] = ()) -> dict[str, str]:
    """Return the OpenAI client arguments that lead to the runtime of the current rollout.

    Make them anew for each rollout: the token in them ends with the credentials, the endpoint with the job.

    Args:
        region: AWS region to sign for; None for the payload's, the job ARN's or the environment's.
        trusted_endpoints: Hosts that a payload may name besides the service's own and loopback.

    Returns:
        `base_url` and `api_key`: the endpoint's `/v1` and a bearer token. A new dict.

    Raises:
        NoActiveRolloutError: There is no rollout in this thread or task.
        UntrustedEndpointError: The payload names an endpoint that may not receive credentials.
        CredentialsError: There are no AWS credentials, and the endpoint is not on this machine.
    """
    context = RFTContext.current()
    if context is None:
        raise NoActiveRolloutError(
            "runtime_client_args() needs a rollout: call it inside an rft_handler function, or give RFTContext.bind "
            "a payload; outside a rollout use your production model"
        )
    endpoint = resolve_endpoint(context.metadata, region=region, trusted_endpoints=trusted_endpoints)
    credentials = shared_credentials(network=not endpoint.is_loopback)
    if endpoint.is_loopback and credentials.keys() is None:
        return {"base_url": f"{endpoint.url}/v1", "api_key": UNSIGNED}
    return {"base_url": f"{endpoint.url}/v1", "api_key": credentials.bearer_token(endpoint.region)}
