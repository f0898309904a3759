from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import json
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes import JOB_ARN, Service, ga_payload
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import rft_handler, wire
from aws_rft_sdk.context import RFTContext, TurnCount, TurnState, request_of, share_holder
from aws_rft_sdk.context import _active as registry
from aws_rft_sdk.errors import NoActiveRolloutError, PayloadError, RewardError
from aws_rft_sdk.feedback.delivery import Memory
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
        assert context.turns == (0, 0, 0, 0)
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
    assert context.turns.begun == 1


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


def test_share_holder_when_one_trajectory_is_bound_several_times_then_all_share_one_until_they_end() -> None:
    metadata = RolloutMetadata(JOB_ARN, "t")
    mine, late, outside = Memory(), Memory(), Memory()
    with RFTContext.bind(ga_payload("t")) as first:
        with RFTContext.bind(ga_payload("t")) as second, RFTContext.bind(ga_payload("other")) as other:
            assert share_holder(metadata, mine) is mine
            assert share_holder(metadata, late) is mine
            assert (first.holder, second.holder, other.holder) == (mine, mine, None)
        with RFTContext.bind(RolloutRequest.parse(ga_payload("t")) or {}) as third:
            assert third.holder is mine
    assert share_holder(metadata, outside) is outside


# --- one context for a rollout that is bound again -------------------------------------------------------------------

SPELLINGS: list[Callable[[RolloutRequest], Any]] = [
    lambda request: request,
    lambda request: request.metadata,
    lambda request: request.to_payload("ga"),
    lambda request: request.to_payload("alpha"),
    lambda request: {"body": json.dumps(request.to_payload("ga"))},
    lambda request: request.to_payload("ga")["metadata"],
    lambda request: {**request.to_payload("ga"), "inferenceParams": {"temperature": 0.9}},
]


@pytest.mark.parametrize("spell", SPELLINGS)
def test_bind_when_the_rollout_is_in_progress_then_its_context_is_taken_up(spell: Any) -> None:
    request = request_of(ga_payload("t", temperature=0.1))
    with RFTContext.bind(request) as outer:
        with RFTContext.bind(spell(request)) as inner:
            assert inner is outer
            RFTContext.get_headers()
        assert RFTContext.current() is outer
    assert outer.turns.begun == 1
    assert outer.inference_params.temperature == 0.1
    assert RFTContext.current() is None


def test_bind_when_the_job_is_another_one_then_it_nests() -> None:
    with RFTContext.bind(ga_payload("t")) as outer:
        with RFTContext.bind(ga_payload("t", job_arn=JOB_ARN + "2")) as inner:
            assert inner is not outer
        assert RFTContext.current() is outer


def test_bind_when_a_thread_does_not_know_the_rollout_then_it_finds_it() -> None:
    def work() -> RFTContext:
        assert RFTContext.current() is None
        with RFTContext.bind(ga_payload("t")) as context:
            context.headers()
        return context

    with RFTContext.bind(ga_payload("t")) as outer, ThreadPoolExecutor(4) as pool:
        assert {future.result() for future in [pool.submit(work) for _ in range(4)]} == {outer}
    assert outer.turns.begun == 4


def test_bind_when_threads_bind_a_new_rollout_at_once_then_they_share_one_context() -> None:
    entered, leave = threading.Barrier(8), threading.Barrier(8)

    def work() -> RFTContext:
        entered.wait(10)
        with RFTContext.bind(ga_payload("t")) as context:
            leave.wait(10)
        return context

    with ThreadPoolExecutor(8) as pool:
        assert len({future.result() for future in [pool.submit(work) for _ in range(8)]}) == 1
    assert (JOB_ARN, "t") not in registry


def test_bind_when_the_rollout_is_over_then_a_stale_context_is_not_taken_up() -> None:
    with RFTContext.bind(ga_payload("t")) as first:
        in_background = contextvars.copy_context()  # of a task or thread that outlives the rollout

    def bind_again() -> RFTContext:
        assert RFTContext.current() is first
        with RFTContext.bind(ga_payload("t")) as context:
            return context

    assert in_background.run(bind_again) is not first


@pytest.mark.parametrize("kind", ["function", "coroutine function", "generator function"])
def test_bind_when_in_the_handler_then_its_turns_make_the_rollout_tracked(service: Service, kind: str) -> None:
    def one_turn(payload: dict[str, Any]) -> None:
        with RFTContext.bind(payload):  # as users of the published SDK write
            RFTContext.get_headers()

    def function(payload: dict[str, Any]) -> float:
        one_turn(payload)
        return 1.0

    async def coroutine_function(payload: dict[str, Any]) -> float:
        await asyncio.to_thread(one_turn, payload)
        return 1.0

    def generator_function(payload: dict[str, Any]) -> Iterator[float]:
        thread = threading.Thread(target=one_turn, args=(payload,))
        thread.start()
        thread.join()
        yield 1.0

    payload = service.payload("t")
    if kind == "function":
        rft_handler(function)(payload)
    elif kind == "coroutine function":
        asyncio.run(rft_handler(coroutine_function)(payload))
    else:
        list(rft_handler(generator_function)(payload))
    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]


def test_registry_when_10000_rollouts_are_over_then_it_holds_none_of_them(service: Service) -> None:
    @rft_handler(require_turns=False, reward="deferred")
    def handler(payload: dict[str, Any]) -> None:
        with RFTContext.bind(payload):
            if payload["prompt"] == "fails":
                raise ValueError(payload["prompt"])

    before = dict(registry)  # a handler that hangs in another test is still in progress
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda i: handler(ga_payload(f"t{i}")), range(10_000)):
            pass
    with pytest.raises(ValueError, match="fails"):
        handler(service.payload("failing", prompt="fails"))
    assert registry == before


# --- calls after the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ["returned", "raised"])
def test_carry_when_called_after_the_rollout_was_reported_then_the_error_names_it(
    service: Service, ended: str, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        futures = []

        @rft_handler(require_turns=False)
        def handler(payload: dict[str, Any]) -> float:
            def work() -> dict[str, str]:
                over.wait(10)
                return RFTContext.get_headers()

            futures.append(pool.submit(RFTContext.carry(work)))
            if ended == "raised":
                raise KeyError
            return 1.0

        with contextlib.suppress(KeyError):
            handler(service.payload("t-late"))
        over.set()
        with pytest.raises(NoActiveRolloutError, match=r"t-late takes no more turns.*before the handler"):
            futures[0].result(10)
    assert [r.levelname for r in caplog.records if "t-late takes no more turns" in r.message] == ["ERROR"]


def test_carry_when_called_after_a_deferred_rollout_returned_then_its_turns_count(service: Service) -> None:
    seen: list[tuple[RFTContext | None, Callable[[], dict[str, str]]]] = []

    @rft_handler(reward="deferred")
    def handler(payload: dict[str, Any]) -> None:
        seen.append((RFTContext.current(), RFTContext.carry(RFTContext.get_headers)))

    handler(service.payload("t"))
    [(context, work)] = seen
    assert work()["X-Trajectory-Id"] == "t"
    assert context is not None
    assert context.turns.begun == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_bind_when_forked_in_a_rollout_then_the_child_has_its_own_count_and_ends_well() -> None:
    with RFTContext.bind(ga_payload("t")) as context:
        context.headers()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with RFTContext.bind(ga_payload("t")):
                    headers = context.headers()  # the child's turns carry headers, and only the child counts them
                code = 0 if headers["X-Trajectory-Id"] == "t" and context.turns.begun == 2 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert context.turns.begun == 1
    assert (context.job_arn, context.trajectory_id) not in registry


# --- headers and turns -----------------------------------------------------------------------------------------------


def test_headers_when_called_then_each_call_is_a_turn_with_a_span_of_its_own() -> None:
    with RFTContext.bind(ga_payload("t")) as context:
        calls = [context.headers(), RFTContext.get_headers(), context.headers()]
        spans = [headers[wire.SPAN_HEADER] for headers in calls]
        assert len(set(spans)) == 3
        assert context.turns.begun == 3
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
    assert turns == TurnCount(begun=5, answered=2, failed=2, unsure=1)
    assert turns.tracked == 4  # all but the refused one


@pytest.mark.parametrize(("states", "tracked"), [([], 0), (["refused"], 0), (["failed"], 1), (["begun"], 1)])
def test_turns_when_none_can_have_been_sampled_then_they_are_false(states: list[str], tracked: int) -> None:
    with RFTContext.bind(ga_payload()) as context:
        for state in states:
            context.end_turn(context.begin_turn().span_id, TurnState(state))
    assert (context.turns.tracked, bool(context.turns)) == (tracked, tracked > 0)


@pytest.mark.parametrize(
    ("states", "rewards", "fits"),
    [
        pytest.param(["answered", "answered"], 2, True, id="one-for-each"),
        pytest.param(["answered", "answered"], 1, True, id="one-for-all"),
        pytest.param(["answered", "answered"], 3, False, id="too-many"),
        pytest.param(["answered"] * 3, 2, False, id="too-few"),
        pytest.param(["answered", "failed", "refused"], 1, True, id="failed-turns-need-not-count"),
        pytest.param(["answered", "answered", "refused"], 2, True, id="refused-call-is-no-turn"),
        pytest.param(["answered", "answered", "refused"], 3, False, id="a-reward-for-a-refused-call"),
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
    turns = len(states) - states.count("refused")
    with pytest.raises(RewardError, match=f"{rewards} rewards for {turns} turns") as caught:
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
    assert context.turns.begun == 800
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
    assert context.turns.begun == 3


def test_headers_when_threads_share_a_recording_span_then_one_turn_gets_its_id(tracer: trace.Tracer) -> None:
    barrier = threading.Barrier(8)

    def begin() -> None:
        barrier.wait(10)
        context.headers()

    with RFTContext.bind(ga_payload()) as context, ThreadPoolExecutor(8) as pool:
        for turns in range(8, 400, 8):
            with tracer.start_as_current_span("parallel tools") as span:
                for future in [pool.submit(RFTContext.carry(begin)) for _ in range(8)]:
                    future.result()
            assert context.span_ids.count(trace.format_span_id(span.get_span_context().span_id)) == 1
            assert context.turns.begun == turns


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
    assert inspect.iscoroutinefunction(carried)

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


class Asked:
    """An object whose call is a coroutine, or a method that is one."""

    async def __call__(self, value: str) -> tuple[str, str | None]:
        return await coroutine(value)

    async def method(self, value: str) -> tuple[str, str | None]:
        return await coroutine(value)


async def in_a_thread(value: str) -> tuple[str, str | None]:
    return value, await asyncio.to_thread(current_id)


class Awaitable:
    """Neither a coroutine nor a future."""

    def __await__(self) -> Any:
        return coroutine("a").__await__()


@pytest.mark.parametrize(
    "work",
    [
        lambda value: coroutine(value),
        lambda value: asyncio.ensure_future(coroutine(value)),
        lambda value: Awaitable(),
        functools.partial(coroutine),
        Asked(),
        Asked().method,
        in_a_thread,
        lambda value: in_a_thread(value),
    ],
)
def test_carry_when_what_it_returns_is_awaited_elsewhere_then_that_is_within_the_rollout(work: Any) -> None:
    with RFTContext.bind(ga_payload("t")):
        carried = RFTContext.carry(work)

    async def main() -> None:
        with RFTContext.bind(ga_payload("u")):
            assert await carried("a") == ("a", "t")
            assert await asyncio.gather(carried("a"), carried("a")) == [("a", "t")] * 2
            assert current_id() == "u"

    asyncio.run(main())


def numbers() -> Generator[Any, Any, str | None]:
    token = colour.set("green")
    try:
        got = yield current_id(), colour.get()
        try:
            yield got, current_id()
        except KeyError:
            yield "caught", current_id()
    finally:
        colour.reset(token)
    return current_id()


async def async_numbers() -> AsyncGenerator[Any, Any]:
    token = colour.set("green")
    try:
        got = yield current_id(), colour.get()
        await asyncio.sleep(0)
        try:
            yield got, current_id()
        except KeyError:
            yield "caught", await asyncio.to_thread(current_id)
    finally:
        colour.reset(token)


@pytest.mark.parametrize("work", [numbers, lambda: numbers()])
def test_carry_when_it_gives_a_generator_then_its_body_runs_within_the_rollout(work: Any) -> None:
    with RFTContext.bind(ga_payload("t")):
        carried = RFTContext.carry(work)
    items = carried()
    assert next(items) == ("t", "green")
    assert current_id() is None
    assert colour.get() != "green"
    assert items.send("sent") == ("sent", "t")
    assert items.throw(KeyError()) == ("caught", "t")
    with pytest.raises(StopIteration) as stop:
        next(items)
    assert stop.value.value == "t"
    left = carried()
    next(left)
    left.close()  # its `finally` runs within the context that it began in


@pytest.mark.parametrize("work", [async_numbers, lambda: async_numbers()])
def test_carry_when_it_gives_an_async_generator_then_its_body_runs_within_the_rollout(work: Any) -> None:
    with RFTContext.bind(ga_payload("t")):
        carried = RFTContext.carry(work)

    async def main() -> None:
        items = carried()
        assert await anext(items) == ("t", "green")
        assert current_id() is None
        assert colour.get() != "green"
        assert await items.asend("sent") == ("sent", "t")
        assert await items.athrow(KeyError()) == ("caught", "t")
        assert [item async for item in items] == []
        left = carried()
        await anext(left)
        await left.aclose()

    asyncio.run(main())


def test_carry_when_its_async_generator_is_left_to_the_event_loop_then_that_closes_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def work() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("closed")

    async def main() -> None:
        abandoned.append(RFTContext.carry(work)())
        assert await anext(abandoned[0]) == 1

    abandoned: list[Any] = []
    asyncio.run(main())
    assert (ended, caplog.messages) == (["closed"], [])


def test_carry_when_the_caller_is_cancelled_then_the_work_is_too() -> None:
    ended: list[str | None] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(current_id())

    async def main() -> None:
        task = asyncio.ensure_future(carried())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with RFTContext.bind(ga_payload("t")):
        carried: Any = RFTContext.carry(lambda: work())
    asyncio.run(main())
    assert ended == ["t"]


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
