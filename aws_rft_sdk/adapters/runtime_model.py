"""runtime_model: one Strands model for production and for training."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple, TypeVar, cast, overload

import openai
from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk import telemetry
from aws_rft_sdk.adapters._http_turns import CallClient, sparing_a_thread
from aws_rft_sdk.adapters._runtime_auth import RuntimeAuth
from aws_rft_sdk.adapters.openai import UNSIGNED
from aws_rft_sdk.adapters.strands import Wrapped, with_own_errors
from aws_rft_sdk.context import RFTContext, rollouts_in_progress
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError
from aws_rft_sdk.settings import Auth, resolve_auth, resolve_endpoint

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Model)
_OURS = ("base_url", "api_key", "http_client", "max_retries")


@overload
def runtime_model(
    production: None = None,
    *,
    model_id: str = ...,
    auth: Auth | None = ...,
    region: str | None = ...,
    trusted_endpoints: Iterable[str] = ...,
    **config: Any,
) -> OpenAIModel: ...
@overload
def runtime_model(
    production: M,
    *,
    model_id: str = ...,
    auth: Auth | None = ...,
    region: str | None = ...,
    trusted_endpoints: Iterable[str] = ...,
    **config: Any,
) -> M: ...
def runtime_model(
    production: M | None = None,
    *,
    model_id: str = "default",
    auth: Auth | None = None,
    region: str | None = None,
    trusted_endpoints: Iterable[str] = (),
    **config: Any,
) -> M | OpenAIModel:
    """Return a Strands model that is `production`, and within a rollout the policy of the rollout's runtime.

    Build it once, at import, and share it: it serves any number of concurrent rollouts, each at the endpoint of its own
    payload, over threads, tasks and event loops. Nothing of a rollout is stored on it.

    Outside a rollout it is the production model: an object of (a subclass of) its class that shares all its attributes,
    so that `update_config` of either shows on both, and whose calls are its calls. If rollouts are in progress in this
    process during such a call, a thread of a rollout that has lost its context may have made the call. The call still
    goes to production. A warning names the rollouts, and the call is counted in telemetry and in `foreign_calls` of
    each of their contexts.

    Within a rollout each call, streaming or not, structured output included, is one turn at `<endpoint>/v1`, as with
    `wrap_model`: the rollout's headers, the payload's sampling parameters, the same rules for what is repeated. The
    credentials are read for each request. After a 403, which is no sampling, they are loaded anew and the request is
    sent once more under the same span id. A runtime on this machine is called unsigned if there are no AWS credentials.
    Tokens are estimated rather than counted by the production service.

    Args:
        production: Any Strands model, for example a `BedrockModel`. It is not changed. None for a model that works
            within rollouts only, and raises outside.
        model_id: Name of the model in requests to the runtime.
        auth: "sigv4" signs each request; "bearer" sends a bearer token, at most 300 s old, but never to an endpoint on
            this machine that only the payload names. None for `RFT_AUTH`, else "sigv4".
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
    if auth is not None:
        resolve_auth(auth)
    if production is not None and not isinstance(production, Model):
        raise ConfigurationError(f"production must be a Strands model or None, not {type(production).__name__}")
    taken = [name for name in _OURS if name in (config.get("client_args") or {})]
    if taken or "client" in config:
        raise ConfigurationError(f"the runtime's {taken[0] if taken else 'client'} is made anew for each call; drop it")
    if isinstance(production, _RuntimeModel):
        production = cast("M | None", production._rft_runtime.production)
    policy = _Policy(model_id=model_id, **config)
    policy._rft_reach = (auth, region, tuple(trusted_endpoints))
    return cast("M | OpenAIModel", _made_of(production, policy))


def _made_of(production: Model | None, policy: _Policy) -> Any:
    shown = policy if production is None else production
    model: Any = object.__new__(_runtime_class(type(shown)))
    model.__dict__ = shown.__dict__
    model._rft_runtime = _Runtime(production, policy)
    return model


class _Policy(OpenAIModel):
    """The model of rollouts: each call goes to the runtime of the rollout in progress."""

    _rft_reach: tuple[Auth | None, str | None, tuple[str, ...]]
    """`auth`, `region` and `trusted_endpoints` of `runtime_model`."""

    @asynccontextmanager
    async def _get_client(self) -> AsyncIterator[Any]:
        context = RFTContext.current()
        if context is None:
            raise NoActiveRolloutError("a call within a rollout ended up outside of it; see RFTContext.carry")
        auth, region, trusted_endpoints = self._rft_reach
        endpoint = resolve_endpoint(context.metadata, region=region, trusted_endpoints=trusted_endpoints)
        signature = RuntimeAuth(endpoint, resolve_auth(auth))
        await signature.check()  # before a turn begins
        arguments = {**self.client_args, "base_url": f"{endpoint.url}/v1", "api_key": UNSIGNED, "max_retries": 0}
        async with aclosing(CallClient(None, "job", signature)) as http_client:
            yield sparing_a_thread(openai.AsyncOpenAI(**arguments, http_client=http_client))


class _Runtime(NamedTuple):
    """What a runtime model is made of."""

    production: Model | None
    policy: _Policy


class _RuntimeModel(Wrapped):
    """What a runtime model does differently; mixed in before the production model's own class."""

    __slots__ = ()

    _rft_runtime: _Runtime

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _made_of, tuple(self._rft_runtime)

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
        production, policy = self._rft_runtime
        if RFTContext.current() is not None:
            return with_own_errors(getattr(policy, method)(*args, **kwargs))
        if production is None:
            raise NoActiveRolloutError(
                "this runtime_model() has no production model, so it works within a rollout only: call it inside an "
                "rft_handler function, give RFTContext.bind a payload, or pass the model of your production"
            )
        _note_production_call(production)
        return with_own_errors(getattr(production, method)(*args, **kwargs))


def _note_production_call(production: Model) -> None:
    rollouts = rollouts_in_progress()
    if not rollouts:
        return
    telemetry.count_production_call()
    first = [rollout.trajectory_id for rollout in rollouts if rollout.note_foreign_call() == 1]
    if first:
        logger.warning(
            "a runtime_model called %s, the production model, while rollouts are in progress: %s. If one of them made "
            "the call, it is no turn: its thread has lost the rollout. Start the thread's work with RFTContext.carry",
            type(production).__name__,
            ", ".join(first[:10]) + (f" and {len(first) - 10} more" if len(first) > 10 else ""),
        )


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
