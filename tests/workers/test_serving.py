"""The worker as a process: it serves, drains when it is told to end, and loses nothing when it is killed."""

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import requests
import uvicorn

from aws_rft_sdk import LocalRuntime, rft_handler
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.runtime import Fault, Faults
from aws_rft_sdk.types import TrajectoryStatus
from aws_rft_sdk.workers.command import _Server, serve
from aws_rft_sdk.workers.http import create_app

from .web import WAIT, Gate, until

AWS_RFT = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()"]
HANDLER = """
import requests
from aws_rft_sdk import RFTContext, rft_handler
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.client import RolloutFeedbackClient

def client(request):
    return RolloutFeedbackClient(request, backoff=Backoff(base_seconds=0.01), max_seconds=2.0)

@rft_handler(client=client)
def handler(payload):
    requests.post(
        payload["metadata"]["endpoint"] + "/v1/chat/completions",
        headers=RFTContext.get_headers(),
        json={"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]},
        timeout=60,
    ).raise_for_status()
    return 1.0
"""


class Policy:
    """Answers once it is let go, and tells when it was asked."""

    def __init__(self):
        self.asked = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, request):
        self.asked.release()
        assert self.open.wait(WAIT)
        return "4"


@pytest.fixture
def policy():
    policy = Policy()
    yield policy
    policy.open.set()


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def runtime(policy):
    with LocalRuntime(policy) as runtime:
        yield runtime
        policy.open.set()


class Process:
    """`aws-rft worker http` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        (folder / "agent.py").write_text(textwrap.dedent(HANDLER))
        command = [*AWS_RFT, "worker", "http", str(folder / "agent.py:handler")]
        self.log = (folder / "worker.log").open("a+")
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--host", "127.0.0.1", *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **variables},
        )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=lambda: lines.put(self.process.stdout.readline()), daemon=True).start()
        match = re.search(r"http://\S+", lines.get(timeout=WAIT))
        assert match, self.told()
        self.url = match[0]

    def told(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def post(self, payload, path="/rollout", **options):
        return requests.post(self.url + path, json=payload, timeout=WAIT, **options)

    def get(self, path):
        return requests.get(self.url + path, timeout=WAIT)

    def end(self, number=signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(WAIT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT)
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(*arguments, **variables):
        processes.append(Process(tmp_path, *arguments, **variables))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def rewards(runtime):
    return [trajectory.rewards for trajectory in runtime.trajectories()]


def wait_for(policy, count):
    for _ in range(count):
        assert policy.asked.acquire(timeout=WAIT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_when_told_to_end_at_capacity_then_what_runs_may_finish(start, runtime, policy, number):
    worker = start("--max-rollouts", "3", "--grace-seconds", "60")
    for _ in range(3):
        assert worker.post(runtime.new_rollout("2 + 2?")).status_code == 202
    wait_for(policy, 3)
    assert worker.post(late := runtime.new_rollout("late")).status_code == 429

    worker.end(number)
    assert until(lambda: worker.get("/health").status_code == 503)
    assert worker.post(late).status_code == 503
    assert worker.get("/ping").json()["status"] == "HealthyBusy"
    policy.open.set()

    assert worker.wait() == 0, worker.told()
    assert rewards(runtime) == [(1.0,)] * 3 + [None]


def test_worker_when_rollouts_outlast_the_grace_period_then_they_are_reported(start, runtime, policy):
    worker = start("--grace-seconds", "1")
    for _ in range(5):
        worker.post(runtime.new_rollout("p"))
    wait_for(policy, 5)
    worker.end()

    assert worker.wait() == 0, worker.told()
    assert rewards(runtime) == [(0.0,)] * 5


def test_worker_when_a_caller_waits_for_the_outcome_then_it_is_answered_before_the_end(start, runtime, policy):
    worker = start("--grace-seconds", "2")
    answers = []
    payload = runtime.new_rollout("p")
    caller = threading.Thread(target=lambda: answers.append(worker.post(payload, "/invocations")))
    caller.start()
    wait_for(policy, 1)
    worker.end()
    caller.join(WAIT)

    assert worker.wait() == 0, worker.told()
    assert [(answer.status_code, answer.json()["errorType"]) for answer in answers] == [(200, "GivenUpError")]


def test_worker_when_told_to_end_twice_then_it_ends_at_once(start, runtime, policy):
    worker = start("--grace-seconds", "600")
    worker.post(runtime.new_rollout("p"))
    wait_for(policy, 1)
    worker.end()
    assert until(lambda: worker.get("/health").status_code == 503)
    worker.end()

    assert worker.wait() == -signal.SIGTERM
    assert rewards(runtime) == [None]


def test_worker_when_killed_then_the_next_one_over_the_outbox_delivers(start, tmp_path, policy):
    policy.open.set()
    outbox = tmp_path / "outbox.db"
    faults = Faults(Fault("status", status=503, route="feedback", attempts=(1, 2)))
    with LocalRuntime(policy, faults=faults) as runtime:
        first = start("--outbox", str(outbox))
        payloads = [runtime.new_rollout("p") for _ in range(5)]
        for payload in payloads:
            first.post(payload)
        box = Outbox(outbox)
        assert until(lambda: outbox.is_file() and sum(entry.rewards is not None for entry in box.entries()) == 5)
        first.end(signal.SIGKILL)
        first.wait()
        box.make_all_due()  # by itself, each is due 30 s after the first worker's last step

        second = start("--outbox", str(outbox))
        assert until(lambda: rewards(runtime) == [(1.0,)] * 5)
        # The platform delivers again what it saw no end of.
        assert second.post(payloads[0], "/invocations").json() == {"reward": 1.0}
        second.end()
        assert second.wait() == 0
        assert all(len(trajectory.turns) == 1 for trajectory in runtime.trajectories())
        assert box.ledger().rewarded == 5
        box.close()


def test_worker_when_it_ends_then_the_outbox_is_flushed(start, tmp_path, policy):
    policy.open.set()
    # The first delivery of each fails, and the next attempt is not due for a second.
    faults = Faults(Fault("status", status=503, route="complete", attempts=(1, 2)))
    with LocalRuntime(policy, faults=faults) as runtime:
        worker = start("--outbox", str(tmp_path / "outbox.db"), "--grace-seconds", "30")
        answers = [worker.post(runtime.new_rollout("p"), "/invocations") for _ in range(3)]
        worker.end()

        assert worker.wait() == 0
        assert [answer.json() for answer in answers] == [1.0] * 3
        assert {trajectory.status for trajectory in runtime.trajectories()} == {TrajectoryStatus.REWARD_RECEIVED}


def test_worker_when_a_key_is_in_the_environment_then_it_is_demanded_and_never_shown(start, runtime, policy):
    policy.open.set()
    worker = start(RFT_WORKER_KEY="s3cret-key")
    payload = runtime.new_rollout("p")

    assert worker.post(payload).status_code == 401
    assert worker.post(payload, headers={"Authorization": "Bearer s3cret-key"}).status_code == 202
    worker.end()
    assert worker.wait() == 0
    assert "s3cret" not in worker.told()


def test_worker_when_its_outbox_cannot_be_written_then_it_does_not_start(tmp_path):
    (tmp_path / "agent.py").write_text(HANDLER)
    (tmp_path / "no-database").write_bytes(b"no database" * 100)
    for outbox, says in ((tmp_path / "no-folder" / "outbox.db", "No such file"), (tmp_path / "no-database", "not a")):
        done = subprocess.run(
            [*AWS_RFT, "worker", "http", f"{tmp_path}/agent.py:handler", "--port=0", f"--outbox={outbox}"],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == 1
        assert "OutboxError" in done.stderr
        assert says in done.stderr


def test_worker_when_the_port_is_taken_then_it_says_so(tmp_path):
    (tmp_path / "agent.py").write_text(HANDLER)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [
                *AWS_RFT,
                "worker",
                "http",
                f"{tmp_path}/agent.py:handler",
                "--host=127.0.0.1",
                f"--port={taken.getsockname()[1]}",
            ],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )

    assert done.returncode == 3
    assert "cannot be used: Address already in use" in done.stderr


@pytest.mark.parametrize("options", [{"grace_seconds": 0}, {"host": "no such host"}])
def test_serve_when_an_argument_makes_no_sense_then_it_is_refused(options):
    with pytest.raises(ConfigurationError):
        serve(create_app(print), **options)


def test_serve_when_not_in_the_main_thread_then_it_says_so():
    errors = []

    def run():
        try:
            serve(create_app(print))
        except ConfigurationError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(WAIT)
    assert "main thread" in errors[0]


def test_server_when_no_request_arrives_on_a_connection_then_it_is_closed_and_no_other(runtime, gate):
    app = create_app(rft_handler(gate, require_turns=False), grace_seconds=5)
    told = queue.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]
        config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_keep_alive=WAIT)
        server = _Server(config, app.state.pool, 5.0, lambda: told.put("ready"), head_seconds=1.0)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert told.get(timeout=WAIT)

        def connect(data):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WAIT))
            peer.sendall(data)
            return peer

        head = "POST /invocations HTTP/1.1\r\nHost: x\r\n"
        body = json.dumps(runtime.new_rollout("p"))
        busy = connect(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        gate.wait_for(1)
        quiet = [connect(b""), connect(head.encode()), connect(f"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n{head}".encode())]
        for peer in quiet:
            while peer.recv(65536):
                pass  # until it is closed
        gate.open.set()
        assert b'"reward"' in b"".join(iter(lambda: busy.recv(65536), b""))
        server.should_exit = True
        thread.join(WAIT)


def test_server_when_a_connection_is_in_use_then_it_is_not_closed_between_two_requests(runtime):
    app = create_app(rft_handler(lambda payload: 1.0, require_turns=False))
    server = _Server(uvicorn.Config(app, log_config=None), app.state.pool, 5.0, lambda: None, head_seconds=1.0)
    connection = FakeConnection()
    server.server_state.connections.add(connection)
    for second in range(10):
        connection.cycle = FakeCycle()
        server._close_quiet(float(second))
    assert not connection.closed

    server._close_quiet(20.0)
    assert connection.closed


class FakeCycle:
    """A request that was answered."""

    response_complete = True


class FakeConnection:
    """What uvicorn's protocols are to their server, with its transport."""

    def __init__(self):
        self.cycle = None
        self.closed = False
        self.transport = self

    def close(self):
        self.closed = True
