"""`aws-rft runtime --services bedrock` as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import openai
import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from tests.bedrock.bedrock_parts import create, ended, metrics

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
PARTS = str(Path(__file__).parent / "bedrock_parts.py")
FUNCTION = ["--function", f"gsm8k={PARTS}:grader"]


TRAINER = """
from aws_rft_sdk.runtime import Update
from tests.bedrock.bedrock_parts import guess


class Memory:
    def policy(self, state):
        return guess

    def step(self, state, step):
        return Update(b"learnt", {"entropy": 0.5})


def make():
    return Memory()


ready = make()
number = 3


def broken():
    return 1 / 0
"""


@pytest.fixture
def trainers(tmp_path):
    path = tmp_path / "trainers.py"
    path.write_text(TRAINER)
    return path


@pytest.mark.parametrize(
    ("option", "target", "entropy"),
    [
        ("--policy", f"callable:{PARTS}:guess", None),
        ("--trainer", "trainers.py:make", 0.5),
        ("--trainer", "trainers.py:ready", 0.5),
        ("--trainer", "softmax-arithmetic", pytest.approx(1.593, abs=0.001)),
    ],
    ids=["policy", "function", "object", "softmax"],
)
def test_command_when_it_serves_then_a_job_runs_and_is_still_there_after_a_restart(
    tmp_path, trainers, option, target, entropy
):
    db = str(tmp_path / "bedrock.db")
    command = [AWS_RFT, "runtime", "--services", "bedrock", "--port", "0", "--db", db, *FUNCTION, option, target]
    where = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}}
    jobs = []
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **where)
        try:
            endpoint = process.stdout.readline().split()[3]
            client = openai.OpenAI(base_url=f"{endpoint}/v1", api_key="any")
            jobs = jobs or [create(client)]
            job = ended(client, jobs[0])
            told = metrics(client, jobs[0])
            assert (job["status"], len(told)) == ("succeeded", 10)
            assert told[0]["actor_entropy"] == entropy
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
            process.stdout.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--services", "bedrock", "--key", "k"], "--key is for --services job;"),
        (["--services", "bedrock", "--max-turns", "3"], "--max-turns is for --services job;"),
        (["--services", "bedrock", "--function", "gsm8k"], "NAME=FILE.py:HANDLER"),
        (["--services", "bedrock", "--function", f"gsm8k={PARTS}:nobody"], "nobody"),
        (FUNCTION, "--services bedrock"),
        (["--trainer", "softmax-arithmetic"], "--services bedrock"),
        (["--services", "bedrock", "--trainer", "softmax"], "names no function"),
        (["--services", "bedrock", "--trainer", "trainers.py:number"], "is a int. Name an object"),
        (["--services", "bedrock", "--trainer", "trainers.py:broken"], "ZeroDivisionError"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_command_when_options_contradict_each_other_then_it_says_so(options, text, trainers, monkeypatch):
    monkeypatch.chdir(trainers.parent)
    monkeypatch.delitem(sys.modules, "trainers", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = CliRunner().invoke(main, ["runtime", "--port", "0", *options])

    assert result.exit_code == 2
    assert text in result.output
