"""wrap_model: makes a Strands model send the headers and sampling parameters of the rollout in progress."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar, cast

import openai
from strands.models.model import Model
from strands.models.openai import OpenAIModel
from strands.plugins import Plugin

from aws_rft_sdk._backoff import parse_retry_after
from aws_rft_sdk.adapters import _http_turns
from aws_rft_sdk.adapters._answers import after_error, after_status
from aws_rft_sdk.adapters._http_turns import MAX_ATTEMPTS, AsyncTurnClient, CallClient, sparing_a_thread
from aws_rft_sdk.adapters._loop_pool import has_default_http_client
from aws_rft_sdk.adapters._sampling import Sampling, check_sampling
from aws_rft_sdk.context import RFTContext, TurnState
from aws_rft_sdk.errors import ConfigurationError, RFTError
from aws_rft_sdk.settings import runtime_key_at

M = TypeVar("M", bound=Model)


def wrap_model(model: M, *, sampling: Sampling = "job") -> M:
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
            ready `openai.AsyncOpenAI`. It is not changed. A model that is wrapped already comes back as it is.
        sampling: "job" lets the payload's sampling parameters win over the model's; "model" keeps the model's.

    Returns:
        An object of a subclass of the class of `model`. An HTTP client of your own, given to the model or in its ready
        client, keeps doing the sending, and you close it; all others share the pool of the running loop. A call within
        a rollout raises ConfigurationError if a ready client is no `openai.AsyncOpenAI`.

    Raises:
        ConfigurationError: Calls of this provider cannot carry headers, or `sampling` is something else.
    """
    sampling = check_sampling(sampling)
    if isinstance(model, Wrapped):
        return model
    tracked_class = _tracked_class(type(model), _kind_of(model))
    wrapped = object.__new__(tracked_class)
    wrapped.__dict__.update(model.__dict__)
    # Its own, so that update_config() of one leaves the other alone.
    wrapped.config = dict(cast(Any, model).config)
    wrapped._rft_sampling = sampling
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

    def __init__(self, *, sampling: Sampling = "job") -> None:
        self._sampling = check_sampling(sampling)
        super().__init__()

    def init_agent(self, agent: Any) -> None:
        """Exchange the agent's model. Strands calls this when the agent is made."""
        agent.model = wrap_model(agent.model, sampling=self._sampling)
        # Strands made its middleware public with 1.62; the agents of older versions keep it in a registry.
        stages = sys.modules.get("strands.middleware") or sys.modules["strands._middleware"]
        registry = agent if hasattr(agent, "add_middleware") else agent._middleware_registry
        registry.add_middleware(stages.InvokeModelStage.Input, self._wrap_model_of_call)

    async def _wrap_model_of_call(self, call: Any) -> Any:
        if RFTContext.current() is None or isinstance(call.model, Wrapped):
            return call
        replace = getattr(call, "replace", None) or functools.partial(dataclasses.replace, call)
        return replace(model=wrap_model(call.model, sampling=self._sampling))


# --- wrapped models --------------------------------------------------------------------------------------------------


class Wrapped:
    """What a wrapped model does differently; mixed in before the provider's own class."""

    __slots__ = ()

    _rft_sampling: Sampling
    _rft_provider_class: type[Model]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Its class is made at run time, so what is pickled and copied is the model inside.
        model = object.__new__(self._rft_provider_class)
        model.__dict__.update({name: value for name, value in vars(self).items() if name != "_rft_sampling"})
        return _wrap_again, (model, self._rft_sampling)

    def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """Stream the answer of one turn."""
        return self._rft_events("stream", args, kwargs)

    def structured_output(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """Ask for one turn of structured output."""
        return self._rft_events("structured_output", args, kwargs)

    def _rft_events(self, method: str, args: Any, kwargs: Any) -> AsyncGenerator[Any, None]:
        raise NotImplementedError

    def _rft_of_provider(self, method: str) -> Any:
        return getattr(super(), method)


def _wrap_again(model: Any, sampling: Sampling) -> Any:
    return wrap_model(model, sampling=sampling)


class OverHttp(Wrapped):
    """A model whose calls become turns where its OpenAI client hands a request to an HTTP client."""

    __slots__ = ()

    def _rft_events(self, method: str, args: Any, kwargs: Any) -> AsyncGenerator[Any, None]:
        return with_own_errors(self._rft_of_provider(method)(*args, **kwargs))

    def _resolve_client_args(self) -> dict[str, Any]:
        arguments: dict[str, Any] = cast(Any, super())._resolve_client_args()
        if RFTContext.current() is None:
            return arguments
        client = CallClient(arguments.get("http_client"), self._rft_sampling)
        return {**arguments, "http_client": client, "max_retries": 0}

    @asynccontextmanager
    async def _get_client(self) -> AsyncIterator[Any]:
        async with cast(Any, super())._get_client() as client:
            if RFTContext.current() is None:
                yield client
                return
            if not isinstance(client, openai.AsyncOpenAI):
                raise ConfigurationError(
                    f"the model's client is a {type(client).__name__}, whose calls cannot be turns of a rollout. Give "
                    "the model an openai.AsyncOpenAI, or client_args"
                )
            if isinstance(client._client, AsyncTurnClient):
                yield sparing_a_thread(client)
                return
            inner = None if has_default_http_client(client) else client._client
            async with aclosing(CallClient(inner, self._rft_sampling)) as http_client:
                yield sparing_a_thread(client.with_options(max_retries=0, http_client=http_client))


async def with_own_errors(events: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """Yield the events of a model, and raise our own errors as they are rather than as causes of OpenAI's."""
    try:
        async for event in events:
            yield event
    except openai.APIConnectionError as error:
        if isinstance(error.__cause__, RFTError):
            raise error.__cause__ from None
        raise
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


# --- LiteLLM ---------------------------------------------------------------------------------------------------------


class ByArguments(Wrapped):
    """A LiteLLM model, whose calls carry all that belongs to a turn in their arguments.

    LiteLLM sends through HTTP clients of many kinds. So what has become of a call is read from its exceptions.
    """

    __slots__ = ()

    async def _rft_events(self, method: str, args: Any, kwargs: Any) -> AsyncGenerator[Any, None]:
        context = RFTContext.current()
        if context is None:
            async for event in self._rft_of_provider(method)(*args, **kwargs):
                yield event
            return
        handled = sys.exc_info()[1]
        turn = context.begin_turn()
        state = TurnState.FAILED
        begun = False
        try:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                state = TurnState.FAILED
                model = self._rft_model_of_turn(context, turn.headers)
                try:
                    async with aclosing(getattr(model, method)(*args, **kwargs)) as events:
                        async for event in events:
                            begun = True
                            yield event
                    state = TurnState.ANSWERED
                    return
                except Exception as error:
                    if begun:
                        raise
                    state, again, retry_after = _after_chain(error, handled)
                    if not again or attempt == MAX_ATTEMPTS:
                        raise
                await asyncio.sleep(_http_turns.BACKOFF.delay(attempt, retry_after))
        finally:
            context.end_turn(turn.span_id, state)

    def _rft_model_of_turn(self, context: RFTContext, headers: dict[str, str]) -> Any:
        """Return a model of LiteLLM's own class that lives for one attempt and holds all that belongs to it."""
        model: Any = object.__new__(self._rft_provider_class)
        model.__dict__.update(vars(self))
        # Structured output by response schema sends client_args alone, and an argument that stands in both places is
        # an error, so whatever belongs to the turn moves to client_args.
        params = dict(model.config.get("params") or {})
        sampling = context.inference_params.sampling() if self._rft_sampling == "job" else {}
        moved = {name: params.pop(name) for name in sampling if name in params} | sampling
        given = model.client_args.get("extra_headers") or {}
        moved["extra_headers"] = {**given, **(params.pop("extra_headers", None) or {}), **headers}
        model.config = {**model.config, "params": params}
        model.client_args = {**model.client_args, **moved, "max_retries": 0, "num_retries": 0}
        base_url = model.client_args.get("api_base") or model.client_args.get("base_url")
        if base_url and (key := runtime_key_at(base_url)) is not None:
            model.client_args["api_key"] = key
        address = _litellm_address(model)
        if address is not None and "client" not in model.client_args:
            client = CallClient(None, self._rft_sampling)
            model.client_args["client"] = sparing_a_thread(
                openai.AsyncOpenAI(**address, http_client=client, max_retries=0)
            )
        return model


def _litellm_address(model: Any) -> dict[str, Any] | None:
    """Return where an OpenAI client for this LiteLLM model leads. Returns None if LiteLLM has to find that out."""
    provider = str(model.config.get("model_id", "")).partition("/")[0]
    address = {
        "base_url": model.client_args.get("api_base") or model.client_args.get("base_url"),
        "api_key": model.client_args.get("api_key"),
    }
    return address if provider in ("openai", "litellm_proxy") and all(address.values()) else None


def _after_chain(error: BaseException, handled: BaseException | None) -> tuple[TurnState, bool, float | None]:
    """Return what the chain of `error` makes of a turn: its state, whether it is sent again, and the wait asked for.

    Args:
        error: What the call raised.
        handled: What the caller was handling when it made the call, and so is no part of the call's own story.
    """
    links = list(_chain(error, handled))
    for link in links:
        state, again = after_error(link)
        if again:
            return state, again, None
    # The last one is nearest to the wire: a layer above may have made up a status from the text of the answer.
    statuses = [link for link in links if isinstance(link, openai.APIStatusError)]
    if not statuses:
        return TurnState.FAILED, False, None
    state, again = after_status(statuses[-1].status_code)
    return state, again, parse_retry_after(statuses[-1].response.headers.get("retry-after"))


def _chain(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and link is not handled and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


# --- which providers -------------------------------------------------------------------------------------------------

_PROVIDERS: tuple[tuple[str, str, type[Wrapped] | None], ...] = (
    # These two are OpenAIModels too, so they come first. The second calls no OpenAI client.
    ("strands.models.litellm", "LiteLLMModel", ByArguments),
    ("strands.models.sagemaker", "SageMakerAIModel", None),
    ("strands.models.openai_responses", "OpenAIResponsesModel", OverHttp),
    (OpenAIModel.__module__, OpenAIModel.__name__, OverHttp),
)


def _kind_of(model: object) -> Any:
    for module, name, kind in _PROVIDERS:
        # A module that nobody has imported cannot be the home of this model's class.
        provider = getattr(sys.modules.get(module), name, None)
        if provider is not None and isinstance(model, provider):
            if kind is None:
                break
            return kind
    supported = ", ".join(name for _, name, kind in reversed(_PROVIDERS) if kind is not None)
    name = type(model).__name__
    advice = "pass a model object"
    if isinstance(model, Model):
        advice = f"use runtime_model({name}(...)), your model in production and the job's policy within a rollout"
    raise ConfigurationError(
        f"wrap_model cannot track calls of {name}, it takes {supported} and their subclasses; {advice}"
    )


@functools.cache
def _tracked_class(provider_class: type[Any], kind: type[Any]) -> type[Any]:
    namespace = {
        "__module__": provider_class.__module__,
        "__qualname__": provider_class.__qualname__,
        "__doc__": provider_class.__doc__,
        "_rft_provider_class": provider_class,
    }
    return type(provider_class.__name__, (kind, provider_class), namespace)
