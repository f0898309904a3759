"""Spans and metrics of real rollouts, in a process of its own since a provider is for ever."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = r'''
import asyncio, json, logging, warnings
warnings.simplefilter("ignore")
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import aws_rft_sdk.handler  # imported before a provider is set, as in an application

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

from strands import Agent, tool
from strands.models.openai import OpenAIModel
from aws_rft_sdk import LocalRuntime, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.client import Backoff, RolloutFeedbackClient
from aws_rft_sdk.runtime import Fault, Faults

seen = []

class Watching(Faults):
    def draw(self, route, headers, body):
        seen.append((route, {name.decode().lower(): value.decode() for name, value in headers}))
        return super().draw(route, headers, body)

def policy(request):
    if request["messages"][-1]["role"] == "tool":
        return "done"
    call = {"id": "c", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}

@tool
def ping() -> str:
    """Ping."""
    return "pong"

def client(request):
    return RolloutFeedbackClient(request, backoff=Backoff(base_seconds=0.0))

@rft_handler(client=client)
async def handler(payload):
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    await Agent(model=model, tools=[ping], callback_handler=None).invoke_async(payload["prompt"])
    if payload["prompt"] == "fails":
        raise LookupError("secret words of the user")
    return 0.5

@rft_handler(client=client)
def untracked(payload):
    return 1.0

logging.disable(logging.CRITICAL)
with LocalRuntime(policy, faults=Watching(Fault("status", route="reward", status=503, attempts=[1]))) as runtime:
    payloads = [runtime.new_rollout(prompt) for prompt in ("works", "fails", "untracked")]
    asyncio.run(handler(payloads[0]))
    for fn, payload in ((lambda p: asyncio.run(handler(p)), payloads[1]), (untracked, payloads[2])):
        try:
            fn(payload)
        except Exception:
            pass
    import tempfile
    from fakes import leave_pending
    from aws_rft_sdk.feedback.outbox import shared_outbox
    pending = RolloutFeedbackClient(runtime.new_rollout("pending"))
    outbox = shared_outbox(tempfile.mkdtemp() + "/outbox.db")
    leave_pending(outbox, pending)
    turns = [[turn.span_id for turn in t.turns] for t in runtime.trajectories()]

spans = [
    {
        "name": s.name, "trace": s.context.trace_id, "id": format(s.context.span_id, "016x"),
        "parent": s.parent and format(s.parent.span_id, "016x"), "status": s.status.status_code.name,
        "attributes": {k: v for k, v in s.attributes.items() if isinstance(v, (str, int, float))},
        "events": [e.name for e in s.events],
    }
    for s in exporter.get_finished_spans()
]
points = {}
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        if scope.scope.name == "aws_rft_sdk":
            for metric in scope.metrics:
                points[metric.name] = [
                    [dict(p.attributes), getattr(p, "value", getattr(p, "count", None)), getattr(p, "sum", None)]
                    for p in metric.data.data_points
                ]
ids = [p["metadata"]["rolloutId"] for p in payloads]
print(json.dumps({"spans": spans, "metrics": points, "turns": turns, "ids": ids, "seen": seen}))
'''


@pytest.fixture(scope="module")
def told():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "OTEL_", "RFT_"))}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**environment, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rollout_span(told, number):
    (span,) = [
        s
        for s in told["spans"]
        if s["name"] == "rft.rollout" and s["attributes"]["rft.trajectory_id"] == told["ids"][number]
    ]
    return span


def test_rollout_has_one_trace_with_strands_spans_and_feedback_below_it(told):
    root = rollout_span(told, 0)
    below = [s for s in told["spans"] if s["trace"] == root["trace"] and s is not root]
    parents = {s["id"] for s in below} | {root["id"]}

    assert root["parent"] is None
    assert all(s["parent"] in parents for s in below)
    assert [s["name"] for s in below].count("rft.feedback") == 2
    assert any(s["attributes"].get("gen_ai.system") or "gen_ai.operation.name" in s["attributes"] for s in below)


def test_rollout_span_says_what_became_of_it(told):
    works, fails, untracked = (rollout_span(told, number) for number in range(3))

    assert (
        works["attributes"]
        | {
            "rft.outcome": "completed",
            "rft.turns": 2,
            "rft.turns.failed": 0,
            "rft.reward": 0.5,
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.conversation.id": told["ids"][0],
        }
        == works["attributes"]
    )
    assert (fails["attributes"]["rft.outcome"], fails["attributes"]["rft.reward"]) == ("failed", 0.0)
    assert (fails["attributes"]["error.type"], fails["status"]) == ("LookupError", "ERROR")
    assert (fails["attributes"]["rft.failure.kind"], fails["attributes"]["rft.reward.floor"]) == ("agent", True)
    assert not {"rft.failure.kind", "rft.reward.floor"} & works["attributes"].keys()
    assert untracked["attributes"]["rft.outcome"] == "unreported"
    assert untracked["attributes"]["error.type"] == "NoTrackedTurnsError"


def test_turns_were_recorded_under_the_ids_of_the_spans_of_their_calls(told):
    by_id = {s["id"]: s for s in told["spans"]}

    assert len(told["turns"][0]) == 2
    for span_id in told["turns"][0]:
        assert by_id[span_id]["name"] != "rft.rollout"
        assert by_id[span_id]["trace"] == rollout_span(told, 0)["trace"]


def test_traceparent_goes_out_with_inference_and_feedback(told):
    trace_id = format(rollout_span(told, 0)["trace"], "032x")
    sent = {"inference": [], "complete": [], "reward": []}
    for route, headers in told["seen"]:
        if headers.get("traceparent", "").split("-")[1:2] == [trace_id]:
            sent[route].append(headers["traceparent"].split("-")[2])

    assert sent["inference"] == told["turns"][0]
    feedback = {s["id"] for s in told["spans"] if s["name"] == "rft.feedback"}
    assert set(sent["complete"] + sent["reward"]) <= feedback
    assert (len(sent["complete"]), len(sent["reward"])) == (1, 2)


def test_feedback_spans_count_their_attempts(told):
    root = rollout_span(told, 0)
    attempts = {
        s["attributes"]["rft.feedback.operation"]: (
            s["attributes"]["rft.feedback.attempts"],
            s["attributes"]["rft.feedback.outcome"],
        )
        for s in told["spans"]
        if s["name"] == "rft.feedback" and s["trace"] == root["trace"]
    }

    assert attempts == {"complete": (1, "delivered"), "reward": (2, "delivered")}


def test_metrics_add_up(told):
    metrics = told["metrics"]

    assert sorted((a["rft.outcome"], value) for a, value, _ in metrics["rft.rollouts"]) == [
        ("completed", 1),
        ("failed", 1),
        ("unreported", 1),
    ]
    assert [(count, total) for _, count, total in metrics["rft.reward"]] == [(2, 0.5)]
    assert sum(count for _, count, _ in metrics["rft.feedback.duration"]) == 4
    assert sum(value for _, value, _ in metrics["rft.feedback.retries"]) == 2
    assert [value for _, value, _ in metrics["rft.rollouts.untracked"]] == [1]
    assert [value for _, value, _ in metrics["rft.outbox.pending"]] == [1]


def test_nothing_of_the_users_error_text_is_on_our_spans(told):
    ours = [s for s in told["spans"] if s["name"].startswith("rft.")]

    assert "secret words" not in json.dumps(ours)
