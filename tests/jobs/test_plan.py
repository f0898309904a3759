"""Plans: the exact requests, what is created and needed, and that nothing is sent."""

import json
import socket

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.jobs.planning import plan
from tests.jobs.job_files import NOVA, TEXTS, change, write_job

BEDROCK_BODY = {
    "model": "openai.gpt-oss-20b",
    "training_file": "ID-OF:train",
    "method": {
        "type": "reinforcement",
        "reinforcement": {
            "grader": {
                "type": "lambda",
                "lambda": {"function": "arn:aws:lambda:us-west-2:123456789012:function:gsm8k"},
            },
            "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0},
        },
    },
}


@pytest.fixture
def no_network(monkeypatch):
    """Let every connection fail, and have no credentials."""

    def refuse(*args):
        raise AssertionError(f"a plan opened a connection: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments):
    result = CliRunner().invoke(main, ["job", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_plan_when_for_bedrock_then_it_has_the_upload_and_the_body_that_is_posted(tmp_path, no_network):
    file = write_job(tmp_path, TEXTS["bedrock"])

    result = run("plan", file, "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["problems"] == []
    upload, create = found["requests"]
    assert upload == {
        "service": "bedrock-mantle",
        "operation": "CreateFile",
        "parameters": {"purpose": "fine-tune", "file": str(tmp_path / "train.jsonl")},
    }
    assert create == {"service": "bedrock-mantle", "operation": "CreateFineTuningJob", "parameters": BEDROCK_BODY}
    assert found["creates"] == [
        {"kind": "file", "name": "train.jsonl", "rows": 100},
        {"kind": "job", "name": "gsm8k-first", "model": "openai.gpt-oss-20b"},
    ]
    actions = {action for statement in found["statements"] for action in statement["Action"]}
    assert {"bedrock-mantle:CreateFile", "bedrock-mantle:CreateFineTuningJob", "lambda:InvokeFunction"} <= actions
    assert found["baseline"] is None


def test_plan_when_for_nova_then_it_has_the_upload_to_s3_and_the_parameters_of_boto3(tmp_path, no_network):
    text = NOVA
    for path, value in {
        "data.validation": '["s3://bucket/v.jsonl"]',
        "tags.team": '"rft"',
        "vpc.subnet_ids": '["subnet-1"]',
        "job.kms_key": '"alias/key"',
    }.items():
        text = change(text, path, value)
    file = write_job(tmp_path, change(text, "vpc.security_group_ids", '["sg-1"]'))

    result = run("plan", file, "--json")

    found = json.loads(result.stdout)
    assert (result.exit_code, found["problems"]) == (0, [])
    put, create = found["requests"]
    assert (put["service"], put["operation"], put["parameters"]["Bucket"]) == ("s3", "PutObject", "bucket")
    parameters = create["parameters"]
    assert (create["service"], create["operation"]) == ("bedrock", "CreateModelCustomizationJob")
    assert parameters["trainingDataConfig"] == {"s3Uri": f"s3://bucket/{put['parameters']['Key']}"}
    assert parameters["validationDataConfig"] == {"validators": [{"s3Uri": "s3://bucket/v.jsonl"}]}
    assert parameters["jobTags"] == parameters["customModelTags"] == [{"key": "team", "value": "rft"}]
    assert parameters["vpcConfig"] == {"subnetIds": ["subnet-1"], "securityGroupIds": ["sg-1"]}
    assert parameters["customModelKmsKeyId"] == "alias/key"
    assert parameters["customModelName"] == parameters["jobName"] == "gsm8k-first"
    assert parameters["customizationConfig"]["rftConfig"]["hyperParameters"] == {
        "epochCount": 1,
        "batchSize": 16,
        "learningRate": 1e-5,
    }
    passed = [statement for statement in found["statements"] if statement["Action"] == ["iam:PassRole"]]
    assert passed[0]["Resource"] == ["arn:aws:iam::123456789012:role/job"]


def test_plan_when_trained_on_logs_then_the_filters_are_sent_and_their_values_are_masked(tmp_path, no_network):
    text = change(change(NOVA, "data.train", None), "data.invocation_logs", '"s3://bucket/logs/"')
    text = change(text, "data.use_prompt_response", "true")
    text = change(text, "data.filters", '{and_all = [{equals = {user = "bob"}}, {not_equals = {team = "x"}}]}')
    file = write_job(tmp_path, text)

    (request,) = plan(file).requests

    assert request.parameters["trainingDataConfig"] == {
        "invocationLogsConfig": {
            "invocationLogSource": {"s3Uri": "s3://bucket/logs/"},
            "usePromptResponse": True,
            "requestMetadataFilters": {"andAll": [{"equals": "***"}, {"notEquals": "***"}]},
        }
    }


def test_plan_when_the_file_has_problems_then_the_json_is_printed_and_the_status_is_2(tmp_path, no_network):
    file = write_job(tmp_path, change(TEXTS["bedrock"], "hyperparameters.n_epochs", "nan"))

    result = run("plan", file, "--json")

    assert result.exit_code == 2
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert [problem["path"] for problem in found["problems"]] == ["hyperparameters.n_epochs"]
    assert set(found["problems"][0]) == {"path", "value", "rule", "source"}
    assert "hyperparameters.n_epochs" in run("plan", file).stdout


@pytest.mark.parametrize(
    ("on", "path", "value", "at"),
    [
        ("bedrock", "job.model", '"amazon.nova-2-lite-v1:0:256k"', "job.model"),
        ("nova", "tags.aws:x", '"1"', "tags"),
        ("nova", "job.model", '"no model"', "job.model"),
    ],
)
def test_plan_when_the_request_breaks_a_rule_of_its_service_then_the_problem_has_the_path_of_the_file(
    tmp_path, no_network, on, path, value, at
):
    text = change(TEXTS[on], path, value) if ":" not in path else TEXTS[on] + '[tags]\n"aws:x" = "1"\n'

    problems = plan(write_job(tmp_path, text)).problems

    assert {problem.path for problem in problems} == {at}


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ("job.name", "AKIAIOSFODNN7EXAMPLE"),
        ("job.model", "sk-proj-0123456789abcdef"),
        ("job.model", "Bearer 0123456789"),
        ("job.note", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ],
)
def test_plan_when_a_value_looks_like_a_secret_then_it_is_shown_nowhere(tmp_path, no_network, path, secret):
    file = write_job(tmp_path, change(TEXTS["bedrock"], path, f'"{secret}"'))

    assert secret not in run("plan", file, "--json").output
    assert secret not in run("plan", file).output


def test_plan_when_the_name_of_the_function_is_wrong_then_that_is_one_problem(tmp_path, no_network):
    (problem,) = plan(write_job(tmp_path, change(REWARD, "job.name", '"my job"'))).problems

    assert problem.path == "grader.name"


REWARD = change(change(TEXTS["bedrock"], "grader.lambda_arn", None), "grader.reward", '"reward.py:reward"')


@pytest.mark.parametrize("role", [None, '"arn:aws:iam::123456789012:role/mine"'], ids=["new role", "own role"])
def test_plan_when_the_file_names_a_reward_then_it_is_deployed_before_the_job_is_created(tmp_path, no_network, role):
    file = write_job(tmp_path, change(change(REWARD, "grader.role", role), "grader.name", '"mine"'))

    found = plan(file)

    assert found.problems == ()
    made = ["CreateRole", "PutRolePolicy"] if role is None else []
    assert [request.operation for request in found.requests] == [
        *["CreateFile", *made, "CreateFunction", "Invoke", "CreateFineTuningJob"]
    ]
    grader = found.requests[-1].parameters["method"]["reinforcement"]["grader"]
    assert grader["lambda"]["function"] == "arn:aws:lambda:us-west-2:ACCOUNT:function:mine"
    assert {"kind": "grader", "name": "mine", "reward": "reward.py:reward"} in found.creates
    actions = {action for statement in found.statements for action in statement["Action"]}
    assert {"lambda:CreateFunction", "iam:PassRole"} <= actions


@pytest.mark.parametrize(
    ("source", "said"),
    [("reward = 1\n", "reward"), ("import absent_package\n", "absent_package"), ("print('x'); other = 1\n", "reward")],
    ids=["no function", "import fails", "no such name"],
)
def test_plan_when_the_reward_cannot_be_used_then_that_is_a_problem_and_stdout_is_json(tmp_path, source, said):
    file = write_job(tmp_path, REWARD)
    (tmp_path / "reward.py").write_text(source)

    result = run("plan", file, "--json")

    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["path"], problem["value"]) == ("grader.reward", "reward.py:reward")
    assert said in problem["rule"]


def test_plan_when_packages_are_added_then_pip_does_not_run_yet(tmp_path, no_network):
    found = plan(write_job(tmp_path, change(REWARD, "grader.with_deps", "true")))

    assert [request.operation for request in found.requests] == ["CreateFile", "CreateFunction", "CreateFineTuningJob"]
    assert "pip builds the zip" in found.notes[0]


def test_plan_when_printed_for_people_then_it_says_what_is_sent_created_and_needed(tmp_path, no_network):
    result = run("plan", write_job(tmp_path, TEXTS["bedrock"]), "--endpoint", "http://127.0.0.1:1/v1")

    for text in (
        "1. bedrock-mantle CreateFile",
        "2. bedrock-mantle CreateFineTuningJob",
        "kind job",
        "Nothing was sent",
    ):
        assert text in result.stdout
    assert "http://127.0.0.1:1/v1" in result.stdout


def test_plan_when_the_endpoint_has_a_password_then_it_is_refused_and_not_shown(tmp_path, no_network):
    result = run("plan", write_job(tmp_path, TEXTS["bedrock"]), "--endpoint", "http://me:hush@host/v1")

    assert result.exit_code == 2
    assert "hush" not in result.output


def test_plan_when_a_run_is_named_then_it_says_what_the_base_policy_scored(tmp_path, no_network):
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / "rollouts.jsonl").open("w") as records:
        for prompt in range(4):
            for sample in range(2):
                row = {"id": f"{prompt}-{sample}", "prompt_index": prompt, "sample_index": sample, "seconds": 1.0}
                row |= {"reward": float(sample), "turns": 1, "status": "completed"}
                records.write(json.dumps(row) + "\n")

    file = write_job(tmp_path, TEXTS["bedrock"])
    baseline = json.loads(run("plan", file, "--run", folder, "--json").stdout)["baseline"]

    assert (baseline["mean_reward"], baseline["rollouts"], baseline["prompts"]) == (0.5, 8, 4)
    assert "a mean reward of 0.500" in run("plan", file, "--run", folder).stdout
    assert run("plan", file, "--run", tmp_path).exit_code == 2
