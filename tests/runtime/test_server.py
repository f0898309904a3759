"""Life cycle, durability, and the database file."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
import requests

from aws_rft_sdk.errors import ConfigurationError, TrajectoryNotFoundError, UnavailableError
from aws_rft_sdk.runtime import LocalRuntime, ReplayPolicy, read_trajectories
from aws_rft_sdk.runtime.store import Store
from aws_rft_sdk.types import TrajectoryStatus

from .conftest import echo

SERVER = """
import json, sys, threading
from aws_rft_sdk.runtime import LocalRuntime
runtime = LocalRuntime(lambda request: "answer", db=sys.argv[1], auth="none")
def announce():
    print(json.dumps([runtime.endpoint, [runtime.new_rollout(f"p{n}") for n in range(8)]]), flush=True)
runtime.serve_forever(announce)
print("stopped cleanly", flush=True)
"""


def _serve(path):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    endpoint, payloads = json.loads(process.stdout.readline())
    return process, endpoint, payloads


class _Remote:
    def __init__(self, endpoint):
        self.endpoint = endpoint


def test_process_when_killed_then_every_answer_is_in_the_file_and_the_work_goes_on(tmp_path, open_wire):
    path = tmp_path / "runtime.db"
    process, endpoint, payloads = _serve(path)
    answered = {payload["metadata"]["rolloutId"]: 0 for payload in payloads}
    enough = threading.Event()

    def play(payload):
        wire = open_wire(_Remote(endpoint))
        for turn in range(10_000):
            try:
                if wire.chat(payload, f"turn {turn}", span=f"s{turn}").status_code != 200:
                    return
            except OSError:
                return
            answered[payload["metadata"]["rolloutId"]] += 1
            if turn == 20:
                enough.set()

    sealed = payloads.pop()
    wire = open_wire(_Remote(endpoint))
    wire.chat(sealed, span="s")
    assert wire.complete(sealed, ClientToken="c").status_code == 200
    assert wire.reward(sealed, ClientToken="r").status_code == 200
    threads = [threading.Thread(target=play, args=(payload,)) for payload in payloads]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    process.kill()
    process.wait(30)
    process.stdout.close()
    for thread in threads:
        thread.join(30)

    with LocalRuntime(echo, db=path, auth="none") as runtime:
        again = open_wire(runtime)
        for payload in payloads:
            trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])
            count = answered[trajectory.trajectory_id]
            assert [turn.index for turn in trajectory.turns] == list(range(len(trajectory.turns)))
            # One more may be durable whose answer did not come through.
            assert count <= len(trajectory.turns) <= count + 1
            assert [turn.span_id for turn in trajectory.turns] == [f"s{n}" for n in range(len(trajectory.turns))]
            repeated = again.chat(payload, "turn 0", span="s0").json()
            assert repeated["choices"][0]["message"]["content"] == "answer"
            assert again.chat(payload, "new", span="new").json()["choices"][0]["message"]["content"] == "NEW"
        assert runtime.trajectory(sealed["metadata"]["rolloutId"]).rewards == (1.0,)
        assert again.complete(sealed, ClientToken="c").status_code == 200
        assert again.reward(sealed, ClientToken="r").status_code == 200
        assert again.reward(sealed, ClientToken="other").status_code == 409
        assert len(runtime.trajectories()) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_when_signalled_then_it_stops_cleanly(tmp_path, number):
    process, _, _ = _serve(tmp_path / "runtime.db")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "stopped cleanly\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["runtime.db", "runtime.db.lock"]


def test_runtime_when_stopped_then_still_readable_and_the_port_is_free(tmp_path, open_wire):
    for db in (":memory:", tmp_path / "a.db"):
        runtime = LocalRuntime(echo, db=db)
        runtime.stop()
        with runtime:
            payload = runtime.new_rollout("p")
            open_wire(runtime).chat(payload)
            port = int(runtime.endpoint.rsplit(":", 1)[1])
            with pytest.raises(RuntimeError, match="running"):
                runtime.start()
        runtime.stop()
        assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 1
        assert len(runtime.trajectories()) == 1
        assert runtime.problems()[0].kind == "open"
        with pytest.raises(RuntimeError, match="stopped"):
            runtime.start()
        with pytest.raises(RuntimeError, match="stopped"):
            runtime.new_rollout("p")
        with LocalRuntime(port=port) as other:
            assert other.endpoint.endswith(f":{port}")


def test_runtime_when_not_started_then_it_says_so():
    runtime = LocalRuntime()
    for use in (lambda: runtime.endpoint, lambda: runtime.new_rollout("p"), runtime.trajectories, runtime.reset):
        with pytest.raises(RuntimeError, match="not started"):
            use()
    assert runtime.untracked_calls == 0


def test_runtime_when_the_port_is_taken_then_an_error_names_it_and_it_can_be_tried_again(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        runtime = LocalRuntime(db=tmp_path / "a.db", port=port)
        with pytest.raises(UnavailableError, match=f"port {port}"):
            runtime.start()
    with runtime:
        assert runtime.endpoint.endswith(f":{port}")


@pytest.mark.parametrize("arguments", [{"auth": "basic"}, {"port": -1}, {"port": 70_000}, {"policy": 5}])
def test_runtime_when_an_argument_is_impossible_then_an_error(arguments):
    with pytest.raises(ConfigurationError):
        LocalRuntime(**arguments)


def test_runtime_when_the_body_raises_then_it_is_stopped():
    runtime = LocalRuntime()
    with pytest.raises(ZeroDivisionError), runtime:
        _ = 1 / 0
    with pytest.raises(RuntimeError, match="stopped"):
        runtime.start()


def test_runtime_when_served_in_a_thread_then_stop_ends_it():
    runtime = LocalRuntime(echo).start()
    thread = threading.Thread(target=runtime.serve_forever)
    thread.start()
    runtime.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_runtime_when_stopped_during_a_call_then_the_call_is_finished(open_wire):
    begun, release, answers = threading.Event(), threading.Event(), []

    def slow(request):
        begun.set()
        assert release.wait(30)
        return "finished"

    runtime = LocalRuntime(slow).start()
    wire, payload = open_wire(runtime), runtime.new_rollout("p")
    call = threading.Thread(target=lambda: answers.append(wire.chat(payload).status_code))
    call.start()
    assert begun.wait(30)
    stop = threading.Thread(target=runtime.stop)
    stop.start()
    release.set()
    stop.join(30)
    call.join(30)
    assert answers == [200]
    assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 1


def test_runtime_when_a_policy_hangs_then_stop_gives_up_on_it(open_wire, monkeypatch, caplog):
    monkeypatch.setattr("aws_rft_sdk.runtime.server.DRAIN_SECONDS", 0)
    begun, release, answers = threading.Event(), threading.Event(), []

    def hang(request):
        begun.set()
        release.wait(30)
        return "too late"

    runtime = LocalRuntime(hang).start()
    wire, payload = open_wire(runtime), runtime.new_rollout("p")
    call = threading.Thread(target=lambda: answers.append(wire.chat(payload, span="s").status_code))
    call.start()
    assert begun.wait(30)
    runtime.stop()
    release.set()
    call.join(30)
    assert answers == [500]
    assert "Traceback" not in caplog.text
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns == ()


def test_file_when_another_runtime_has_it_then_refused_and_readable(tmp_path, open_wire):
    path = tmp_path / "a #?.db"
    with LocalRuntime(echo, db=path) as runtime:
        open_wire(runtime).chat(runtime.new_rollout("p"))
        with pytest.raises(ConfigurationError, match="in use"):
            LocalRuntime(db=path).start()
        assert len(read_trajectories(path)[0].turns) == 1
    with LocalRuntime(db=str(path)) as runtime:
        assert runtime.trajectories()[0].status is TrajectoryStatus.PENDING


def test_file_when_newer_foreign_or_no_database_then_refused(tmp_path):
    newer, foreign, text = tmp_path / "newer.db", tmp_path / "foreign.db", tmp_path / "text.db"
    with LocalRuntime(db=newer):
        pass
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE t (a)")
    text.write_text("no database at all, " * 100)
    for path, match in ((newer, "newer version"), (foreign, "not a database of"), (text, "cannot be used")):
        with pytest.raises(ConfigurationError, match=match):
            LocalRuntime(db=path).start()
        with pytest.raises(ConfigurationError):
            read_trajectories(path)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        LocalRuntime(db=tmp_path / "no" / "folder.db").start()
    with pytest.raises(ConfigurationError, match="no database file"):
        read_trajectories(tmp_path / "missing.db")


def test_file_when_it_cannot_be_written_then_500_and_no_answer(tmp_path, open_wire, monkeypatch):
    path = tmp_path / "a.db"
    with LocalRuntime(echo, db=path) as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        real = Store._commit

        def full(self, rows):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(Store, "_commit", full)
        answer = wire.chat(payload)
        assert answer.status_code == 500
        assert "disk is full" in answer.json()["Message"]
        monkeypatch.setattr(Store, "_commit", real)
        # Memory and file no longer agree, so nothing is accepted any more, and it is said.
        assert wire.complete(payload).status_code == 500
        with pytest.raises(sqlite3.OperationalError):
            runtime.new_rollout("p")
    assert read_trajectories(path)[0].turns == ()


def test_file_when_continued_then_replay_counts_on(tmp_path, open_wire):
    rows = [{"prompt": "q", "turns": [{"content": text}]} for text in ("a", "b")]
    with LocalRuntime(ReplayPolicy(rows), db=tmp_path / "a.db") as runtime:
        first = runtime.new_rollout("q")
    with LocalRuntime(ReplayPolicy(rows), db=tmp_path / "a.db") as runtime:
        second = runtime.new_rollout("q")
        wire = open_wire(runtime)
        texts = [wire.chat(payload, "q").json()["choices"][0]["message"]["content"] for payload in (second, first)]
    assert texts == ["b", "a"]


@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
def test_runtime_when_restarted_in_the_middle_then_a_rollout_goes_on(tmp_path, file):
    from aws_rft_sdk import RFTContext, RolloutFeedbackClient

    with LocalRuntime(echo, db=tmp_path / "runs.db" if file else ":memory:") as runtime:
        payload = runtime.new_rollout("p")
        client = RolloutFeedbackClient(payload)
        with RFTContext.bind(payload) as rollout:

            def infer():
                return requests.post(
                    f"{runtime.endpoint}/v1/chat/completions",
                    headers=rollout.headers(),
                    json={"model": "m", "messages": [{"role": "user", "content": "p"}]},
                    timeout=10,
                )

            assert infer().ok
            endpoint = runtime.endpoint
            runtime.restart()
            assert runtime.endpoint == endpoint
            assert infer().ok
        client.complete_trajectory()
        runtime.restart()
        client.update_reward([0.5, 1.0])

        assert (len(runtime.trajectories()[0].turns), runtime.trajectories()[0].rewards) == (2, (0.5, 1.0))
    with pytest.raises(RuntimeError, match="stopped"):
        runtime.restart()


DESCRIPTORS = """
import os, socket, sys
import openai, requests
from aws_rft_sdk.runtime import LocalRuntime, UpstreamPolicy, server

server.DRAIN_SECONDS = 0

def count():
    return len(os.listdir("/proc/self/fd"))

def use(runtime, is_hostile):
    payload = runtime.new_rollout("p")
    headers = {"X-Rft-Job-Arn": payload["metadata"]["jobArn"], "X-Trajectory-Id": payload["metadata"]["rolloutId"]}
    messages = [{"role": "user", "content": "x"}]
    session = requests.Session()
    session.trust_env = False
    client = openai.OpenAI(base_url=runtime.endpoint + "/v1", api_key="local", max_retries=0)
    for stream in (False, True):
        body = {"messages": messages, "stream": stream}
        assert session.post(runtime.endpoint + "/sample", headers=headers, json=body).ok
        answer = client.chat.completions.create(model="m", messages=messages, extra_headers=headers, stream=stream)
        list(answer) if stream else answer
    return (session, client, *hang(runtime, headers)) if is_hostile else (session, client)

def hang(runtime, headers):
    host, port = runtime.endpoint.removeprefix("http://").split(":")
    # Peers that are in the middle of a call when the runtime stops: one sends no body, one reads no answer.
    silent, deaf = (socket.create_connection((host, int(port))) for _ in range(2))
    silent.sendall(b"POST /sample HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 5\\r\\n\\r\\n")
    body = ('{"messages": [{"role": "user", "content": "' + "x" * 5_000_000 + '"}]}').encode()
    lines = [f"{name}: {value}" for name, value in {**headers, "Host": "x", "Content-Length": len(body)}.items()]
    deaf.sendall("\\r\\n".join(["POST /sample HTTP/1.1", *lines, "", ""]).encode() + body)
    deaf.recv(1)
    return silent, deaf

echo = lambda request: request["messages"][0]["content"]
before, runtimes = count(), []
for number in range(int(sys.argv[2])):
    db = f"{sys.argv[1]}/{number}.db" if number % 2 else ":memory:"
    runtime = LocalRuntime(echo, db=db, auth="none").start()
    behind = LocalRuntime(echo, strict=False, auth="none").start()
    upstream = LocalRuntime(UpstreamPolicy(behind.endpoint + "/v1"), auth="none").start()
    clients = use(runtime, number < 2) + use(upstream, number < 2)
    if number % 3 == 0:
        runtime.restart()
    runtimes += [runtime, upstream, behind]  # whoever keeps the object for its records keeps no connection with it
    for stopped in (upstream, behind, runtime):
        stopped.stop()
    for client in clients:
        client.close()
print(count() - before)
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_runtimes_when_they_are_gone_then_so_are_their_descriptors(tmp_path):
    run = [sys.executable, "-W", "error", "-X", "dev", "-c", DESCRIPTORS, str(tmp_path), "6"]
    result = subprocess.run(
        run, capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert (result.stdout, result.returncode) == ("0\n", 0), result.stderr
    assert "ResourceWarning" not in result.stderr


@pytest.mark.parametrize("file", [False, True])
def test_trajectories_when_forgotten_then_they_are_gone_from_memory_and_file(tmp_path, open_wire, file):
    db = tmp_path / "rollouts.db" if file else ":memory:"
    wire = open_wire(LocalRuntime(echo, db=db, auth="none").start())
    first, second = (wire.runtime.new_rollout(number) for number in "12")
    for payload in (first, second):
        assert wire.chat(payload).status_code == 200
    gone = first["metadata"]["rolloutId"]
    wire.runtime.forget([gone, "unknown"])
    assert wire.chat(first).status_code == 404
    assert wire.chat(second).status_code == 200  # and so the deletion before it is in the file
    with pytest.raises(TrajectoryNotFoundError):
        wire.runtime.trajectory(gone)
    (kept,) = wire.runtime.trajectories()
    assert (kept.prompt, len(kept.turns)) == ("2", 2)
    wire.runtime.stop()
    if file:
        (kept,) = read_trajectories(db)
        assert (kept.prompt, len(kept.turns)) == ("2", 2)
