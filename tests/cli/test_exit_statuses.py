"""Exit statuses of `aws-rft` when its surroundings fail, shown with real processes."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
REPOSITORY = Path(__file__).parents[2]
HANDLERS = """
import os
import requests
from aws_rft_sdk import RFTContext, rft_handler


@rft_handler
def handler(payload):
    url = payload["metadata"]["endpoint"] + "/v1/chat/completions"
    messages = [{"role": "user", "content": payload["prompt"]}]
    requests.post(url, headers=RFTContext.get_headers(), json={"model": "default", "messages": messages}, timeout=30)
    for descriptor in (1, 2):
        os.write(descriptor, b"NOISE\\n")
    return 1.0
"""
SLOW_TO_LOAD = """
import time
print("loading", flush=True)
time.sleep(60)
"""
ROLLOUT = f"{AWS_RFT} rollout handlers.py:handler data.jsonl --policy standin"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses /dev/full")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "data.jsonl").write_text(json.dumps({"prompt": "2+2?"}) + "\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(command):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("arguments", ["--discard", "--discard --json", "--help"])
def test_rollout_when_stdout_is_on_a_full_disk_then_one_line_says_so_and_the_status_is_3(folder, arguments):
    result = shell(f"{ROLLOUT} {arguments} > /dev/full")

    assert result.returncode == 3, result.stderr
    assert result.stderr.splitlines()[-1] == "Error: stdout or a file cannot be written: No space left on device"


def test_rollout_when_stderr_is_on_a_full_disk_then_the_status_is_3(folder):
    assert shell(f"{ROLLOUT} --out run 2> /dev/full").returncode == 3
    assert not (folder / "run").exists()


@pytest.mark.parametrize("arguments", ["--discard", "--discard --json"])
def test_rollout_when_the_reader_of_stdout_is_gone_then_the_status_is_that_of_the_run(folder, arguments):
    result = shell(f"{ROLLOUT} {arguments} | true; exit ${{PIPESTATUS[0]}}")

    assert result.returncode == 0, result.stderr
    assert "Error" not in result.stderr


def test_rollout_when_all_descriptors_are_closed_then_no_file_of_the_run_gets_what_the_agent_prints(folder):
    result = shell(f"{ROLLOUT} --out run <&- >&- 2>&-")

    assert result.returncode == 0
    record = json.loads((folder / "run" / "rollouts.jsonl").read_text())
    assert record["status"] == "completed"
    assert [path.name for path in (folder / "run").iterdir() if b"NOISE" in path.read_bytes()] == []


def test_rollout_when_interrupted_while_the_handler_is_loaded_then_the_status_is_130(folder):
    (folder / "handlers.py").write_text(SLOW_TO_LOAD)
    with subprocess.Popen(ROLLOUT.split(), stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr.readline() == "loading\n"
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
