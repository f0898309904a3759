"""Generators and async generators keep their protocol, within a rollout and outside one."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from fakes import Service

from aws_rft_sdk import RFTContext, RolloutFeedbackClient, rft_handler

FLOOR = [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]
DONE = [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]


def echo(payload: Any, log: list[Any]) -> Generator[Any, Any, str]:
    RFTContext.get_headers()
    received = yield "first"
    log.append(received)
    try:
        received = yield "second"
    except KeyError as error:
        log.append(repr(error))
        yield "recovered"
    finally:
        log.append("closed")
    yield {"reward": 1.0}
    return "returned"


async def async_echo(payload: Any, log: list[Any]) -> AsyncGenerator[Any, Any]:
    RFTContext.get_headers()
    received = yield "first"
    log.append(received)
    try:
        received = yield "second"
    except KeyError as error:
        log.append(repr(error))
        yield "recovered"
    finally:
        log.append("closed")
    yield {"reward": 1.0}


@pytest.fixture(params=["inside", "outside"])
def payload(request: pytest.FixtureRequest, service: Service) -> dict[str, Any]:
    return service.payload() if request.param == "inside" else {"prompt": "x"}


def is_rollout(payload: dict[str, Any]) -> bool:
    return "metadata" in payload


def test_generator_when_driven_by_hand_then_send_throw_and_return_value_are_those_of_the_function(
    payload: dict[str, Any], service: Service
) -> None:
    log: list[Any] = []
    items = rft_handler(echo)(payload, log)
    assert next(items) == "first"
    assert items.send("hello") == "second"
    assert items.throw(KeyError("k")) == "recovered"
    assert next(items) == {"reward": 1.0}
    with pytest.raises(StopIteration) as stopped:
        next(items)
    assert stopped.value.value == "returned"
    assert log == ["hello", "KeyError('k')", "closed"]
    assert service.feedback == (DONE if is_rollout(payload) else [])


def test_generator_when_closed_early_then_the_function_is_closed_and_the_floor_reported(
    payload: dict[str, Any], service: Service
) -> None:
    log: list[Any] = []
    items = rft_handler(echo)(payload, log)
    next(items)
    next(items)
    items.close()
    assert log == [None, "closed"]
    assert service.feedback == (FLOOR if is_rollout(payload) else [])
    assert RFTContext.current() is None


def test_generator_when_thrown_into_and_not_caught_then_the_same_error_comes_out(
    payload: dict[str, Any], service: Service
) -> None:
    items = rft_handler(echo)(payload, [])
    next(items)
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        items.throw(mine)
    assert caught.value is mine
    assert service.feedback == (FLOOR if is_rollout(payload) else [])


def test_generator_when_it_ignores_close_then_runtime_error_as_ever(payload: dict[str, Any]) -> None:
    @rft_handler
    def stubborn(payload: Any) -> Any:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2
                return

    items = stubborn(payload)
    next(items)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        items.close()
    for _ in items:
        pass


def test_generator_when_never_started_then_nothing_is_reported(service: Service) -> None:
    items = rft_handler(echo)(service.payload(), [])
    items.close()
    assert service.requests == []


def test_generator_when_suspended_then_its_consumer_is_not_within_the_rollout(service: Service) -> None:
    items = rft_handler(echo)(service.payload(), [])
    with RFTContext.bind(service.payload("consumer")) as consumer:
        for _ in items:
            assert RFTContext.current() is consumer


def test_generators_when_interleaved_then_each_has_its_own_rollout(service: Service) -> None:
    @rft_handler
    def handler(payload: Any) -> Any:
        for _ in range(3):
            RFTContext.get_headers()
            context = RFTContext.current()
            yield context.trajectory_id if context else None
        yield {"reward": 1.0}

    streams = [handler(service.payload(f"t{i}")) for i in range(3)]
    for _ in range(3):
        assert [next(stream) for stream in streams] == ["t0", "t1", "t2"]
    assert [list(stream) for stream in streams] == [[{"reward": 1.0}]] * 3


def test_async_generator_when_driven_by_hand_then_send_and_throw_are_those_of_the_function(
    payload: dict[str, Any], service: Service
) -> None:
    log: list[Any] = []

    async def main() -> None:
        items = rft_handler(async_echo)(payload, log)
        assert await anext(items) == "first"
        assert await items.asend("hello") == "second"
        assert await items.athrow(KeyError("k")) == "recovered"
        assert await anext(items) == {"reward": 1.0}
        with pytest.raises(StopAsyncIteration):
            await anext(items)

    asyncio.run(main())
    assert log == ["hello", "KeyError('k')", "closed"]
    assert service.feedback == (DONE if is_rollout(payload) else [])


def test_async_generator_when_closed_early_then_the_function_is_closed_and_the_floor_reported(
    payload: dict[str, Any], service: Service
) -> None:
    log: list[Any] = []

    async def main() -> None:
        items = rft_handler(async_echo)(payload, log)
        await anext(items)
        await anext(items)
        await items.aclose()
        assert RFTContext.current() is None

    asyncio.run(main())
    assert log == [None, "closed"]
    assert service.feedback == (FLOOR if is_rollout(payload) else [])


def test_async_generator_when_abandoned_then_it_is_closed_with_the_loop_and_reported(service: Service) -> None:
    log: list[Any] = []

    async def main() -> None:
        async for item in rft_handler(async_echo)(service.payload(), log):
            if item == "second":
                break
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert log == [None, "closed"]
    assert service.feedback == FLOOR


def test_async_generator_when_cancelled_between_items_then_the_floor_is_reported(service: Service) -> None:
    async def main() -> None:
        started = asyncio.Event()

        @rft_handler
        async def handler(payload: Any) -> Any:
            yield "first"
            started.set()
            await asyncio.Event().wait()

        async def consume() -> None:
            async for _ in handler(service.payload()):
                pass

        task = asyncio.create_task(consume())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert service.feedback == FLOOR


def test_async_generators_when_run_as_tasks_then_each_has_its_own_rollout(service: Service) -> None:
    @rft_handler
    async def handler(payload: Any) -> Any:
        for _ in range(3):
            RFTContext.get_headers()
            await asyncio.sleep(0)
            context = RFTContext.current()
            yield context.trajectory_id if context else None
        yield {"reward": 1.0}

    async def consume(i: int) -> list[Any]:
        items = [item async for item in handler(service.payload(f"t{i}"))]
        assert RFTContext.current() is None
        return items

    async def main() -> list[list[Any]]:
        return await asyncio.gather(*(consume(i) for i in range(8)))

    assert asyncio.run(main()) == [[f"t{i}"] * 3 + [{"reward": 1.0}] for i in range(8)]


def test_generator_when_a_client_reports_between_two_items_then_nothing_is_reported_twice(service: Service) -> None:
    consumer_has_item, reported = threading.Event(), threading.Event()

    def judge(payload: Any) -> None:
        consumer_has_item.wait(10)
        RolloutFeedbackClient(payload).report_complete(1.0)
        reported.set()

    @rft_handler
    def handler(payload: Any) -> Any:
        RFTContext.get_headers()
        judging = threading.Thread(target=judge, args=(payload,))
        judging.start()
        yield "answer"
        judging.join()

    for _ in handler(service.payload()):
        consumer_has_item.set()
        reported.wait(10)
    assert service.feedback == DONE
