"""A decorated handler looks like the function it decorates, to `inspect` and to AgentCore."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

import pytest
from extras import needs
from fakes import Service
from starlette.testclient import TestClient

from aws_rft_sdk import RFTContext, rft_handler

from .handler_kinds import KINDS, class_method, method_in_class, returning_generator, returns_coroutine

# AgentCore itself does not await what a plain function returns, drops the return value of a generator, and takes no
# methods.
SERVED = [kind for kind in KINDS if kind not in (returns_coroutine, returning_generator, method_in_class, class_method)]
DONE = [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]


async def coroutine(payload: dict[str, Any], context: Any = None) -> float:
    """Says something."""
    return 1.0


def generator(payload: dict[str, Any], *, flag: bool = False) -> Any:
    yield flag


async def async_generator(request: dict[str, Any], /, context: Any) -> Any:
    yield 1


def function(payload: dict[str, Any], *args: Any, **kwargs: Any) -> float:
    return 1.0


@pytest.mark.parametrize("fn", [coroutine, generator, async_generator, function], ids=lambda fn: fn.__name__)
def test_decorated_when_inspected_then_kind_signature_and_name_are_those_of_the_function(fn: Any) -> None:
    fn.mark = "x"
    handler = rft_handler(fn)
    assert inspect.signature(handler) == inspect.signature(fn)
    assert handler.__wrapped__ is fn
    assert (handler.__name__, handler.__doc__, handler.__module__) == (fn.__name__, fn.__doc__, fn.__module__)
    assert handler.mark == "x"
    for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction):
        assert test(handler) == test(fn)


def test_decorated_when_it_is_an_object_or_partial_then_it_is_wrapped_too() -> None:
    class Agent:
        def __init__(self) -> None:
            self.secret = "s"

        async def __call__(self, payload: Any) -> float:
            return 1.0

    agent = Agent()
    handler = rft_handler(agent)
    assert handler.__wrapped__ is agent  # type: ignore[attr-defined] # set by wraps
    assert inspect.iscoroutinefunction(handler)
    assert not hasattr(handler, "secret")
    assert str(inspect.signature(handler)) == str(inspect.signature(agent))
    part = functools.partial(function, flag=1)
    assert rft_handler(part).__wrapped__ is part  # type: ignore[attr-defined] # set by wraps


@pytest.mark.parametrize("bare", [True, False])
def test_rft_handler_when_used_bare_or_called_then_it_is_the_same(bare: bool, service: Service) -> None:
    handler = rft_handler(function) if bare else rft_handler()(function)
    assert handler({"prompt": "x"}) == 1.0


def first(event: Any, payload: Any = None) -> Any:
    RFTContext.get_headers()
    return {"reward": 1.0}


def named(context: Any, payload: Any) -> Any:
    RFTContext.get_headers()
    return {"reward": 1.0}


def keyword_only(*, payload: Any) -> Any:
    RFTContext.get_headers()
    return {"reward": 1.0}


def only_one(event: Any) -> Any:
    RFTContext.get_headers()
    return {"reward": 1.0}


def anything(*args: Any, **kwargs: Any) -> Any:
    RFTContext.get_headers()
    return {"reward": 1.0}


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(lambda p: rft_handler(only_one)(p), id="first-argument"),
        pytest.param(lambda p: rft_handler(only_one)(event=p), id="first-argument-by-name"),
        pytest.param(lambda p: rft_handler(named)("ctx", p), id="named-payload"),
        pytest.param(lambda p: rft_handler(named)(payload=p, context="ctx"), id="named-payload-by-name"),
        pytest.param(lambda p: rft_handler(first)(None, p), id="named-payload-second"),
        pytest.param(lambda p: rft_handler(keyword_only)(payload=p), id="keyword-only"),
        pytest.param(lambda p: rft_handler(anything)(p, 1, x=2), id="star-args"),
    ],
)
def test_payload_when_it_stands_anywhere_then_it_is_found(handle: Any, service: Service) -> None:
    handle(service.payload())
    assert service.feedback == DONE


@needs("agentcore")
@pytest.mark.parametrize("rollout", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("kind", SERVED, ids=lambda kind: kind.__name__)
def test_agentcore_entrypoint_when_the_handler_is_of_any_kind_then_it_serves(
    kind: Any, rollout: bool, service: Service
) -> None:
    seen: list[str | None] = []

    def body(payload: Any) -> Any:
        RFTContext.get_headers()
        context = RFTContext.current()
        seen.append(context.trajectory_id if context else None)
        return {"reward": 1.0, "prompt": payload["prompt"]}

    handler = kind(body)
    from bedrock_agentcore.runtime import BedrockAgentCoreApp

    app = BedrockAgentCoreApp()
    app.entrypoint(handler)
    payload = service.payload("t-7") if rollout else {"prompt": "2+2?"}
    with TestClient(app) as client:
        answer = client.post("/invocations", json=payload)
    assert answer.status_code == 200
    assert '"reward": 1.0' in answer.text or '"reward":1.0' in answer.text
    assert seen == ["t-7" if rollout else None]
    assert service.feedback == (DONE if rollout else [])


@needs("agentcore")
@pytest.mark.parametrize("rollout", [True, False], ids=["inside", "outside"])
def test_agentcore_entrypoint_when_the_handler_takes_a_context_then_it_is_passed_through(
    rollout: bool, service: Service
) -> None:
    from bedrock_agentcore.runtime import BedrockAgentCoreApp

    app = BedrockAgentCoreApp()

    @app.entrypoint
    @rft_handler
    async def handler(payload: Any, context: Any) -> Any:
        RFTContext.get_headers()
        return {"reward": 1.0, "session": context.session_id}

    headers = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 33}
    with TestClient(app) as client:
        answer = client.post("/invocations", json=service.payload() if rollout else {}, headers=headers)
    assert json.loads(answer.text)["session"] == "s" * 33
    assert service.feedback == (DONE if rollout else [])
