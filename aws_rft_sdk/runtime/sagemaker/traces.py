"""Traces of rollouts in the form of MLflow: a root span `trajectory`, a span for each turn and for each tool call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.sagemaker.rows import TraceRow

_PREVIEW = 1000


def info(trace: TraceRow, folder: str) -> dict[str, JSON]:
    """Return what a list of traces shows.

    Args:
        trace: The trace.
        folder: S3 URI of the run's artifacts.
    """
    rollout = trace.rollout
    began_at, ended_at = _times(rollout, (trace.at, trace.at))
    tags = {name: str(rollout[name]) for name in ("phase", "step") if name in rollout}
    return {
        "trace_id": trace.id,
        "client_request_id": str(rollout.get("id", trace.id)),
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": trace.job.experiment_id},
        },
        "request_time": datetime.fromtimestamp(began_at, timezone.utc).isoformat(),
        "execution_duration": f"{max(ended_at - began_at, 0):.3f}s",
        "state": "OK" if rollout.get("reward") is not None else "ERROR",
        "request_preview": _text(rollout.get("prompt"))[:_PREVIEW],
        "response_preview": _text(rollout.get("reward")),
        "trace_metadata": {"mlflow.sourceRun": trace.job.run_id, "mlflow.trace_schema.version": "3"},
        "tags": {**tags, "mlflow.artifactLocation": f"{folder}/traces/{trace.id}/artifacts"},
    }


def spans(trace: TraceRow) -> list[dict[str, JSON]]:
    """Return the spans of a trace, the root first."""
    rollout = trace.rollout
    root_id, whole = trace.id[3:19], _times(rollout, (trace.at, trace.at))
    known = {name: value for name, value in rollout.items() if name not in ("turns", "prompt", "reward")}
    found = [
        _span(
            trace,
            "trajectory",
            root_id,
            None,
            {"prompt": rollout.get("prompt")},
            {"reward": rollout.get("reward")},
            known | {"prompt": rollout.get("prompt"), "reward": rollout.get("reward")},
            whole,
        )
    ]
    for number, turn in enumerate(rollout.get("turns") or (), 1):
        turn_id = f"{root_id[:8]}{number:08x}"
        times = _times(turn, whole)
        known = {name: value for name, value in turn.items() if name not in ("request", "response")}
        asked, said = turn.get("request"), turn.get("response")
        found.append(_span(trace, f"turn-{number}", turn_id, root_id, asked, said, known, times))
        for place, call in enumerate(_tool_calls(said), 1):
            function = call.get("function", {})
            call_id = f"{root_id[:4]}{number:06x}{place:06x}"
            given = {"arguments": function.get("arguments")}
            found.append(
                _span(
                    trace,
                    str(function.get("name", "tool")),
                    call_id,
                    turn_id,
                    given,
                    None,
                    {"id": call.get("id")},
                    times,
                )
            )
    return found


def _span(
    trace: TraceRow,
    name: str,
    span_id: str,
    parent: str | None,
    inputs: JSON,
    outputs: JSON,
    attributes: Mapping[str, JSON],
    times: tuple[float, float],
) -> dict[str, JSON]:
    named = {"mlflow.traceRequestId": trace.id, "mlflow.spanInputs": inputs, "mlflow.spanOutputs": outputs}
    return {
        "trace_id": trace.id,
        "span_id": span_id,
        "parent_span_id": parent,
        "name": name,
        "start_time_unix_nano": int(times[0] * 1e9),
        "end_time_unix_nano": int(times[1] * 1e9),
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {key: json.dumps(value) for key, value in {**attributes, **named}.items()},
        "events": [],
    }


def _times(of: Mapping[str, Any], otherwise: tuple[float, float]) -> tuple[float, float]:
    return float(of.get("started_at", otherwise[0])), float(of.get("ended_at", otherwise[1]))


def _tool_calls(response: JSON) -> list[dict[str, Any]]:
    """Return the tool calls in an answer of the chat API."""
    try:
        return [dict(call) for call in response["choices"][0]["message"].get("tool_calls") or ()]
    except (LookupError, TypeError, AttributeError, ValueError):
        return []


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value)
