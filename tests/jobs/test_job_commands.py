"""`aws-rft job`, with the local stand-in of Bedrock."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from moto import mock_aws

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.cli import main
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.errors import JobConfigError, RFTError
from aws_rft_sdk.jobs import BedrockJobs, Problem, submit
from aws_rft_sdk.jobs.config import KINDS
from aws_rft_sdk.jobs.planning import plan
from aws_rft_sdk.runtime import Fault, Faults, LocalBedrock
from tests.jobs.control_plane import MODEL, Server
from tests.jobs.job_files import TEXTS, change, write_job

GRADER = "arn:aws:lambda:us-west-2:123456789012:function:gsm8k"


def grade(event, context):
    return [{"id": row["id"], "aggregate_reward_score": 1.0} for row in event]


def bedrock(**options):
    return LocalBedrock(lambda request: "the answer is 4", functions={GRADER: grade}, group=2, **options)


@pytest.fixture
def server():
    with bedrock() as running:
        yield running


def run(*arguments, text=None):
    return CliRunner().invoke(main, ["job", *map(str, arguments)], input=text)


def call(server, *arguments, text=None):
    result = run(*arguments, "--on", "bedrock", "--endpoint", server.endpoint, text=text)
    assert result.exit_code == 0, result.output
    return result.stdout


def wait_for(server, job, state):
    deadline = time.monotonic() + 60
    while (found := json.loads(call(server, "status", job, "--json")))["state"] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def one_epoch(folder, text=TEXTS["bedrock"]):
    return write_job(folder, change(text, "hyperparameters.batch_size", "50"))


def test_job_when_submitted_then_it_runs_and_the_tuned_model_answers(tmp_path, server):
    file = one_epoch(tmp_path)

    submitted = run("submit", file, "--endpoint", server.endpoint, "--json")

    assert submitted.exit_code == 0, submitted.output
    made = json.loads(submitted.stdout)
    assert made["grader"] == GRADER
    found = wait_for(server, made["job"], "succeeded")
    # What was planned is what the service got, but for the id that only the upload tells.
    planned = json.loads(json.dumps(plan(file).requests[-1].parameters).replace("ID-OF:train", made["file"]))
    assert {key: found[key] for key in planned if key != "method"} == {
        key: value for key, value in planned.items() if key != "method"
    }
    assert found["method"]["reinforcement"] == planned["method"]["reinforcement"]
    (listed,) = json.loads(call(server, "list", "--json"))
    assert (listed["job"], listed["tuned_model"]) == (made["job"], found["tuned_model"])
    assert made["job"] in call(server, "list")
    checkpoints = json.loads(call(server, "checkpoints", made["job"], "--json"))
    assert checkpoints
    assert checkpoints[-1]["model"] in call(server, "checkpoints", made["job"])
    for model in (found["tuned_model"], checkpoints[-1]["model"], made["job"]):
        assert call(server, "chat", model, "2 + 2?").strip() == "the answer is 4"
    assert call(server, "chat", found["tuned_model"], "--stream", text="2 + 2?").strip() == "the answer is 4"
    answer = json.loads(call(server, "chat", found["tuned_model"], "2 + 2?", "--system", "Be brief.", "--json"))
    assert answer["choices"][0]["message"]["content"] == "the answer is 4"


def test_submit_when_for_people_then_each_thing_is_printed_with_what_to_type_next(tmp_path, server):
    result = run("submit", one_epoch(tmp_path), "--endpoint", server.endpoint)

    file, job, follow = result.stdout.splitlines()
    assert file.startswith("file ")
    assert job.startswith("job ")
    assert follow == f"follow it with: aws-rft job watch {job[4:]} --on bedrock --endpoint {server.endpoint}"


def test_submit_when_the_file_has_problems_then_nothing_is_sent_and_the_status_is_2(tmp_path, server):
    file = write_job(tmp_path, change(TEXTS["bedrock"], "hyperparameters.n_epochs", "0"))

    result = run("submit", file, "--endpoint", server.endpoint, "--json")

    assert result.exit_code == 2
    assert json.loads(result.stdout)["problems"][0]["path"] == "hyperparameters.n_epochs"
    shown = run("submit", file, "--endpoint", server.endpoint)
    assert shown.exit_code == 2
    assert "hyperparameters.n_epochs is 0: must be a whole number" in shown.stderr
    assert json.loads(call(server, "list", "--json")) == []


def test_submit_when_it_stops_half_way_then_it_says_what_exists_and_how_to_remove_it(tmp_path, server):
    file = one_epoch(tmp_path, change(TEXTS["bedrock"], "job.model", '"unheard-of"'))

    result = run("submit", file, "--endpoint", server.endpoint, "--json")

    assert result.exit_code == 1
    (left,) = json.loads(result.stdout)["created"]
    assert left["kind"] == "file"
    shown = run("submit", file, "--endpoint", server.endpoint)
    assert shown.exit_code == 1
    command = shown.stderr.split("Remove it with: ")[1].splitlines()[0]
    for typed in (left["remove"], command):
        assert run(*typed.split()[2:]).exit_code == 0


def test_submit_when_the_service_is_gone_then_nothing_was_created_and_it_says_so(tmp_path):
    with bedrock() as server:
        endpoint = server.endpoint

    result = run("submit", one_epoch(tmp_path), "--endpoint", endpoint)

    assert result.exit_code not in (0, 2)
    assert "Nothing was created." in result.stderr


def test_submit_when_interrupted_then_it_says_what_exists(tmp_path):
    # Each call on jobs waits for longer than this test lasts: the command is interrupted there.
    with bedrock(faults=Faults(Fault("slow", "jobs", seconds=600))) as server:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "aws_rft_sdk",
                "job",
                "submit",
                str(one_epoch(tmp_path)),
                "--endpoint",
                server.endpoint,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        with process:
            uploaded = process.stdout.readline().strip()
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=60)[1]

    assert uploaded.startswith("file "), errors
    assert f"{uploaded} exists. Remove it with: aws-rft job delete-file {uploaded[5:]} --on bedrock" in errors
    assert "may have taken effect" in errors
    assert process.returncode == 130


@mock_aws
def test_submit_when_the_grader_cannot_be_deployed_then_what_exists_of_it_is_among_the_created(
    tmp_path, server, aws_keys
):
    text = change(change(TEXTS["bedrock"], "grader.lambda_arn", None), "grader.reward", '"reward.py:reward"')
    created, said = [], []
    with BedrockJobs(base_url=server.endpoint) as jobs, pytest.raises(RFTError):
        # moto has no Lambda that runs code, so the function is created and its trial fails.
        submit(write_job(tmp_path, text), jobs=jobs, created=created.append, say=said.append)

    assert [item.kind for item in created] == ["file", "grader"]
    assert created[1].remove == "aws-rft reward undeploy gsm8k-first --region us-west-2"
    assert said
    assert run(*created[0].remove.split()[2:], "--endpoint", server.endpoint).exit_code == 0
    removed = CliRunner().invoke(main, created[1].remove.split()[1:])
    assert removed.exit_code == 0, removed.output


def test_stop_when_the_job_runs_then_it_is_cancelled_also_twice(tmp_path):
    with bedrock(faults=Faults(Fault("slow", "functions", seconds=600))) as server:
        submitted = run("submit", write_job(tmp_path, TEXTS["bedrock"]), "--endpoint", server.endpoint, "--json")
        job = json.loads(submitted.stdout)["job"]

        for _ in range(2):
            assert json.loads(call(server, "stop", job, "--json"))["state"] == "cancelled"
        assert call(server, "status", job).startswith(f"{job}: cancelled")


def test_nova_when_submitted_deployed_and_called_then_the_commands_say_what_the_service_does(tmp_path):
    file = write_job(tmp_path, change(TEXTS["nova"], "data.validation", '["train.jsonl"]'))
    with Server() as server:
        where = ("--on", "nova", "--endpoint", server.endpoint)

        submitted = run("submit", file, "--endpoint", server.endpoint, "--json")

        assert submitted.exit_code == 0, submitted.output
        made = json.loads(submitted.stdout)
        (put,) = server.plane.objects
        assert f"s3://{put}" == made["file"]
        (parameters,) = server.plane.asked("create_job")
        assert parameters == plan(file).requests[-1].parameters
        # The same file makes no second job.
        assert json.loads(run("submit", file, "--endpoint", server.endpoint, "--json").stdout)["job"] == made["job"]
        (listed,) = json.loads(run("list", *where, "--json").stdout)
        assert (listed["job"], listed["state"]) == (made["job"], "queued")
        server.plane.jobs[0] |= {"status": "Completed", "outputModelArn": MODEL}
        assert f"model: {MODEL}" in run("status", made["job"], *where).stdout
        server.plane.answers = ["Active"]
        deployment = run("deploy", made["job"], "--name", "mine", *where).stdout.strip()
        assert run("chat", deployment, "How many?", *where).stdout == "How many?: 72\n"
        assert run("chat", deployment, "How many?", "--stream", *where).stdout == "72\n"
        answer = json.loads(run("chat", deployment, "How many?", "--system", "Be brief.", *where, "--json").stdout)
        assert answer["stopReason"] == "end_turn"
        assert run("undeploy", deployment, *where).exit_code == 0
        assert not server.plane.deployments
        stopped = run("stop", made["job"], *where)
        assert stopped.exit_code == 1
        assert "cannot be stopped: it is Completed" in stopped.stderr


@pytest.mark.parametrize("on", KINDS)
def test_init_when_written_then_plan_accepts_it_and_it_is_not_overwritten(tmp_path, on):
    write_job(tmp_path, "")
    out = tmp_path / "first.toml"

    assert run("init", "--on", on, "-o", out).exit_code == 0

    assert run("plan", out).exit_code == 0
    refused = run("init", "--on", on, "-o", out)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    out.write_text("")
    assert run("init", "--on", on, "-o", out, "--force").exit_code == 0
    assert out.read_text() == run("init", "--on", on).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["checkpoints", "job", "--on", "nova"], "--on nova has no checkpoints"),
        (["delete-file", "id", "--on", "nova"], "--on nova has no uploaded files"),
        (["deploy", "job", "--name", "n", "--on", "bedrock"], "needs no deployment"),
        (["undeploy", "n", "--on", "bedrock"], "needs no deployment"),
        (["chat", "model", " ", "--on", "bedrock"], "the message is empty"),
        (["list", "--on", "sagemakr"], "'sagemakr' is not one of"),
        (["status", "job", "--on", "bedrock", "--endpoint", "nowhere"], "--endpoint must be a URL"),
        (["list", "--on", "bedrock", "--region", "", "--endpoint", "http://127.0.0.1:9"], "no AWS region"),
        (["status", "job"], "--on"),
        (["plan", "absent.toml"], "does not exist"),
        (["init", "--on", "bedrock", "-o", "absent/first.toml"], "cannot be written"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_command_when_typed_wrong_then_it_says_so_and_the_status_is_2(arguments, said):
    result = run(*arguments)

    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize(("epochs", "status"), [("1", 0), ("0", 2)], ids=["right", "wrong"])
def test_plan_when_its_reader_leaves_then_the_status_stays(tmp_path, epochs, status):
    file = write_job(tmp_path, change(TEXTS["bedrock"], "hyperparameters.n_epochs", epochs))
    read, write = os.pipe()
    os.close(read)

    with os.fdopen(write, "wb") as closed:
        command = [sys.executable, "-m", "aws_rft_sdk", "job", "plan", str(file)]
        assert subprocess.run(command, stdout=closed, timeout=120, check=False).returncode == status


def test_submit_when_its_reader_leaves_then_the_job_is_made(tmp_path, server):
    before = json.loads(run("list", "--on", "bedrock", "--endpoint", server.endpoint, "--json").stdout)
    read, write = os.pipe()
    os.close(read)

    with os.fdopen(write, "wb") as closed:
        command = [sys.executable, "-m", "aws_rft_sdk", "job", "submit", str(one_epoch(tmp_path))]
        subprocess.run([*command, "--endpoint", server.endpoint], stdout=closed, timeout=120, check=False)

    after = json.loads(run("list", "--on", "bedrock", "--endpoint", server.endpoint, "--json").stdout)
    assert len(after) == len(before) + 1


def test_status_when_the_job_is_unknown_then_the_status_is_1_and_the_action_is_named(server):
    result = run("status", "ftjob-absent", "--on", "bedrock", "--endpoint", server.endpoint)

    assert result.exit_code == 1
    assert "GetFineTuningJob" in result.stderr


def test_chat_when_the_job_has_not_ended_then_it_says_so(tmp_path, server):
    file = write_job(tmp_path, change(TEXTS["bedrock"], "hyperparameters.n_epochs", "5"))
    job = json.loads(run("submit", file, "--endpoint", server.endpoint, "--json").stdout)["job"]
    call(server, "stop", job)

    result = run("chat", job, "2 + 2?", "--on", "bedrock", "--endpoint", server.endpoint)
    unknown = run("chat", "absent", "2 + 2?", "--on", "bedrock", "--endpoint", server.endpoint)

    assert "has no tuned model" in " ".join(result.stderr.split())
    assert unknown.exit_code == 1
    assert "The model 'absent' does not exist" in unknown.stderr


@pytest.mark.parametrize("trouble", ["nobody listens", "the service fails", "other credentials"])
def test_command_when_the_service_cannot_be_used_then_the_status_is_3_without_usage_lines(trouble, monkeypatch):
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setattr("aws_rft_sdk.jobs._bedrock_calls.BACKOFF", Backoff(base_seconds=0.001))
    faults = Faults(Fault("status", "jobs", status=503)) if trouble == "the service fails" else None
    keys = Keys("AKIDOTHER", "another-secret") if trouble == "other credentials" else None
    with bedrock(faults=faults, auth="token" if keys else "none", credentials=keys) as server:
        if trouble == "nobody listens":
            server.stop()
        result = run("list", "--on", "bedrock", "--endpoint", server.endpoint)

    assert result.exit_code == 3, result.output
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("as_json", [False, True], ids=["for people", "json"])
def test_submit_when_a_problem_shows_only_after_the_upload_then_it_says_what_exists(
    tmp_path, server, monkeypatch, as_json
):
    def refused(*args, **kwargs):
        problem = Problem("grader.reward", "reward.py:reward", "the zip is too large", "AWS Lambda quotas")
        raise JobConfigError("the zip is too large", problems=(problem,))

    # With dependencies pip builds the zip when the job is submitted, so the plan cannot know its size.
    monkeypatch.setattr("aws_rft_sdk.jobs.graders.deploy", refused)
    text = change(change(TEXTS["bedrock"], "grader.lambda_arn", None), "grader.reward", '"reward.py:reward"')

    options = ["--endpoint", server.endpoint, *(["--json"] if as_json else [])]
    result = run("submit", write_job(tmp_path, text), *options)

    assert result.exit_code == 2
    if as_json:
        assert [item["kind"] for item in json.loads(result.stdout)["created"]] == ["file"]
    assert "the zip is too large" in result.stderr
    assert as_json or "exists. Remove it with: aws-rft job delete-file" in result.stderr
