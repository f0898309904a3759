"""The part of MLflow's REST API that reads experiments, runs, metrics and traces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.sagemaker.checking import read_json
from aws_rft_sdk.runtime.sagemaker.messages import Answer, Asked, json_answer
from aws_rft_sdk.runtime.sagemaker.rows import JobRow, MetricRow
from aws_rft_sdk.runtime.sagemaker.sessions import COOKIE, Sessions
from aws_rft_sdk.runtime.sagemaker.store import Store
from aws_rft_sdk.runtime.sagemaker.traces import info, spans

AUTH_PATH = "/auth"
_API = re.compile(r"/(?:ajax-)?api/[23]\.0/mlflow/(.*)")
_STATUSES = {"Completed": "FINISHED", "Failed": "FAILED", "Stopped": "KILLED"}
_MAX_PAGE = 25_000
_MAX_TRACES = 500


def serves(path: str) -> bool:
    """Return whether a path is one of MLflow."""
    return path in (AUTH_PATH, "/") or _API.fullmatch(path) is not None


class Mlflow:
    """Answers calls of MLflow that carry the cookie of a session.

    Args:
        store: The database.
        sessions: Who may read.
    """

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self._store, self._sessions = store, sessions
        self._calls: dict[str, Callable[[Mapping[str, Any]], JSON]] = {
            "experiments/search": self._experiments,
            "experiments/get": self._experiment,
            "experiments/get-by-name": self._experiment,
            "runs/get": lambda given: {"run": self._shown_run(self._run(given))},
            "runs/search": self._runs,
            "metrics/get-history": self._history,
            "traces": self._old_traces,
            "traces/search": self._traces,
            "get-trace-artifact": self._trace_data,
            "traces/get": lambda given: {"trace": self._whole_trace(str(given.get("trace_id")))},
        }

    def answer(self, asked: Asked) -> Answer:  # noqa: D102 - see Service
        if asked.path == AUTH_PATH:
            cookie = self._sessions.open(asked.query.get("authToken", ""))
            return Answer(
                b"", 302, "text/plain", (("location", "/"), ("set-cookie", f"{COOKIE}={cookie}; Path=/; HttpOnly"))
            )
        self._sessions.check(asked.headers.get("cookie", ""))
        if asked.path == "/":
            return Answer(b"<!doctype html><title>MLflow</title>Read me by my REST API.", 200, "text/html")
        match = _API.fullmatch(asked.path)
        name = match[1].strip("/") if match else ""
        given = asked.query if asked.method == "GET" else read_json(asked.body)
        if name in self._calls:
            return json_answer(self._calls[name](given))
        if trace := re.fullmatch("traces/(tr-[0-9a-f]+)(/info)?", name):
            whole = self._whole_trace(trace[1])
            return json_answer({"trace": {"trace_info": whole["trace_info"]}})
        raise Refusal(404, f"LocalJobs does not serve {asked.path:.200}", code="ENDPOINT_NOT_FOUND")

    def refuse(self, refusal: Refusal) -> Answer:  # noqa: D102 - see Service
        return json_answer({"error_code": refusal.code, "message": refusal.message}, status=refusal.status)

    # --- experiments and runs ----------------------------------------------------------------------------------------

    def _experiments(self, given: Mapping[str, Any]) -> JSON:
        return {"experiments": [_experiment(*row) for row in self._store.experiments()]}

    def _experiment(self, given: Mapping[str, Any]) -> JSON:
        wanted = given.get("experiment_id"), given.get("experiment_name")
        for row in self._store.experiments():
            if row[0] == wanted[0] or row[1] == wanted[1]:
                return {"experiment": _experiment(*row)}
        raise _missing(f"experiment {wanted[0] or wanted[1]}")

    def _runs(self, given: Mapping[str, Any]) -> JSON:
        wanted = set(given.get("experiment_ids") or ())
        return {"runs": [self._shown_run(job) for job in self._store.jobs()[::-1] if job.experiment_id in wanted]}

    def _run(self, given: Mapping[str, Any]) -> JobRow:
        run_id = str(given.get("run_id") or given.get("run_uuid") or "")
        job = self._store.job_of_run(run_id)
        if job is None:
            raise _missing(f"run {run_id}")
        return job

    def _shown_run(self, job: JobRow) -> JSON:
        latest = {row.name: row for row in self._store.metrics(job)}  # they come by step
        run_info = {
            "run_id": job.run_id,
            "run_uuid": job.run_id,
            "run_name": job.run_name,
            "experiment_id": job.experiment_id,
            "status": _STATUSES.get(job.status, "RUNNING"),
            "start_time": _ms(job.created_at),
            "lifecycle_stage": "active",
            "artifact_uri": f"{_folder(job)}/artifacts",
            **({} if job.ended_at is None else {"end_time": _ms(job.ended_at)}),
        }
        config = job.document.get("TrainingConfig") or job.document.get("EvaluationConfig", {})
        params = [{"key": name, "value": text} for name, text in config.get("HyperParameters", {}).items()]
        tags = [{"key": "mlflow.runName", "value": job.run_name}, {"key": "sagemaker.job_arn", "value": job.arn}]
        return {
            "info": run_info,
            "data": {"metrics": list(map(_metric, latest.values())), "params": params, "tags": tags},
        }

    def _history(self, given: Mapping[str, Any]) -> JSON:
        job = self._run(given)
        if not given.get("metric_key"):
            raise _wrong("metric_key is missing")
        rows = self._store.metrics(job, str(given["metric_key"]))
        begin, size = _span(given, _MAX_PAGE, default=_MAX_PAGE)
        token = {"next_page_token": str(begin + size)} if begin + size < len(rows) else {}
        return {"metrics": list(map(_metric, rows[begin : begin + size])), **token}

    # --- traces ------------------------------------------------------------------------------------------------------

    def _old_traces(self, given: Mapping[str, Any]) -> JSON:
        # MLflow 2 calls a trace's id request_id, and lists its metadata as pairs.
        found = self._traces({**given, "experiment_ids": str(given.get("experiment_ids", "")).split(",")})
        for trace in found["traces"]:
            trace["request_id"] = trace["trace_id"]
            trace["request_metadata"] = _pairs(trace.pop("trace_metadata"))
            trace["tags"] = _pairs(trace["tags"])
        return found

    def _traces(self, given: Mapping[str, Any]) -> Any:
        locations = [place.get("mlflow_experiment", {}).get("experiment_id") for place in given.get("locations", ())]
        wanted = {str(name) for name in (*locations, *(given.get("experiment_ids") or ()))}
        jobs = [job for job in self._store.jobs() if job.experiment_id in wanted]
        if text := given.get("filter"):
            match = re.fullmatch(
                r"\s*(?:attributes?\.|metadata\.)?`?(?:run_id|mlflow.sourceRun)`?\s*=\s*'(\w+)'\s*", text
            )
            if match is None:
                raise _wrong("LocalJobs knows no other filter of traces than attribute.run_id = '...'")
            jobs = [job for job in jobs if job.run_id == match[1]]
        begin, size = _span(given, _MAX_TRACES, default=100)
        rows = self._store.traces(jobs, begin=begin, limit=size + 1)
        token = {"next_page_token": str(begin + size)} if len(rows) > size else {}
        return {"traces": [info(row, _folder(row.job)) for row in rows[:size]], **token}

    def _trace_data(self, given: Mapping[str, Any]) -> JSON:
        return self._whole_trace(str(given.get("request_id") or given.get("trace_id")))["trace_data"]

    def _whole_trace(self, trace_id: str) -> dict[str, JSON]:
        row = self._store.find_trace(trace_id)
        if row is None:
            raise _missing(f"trace {trace_id}")
        return {"trace_info": info(row, _folder(row.job)), "trace_data": {"spans": spans(row)}}


def _span(given: Mapping[str, Any], most: int, *, default: int) -> tuple[int, int]:
    """Return where a page begins and how many rows it has. The token of the next page is its beginning."""
    size, token = str(given.get("max_results") or default), str(given.get("page_token") or 0)
    if not size.isdigit() or not 1 <= int(size) <= most:
        raise _wrong(f"max_results must be from 1 to {most}")
    if not token.isdigit():
        raise _wrong("page_token is none that this server gave")
    return int(token), int(size)


def _metric(row: MetricRow) -> dict[str, JSON]:
    return {"key": row.name, "value": row.value, "timestamp": _ms(row.at), "step": row.step}


def _experiment(experiment_id: str, name: str, at: float) -> dict[str, JSON]:
    times = {"creation_time": _ms(at), "last_update_time": _ms(at)}
    return {"experiment_id": experiment_id, "name": name, "lifecycle_stage": "active", **times}


def _folder(job: JobRow) -> str:
    return f"{str(job.document['OutputDataConfig']['S3OutputPath']).rstrip('/')}/{job.name}/mlflow/{job.run_id}"


def _pairs(table: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    return [
        {"key": key, "value": value if isinstance(value, str) else json.dumps(value)} for key, value in table.items()
    ]


def _ms(at: float) -> int:
    return int(at * 1000)


def _missing(what: str) -> Refusal:
    return Refusal(404, f"There is no {what:.200}", code="RESOURCE_DOES_NOT_EXIST")


def _wrong(message: str) -> Refusal:
    return Refusal(400, message, code="INVALID_PARAMETER_VALUE")
