"""Scripts of HTTP outcomes for the feedback client (`responses`); nothing sleeps and nothing leaves."""

from __future__ import annotations

import json
from typing import Any

import responses
from fakes import ga_payload
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3.exceptions import MaxRetryError, NewConnectionError

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.client import RolloutFeedbackClient

LOCAL = "http://127.0.0.1:1"
AT_ONCE = Backoff(base_seconds=0, cap_seconds=0)
PATHS = {"alpha": ("/CompleteTrajectory", "/UpdateReward"), "ga": ("/complete-rollout", "/update-reward")}


def make(**kwargs: Any) -> RolloutFeedbackClient:
    settings = {"endpoint": LOCAL, "api": "ga", "backoff": AT_ONCE, **kwargs}
    return RolloutFeedbackClient(settings.pop("source", ga_payload("t-1")), **settings)


def script(wire: responses.RequestsMock, path: str, *outcomes: Any, url: str = LOCAL) -> None:
    """Answer calls of a path in order with statuses, (status, headers), or exceptions."""
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            wire.post(url + path, body=outcome)
        else:
            status, headers = outcome if isinstance(outcome, tuple) else (outcome, {})
            wire.post(url + path, status=status, headers=headers, json={"Message": f"message {status}"})


def bodies(wire: responses.RequestsMock) -> list[dict[str, Any]]:
    return [json.loads(call.request.body or b"") for call in wire.calls]


def refused() -> RequestsConnectionError:
    return RequestsConnectionError(MaxRetryError(None, "/", NewConnectionError(None, "refused")))  # type: ignore[arg-type] # no pool


def broken() -> RequestsConnectionError:
    return RequestsConnectionError("reset")
