"""wrap_model: makes a Strands model send the headers and sampling parameters of the rollout in progress."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar, cast

import openai
from strands.models.model import Model
from strands.models.openai import OpenAIModel
from strands.plugins import Plugin

from aws_rft_sdk._backoff import parse_retry_after
from aws_rft_sdk.adapters._http_turns import BACKOFF, MAX_ATTEMPTS, NOT_SAMPLED_STATUSES, Sampling, check_sampling
from aws_rft_sdk.adapters._loop_pool import has_default_http_client, http, loop_client, loop_pool
from aws_rft_sdk.context import RFTContext, TurnState
from aws_rft_sdk.errors import ConfigurationError

M = TypeVar("M", bound=Model)


def wrap_model(model: M, *, sampling: Sampling = "request") -> M:
    """Return a model like `model` whose calls are tied to the rollout in progress.

    Within a rollout each call, streaming or not, structured output included, is one turn: it carries the rollout's
    headers and, unless told otherwise, the temperature, top_p and max_tokens that the job asks for. They are read from
    `RFTContext` when the call is made, so one wrapped model serves any number of concurrent rollouts, over threads and
    tasks. Connections are pooled for each event loop and closed with it. Outside a rollout the result behaves exactly
    as `model` does.

    Sampling is not idempotent, so within a rollout the client's own retries are off. A call is repeated, under the same
    span id, only where it cannot have been sampled: no connection was made, or the answer was 429 or 503.

    Args:
        model: A Strands `OpenAIModel`, `OpenAIResponsesModel` or `LiteLLMModel`, built from `client_args` or from a
            ready `client`. It is not changed. A model that is wrapped already comes back as it is.
        sampling: "request" lets the payload's sampling parameters win over the model's; "model" keeps the model's.

    Returns:
        An object of a subclass of the class of `model`. A ready client with an HTTP client of your own keeps using
        that one, and you close it; all others share the pool of the running loop.

    Raises:
        ConfigurationError: Calls of this provider cannot carry headers, or `sampling` is something else.
    """
    check_sampling(sampling)
    if isinstance(model, _Tracked):
        return model
    tracked_class = _tracked_class(type(model), _turn_arguments_of(model))
    wrapped = object.__new__(tracked_class)
    wrapped.__dict__.update(model.__dict__)
    # Its own, so that update_config() of one leaves the other alone.
    wrapped.config = dict(cast(Any, model).config)
    wrapped._rft_sampling = sampling
    wrapped._rft_owner = _Owner()
    return cast(M, wrapped)


class RFTPlugin(Plugin):
    """Ties the model of an agent to the rollout in progress: `Agent(model=..., plugins=[RFTPlugin()])`.

    For agents that are built by code which takes plugins. The agent gets `wrap_model(agent.model)` in place of its
    model, so whatever the agent and its parts ask of it is tracked; the model itself is not changed and may be shared.
    A model that a router, a plugin before this one or a later assignment to `agent.model` chooses is wrapped for the
    call, within rollouts. Models that are given to the agent's parts, such as `aux_model` or a summarizer's, are
    not the agent's: wrap those with `wrap_model`.

    Strands' hooks alone would not do: they see no headers and cannot exchange the model, and neither hooks nor
    middleware run for `agent.structured_output()` and for summaries.

    Args:
        sampling: See `wrap_model`.

    Raises:
        ConfigurationError: `sampling` is something else; or, when the agent is made, its model is not supported.
    """

    name = "aws-rft-sdk"

    def __init__(self, *, sampling: Sampling = "request") -> None:
        check_sampling(sampling)
        super().__init__()
        self._sampling = sampling

    def init_agent(self, agent: Any) -> None:
        """Exchange the agent's model. Strands calls this when the agent is made."""
        agent.model = wrap_model(agent.model, sampling=self._sampling)
        # Older versions of Strands lack this, and with it what could choose a model for one call.
        stage = getattr(sys.modules.get("strands.middleware"), "InvokeModelStage", None)
        if stage is not None:
            agent.add_middleware(stage.Input, self._wrap_model_of_call)

    def _wrap_model_of_call(self, call: Any) -> Any:
        if RFTContext.current() is None or isinstance(call.model, _Tracked):
            return call
        return call.replace(model=wrap_model(call.model, sampling=self._sampling))


def _wrap_again(model: Any, sampling: Sampling) -> Any:
    return wrap_model(model, sampling=sampling)


class _Owner:
    """Stands for one wrapped model, to which the clients of all loops belong that are made for it."""


_OWN_ATTRIBUTES = ("_rft_sampling", "_rft_owner")


class _Tracked:
    """What a wrapped model does differently; mixed in before the provider's own class."""

    config: dict[str, Any]
    _rft_sampling: Sampling
    _rft_owner: _Owner
    _rft_provider_class: type[Model]
    _rft_turn_arguments: Callable[..., Any]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, Sampling]]:
        # Its class is made at run time, so what is pickled and copied is the model inside.
        model = object.__new__(self._rft_provider_class)
        model.__dict__.update({name: value for name, value in self.__dict__.items() if name not in _OWN_ATTRIBUTES})
        return _wrap_again, (model, self._rft_sampling)

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """Stream the answer of one turn."""
        async with aclosing(self._rft_events("stream", args, kwargs)) as events:
            async for event in events:
                yield event

    async def structured_output(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """Ask for one turn of structured output."""
        async with aclosing(self._rft_events("structured_output", args, kwargs)) as events:
            async for event in events:
                yield event

    def _rft_events(self, method: str, args: Any, kwargs: Any) -> AsyncGenerator[Any, None]:
        context = RFTContext.current()
        if context is None:
            events: AsyncGenerator[Any, None] = getattr(super(), method)(*args, **kwargs)
            return events
        return _tracked_turn(self, context, method, args, kwargs)

    async def _rft_model_of_turn(self, context: RFTContext, headers: dict[str, str], method: str) -> Any:
        """Return a model of the provider's own class that lives for one call and holds all that belongs to it."""
        model = object.__new__(self._rft_provider_class)
        model.__dict__.update(self.__dict__)
        sampling = context.inference_params.sampling() if self._rft_sampling == "request" else {}
        await type(self)._rft_turn_arguments(model, headers, sampling, method)
        return model


async def _tracked_turn(
    wrapped: _Tracked, context: RFTContext, method: str, args: Any, kwargs: Any
) -> AsyncGenerator[Any, None]:
    handled = sys.exc_info()[1]
    turn = context.begin_turn()
    state = TurnState.FAILED
    try:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            model = await wrapped._rft_model_of_turn(context, turn.headers, method)
            begun = False
            try:
                async with aclosing(getattr(model, method)(*args, **kwargs)) as events:
                    async for event in events:
                        begun = True
                        yield event
                state = TurnState.ANSWERED
                return
            except Exception as error:
                refusal = _refusal(error, handled)
                if begun or refusal is None:
                    raise
                if attempt == MAX_ATTEMPTS:
                    state = TurnState.REFUSED
                    raise
            await asyncio.sleep(BACKOFF.delay(attempt, _retry_after(refusal)))
    finally:
        context.end_turn(turn.span_id, state)


# --- what a provider needs for one turn ------------------------------------------------------------------------------


async def _openai_turn(model: Any, headers: dict[str, str], sampling: dict[str, float], method: str) -> None:
    params = _turn_params(model, headers)
    if "max_tokens" in sampling and "max_completion_tokens" in params:
        sampling = {"max_completion_tokens" if name == "max_tokens" else name: v for name, v in sampling.items()}
    _set_params(model, {**params, **sampling})
    client = getattr(model, "_custom_client", None)
    if client is None and _can_keep_client(model):
        model._custom_client = await loop_client(model._rft_owner, model.client_args)
    elif client is None:
        model.client_args = {"http_client": await loop_pool(), **model.client_args, "max_retries": 0}
    elif isinstance(client, openai.AsyncOpenAI):
        http_client = await loop_pool() if has_default_http_client(client) else None
        model._custom_client = client.with_options(max_retries=0, http_client=http_client)


def _can_keep_client(model: Any) -> bool:
    """Whether the client of one turn does for the next: nothing but `client_args` decides what it is."""
    return (
        hasattr(model, "_rft_owner")
        and hasattr(model, "_custom_client")
        and getattr(model, "_bedrock_mantle_config", None) is None
        # What is missing comes from the environment, which may change; an HTTP client of the user's is closed by it.
        and {"base_url", "api_key"} <= model.client_args.keys()
        and "http_client" not in model.client_args
        and type(model)._get_client is OpenAIModel._get_client
    )


async def _openai_responses_turn(model: Any, headers: dict[str, str], sampling: dict[str, float], method: str) -> None:
    renamed = {"max_output_tokens" if name == "max_tokens" else name: value for name, value in sampling.items()}
    _set_params(model, {**_turn_params(model, headers), **renamed})
    model.client_args = {"http_client": await loop_pool(), **model.client_args, "max_retries": 0}


async def _litellm_turn(model: Any, headers: dict[str, str], sampling: dict[str, float], method: str) -> None:
    # Structured output by response schema sends client_args alone, and an argument that stands in both places is an
    # error, so whatever belongs to the turn moves to client_args.
    arguments = {**_turn_params(model, headers), **sampling}
    moved = {name: arguments.pop(name) for name in ("extra_headers", *sampling)}
    moved["extra_headers"] = {**(model.client_args.get("extra_headers") or {}), **moved["extra_headers"]}
    _set_params(model, arguments)
    model.client_args = {**model.client_args, **moved, "max_retries": 0, "num_retries": 0}
    address = _litellm_address(model)
    if address is not None and "client" not in model.client_args:
        model.client_args["client"] = openai.AsyncOpenAI(**address, http_client=await loop_pool(), max_retries=0)


def _litellm_address(model: Any) -> dict[str, Any] | None:
    """Return where an OpenAI client for this LiteLLM model leads, None when LiteLLM has to find that out by itself."""
    provider = str(model.config.get("model_id", "")).partition("/")[0]
    address = {
        "base_url": model.client_args.get("api_base") or model.client_args.get("base_url"),
        "api_key": model.client_args.get("api_key"),
    }
    return address if provider in ("openai", "litellm_proxy") and all(address.values()) else None


def _turn_params(model: Any, headers: dict[str, str]) -> dict[str, Any]:
    params = dict(model.config.get("params") or {})
    params["extra_headers"] = {**(params.get("extra_headers") or {}), **headers}
    return params


def _set_params(model: Any, params: dict[str, Any]) -> None:
    model.config = {**model.config, "params": params}


# --- which providers -------------------------------------------------------------------------------------------------

_PROVIDERS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    # LiteLLMModel is an OpenAIModel too, so it comes first.
    ("strands.models.litellm", "LiteLLMModel", _litellm_turn),
    ("strands.models.openai_responses", "OpenAIResponsesModel", _openai_responses_turn),
    (OpenAIModel.__module__, OpenAIModel.__name__, _openai_turn),
)


def _turn_arguments_of(model: object) -> Callable[..., Any]:
    for module, name, turn_arguments in _PROVIDERS:
        # A module that nobody has imported cannot be the home of this model's class.
        provider = getattr(sys.modules.get(module), name, None)
        if provider is not None and isinstance(model, provider):
            return turn_arguments
    supported = ", ".join(name for _, name, _ in reversed(_PROVIDERS))
    raise ConfigurationError(
        f"wrap_model cannot track calls of {type(model).__name__}; supported are {supported} and their subclasses. "
        "The job runtime speaks the OpenAI protocol: use one of these within a rollout"
    )


@functools.cache
def _tracked_class(provider_class: type[Any], turn_arguments: Callable[..., Any]) -> type[Any]:
    namespace = {
        "__module__": provider_class.__module__,
        "__qualname__": provider_class.__qualname__,
        "__doc__": provider_class.__doc__,
        "_rft_provider_class": provider_class,
        "_rft_turn_arguments": staticmethod(turn_arguments),
    }
    return type(provider_class.__name__, (_Tracked, provider_class), namespace)


# --- what may be sent again ------------------------------------------------------------------------------------------

_NO_CONNECTION: tuple[type[Exception], ...] = (http.ConnectError, http.ConnectTimeout, http.PoolTimeout)


def _refusal(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Return the link in the chain of `error` which proves that the request was not sampled, None without one.

    Args:
        error: What the call raised.
        handled: What the caller was handling when it made the call, and so is no part of the call's own story.
    """
    links = list(_chain(error, handled))
    no_connection = next((link for link in links if isinstance(link, _NO_CONNECTION)), None)
    # The last one is nearest to the wire: a layer above may have made up a status from the text of the answer.
    statuses = [link for link in links if isinstance(link, openai.APIStatusError)]
    turned_away = statuses[-1] if statuses and statuses[-1].status_code in NOT_SAMPLED_STATUSES else None
    return no_connection or turned_away


def _retry_after(refusal: BaseException) -> float | None:
    headers = getattr(getattr(refusal, "response", None), "headers", None) or {}
    return parse_retry_after(headers.get("retry-after"))


def _chain(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and link is not handled and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
