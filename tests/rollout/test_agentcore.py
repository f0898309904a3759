"""The AgentCore engine with the real boto3 client, against a stand-in for the API."""

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from botocore.config import Config
from rollout.worlds import PROMPTS, policy

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout import RolloutStatus, load_callable, run_rollouts
from aws_rft_sdk.rollout.engines.agentcore import AgentCoreEngine
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.types import InferenceParams

ARN = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/agent-abc123"


@contextmanager
def agentcore(answer):
    """Serve InvokeAgentRuntime.

    Args:
        answer: Makes status, error code or None, and body of a payload; without a status, the connection is closed.
    """
    calls = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self):
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.append((urlsplit(self.path), self.headers, payload))
            status, code, body = answer(payload)
            if status is None:
                return
            content = json.dumps(body).encode()
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
    client = boto3.client(
        "bedrock-agentcore",
        region_name="us-west-2",
        endpoint_url=f"http://127.0.0.1:{server.server_port}",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
    try:
        yield client, calls
    finally:
        client.close()
        server.shutdown()
        serving.join()
        server.server_close()


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

    with agentcore(lambda payload: (200, None, handler(payload))) as (client, calls):
        records = run(client, qualifier="DEFAULT")

    assert [(r.reward, r.turns, r.status) for r in records] == [
        (reward, 1, RolloutStatus.COMPLETED) for reward in (0.1, 0.1, 0.2)
    ]
    assert [r.metrics for r in records] == [{"length": 1}, {"length": 1}, {"length": 2}]
    assert [r.response_tokens for r in records] == [(2,), (2,), (4,)]
    for url, headers, payload in calls:
        session_id = headers["X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"]
        assert len(session_id) >= 33
        assert session_id.startswith(payload["metadata"]["rolloutId"])
        assert unquote(url.path) == f"/runtimes/{ARN}/invocations"
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
    assert records[2].error == "the agent answered: boom"


def test_agentcore_when_it_throttles_then_the_call_is_made_again_and_other_errors_are_the_rollouts(world):
    handler = load_callable(f"{world}/engine_handlers.py:plain")
    throttled = set()

    def answer(payload):
        if payload["prompt"] == "b":
            return 424, "RuntimeClientError", {"message": "the agent failed"}
        if payload["prompt"] not in throttled:
            throttled.add(payload["prompt"])
            return 429, "ThrottlingException", {"message": "slow down"}
        return 200, None, handler(payload)

    with agentcore(answer) as (client, calls):
        records = run(client, deadline_seconds=3.0)

    assert [r.status.value for r in records] == ["completed", "unreported", "completed"]
    assert "RuntimeClientError" in records[1].error
    assert len(calls) == 5


def test_agentcore_when_a_call_hangs_past_the_deadline_then_it_keeps_neither_the_others_nor_the_process():
    release = threading.Event()

    def answer(payload):
        if payload["prompt"] != "c":
            release.wait(30)
        return 200, None, {"reward": 0.5}

    with agentcore(answer) as (client, calls):
        records = run(client, observable=False, prompts="abc", concurrency=1, deadline_seconds=1.0)
        hanging = [thread for thread in threading.enumerate() if thread.name.startswith("rft-agentcore")]
        release.set()
        for thread in hanging:
            thread.join()

    assert [r.status.value for r in records] == ["unreported", "unreported", "completed"]
    assert len(calls) == 3
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


@pytest.mark.parametrize("arn", ["agent", "arn:aws:sagemaker:us-west-2:123456789012:runtime/x"])
def test_agentcore_when_the_arn_is_no_runtimes_then_it_is_refused(arn):
    with pytest.raises(ConfigurationError, match="not the ARN"):
        AgentCoreEngine(arn, None)
