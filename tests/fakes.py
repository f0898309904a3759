"""Stand-ins with behaviour: a job runtime on loopback that records and answers by script, and makers of payloads."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.client import RolloutFeedbackClient
from aws_rft_sdk.feedback.outbox import Outbox

JOB_ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/my-job"


def ga_payload(
    trajectory_id: str = "traj-1",
    *,
    job_arn: str = JOB_ARN,
    endpoint: str | None = None,
    prompt: Any = "2+2?",
    **params: Any,
) -> dict[str, Any]:
    """Make the payload that the service sends today; keyword arguments are inference parameters on the wire."""
    metadata = {"jobArn": job_arn, "rolloutId": trajectory_id, **({"endpoint": endpoint} if endpoint else {})}
    return {"prompt": prompt, "metadata": metadata, **({"inferenceParams": params} if params else {})}


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Port of the client's end, so one number for each connection."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def trajectory_id(self) -> str | None:
        return self.headers.get("x-trajectory-id")

    @property
    def span_id(self) -> str | None:
        return self.headers.get("x-span-id")


@dataclass
class Answer:
    """How the service answers one request."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] | None = None
    """Parts of a streamed answer, instead of `body`."""
    gate: threading.Event | None = None
    """Held back until this is set."""
    reset: bool = False
    """The connection is reset: instead of the answer, or after the chunks when there are some."""
    promised_bytes: int | None = None
    """A `Content-Length` that is not kept."""


def error(status: int, message: str = "no", **headers: str) -> Answer:
    """Make an error answer in the service's form."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"Message": message}).encode(), {"Content-Type": "application/json", **names})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Recorded(self.path, headers, body, self.client_address[1])
        answer = self.server.service.answer(request)
        if answer.gate is not None:
            answer.gate.wait(30)
        if answer.reset and answer.chunks is None:
            return self._reset()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunks is None:
            self.send_header("Content-Length", str(answer.promised_bytes or len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            self.close_connection = answer.promised_bytes is not None or self.close_connection
            return None
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in answer.chunks:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        if answer.reset:
            return self._reset()
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True
    service: Service

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients of these tests hang up on purpose


class Service:
    """A job runtime on loopback. Answers by script first, then by `policy`."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.service = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.reset()

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        self.requests: list[Recorded] = []
        self.policy: Callable[[Recorded], Answer] = default_policy
        self._script: deque[Answer] = deque()
        self._gates: list[threading.Event] = []

    def script(self, *answers: Answer) -> None:
        """Answer the next requests, whatever they are, with these, in order."""
        self._script.extend(answers)

    def gate(self) -> threading.Event:
        """Return an event for `Answer.gate` that is set at the latest when the test ends."""
        self._gates.append(threading.Event())
        return self._gates[-1]

    def release_all(self) -> None:
        for gate in self._gates:
            gate.set()

    def answer(self, request: Recorded) -> Answer:
        with self._lock:
            self.requests.append(request)
            if self._script:
                return self._script.popleft()
        return self.policy(request)

    def of(self, *paths: str) -> list[Recorded]:
        return [request for request in self.requests if request.path in paths]

    @property
    def inference(self) -> list[Recorded]:
        return self.of("/v1/chat/completions", "/v1/responses")

    @property
    def feedback(self) -> list[tuple[str, Any]]:
        """Feedback calls so far: the path, and the reward list or the status."""
        calls = []
        for request in self.requests:
            if request.path in ("/CompleteTrajectory", "/complete-rollout"):
                calls.append((request.path, request.json.get("Status")))
            elif request.path in ("/UpdateReward", "/update-reward"):
                calls.append((request.path, request.json["Rewards"]))
        return calls

    def payload(self, trajectory_id: str = "traj-1", **kwargs: Any) -> dict[str, Any]:
        return ga_payload(trajectory_id, endpoint=self.endpoint, **kwargs)


# --- what a policy says ----------------------------------------------------------------------------------------------


def say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def call_tool(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chat_answer(request: Recorded, message: dict[str, Any]) -> Answer:
    """Answer a chat request with an assistant message, streamed or not, as it asks."""
    base = {"id": "chatcmpl-1", "created": 1, "model": "default"}
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    if not request.json.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": finish}
        completion = {**base, "object": "chat.completion", "choices": [choice], "usage": USAGE}
        return Answer(body=json.dumps(completion).encode(), headers={"Content-Type": "application/json"})
    delta = {**message}
    if message.get("tool_calls"):
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(message["tool_calls"])]
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
        {"choices": [], "usage": USAGE},
    ]
    chunks = [_sse({**base, "object": "chat.completion.chunk", **event}) for event in events]
    return Answer(headers={"Content-Type": "text/event-stream"}, chunks=[*chunks, b"data: [DONE]\n\n"])


def responses_answer(request: Recorded, text: str) -> Answer:
    """Answer a request of the Responses API with a text."""
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed"}
    content = [{"type": "output_text", "text": text, "annotations": []}]
    done = {"id": "r1", "object": "response", "status": "completed", "usage": usage, "model": "default"}
    done["output"] = [{**message, "content": content}]
    if not request.json.get("stream"):
        return Answer(body=json.dumps(done).encode(), headers={"Content-Type": "application/json"})
    events = [
        {"type": "response.created", "response": {**done, "output": [], "usage": None}},
        {"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": text},
        {"type": "response.completed", "response": done},
    ]
    chunks = [b"event: %s\n%s" % (str(event["type"]).encode(), _sse(event)) for event in events]
    return Answer(headers={"Content-Type": "text/event-stream"}, chunks=chunks)


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def default_policy(request: Recorded) -> Answer:
    if request.path == "/v1/chat/completions":
        return chat_answer(request, say("ok"))
    if request.path == "/v1/responses":
        return responses_answer(request, "ok")
    return Answer(headers={"Content-Type": "application/json"})


@contextlib.contextmanager
def refused_endpoint() -> Iterator[str]:
    """Give a loopback endpoint at which nothing listens for the body of the `with`, unless the body serves there."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server of the body may listen there
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, and nobody else gets the port
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@dataclass(frozen=True)
class AtMost(Backoff):
    """Sends a call so many times without a pause; the pause after that is longer than any call may take."""

    attempts: int = 1

    def delay(self, attempt: int, retry_after_seconds: float | None = None, uniform: Any = None) -> float:
        return 0.0 if attempt < self.attempts else 1e6


AT_ONCE = Backoff(base_seconds=0, cap_seconds=0)
ONCE = AtMost(attempts=1)
TWICE = AtMost(attempts=2)


def leave_pending(
    outbox: Outbox, client: RolloutFeedbackClient, rewards: tuple[float, ...] = (1.0,), *, failures: int = 0
) -> None:
    """Leave a decision in an outbox, as a process does that is killed before it sends anything.

    Args:
        outbox: The outbox.
        client: Names the trajectory and its endpoint.
        rewards: The decision.
        failures: Deliveries that have failed before.
    """
    about = (client.metadata, client.endpoint, "sigv4")
    outbox.update(*about, lambda before: before.decide(client.metadata.trajectory_id, "ready", rewards))
    for _ in range(failures):
        outbox.update(*about, error="on purpose")


class FakeClock:
    """A clock that goes only when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
