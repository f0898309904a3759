"""For OpenAI clients, and for everything that is built from the arguments of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import openai

from aws_rft_sdk.adapters._http_turns import AsyncTurnClient, Sampling, TurnClient, check_sampling, stand_before
from aws_rft_sdk.adapters._loop_pool import has_default_http_client
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.credentials import shared_credentials
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError
from aws_rft_sdk.settings import resolve_endpoint

C = TypeVar("C", openai.OpenAI, openai.AsyncOpenAI)

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


def instrument(client: C, *, sampling: Sampling = "request") -> C:
    """Return an OpenAI client like `client` whose inference calls are tied to the rollout in progress.

    Within a rollout each call of chat completions, completions or responses (create, parse, stream, raw answers) is one
    turn: it carries the rollout's headers and, unless told otherwise, the temperature, top_p and max_tokens that the
    job asks for. They are read from `RFTContext` when the request is sent, so one client serves any number of rollouts.
    All other calls, and all calls outside a rollout, go out as they are. Websockets are not tracked.

    Sampling is not idempotent, so within a rollout the client's own retries do not happen, and redirects are not
    followed. A call is repeated, under the same span id, only where it cannot have been sampled: no connection was
    made, or the answer was 429 or 503.

    Args:
        client: An `openai.OpenAI` or `AsyncOpenAI`, Azure's included. It is not changed. One that is instrumented
            already comes back as it is.
        sampling: "request" lets the payload's sampling parameters win over the call's; "model" keeps the call's.

    Returns:
        A copy of the same class, made as `client.with_options()` makes one, and from which `with_options()` makes
        others that are tied likewise. As with those, the HTTP client is shared: closing one closes it for all. An
        `AsyncOpenAI` without an HTTP client of your own uses the pool of the running event loop within rollouts, so it
        may be shared by several loops there.

    Raises:
        ConfigurationError: `client` is no OpenAI client, or `sampling` is something else.
    """
    check_sampling(sampling)
    if isinstance(client, openai.AsyncOpenAI):
        if isinstance(client._client, AsyncTurnClient):
            return client
        pooled = "in rollouts" if has_default_http_client(client) else "never"
        inner = stand_before(client._client, AsyncTurnClient, _rft_sampling=sampling, _rft_pooled=pooled)
        return client.with_options(http_client=inner)
    if isinstance(client, openai.OpenAI):
        if isinstance(client._client, TurnClient):
            return client
        return client.with_options(http_client=stand_before(client._client, TurnClient, _rft_sampling=sampling))
    raise ConfigurationError(f"instrument takes an openai.OpenAI or openai.AsyncOpenAI, not {type(client).__name__}")
