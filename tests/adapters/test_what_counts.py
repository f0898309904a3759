"""Which inference calls count as turns, whichever client makes them, and that none of them is sampled twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import httpx
import openai
import pytest
from extras import needs
from fakes import Answer, Service, error, ga_payload, refused_endpoint
from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, rft_handler, runtime_model, wrap_model
from aws_rft_sdk.adapters._answers import after_error, after_status
from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import instrument
from aws_rft_sdk.context import TurnState
from tests.unit.adapters.models import PROVIDERS, by_client_args, one_turn

from .callers import CHAT

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # LiteLLM's own types

Call = Callable[[str], Awaitable[Any]]


async def instrumented(endpoint: str) -> Any:
    client = instrument(openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="k"))
    return await client.chat.completions.create(**CHAT)


async def chat_openai(endpoint: str) -> Any:
    langchain_openai = pytest.importorskip("langchain_openai")
    chat = langchain_openai.ChatOpenAI(model="m", base_url=f"{endpoint}/v1", api_key="k", **http_clients())
    return await chat.ainvoke("2+2?")


async def at_the_runtime(endpoint: str) -> Any:
    return await one_turn(runtime_model())


def wrapped(provider: Any) -> Call:
    async def call(endpoint: str) -> Any:
        return await one_turn(wrap_model(provider(endpoint)))

    call.__name__ = provider.__name__
    return call


CALLS: list[Call] = [*map(wrapped, PROVIDERS), instrumented, chat_openai, at_the_runtime]
MARKS = {"litellm_model": [needs("litellm")]}  # a skip within a task would be the task's error
every_call = pytest.mark.parametrize(
    "call", [pytest.param(call, id=call.__name__, marks=MARKS.get(call.__name__, [])) for call in CALLS]
)


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([200, 201], (TurnState.ANSWERED, False)),
        ([429, 503], (TurnState.REFUSED, True)),
        ([301, 307, 400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422, 425, 431], (TurnState.REFUSED, False)),
        ([408, 424, 499], (TurnState.FAILED, False)),
        ([500, 501, 502, 504, 520, 529], (TurnState.FAILED, False)),
    ],
)
def test_after_status_when_asked_then_it_says_whether_the_policy_was_sampled(statuses: Any, expected: Any) -> None:
    assert {status: after_status(status) for status in statuses} == dict.fromkeys(statuses, expected)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (http.ConnectError("no"), (TurnState.REFUSED, True)),
        (http.ConnectTimeout("no"), (TurnState.REFUSED, True)),
        (http.PoolTimeout("no"), (TurnState.REFUSED, True)),
        (http.LocalProtocolError("no"), (TurnState.REFUSED, False)),
        (http.ProxyError("no"), (TurnState.REFUSED, False)),
        (http.ReadTimeout("no"), (TurnState.FAILED, False)),
        (http.RemoteProtocolError("no"), (TurnState.FAILED, False)),
        (OSError("no"), (TurnState.FAILED, False)),
        (caused(http.ConnectTimeout("no"), aiohttp.ServerDisconnectedError()), (TurnState.FAILED, False)),
        (caused(http.ConnectTimeout("no"), aiohttp.ClientOSError(104, "reset")), (TurnState.FAILED, False)),
        (caused(http.ConnectTimeout("no"), aiohttp.ConnectionTimeoutError()), (TurnState.REFUSED, True)),
    ],
    ids=lambda value: f"{value!r}{value.__cause__!r}" if isinstance(value, BaseException) else None,
)
def test_after_error_when_asked_then_it_says_whether_anything_was_sent(raised: Any, expected: Any) -> None:
    assert after_error(raised) == expected


# --- whichever client ------------------------------------------------------------------------------------------------


@every_call
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_call_when_it_is_refused_then_it_is_no_turn(service: Service, call: Call, status: int) -> None:
    service.policy = lambda request: error(status)
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(Exception, match=r"."):
            asyncio.run(call(service.endpoint))
        assert list(rollout.turn_states.values()) == [TurnState.REFUSED]
        assert not rollout.turns
    assert len(service.inference) == 1


@every_call
@pytest.mark.parametrize("status", [408, 424, 500, 502, 504])
def test_call_when_it_may_have_been_sampled_then_it_is_a_turn(service: Service, call: Call, status: int) -> None:
    service.script(error(status))
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(Exception, match=r"."):
            asyncio.run(call(service.endpoint))
        assert list(rollout.turn_states.values()) == [TurnState.FAILED]
        assert rollout.turns
    assert len(service.inference) == 1


@every_call
@pytest.mark.parametrize("turned_away", [429, 503])
def test_call_when_given_up_in_its_second_attempt_then_it_may_have_been_sampled(
    service: Service, call: Call, turned_away: int
) -> None:
    """The first attempt was turned away, which says nothing about the second one."""
    service.script(error(turned_away), Answer(gate=service.gate()))

    async def main() -> None:
        running = asyncio.ensure_future(call(service.endpoint))
        while len(service.inference) < 2:
            assert not running.done()
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with RFTContext.bind(service.payload()) as rollout:
        asyncio.run(main())
        assert list(rollout.turn_states.values()) == [TurnState.FAILED]
    assert len(service.inference) == 2


def test_call_when_its_connection_is_refused_then_it_is_no_turn() -> None:
    for call in CALLS:
        with refused_endpoint() as endpoint, RFTContext.bind(ga_payload(endpoint=endpoint)) as rollout:
            with pytest.raises(Exception, match=r"."):
                asyncio.run(call(endpoint))
            assert list(rollout.turn_states.values()) == [TurnState.REFUSED]


def test_handler_when_the_agent_swallows_a_403_then_no_reward_is_sent(service: Service) -> None:
    service.policy = lambda request: error(403)
    model = wrap_model(by_client_args(service.endpoint))

    @rft_handler
    def handler(payload: Any) -> float:
        try:
            Agent(model=model, callback_handler=None)("2+2?")
        except openai.APIError:
            pass
        return 0.0

    with pytest.raises(Exception, match="inference call"):
        handler(service.payload())
    assert [body.get("reward") for _, body in service.feedback if isinstance(body, dict) and "reward" in body] == []


# --- HTTP clients of the user's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [httpx.AsyncClient, openai.DefaultAioHttpClient], ids=["httpx", "aiohttp"])
@pytest.mark.parametrize("how", ["client", "client_args", "instrument"])
def test_own_client_when_its_connection_breaks_then_the_turn_is_sent_once(
    service: Service, kind: Any, how: str
) -> None:
    """openai's aiohttp client says ConnectTimeout for a connection that broke after the request."""
    service.script(Answer(reset=True))

    async def main() -> None:
        async with kind() as own:
            arguments: dict[str, Any] = {"base_url": f"{service.endpoint}/v1", "api_key": "k", "http_client": own}
            if how == "instrument":
                with pytest.raises(openai.APIConnectionError):
                    await instrument(openai.AsyncOpenAI(**arguments)).chat.completions.create(**CHAT)
                return
            model = (
                OpenAIModel(client_args=arguments, model_id="m")
                if how == "client_args"
                else OpenAIModel(openai.AsyncOpenAI(**arguments), model_id="m")
            )
            with pytest.raises(openai.APIConnectionError):
                await one_turn(wrap_model(model))
            await one_turn(wrap_model(model))  # it is the user's, so it stays open
            assert not own.is_closed

    with RFTContext.bind(service.payload()) as rollout:
        asyncio.run(main())
        assert next(iter(rollout.turn_states.values())) is TurnState.FAILED
    assert len({request.span_id for request in service.inference}) == len(service.inference)


def test_own_client_when_an_event_hook_raises_for_the_status_then_the_status_decides(service: Service) -> None:
    async def raise_for_status(response: Any) -> None:
        response.raise_for_status()

    async def main() -> None:
        async with httpx.AsyncClient(event_hooks={"response": [raise_for_status]}) as own:
            client = openai.AsyncOpenAI(base_url=f"{service.endpoint}/v1", api_key="k", http_client=own)
            await one_turn(wrap_model(OpenAIModel(client, model_id="m")))
            service.script(error(403))
            with pytest.raises(openai.APIError):
                await one_turn(wrap_model(OpenAIModel(client, model_id="m")))

    service.script(error(503))
    with RFTContext.bind(service.payload()) as rollout:
        asyncio.run(main())
        assert list(rollout.turn_states.values()) == [TurnState.ANSWERED, TurnState.REFUSED]
    assert len(service.inference) == 3


def test_own_client_when_it_is_no_openai_client_then_only_a_rollout_refuses_it(service: Service) -> None:
    class Masked:
        """A client that only looks like one."""

        def __init__(self, client: openai.AsyncOpenAI) -> None:
            self.chat = client.chat

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{service.endpoint}/v1", api_key="k") as client:
            model = wrap_model(OpenAIModel(Masked(client), model_id="m"))
            await one_turn(model)
            with RFTContext.bind(service.payload()), pytest.raises(Exception, match="client is a Masked"):
                await one_turn(model)

    asyncio.run(main())
    assert len(service.inference) == 1
