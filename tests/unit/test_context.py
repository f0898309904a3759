from __future__ import annotations

import asyncio
import contextvars
import copy
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes import JOB_ARN, Service, ga_payload
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import wire
from aws_rft_sdk.context import RFTContext, TurnCount, TurnState, contexts_of
from aws_rft_sdk.errors import PayloadError, RewardError
from aws_rft_sdk.types import RolloutMetadata, RolloutRequest


def current_id() -> str | None:
    context = RFTContext.current()
    return context.trajectory_id if context else None


def test_current_when_outside_then_nothing() -> None:
    assert RFTContext.current() is None
    assert RFTContext.get_headers() == {}
    assert RFTContext.get_metadata() is None


def test_bind_when_entered_then_the_rollout_can_be_read() -> None:
    with RFTContext.bind(ga_payload("t", temperature=0.5)) as context:
        assert RFTContext.current() is context
        assert (context.job_arn, context.trajectory_id) == (JOB_ARN, "t")
        assert context.inference_params.temperature == 0.5
        assert RFTContext.get_metadata() is context.metadata
        assert context.metadata == RolloutMetadata(JOB_ARN, "t")
        assert context.turns == 0
        assert "t" in repr(context)
    assert RFTContext.current() is None


def test_bind_when_given_a_request_or_a_context_then_it_is_taken_up() -> None:
    request = RolloutRequest.parse(ga_payload("t"))
    assert request is not None
    with RFTContext.bind(request) as context:
        assert context.request is request
    with RFTContext.bind(context) as again:
        assert again is context
        again.headers()
    assert context.turns == 1


@pytest.mark.parametrize("payload", [{"prompt": "x"}, {"metadata": {"jobArn": ""}}, {}, None])
def test_bind_when_the_payload_is_no_rollout_then_payload_error_and_nothing_bound(payload: Any) -> None:
    with pytest.raises(PayloadError) as caught, RFTContext.bind(payload):
        pass
    assert caught.value.field.startswith("metadata")
    assert RFTContext.current() is None


def test_bind_when_nested_then_the_outer_one_is_restored_not_cleared() -> None:
    with RFTContext.bind(ga_payload("outer")):
        with RFTContext.bind(ga_payload("inner")):
            assert current_id() == "inner"
        assert current_id() == "outer"
        with pytest.raises(KeyError), RFTContext.bind(ga_payload("failing")):
            raise KeyError
        assert current_id() == "outer"
    assert current_id() is None


def test_contexts_of_when_one_trajectory_is_bound_twice_then_both_until_they_end() -> None:
    metadata = RolloutMetadata(JOB_ARN, "t")
    with RFTContext.bind(ga_payload("t")) as first:
        with RFTContext.bind(ga_payload("t")) as second, RFTContext.bind(ga_payload("other")):
            assert contexts_of(metadata) == [first, second]
        assert contexts_of(metadata) == [first]
    assert contexts_of(metadata) == []


# --- headers and turns -----------------------------------------------------------------------------------------------


def test_headers_when_called_then_each_call_is_a_turn_with_a_span_of_its_own() -> None:
    with RFTContext.bind(ga_payload("t")) as context:
        calls = [context.headers(), RFTContext.get_headers(), context.headers()]
        spans = [headers[wire.SPAN_HEADER] for headers in calls]
        assert len(set(spans)) == 3
        assert context.turns == 3
        assert context.span_ids == tuple(spans)
        assert calls[0] == wire.inference_headers(JOB_ARN, "t", spans[0])
        calls[0].clear()  # its own dict
        assert len(context.headers()) == 5


def test_turns_when_ended_then_answered_and_failed_are_counted() -> None:
    with RFTContext.bind(ga_payload()) as context:
        for state in (TurnState.ANSWERED, TurnState.FAILED, TurnState.REFUSED, TurnState.ANSWERED):
            context.end_turn(context.begin_turn().span_id, state)
        context.begin_turn()
    turns = context.turns
    assert (turns.begun, turns.answered, turns.failed, turns.unsure) == (5, 2, 2, 1)
    assert turns == 5
    assert json.dumps(turns) == "5"
    again = pickle.loads(pickle.dumps(copy.copy(turns)))
    assert (type(again), again.begun, again.answered, again.failed, again.unsure) == (TurnCount, 5, 2, 2, 1)


@pytest.mark.parametrize(
    ("states", "rewards", "fits"),
    [
        pytest.param(["answered", "answered"], 2, True, id="one-for-each"),
        pytest.param(["answered", "answered"], 1, True, id="one-for-all"),
        pytest.param(["answered", "answered"], 3, False, id="too-many"),
        pytest.param(["answered"] * 3, 2, False, id="too-few"),
        pytest.param(["answered", "failed", "refused"], 1, True, id="failed-turns-do-not-count"),
        pytest.param(["answered", "answered", "failed"], 2, True, id="failed-turn-was-not-recorded"),
        pytest.param(["answered", "answered", "failed"], 3, True, id="failed-turn-was-recorded"),
        pytest.param(["begun", "begun"], 2, True, id="made-by-hand"),
        pytest.param([], 2, False, id="no-turns"),
    ],
)
def test_check_turn_rewards_when_the_number_fits_no_count_then_reward_error_lists_the_turns(
    states: list[str], rewards: int, fits: bool
) -> None:
    with RFTContext.bind(ga_payload()) as context:
        for state in states:
            context.end_turn(context.begin_turn().span_id, TurnState(state))
    if fits:
        context.check_turn_rewards([0.5] * rewards)
        return
    with pytest.raises(RewardError, match=f"{rewards} rewards for {len(states)} turns") as caught:
        context.check_turn_rewards([0.5] * rewards)
    assert all(span_id in str(caught.value) for span_id in context.span_ids)


def test_turns_when_threads_begin_them_at_once_then_none_is_lost() -> None:
    barrier = threading.Barrier(8)
    with RFTContext.bind(ga_payload()) as context, ThreadPoolExecutor(8) as pool:

        def begin() -> None:
            barrier.wait(10)
            for _ in range(100):
                context.headers()

        for future in [pool.submit(RFTContext.carry(begin)) for _ in range(8)]:
            future.result()
    assert context.turns == 800
    assert len(set(context.span_ids)) == 800


@pytest.fixture
def tracer() -> Iterator[trace.Tracer]:
    provider = TracerProvider()
    yield provider.get_tracer("test")
    provider.shutdown()


def test_headers_when_a_span_is_recording_then_its_id_is_used_once(tracer: trace.Tracer) -> None:
    with RFTContext.bind(ga_payload()) as context, tracer.start_as_current_span("turn") as span:
        span_id = trace.format_span_id(span.get_span_context().span_id)
        assert context.headers()[wire.SPAN_HEADER] == span_id
        assert context.headers()[wire.SPAN_HEADER] != span_id
        with tracer.start_as_current_span("next") as inner:
            inner_id = trace.format_span_id(inner.get_span_context().span_id)
            assert context.headers()[wire.SPAN_HEADER] == inner_id
    assert context.turns == 3


def test_headers_when_a_span_does_not_record_then_its_id_is_not_used() -> None:
    remote = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True))
    with RFTContext.bind(ga_payload()) as context, trace.use_span(remote):
        assert context.headers()[wire.SPAN_HEADER] != trace.format_span_id(2)


def test_headers_when_two_rollouts_share_a_recording_span_then_each_may_use_its_id(tracer: trace.Tracer) -> None:
    with tracer.start_as_current_span("batch") as span:
        for _ in range(2):
            with RFTContext.bind(ga_payload()) as context:
                span_id = trace.format_span_id(span.get_span_context().span_id)
                assert context.headers()[wire.SPAN_HEADER] == span_id


# --- carry -----------------------------------------------------------------------------------------------------------

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def test_thread_when_started_by_hand_then_the_rollout_does_not_follow() -> None:
    seen: list[str | None] = []
    with RFTContext.bind(ga_payload("t")):
        thread = threading.Thread(target=lambda: seen.append(current_id()))
        thread.start()
        thread.join()
        carried = threading.Thread(target=RFTContext.carry(lambda: seen.append(current_id())))
        carried.start()
        carried.join()
    assert seen == [None, "t"]


def test_carry_when_called_at_once_in_several_threads_then_each_has_the_rollout() -> None:
    barrier = threading.Barrier(6)

    def work(item: int, *, add: int) -> tuple[int, str | None, str]:
        barrier.wait(10)  # all six are inside the same carried function
        return item + add, current_id(), colour.get()

    colour.set("red")
    with RFTContext.bind(ga_payload("t")), ThreadPoolExecutor(6) as pool:
        carried = RFTContext.carry(work)
        results = [f.result() for f in [pool.submit(carried, item, add=10) for item in range(6)]]
        assert list(pool.map(lambda _: current_id(), range(6))) == [None] * 6  # the pool's threads are clean again
    assert results == [(item + 10, "t", "red") for item in range(6)]
    assert carried.__name__ == "work"


def test_carry_when_made_outside_then_it_runs_outside() -> None:
    carried = RFTContext.carry(current_id)
    with RFTContext.bind(ga_payload("t")):
        assert carried() is None


def test_carry_when_the_function_sets_a_variable_then_the_caller_does_not_see_it() -> None:
    colour.set("red")
    RFTContext.carry(lambda: colour.set("green"))()
    assert colour.get() == "red"


async def coroutine(value: str) -> tuple[str, str | None]:
    await asyncio.sleep(0)
    return value, current_id()


def test_carry_when_it_is_a_coroutine_function_then_the_rollout_lasts_over_its_awaits() -> None:
    with RFTContext.bind(ga_payload("t")):
        carried = RFTContext.carry(coroutine)
    assert asyncio.iscoroutinefunction(carried)

    async def both() -> list[Any]:
        with RFTContext.bind(ga_payload("u")):
            return [*await asyncio.gather(carried("a"), carried("b")), current_id()]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, both()).result() == [("a", "t"), ("b", "t"), "u"]


def test_carry_when_it_is_a_coroutine_function_then_other_variables_travel_too() -> None:
    async def look() -> str:
        return colour.get()

    colour.set("red")
    carried = RFTContext.carry(look)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, carried()).result() == "red"


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> Any:
    yield 1


@pytest.mark.parametrize("fn", [generator, async_generator])
def test_carry_when_it_is_a_generator_function_then_type_error(fn: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="generator"):
        RFTContext.carry(fn)


# --- the hops of real frameworks -------------------------------------------------------------------------------------


def test_context_when_strands_runs_a_synchronous_call_in_its_thread_then_the_rollout_is_there(service: Service) -> None:
    seen: list[tuple[str | None, bool]] = []
    main = threading.get_ident()

    class Watched(OpenAIModel):
        async def stream(self, *args: Any, **kwargs: Any) -> Any:
            seen.append((current_id(), threading.get_ident() == main))
            async for event in super().stream(*args, **kwargs):
                yield event

    model = Watched(model_id="default", client_args={"api_key": "k", "base_url": f"{service.endpoint}/v1"})
    agent = Agent(model=model, callback_handler=None)
    with RFTContext.bind(ga_payload("t")):
        agent("hello")
    assert seen == [("t", False)]
    assert RFTContext.current() is None


def test_context_when_tasks_and_to_thread_are_used_then_it_follows_and_does_not_mix() -> None:
    async def rollout(name: str, barrier: asyncio.Event, arrived: list[str]) -> list[str | None]:
        with RFTContext.bind(ga_payload(name)):
            arrived.append(name)
            if len(arrived) == 10:
                barrier.set()
            await barrier.wait()  # all ten are bound at once
            child = asyncio.create_task(coroutine("x"))
            return [current_id(), await asyncio.to_thread(current_id), (await child)[1]]

    async def main() -> list[list[str | None]]:
        barrier, arrived = asyncio.Event(), list[str]()
        return await asyncio.gather(*(rollout(f"t{i}", barrier, arrived) for i in range(10)))

    assert asyncio.run(main()) == [[f"t{i}"] * 3 for i in range(10)]
