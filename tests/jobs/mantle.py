"""A Mantle endpoint over real HTTP that helps no more than the service does.

It has no idempotency: a create that is repeated makes a second job. It meets troubles by script, before or after a call
takes effect.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]


@dataclass(frozen=True)
class Trouble:
    """What happens to one call: an error answer, or a broken connection if there is no status."""

    status: int | None = None
    applied: bool = False
    body: object = None
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    """Half of the answer arrives, whole as HTTP."""


@dataclass(frozen=True)
class Asked:
    operation: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found


@dataclass
class State:
    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Json] = field(default_factory=dict)
    events: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    checkpoints: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))


_ROUTES = [
    ("POST", r"/v1/files", "CreateFile"),
    ("DELETE", r"/v1/files/([^/]+)", "DeleteFile"),
    ("POST", r"/v1/fine_tuning/jobs", "CreateFineTuningJob"),
    ("GET", r"/v1/fine_tuning/jobs", "ListFineTuningJobs"),
    ("GET", r"/v1/fine_tuning/jobs/([^/]+)", "GetFineTuningJob"),
    ("GET", r"/v1/fine_tuning/jobs/([^/]+)/events", "events"),
    ("GET", r"/v1/fine_tuning/jobs/([^/]+)/checkpoints", "checkpoints"),
    ("POST", r"/v1/fine_tuning/jobs/([^/]+)/cancel", "CancelFineTuningJob"),
    ("POST", r"/v1/chat/completions", "chat"),
    ("POST", r"/v1/responses", "responses"),
]


class Mantle:
    """The service. `troubles[operation]` strike its next calls, in order. `page` makes the pages of a list."""

    def __init__(self) -> None:
        self.state = State()
        self.asked: list[Asked] = []
        self.troubles: dict[str, deque[Trouble]] = defaultdict(deque)
        self.before: Callable[[Asked], None] = lambda asked: None
        self.page: Callable[[list[Json], Asked], Json] = honest_page
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.mantle = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Mantle:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, operation: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.operation == operation]

    def answer(self, asked: Asked, target: str | None) -> tuple[int, Json]:
        state = self.state
        if asked.operation == "CreateFile":
            state.files[f"file-{len(state.files)}"] = asked.body
            return 200, {"id": f"file-{len(state.files) - 1}", "object": "file", "purpose": "fine-tune"}
        if asked.operation == "DeleteFile":
            found = state.files.pop(str(target), None)
            return (404, {"error": {"message": "no such file"}}) if found is None else (200, {"deleted": True})
        if asked.operation == "CreateFineTuningJob":
            number = f"ftjob-{len(state.jobs)}"
            made = {"id": number, "object": "fine_tuning.job", "status": "validating_files", "created_at": 1}
            state.jobs[number] = {**made, **asked.json, "fine_tuned_model": None, "error": {}, "vendor": {"x": 1}}
            return 200, state.jobs[number]
        if asked.operation == "ListFineTuningJobs":
            return 200, self.page(list(state.jobs.values()), asked)
        if asked.operation in ("chat", "responses"):
            return 200, {"id": "a", "object": asked.operation, "model": asked.json["model"], "choices": []}
        if target not in state.jobs:
            return 404, {"error": {"message": f"job {target} not found", "code": "ResourceNotFoundException"}}
        job = state.jobs[target]
        if asked.operation == "CancelFineTuningJob":
            if job["status"] in ("succeeded", "failed", "cancelled"):
                return 409, {"error": {"message": f"the job is {job['status']}", "code": "ConflictException"}}
            job["status"] = "cancelled"
        if asked.operation in ("events", "checkpoints"):
            return 200, self.page(list(getattr(state, asked.operation)[target]), asked)
        return 200, job


def honest_page(rows: list[Json], asked: Asked) -> Json:
    """Return the page after `after`, with as many rows as `limit` says."""
    limit, after = int(asked.query.get("limit", ["20"])[0]), asked.query.get("after")
    start = [row["id"] for row in rows].index(after[0]) + 1 if after else 0
    return {"object": "list", "data": rows[start : start + limit], "has_more": start + limit < len(rows)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    mantle: Mantle


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        mantle, url = self.server.mantle, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        found = ((op, re.fullmatch(path, url.path)) for method, path, op in _ROUTES if method == self.command)
        operation, match = next(((op, match) for op, match in found if match), ("", None))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(operation, url.path, parse_qs(url.query), headers, body)
        with mantle._lock:
            mantle.asked.append(asked)
            trouble = mantle.troubles[operation].popleft() if mantle.troubles[operation] else Trouble(200, True)
        mantle.before(asked)
        status, answer = 404, {"error": {"message": "no such route"}}
        if match and trouble.applied:
            with mantle._lock:
                status, answer = mantle.answer(asked, match[1] if match.groups() else None)
        if trouble.status is None:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        if trouble.status != 200 or trouble.body is not None:
            status, answer = trouble.status, trouble.body if trouble.body is not None else {"message": "made up"}
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        data = data[: len(data) // 2] if trouble.cut else data
        self.send_response(status)
        for name, value in (("content-type", "application/json"), *trouble.headers):
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, *args: object) -> None:
        pass
