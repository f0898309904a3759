"""What counts as a rollout: every form of a payload, in every place of a call, and handlers that call handlers."""

from __future__ import annotations

import asyncio
import collections
import functools
import gc
import inspect
import threading
import types
from typing import Any

import pytest
from fakes import JOB_ARN, Service

from aws_rft_sdk import RFTContext, RolloutRequest, rft_handler
from aws_rft_sdk.errors import ConfigurationError, NoTrackedTurnsError
from aws_rft_sdk.lifecycle import one_rollout
from aws_rft_sdk.types import RolloutMetadata

from .handler_kinds import KINDS, call, coroutine, generator, sync

DONE = [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]
FLOOR = [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def request_of(payload: Any) -> RolloutRequest:
    request = RolloutRequest.parse(payload)
    assert request is not None
    return request


def in_mappings(payload: Any, kind: Any) -> Any:
    return kind({name: kind(value) if isinstance(value, dict) else value for name, value in payload.items()})


FORMS = {
    "dict": lambda payload: payload,
    "request": request_of,
    "metadata": lambda payload: request_of(payload).metadata,
    "context": lambda payload: RFTContext(request_of(payload)),
    "proxy": lambda payload: in_mappings(payload, types.MappingProxyType),
    "user-dict": lambda payload: in_mappings(payload, collections.UserDict),
    "chain-map": lambda payload: in_mappings(payload, collections.ChainMap),
    "ordered-dict": lambda payload: in_mappings(payload, collections.OrderedDict),
    "request-to-payload": lambda payload: request_of(payload).to_payload("alpha"),
}


@every_kind
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_payload_when_it_has_any_form_then_it_is_a_rollout_and_arrives_as_it_is(
    kind: Any, form: Any, service: Service
) -> None:
    seen: list[Any] = []

    def body(payload: Any) -> Any:
        context = RFTContext.current()
        assert context is not None
        seen.append((payload, context.trajectory_id))
        context.headers()
        return {"reward": 1.0}

    given = form(service.payload("t-3"))
    call(kind(body), given)
    assert seen[0][0] is given
    assert seen[0][1] == "t-3"
    assert service.feedback == DONE


@every_kind
@pytest.mark.parametrize(
    "payload",
    [
        None,
        "text",
        b"{}",
        1,
        [{"metadata": {}}],
        {},
        {"prompt": "x"},
        {"metadata": None},
        {"metadata": "text"},
        {"metadata": {"user": "u"}},
        {"body": "no json"},
        types.MappingProxyType({"metadata": {"user": "u"}}),
        pytest.param(object(), id="object"),
    ],
    ids=repr,
)
def test_payload_when_it_is_none_of_ours_then_it_is_production_traffic(
    kind: Any, payload: Any, service: Service
) -> None:
    seen: list[Any] = []
    call(kind(lambda payload: seen.append((payload, RFTContext.current()))), payload)
    assert seen == [(payload, None)]
    assert service.requests == []


def test_parse_when_it_is_a_request_or_its_metadata_then_it_is_taken_as_it_is() -> None:
    metadata = RolloutMetadata(JOB_ARN, "t")
    request = RolloutRequest("2+2?", metadata)
    assert RolloutRequest.parse(request) is request
    assert RolloutRequest.parse(metadata) == RolloutRequest(None, metadata)


# --- where the payload stands ----------------------------------------------------------------------------------------


def turn(*args: Any, **kwargs: Any) -> float:
    RFTContext.get_headers()
    return 1.0


class Agent:
    @rft_handler
    def named(self, payload: Any) -> float:
        return turn()

    @rft_handler
    def event(self, event: Any, context: Any = None) -> float:
        return turn()

    @staticmethod
    @rft_handler
    def static(event: Any) -> float:
        return turn()

    @classmethod
    @rft_handler
    def of_class(cls, event: Any) -> float:
        return turn()

    @rft_handler
    def __call__(self, event: Any) -> float:
        return turn()

    @rft_handler
    def keyword(self, *, event: Any) -> float:
        return turn()

    @rft_handler
    def after_more(self, *more: Any, payload: Any) -> float:
        return turn()


def keyword_only(*, event: Any, other: Any = None) -> float:
    return turn()


def positional_only(event: Any, /, **kwargs: Any) -> float:
    return turn()


def after_agent(agent: str, payload: Any) -> float:
    return turn()


CALLS = {
    "method-keyword": lambda p: Agent().named(payload=p),
    "method-first": lambda p: Agent().event(p),
    "method-first-keyword": lambda p: Agent().event(event=p),
    "method-through-class": lambda p: Agent.event(Agent(), p),
    "static": lambda p: Agent.static(p),
    "static-on-object": lambda p: Agent().static(event=p),
    "class-method": lambda p: Agent.of_class(p),
    "class-method-keyword": lambda p: Agent().of_class(event=p),
    "dunder-call": lambda p: Agent()(p),
    "method-keyword-only": lambda p: Agent().keyword(event=p),
    "after-star-args": lambda p: Agent().after_more(1, 2, payload=p),
    "keyword-only": lambda p: rft_handler(keyword_only)(event=p),
    "positional-only": lambda p: rft_handler(positional_only)(p, event=1),
    "partial-keyword": lambda p: rft_handler(functools.partial(after_agent, agent="a"))(payload=p),
    "partial-positional": lambda p: rft_handler(functools.partial(after_agent, "a"))(p),
}


@pytest.mark.parametrize("handle", CALLS.values(), ids=CALLS)
def test_payload_when_it_stands_anywhere_in_a_call_then_it_is_found(handle: Any, service: Service) -> None:
    assert handle(service.payload()) == 1.0
    assert service.feedback == DONE


def test_rft_handler_when_it_decorates_a_class_then_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="decorates functions"):
        rft_handler(Agent)


def test_partial_when_it_holds_an_asynchronous_object_then_the_handler_is_a_coroutine_function(
    service: Service,
) -> None:
    class Asynchronous:
        async def __call__(self, agent: str, payload: Any) -> float:
            return turn()

    handler = rft_handler(functools.partial(Asynchronous(), "agent"))
    assert inspect.iscoroutinefunction(handler)
    assert asyncio.run(handler(service.payload())) == 1.0
    assert service.feedback == DONE


# --- handlers that call handlers -------------------------------------------------------------------------------------


def test_handler_when_it_calls_another_with_its_payload_then_there_is_one_rollout(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = []

    @rft_handler(floor_reward=-1.0)
    def inner(payload: Any) -> Any:
        contexts.append(RFTContext.current())
        RFTContext.get_headers()
        if len(contexts) == 1:
            raise LookupError("the first attempt")
        return {"reward": 0.25}

    @rft_handler
    def outer(payload: Any) -> Any:
        try:
            inner(payload)
        except LookupError:
            inner(payload)
        contexts.append(RFTContext.current())
        return {"reward": 1.0}

    outer(service.payload())
    assert len(set(contexts)) == 1
    assert contexts[0].turns.begun == 2
    assert service.feedback == DONE
    assert "no inference call" not in caplog.text


@every_kind
def test_handler_when_it_is_decorated_twice_then_it_is_reported_once(kind: Any, service: Service) -> None:
    call(rft_handler(kind(lambda payload: turn(), on_error="failed")), service.payload())
    assert service.feedback == DONE


def test_handler_when_it_calls_itself_then_the_outermost_call_reports(service: Service) -> None:
    @rft_handler
    def handler(payload: Any, depth: int = 0) -> Any:
        RFTContext.get_headers()
        return {"reward": 1.0} if depth == 3 else handler(payload, depth + 1)

    handler(service.payload())
    assert service.feedback == DONE


def test_coroutine_when_it_fans_out_to_handlers_of_its_rollout_then_there_is_one_report(service: Service) -> None:
    inner = coroutine(lambda payload: turn())

    @rft_handler
    async def outer(payload: Any) -> Any:
        return {"reward": max(await asyncio.gather(*(inner(payload) for _ in range(4))))}

    asyncio.run(outer(service.payload()))
    assert service.feedback == DONE


def test_handler_when_it_calls_another_with_another_payload_then_there_are_two_rollouts(service: Service) -> None:
    inner = sync(lambda payload: turn())

    @rft_handler
    def outer(payload: Any) -> Any:
        inner(service.payload("t-2"))
        context = RFTContext.current()
        assert context is not None
        assert context.trajectory_id == "t-1"
        return turn()

    outer(service.payload("t-1"))
    assert [request.json["TrajectoryId"] for request in service.requests] == ["t-2", "t-2", "t-1", "t-1"]


def test_handler_when_its_caller_has_bound_the_payload_by_hand_then_it_reports(service: Service) -> None:
    """Binding reports nothing, so it is the handler that does."""
    payload = service.payload()
    with RFTContext.bind(payload):
        sync(lambda payload: turn())(payload)
    assert service.feedback == DONE


def test_handler_when_its_rollout_is_over_then_the_same_payload_is_a_rollout_again(service: Service) -> None:
    handler = sync(lambda payload: turn())
    handler(service.payload())
    handler(service.payload())
    assert service.feedback == [*DONE, *DONE]


def test_handler_when_the_inner_one_makes_no_turn_then_the_outer_one_says_so(service: Service) -> None:
    with pytest.raises(NoTrackedTurnsError):
        rft_handler(sync(lambda payload: 1.0, require_turns=False))(service.payload())


# --- work that a plain function hands out and nobody does ------------------------------------------------------------


def stream(payload: Any) -> Any:
    RFTContext.get_headers()
    return (item for item in [{"reward": 1.0}])


async def items() -> Any:
    yield {"reward": 1.0}


def async_stream(payload: Any) -> Any:
    return items()


async def work() -> float:
    return 1.0


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("fn", [stream, async_stream, lambda payload: work()], ids=["generator", "async", "coroutine"])
def test_handler_when_nobody_uses_the_work_it_returned_then_that_is_reported_as_an_error(
    fn: Any, service: Service
) -> None:
    seen = []
    handed_out = rft_handler(on_error=lambda error: seen.append(error) or 0.0)(fn)(service.payload())
    assert len(one_rollout.running()) == 1
    del handed_out
    gc.collect()
    assert service.feedback == FLOOR
    assert isinstance(seen[0], GeneratorExit)
    assert one_rollout.running() == []


def test_generator_when_it_is_collected_unfinished_then_the_floor_is_reported(service: Service) -> None:
    items = generator(lambda payload: turn())(service.payload())
    assert next(items) == "begun"
    del items
    gc.collect()
    assert service.feedback == FLOOR


def test_generator_when_another_thread_finishes_it_then_the_reward_is_reported_once(service: Service) -> None:
    items = generator(lambda payload: {"reward": turn()})(service.payload())
    next(items)
    rest: list[Any] = []
    thread = threading.Thread(target=lambda: rest.extend(items))
    thread.start()
    thread.join()
    assert rest == [{"reward": 1.0}, "done"]
    assert service.feedback == DONE
    assert RFTContext.current() is None
