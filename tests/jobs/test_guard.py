"""`aws-rft job guard`: whether an agent may be redeployed, asked of a stand-in whose jobs end when a test says so."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from aws_rft_sdk.agent_rft import EVALUATION, TRAINING
from aws_rft_sdk.cli import main
from aws_rft_sdk.jobs import guard
from aws_rft_sdk.jobs.types import Job
from tests.sagemaker.plane import AGENT, KEYS, Plane, evaluation, parameters, serving, training

FUNCTION = "arn:aws:lambda:us-west-2:123456789012:function:forward"


@pytest.fixture
def plane(aws_keys: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    with serving() as plane:
        yield plane


def ask(plane: Plane, agent: str, *options: str) -> Result:
    return CliRunner().invoke(
        main,
        ["job", "guard", agent, "--on", "sagemaker", "--endpoint", plane.endpoint, *options],
        catch_exceptions=False,
    )


AGENTS = [
    (AGENT, AGENT, True),
    (AGENT, f"{AGENT}/runtime-endpoint/PROD", True),
    (AGENT, "calc-AbCdEfGhIj", True),
    (AGENT, "calc-AbCdEfGhIk", False),
    (AGENT, "calc", True),
    (AGENT, "cal", False),
    (f"{FUNCTION}-AbCdEfGhIj", "forward", False),
    (AGENT, AGENT.replace("123456789012", "999999999999"), False),
    (AGENT, FUNCTION, False),
    (FUNCTION, FUNCTION, True),
    (f"{FUNCTION}:live", FUNCTION, True),
    (f"{FUNCTION}:live", f"{FUNCTION}:$LATEST", True),
    (f"{FUNCTION}:live", "forward", True),
    (f"{FUNCTION}:live", "forward:other", True),
    (FUNCTION, f"{FUNCTION}-2", False),
]


@pytest.mark.parametrize(("used", "asked", "found"), AGENTS)
def test_agent_when_a_job_names_another_version_of_it_then_it_is_the_same(used: str, asked: str, found: bool) -> None:
    job = Job({"JobConfigDocument": json.dumps(training(agent=used))}, "train-1", "InProgress", "running")

    assert guard.Agent.of(asked).is_agent_of(job) == found


@pytest.mark.parametrize("document", ["", "{", "[]", '{"AgentConfig": null}', '{"AgentConfig": {"BedrockAgent": {}}}'])
def test_agent_when_a_job_does_not_say_which_it_has_then_it_may_be_this_one(document: str) -> None:
    assert guard.Agent.of(AGENT).is_agent_of(Job({"JobConfigDocument": document}, "j", "InProgress", "running"))


def test_guard_when_jobs_run_stop_and_end_then_those_that_have_not_ended_count(plane: Plane) -> None:
    sagemaker = plane.client("sagemaker")
    sagemaker.create_job(**parameters(training(), "train-1", TRAINING))
    sagemaker.create_job(**parameters(evaluation(), "eval-1", EVALUATION))
    plane.store.advance(plane.job("train-1", TRAINING), status="Stopping")

    done = ask(plane, AGENT, "--json")
    found = {(row["job"], row["status"]) for row in json.loads(done.stdout)["jobs"]}
    assert (done.exit_code, found) == (1, {("train-1", "Stopping"), ("eval-1", "InProgress")})
    assert ask(plane, FUNCTION).exit_code == 0

    plane.store.advance(plane.job("train-1", TRAINING), status="Stopped")
    done = ask(plane, AGENT)
    assert (done.exit_code, "eval-1 (AgentRFTEvaluation) is InProgress" in done.stdout) == (1, True)

    plane.store.advance(plane.job("eval-1", EVALUATION), status="Completed")
    done = ask(plane, AGENT)
    assert (done.exit_code, done.stdout) == (0, "No job in us-west-2 uses it.\n")


def test_guard_when_only_a_name_is_known_then_every_region_that_has_jobs_is_asked(plane: Plane) -> None:
    assert guard.regions_of("calc-AbCdEfGhIj") == ("us-east-1", "us-west-2")
    assert guard.regions_of(AGENT) == ("us-west-2",)
    # A stand-in is in one region, and refuses signatures for another one.
    assert json.loads(ask(plane, "calc-AbCdEfGhIj", "--json").stdout)["regions"] == ["us-west-2"]


def test_guard_when_the_service_cannot_be_asked_then_the_status_is_3(plane: Plane) -> None:
    done = ask(plane, AGENT, "--region", "us-east-1")

    assert done.exit_code == 3
    assert "It is not known whether a job uses" in done.stderr


@pytest.mark.parametrize("agent", ["", "arn:aws:s3:::bucket", "calc/DEFAULT", AGENT.replace("runtime/", "")])
def test_guard_when_it_is_no_agent_then_the_status_is_2(agent: str) -> None:
    done = CliRunner().invoke(main, ["job", "guard", agent])

    assert done.exit_code == 2
    assert "is no agent" in done.stderr
