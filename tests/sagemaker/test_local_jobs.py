"""`LocalJobs` and `aws-rft runtime --services jobs`, from CreateJob to the end of a job."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from aws_rft_sdk.agent_rft import MODELS, TRAINING
from aws_rft_sdk.cli import main
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import Fault, Faults, LocalJobs
from aws_rft_sdk.training import arithmetic
from aws_rft_sdk.training.softmax import SoftmaxTrainer
from tests.sagemaker.plane import parameters, training

KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "a-secret", "region_name": "us-west-2"}
NOVA = MODELS["nova-lite-2"].hub_arn("us-west-2")  # its batches are the smallest
SMALL = {"group_size": "2", "global_batch_size": "8", "max_epochs": "2", "val_every": "0", "save_every": "1"}
PROMPTS = "\n".join(
    json.dumps({"prompt": arithmetic.prompt_cell(*problem)}) for problem in arithmetic.problems(24, random.Random(1))
)
HANDLER = "aws_rft_sdk/training/arithmetic.py:handler"
ROOT = Path(__file__).parents[2]


def trainer() -> SoftmaxTrainer:
    return SoftmaxTrainer(arithmetic.decide, arithmetic.untrained())


def create(endpoint: str, steps: int = 1) -> Any:
    """Begin a small job. Returns boto3's client of `sagemaker`."""
    boto3.client("s3", endpoint_url=endpoint, **KEYS).put_object(Bucket="bucket", Key="train.jsonl", Body=PROMPTS)
    client = boto3.client("sagemaker", endpoint_url=endpoint, **KEYS)
    client.create_job(**parameters(training(base_model=NOVA, hyperparameters={**SMALL, "max_steps": str(steps)})))
    return client


def wait(client: Any, *, steps: int | None = None) -> Any:
    """Return the job once it has ended, or has completed some steps."""
    for _ in range(1000):
        job = client.describe_job(JobName="calc-1", JobCategory=TRAINING)
        output = json.loads(job["JobConfigDocument"])["ServiceOutput"]
        done = int(output.get("ModelCheckpoint", "/0").rpartition("/")[2])
        if job["JobStatus"] in ("Completed", "Failed", "Stopped") or (steps is not None and done >= steps):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def test_job_when_created_then_it_runs_to_its_end_whatever_happens_to_calls() -> None:
    faults = Faults(Fault("status", route="jobs", status=503, probability=0.2))
    with LocalJobs(arithmetic.handler, trainer=trainer(), speed=50.0, faults=faults) as jobs:
        assert jobs.runtime.endpoint != jobs.endpoint
        client = create(jobs.endpoint)
        job = wait(client)
        assert (job["JobStatus"], job.get("FailureReason")) == ("Completed", None)
        (first, *_) = jobs.runtime.trajectories()
        assert first.job_arn == job["JobArn"]
    assert faults.injected["jobs", "status"] > 0
    jobs.stop()  # repeating is safe
    with pytest.raises(RuntimeError, match="started before"):
        jobs.start()


def test_job_when_stopped_then_it_ends_as_stopped_and_can_be_deleted() -> None:
    with LocalJobs(arithmetic.handler, trainer=trainer(), speed=0.01) as jobs:  # a rollout begins every 20 s
        client = create(jobs.endpoint)
        client.stop_job(JobName="calc-1", JobCategory=TRAINING)
        job = wait(client)
        assert job["JobStatus"] == "Stopped"
        assert [item["Status"] for item in job["SecondaryStatusTransitions"]][-2:] == ["Stopping", "Stopped"]
        client.delete_job(JobName="calc-1", JobCategory=TRAINING)
        assert client.list_jobs(JobCategory=TRAINING)["JobSummaries"] == []


def test_job_when_the_server_restarts_then_it_goes_on() -> None:
    with LocalJobs(arithmetic.handler, trainer=trainer(), speed=50.0) as jobs:
        client = create(jobs.endpoint)
        jobs.restart()
        job = wait(client)
        assert job["JobStatus"] == "Completed"
        assert "Restarting" in [item["Status"] for item in job["SecondaryStatusTransitions"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policy": lambda request: {"content": "1"}}, "exactly one of handler, agent_url and forwarder"),
        ({"handler": print, "agent_url": "http://x", "policy": print}, "exactly one of"),
        ({"agent_url": "x", "policy": print}, "agent_url must be a URL"),
        ({"handler": 3, "policy": print}, "handler must be a function"),
        ({"handler": print}, "policy is missing"),
        ({"handler": print, "policy": print, "auth": "bearer"}, "auth must be one of any, sigv4, none"),
        ({"handler": print, "policy": print, "speed": 0}, "speed"),
        ({"handler": print, "policy": print, "concurrency": 0}, "concurrency"),
        ({"handler": print, "policy": print, "faults": [Fault("reset")]}, "faults must be"),
        ({"handler": print, "policy": print, "db": 7}, "db must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_server_when_an_argument_is_wrong_then_it_says_which(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        LocalJobs(**given)


def test_signature_when_demanded_then_calls_without_the_right_one_fail() -> None:
    keys = Keys(KEYS["aws_access_key_id"], KEYS["aws_secret_access_key"])
    with LocalJobs(arithmetic.handler, trainer=trainer(), auth="sigv4", credentials=keys, speed=0.01) as jobs:
        create(jobs.endpoint)
        for wrong, said in (("region_name", "region us-west-2"), ("aws_secret_access_key", "does not match")):
            given = {**KEYS, wrong: "us-east-1"}
            with pytest.raises(ClientError, match=said):
                boto3.client("sagemaker", endpoint_url=jobs.endpoint, **given).list_jobs(JobCategory=TRAINING)


def test_database_when_of_another_stand_in_then_it_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "jobs.db"
    with LocalJobs(print, policy=print, db=db), pytest.raises(ConfigurationError, match="another server"):
        LocalJobs(print, policy=print, db=db).start()
    with pytest.raises(RuntimeError, match="was not started"):
        _ = LocalJobs(print, policy=print).endpoint


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_when_killed_in_a_job_then_the_next_server_goes_on_with_it(tmp_path: Path) -> None:
    db = tmp_path / "jobs.db"
    command = [sys.executable, "-m", "aws_rft_sdk", "runtime", "--services", "jobs", "--port", "0", "--db", str(db)]
    command += ["--handler", HANDLER, "--trainer", "softmax-arithmetic", "--speed", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}) as process:
        try:
            assert process.stdout is not None
            said = "".join(process.stdout.readline() for _ in range(7))
            endpoint = said.split()[5]
            assert f"aws-rft job submit JOB.toml --endpoint {endpoint}" in said
            wait(create(endpoint, steps=3), steps=1)
        finally:
            process.kill()
    with LocalJobs(arithmetic.handler, trainer=trainer(), db=db, speed=50.0) as jobs:
        job = wait(boto3.client("sagemaker", endpoint_url=jobs.endpoint, **KEYS))
    assert (job["JobStatus"], job.get("FailureReason")) == ("Completed", None)
    assert "The job goes on after step 1" in [item["StatusMessage"] for item in job["SecondaryStatusTransitions"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "exactly one of handler, agent_url and forwarder"),
        (["--handler", HANDLER], "policy is missing"),
        (["--handler", HANDLER, "--auth", "bearer", "--policy", "standin"], "--auth bearer"),
        (["--function", HANDLER, "--function", HANDLER, "--policy", "standin"], "--function once"),
        (["--key", "k"], "--key is for --services job; leave it out with jobs"),
    ],
    ids=["no-agent", "no-policy", "bearer", "two-functions", "key"],
)
def test_command_when_an_option_is_wrong_then_it_says_which(options: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["runtime", "--services", "jobs", "--port", "0", *options])
    assert result.exit_code != 0
    assert said in result.output


@pytest.mark.parametrize(
    ("services", "option", "said"),
    [
        ("job", "--speed", "--speed is for --services jobs"),
        ("job", "--handler", "--handler is for --services jobs; leave it out with job"),
        ("bedrock", "--agent-url", "--agent-url is for --services jobs; leave it out with bedrock"),
        ("job", "--function", "--function is for --services bedrock or jobs"),
    ],
)
def test_command_when_an_option_is_of_other_services_then_it_says_of_which(
    services: str, option: str, said: str
) -> None:
    result = CliRunner().invoke(main, ["runtime", "--services", services, option, "2"])
    assert (result.exit_code != 0, said in result.output) == (True, True)
