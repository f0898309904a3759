"""stdout belongs to the command, whatever handlers and rewards print, and however."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
REPOSITORY = Path(__file__).parents[2]

LOUD = """
import atexit, ctypes, logging, os, subprocess, sys, threading, time
from strands import Agent, tool
from aws_rft_sdk import rft_handler, runtime_model

logger = logging.getLogger("loud")
logger.addHandler(logging.StreamHandler(sys.stdout))
libc = ctypes.CDLL(None)

def shout():
    print("NOISE from print")
    sys.__stdout__.write("NOISE from the original stream\\n")
    logger.warning("NOISE from a log handler")
    os.write(1, b"NOISE from a descriptor\\n")
    libc.puts(b"NOISE from C, which is in a buffer until the process ends")
    subprocess.run(["sh", "-c", "echo NOISE from a subprocess"], check=True)
    if os.fork() == 0:
        os.write(1, b"NOISE from a forked child\\n")
        os._exit(0)
    thread = threading.Thread(target=print, args=("NOISE from a thread",))
    thread.start()
    thread.join()

def for_ever():
    while True:
        print("NOISE from a thread left behind", flush=True)
        time.sleep(0.001)

threading.Thread(target=for_ever, daemon=True).start()
atexit.register(shout)
shout()

@tool
def look_up(name: str) -> str:
    \"\"\"Look up a name.\"\"\"
    shout()
    return f"{name} is here"

@rft_handler
def handler(payload):
    agent = Agent(model=runtime_model(), tools=[look_up])  # with the callback handler that prints
    return float("done" in str(agent(str(payload["prompt"]))))

def reward(rollout):
    shout()
    return 1.0 if "4" in str(rollout.answer) else 0.0
"""

POLICY = """
def policy(request):
    if request["messages"][-1]["role"] == "tool":
        return "done"
    call = {"name": "look_up", "arguments": '{"name": "Ada"}'}
    return {"tool_calls": [{"id": "1", "type": "function", "function": call}]}
"""

CASES = [
    {"prompt": "2+2?", "answer": "4", "expected": 1, "kind": "success"},
    {"prompt": "2+2?", "answer": "5", "expected": 0, "kind": "failure"},
]
EVENT = [
    {
        "id": "1",
        "reference_answer": {"answer": "4"},
        "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    }
]


def aws_rft(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", "")))}
    result = subprocess.run(
        [AWS_RFT, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode in (0, 1), result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loud")
    (folder / "loud.py").write_text(LOUD)
    (folder / "policy.py").write_text(POLICY)
    (folder / "data.jsonl").write_text('{"prompt": "2+2?"}\n')
    (folder / "cases.jsonl").write_text("\n".join(map(json.dumps, CASES)))
    (folder / "event.json").write_text(json.dumps(EVENT))
    rollout = aws_rft("rollout", "loud.py:handler", "data.jsonl", "--group-size", "2", "--out", "run", cwd=folder)
    assert "NOISE" not in rollout.stdout
    assert "records in run" in rollout.stdout
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("prove loud.py:handler --rollouts 4 --threads 2 --json", id="prove"),
        pytest.param("replay run --handler loud.py:handler --json", id="replay"),
        pytest.param("rescore run --reward loud.py:reward --json", id="rescore"),
        pytest.param("reward test loud.py:reward cases.jsonl --max-seconds 60 --json", id="reward-test"),
        pytest.param("reward invoke loud.py:reward event.json", id="reward-invoke"),
    ],
)
def test_command_when_user_code_prints_in_every_way_then_stdout_is_json(folder, arguments):
    result = aws_rft(*arguments.split(), cwd=folder)

    json.loads(result.stdout)
    for way in ("print", "the original stream", "a log handler", "a descriptor", "C", "a subprocess", "a forked child",
                "a thread", "a thread left behind"):  # fmt: skip
        assert f"NOISE from {way}" in result.stderr


def without(descriptor, reward, cwd):
    """Run `aws-rft reward test` with a descriptor closed."""
    command = f"exec {AWS_RFT} reward test {reward} cases.jsonl --max-seconds 60 --json {descriptor}>&-"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(["sh", "-c", command], cwd=cwd, env=environment, capture_output=True, timeout=120)


def test_command_when_stderr_is_closed_then_stdout_is_json(folder):
    json.loads(without(2, "loud.py:reward", folder).stdout)


def test_command_when_stdout_is_closed_then_stderr_has_no_result(folder):
    (folder / "quiet.py").write_text("def reward(rollout):\n    print('NOISE')\n    return 1.0\n")

    result = without(1, "quiet.py:reward", folder)

    assert result.returncode in (0, 1)
    assert b"breaches" not in result.stderr


def test_command_when_a_test_runner_calls_it_then_the_streams_are_as_before(tmp_path):
    (tmp_path / "quiet.py").write_text("print('NOISE')\ndef reward(rollout):\n    print('NOISE')\n    return 1.0\n")
    (tmp_path / "cases.jsonl").write_text(json.dumps(CASES[0]))
    before = sys.stdout, os.fstat(1)

    results = [
        CliRunner().invoke(main, ["reward", "test", f"{tmp_path}/quiet.py:reward", f"{tmp_path}/cases.jsonl", "--json"])
        for _ in range(2)
    ]

    assert (sys.stdout, os.fstat(1)[:3]) == (before[0], before[1][:3])
    for result in results:
        json.loads(result.stdout)
        assert "NOISE" in result.stderr


def test_main_when_a_script_calls_it_then_stdout_works_afterwards(tmp_path):
    (tmp_path / "quiet.py").write_text("print('NOISE')\ndef reward(rollout):\n    print('NOISE')\n    return 1.0\n")
    (tmp_path / "cases.jsonl").write_text(json.dumps(CASES[0]))
    script = (
        "import os; from aws_rft_sdk.cli import main\n"
        "print('before')\n"
        "main(['reward', 'test', 'quiet.py:reward', 'cases.jsonl', '--json'], standalone_mode=False)\n"
        "print('after', flush=True); os.write(1, b'and after')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )

    before, report, after = result.stdout.partition("{")[0], result.stdout, result.stdout[-len("after\nand after") :]
    assert before == "before\n"
    assert after == "after\nand after"
    assert "NOISE" not in report
    assert "NOISE" in result.stderr
