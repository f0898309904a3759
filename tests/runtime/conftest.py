from __future__ import annotations

import json

import pytest
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from aws_rft_sdk._listening import listen
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.runtime.http_server import ServerThread

KEYS = Keys("AKIDEXAMPLE", "a-secret-for-tests", "a-session-token")


class Wire:
    """Speaks to a runtime with nothing between the test and the bytes."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self.runtime = runtime
        self.session = requests.Session()
        self.session.trust_env = False

    def post(self, path, body, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(self.runtime.endpoint + path, data=data, headers=headers or {}, timeout=30)

    def chat(self, payload, text="hello", path="/v1/chat/completions", span=None, headers=None, **fields):
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return self.post(path, body, {**tracking(payload, span), **(headers or {})})

    def complete(self, payload, **fields):
        return self.post("/complete-rollout", {**ids(payload), **fields})

    def reward(self, payload, rewards=(1.0,), **fields):
        return self.post("/update-reward", {**ids(payload), "Rewards": list(rewards), **fields})


def tracking(payload, span=None):
    metadata = payload["metadata"]
    headers = {"X-Rft-Job-Arn": metadata["jobArn"], "X-Trajectory-Id": metadata["rolloutId"]}
    return headers if span is None else {**headers, "X-Span-Id": span}


def ids(payload):
    return {"JobArn": payload["metadata"]["jobArn"], "TrajectoryId": payload["metadata"]["rolloutId"]}


def echo(request):
    """Answer with the last message's text, in upper case."""
    return str(request["messages"][-1]["content"]).upper()


@pytest.fixture(scope="module")
def shared_runtime():
    with LocalRuntime(echo, auth="none") as runtime:
        yield runtime


@pytest.fixture
def runtime(shared_runtime):
    shared_runtime.policy = echo
    shared_runtime.reset()
    return shared_runtime


@pytest.fixture
def wire(runtime):
    client = Wire(runtime)
    yield client
    client.session.close()


@pytest.fixture
def open_wire():
    """A function that makes a `Wire` for a runtime of the test's own."""
    clients = []

    def make(runtime):
        clients.append(Wire(runtime))
        return clients[-1]

    yield make
    for client in clients:
        client.session.close()


class Upstream:
    """An OpenAI-compatible server of the test's own, served by the same machinery."""

    def __init__(self):
        self.requests = []
        self.answer = None
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])

    async def _answer(self, request):
        self.requests.append((dict(request.headers), await request.json()))
        return self.answer()

    def streams(self, *pieces):
        async def generate():
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        self.answer = lambda: StreamingResponse(generate(), media_type="text/event-stream")


@pytest.fixture(scope="module")
def shared_upstream():
    server = Upstream()

    async def nothing():
        pass

    listener = listen(0, "127.0.0.1")
    config = uvicorn.Config(server.app, log_config=None, lifespan="off", ws="none")
    thread = ServerThread(config, listener, lambda loop: None, nothing)
    thread.start()
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    yield server
    thread.stop()


@pytest.fixture
def upstream(shared_upstream):
    shared_upstream.requests, shared_upstream.answer = [], None
    return shared_upstream
