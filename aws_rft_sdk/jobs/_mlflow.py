"""Metrics and traces in a job's MLflow app, over plain HTTP. A presigned URL gives a cookie, which opens the API.

The presigned URL and the cookie are secrets. No log, error or repr shows them.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import requests

from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import is_loopback_url
from aws_rft_sdk.errors import (
    AccessDeniedError,
    ServiceConnectionError,
    ServiceError,
    ServiceFaultError,
    ServiceTimeoutError,
    ThrottledError,
    TransportError,
)
from aws_rft_sdk.jobs._sagemaker_answers import event
from aws_rft_sdk.jobs.types import Event

_SESSION_SECONDS = 240.0
"""After this time the session is renewed, before the service ends it."""
_CALL_SECONDS = 30.0
_ATTEMPTS = 4
"""Of a call that is throttled, or meets a fault of the app. An evaluation asks once for each of its traces."""
_BACKOFF = Backoff()
_PAGE = 1000
_TRACES = 100
_ROOT_SPAN = "trajectory"
_USUAL = (
    *(f"{phase}/reward/{name}" for phase in ("rollout", "val", "eval") for name in ("mean", "std", "min", "max")),
    *(f"{phase}/reward/pass_at_1" for phase in ("val", "eval")),
    *("rollout/turns/mean", "rollout/tokens/response_mean", "rollout/tokens/response_max", "rollout/advantage/mean"),
    *("training/total_tokens", "training/num_trajectories", "training/num_groups", "analysis/zero_adv_groups"),
)
"""Metrics to ask for where the app does not list those of a run."""


_CHATTY = ("urllib3.connectionpool", "botocore.parsers", "botocore.hooks", "botocore.retryhandler")
"""Loggers of libraries that write URLs and answers while debugging."""
_TOKEN = re.compile(r"(authToken=)[^&\s\"'#]+")


class _MissingError(ServiceError):
    """404: the app does not know what is asked for, or not yet."""


class _WithoutTokens(logging.Filter):
    """Removes the token of a presigned URL from a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "authToken=" in text:
            record.msg, record.args = _TOKEN.sub(r"\1<removed>", text), ()
        return True


_without_tokens = _WithoutTokens()


class Mlflow:
    """A session with an MLflow app. Not safe to share between threads.

    Args:
        presign: Returns a new presigned URL of the app.
        sleep: Waits before a call is repeated, in seconds.
        clock: Returns seconds that never go back.
    """

    def __init__(
        self,
        presign: Callable[[], str],
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._presign = presign
        self._sleep = sleep
        self._clock = clock
        self._session: requests.Session | None = None
        self._base = ""
        self._opened_at = 0.0

    def metrics(self, run: str) -> dict[str, tuple[int, int]]:
        """Return the names of a run's metrics, each with the step and the time (in ms) of its last value."""
        data = self._ask("GET", "2.0/mlflow/runs/get", {"run_id": run}).get("run", {}).get("data", {})
        rows = [row for row in data.get("metrics", ()) if isinstance(row, Mapping) and "key" in row]
        return {str(row["key"]): (int(row.get("step", 0)), int(row.get("timestamp", 0))) for row in rows}

    def history(self, run: str, metric: str) -> dict[int, tuple[int, float]]:
        """Return the values of a metric by their steps, each with its time (in ms). Of two values the later counts.

        Returns {} if the app does not know the run or the metric.
        """
        found: dict[int, tuple[int, float]] = {}
        params: dict[str, JSON] = {"run_id": run, "metric_key": metric, "max_results": _PAGE}
        try:
            rows = list(self._pages("GET", "2.0/mlflow/metrics/get-history", params, "metrics"))
        except _MissingError:
            return found
        for row in rows:
            step, value = int(row.get("step", 0)), (int(row.get("timestamp", 0)), float(row["value"]))
            if step not in found or found[step][0] <= value[0]:
                found[step] = value
        return found

    def traces(self, experiment: str, run: str) -> Iterator[dict[str, JSON]]:
        """Yield the root span of each rollout of a run: `prompt` and `reward`, and the trace's `id`.

        A trace without a root span called `trajectory`, or whose spans cannot be read, is left out.
        """
        body = {
            "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}],
            "filter": f"attribute.run_id = '{run}'",
            "max_results": _TRACES,
        }
        for row in self._pages("POST", "3.0/mlflow/traces/search", body, "traces"):
            trace = str(row.get("trace_id") or row.get("request_id"))
            source = _pairs(row.get("trace_metadata") or row.get("request_metadata")).get("mlflow.sourceRun", run)
            if source != run:  # a server that does not know the filter
                continue
            try:
                spans = self._ask("GET", "2.0/mlflow/get-trace-artifact", {"request_id": trace}, api="ajax-api")
            except _MissingError:
                continue
            root = next((span for span in spans.get("spans", ()) if span.get("name") == _ROOT_SPAN), None)
            if root is not None:
                yield {"id": trace, **rollout_of(root)}

    def _pages(self, method: str, path: str, given: Mapping[str, JSON], key: str) -> Iterator[Mapping[str, JSON]]:
        token: str | None = None
        while True:
            page = self._ask(method, path, {**given, **({"page_token": token} if token else {})})
            yield from page.get(key, ())
            token, before = page.get("next_page_token"), token
            if not token or token == before:
                return

    def _ask(self, method: str, path: str, given: Mapping[str, JSON], api: Literal["api", "ajax-api"] = "api") -> Any:
        """Call the API. Throttled calls and faults of the app are repeated: all calls only read.

        Raises:
            ServiceError: The app cannot be reached, or refuses.
        """
        for attempt in range(1, _ATTEMPTS):
            try:
                return self._ask_once(method, path, given, api)
            except (TransportError, ThrottledError, ServiceFaultError) as error:
                self._sleep(_BACKOFF.delay(attempt, error.retry_after_seconds))
        return self._ask_once(method, path, given, api)

    def _ask_once(self, method: str, path: str, given: Mapping[str, JSON], api: str) -> dict[str, Any]:
        """Call the API. A session that is refused is renewed once."""
        if self._clock() - self._opened_at > _SESSION_SECONDS:
            self._session = None
        where = {"params": given} if method == "GET" else {"json": given}
        session = self._open()
        response = self._send(session, method, f"{self._base}/{api}/{path}", **where)
        if response.status_code in (401, 403):
            self._session = None
            response = self._send(self._open(), method, f"{self._base}/{api}/{path}", **where)
        refuse_status(response, path)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ServiceConnectionError(f"MLflow answered {path} with something that is no JSON object")
        return found

    def _open(self) -> requests.Session:
        if self._session is not None:
            return self._session
        for name in _CHATTY:  # a filter that is there already is not added again
            logging.getLogger(name).addFilter(_without_tokens)
        url, session = self._presign(), requests.Session()
        session.trust_env = not is_loopback_url(url)  # no proxy stands before this machine
        opened = self._send(session, "GET", url.partition("#")[0])
        refuse_status(opened, "its presigned URL")
        self._base = urlunsplit((*urlsplit(opened.url)[:3], "", "")).rstrip("/")
        self._session, self._opened_at = session, self._clock()
        return session

    def _send(self, session: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        try:
            return session.request(method, url, timeout=_CALL_SECONDS, **options)
        except requests.Timeout:
            raise ServiceTimeoutError(f"MLflow did not answer within {_CALL_SECONDS:g} s") from None
        except (requests.RequestException, ValueError) as error:  # their texts quote the URL
            raise ServiceConnectionError(f"MLflow cannot be reached ({type(error).__name__})") from None


def refuse_status(response: requests.Response, path: str) -> None:
    """Raise the error of an answer of MLflow that is not 2xx.

    Raises:
        AccessDeniedError, _MissingError, ThrottledError, ServiceFaultError, ServiceError: By the status.
    """
    status, pause = response.status_code, parse_retry_after(response.headers.get("Retry-After"))
    if status < 300:
        return
    text = f"MLflow refused {path} with status {status}"
    if status in (401, 403):
        raise AccessDeniedError(
            f"{text}. Allow sagemaker:CreatePresignedMlflowAppUrl and sagemaker-mlflow:* on the app", status=status
        )
    if status == 404:
        raise _MissingError(text)
    if status == 429:
        raise ThrottledError(f"{text}. Try again later", status=status, retry_after_seconds=pause)
    if status >= 500:
        raise ServiceFaultError(f"{text}. Try again later", status=status, retry_after_seconds=pause)
    raise ServiceError(text)


def rollout_of(span: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return `prompt` and `reward` of a span, from its attributes, inputs and outputs. Each is None if it is not there.

    MLflow keeps attributes as texts of JSON.
    """
    given = {name: _decoded(value) for name, value in _pairs(span.get("attributes")).items()}
    inputs, outputs = given.get("mlflow.spanInputs"), given.get("mlflow.spanOutputs")
    places = [given, inputs, outputs]
    tables = [place for place in places if isinstance(place, Mapping)]
    prompt = next((t[name] for t in tables for name in ("prompt", "dataset_prompt") if name in t), inputs)
    reward = next((table["reward"] for table in tables if "reward" in table), outputs)
    number = reward if is_number(reward) else None
    text = prompt if isinstance(prompt, str) else None if prompt is None else json.dumps(prompt, sort_keys=True)
    return {"prompt": text, "reward": None if number is None else float(number)}


def _pairs(of: JSON) -> dict[str, JSON]:
    """Return a table, also from MLflow's list of `key` and `value`."""
    if isinstance(of, list):
        return {str(item.get("key")): item.get("value") for item in of if isinstance(item, Mapping)}
    return dict(of) if isinstance(of, Mapping) else {}


def _decoded(value: JSON) -> JSON:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


class MetricEvents:
    """The metrics of a run as events, one a step. It remembers what it has read."""

    def __init__(self, mlflow: Mlflow, run: str) -> None:
        self._mlflow = mlflow
        self._run = run
        self._latest: dict[str, tuple[int, int]] = {}
        self._steps: dict[int, dict[str, tuple[int, float]]] = {}

    def read(self, total_steps: int | None) -> list[Event]:
        """Return the events of all steps. A step that has more metrics now is another event.

        Raises:
            ServiceError: MLflow cannot be read. What was read before is kept.
        """
        for metric, last in self._metrics().items():
            if last is None or self._latest.get(metric) != last:
                for step, value in self._mlflow.history(self._run, metric).items():
                    self._steps.setdefault(step, {})[metric] = value
            if last is not None:
                self._latest[metric] = last
        return [self._event(step, self._steps[step], total_steps) for step in sorted(self._steps)]

    def _metrics(self) -> Mapping[str, tuple[int, int] | None]:
        """Return the metrics to read, each with step and time of its last value. None if the app does not say these."""
        try:
            return self._mlflow.metrics(self._run)
        except (AccessDeniedError, _MissingError):  # a role may be allowed to read histories alone
            return dict.fromkeys(_USUAL)

    def _event(self, step: int, metrics: Mapping[str, tuple[int, float]], total_steps: int | None) -> Event:
        values = {name: value if math.isfinite(value) else str(value) for name, (_, value) in metrics.items()}
        at = max(time for time, _ in metrics.values()) / 1000
        total = {"total_steps": total_steps} if total_steps else {}
        data = {"data": {"step": step, **total, **values}}
        return event("metrics", (self._run, step, values), data, f"metrics of step {step}", at)
