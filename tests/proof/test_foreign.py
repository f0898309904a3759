"""Model calls inside rollouts that go to another model than the policy: each kind is found, and named."""

from __future__ import annotations

import functools
import queue
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from strands import tool
from strands.models.bedrock import BedrockModel
from strands.models.model import Model
from strands.telemetry.tracer import get_tracer

from aws_rft_sdk.proof import Cause, CauseKind, Proof, Trial, proof_lines, prove_handler
from aws_rft_sdk.proof.providers import ModelProviderRefused, is_loopback, is_provider, listening

from . import production
from .production import agent, answers, policy

FEW = Trial(rollouts=4, threads=4, faults=False)
KINDS = [
    production.sub_agent,
    production.sub_agent_in_a_tool,
    production.graph,
    production.swarm,
    production.summarizer,
    production.structured,
]
each_kind = pytest.mark.parametrize("work", KINDS, ids=[work.__name__ for work in KINDS])
pytestmark = pytest.mark.filterwarnings("ignore:graph has no max_node_executions:UserWarning")


def only_cause(proof: Proof) -> Cause:
    (cause,) = proof.causes
    return cause


@each_kind
def test_production_model_inside_a_rollout_is_found_and_named(work):
    proof = prove_handler(answers(work), trial=FEW)

    cause = only_cause(proof)
    assert (cause.kind, cause.count, proof.is_passed) == (CauseKind.FOREIGN_MODEL, 4, False)
    who = "code outside any agent" if work is production.structured else "agent 'reviewer'"
    assert f"{who} asked acme.production-1 (Production)" in cause.what
    assert "runtime_model(" in cause.fix
    assert len(proof.verdict.foreign) == 4


@each_kind
def test_same_agents_over_the_policy_are_proved(work):
    proof = prove_handler(answers(functools.partial(work, model=policy)), trial=FEW)

    assert proof.causes == ()
    assert proof.is_passed
    assert (proof.verdict.foreign, proof.reach.missed_agents) == ((), ())


def test_runtime_model_in_a_thread_without_the_context_is_found():
    proof = prove_handler(answers(production.in_a_thread), trial=FEW)

    cause = only_cause(proof)
    assert (cause.kind, cause.count) == (CauseKind.FOREIGN_MODEL, 4)
    assert "agent 'reviewer' asked acme.production-1" in cause.what
    assert "RFTContext.carry" in cause.fix


def test_runtime_model_in_a_thread_with_the_context_is_proved():
    assert prove_handler(answers(production.in_a_carried_thread), trial=FEW).is_passed


@pytest.fixture
def worker() -> Iterator[Any]:
    """Runs work in a thread that was there before the proof, so it inherits the context of nobody."""
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def serve() -> None:
        while (job := jobs.get()) is not None:
            work, done = job
            work()
            done.set()

    def run(work: Any) -> None:
        done = threading.Event()
        jobs.put((work, done))
        done.wait()

    thread = threading.Thread(target=serve)
    thread.start()
    yield run
    jobs.put(None)
    thread.join()


def test_runtime_model_in_a_thread_that_was_there_before_is_found(worker):
    def work(prompt: str) -> None:
        agent()(prompt)
        worker(lambda: agent(name="reviewer")(prompt))

    cause = only_cause(prove_handler(answers(work), trial=FEW))

    assert (cause.kind, cause.count) == (CauseKind.FOREIGN_MODEL, 4)
    assert "RFTContext.carry" in cause.fix


def test_model_class_that_is_made_during_the_proof_is_found():
    def work(prompt: str) -> None:
        class Late(production.Production):
            async def stream(self, *args: Any, **kwargs: Any) -> Any:
                async for event in super().stream(*args, **kwargs):
                    yield event

        production.sub_agent(prompt, Late("late-1"))

    cause = only_cause(prove_handler(answers(work), trial=FEW))

    assert cause.count == 4
    assert "asked late-1 (Late)" in cause.what


def test_production_calls_outside_rollouts_are_no_mistake():
    proof = prove_handler(
        answers(functools.partial(production.sub_agent, model=policy)), trial=Trial(8, 4, outside=4, faults=False)
    )

    assert proof.is_passed, proof.causes
    assert proof.outside_calls == 4


@pytest.mark.parametrize("name", ["reviewer", "acme.production-1"])
def test_model_that_is_meant_to_be_another_one_may_be_named(name):
    assert prove_handler(answers(production.sub_agent), trial=Trial(4, 4, faults=False, allow=(name,))).is_passed


def test_strands_is_afterwards_as_it_was():
    before = (get_tracer().tracer, agent().__init__.__func__, vars(production.Production)["stream"])

    prove_handler(answers(production.sub_agent), trial=FEW)

    assert (get_tracer().tracer, agent().__init__.__func__, vars(production.Production)["stream"]) == before
    assert "__init_subclass__" not in vars(Model)


def test_provider_of_the_user_is_left_alone_and_hides_nothing():
    code = """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
        from aws_rft_sdk.proof import Trial, prove_handler
        from tests.proof import production

        exporter = InMemorySpanExporter()
        provider = TracerProvider(SAMPLER)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        production.agent(production.production)("before")
        before = {span.name for span in exporter.get_finished_spans()}
        proof = prove_handler(production.answers(production.sub_agent), trial=Trial(2, 2, faults=False))
        assert trace.get_tracer_provider() is provider
        exporter.clear()
        production.agent(production.production)("after")
        assert {span.name for span in exporter.get_finished_spans()} == before
        print(len(before) > 0, [cause.kind.name for cause in proof.causes])
    """
    for sampler, exports in (("", True), ("ALWAYS_OFF", False)):
        script = textwrap.dedent(code).replace("SAMPLER", sampler)
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120
        )
        assert done.stdout == f"{exports} ['FOREIGN_MODEL']\n", done.stderr


def test_spans_are_seen_where_opentelemetry_is_switched_off(monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    assert only_cause(prove_handler(answers(production.sub_agent), trial=FEW)).kind is CauseKind.FOREIGN_MODEL


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-west-2"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("aws")
def test_bedrock_is_refused_and_named():
    work = functools.partial(production.sub_agent, model=BedrockModel(model_id="us.acme.large"))

    model, host = prove_handler(answers(work), trial=FEW).causes

    assert (model.kind, host.kind) == (CauseKind.FOREIGN_MODEL, CauseKind.FOREIGN_HOST)
    assert "agent 'reviewer' asked us.acme.large (BedrockModel)" in model.what
    assert "bedrock-runtime.us-west-2.amazonaws.com (agent reviewer)" in host.what


@tool
def converse(text: str) -> str:
    """Ask Bedrock without Strands.

    Args:
        text: What to ask.
    """
    client = boto3.client("bedrock-runtime", region_name="us-west-2", config=Config(retries={"total_max_attempts": 1}))
    try:
        client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": text}]}])
    except Exception as error:
        return str(error)
    return "answered"


@pytest.mark.usefixtures("aws")
def test_provider_that_a_tool_calls_is_refused_with_the_line_that_calls_it():
    proof = prove_handler(answers(lambda prompt: agent(policy, converse)(prompt)), trial=FEW)

    cause = only_cause(proof)
    line = converse._tool_func.__code__.co_firstlineno
    assert cause.kind is CauseKind.FOREIGN_HOST
    assert (
        "bedrock-runtime.us-west-2.amazonaws.com (tool converse of agent main, tests/proof/test_foreign.py:"
        in cause.what
    )
    # Threads that earlier tests have left behind may call other hosts meanwhile.
    lines = [int(call.where.split(":")[1].split()[0]) for call, _ in proof.hosts if call.is_refused]
    assert lines
    assert all(line < called < line + 12 for called in lines)
    assert "--allow" in cause.fix


def test_other_host_that_a_tool_calls_is_listed_and_no_mistake(unused_port):
    @tool
    def fetch(name: str) -> str:
        """Fetch a page of a host that is no model's.

        Args:
            name: Of the page.
        """
        try:
            urllib.request.urlopen(f"http://localhost:{unused_port}/")
        except OSError:
            return "nothing there"
        return "a page"

    proof = prove_handler(answers(lambda prompt: agent(policy, fetch)(prompt)), trial=FEW)

    assert proof.is_passed, proof.causes
    assert {(call.is_refused, call.who) for call, _ in proof.hosts} == {(False, "tool fetch of agent main")}
    assert f"127.0.0.1:{unused_port}" in {call.host for call, _ in proof.hosts}
    assert any(line.startswith("other hosts that rollouts called: ") for line in proof_lines(proof))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_host_in_a_handler_without_a_tool_is_refused_before_anything_is_sent():
    errors: list[BaseException] = []

    def work(prompt: str) -> None:
        agent()(prompt)
        try:
            urllib.request.urlopen("https://api.openai.com/v1/models")
        except ModelProviderRefused as error:
            errors.append(error)

    proof = prove_handler(answers(work), trial=FEW)

    assert only_cause(proof).kind is CauseKind.FOREIGN_HOST
    assert len(errors) == 5  # one more for the rollout that is run alone
    assert "refused a connection to api.openai.com" in str(errors[0])


def test_hook_does_nothing_after_the_proof(unused_port):
    seen: list[str] = []

    with listening(lambda host, port, is_connection: seen.append(host)):
        pass
    with pytest.raises(OSError, match=r"refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/")

    assert seen == []


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("bedrock-runtime.us-east-1.amazonaws.com", 443, True),
        ("bedrock-runtime-fips.us-east-1.amazonaws.com", 443, True),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", 443, True),
        ("vpce-0.bedrock-runtime.us-east-1.vpce.amazonaws.com", 443, True),
        ("bedrock-agent.us-east-1.amazonaws.com", 443, False),
        ("s3.us-east-1.amazonaws.com", 443, False),
        ("API.OpenAI.com.", 443, True),
        ("api.openai.com.example.org", 443, False),
        ("mine.openai.azure.com", 443, True),
        ("us-central1-aiplatform.googleapis.com", 443, True),
        ("storage.googleapis.com", 443, False),
        ("localhost", 11434, True),
        ("::1", 11434, True),
        ("127.0.0.1", 8080, False),
        ("example.org", 11434, False),
    ],
)
def test_hosts_of_model_providers(host, port, expected):
    assert is_provider(host, port) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("", True), ("localhost", True), ("127.0.0.9", True), ("fe80::1%eth0", False), ("a.b", False)],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected
