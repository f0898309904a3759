"""A rollout that is cancelled while it arrives is reported; a process that its handler forks reports nothing."""

import asyncio
import os
import threading

import pytest
from fakes import ONCE
from services import REWARD, SEAL, TokenlessService, Trouble

from aws_rft_sdk import RolloutFeedbackClient, rft_handler
from aws_rft_sdk.errors import ServiceFaultError
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.feedback.redrive import stop_in_background


@pytest.fixture
def service():
    with TokenlessService().serving() as service:
        yield service


@pytest.fixture
def outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    yield outbox
    stop_in_background(outbox)
    outbox.close()


@pytest.mark.parametrize("kind", ["coroutine", "async-generator"])
def test_rollout_when_cancelled_while_its_arrival_is_written_then_it_is_reported(service, outbox, kind):
    writing, go_on = threading.Event(), threading.Event()
    receive = outbox.receive
    runs = []

    def slow_receive(*args):
        writing.set()
        go_on.wait(30)
        return receive(*args)

    outbox.receive = slow_receive

    async def coroutine(payload):
        runs.append(payload)

    async def generator(payload):
        runs.append(payload)
        yield 1.0

    decorate = rft_handler(require_turns=False, outbox=outbox, floor_reward=-1.0)

    async def consume():
        async for _ in decorate(generator)(service.payload()):
            pass

    async def main():
        task = asyncio.ensure_future(decorate(coroutine)(service.payload()) if kind == "coroutine" else consume())
        await asyncio.to_thread(writing.wait, 30)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert runs == []
    assert service.trajectories["t-1"].rewards == [-1.0]
    assert outbox.ledger() == (1, 1, 0, 0, 0)


def test_rollout_when_cancelled_while_its_arrival_fails_then_nothing_is_reported(service, outbox):
    writing, go_on = threading.Event(), threading.Event()

    def broken_receive(*args):
        writing.set()
        go_on.wait(30)
        raise OSError("no space left")

    outbox.receive = broken_receive

    @rft_handler(require_turns=False, outbox=outbox)
    async def handler(payload):
        raise AssertionError("it must not run")

    async def main():
        task = asyncio.ensure_future(handler(service.payload()))
        await asyncio.to_thread(writing.wait, 30)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert service.calls == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("outcome", ["returns", "raises"])
@pytest.mark.parametrize("with_outbox", [True, False], ids=["outbox", "no-outbox"])
def test_handler_when_it_forks_then_the_child_reports_nothing(service, outbox, outcome, with_outbox, caplog):
    parent = os.getpid()

    @rft_handler(require_turns=False, **({"outbox": outbox} if with_outbox else {}))
    def handler(payload):
        child = os.fork()
        if child == 0:
            if outcome == "raises":
                raise LookupError
            return 0.0
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return 1.0

    result = None
    try:
        result = handler(service.payload())
    except LookupError:
        result = "raised"
    finally:
        if os.getpid() != parent:  # the child comes here, past the handler
            expected = {"returns": 0.0, "raises": "raised"}[outcome]
            os._exit(0 if result == expected and "not reported" in caplog.text else 1)

    assert service.kinds() == [SEAL, REWARD]
    assert service.trajectories["t-1"].rewards == [1.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_rollout_when_it_begins_in_a_forked_process_then_that_process_reports_it(service):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            rft_handler(require_turns=False)(lambda payload: 0.5)(service.payload())
            code = 0
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert service.trajectories["t-1"].rewards == [0.5]


def test_handler_when_a_client_in_it_left_a_decision_undelivered_then_that_one_is_delivered(service):
    service.script(REWARD, Trouble(status=503, applied=True))

    @rft_handler(require_turns=False)
    def handler(payload):
        try:
            RolloutFeedbackClient(payload, backoff=ONCE).report_complete(1.0)
        except ServiceFaultError:
            return 0.25  # another reward, which must not replace the one that may have arrived
        raise AssertionError("it failed")

    handler(service.payload())

    assert service.trajectories["t-1"].rewards == [1.0]
    assert service.trajectories["t-1"].applied == [SEAL, REWARD]
