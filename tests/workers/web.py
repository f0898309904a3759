"""A worker's application on a free port of this machine, in a thread, and a caller that speaks to it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any

import requests
import uvicorn

from aws_rft_sdk._listening import listen
from aws_rft_sdk.runtime.http_server import ServerThread
from aws_rft_sdk.workers.http import create_app

WAIT = 60


class Worker:
    """What a test needs of a worker that runs."""

    def __init__(self, url: str, app: Any) -> None:
        self.url = url
        self.app = app
        self.session = requests.Session()
        self.session.trust_env = False

    @property
    def pool(self):
        return self.app.state.pool

    def post(self, path, body, **options):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(self.url + path, data=data, timeout=WAIT, **options)

    def get(self, path):
        return self.session.get(self.url + path, timeout=WAIT)

    def raw(self, data: bytes, *, then_close: bool = False) -> bytes:
        """Send bytes and return all that comes back until the server closes, or the answer is complete."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT) as peer:
            peer.sendall(data)
            if then_close:
                return b""
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := peer.recv(65536):
                    received += chunk
            return received


async def _nothing() -> None:
    """Close nothing: the lifespan does."""


@contextlib.contextmanager
def serving(app):
    """Serve any ASGI application with its lifespan."""
    listener = listen(0, "127.0.0.1")
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", ws="none", loop="asyncio", timeout_graceful_shutdown=5
    )
    server = ServerThread(config, listener, lambda loop: None, _nothing)
    server.start()
    worker = Worker(f"http://127.0.0.1:{port}", app)
    try:
        yield worker
    finally:
        worker.session.close()
        server.stop()


@contextlib.contextmanager
def worker_of(handler, **options):
    """Serve a handler."""
    with serving(create_app(handler, **{"grace_seconds": 5.0, **options})) as worker:
        yield worker


class Gate:
    """A handler that waits until it is let go, and counts its runs."""

    def __init__(self):
        self.runs = []
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, payload):
        self.runs.append(payload.get("prompt"))
        self.begun.release()
        assert self.open.wait(WAIT)
        return {"reward": 1.0, "prompt": payload["prompt"]}

    def wait_for(self, count):
        for _ in range(count):
            assert self.begun.acquire(timeout=WAIT)


def until(condition, rounds=600):
    """Wait until a condition holds, within reason."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.1) for _ in range(rounds))
