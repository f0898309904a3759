"""runtime_model: one Strands model for production and for training."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from typing import Any, Literal, NamedTuple, TypeVar, cast, overload

from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk.adapters._http_turns import Proxy, stand_before
from aws_rft_sdk.adapters._loop_pool import loop_pool
from aws_rft_sdk.adapters.openai import UNSIGNED
from aws_rft_sdk.adapters.strands import _openai_turn, _Tracked, _tracked_turn
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.credentials import Keys, is_signed, shared_credentials, sign
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError
from aws_rft_sdk.settings import Endpoint, resolve_endpoint

M = TypeVar("M", bound=Model)
T = TypeVar("T")

Auth = Literal["bearer", "sigv4"]

_OF_A_SIGNATURE = ("x-amz-date", "x-amz-security-token")
_OURS = ("base_url", "api_key", "http_client", "max_retries")


@overload
def runtime_model(
    production: None = None,
    *,
    model_id: str = ...,
    auth: Auth = ...,
    region: str | None = ...,
    trusted_endpoints: Iterable[str] = ...,
    **config: Any,
) -> OpenAIModel: ...
@overload
def runtime_model(
    production: M,
    *,
    model_id: str = ...,
    auth: Auth = ...,
    region: str | None = ...,
    trusted_endpoints: Iterable[str] = ...,
    **config: Any,
) -> M: ...
def runtime_model(
    production: M | None = None,
    *,
    model_id: str = "default",
    auth: Auth = "bearer",
    region: str | None = None,
    trusted_endpoints: Iterable[str] = (),
    **config: Any,
) -> M | OpenAIModel:
    """Return a Strands model that is `production`, and within a rollout the policy of the rollout's runtime.

    Build it once, at import, and share it: it serves any number of concurrent rollouts, each at the endpoint of its own
    payload, over threads, tasks and event loops. Nothing of a rollout is stored on it.

    Outside a rollout it is the production model: an object of (a subclass of) its class that shares all its attributes,
    so that `update_config` of either shows on both, and whose calls are its calls.

    Within a rollout each call, streaming or not, structured output included, is one turn at `<endpoint>/v1`, as with
    `wrap_model`: the rollout's headers, the payload's sampling parameters, the same rules for what is repeated. The
    credentials are read for each request, from the botocore session that the process shares; a 403 makes them be
    loaded anew, once, and the request, which was not sampled, is sent again under the same span id. A runtime on this
    machine is called unsigned where there are no AWS credentials. Tokens are counted by Strands' estimate rather than
    by the production service.

    Args:
        production: Any Strands model, for example a `BedrockModel`. It is not changed. None for a model that works
            within rollouts only, and raises outside.
        model_id: Name of the model in requests to the runtime.
        auth: "bearer" sends a bearer token, at most 300 s old; "sigv4" signs each request.
        region: AWS region to sign for; None for the payload's, the job ARN's or the environment's.
        trusted_endpoints: Hosts that a payload may name besides the service's own and loopback.
        config: Configuration of the model within rollouts, as for a Strands `OpenAIModel`: `params`, `stream`,
            `context_window_limit`; and `client_args` such as `timeout`, save for those that lead to the runtime.

    Returns:
        The model. Its calls raise, besides what an `OpenAIModel` raises:
        `UntrustedEndpointError` when the payload names an endpoint that may not receive credentials (none was read and
        no turn was begun), `CredentialsError` when there are no AWS credentials, and `NoActiveRolloutError` outside a
        rollout when there is no production model. None of these is safe to repeat unchanged.

    Raises:
        ConfigurationError: `production` is no Strands model, `auth` is something else, or `client_args` holds what
            leads to the runtime.
    """
    if auth not in ("bearer", "sigv4"):
        raise ConfigurationError(f"auth is {auth!r}; it must be 'bearer' or 'sigv4'")
    if production is not None and not isinstance(production, Model):
        raise ConfigurationError(f"production must be a Strands model or None, not {type(production).__name__}")
    taken = [name for name in _OURS if name in (config.get("client_args") or {})]
    if taken or "client" in config:
        raise ConfigurationError(f"the runtime's {taken[0] if taken else 'client'} is made anew for each call; drop it")
    if isinstance(production, _RuntimeModel):
        production = cast("M | None", production._rft_runtime.production)
    policy = OpenAIModel(model_id=model_id, **config)
    runtime = _Runtime(production, policy, auth, region, tuple(trusted_endpoints))
    shown = policy if production is None else production
    model = object.__new__(_runtime_class(type(shown)))
    model.__dict__ = shown.__dict__
    model._rft_runtime = runtime
    return cast("M | OpenAIModel", model)


class _Runtime(NamedTuple):
    """What a runtime model is made of. The same for all rollouts."""

    production: Model | None
    policy: OpenAIModel
    """The model of rollouts, without all that belongs to one."""
    auth: Auth
    region: str | None
    trusted_endpoints: tuple[str, ...]


class _RuntimeModel(_Tracked):
    """What a runtime model does differently; mixed in before the production model's own class."""

    __slots__ = ()

    _rft_runtime: _Runtime

    @property
    def stateful(self) -> bool:
        """Whether the service keeps the conversation; the job runtime does not."""
        return RFTContext.current() is None and bool(_inherited(self, "stateful"))

    @property
    def _supports_structured_output(self) -> bool:
        source = self._rft_runtime.production if RFTContext.current() is None else self._rft_runtime.policy
        return bool(getattr(source, "_supports_structured_output", False))

    @property
    def context_window_limit(self) -> int | None:
        """Tokens that fit into a request; within a rollout what was configured for it, if anything was."""
        limit = self._rft_runtime.policy.config.get("context_window_limit") if RFTContext.current() else None
        return cast("int | None", limit or _inherited(self, "context_window_limit"))

    async def count_tokens(self, *args: Any, **kwargs: Any) -> int:
        """Estimate the tokens of a request; within a rollout without asking the production service."""
        runtime = self._rft_runtime
        counter = runtime.production if RFTContext.current() is None else None
        return await (counter or runtime.policy).count_tokens(*args, **kwargs)

    def _rft_events(self, method: str, args: Any, kwargs: Any) -> AsyncGenerator[Any, None]:
        runtime = self._rft_runtime
        context = RFTContext.current()
        if context is not None:
            endpoint = resolve_endpoint(
                context.metadata, region=runtime.region, trusted_endpoints=runtime.trusted_endpoints
            )
            return _turn_at(endpoint, runtime, context, method, args, kwargs)
        if runtime.production is None:
            raise NoActiveRolloutError(
                "this runtime_model() has no production model, so it works within a rollout only: call it inside an "
                "rft_handler function, give RFTContext.bind a payload, or pass the model of your production"
            )
        return _as_generator(getattr(runtime.production, method)(*args, **kwargs))


def _inherited(model: _RuntimeModel, name: str) -> Any:
    return getattr(super(_RuntimeModel, model), name)


def _runtime_class(provider_class: type[Any]) -> type[Any]:
    namespace = {
        "__module__": provider_class.__module__,
        "__qualname__": provider_class.__qualname__,
        "__doc__": provider_class.__doc__,
        # Beside the attributes, which are the production model's own.
        "__slots__": ("_rft_runtime",),
    }
    return type(provider_class.__name__, (_RuntimeModel, provider_class), namespace)


async def _as_generator(events: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if isinstance(events, AsyncGenerator):
        async with aclosing(events):
            async for event in events:
                yield event
        return
    async for event in events:
        yield event


# --- one call --------------------------------------------------------------------------------------------------------


async def _turn_at(
    endpoint: Endpoint, runtime: _Runtime, context: RFTContext, method: str, args: Any, kwargs: Any
) -> AsyncGenerator[Any, None]:
    signer = _Signer(endpoint, runtime.auth)
    await signer.secret()  # or its error would look like one of the connection
    call = _Call(runtime.policy, signer)
    async with aclosing(_tracked_turn(cast(_Tracked, call), context, method, args, kwargs)) as events:
        async for event in events:
            yield event


class _Call(NamedTuple):
    """One call of a runtime model."""

    policy: OpenAIModel
    signer: _Signer

    async def _rft_model_of_turn(self, context: RFTContext, headers: dict[str, str], method: str) -> OpenAIModel:
        """Return a model that lives for one attempt and holds all that belongs to it."""
        model = object.__new__(type(self.policy))
        model.__dict__.update(self.policy.__dict__)
        await _openai_turn(model, headers, context.inference_params.sampling(), method)
        model.client_args["base_url"] = f"{self.signer.endpoint.url}/v1"
        model.client_args["api_key"] = UNSIGNED
        model.client_args["http_client"] = stand_before(await loop_pool(), _SigningClient, _rft_signer=self.signer)
        return model


class _SigningClient(Proxy):
    """Signs each request with the credentials of that moment, and once more with newer ones after a 403."""

    _rft_signer: _Signer

    async def send(self, request: Any, **options: Any) -> Any:
        signer = self._rft_signer
        secret = await signer.secret()
        signer.sign(request, secret)
        # A redirect would carry headers and token to another host.
        options["follow_redirects"] = False
        response = await self._rft_inner.send(request, **options)
        if response.status_code != 403 or secret is None:
            return response
        await response.aclose()
        signer.sign(request, await signer.newer_secret(secret))
        return await self._rft_inner.send(request, **options)


Secret = Keys | str | None
"""What a request is signed with: keys, or a bearer token; None for unsigned."""


class _Signer:
    """Signs for one endpoint. Credentials are read each time and never kept."""

    def __init__(self, endpoint: Endpoint, auth: Auth) -> None:
        self.endpoint = endpoint
        self._auth = auth
        self._credentials = shared_credentials(network=not endpoint.is_loopback)

    async def secret(self) -> Secret:
        """Return what a request is to be signed with at this moment.

        Raises:
            CredentialsError: There are no credentials, and the endpoint is not on this machine.
        """
        return await self._ask(self._read)

    async def newer_secret(self, refused: Secret) -> Secret:
        """Return another secret than the one that was refused, if there is any."""
        # Of many calls that were refused at once, the first renews.
        if await self.secret() == refused:
            await self._ask(self._credentials.refresh)
        return await self.secret()

    def sign(self, request: Any, secret: Secret) -> None:
        """Put a signature on a request, in place of one that it may carry."""
        if isinstance(secret, str):
            request.headers["Authorization"] = f"Bearer {secret}"
        elif secret is not None:
            # Only what identifies the request is signed; a proxy may change the rest.
            headers = {name: value for name, value in request.headers.items() if is_signed(name)}
            for name in _OF_A_SIGNATURE:
                headers.pop(name, None)
            url, region = str(request.url), self.endpoint.region
            request.headers.update(sign(request.method, url, headers, request.content, keys=secret, region=region))

    def _read(self) -> Secret:
        keys = self._credentials.keys() if self.endpoint.is_loopback else self._credentials.require_keys()
        if keys is None or self._auth == "sigv4":
            return keys
        return self._credentials.bearer_token(self.endpoint.region)

    async def _ask(self, question: Callable[[], T]) -> T:
        # Away from this machine's runtime, credentials may come over the network, which must not stop the event loop.
        return question() if self.endpoint.is_loopback else await asyncio.to_thread(question)
