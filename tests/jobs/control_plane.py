"""Bedrock's control plane and its Converse over real HTTP, for what moto lacks, and no kinder than the service.

Names are unique. Client tokens can be forgotten. Lists come in pages of two. Deployments take their time. Troubles are
met by script, before or after a call takes effect.
"""

from __future__ import annotations

import binascii
import json
import re
import struct
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]
ACCOUNT = "arn:aws:bedrock:us-east-1:123456789012"
MODEL = f"{ACCOUNT}:custom-model/amazon.nova-2-lite-v1:0:256k/0123456789ab"
_TIME = "2026-11-30T10:00:00Z"
_ROUTES = [
    ("POST", r"/model-customization-jobs", "create_job"),
    ("GET", r"/model-customization-jobs", "list_jobs"),
    ("GET", r"/model-customization-jobs/([^/]+)", "get_job"),
    ("POST", r"/model-customization-jobs/([^/]+)/stop", "stop_job"),
    ("POST", r"/model-customization/custom-model-deployments", "create_deployment"),
    ("GET", r"/model-customization/custom-model-deployments/([^/]+)", "get_deployment"),
    ("DELETE", r"/model-customization/custom-model-deployments/([^/]+)", "delete_deployment"),
    ("POST", r"/model/([^/]+)/converse", "converse"),
    ("POST", r"/model/([^/]+)/converse-stream", "converse_stream"),
    ("PUT", r"/(.+)", "put_object"),
]


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Trouble:
    """What happens to one call: an error answer, or a lost connection if there is no code."""

    code: str | None = None
    status: int = 400
    message: str = "no"
    applied: bool = False


@dataclass
class ControlPlane:
    """What the service knows."""

    jobs: list[Json] = field(default_factory=list)
    deployments: list[Json] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    tokens: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    troubles: defaultdict[str, deque[Trouble]] = field(default_factory=lambda: defaultdict(deque))
    calls: list[tuple[str, Json]] = field(default_factory=list)
    answers: list[str] = field(default_factory=lambda: ["Creating", "Active"])
    """What a new deployment is at each look. The last word stays."""

    def asked(self, operation: str) -> list[Json]:
        return [body for name, body in self.calls if name == operation]

    def create_job(self, body: Json, query: Json) -> Json:
        if (arn := self.tokens.get(body["clientRequestToken"])) is not None:
            return {"jobArn": arn}
        if any(job["jobName"] == body["jobName"] for job in self.jobs):
            raise Refused(400, "ConflictException", "The provided job name is currently in use.")
        if body["customModelName"] in self.models:
            raise Refused(400, "ConflictException", "The provided model name is currently in use.")
        number = len(self.jobs)
        arn = f"{ACCOUNT}:model-customization-job/amazon.nova-2-lite-v1:0:256k/{number:012}"
        echoed = {key: body[key] for key in body if key not in ("jobTags", "customModelTags", "customModelName")}
        base = body["baseModelIdentifier"]
        self.jobs.append(
            {
                **{"jobArn": arn, "status": "InProgress", "creationTime": _TIME, **echoed},
                "outputModelName": body["customModelName"],
                "baseModelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{base}",
                "validationDataConfig": body.get("validationDataConfig", {"validators": []}),
                "statusDetails": {
                    f"{phase}Details": {"status": "NotStarted"}
                    for phase in ("validation", "dataProcessing", "training")
                },
            }
        )
        self.models.add(body["customModelName"])
        self.tokens[body["clientRequestToken"]] = arn
        return {"jobArn": arn}

    def job(self, name: str) -> Json:
        for job in self.jobs:
            if name in (job["jobArn"], job["jobName"]):
                return job
        raise Refused(404, "ResourceNotFoundException", "Could not find the job.")

    def get_job(self, body: Json, query: Json, name: str) -> Json:
        return self.job(name)

    def list_jobs(self, body: Json, query: Json) -> Json:
        rows = [job for job in self.jobs[::-1] if query.get("statusEquals", job["status"]) == job["status"]]
        rows = [
            {**job, "customModelArn": job.get("outputModelArn")}
            for job in rows
            if query.get("nameContains", "") in job["jobName"]
        ]
        return self._page(rows, query, "modelCustomizationJobSummaries")

    def _page(self, rows: list[Json], query: Json, key: str) -> Json:
        start = int(query.get("nextToken", 0))
        more = {"nextToken": str(start + 2)} if len(rows) > start + 2 else {}
        return {key: rows[start : start + 2], **more}

    def stop_job(self, body: Json, query: Json, name: str) -> Json:
        job = self.job(name)
        if job["status"] != "InProgress":
            raise Refused(400, "ConflictException", f"The job is {job['status']}.")
        job["status"] = "Stopping"
        return {}

    def create_deployment(self, body: Json, query: Json) -> Json:
        if any(item["modelDeploymentName"] == body["modelDeploymentName"] for item in self.deployments):
            raise Refused(400, "ValidationException", "The name is in use.")
        arn = f"{ACCOUNT}:custom-model-deployment/{len(self.calls):012}"
        given = {key: body[key] for key in ("modelDeploymentName", "modelArn")}
        self.deployments.append(
            {"customModelDeploymentArn": arn, "createdAt": _TIME, "looks": deque(self.answers), **given}
        )
        return {"customModelDeploymentArn": arn}

    def deployment(self, name: str) -> Json:
        for item in self.deployments:
            if name in (item["customModelDeploymentArn"], item["modelDeploymentName"]):
                return item
        raise Refused(404, "ResourceNotFoundException", "Could not find the deployment.")

    def get_deployment(self, body: Json, query: Json, name: str) -> Json:
        item = self.deployment(name)
        looks = item["looks"]
        status = looks.popleft() if len(looks) > 1 else looks[0]
        failure = {"failureMessage": "the model is broken"} if status == "Failed" else {}
        return {**{key: value for key, value in item.items() if key != "looks"}, "status": status, **failure}

    def delete_deployment(self, body: Json, query: Json, name: str) -> Json:
        self.deployments.remove(self.deployment(name))
        return {}

    def put_object(self, body: Json, query: Json, key: str) -> None:
        self.objects[key] = body["raw"]

    def converse(self, body: Json, query: Json, model: str) -> Json:
        text = body["messages"][-1]["content"][0]["text"]
        message = {"role": "assistant", "content": [{"text": f"{text}: "}, {"text": "72"}]}
        usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
        return {"output": {"message": message}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}


def event(kind: str, payload: Json) -> bytes:
    """Return a message of the binary form that streams have."""
    exception = kind.endswith("Exception")
    named = {":message-type": "exception" if exception else "event", ":content-type": "application/json"}
    named[":exception-type" if exception else ":event-type"] = kind
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    start = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + body
    return start + struct.pack("!I", binascii.crc32(start))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plane: ControlPlane

    def _serve(self) -> None:
        path, raw = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation, arguments = next(
            (name, match.groups())
            for method, pattern, name in _ROUTES
            if method == self.command and (match := re.fullmatch(pattern, path.path))
        )
        query = {key: values[0] for key, values in parse_qs(path.query).items()}
        is_json = operation != "put_object"
        body: Json = json.loads(raw) if raw and is_json else {"raw": raw}
        self.plane.calls.append((operation, body))
        trouble = self.plane.troubles[operation].popleft() if self.plane.troubles[operation] else None
        try:
            if trouble is not None and trouble.code and not trouble.applied:
                raise Refused(trouble.status, trouble.code, trouble.message)
            if operation == "converse_stream":
                self._stream(trouble)
                return
            answer = getattr(self.plane, operation)(body, query, *map(unquote, arguments))
            if trouble is not None and trouble.code:
                raise Refused(trouble.status, trouble.code, trouble.message)
            if trouble is not None:
                self.close_connection = True
                return
            self._answer(200, answer)
        except Refused as error:
            if is_json:
                self._answer(error.status, {"message": error.message}, ("x-amzn-ErrorType", error.code))
            else:
                xml = f"<Error><Code>{error.code}</Code><Message>{error.message}</Message></Error>"
                self._answer(error.status, xml)

    def _answer(self, status: int, answer: Json | str | None, *headers: tuple[str, str]) -> None:
        content = (answer or "").encode() if not isinstance(answer, dict) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(content))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, trouble: Trouble | None) -> None:
        texts = [event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}) for text in ("7", "2")]
        end = [event("messageStop", {"stopReason": "end_turn"})]
        if trouble is not None:
            end = [event(trouble.code, {"message": trouble.message})] if trouble.code else []
        content = b"".join([event("messageStart", {"role": "assistant"}), *texts, *end])
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        lost = trouble is not None and not trouble.code
        self.send_header("Content-Length", str(len(content) + (100 if lost else 0)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = lost

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *args: object) -> None:
        pass


class Server:
    """Serves a new `ControlPlane` on loopback."""

    def __init__(self) -> None:
        self.plane = ControlPlane()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"plane": self.plane}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
