"""`aws-rft job guard`: whether an agent may be redeployed, asked of a control plane whose jobs do not end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aws_rft_sdk.agent_rft import EVALUATION, MODELS, TRAINING
from aws_rft_sdk.cli import main
from aws_rft_sdk.jobs import guard
from aws_rft_sdk.jobs._sagemaker_request import create_parameters, evaluation_document, training_document
from aws_rft_sdk.jobs.sagemaker import AgentRFT
from aws_rft_sdk.jobs.types import Job
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.sagemaker.control import ControlPlane, Place
from aws_rft_sdk.runtime.sagemaker.sessions import Sessions
from aws_rft_sdk.runtime.sagemaker.store import Store

RUNTIME = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/calc-AbCdEfGhIj"
FUNCTION = "arn:aws:lambda:us-west-2:123456789012:function:forward"
ROLE = "arn:aws:iam::123456789012:role/Job"
SAGEMAKER = "arn:aws:sagemaker:us-west-2:123456789012"
SHARED: dict[str, Any] = {
    "base_model": MODELS["gpt-oss-20b"].hub_arn("us-west-2"),
    "output": "s3://bucket/out/",
    "accept_eula": True,
    "mlflow_arn": f"{SAGEMAKER}:mlflow-app/app-EXAMPLE",
}


class Idle:
    """Runs no job: each stays as it was created, or stopping."""

    def start(self, row: object) -> None: ...

    def stop(self, row: object) -> None: ...


class Service:
    """The control plane over HTTP."""

    def __init__(self) -> None:
        store = Store(":memory:")
        self.store, self.refusal = store, None
        self.plane = ControlPlane(store, Idle(), Sessions(store.now), Place("us-west-2", lambda: self.url))
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = service.answer(self.headers["X-Amz-Target"].partition(".")[2], asked)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.refusal: Refusal | None

    def answer(self, operation: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            if self.refusal and operation == "ListJobs":
                raise self.refusal
            return 200, self.plane.answer(operation, asked)
        except Refusal as refused:
            return refused.status, {"__type": refused.code, "Message": str(refused)}

    def train(self, agent: str, name: str = "train-1") -> Job:
        document = training_document(
            **SHARED,
            agent=agent,
            train="s3://bucket/train.jsonl",
            model_package_group=f"{SAGEMAKER}:model-package-group/calc",
            checkpoint_package_group=f"{SAGEMAKER}:model-package-group/calc-ckpt",
        )
        return self.jobs.create(create_parameters(document, job_name=name, role_arn=ROLE, category=TRAINING))

    def evaluate(self, agent: str, name: str = "eval-1") -> Job:
        document = evaluation_document(**SHARED, agent=agent, dataset="s3://bucket/eval.jsonl")
        return self.jobs.create(create_parameters(document, job_name=name, role_arn=ROLE, category=EVALUATION))

    @cached_property
    def jobs(self) -> AgentRFT:
        return AgentRFT(endpoint_url=self.url)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.store.close()


@pytest.fixture
def service(aws_keys: None) -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


def ask(service: Service, agent: str, *options: str) -> Result:
    return CliRunner().invoke(
        main, ["job", "guard", agent, "--on", "sagemaker", "--endpoint", service.url, *options], catch_exceptions=False
    )


AGENTS = [
    (RUNTIME, RUNTIME, True),
    (RUNTIME, f"{RUNTIME}/runtime-endpoint/PROD", True),
    (RUNTIME, "calc-AbCdEfGhIj", True),
    (RUNTIME, "calc-AbCdEfGhIk", False),
    (RUNTIME, RUNTIME.replace("123456789012", "999999999999"), False),
    (RUNTIME, FUNCTION, False),
    (FUNCTION, FUNCTION, True),
    (f"{FUNCTION}:live", FUNCTION, True),
    (f"{FUNCTION}:live", f"{FUNCTION}:$LATEST", True),
    (f"{FUNCTION}:live", "forward", True),
    (f"{FUNCTION}:live", "forward:other", True),
    (FUNCTION, f"{FUNCTION}-2", False),
]


@pytest.mark.parametrize(("used", "asked", "found"), AGENTS)
def test_agent_when_a_job_names_another_version_of_it_then_it_is_the_same(used: str, asked: str, found: bool) -> None:
    document = training_document(
        **SHARED, agent=used, train="s3://b/t", model_package_group=None, checkpoint_package_group=None
    )
    job = Job({"JobConfigDocument": json.dumps(document)}, "train-1", "InProgress", "running")

    assert guard.Agent.of(asked).is_agent_of(job) == found


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_guard_when_a_job_uses_the_agent_then_its_name_and_status_1(service: Service, kind: str) -> None:
    job = getattr(service, kind)(RUNTIME)

    done = ask(service, RUNTIME)
    assert (done.exit_code, job.id in done.stdout) == (1, True)
    assert ask(service, FUNCTION).exit_code == 0


def test_guard_when_jobs_stop_and_end_then_only_those_that_have_not_ended_count(service: Service) -> None:
    stopped, evaluation = service.train(RUNTIME), service.evaluate(RUNTIME)
    service.jobs.stop(stopped)
    answer = json.loads(ask(service, RUNTIME, "--json").stdout)
    assert {(row["job"], row["status"]) for row in answer["jobs"]} == {
        ("train-1", "Stopping"),
        ("eval-1", "InProgress"),
    }

    for job in (stopped, evaluation):
        row = service.store.job(job["JobCategory"], job.id)
        assert row is not None
        service.store.advance(row, status="Completed", secondary="Completed")
    done = ask(service, RUNTIME)
    assert (done.exit_code, done.stdout) == (0, "No job in us-west-2 uses it.\n")


def test_guard_when_only_a_name_is_known_then_every_region_that_has_jobs_is_asked(service: Service) -> None:
    assert guard.regions_of("calc-AbCdEfGhIj") == ("us-east-1", "us-west-2")
    assert guard.regions_of(RUNTIME) == ("us-west-2",)
    # A stand-in is in one region, and refuses signatures for another one.
    assert json.loads(ask(service, "calc-AbCdEfGhIj", "--json").stdout)["regions"] == ["us-west-2"]


def test_guard_when_a_job_does_not_say_which_agent_it_has_then_it_may_be_this_one() -> None:
    agent = guard.Agent.of(RUNTIME)
    for document in ("", "{", "[]", '{"AgentConfig": null}', '{"AgentConfig": {"BedrockAgentCoreConfig": {}}}'):
        assert agent.is_agent_of(Job({"JobConfigDocument": document}, "j", "InProgress", "running"))


def test_guard_when_the_service_cannot_be_asked_then_the_status_is_3(service: Service) -> None:
    service.refusal = Refusal(400, "not authorized to perform sagemaker:ListJobs", code="AccessDeniedException")

    done = ask(service, RUNTIME)

    assert done.exit_code == 3
    assert "It is not known whether a job uses" in done.stderr


@pytest.mark.parametrize("agent", ["", "arn:aws:s3:::bucket", "calc/DEFAULT", RUNTIME.replace("runtime/", "")])
def test_guard_when_it_is_no_agent_then_the_status_is_2(agent: str) -> None:
    done = CliRunner().invoke(main, ["job", "guard", agent])

    assert done.exit_code == 2
    assert "is no agent" in done.stderr
