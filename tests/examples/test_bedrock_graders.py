"""examples/bedrock_graders: each grader scores rows of its kind, fits Lambda, and needs nothing that Lambda lacks."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk._loading import load_object
from aws_rft_sdk.cli import main
from aws_rft_sdk.jobs.graders import Grader, plan_deploy
from aws_rft_sdk.rewards import check_reply, reward_lambda
from tests.rewards.judging import answering

FOLDER = Path(__file__).parents[2] / "examples" / "bedrock_graders"
ROWS = {row["id"]: row for row in map(json.loads, (FOLDER / "rows.jsonl").read_text().splitlines())}
ANSWERS = [
    ("gsm8k", 1, "12 * 6 = 72\n#### 72", 1.0),
    ("gsm8k", 1, "12 * 6 = 71\n#### 71", 0.0),
    ("gsm8k", 2, "#### 70.", 1.0),
    ("gsm8k", 2, "#### ,", 0.0),
    ("finqa", 1, "5 / 4 - 1\nANSWER: 25%", 1.0),
    ("finqa", 1, "ANSWER: 20%", 0.0),
    ("finqa", 2, "ANSWER: no", 1.0),
    ("finqa", 2, "ANSWER: yes", 0.0),
]


def scores(name, *rows):
    event = [
        {
            "id": row["id"],
            "messages": [*row["messages"], {"role": "assistant", "content": answer}],
            "metadata": {"reference_answer": row["reference_answer"]},
        }
        for row, answer in rows
    ]
    reply = reward_lambda(load_object(f"{FOLDER / name}_grader.py:reward"))(event)
    assert check_reply(event, reply) == []
    return [result["aggregate_reward_score"] for result in reply]


@pytest.mark.parametrize(("name", "number", "answer", "score"), ANSWERS)
def test_grader_when_it_scores_an_answer_then_as_its_readme_says(name, number, answer, score):
    assert scores(name, (ROWS[f"{name}-{number}"], answer)) == [score]


def test_pandalm_grader_when_the_judge_answers_then_its_grades_count(service, aws_keys, monkeypatch):
    faults = dict.fromkeys(("wrong_verdict", "weak_reasoning", "incomplete", "disordered"), False)
    verdict = {"explanation": "", "verdict": 10, "reasoning": 5, "coverage": 10, "structure": 10, **faults}
    service.policy = answering(verdict)
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", service.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    row = ROWS["pandalm-1"]
    assert scores("pandalm", (row, "1, because an apple is a fruit."), (row, "2.")) == [0.9, 0.9]
    assert len(service.requests) == 2


@pytest.mark.parametrize("name", ["gsm8k", "finqa", "pandalm"])
def test_grader_when_planned_then_it_can_be_deployed_without_a_layer(name):
    plan = plan_deploy(Grader(f"{FOLDER / name}_grader.py:reward", f"{name}-grader"), region="us-west-2")
    assert ("bedrock:InvokeModel" in plan[1].parameters["PolicyDocument"]) == (name == "pandalm")


def test_readme_when_its_commands_are_run_then_the_event_is_scored_and_options_exist():
    text = (FOLDER / "README.md").read_text()
    command = ["reward", "invoke", str(FOLDER / "gsm8k_grader.py:reward"), str(FOLDER / "event.json")]
    result = CliRunner().invoke(main, command)
    assert [row["aggregate_reward_score"] for row in json.loads(result.stdout)] == [1.0, 0.0]
    for name in re.findall(r"aws-rft reward (\w+)", text):
        shown = CliRunner().invoke(main, ["reward", name, "--help"]).output
        for line in re.findall(rf"aws-rft reward {name} (.+)", text):
            assert all(option in shown for option in re.findall(r"--[\w-]+", line))
    assert all((FOLDER / file).exists() for file in re.findall(r"`(\w+\.(?:py|jsonl))`", text))
