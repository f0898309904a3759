"""`--policy standin`, `--policy scripted:FILE` and the limits, as a user gives them."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
import requests

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout import read_records, run
from aws_rft_sdk.rollout.policies import parse_policy
from aws_rft_sdk.runtime import call, read_trajectories, scripted, standin

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
REPOSITORY = Path(__file__).parents[2]

SHOP = """
from strands import Agent, tool
from aws_rft_sdk import rft_handler, runtime_model

@tool
def look_up_order(order_id: str) -> str:
    \"\"\"Look up an order.\"\"\"
    return f"{order_id} is on its way"

@rft_handler
def handler(payload):
    agent = Agent(model=runtime_model(), tools=[look_up_order])
    return float("Done" in str(agent(str(payload["prompt"]))))
"""
SCRIPT = [{"call": "look_up_order", "arguments": {"order_id": "A1"}}, "Done"]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "orders.jsonl").write_text('{"prompt": "Where is A1?"}\n{"prompt": "I want a refund"}\n')
    (tmp_path / "script.json").write_text(json.dumps(SCRIPT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def aws_rft(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([AWS_RFT, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def rollout(*arguments):
    return aws_rft("rollout", "shop.py:handler", "orders.jsonl", *arguments)


def test_rollout_when_nobody_answers_then_the_error_says_what_to_type(shop):
    result = rollout("--out", "run")

    assert result.returncode == 2
    assert "--policy standin" in result.stderr
    assert not (shop / "run").exists()


def test_rollout_when_the_policy_is_the_stand_in_then_no_file_is_needed(shop):
    result = rollout("--policy", "standin", "--group-size", "2", "--out", "run", "--json")

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["status"] == "completed"
    trajectories = read_trajectories(shop / "run" / "trajectories.db")
    assert all(trajectory.turns[0].message["tool_calls"] for trajectory in trajectories)


def test_rollout_when_the_policy_is_a_script_then_each_rollout_follows_it(shop):
    result = rollout("--policy", "scripted:script.json", "--out", "run", "--json")

    assert result.returncode == 0, result.stderr
    assert [(record.reward, record.turns) for record in read_records(shop / "run")] == [(1.0, 2)] * 2


def test_run_when_policies_are_objects_or_names_then_they_answer(shop):
    by_prompt = scripted({"refund": ["Done"], "": [call("look_up_order", order_id="A1"), "Not yet"]})
    made = {
        "object": run("shop.py:handler", ["I want a refund", "Where is A1?"], policy=by_prompt, discard=True),
        "name": run("shop.py:handler", ["a"], policy="scripted:script.json", discard=True),
        "stand-in": run("shop.py:handler", ["a"], policy=standin(3), discard=True),
    }

    rewards = {name: sorted(record.reward for record in one.records) for name, one in made.items()}
    assert rewards == {"object": [0.0, 1.0], "name": [1.0], "stand-in": [0.0]}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("scripted:missing.json", "missing.json", id="missing"),
        pytest.param("scripted:bad.json", "bad.json, item 2", id="item"),
        pytest.param("scripted:", "scripted:FILE", id="no-file"),
        pytest.param("standin:", "standin:SEED", id="no-seed"),
        pytest.param("standin:-1", "standin:SEED", id="negative-seed"),
        pytest.param("stand-in", "standin:SEED", id="spelling"),
    ],
)
def test_policy_when_the_name_is_wrong_then_the_error_says_so(shop, name, says):
    (shop / "bad.json").write_text('["Done", 5]')

    with pytest.raises(ConfigurationError) as raised:
        parse_policy(name)

    assert says in str(raised.value)


def test_policy_when_a_seed_is_named_then_it_is_that_stand_in(shop):
    def answers(policy):
        with LocalRuntime(policy) as runtime:
            for _ in range(3):
                run("shop.py:handler", ["a"], endpoint=runtime.endpoint, discard=True)
            return [
                [
                    function["arguments"]
                    for call in turn.message.get("tool_calls") or ()
                    for function in [call["function"]]
                ]
                for trajectory in runtime.trajectories()
                for turn in trajectory.turns
            ]

    assert answers(parse_policy("standin:7")) == answers(standin(7)) != answers(parse_policy("standin"))


# --- limits ----------------------------------------------------------------------------------------------------------


def test_rollout_when_past_a_limit_then_failed_by_it_once_and_resumed_with_it(shop):
    result = rollout("--policy", "scripted:script.json", "--max-turns", "1", "--out", "run", "--json")

    assert result.returncode == 1
    records = list(read_records(shop / "run"))
    assert [(record.status, record.failure, record.turns) for record in records] == [("failed", "limit", 1)] * 2

    resumed = aws_rft("rollout", "--resume", "run")

    assert resumed.returncode == 1
    assert "max_turns=1" in " ".join(record.error for record in read_records(shop / "run"))


def test_run_when_limits_are_not_reached_then_nothing_changes(shop):
    finished = run(
        "shop.py:handler",
        ["a"],
        policy="scripted:script.json",
        max_turns=2,
        max_total_tokens=1000,
        max_cost=1.0,
        price_per_million=(0.3, 1.2),
        out="run",
    )

    assert [record.reward for record in finished.records] == [1.0]
    assert [record.reward for record in run(resume="run").records] == [1.0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--max-turns", "0"], "max_turns", id="no-turns"),
        pytest.param(["--max-cost", "1"], "price_per_million", id="no-price"),
        pytest.param(
            ["--max-turns", "1", "--endpoint", "http://127.0.0.1:9"], "aws-rft runtime --max-turns", id="other"
        ),
    ],
)
def test_rollout_when_limits_are_wrong_then_nothing_begins(shop, options, says):
    policy = [] if "--endpoint" in options else ["--policy", "standin"]

    result = rollout(*policy, *options, "--out", "run")

    assert result.returncode == 2
    assert says in " ".join(result.stderr.split())
    assert not (shop / "run").exists()


def test_runtime_when_it_has_limits_then_it_refuses_what_is_past_them(shop):
    serving = subprocess.Popen(
        [AWS_RFT, "runtime", "--port", "0", "--policy", "standin", "--max-turns", "1", "--auth", "none"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        endpoint = serving.stdout.readline().split()[3]
        metadata = requests.post(f"{endpoint}/local/rollouts", json={"prompt": "p"}, timeout=10).json()["metadata"]
        headers = {"X-Rft-Job-Arn": metadata["jobArn"], "X-Trajectory-Id": metadata["rolloutId"]}
        body = {"messages": [{"role": "user", "content": "p"}]}
        answers = [
            requests.post(f"{endpoint}/v1/chat/completions", json=body, headers=headers, timeout=10) for _ in range(2)
        ]
    finally:
        serving.terminate()
        serving.communicate(timeout=20)

    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].json()["error"]["code"] == "rollout_limit_exceeded"
