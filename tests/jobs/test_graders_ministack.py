"""The deployed zip as real Lambda code, in MiniStack, which also simulates IAM policies.

MiniStack pins an older botocore, so it has an environment of its own: `RFT_MINISTACK_PYTHON` names its interpreter.
"""

import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import boto3
import pytest
import requests
from botocore.config import Config

from aws_rft_sdk.errors import RewardError
from aws_rft_sdk.jobs._iam_check import Principal, compare
from aws_rft_sdk.jobs.graders import Grader, deploy, undeploy
from aws_rft_sdk.jobs.iam import Names, needs_of

PYTHON = os.environ.get("RFT_MINISTACK_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not Path(PYTHON).is_file(), reason="set RFT_MINISTACK_PYTHON to an interpreter: pip install ministack"
)
REGION = "us-west-2"


@pytest.fixture(scope="module")
def ministack(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ministack")
    variables = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "HOME": str(folder), "PATH": os.environ["PATH"]}
    process = subprocess.Popen(
        [str(Path(PYTHON).with_name("ministack"))],
        env=variables,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url, pause = f"http://127.0.0.1:{port}", threading.Event()
    try:
        for _ in range(300):
            try:
                requests.get(url, timeout=5)
                break
            except requests.ConnectionError:
                assert process.poll() is None
                pause.wait(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def client(ministack, aws_keys):
    def make(service):
        config = Config(retries={"total_max_attempts": 1})
        return boto3.session.Session(region_name=REGION).client(service, endpoint_url=ministack, config=config)

    return make


def test_grader_when_deployed_to_real_lambda_code_then_it_scores_and_undeploy_leaves_nothing(
    ministack, client, tmp_path
):
    file = tmp_path / "real_reward.py"
    file.write_text("from aws_rft_sdk.rewards import gsm8k as reward\n")
    place = {"region": REGION, "endpoint_url": ministack}
    grader = Grader(f"{file}:reward", "real-grader", runtime="python3.12")
    done = deploy(grader, **place)
    assert done.scores == (1.0,)
    assert deploy(grader, **place).changes == ()
    event = [{"id": "7", "messages": [{"role": "assistant", "content": "#### 5"}], "reference_answer": "4"}]
    reply = json.loads(client("lambda").invoke(FunctionName="real-grader", Payload=json.dumps(event))["Payload"].read())
    assert [(row["id"], row["aggregate_reward_score"]) for row in reply] == [("7", 0.0)]

    account = done.arn.split(":")[4]
    names = Names(account, REGION, function="real-grader")
    role = Principal.of(done.role)
    found = compare(needs_of("grader", names), role, client("iam"))
    assert (found.missing, found.simulated) == ((), True)
    lacking = compare(needs_of("forwarder", Names(account, REGION, function="other")), role, client("iam"))
    assert {gap.action for gap in lacking.missing} == {
        "logs:CreateLogGroup",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }

    file.write_text("def reward(rollout):\n    return None\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1?", "ground_truth": "2"}\n' * 2)
    with pytest.raises(RewardError, match="returned None"):
        deploy(grader, samples=tmp_path / "rows.jsonl", **place)
    assert undeploy("real-grader", **place) == [done.arn, done.role]
    assert undeploy("real-grader", **place) == []
