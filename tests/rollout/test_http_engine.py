"""The HTTP engine: workers of this package and others, that refuse, hang, die and come back."""

import asyncio
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sysconfig
import threading
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path

import pytest
from fakes import refused_endpoint
from rollout.worlds import PROMPTS, policy, worker
from workers.web import serving

from aws_rft_sdk import LocalRuntime, rft_handler
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError, UnavailableError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.rollout import RolloutStatus, load_callable, run_rollouts
from aws_rft_sdk.rollout.engines import LocalEngine
from aws_rft_sdk.rollout.engines._gate import Gate
from aws_rft_sdk.rollout.engines.http import HttpEngine
from aws_rft_sdk.rollout.engines.remote import read_answer
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.types import InferenceParams
from aws_rft_sdk.workers.http import create_app

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
WAIT = 60


@contextmanager
def unused_port():
    """Give a port that nobody else gets and at which nothing listens until the body serves there."""
    with refused_endpoint() as url:
        yield int(url.rpartition(":")[2])


@contextmanager
def worker_process(world, name, port=0, **variables):
    """Serve a handler of the world as it is deployed: a process of its own. Yields the process and its URL."""
    command = [AWS_RFT, "worker", "http", f"{world}/engine_handlers.py:{name}", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        yield (
            process,
            next(found[0] for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line))),
        )
    finally:
        process.kill()
        process.communicate(timeout=WAIT)


async def exists(path):
    while not path.exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)


def run_one(main):
    """Run `main` with a local runtime and access to it."""

    async def entered():
        with LocalRuntime(policy) as runtime:
            return await main(runtime, access_in(runtime, InferenceParams()))

    return asyncio.run(entered())


def begin(engine, access, prompt="a"):
    payload = access.start(prompt)
    trajectory_id = payload["metadata"]["rolloutId"]
    return asyncio.ensure_future(engine.run(payload, trajectory_id)), trajectory_id


def test_http_when_no_reward_comes_then_the_rollout_is_unreported_at_its_deadline(world):
    async def main():
        with LocalRuntime(policy) as runtime, worker(lambda payload: None) as (url, _):
            access = access_in(runtime, InferenceParams())
            engine = HttpEngine(url, access.observe, deadline_seconds=0.5)
            return [r async for r in run_rollouts(engine, ["a"], access.start, observe=access.observe)]

    (record,) = asyncio.run(main())
    assert (record.status, record.reward) == (RolloutStatus.UNREPORTED, None)
    assert record.error == "RolloutTimeoutError: the rollout was not over after 0.5 s, its deadline"


def test_http_when_worker_is_busy_then_it_is_called_again_after_what_it_asks_for(world):
    async def main():
        handler = load_callable(f"{world}/engine_handlers.py:plain")
        with LocalRuntime(policy) as runtime, worker(handler, busy=4, retry_after="0.1") as (url, calls):
            access = access_in(runtime, InferenceParams())
            engine = HttpEngine(url, access.observe)
            records = [r async for r in run_rollouts(engine, PROMPTS, access.start, observe=access.observe)]
            return records, calls, len(runtime.trajectories())

    records, calls, trajectories = asyncio.run(main())
    assert {r.status for r in records} == {RolloutStatus.COMPLETED}
    assert (len(calls), trajectories) == (7, 3)
    assert {path for path, _ in calls} == {"/rollout"}


@pytest.mark.parametrize("path", ["/rollout", "/invocations"])
def test_http_when_the_answer_is_lost_then_the_reward_is_waited_for_in_the_runtime(world, path):
    """The worker may have begun, and nothing is run twice: the reward may be there already, or arrive later."""
    looked = threading.Event()
    plain = load_callable(f"{world}/engine_handlers.py:plain")

    def handler(payload):
        if path == "/rollout":
            looked.wait(30)
        return plain(payload)

    async def main():
        with LocalRuntime(policy) as runtime, worker(handler, hangs_up=True) as (url, _):
            access = access_in(runtime, InferenceParams())

            async def observe(trajectory_id):
                seen = await access.observe(trajectory_id)
                looked.set()
                return seen

            engine = HttpEngine(f"{url}{path}", observe)
            return [r async for r in run_rollouts(engine, ["a"], access.start, observe=observe, retries=1)]

    (record,) = asyncio.run(main())
    assert (record.status, record.reward, record.attempts) == (RolloutStatus.COMPLETED, 0.1, 1)


@pytest.mark.parametrize(("quiet_seconds", "status"), [(60.0, "completed"), (0.0, "unreported")])
def test_http_when_the_answer_is_lost_in_the_middle_then_it_is_waited_for_unless_nothing_happens(
    world, quiet_seconds, status
):
    """A proxy ends long calls. Without a turn nobody knows that a rollout runs, and it is waited for less long."""
    infer = load_callable(f"{world}/engine_handlers.py:infer")
    turned, looked, looks = threading.Event(), threading.Event(), []

    @rft_handler
    def handler(payload):
        infer(payload)
        turned.set()
        looked.wait(30)
        return 0.7

    async def main():
        with LocalRuntime(policy) as runtime, worker(handler, hangs_up=True) as (url, _):
            access = access_in(runtime, InferenceParams())

            async def observe(trajectory_id):
                await asyncio.to_thread(turned.wait, 30)
                looks.append(await access.observe(trajectory_id))
                if len(looks) == 3:
                    looked.set()
                return looks[-1]

            engine = HttpEngine(url, observe)
            engine.after_error_seconds, engine.quiet_seconds = 0.0, quiet_seconds
            try:
                return [r async for r in run_rollouts(engine, ["a"], access.start)]
            finally:
                looked.set()

    (record,) = asyncio.run(main())
    assert (record.status.value, record.turns) == (status, 1)


def test_http_when_a_header_cannot_be_sent_then_the_error_does_not_quote_it(world):
    async def main():
        with (
            LocalRuntime(policy) as runtime,
            worker(load_callable(f"{world}/engine_handlers.py:plain")) as (url, calls),
        ):
            access = access_in(runtime, InferenceParams())
            engine = HttpEngine(url, access.observe, headers={"Authorization": "Bearer secret\n"})
            return [r async for r in run_rollouts(engine, ["a"], access.start)], calls

    (record,), calls = asyncio.run(main())
    assert (record.status, calls) == (RolloutStatus.UNREPORTED, [])
    assert record.error.endswith("does not answer (LocalProtocolError)")


# --- workers that cannot be reached ----------------------------------------------------------------------------------


def test_http_when_nobody_answers_for_too_long_then_the_whole_run_is_told():
    async def main(runtime, access):
        with refused_endpoint() as url:
            async with HttpEngine(url, access.observe, unreachable_seconds=0.3) as engine:
                calls = [begin(engine, access)[0] for _ in range(3)]
                return await asyncio.gather(*calls, return_exceptions=True)

    errors = run_one(main)
    assert [type(error) for error in errors] == [UnavailableError] * 3
    assert "no call was answered for 0.3 s" in str(errors[0])


def test_http_when_nobody_answers_before_the_deadline_then_the_rollout_has_not_begun():
    async def main(runtime, access):
        with refused_endpoint() as url:
            async with HttpEngine(url, access.observe, deadline_seconds=1.0) as engine:
                return url, await begin(engine, access)[0]

    url, outcome = run_one(main)
    assert (outcome.status, outcome.failure) == (RolloutStatus.UNREPORTED, FailureKind.INFRASTRUCTURE)
    assert outcome.error.startswith(f"AgentUnreachableError: {url}/rollout does not answer")


def test_http_when_no_connection_is_made_before_the_deadline_then_the_rollout_has_not_begun():
    async def main(runtime, access):
        # Nobody takes connections from its queue, and once that is full, the system answers nothing.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            address = server.getsockname()
            fillers = [socket.socket() for _ in range(8)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            try:
                async with HttpEngine(f"http://127.0.0.1:{address[1]}", access.observe, deadline_seconds=1.0) as engine:
                    return await begin(engine, access)[0]
            finally:
                for filler in fillers:
                    filler.close()

    outcome = run_one(main)
    assert (outcome.status, outcome.failure) == (RolloutStatus.UNREPORTED, FailureKind.INFRASTRUCTURE)
    assert outcome.error.startswith("AgentUnreachableError")


def test_http_when_the_worker_comes_back_then_what_was_not_sent_is_sent_once(world):
    handler = load_callable(f"{world}/engine_handlers.py:plain")

    async def main(runtime, access):
        with unused_port() as port:
            async with HttpEngine(f"http://127.0.0.1:{port}", access.observe) as engine:
                rollouts = [begin(engine, access)[0] for _ in range(20)]
                await asyncio.wait(rollouts, timeout=0.5)
                assert not any(rollout.done() for rollout in rollouts)
                with worker(handler, port=port) as (_, calls):
                    outcomes = await asyncio.gather(*rollouts)
                return outcomes, [payload["metadata"]["rolloutId"] for _, payload in calls]

    outcomes, delivered = run_one(main)
    assert {(outcome.status, outcome.error) for outcome in outcomes} == {(RolloutStatus.COMPLETED, None)}
    assert len(delivered) == len(set(delivered)) == 20


@pytest.mark.parametrize("path", ["", "/invocations"])
def test_http_when_a_worker_is_killed_then_its_rollout_is_lost_soon_and_the_next_one_runs(world, path):
    async def main(runtime, access):
        with unused_port() as port:
            async with HttpEngine(f"http://127.0.0.1:{port}{path}", access.observe) as engine:
                engine.after_error_seconds = 1.0
                with worker_process(world, "waits", port) as (process, _):
                    killed, killed_id = begin(engine, access)
                    await exists(world / "started")
                    process.kill()
                    process.wait()
                (world / "release").touch()
                with worker_process(world, "waits", port):
                    lost, (repeated, _) = await killed, begin(engine, access)
                    return lost, await repeated, runtime.trajectory(killed_id).rewards

    lost, repeated, rewards = run_one(main)
    assert (lost.status, lost.failure, lost.lost) == (RolloutStatus.UNREPORTED, FailureKind.INFRASTRUCTURE, True)
    assert lost.seconds < 400  # its deadline is 540 s
    assert (repeated.status, repeated.rewards, rewards) == (RolloutStatus.COMPLETED, (1.0,), None)


def test_http_when_a_worker_is_stopped_for_good_then_the_whole_run_is_told(world):
    async def main(runtime, access):
        with worker_process(world, "waits") as (process, url):
            async with HttpEngine(url, access.observe, unreachable_seconds=1.0) as engine:
                engine.hold_seconds = engine.tell_seconds = 0.2
                rollout, _ = begin(engine, access)
                await exists(world / "started")
                process.send_signal(signal.SIGSTOP)
                return await asyncio.gather(rollout, begin(engine, access)[0], return_exceptions=True)

    errors = run_one(main)
    assert [type(error) for error in errors] == [UnavailableError] * 2


def test_http_when_the_connection_of_an_invocation_is_dead_then_the_end_is_learnt_in_another_way(world):
    """A proxy forgets a connection on which nothing moves, and tells neither side."""
    release = threading.Event()
    infer = load_callable(f"{world}/engine_handlers.py:infer")

    @rft_handler
    def handler(payload):
        infer(payload)
        assert release.wait(WAIT)
        return {"reward": 0.5, "metrics": {"a": 1}}

    app, over = create_app(handler), threading.Event()

    async def forgetful(scope, receive, send):
        async def lost(message):
            await asyncio.to_thread(over.wait, WAIT)

        if scope["type"] == "http" and scope["method"] == "GET":
            release.set()
        await app(scope, receive, lost if scope["type"] == "http" and scope["method"] == "POST" else send)

    async def main(runtime, access):
        with serving(forgetful) as front:
            async with HttpEngine(f"{front.url}/invocations", access.observe, unreachable_seconds=0.2) as engine:
                try:
                    return await begin(engine, access)[0]
                finally:
                    over.set()

    outcome = run_one(main)
    assert (outcome.status, outcome.rewards, outcome.metrics) == (RolloutStatus.COMPLETED, (0.5,), {"a": 1})


def test_http_when_a_worker_of_others_serves_one_call_at_a_time_then_it_is_not_taken_for_dead(world):
    handler = load_callable(f"{world}/engine_handlers.py:plain")
    pause = threading.Event()

    def slow(payload):
        pause.wait(1.0)
        return handler(payload)

    async def main(runtime, access):
        with worker(slow, server=HTTPServer) as (url, _):
            async with HttpEngine(f"{url}/invocations", access.observe, unreachable_seconds=0.2) as engine:
                engine.tell_seconds = 0.1
                return await asyncio.gather(*(begin(engine, access)[0] for _ in range(3)))

    assert {outcome.status for outcome in run_one(main)} == {RolloutStatus.COMPLETED}


def test_http_when_a_worker_is_stopped_for_a_while_then_nothing_is_lost(world):
    async def main(runtime, access):
        with worker_process(world, "waits") as (process, url):
            async with HttpEngine(url, access.observe) as engine:
                engine.hold_seconds = engine.tell_seconds = 0.2
                engine.after_error_seconds = 0.2
                rollout, _ = begin(engine, access)
                await exists(world / "started")
                process.send_signal(signal.SIGSTOP)
                await asyncio.wait([rollout], timeout=1.5)
                assert not rollout.done()
                process.send_signal(signal.SIGCONT)
                (world / "release").touch()
                return await rollout, len((world / "started").read_text().splitlines())

    outcome, runs = run_one(main)
    assert (outcome.status, outcome.rewards, runs) == (RolloutStatus.COMPLETED, (1.0,), 1)


def test_http_when_an_answer_is_lost_and_the_rollout_runs_past_its_deadline_then_it_is_late_and_not_lost(world):
    release = threading.Event()
    infer = load_callable(f"{world}/engine_handlers.py:infer")

    @rft_handler
    def handler(payload):
        infer(payload)
        release.wait(WAIT)
        return 0.5

    app = create_app(handler)

    async def rude(scope, receive, send):
        async def broken(message):
            raise ConnectionError("the proxy in between has failed")

        await app(scope, receive, broken if scope.get("method") == "POST" else send)

    async def main(runtime, access):
        with serving(rude) as front:
            async with HttpEngine(front.url, access.observe, deadline_seconds=2.0) as engine:
                engine.hold_seconds = 0.1
                try:
                    return await begin(engine, access)[0]
                finally:
                    release.set()

    outcome = run_one(main)
    assert (outcome.status, outcome.failure) == (RolloutStatus.UNREPORTED, FailureKind.TIMEOUT)
    assert outcome.error == "RolloutTimeoutError: the rollout was not over after 2 s, its deadline"


def test_http_when_two_processes_share_an_address_then_a_rollout_of_one_is_not_lost_at_the_other(world):
    begun, release = threading.Semaphore(0), threading.Event()
    infer = load_callable(f"{world}/engine_handlers.py:infer")

    @rft_handler
    def handler(payload):
        infer(payload)
        begun.release()
        assert release.wait(WAIT)
        return 0.5

    processes = [create_app(handler), create_app(handler)]
    turn, unknown = [0], [0]

    async def balanced(scope, receive, send):
        async def watched(message):
            unknown[0] += message.get("status") == 404
            if unknown[0] >= 6:
                release.set()
            await send(message)

        if scope["type"] == "http":
            turn[0] += 1
            await processes[turn[0] % 3 == 0](scope, receive, watched)
        else:
            await processes[0](scope, receive, send)

    async def main(runtime, access):
        with serving(balanced) as front:
            async with HttpEngine(front.url, access.observe) as engine:
                engine.hold_seconds = 0.1
                try:
                    return await asyncio.gather(*(begin(engine, access)[0] for _ in range(4)))
                finally:
                    release.set()

    outcomes = run_one(main)
    assert [(outcome.status, outcome.rewards) for outcome in outcomes] == [(RolloutStatus.COMPLETED, (0.5,))] * 4


# --- workers that misbehave ------------------------------------------------------------------------------------------


@contextmanager
def raw_worker(talk):
    """Serve connections with `talk(connection, stop)`, each in a thread. Yields the URL."""
    stop, threads = threading.Event(), []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    def serve(connection):
        with connection:
            connection.recv(65536)
            try:
                talk(connection, stop)
            except OSError:
                pass  # the caller has left

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()
        for thread in threads:
            thread.join()


def never(connection, stop):
    stop.wait(WAIT)


def drips(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not stop.wait(0.01):
        connection.sendall(b" ")


@pytest.mark.parametrize("talk", [never, drips])
def test_http_when_a_worker_accepts_and_does_not_answer_then_nobody_waits_for_the_deadline(talk):
    async def main(runtime, access):
        with raw_worker(talk) as url:
            async with HttpEngine(url, access.observe, unreachable_seconds=0.5) as engine:
                engine.tell_seconds = 0.2
                return await asyncio.gather(begin(engine, access)[0], return_exceptions=True)

    assert [type(error) for error in run_one(main)] == [UnavailableError]


def garbage(connection, stop):
    connection.sendall(b"\x00\xff no HTTP at all\r\n\r\n")


def nonsense(connection, stop):
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"status": "completed"}\n')


@pytest.mark.parametrize(
    ("talk", "error"), [(garbage, "does not answer"), (nonsense, "no longer knows|not over after")]
)
def test_http_when_the_answers_are_no_workers_then_the_rollout_is_unreported(talk, error):
    async def main(runtime, access):
        with raw_worker(talk) as url:
            async with HttpEngine(url, access.observe, deadline_seconds=1.0) as engine:
                return await begin(engine, access)[0]

    outcome = run_one(main)
    assert outcome.status is RolloutStatus.UNREPORTED
    assert re.search(error, outcome.error)


@pytest.mark.parametrize(
    ("status", "body", "failure", "lost"),
    [
        (None, {"errorType": "ValueError", "failure": "tool", "rewards": [0.0]}, "tool", False),
        (None, {"error": "boom"}, "agent", False),
        (500, {"errorType": "RewardError", "failure": "reward"}, "reward", False),
        (500, {"error": "ValueError: boom"}, "agent", False),
        (500, {"message": "Internal Server Error"}, None, False),
        (500, None, None, False),
        (502, {"message": "Bad Gateway"}, "infrastructure", True),
        (504, None, "infrastructure", True),
        (424, {"message": "the agent failed"}, "agent", False),
        (400, {"errorType": "ValidationError", "errorMessage": "no prompt"}, "agent", False),
        (401, {"errorType": "AccessDenied"}, "infrastructure", False),
        (404, None, "infrastructure", False),
        (None, {"reward": 1.0, "failure": ["no kind"]}, None, False),
        (None, {"reward": 1.0}, None, False),
    ],
)
def test_answer_when_an_agent_fails_then_its_kind_is_told(status, body, failure, lost):
    answer = read_answer(body, status)

    assert (None if answer.failure is None else answer.failure.value, answer.lost) == (failure, lost)
    assert (answer.error is None) == (body is not None and "reward" in body)


# --- the gate --------------------------------------------------------------------------------------------------------


def test_gate_when_calls_that_went_out_together_fail_then_they_count_as_one():
    now, delays = [100.0], []

    class Waits:
        def delay(self, attempt):
            delays.append(attempt)
            return 1.0

    gate = Gate("the worker", unreachable_seconds=10.0, backoff=Waits(), clock=lambda: now[0])
    for began in (100.0, 100.0, 101.0):
        now[0] = began + 0.5
        gate.failed(began, "refused")
    assert delays == [1]
    gate.failed(101.5, "refused")
    assert delays == [1, 2]


def test_gate_when_one_call_is_answered_then_the_time_begins_anew():
    now = [0.0]
    gate = Gate("the worker", unreachable_seconds=10.0, clock=lambda: now[0])
    for now[0] in (1.0, 9.0):
        gate.failed(0.0, "refused")
    gate.answered()
    now[0] = 18.0
    gate.failed(2.0, "refused")  # it went out before that answer
    now[0] = 19.0
    with pytest.raises(UnavailableError, match=r"does not answer \(refused\): no call was answered for 10 s"):
        gate.failed(18.5, "refused")


def test_gate_when_the_deadline_comes_before_it_opens_then_nothing_may_be_sent():
    gate = Gate("the worker")
    gate.busy(60.0)

    with pytest.raises(AgentUnreachableError, match="the worker was busy until the deadline"):
        asyncio.run(gate.wait(0.0, for_start=True))
    asyncio.run(gate.wait(0.0, for_start=False))


# --- workers of this package -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", ["plain", "by_turn", "fails_on_b", "scores_badly", "raises_within_a_tool"])
def test_http_when_the_worker_is_ours_then_records_are_those_of_the_local_engine(world, handler):
    """The worker of this package, as it is deployed: a process of its own."""
    with worker_process(world, handler) as (_, url), LocalRuntime(policy) as runtime:
        access = access_in(runtime, InferenceParams())

        async def records(engine):
            attempts = run_rollouts(engine, PROMPTS, access.start, observe=access.observe, group_size=2)
            found = [dataclasses.replace(r, trajectory_id="", seconds=0.0) async for r in attempts]
            # Only the first record of each kind of error keeps its traceback, whichever ends first.
            raised = [line for r in found for line in (r.traceback or "").splitlines()[-1:]]
            bare = [dataclasses.replace(r, traceback=None) for r in found]
            return sorted(bare, key=lambda record: record.key), raised

        here = asyncio.run(records(LocalEngine(load_callable(f"{world}/engine_handlers.py:{handler}"))))
        invoked = asyncio.run(records(HttpEngine(f"{url}/invocations", access.observe)))
        accepted = asyncio.run(records(HttpEngine(url, access.observe)))

    assert invoked == here
    assert accepted == here


def test_http_when_the_worker_is_ours_then_the_runtime_need_not_be_asked(world):
    handler = load_callable(f"{world}/engine_handlers.py:fails_on_b")

    async def main(runtime, access):
        with serving(create_app(handler)) as served:
            engine = HttpEngine(served.url, None)
            return [r async for r in run_rollouts(engine, PROMPTS, access.start)]

    records = sorted(run_one(main), key=lambda record: record.key)
    assert [(r.reward, r.status.value, r.turns) for r in records] == [
        (1.0, "completed", 1),
        (0.0, "failed", 1),
        (1.0, "completed", 1),
    ]
    assert records[1].error == "LookupError: b is not for us"


def test_http_when_neither_worker_nor_runtime_tells_then_the_engine_does_not_start():
    async def main(runtime, access):
        with worker(lambda payload: 1.0) as (url, _):
            async with HttpEngine(url, None):
                pass

    with pytest.raises(ConfigurationError, match="neither worker nor runtime tells"):
        run_one(main)


def test_http_when_the_url_is_none_then_it_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="not the URL of a worker"):
        HttpEngine("ftp://host", None)
