"""`aws-rft job plan FILE --run RUN` for SageMaker: what the job would take, what speaks against it, who needs what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main

RUNTIME = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/calc-AbCdEfGhIj"
FUNCTION = "arn:aws:lambda:us-west-2:123456789012:function:forward"
SAGEMAKER = "arn:aws:sagemaker:us-west-2:123456789012"
JOB = f"""
[job]
on = "sagemaker"
name = "calculator-1"
model = "MODEL"
region = "us-west-2"
role_arn = "arn:aws:iam::123456789012:role/Job"
accept_eula = true
[agent]
AGENT
[data]
train = "TRAIN"
MORE_DATA
[output]
s3 = "s3://bucket/out/"
model_package_group = "{SAGEMAKER}:model-package-group/calc"
checkpoint_package_group = "{SAGEMAKER}:model-package-group/calc-ckpt"
mlflow_arn = "{SAGEMAKER}:mlflow-app/app-ABC"
[hyperparameters]
HYPERPARAMETERS
"""
Plan = Callable[..., dict[str, Any]]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    for name, count in (("train.jsonl", 100), ("validation.jsonl", 20)):
        (tmp_path / name).write_text("".join(f'{{"prompt": "What is {n} + 1?"}}\n' for n in range(count)))

    def make(
        *options: str,
        model: str = "gpt-oss-20b",
        agent: str = f'agentcore_arn = "{RUNTIME}"',
        train: str = "train.jsonl",
        more_data: str = "",
        hyperparameters: str = "global_batch_size = 32\nmax_epochs = 3",
        end: str = "",
        seconds: float | None = 10.0,
    ) -> dict[str, Any]:
        text = JOB.replace("MODEL", model).replace("AGENT", agent).replace("TRAIN", train)
        text = text.replace("MORE_DATA", more_data).replace("HYPERPARAMETERS", hyperparameters) + end
        (tmp_path / "job.toml").write_text(text)
        if seconds is not None:
            options = (*options, "--run", str(run(tmp_path / "run", seconds)))
        done = CliRunner().invoke(
            main, ["job", "plan", str(tmp_path / "job.toml"), "--json", *options], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    return make


def run(folder: Path, seconds: float) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [
        {
            **{"trajectory_id": f"t-{prompt}-{sample}", "prompt_index": prompt, "sample_index": sample},
            **{"reward": float(sample % 2), "turns": 2, "seconds": seconds, "status": "completed"},
            **{"prompt_tokens": [400, 500], "response_tokens": [60, 60]},
        }
        for prompt in range(20)
        for sample in range(4)
    ]
    (folder / "rollouts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_plan_when_a_run_is_named_then_estimates_follow_from_it(plan: Plan) -> None:
    said = plan(more_data='validation = "validation.jsonl"')["estimates"]

    steps = 3 * 4  # 100 prompts in batches of 32 are four steps
    rollouts, checked = steps * 32 * 8, 20 * 3  # validation before, after step 10, and at the end
    assert (said["steps"], said["rollouts"], said["validation_rollouts"]) == (steps, rollouts, checked)
    assert said["start_seconds_per_step"] == 32 * 8 / 5
    assert said["prefill_tokens"] == (rollouts + checked) * 900
    assert said["sample_tokens"] == (rollouts + checked) * 120
    assert said["train_tokens"] == rollouts * 1020
    assert said["cost"] == pytest.approx(
        (0.12 * said["prefill_tokens"] + 0.30 * said["sample_tokens"] + 0.36 * said["train_tokens"]) / 1e6
    )
    assert said["hours"] > said["rollout_hours"] == pytest.approx(rollouts / 5 / 3600)
    assert said["conflicts"] == said["notes"] == []


SAYS: dict[str, tuple[dict[str, Any], set[str], list[str]]] = {
    # what is planned, the rules of the conflicts, and how the notes begin
    "no-run": ({"seconds": None}, set(), ["--run names a run"]),
    "on-s3": ({"train": "s3://bucket/train.jsonl"}, set(), ["data.train is not on this machine"]),
    "all-on-s3": (
        {"train": "s3://bucket/train.jsonl", "more_data": 'validation = "s3://bucket/v.jsonl"'},
        set(),
        ["data.train is not on this machine", "data.validation is not on this machine"],
    ),
    "no-prices": ({"model": "qwen-3.6-27b"}, set(), ["prices of qwen-3.6-27b"]),
    "own-prices": (
        {"model": "qwen-3.6-27b", "end": "[prices]\nprefill = 1\nsample = 2\ntrain = 3"},
        set(),
        [],
    ),
    "too-slow": ({"seconds": 700.0}, {"rollout_seconds"}, []),
    "slow-for-agentcore": (
        {"seconds": 1000.0, "hyperparameters": "global_batch_size = 32\nrollout_timeout = 3600"},
        {"rollout_seconds"},
        [],
    ),
    "slow-behind-a-forwarder": (
        {
            "seconds": 1000.0,
            "hyperparameters": "global_batch_size = 32\nrollout_timeout = 3600",
            "agent": f'lambda_arn = "{FUNCTION}"',
        },
        set(),
        [],
    ),
}


@pytest.mark.parametrize("name", SAYS)
def test_plan_when_something_is_wrong_or_unknown_then_it_is_said(plan: Plan, name: str) -> None:
    planned, rules, notes = SAYS[name]

    said = plan(**planned)["estimates"]

    assert {conflict["rule"] for conflict in said["conflicts"]} == rules
    assert len(said["notes"]) == len(notes)
    assert all(note.startswith(begin) for note, begin in zip(said["notes"], notes, strict=True))


def test_plan_when_the_data_is_on_s3_then_prompts_of_the_run_are_not_taken_for_all(plan: Plan) -> None:
    said = plan(train="s3://bucket/train.jsonl", hyperparameters="group_size = 8\nmax_steps = 20")["estimates"]

    assert (said["steps"], said["rollouts"]) == (20, 20 * 128 * 8)


@pytest.mark.parametrize(
    ("agent", "allowed", "not_allowed"),
    [
        (f'agentcore_arn = "{RUNTIME}"', ("bedrock-agentcore:GetAgentRuntime", RUNTIME), None),
        ('agentcore_id = "calc-AbCdEfGhIj"', ("bedrock-agentcore:GetAgentRuntime", RUNTIME), None),
        (
            f'lambda_arn = "{FUNCTION}"',
            ("sagemaker:CreateJob", f"{SAGEMAKER}:job/*"),
            "bedrock-agentcore:GetAgentRuntime",
        ),
    ],
    ids=["arn", "id", "lambda"],
)
def test_plan_when_it_names_the_agent_then_the_statements_do(
    plan: Plan, agent: str, allowed: tuple[str, str], not_allowed: str | None
) -> None:
    statements = plan(agent=agent, seconds=None)["statements"]

    pairs = {(action, arn) for item in statements for action in item["Action"] for arn in item["Resource"]}
    assert allowed in pairs
    assert ("iam:PassRole", "arn:aws:iam::123456789012:role/Job") in pairs
    assert ("s3:PutObject", "arn:aws:s3:::bucket/*") in pairs
    assert not_allowed not in {action for action, _ in pairs}


def test_plan_when_it_is_printed_then_estimates_are_lines_for_people(plan: Plan, tmp_path: Path) -> None:
    plan()
    done = CliRunner().invoke(
        main, ["job", "plan", str(tmp_path / "job.toml"), "--run", str(tmp_path / "run")], catch_exceptions=False
    )

    assert "12 steps of 256 rollouts: 3,072 rollouts\n" in done.stdout
    assert "the rollouts of a step begin within 51 s, at 5 a second\n" in done.stdout
    assert "US dollars by AWS Price List" in done.stdout
