"""`aws-rft runtime` and `aws-rft export` as a user runs them."""

import json
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.runtime import read_trajectories

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")


FAULTS = """
seed = 7
[[fault]]
kind = "status"
route = "inference"
status = 429
attempts = [2]
"""


@pytest.fixture
def served(tmp_path):
    (tmp_path / "policy_of_test.py").write_text("def policy(request):\n    return 'four'\n")
    (tmp_path / "faults.toml").write_text(FAULTS)
    process = subprocess.Popen(
        [
            *(AWS_RFT, "runtime", "--port", "0", "--db", str(tmp_path / "runs.db")),
            *("--policy", f"callable:{tmp_path}/policy_of_test.py:policy"),
            *("--faults", str(tmp_path / "faults.toml")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = process.stdout.readline()
    assert "http://127.0.0.1:" in first, process.communicate(timeout=10)
    yield process, first.split()[3]
    if process.poll() is None:
        process.kill()
    process.communicate()


def start(endpoint, prompt="2 + 2?"):
    answer = requests.post(f"{endpoint}/local/rollouts", json={"prompt": prompt}, timeout=10)
    answer.raise_for_status()
    return answer.json()["metadata"]


def infer(endpoint, metadata):
    return requests.post(
        f"{endpoint}/v1/chat/completions",
        headers={"X-Rft-Job-Arn": metadata["jobArn"], "X-Trajectory-Id": metadata["rolloutId"]},
        json={"model": "default", "messages": [{"role": "user", "content": "2 + 2?"}]},
        timeout=10,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runtime_when_signalled_then_it_ends_cleanly_and_what_it_recorded_can_be_exported(served, tmp_path, number):
    process, endpoint = served
    metadata = start(endpoint)
    assert infer(endpoint, metadata).json()["choices"][0]["message"]["content"] == "four"
    assert infer(endpoint, metadata).status_code == 429
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)

    assert (process.returncode, errors) == (0, "")
    assert [len(t.turns) for t in read_trajectories(tmp_path / "runs.db")] == [1]
    result = CliRunner().invoke(main, ["export", str(tmp_path / "runs.db"), str(tmp_path / "out.jsonl")])
    assert result.exit_code == 0
    assert "1 trajectories" in result.output
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "prompt": "2 + 2?",
        "turns": [{"role": "assistant", "content": "four"}],
    }


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", '{"prompt": "x", "jobArn": "nonsense"}', '{"prompt": "x", "inferenceParams": 5}', "[" * 9999],
)
def test_local_rollouts_when_the_request_is_malformed_then_400_and_nothing_is_started(served, body):
    _, endpoint = served

    answer = requests.post(f"{endpoint}/local/rollouts", data=body, timeout=10)

    assert answer.status_code == 400
    assert "cannot be started" in answer.json()["Message"]
    assert requests.get(f"{endpoint}/local/rollouts", timeout=10).json()["trajectories"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--faults", "/nowhere.toml"], "does not exist", id="faults"),
        pytest.param(["--policy", "nonsense"], "none of the forms", id="policy"),
        pytest.param(["--auth", "magic"], "auth", id="auth"),
        pytest.param(["--db", "/nowhere/at/all.db"], "cannot be opened", id="db"),
        pytest.param(["--auth", "sigv4"], "needs credentials", id="no-credentials"),
    ],
)
def test_runtime_when_used_wrongly_then_exit_status_is_two(arguments, says):
    result = CliRunner().invoke(main, ["runtime", "--port", "0", *arguments])

    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
