"""Coroutine handlers and the event loop: it is never blocked, and a cancellation never drops a reward half-way."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import ONCE, Answer, Recorded, Service, error

from aws_rft_sdk import AsyncRolloutFeedbackClient, Outbox, RFTContext, RolloutFeedbackClient, rft_handler
from aws_rft_sdk.errors import ServiceFaultError, TrajectoryNotFoundError
from aws_rft_sdk.failures import chain_of
from aws_rft_sdk.feedback.redrive import stop_in_background

DONE = [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]
FLOOR = [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]


async def coroutine(payload: Any) -> Any:
    RFTContext.get_headers()
    return {"reward": 1.0}


async def stream(payload: Any) -> Any:
    RFTContext.get_headers()
    yield {"reward": 1.0}


async def raising(payload: Any) -> Any:
    raise KeyError("mine")


async def run(fn: Callable[..., Any], payload: Any, **options: Any) -> Any:
    result = rft_handler(**options)(fn)(payload)
    if inspect.isasyncgen(result):
        return [item async for item in result]
    return await result


class Held:
    """A server that holds feedback back and tells the loop when it has arrived."""

    def __init__(self, service: Service) -> None:
        self.arrived = asyncio.Event()
        self.gate = service.gate()
        loop = asyncio.get_running_loop()

        def policy(request: Recorded) -> Answer:
            loop.call_soon_threadsafe(self.arrived.set)
            return Answer(gate=self.gate)

        service.policy = policy


@pytest.mark.parametrize("fn", [coroutine, stream, raising], ids=lambda fn: fn.__name__)
def test_feedback_when_the_server_is_slow_then_the_loop_goes_on(fn: Any, service: Service) -> None:
    async def main() -> None:
        held = Held(service)
        task = asyncio.create_task(run(fn, service.payload()))
        # A loop that is blocked by feedback would never get here, and the server would never answer.
        await held.arrived.wait()
        held.gate.set()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert service.feedback == (FLOOR if fn is raising else DONE)


@pytest.mark.parametrize("fn", [coroutine, stream], ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("times", [1, 3])
def test_feedback_when_the_task_is_cancelled_meanwhile_then_the_reward_arrives_and_it_is_cancelled(
    fn: Any, times: int, service: Service
) -> None:
    async def main() -> None:
        held = Held(service)
        task = asyncio.create_task(run(fn, service.payload()))
        await held.arrived.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        held.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert service.feedback == DONE


def test_feedback_when_it_fails_and_the_task_is_cancelled_then_both_are_visible(service: Service) -> None:
    async def main() -> None:
        held = Held(service)
        task = asyncio.create_task(run(coroutine, service.payload()))
        await held.arrived.wait()
        service.policy = lambda request: error(404)
        task.cancel()
        await asyncio.sleep(0)
        held.gate.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        # Python 3.10 hands out a new CancelledError, which has the one that was raised as its context.
        assert any(isinstance(error, TrajectoryNotFoundError) for error in chain_of(caught.value))

    asyncio.run(main())


def test_cancellation_when_the_handler_runs_then_the_floor_is_reported_and_it_goes_on(service: Service) -> None:
    async def main() -> None:
        started = asyncio.Event()

        @rft_handler
        async def handler(payload: Any) -> None:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(handler(service.payload()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert service.feedback == FLOOR


def test_cancellation_when_reporting_fails_too_then_it_stands_in_the_context(service: Service) -> None:
    service.policy = lambda request: error(500)

    @rft_handler(client=lambda request: RolloutFeedbackClient(request, backoff=ONCE))
    async def handler(payload: Any) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError) as caught:
            await handler(service.payload())
        assert isinstance(caught.value.__context__, ServiceFaultError)

    asyncio.run(main())


def test_timeout_when_it_strikes_the_handler_then_the_floor_is_reported(service: Service) -> None:
    @rft_handler
    async def handler(payload: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(handler(service.payload()), 0.01)

    asyncio.run(main())
    assert service.feedback == FLOOR


def test_feedback_when_many_rollouts_end_at_once_then_all_arrive(service: Service) -> None:
    # Far more than the threads for feedback.
    async def main() -> None:
        await asyncio.gather(*(run(coroutine, service.payload(f"t{i}")) for i in range(150)))

    asyncio.run(main())
    assert {r.json["TrajectoryId"] for r in service.of("/UpdateReward")} == {f"t{i}" for i in range(150)}
    assert len(service.feedback) == 300


def test_two_deliveries_when_they_overlap_then_the_reward_is_reported_once(service: Service) -> None:
    async def main() -> None:
        both, second_done = asyncio.Event(), asyncio.Event()
        running = []

        @rft_handler
        async def handler(payload: Any) -> Any:
            RFTContext.get_headers()
            running.append(payload)
            if len(running) == 2:
                both.set()
                return {"reward": 1.0}
            await both.wait()
            await second_done.wait()
            return {"reward": 1.0}

        first = asyncio.create_task(handler(service.payload()))
        await asyncio.sleep(0)
        await handler(service.payload())
        second_done.set()
        await first

    asyncio.run(main())
    assert service.feedback == DONE


def test_feedback_when_it_runs_in_its_thread_then_the_rollout_is_current_there(service: Service) -> None:
    seen: list[Any] = []

    class Client(RolloutFeedbackClient):
        def report_complete(self, reward_or_list: Any) -> None:
            seen.append((RFTContext.current(), threading.current_thread()))
            super().report_complete(reward_or_list)

    asyncio.run(run(coroutine, service.payload(), client=lambda request: Client(request)))
    ((context, thread),) = seen
    assert context is not None
    assert thread is not threading.main_thread()


class AsyncSubclass(AsyncRolloutFeedbackClient):
    """Not the class itself, so its coroutines run in the loop of the handler."""


class CancelledAt:
    """A coroutine whose task is cancelled at its n-th suspension, whatever it waits for there."""

    def __init__(self, work: Any, suspension: int) -> None:
        self._work = work
        self._suspension = suspension
        self.suspensions = 0

    def __await__(self) -> Any:
        steps = self._work.__await__()
        step = functools.partial(steps.send, None)
        while True:
            try:
                waiting = step()
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions == self._suspension:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                step = functools.partial(steps.send, (yield waiting))
            except BaseException as error:
                step = functools.partial(steps.throw, error)


async def pausing(payload: Any) -> Any:
    RFTContext.get_headers()
    await asyncio.sleep(0)
    return {"reward": 1.0}


async def pausing_stream(payload: Any) -> Any:
    RFTContext.get_headers()
    yield "first"
    await asyncio.sleep(0)
    yield {"reward": 1.0}


async def pausing_and_raising(payload: Any) -> Any:
    await asyncio.sleep(0)
    raise KeyError("mine")


@pytest.mark.parametrize("with_outbox", [False, True], ids=["direct", "outbox"])
@pytest.mark.parametrize("client", [None, AsyncSubclass], ids=["client", "async-client"])
@pytest.mark.parametrize("fn", [pausing, pausing_stream, pausing_and_raising], ids=lambda fn: fn.__name__)
def test_task_when_it_is_cancelled_at_any_point_then_there_is_exactly_one_report(
    fn: Any, client: Any, with_outbox: bool, service: Service, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path / "outbox.db") if with_outbox else None
    reached = True
    suspension = 0
    while reached:
        suspension += 1
        service.reset()
        payload = service.payload(f"t{suspension}")
        work = CancelledAt(run(fn, payload, client=client, outbox=outbox), suspension)

        async def main(work: CancelledAt = work) -> None:
            await work

        with contextlib.suppress(asyncio.CancelledError, KeyError):
            asyncio.run(main())
        assert service.feedback in (DONE, FLOOR), suspension
        reached = work.suspensions >= suspension
    assert suspension > 2 + with_outbox
    assert service.feedback == (FLOOR if fn is pausing_and_raising else DONE)
    if outbox is not None:
        assert outbox.ledger()[:2] == (suspension, suspension)
        stop_in_background(outbox)
        outbox.close()


def test_task_when_it_is_cancelled_while_a_second_delivery_arrives_then_the_first_decision_stands(
    service: Service, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    asyncio.run(run(pausing, service.payload(), outbox=outbox))

    async def main() -> None:
        await CancelledAt(run(pausing, service.payload(), outbox=outbox), 1)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert service.feedback == DONE
    assert outbox.ledger()[:2] == (1, 1)
    stop_in_background(outbox)
    outbox.close()
