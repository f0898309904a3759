"""Production traffic over HTTP: payloads without rollout metadata, for which the handler is as if undecorated."""

import asyncio
import threading

import pytest

from aws_rft_sdk import rft_handler

from .web import WAIT, Gate, until, worker_of


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


async def coroutine(payload):
    return {"said": payload["prompt"]}


def generator(payload):
    yield "a"
    yield {"b": payload["prompt"]}


async def async_generator(payload):
    yield "a"
    yield {"b": payload["prompt"]}


def hands_out(payload):
    return async_generator(payload)


@pytest.mark.parametrize("fn", [coroutine, lambda payload: coroutine(payload)])
def test_production_when_the_handler_is_asynchronous_then_its_result_comes_back(fn):
    with worker_of(rft_handler(fn)) as worker:
        assert worker.post("/invocations", {"prompt": "hi"}).json() == {"said": "hi"}
        assert until(lambda: worker.pool.running == 0)


@pytest.mark.parametrize("fn", [generator, async_generator, hands_out])
def test_production_when_the_handler_generates_then_events_are_streamed(fn):
    with worker_of(rft_handler(fn), max_rollouts=1) as worker:
        for _ in range(3):
            answer = worker.post("/invocations", {"prompt": "hi"})
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.text == 'data: "a"\n\ndata: {"b": "hi"}\n\n'
            assert until(lambda: worker.pool.running == 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_production_when_the_generator_fails_in_the_middle_then_the_last_event_says_so(kind):
    def broken(payload):
        yield "a"
        raise ValueError("no")

    async def broken_async(payload):
        yield "a"
        raise ValueError("no")

    with worker_of(rft_handler(broken if kind == "sync" else broken_async)) as worker:
        text = worker.post("/invocations", {"prompt": "hi"}).text

    assert text.startswith('data: "a"\n\ndata: {"error": "no", "error_type": "ValueError"')


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_production_when_the_consumer_leaves_then_the_generator_is_closed_and_its_slot_free(kind):
    closed = threading.Event()

    def endless(payload):
        try:
            while True:
                yield "x" * 10_000
        finally:
            closed.set()

    async def endless_async(payload):
        try:
            while True:
                yield "x" * 10_000
                await asyncio.sleep(0)
        finally:
            closed.set()

    with worker_of(rft_handler(endless if kind == "sync" else endless_async), max_rollouts=1) as worker:
        answer = worker.post("/invocations", {"prompt": "hi"}, stream=True)
        next(answer.iter_content(10))
        answer.close()
        assert closed.wait(WAIT)
        assert until(lambda: worker.pool.free == 1)


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit("no"), KeyboardInterrupt("no"), asyncio.CancelledError("no")]
)
def test_production_when_the_handler_raises_then_500_says_what(error):
    def handler(payload):
        raise error

    with worker_of(rft_handler(handler)) as worker:
        answer = worker.post("/invocations", {"prompt": "hi"})
        assert worker.get("/ping").status_code == 200
        assert until(lambda: worker.pool.running == 0)

    assert (answer.status_code, answer.json()["errorMessage"]) == (500, f"{type(error).__name__}: no")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("streams", [False, True])
def test_production_when_an_asynchronous_handler_raises_what_ends_loops_then_the_caller_hears_of_it(error, streams):
    async def handler(payload):
        raise error

    async def streaming(payload):
        yield "a"
        raise error

    with worker_of(rft_handler(streaming if streams else handler)) as worker:
        answer = worker.post("/invocations", {"prompt": "hi"})
        assert until(lambda: worker.pool.free == 96)

    assert answer.status_code == (200 if streams else 500)
    assert error.__name__ in answer.text


def test_production_when_the_handler_hangs_then_504_and_its_slot_stays_taken(gate):
    with worker_of(rft_handler(gate), max_rollouts=2, deadline_seconds=0.2) as worker:
        assert worker.post("/invocations", {"prompt": "hi"}).status_code == 504
        assert worker.pool.free == 1
        assert worker.get("/health").json()["hung"] == 1
        gate.open.set()
        assert until(lambda: worker.pool.free == 2)
