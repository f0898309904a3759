import ast
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import check_reply
from aws_rft_sdk.rewards.packaging import build_package

from .judging import answering

REWARD = """
from aws_rft_sdk.rewards import DominantOutcome, Length, gsm8k
from nearby import LIMIT
import inside.part
import plain_folder.part

reward = DominantOutcome(gsm8k, {"short": Length(100, LIMIT)})


class Holder:
    inner = gsm8k


def broken(rollout):
    return float(str(rollout.ground_truth) in rollout.answer)
"""
EVENT = [
    {"id": "a", "messages": [{"role": "assistant", "content": "#### 4"}], "reference_answer": "4"},
    {"id": "b", "messages": [{"role": "nova_assistant", "content": "#### 5"}], "metadata": {"reference_answer": "4"}},
]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "nearby.py").write_text("LIMIT = 200\n")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "__init__.py").write_text("")
    (tmp_path / "inside" / "part.py").write_text("")
    (tmp_path / "plain_folder").mkdir()
    (tmp_path / "plain_folder" / "part.py").write_text("")
    path = tmp_path / "zip_reward.py"
    path.write_text(REWARD)
    return path


def run_in_lambda(zip_path, event, tmp_path, *, packages=(), environment=None):
    """Run the handler as Lambda does: nothing but the standard library, the zip, and these installed packages."""
    beside = tmp_path / "of_lambda"
    beside.mkdir(exist_ok=True)
    for package in packages:
        origin = Path(importlib.util.find_spec(package).origin)
        origin = origin.parent if origin.name == "__init__.py" else origin
        (beside / origin.name).symlink_to(origin)
    code = """
import sys
sys.path += sys.argv[1:3]
from lambda_function import lambda_handler
import json
print(json.dumps(lambda_handler(json.loads(sys.argv[3]), None)))
known = {*sys.stdlib_module_names, "__main__", "__mp_main__"}
print(sorted({name.partition(".")[0] for name in sys.modules} - known))
"""
    command = [sys.executable, "-I", "-S", "-c", code, str(zip_path), str(beside), json.dumps(event)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    reply, modules = result.stdout.splitlines()
    return json.loads(reply), modules


def test_package_when_run_with_the_zip_alone_then_it_scores(file, tmp_path):
    built = build_package(file, "reward", tmp_path / "r.zip", floor=-1.0)
    reply, modules = run_in_lambda(built.path, EVENT, tmp_path / "inside")
    assert [result["aggregate_reward_score"] for result in reply] == [1.0, 0.0]
    assert check_reply(EVENT, reply) == []
    assert modules == "['aws_rft_sdk', 'inside', 'lambda_function', 'nearby', 'plain_folder', 'zip_reward']"
    assert built.needs == ()
    assert built.fits
    assert {"zip_reward.py", "nearby.py", "inside/part.py", "lambda_function.py"} <= set(built.files)
    assert not {"aws_rft_sdk/rewards/workbench.py", "aws_rft_sdk/handler.py", "aws_rft_sdk/rewards/judge.py"} & set(
        built.files
    )
    with zipfile.ZipFile(built.path) as archive:
        assert sum(info.file_size for info in archive.infolist()) == built.unzipped_bytes


def test_package_when_built_twice_then_the_same_bytes(file, tmp_path):
    first = build_package(file, "Holder.inner", tmp_path / "a.zip").path.read_bytes()
    os.utime(file, (0, 0))
    assert build_package(file, "Holder.inner", tmp_path / "b.zip").path.read_bytes() == first
    reply, _ = run_in_lambda(tmp_path / "a.zip", EVENT, tmp_path / "inside")
    assert [result["aggregate_reward_score"] for result in reply] == [1.0, 0.0]


def test_package_when_code_is_run_then_the_sandbox_is_in_it(tmp_path):
    (tmp_path / "with_code.py").write_text("from aws_rft_sdk.rewards import CodeTests\nreward = CodeTests()\n")
    built = build_package(tmp_path / "with_code.py", "reward", tmp_path / "r.zip")
    event = [{"id": "a", "messages": [{"role": "assistant", "content": "x = 1"}], "reference_answer": "assert x == 1"}]
    reply, _ = run_in_lambda(built.path, event, tmp_path)
    assert reply[0]["aggregate_reward_score"] == 1.0


PANDALM_JUDGE = """
import boto3
from aws_rft_sdk.rewards import PANDALM, Judge


def bedrock():
    return boto3.client("bedrock-runtime")


reward = Judge(bedrock, PANDALM, model_id="judge-1")
"""


def test_package_when_it_is_a_judge_then_it_needs_no_layer(tmp_path, service):
    """Without Strands and OpenAI, as in Lambda: boto3 and what boto3 needs are there, and nothing else."""
    (tmp_path / "pandalm_judge.py").write_text(PANDALM_JUDGE)
    result = aws_rft("package", f"{tmp_path / 'pandalm_judge.py'}:reward", "--out", tmp_path / "r.zip")
    assert (result.exit_code, "layer" in result.output) == (0, False), result.output
    assert (tmp_path / "r.zip").stat().st_size < 70_000
    faults = dict.fromkeys(("wrong_verdict", "weak_reasoning", "incomplete", "disordered"), False)
    verdict = {"explanation": "", "verdict": "10", "reasoning": 5, "coverage": 10, "structure": 10, **faults}
    service.policy = answering(verdict)
    environment = {
        **{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"},
        **{"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": service.endpoint},
    }
    packages = ("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil", "six")

    reply, modules = run_in_lambda(tmp_path / "r.zip", EVENT, tmp_path, packages=packages, environment=environment)

    assert [result["aggregate_reward_score"] for result in reply] == [0.9, 0.9]
    assert check_reply(EVENT, reply) == []
    assert (
        {"boto3", "pandalm_judge"}
        <= set(ast.literal_eval(modules))
        <= {*packages, "aws_rft_sdk", "lambda_function", "pandalm_judge"}
    )
    assert [request.path for request in service.requests] == ["/model/judge-1/converse"] * 2


@pytest.mark.parametrize(
    "source",
    [
        "from aws_rft_sdk import rewards\nreward = rewards.gsm8k",
        "import aws_rft_sdk.rewards\nreward = aws_rft_sdk.rewards.gsm8k",
        "from aws_rft_sdk.rewards import *\nreward = gsm8k",
        "from aws_rft_sdk.rewards import numeric\nreward = numeric.gsm8k",
        "import aws_rft_sdk\nfrom aws_rft_sdk.rewards import Judge, gsm8k as reward",
        "def reward(rollout):\n    from aws_rft_sdk.rewards import gsm8k\n    return gsm8k(rollout)",
    ],
)
def test_package_when_our_code_is_imported_in_any_way_then_it_scores(tmp_path, source):
    (tmp_path / "any_way.py").write_text(source)
    built = build_package(tmp_path / "any_way.py", "reward", tmp_path / "r.zip")
    (tmp_path / "elsewhere").mkdir()
    reply, _ = run_in_lambda(built.path, EVENT, tmp_path / "elsewhere")
    assert [result["aggregate_reward_score"] for result in reply] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("source", "needs"),
    [
        ("from aws_rft_sdk.rewards import MathVerify\nreward = MathVerify()", ("math_verify",)),
        ("from aws_rft_sdk.rewards import JsonSchema\nreward = JsonSchema({})", ("jsonschema",)),
        ("import numpy, json, boto3\nfrom pandas.core import frame\nreward = None", ("numpy", "pandas")),
        ("import aws_rft_sdk.rewards as r\nreward = r.gsm8k", ("jsonschema", "math_verify")),
        ("from aws_rft_sdk.rewards.numeric import gsm8k as reward", ()),
    ],
)
def test_package_when_code_needs_other_packages_then_they_are_named(tmp_path, source, needs):
    (tmp_path / "needy.py").write_text(source)
    assert build_package(tmp_path / "needy.py", "reward", tmp_path / "r.zip").needs == needs


@pytest.mark.parametrize(
    "name", ["json.py", "lambda.py", "lambda_function.py", "my-reward.py", "broken_one.py", "absent.py"]
)
def test_package_when_the_file_cannot_be_imported_then_configuration_error(tmp_path, name):
    if name != "absent.py":
        (tmp_path / name).write_text("def (" if name == "broken_one.py" else "reward = 1")
    with pytest.raises(ConfigurationError):
        build_package(tmp_path / name, "reward", tmp_path / "r.zip")


def aws_rft(*arguments):
    return CliRunner().invoke(main, ["reward", *map(str, arguments)], catch_exceptions=False)


def test_package_command_when_run_then_sizes_against_the_limits(file, tmp_path):
    result = aws_rft("package", f"{file}:reward", "--out", tmp_path / "r.zip")
    assert result.exit_code == 0
    assert "50,000,000" in result.output
    assert "lambda_function.lambda_handler" in result.output
    assert aws_rft("package", "json:dumps", "--out", tmp_path / "r.zip").exit_code == 2
    assert aws_rft("package", f"{file}:Holder", "--out", tmp_path / "r.zip").exit_code == 2
    result = aws_rft("package", f"{file}:reward", "--out", tmp_path / "absent" / "r.zip")
    assert (result.exit_code, "cannot be written" in result.output) == (2, True)


def test_package_command_when_the_function_could_not_be_imported_then_refused_here_already(file, tmp_path):
    with file.open("a") as more:
        more.write("from aws_rft_sdk.rewards import reward_lambda\nhandler = reward_lambda(reward)\n")
    result = aws_rft("package", f"{file}:handler", "--out", tmp_path / "r.zip")
    assert (result.exit_code, "Lambda handler already" in result.output) == (2, True)
    assert aws_rft("package", f"{file}:reward", "--floor", "nan", "--out", tmp_path / "r.zip").exit_code == 2
    assert not (tmp_path / "r.zip").exists()


def test_invoke_command_when_run_then_the_reply_and_exit_status(file, tmp_path):
    events = tmp_path / "events.json"
    events.write_text(json.dumps(EVENT))
    result = aws_rft("invoke", f"{file}:reward", events)
    assert result.exit_code == 0
    assert [row["id"] for row in json.loads(result.stdout)] == ["a", "b"]
    events.write_text(json.dumps([{"id": "a"}]))
    result = aws_rft("invoke", f"{file}:reward", events, "--floor", "-1")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["aggregate_reward_score"] == -1.0
    assert "1 of 1 rows cannot be judged" in result.stderr
    events.write_text("{")
    assert aws_rft("invoke", f"{file}:reward", events).exit_code == 2


def test_invoke_command_when_it_is_a_handler_then_its_reply_is_checked(tmp_path):
    (tmp_path / "own_handler.py").write_text("def handler(event, context):\n    return [{'id': '0'}]\n")
    events = tmp_path / "events.json"
    events.write_text(json.dumps(EVENT))
    result = aws_rft("invoke", f"{tmp_path / 'own_handler.py'}:handler", events, "--lambda-handler")
    assert result.exit_code == 1
    assert "1 results for 2 rows" in result.stderr


PATIENT = ("--max-seconds", "60")  # of a busy machine
CASES = [
    {"prompt": "12 + 60?", "ground_truth": 72, "answer": "#### 72", "kind": "success", "expected": 1},
    {"prompt": "12 + 60?", "ground_truth": 72, "answer": "#### 73", "kind": "failure", "expected": 0},
]


def test_test_command_when_the_reward_is_sound_then_zero_and_when_not_then_one(file, tmp_path):
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(map(json.dumps, CASES)))
    result = aws_rft("test", f"{file}:reward", cases, "--range", "-0.1", "1.1", *PATIENT)
    assert (result.exit_code, "no breach" in result.output) == (0, True), result.output
    result = aws_rft("test", f"{file}:broken", cases)
    assert result.exit_code == 1
    assert "breach: runaway continuation" in result.output
    report = json.loads(aws_rft("test", f"{file}:broken", cases, "--json").output)
    assert report["breaches"]
    assert aws_rft("test", f"{file}:Holder", cases).exit_code == 2
    cases.write_text("{}")
    assert aws_rft("test", f"{file}:reward", cases).exit_code == 2


NOISY = """
from aws_rft_sdk.rewards import Component, RewardResult, gsm8k

print("loading")


def reward(rollout):
    print("scoring")
    right = gsm8k(rollout)
    return RewardResult(right, (Component("[/b] right", right),))


def broken(rollout):
    raise ValueError("no [/INST] in [bold]here[/bold]")
"""


def test_commands_when_a_reward_prints_then_it_is_no_part_of_the_json(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, CASES)))
    (tmp_path / "events.json").write_text(json.dumps(EVENT))
    result = aws_rft("test", f"{tmp_path / 'noisy.py'}:reward", tmp_path / "cases.jsonl", "--json", *PATIENT)
    assert json.loads(result.stdout)["breaches"] == []
    assert "scoring" in result.stderr
    result = aws_rft("invoke", f"{tmp_path / 'noisy.py'}:reward", tmp_path / "events.json")
    assert len(json.loads(result.stdout)) == 2


def test_test_command_when_names_and_messages_have_brackets_then_they_are_shown_as_they_are(tmp_path):
    (tmp_path / "noisy_names.py").write_text(NOISY)
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, CASES)))
    result = aws_rft("test", f"{tmp_path / 'noisy_names.py'}:reward", tmp_path / "cases.jsonl", *PATIENT)
    assert (result.exit_code, "[/b] right" in result.output) == (0, True)
    result = aws_rft("test", f"{tmp_path / 'noisy_names.py'}:broken", tmp_path / "cases.jsonl")
    assert result.exit_code == 1
    assert "breach: line 1: raised ValueError: no [/INST] in [bold]here[/bold]" in result.output


@pytest.mark.parametrize("source", ["import sys\nsys.exit(0)", "raise ImportError('no numpy')", "def ("])
def test_test_command_when_the_file_cannot_be_imported_then_bad_usage_and_no_breach_nor_success(tmp_path, source):
    (tmp_path / "no_import.py").write_text(source)
    (tmp_path / "cases.jsonl").write_text(json.dumps(CASES[0]))
    result = aws_rft("test", f"{tmp_path / 'no_import.py'}:reward", tmp_path / "cases.jsonl")
    assert (result.exit_code, "importing" in result.output) == (2, True)


@pytest.mark.parametrize(
    "reply", ["[5]", "[{'metrics_list': 5}]", "[{'metrics_list': ['x']}]", "None", "[{'id': 10**400}]"]
)
def test_invoke_command_when_a_handler_replies_anything_then_it_says_what_is_wrong(tmp_path, reply):
    (tmp_path / "any_handler.py").write_text(f"def handler(event, context):\n    return {reply}\n")
    (tmp_path / "events.json").write_text(json.dumps(EVENT[:1]))
    result = aws_rft("invoke", f"{tmp_path / 'any_handler.py'}:handler", tmp_path / "events.json", "--lambda-handler")
    assert (result.exit_code, bool(result.stderr)) == (1, True)


def test_invoke_command_when_event_or_reply_is_near_the_limit_then_sizes_are_those_on_the_wire(tmp_path):
    (tmp_path / "any_size.py").write_text("def reward(rollout):\n    return 1.0\n")
    events = tmp_path / "events.json"
    row = {"messages": [{"role": "assistant", "content": ""}]}
    events.write_text(json.dumps([row] * 40_000))  # as it is printed, the reply has more
    assert aws_rft("invoke", f"{tmp_path / 'any_size.py'}:reward", events).exit_code == 0
    events.write_text(json.dumps([{**row, "prompt": "x" * 6_000_000}]))
    result = aws_rft("invoke", f"{tmp_path / 'any_size.py'}:reward", events)
    assert (result.exit_code, result.stderr) == (1, "the event has 6.0 MB, Lambda takes 6 MB\n")
