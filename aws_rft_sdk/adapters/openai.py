"""For OpenAI clients, and for everything that is built from the arguments of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import openai

from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.adapters._http_turns import AsyncTurnClient, Pooled, TurnClient
from aws_rft_sdk.adapters._loop_pool import has_default_http_client
from aws_rft_sdk.adapters._sampling import Sampling, check_sampling
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.credentials import shared_credentials
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError
from aws_rft_sdk.settings import auth_at, resolve_endpoint, runtime_key_for

C = TypeVar("C", openai.OpenAI, openai.AsyncOpenAI)
H = TypeVar("H", http.Client, http.AsyncClient)

UNSIGNED = "unsigned"
"""API key sent to a runtime on this machine that receives no token. OpenAI clients demand some key."""


def runtime_client_args(*, region: str | None = None, trusted_endpoints: Iterable[str] = ()) -> dict[str, str]:
    """Return the OpenAI client arguments that lead to the runtime of the current rollout.

    Make them anew for each rollout: the token in them ends with the credentials, the endpoint with the job. The API key
    is "unsigned" for an endpoint on this machine if there are no AWS credentials, or if only the payload names the
    endpoint: whoever receives a token can use it at the real service. List the endpoint to send it tokens. A local
    runtime that receives `RFT_RUNTIME_KEY` gets that key as its API key.

    Args:
        region: AWS region to sign for; None for the payload's, the job ARN's or the environment's.
        trusted_endpoints: Hosts that a payload may name besides the service's own and loopback, and loopback endpoints
            that receive tokens; added to `RFT_TRUSTED_ENDPOINTS`.

    Returns:
        `base_url` and `api_key`: the endpoint's `/v1`, and a bearer token, the runtime's key or "unsigned". A new dict.

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
    if (key := runtime_key_for(endpoint)) is not None:
        return {"base_url": f"{endpoint.url}/v1", "api_key": key}
    credentials = shared_credentials(network=not endpoint.is_loopback)
    has_keys = not endpoint.is_loopback or credentials.keys() is not None
    # Arguments cannot sign: where a signature is all that an endpoint may receive, nothing is sent.
    is_token = auth_at(endpoint, "bearer", has_keys=has_keys) == "bearer"
    api_key = credentials.bearer_token(endpoint.region) if is_token else UNSIGNED
    return {"base_url": f"{endpoint.url}/v1", "api_key": api_key}


def instrument(client: C, *, sampling: Sampling = "job") -> C:
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
        sampling: "job" lets the payload's sampling parameters win over the call's; "model" keeps the call's.

    Returns:
        A copy of the same class, made as `client.with_options()` makes one, and from which `with_options()` makes
        others that are tied likewise. As with those, the HTTP client is shared: closing one closes it for all. An
        `AsyncOpenAI` without an HTTP client of your own uses the pool of the running event loop within rollouts, so it
        may be shared by several loops there.

    Raises:
        ConfigurationError: `client` is no OpenAI client, or `sampling` is something else.
    """
    sampling = check_sampling(sampling)
    if isinstance(client, openai.AsyncOpenAI):
        inner = _of_this_library(client._client, http.AsyncClient)
        if isinstance(inner, AsyncTurnClient):
            return client
        pooled: Pooled = "in rollouts" if has_default_http_client(client) else "never"
        return client.with_options(http_client=AsyncTurnClient(inner, sampling, pooled))
    if isinstance(client, openai.OpenAI):
        inner = _of_this_library(client._client, http.Client)
        return client if isinstance(inner, TurnClient) else client.with_options(http_client=TurnClient(inner, sampling))
    raise ConfigurationError(f"instrument takes an openai.OpenAI or openai.AsyncOpenAI, not {type(client).__name__}")


def _of_this_library(client: H, kind: type[H]) -> H:
    if not isinstance(client, kind):  # openai 3, built on httpx2, also takes clients of httpx
        raise ConfigurationError(
            f"the HTTP client of the OpenAI client is no {http.__name__} client, which this version of openai is built "
            f"on. Make the OpenAI client with http_client={http.__name__}.{kind.__name__}()"
        )
    return client
