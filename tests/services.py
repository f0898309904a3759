"""A job runtime over real HTTP that helps no more than the service does, and less where it likes.

It remembers no client tokens: a repetition of a call that took effect is a conflict. It fails by script: before or
after a call takes effect, with a status, by breaking the connection, by answering a byte at a time, or never.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from fakes import JOB_ARN

SEAL, REWARD = "seal", "reward"
GENERATIONS = ("alpha", "ga")
_CALLS = {
    "/CompleteTrajectory": ("alpha", SEAL),
    "/UpdateReward": ("alpha", REWARD),
    "/complete-rollout": ("ga", SEAL),
    "/update-reward": ("ga", REWARD),
}


class State(str, Enum):
    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"
    REWARD_RECEIVED = "REWARD_RECEIVED"


@dataclass
class Trajectory:
    """What the service knows."""

    state: State = State.PENDING
    rewards: list[float] | None = None
    applied: list[str] = field(default_factory=list)
    """Calls that took effect, in order."""


@dataclass(frozen=True)
class Trouble:
    """What happens to one call.

    Attributes:
        status: Answer with this status; None for the true answer.
        applied: Whether the call takes effect first.
        cut: Reset the connection instead of the answer.
        drip: Send the answer so slowly that it never ends: its "head", or its "body".
        hang: Send no answer, as long as the caller waits.
        headers: Of the answer.
        then: Called after the call took effect, if it does, and before the answer.
    """

    status: int | None = None
    applied: bool = False
    cut: bool = False
    drip: Literal["head", "body"] | None = None
    hang: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    then: Callable[[], None] | None = None


class TokenlessService:
    """The service. Calls of a kind ("seal" or "reward") meet the troubles of its script first, in order."""

    def __init__(self, certificate: Path | None = None) -> None:
        """Make the service; with a certificate and its key, both in one PEM file, it speaks TLS."""
        self.trajectories: dict[str, Trajectory] = defaultdict(Trajectory)
        self.calls: list[tuple[str, str]] = []
        """Trajectory and kind of every call that arrived, in order."""
        self.closing = threading.Event()
        self._script: dict[str, deque[Trouble]] = {SEAL: deque(), REWARD: deque()}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.service = self
        self.endpoint = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_address[1]}"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    @contextmanager
    def serving(self) -> Iterator[TokenlessService]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def payload(self, trajectory_id: str = "t-1") -> dict[str, Any]:
        metadata = {"jobArn": JOB_ARN, "rolloutId": trajectory_id, "endpoint": self.endpoint}
        return {"prompt": "2+2?", "metadata": metadata}

    def script(self, kind: str, *troubles: Trouble) -> None:
        self._script[kind].extend(troubles)

    def kinds(self, trajectory_id: str = "t-1") -> list[str]:
        """Return the kinds of the calls that arrived for a trajectory."""
        return [kind for known, kind in self.calls if known == trajectory_id]

    def seal_elsewhere(self, state: State, trajectory_id: str = "t-1") -> None:
        """Let someone else seal a trajectory."""
        with self._lock:
            self.trajectories[trajectory_id].state = state

    def handle(self, path: str, body: dict[str, Any]) -> tuple[Trouble, int]:
        generation, kind = _CALLS[urlsplit(path).path]  # a whole URL, when it stands in for a proxy
        trajectory_id = body["TrajectoryId"]
        with self._lock:
            self.calls.append((trajectory_id, kind))
            trouble = self._script[kind].popleft() if self._script[kind] else Trouble(applied=True)
            status = 200
            if trouble.applied:
                status = self._apply(self.trajectories[trajectory_id], generation, kind, body)
        if trouble.then is not None:
            trouble.then()
        return trouble, trouble.status or status

    @staticmethod
    def _apply(trajectory: Trajectory, generation: str, kind: str, body: dict[str, Any]) -> int:
        if kind == SEAL:
            if trajectory.state is not State.PENDING:
                return 409
            failed = generation == "ga" and body["Status"] == "failed"
            trajectory.state = State.FAILED if failed else State.READY
        else:
            if trajectory.state is not State.READY:
                return 409
            trajectory.state, trajectory.rewards = State.REWARD_RECEIVED, body["Rewards"]
        trajectory.applied.append(kind)
        return 200


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        service = self.server.service
        trouble, status = service.handle(self.path, body)
        if trouble.hang:
            self._wait_for_caller(service)
        if trouble.cut or trouble.hang:
            return self._cut()
        content = b"{}" if status == 200 else json.dumps({"Message": f"status {status}"}).encode()
        length = len(content) if trouble.drip is None else 1_000_000
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {length}", "Content-Type: application/json"]
        head += [f"{name}: {value}" for name, value in trouble.headers]
        answer = ("\r\n".join([*head, "", ""])).encode()
        if trouble.drip is None:
            self.wfile.write(answer + content)
            return None
        if trouble.drip == "body":
            self.wfile.write(answer)
            self.wfile.flush()
        return self._drip(service)

    def _wait_for_caller(self, service: TokenlessService) -> None:
        self.connection.settimeout(0.02)
        while not service.closing.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def _drip(self, service: TokenlessService) -> None:
        """Send one byte after another of an answer without an end, until the caller is gone."""
        try:
            self.wfile.write(b"H")
            self.wfile.flush()
            while not service.closing.wait(0.02):
                self.wfile.write(b"X")
                self.wfile.flush()
        except OSError:
            pass
        self.close_connection = True

    def _cut(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True
    service: TokenlessService

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients of these tests hang up on purpose
