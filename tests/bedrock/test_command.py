"""`aws-rft runtime --services bedrock` as a user runs it."""

from __future__ import annotations

import signal
import subprocess
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


def test_command_when_it_serves_then_a_job_runs_and_is_still_there_after_a_restart(tmp_path):
    db = str(tmp_path / "bedrock.db")
    command = [AWS_RFT, "runtime", "--services", "bedrock", "--port", "0", "--db", db, "--policy"]
    jobs = []
    for _ in range(2):
        process = subprocess.Popen([*command, f"callable:{PARTS}:guess", *FUNCTION], stdout=subprocess.PIPE, text=True)
        try:
            endpoint = process.stdout.readline().split()[3]
            client = openai.OpenAI(base_url=f"{endpoint}/v1", api_key="any")
            jobs = jobs or [create(client)]
            job = ended(client, jobs[0])
            assert (job["status"], len(metrics(client, jobs[0]))) == ("succeeded", 10)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
            process.stdout.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--services", "bedrock", "--key", "k"], "--key is for the job runtime"),
        (["--services", "bedrock", "--max-turns", "3"], "--max-turns is for the job runtime"),
        (["--services", "bedrock", "--function", "gsm8k"], "NAME=FILE.py:HANDLER"),
        (["--services", "bedrock", "--function", f"gsm8k={PARTS}:nobody"], "nobody"),
        (FUNCTION, "--services bedrock"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_command_when_options_contradict_each_other_then_it_says_so(options, text):
    result = CliRunner().invoke(main, ["runtime", "--port", "0", *options])

    assert result.exit_code == 2
    assert text in result.output
