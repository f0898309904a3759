"""SageMaker's jobs, CloudWatch, MLflow and S3 over real HTTP, as far as a job's follower needs them.

No kinder than the service. Every request is checked against botocore's model. Names are unique over all categories. A
new job is not shown at first. Lists come in pages of two. Presigned URLs open one session, and sessions end after a
few calls. Pages of a log may be empty before its end. Troubles are met by script, before or after a call takes effect.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.session
from botocore.validate import ParamValidator

Json = dict[str, Any]
ACCOUNT = "123456789012"
SECRET = "presigned-secret"
"""What no log may show."""
_TARGETS = {"SageMaker": "sagemaker", "Logs_20140328": "logs"}
_ENDED = ("Completed", "Failed", "Stopped")


class Refused(Exception):
    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True)
class Trouble:
    """What happens to one call: an error answer, or a lost connection if there is no code."""

    code: str | None = None
    status: int = 400
    applied: bool = False


@functools.cache
def _model(service: str) -> Any:
    return botocore.session.Session().get_service_model(service)


@dataclass
class Service:
    """What the service knows. A job's `life` has what it becomes at each look, the last for good."""

    hidden_looks: int = 0
    """Looks at which a new job is not shown."""
    quota: int = 1
    """Jobs of a category that may run."""
    session_calls: int = 1000
    schema: str = '{"type": "object"}'
    jobs: dict[str, Json] = field(default_factory=dict)
    lives: defaultdict[str, deque[Json]] = field(default_factory=lambda: defaultdict(deque))
    on_create: Callable[[Json], None] = lambda job: None
    packages: dict[str, list[Json]] = field(default_factory=dict)
    log: dict[str, list[list[str]]] | None = None
    """Pages of each stream. None while there is no group."""
    metrics: defaultdict[str, Json] = field(default_factory=lambda: defaultdict(dict))
    """By run: by name of the metric: value by step."""
    traces: dict[str, list[tuple[str, float | None]]] = field(default_factory=dict)
    """By run: prompts and rewards."""
    mlflow_denied: bool = False
    troubles: defaultdict[str, deque[Trouble]] = field(default_factory=lambda: defaultdict(deque))
    calls: list[tuple[str, Json]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    endpoint: str = ""
    sessions: dict[str, int] = field(default_factory=dict)
    urls: int = 0

    def asked(self, operation: str) -> list[Json]:
        return [body for name, body in self.calls if name == operation]

    # --- sagemaker ---

    def create_job(self, body: Json) -> Json:
        name, category = body["JobName"], body["JobCategory"]
        if name in self.jobs:
            raise Refused("ResourceInUse", f"Job {name} exists")
        if (
            sum(job["JobCategory"] == category and job["JobStatus"] not in _ENDED for job in self.jobs.values())
            >= self.quota
        ):
            raise Refused("ResourceLimitExceeded", "one job at a time")
        at = 1_764_000_000.0 + len(self.jobs)
        arn = f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:job/{category}/{name}"
        self.jobs[name] = job = {
            **{key: body[key] for key in body if key != "Tags"},
            "Tags": [*body.get("Tags", ()), {"Key": "aws:made-by", "Value": "service"}],
            **{"JobArn": arn, "CreationTime": at, "LastModifiedTime": at, "JobStatus": "InProgress"},
            **{"SecondaryStatus": "Starting", "SecondaryStatusTransitions": [{"Status": "Starting", "StartTime": at}]},
            "hidden": self.hidden_looks,
        }
        self.on_create(job)
        return {"JobArn": arn}

    def _job(self, body: Json) -> Json:
        job = self.jobs.get(body["JobName"])
        if job is None or job["JobCategory"] != body["JobCategory"]:
            raise Refused("ResourceNotFound", "Requested resource not found")
        return job

    def describe_job(self, body: Json) -> Json:
        job = self._job(body)
        if job["hidden"]:
            job["hidden"] -= 1
            raise Refused("ResourceNotFound", "Requested resource not found")
        if self.lives[job["JobName"]]:
            become(job, **self.lives[job["JobName"]].popleft())
        return {key: value for key, value in job.items() if key != "hidden"}

    def list_jobs(self, body: Json) -> Json:
        rows = [job for job in self.jobs.values() if job["JobCategory"] == body["JobCategory"]][::-1]
        keys = ("JobArn", "JobName", "JobCategory", "JobStatus", "CreationTime", "LastModifiedTime")
        shown = [{**{key: row[key] for key in keys}, "JobSecondaryStatus": row["SecondaryStatus"]} for row in rows]
        return self._page(shown, body, "JobSummaries")

    def _page(self, rows: list[Json], body: Json, key: str) -> Json:
        start = int(body.get("NextToken", 0))
        return {key: rows[start : start + 2], **({"NextToken": str(start + 2)} if len(rows) > start + 2 else {})}

    def stop_job(self, body: Json) -> Json:
        if self._job(body)["JobStatus"] == "InProgress":
            become(self._job(body), status="Stopping", phase="Stopping")
        return {}

    def delete_job(self, body: Json) -> Json:
        job = self._job(body)
        if job["JobStatus"] not in _ENDED:
            raise Refused("ResourceInUse", "Stop the job first")
        become(job, status="Deleting", phase="Deleting")
        return {}

    def describe_job_schema_version(self, body: Json) -> Json:
        version = body.get("JobConfigSchemaVersion", "1.0.0")
        return {
            "JobCategory": body["JobCategory"],
            "JobConfigSchemaVersion": version,
            "JobConfigSchema": self.schema,
        }

    def list_model_packages(self, body: Json) -> Json:
        group = body["ModelPackageGroupName"]
        if group not in self.packages:
            raise Refused("AccessDeniedException", "not authorized to perform: sagemaker:ListModelPackages")
        after, before = body["CreationTimeAfter"], body.get("CreationTimeBefore", 9e9)
        rows = [row for row in self.packages[group] if after < row["CreationTime"] < before]
        return self._page(rows[::-1], body, "ModelPackageSummaryList")

    def create_presigned_mlflow_app_url(self, body: Json) -> Json:
        if self.mlflow_denied:
            raise Refused("AccessDeniedException", "not authorized to perform: sagemaker:CreatePresignedMlflowAppUrl")
        self.urls += 1
        return {"AuthorizedUrl": f"{self.endpoint}/auth?authToken={SECRET}-{self.urls}#/experiments"}

    # --- logs ---

    def describe_log_streams(self, body: Json) -> Json:
        if self.log is None:
            raise Refused("ResourceNotFoundException", "The specified log group does not exist.")
        assert body["logGroupName"] == "/aws/sagemaker/Job/AgentRFT"
        names = [name for name in sorted(self.log) if name.startswith(body["logStreamNamePrefix"])]
        start = int(body.get("nextToken", 0))
        more = {"nextToken": str(start + 1)} if len(names) > start + 1 else {}
        return {"logStreams": [{"logStreamName": name} for name in names[start : start + 1]], **more}

    def get_log_events(self, body: Json) -> Json:
        assert body["startFromHead"] is True  # otherwise the service begins with the end
        pages, number = (self.log or {})[body["logStreamName"]], int(body.get("nextToken", 0))
        lines = pages[number] if number < len(pages) else []
        at = 1_764_000_000_000 + 1000 * number
        events = [{"timestamp": at, "message": text, "ingestionTime": at} for text in lines]
        return {"events": events, "nextForwardToken": str(min(number + 1, len(pages)))}

    # --- MLflow ---

    def mlflow(self, path: str, given: Json) -> Json:
        if path == "runs/get":
            known = self.metrics[given["run_id"]]
            rows = [{"key": name, **_point(values, max(values))} for name, values in known.items()]
            return {"run": {"info": {}, "data": {"metrics": rows}}}
        if path == "metrics/get-history":
            values = self.metrics[given["run_id"]].get(given["metric_key"])
            if values is None:
                raise Refused("RESOURCE_DOES_NOT_EXIST", "no such metric", 404)
            steps, start = sorted(values), int(given.get("page_token", 0))
            more = {"next_page_token": str(start + 2)} if len(steps) > start + 2 else {}
            return {"metrics": [_point(values, step) for step in steps[start : start + 2]], **more}
        if path == "traces/search":
            run = given["filter"].split("'")[1]
            rows = [{"trace_id": f"{run}-{n}"} for n in range(len(self.traces.get(run, ())))]
            start, size = int(given.get("page_token", 0)), given["max_results"]
            more = {"next_page_token": str(start + size)} if len(rows) > start + size else {}
            return {"traces": rows[start : start + size], **more}
        assert path == "get-trace-artifact"
        run, _, number = given["request_id"].rpartition("-")
        prompt, reward = self.traces[run][int(number)]
        attributes = {"mlflow.spanInputs": json.dumps({"prompt": prompt}), "reward": json.dumps(reward)}
        return {"spans": [{"name": "turn-1", "attributes": {}}, {"name": "trajectory", "attributes": attributes}]}


def _point(values: Json, step: Any) -> Json:
    return {"step": str(step), "value": values[step], "timestamp": 1_764_000_000_000 + 1000 * int(step)}


def become(job: Json, *, status: str | None = None, phase: str | None = None, message: str = "", **output: Any) -> None:
    """Change a job: its statuses, `FailureReason` (`failure=`), and blocks of `ServiceOutput`."""
    at = job["LastModifiedTime"] = job["LastModifiedTime"] + 1
    job["JobStatus"] = status or job["JobStatus"]
    if phase:
        job["SecondaryStatus"] = phase
        job["SecondaryStatusTransitions"][-1]["EndTime"] = at
        job["SecondaryStatusTransitions"].append({"Status": phase, "StartTime": at, "StatusMessage": message})
    if job["JobStatus"] in _ENDED:
        job["EndTime"] = at
    if failure := output.pop("failure", None):
        job["FailureReason"] = failure
    document = json.loads(job["JobConfigDocument"])
    document.setdefault("ServiceOutput", {}).update(output)
    job["JobConfigDocument"] = json.dumps(document)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head and a body that are sent one by one wait for each other
    service: Service

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.headers.get("X-Amz-Target")
        try:
            if target:
                self._aws(*target.split("."), json.loads(raw))
            elif self.command == "PUT":
                self.service.objects[self.path.lstrip("/")] = raw
                self._answer(200, None)
            else:
                self._mlflow(raw)
        except Refused as error:
            self._answer(error.status, {"__type": error.code, "message": error.message, "Message": error.message})

    def _aws(self, prefix: str, operation: str, body: Json) -> None:
        model = _model(_TARGETS[prefix]).operation_model(operation)
        problems = ParamValidator().validate(body, model.input_shape).generate_report()
        unknown = set(body) - set(model.input_shape.members)
        if problems or unknown:
            raise Refused("ValidationException", f"{problems} {unknown}")
        name = "".join(f"_{char.lower()}" if char.isupper() else char for char in operation).lstrip("_")
        self.service.calls.append((name, body))
        queue = self.service.troubles[name]
        trouble = queue.popleft() if queue else None
        if trouble and trouble.code and not trouble.applied:
            raise Refused(trouble.code, "no", trouble.status)
        answer = getattr(self.service, name)(body)
        if trouble and trouble.code:
            raise Refused(trouble.code, "no", trouble.status)
        if trouble:
            self.close_connection = True
            return
        self._answer(200, answer, ("Content-Type", "application/x-amz-json-1.1"))

    def _mlflow(self, raw: bytes) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/auth":
            assert query["authToken"] == f"{SECRET}-{self.service.urls}"
            cookie = f"cookie-{self.service.urls}"
            self.service.sessions[cookie] = self.service.session_calls
            self._answer(302, None, ("Location", "/app/"), ("Set-Cookie", f"session={cookie}; Path=/"))
            return
        cookie = (self.headers.get("Cookie") or "").removeprefix("session=")
        if url.path == "/app/":
            self._answer(200, {})
            return
        self.service.calls.append(("mlflow", {"path": url.path}))
        if self.service.sessions.get(cookie, 0) <= 0:
            raise Refused("FORBIDDEN", "no session", 403)
        self.service.sessions[cookie] -= 1
        path = url.path.partition("/mlflow/")[2]
        trouble = self.service.troubles[path].popleft() if self.service.troubles[path] else None
        if trouble:
            raise Refused(trouble.code or "", "no", trouble.status)
        self._answer(200, self.service.mlflow(path, query or json.loads(raw)))

    def _answer(self, status: int, answer: Json | None, *headers: tuple[str, str]) -> None:
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _serve

    def log_message(self, *args: object) -> None:
        pass


class Server:
    """Serves a new `Service` on loopback."""

    def __init__(self) -> None:
        self.service = Service()
        handler = type("Handler", (_Handler,), {"service": self.service})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.endpoint = self.service.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
