"""The AgentCore engine with the real boto3 client, against a stand-in for the API."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from botocore.config import Config
from fakes import refused_endpoint
from rollout.worlds import PROMPTS, policy

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.rollout import RolloutStatus, load_callable, run_rollouts
from aws_rft_sdk.rollout.engines.agentcore import AgentCoreEngine
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.types import InferenceParams

ARN = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/agent-abc123"


class DataPlane:
    """Stands in for AgentCore's data plane. No kinder than the service: it throttles, conflicts, and ends sessions.

    Args:
        answer: Makes status, error code or None, and body of a payload; without a status, the connection is closed.
        stop: The same, of the number of the call to StopRuntimeSession, from 1. None for a service that stops them.
    """

    def __init__(self, answer, stop=None):
        self.answer = answer
        self.stop = stop or (lambda number: (200, None, {}))
        self.lock = threading.Lock()
        self.calls = []
        self.stops = []
        """URL, session and client token of each call."""
        self.sessions = {}
        """What ends the calls in progress of each session that is not stopped."""

    def invoke(self, url, headers, body):
        session, payload = headers["X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"], json.loads(body)
        with self.lock:
            self.calls.append((url, headers, payload))
            self.sessions.setdefault(session, threading.Event())
        return self.answer(payload)

    def stop_session(self, url, headers, body):
        session = headers["X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"]
        with self.lock:
            self.stops.append((url, session, json.loads(body)["clientToken"]))
            answer = self.stop(len(self.stops))
            if answer[0] != 200:
                return answer
            if session not in self.sessions:
                return 404, "ResourceNotFoundException", {"message": "no such session"}
            self.sessions.pop(session).set()
            return answer


@contextmanager
def agentcore(answer, stop=None):
    """Serve a data plane. Yields a client of it and the `DataPlane`."""
    plane = DataPlane(answer, stop)

    class Api(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            url = urlsplit(self.path)
            serve = plane.stop_session if url.path.endswith("/stopruntimesession") else plane.invoke
            status, code, value = serve(url, self.headers, body)
            if status is None:
                return
            content = json.dumps(value).encode()
            self.send_response(status)
            if code:
                self.send_header("x-amzn-ErrorType", code)
                self.send_header("Retry-After", "0")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    client = client_of(f"http://127.0.0.1:{server.server_port}")
    try:
        yield client, plane
    finally:
        client.close()
        server.shutdown()
        serving.join()
        server.server_close()


def client_of(url):
    return boto3.client(
        "bedrock-agentcore",
        region_name="us-west-2",
        endpoint_url=url,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5),
    )


def run(client, *, observable=True, prompts=PROMPTS, **settings):
    async def main():
        with LocalRuntime(policy) as runtime:
            access = access_in(runtime, InferenceParams())
            observe = access.observe if observable else None
            engine = AgentCoreEngine(ARN, observe, client=client, **settings)
            return [r async for r in run_rollouts(engine, prompts, access.start, observe=observe)]

    return sorted(asyncio.run(main()), key=lambda record: record.key)


def test_agentcore_when_it_answers_then_rewards_are_the_runtimes_and_calls_are_as_the_service_makes_them(world):
    handler = load_callable(f"{world}/engine_handlers.py:plain")

    with agentcore(lambda payload: (200, None, handler(payload))) as (client, plane):
        records = run(client, qualifier="DEFAULT")

    assert [(r.reward, r.turns, r.status) for r in records] == [
        (reward, 1, RolloutStatus.COMPLETED) for reward in (0.1, 0.1, 0.2)
    ]
    assert [r.metrics for r in records] == [{"length": 1}, {"length": 1}, {"length": 2}]
    assert [r.response_tokens for r in records] == [(2,), (2,), (4,)]
    for url, headers, payload in plane.calls:
        session_id = headers["X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"]
        assert len(session_id) >= 33
        assert session_id.startswith(payload["metadata"]["rolloutId"])
        assert unquote(url.path) == f"/runtimes/{ARN}/invocations"
        assert parse_qs(url.query)["qualifier"] == ["DEFAULT"]
    assert plane.sessions == {}
    assert len({token for _, _, token in plane.stops}) == len(plane.stops) == 3
    for url, _, _ in plane.stops:
        assert unquote(url.path) == f"/runtimes/{ARN}/stopruntimesession"
        assert parse_qs(url.query)["qualifier"] == ["DEFAULT"]


def test_agentcore_when_the_runtime_cannot_be_asked_then_the_answer_is_what_is_known():
    answers = {"a": {"reward": 0.75}, "b": {"status": "accepted"}, "cc": {"error": "boom"}}

    with agentcore(lambda payload: (200, None, answers[payload["prompt"]])) as (client, _):
        records = run(client, observable=False)

    assert [(r.status.value, r.reward) for r in records] == [
        ("completed", 0.75),
        ("unreported", None),
        ("unreported", None),
    ]
    assert "holds no reward" in records[1].error
    assert {r.failure for r in records[1:]} == {FailureKind.AGENT}  # to do it again would not help
    assert records[2].error == "the agent answered: boom"


def test_agentcore_when_it_throttles_then_the_call_is_made_again_and_other_errors_are_the_rollouts(world, monkeypatch):
    monkeypatch.setattr(AgentCoreEngine, "after_error_seconds", 0.1)  # for a reward that may come all the same
    handler = load_callable(f"{world}/engine_handlers.py:plain")
    throttled = set()

    def answer(payload):
        if payload["prompt"] == "b":
            return 424, "RuntimeClientError", {"message": "the agent failed"}
        if payload["prompt"] not in throttled:
            throttled.add(payload["prompt"])
            return 429, "ThrottlingException", {"message": "slow down"}
        return 200, None, handler(payload)

    with agentcore(answer) as (client, plane):
        records = run(client)

    assert [r.status.value for r in records] == ["completed", "unreported", "completed"]
    assert "RuntimeClientError" in records[1].error
    assert records[1].failure is FailureKind.AGENT
    assert len(plane.calls) == 5


def test_agentcore_when_a_call_hangs_past_the_deadline_then_it_keeps_neither_the_others_nor_the_process():
    release = threading.Event()

    def answer(payload):
        if payload["prompt"] != "c":
            release.wait(30)
        return 200, None, {"reward": 0.5}

    with agentcore(answer) as (client, plane):
        records = run(client, observable=False, prompts="abc", concurrency=1, deadline_seconds=1.0)
        assert plane.sessions == {}
        hanging = [thread for thread in threading.enumerate() if thread.name.startswith("rft-agentcore")]
        release.set()
        for thread in hanging:
            thread.join()

    assert [r.status.value for r in records] == ["unreported", "unreported", "completed"]
    assert len(plane.calls) == 3
    assert len(hanging) == 2
    assert all(thread.daemon for thread in hanging)


def test_agentcore_when_the_answer_is_lost_then_the_reward_is_waited_for_in_the_runtime(world):
    handler = load_callable(f"{world}/engine_handlers.py:plain")
    looked, threads = threading.Event(), []

    def work(payload):
        looked.wait(30)
        handler(payload)

    def answer(payload):
        threads.append(threading.Thread(target=work, args=(payload,)))
        threads[-1].start()
        return None, None, None

    async def main(client):
        with LocalRuntime(policy) as runtime:
            access = access_in(runtime, InferenceParams())

            async def observe(trajectory_id):
                seen = await access.observe(trajectory_id)
                looked.set()
                return seen

            engine = AgentCoreEngine(ARN, observe, client=client)
            records = [r async for r in run_rollouts(engine, ["a"], access.start, observe=observe, retries=1)]
            threads[0].join()
            return records

    with agentcore(answer) as (client, _):
        (record,) = asyncio.run(main(client))

    assert (record.status, record.reward, record.attempts) == (RolloutStatus.COMPLETED, 0.1, 1)


def test_agentcore_when_the_service_fails_then_infrastructure_broke_the_rollout():
    with agentcore(lambda payload: (500, "InternalServerException", {"message": "try later"})) as (client, plane):
        (record,) = run(client, observable=False, prompts="a")

    assert (record.status, record.failure) == (RolloutStatus.UNREPORTED, FailureKind.INFRASTRUCTURE)
    assert len(plane.calls) == 1  # the agent may run all the same


def test_agentcore_when_our_worker_answers_that_the_rollout_failed_then_its_kind_is_known(world):
    told = {"rewards": [0.0], "errorType": "KeyError", "errorMessage": "'x'", "failure": "tool"}

    with agentcore(lambda payload: (200, None, told)) as (client, _):
        (record,) = run(client, observable=False, prompts="a")

    assert (record.status, record.failure, record.reward) == (RolloutStatus.FAILED, FailureKind.TOOL, 0.0)
    assert record.error == "KeyError: 'x'"


def test_agentcore_when_nobody_answers_then_the_whole_run_is_told():
    async def main(client):
        with LocalRuntime(policy) as runtime:
            payload = access_in(runtime, InferenceParams()).start("a")
            async with AgentCoreEngine(ARN, None, client=client, unreachable_seconds=0.3) as engine:
                await engine.run(payload, payload["metadata"]["rolloutId"])

    with refused_endpoint() as url, pytest.raises(UnavailableError, match="AgentCore does not answer"):
        asyncio.run(main(client_of(url)))


# --- sessions are stopped --------------------------------------------------------------------------------------------


def fast(monkeypatch):
    """Let repetitions come at once."""
    monkeypatch.setattr("aws_rft_sdk.rollout.engines.agentcore._BACKOFF", Backoff(0.0, 0.0))


def test_agentcore_when_a_rollout_is_cancelled_then_its_session_is_stopped():
    begun, release = threading.Event(), threading.Event()

    def answer(payload):
        begun.set()
        release.wait(30)
        return 200, None, {"reward": 0.5}

    async def main(client):
        with LocalRuntime(policy) as runtime:
            payload = access_in(runtime, InferenceParams()).start("a")
            async with AgentCoreEngine(ARN, None, client=client) as engine:
                rollout = asyncio.ensure_future(engine.run(payload, payload["metadata"]["rolloutId"]))
                await asyncio.to_thread(begun.wait, 30)
                rollout.cancel()
                await asyncio.wait([rollout])
                return rollout.cancelled()

    with agentcore(answer) as (client, plane):
        assert asyncio.run(main(client))
        release.set()
        assert (len(plane.stops), plane.sessions) == (1, {})


def test_agentcore_when_stops_are_throttled_conflict_and_fail_then_they_are_repeated_with_the_same_token(monkeypatch):
    fast(monkeypatch)
    troubles = [
        (429, "ThrottlingException", {}),
        (409, "RetryableConflictException", {}),
        (409, "ConflictException", {}),
        (None, None, None),
    ]

    def stop(number):
        return troubles[number - 1] if number <= 4 else (200, None, {})

    with agentcore(lambda payload: (200, None, {"reward": 0.5}), stop) as (client, plane):
        run(client, observable=False, prompts="a")

    assert plane.sessions == {}
    assert len(plane.stops) == 5
    assert len({token for _, _, token in plane.stops}) == 1


def test_agentcore_when_sessions_have_ended_by_themselves_then_nothing_is_said(caplog):
    with agentcore(
        lambda payload: (200, None, {"reward": 0.5}), lambda number: (404, "ResourceNotFoundException", {})
    ) as (client, plane):
        run(client, observable=False)

    assert len(plane.stops) == 3
    assert "not stopped" not in caplog.text


@pytest.mark.parametrize(
    ("status", "code", "says", "stops"),
    [
        (403, "AccessDeniedException", "allow it the action bedrock-agentcore:StopRuntimeSession", 1),
        (400, "ValidationException", "ValidationException", 3),
    ],
)
def test_agentcore_when_sessions_cannot_be_stopped_then_that_is_said_once_and_breaks_nothing(
    caplog, status, code, says, stops
):
    def answer(payload):
        return 200, None, {"reward": 0.5}

    with agentcore(answer, lambda number: (status, code, {"message": "no"})) as (client, plane):
        records = run(client, observable=False, calls_per_second=5.0)

    assert [record.reward for record in records] == [0.5] * 3
    assert [says in line for line in caplog.text.splitlines() if "not stopped" in line] == [True]
    assert len(plane.stops) == stops


def test_agentcore_when_an_agent_goes_on_and_nobody_tells_how_it_ends_then_its_session_is_left_alone():
    with agentcore(lambda payload: (200, None, {"status": "accepted"})) as (client, plane):
        run(client, observable=False, prompts="a")

    assert plane.stops == []
    assert len(plane.sessions) == 1


def test_agentcore_when_sessions_start_and_stop_then_one_limit_holds_for_both():
    with agentcore(lambda payload: (200, None, {"reward": 0.5})) as (client, plane):
        began = time.monotonic()
        run(client, observable=False, calls_per_second=20.0)
        seconds = time.monotonic() - began

    assert len(plane.calls) + len(plane.stops) == 6
    assert seconds >= 5 / 20.0


@pytest.mark.parametrize("arn", ["agent", "arn:aws:sagemaker:us-west-2:123456789012:runtime/x"])
def test_agentcore_when_the_arn_is_no_runtimes_then_it_is_refused(arn):
    with pytest.raises(ConfigurationError, match="not the ARN"):
        AgentCoreEngine(arn, None)
