"""The example of the six steps on Bedrock, run as its user runs it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from types import ModuleType

from aws_rft_sdk.jobs.graders import Grader, plan_deploy
from aws_rft_sdk.runtime import LocalBedrock

EXAMPLE = Path(__file__).parents[2] / "examples" / "bedrock_gsm8k"


def load(name: str) -> ModuleType:
    """Load a file of the example under a name that no other example has."""
    spec = importlib.util.spec_from_file_location(f"bedrock_gsm8k_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grader, problems = load("grader"), load("problems")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLE / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def solve(request: dict) -> str:
    """Answer every question right."""
    asked = request["messages"][-1]["content"]
    return next(row["answer"] for row in problems.problems(140) if asked.startswith(row["question"]))


def test_example_when_a_stand_in_runs_then_six_steps_end_in_a_chat_with_the_tuned_model():
    with LocalBedrock(solve, functions={"gsm8k": grader.handler}, auth="token") as server:
        result = run("--endpoint", server.endpoint)

    assert result.returncode == 0, result.stdout + result.stderr
    assert [int(step) for step in re.findall(r"step (\d+)/30  reward 1.000", result.stdout)] == list(range(1, 31))
    assert re.search(r"ft:openai.gpt-oss-20b:\S+ says:", result.stdout)
    assert result.stdout.rstrip().endswith(problems.problems(140)[120]["answer"].splitlines()[-1])


def test_example_when_nothing_runs_yet_then_one_command_does_it_all_and_the_tuned_model_is_better():
    result = run("--local")

    assert result.returncode == 0, result.stdout + result.stderr
    rewards = [float(reward) for reward in re.findall(r"step \d+/30  reward (\S+)", result.stdout)]
    assert len(rewards) == 30
    assert fmean(rewards[-5:]) > fmean(rewards[:3]) + 0.3
    base, tuned = map(int, re.findall(r"of 20 new problems \S+ solves (\d+), the tuned model (\d+)", result.stdout)[0])
    assert tuned > base + 6


def test_grader_when_it_is_deployed_then_its_package_can_be_built():
    wanted = Grader(reward=f"{EXAMPLE / 'grader.py'}:reward", name="gsm8k")

    assert [call.operation for call in plan_deploy(wanted, region="us-west-2")][-2:] == ["CreateFunction", "Invoke"]


def test_problems_when_they_are_made_then_each_is_new_and_its_answer_is_right():
    rows = problems.problems()

    assert len({row["question"] for row in rows}) == len(rows) == 120
    for row in rows:
        last = row["answer"].splitlines()[-1]
        for written, value in re.findall(r"<<([-+*/\d]+)=(\d+)>>", row["answer"]):
            left, sign, right = re.fullmatch(r"(\d+)(\D)(\d+)", written).groups()
            made = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}[sign]
            assert made(int(left), int(right)) == int(value)
        assert last.removeprefix("#### ").replace(",", "") == value
