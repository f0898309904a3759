"""The commands in processes of their own: killed in the middle of a rollout, and ended in good order."""

import signal
import socket
import subprocess
import sys
import threading
import uuid
import zipfile
from collections import Counter

import pytest
from click.testing import CliRunner
from fakes import leave_pending

from aws_rft_sdk import RolloutFeedbackClient
from aws_rft_sdk.cli import main
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.workers.nova_forge import NovaForgeQueues

from .doing import eventually, rewards
from .trainer import Trainer

HANDLER = """
from openai import OpenAI
from aws_rft_sdk import RFTContext, rft_handler

@rft_handler
def handler(payload):
    messages = [{"role": "user", "content": payload["prompt"]}]
    with OpenAI(base_url=payload["metadata"]["endpoint"] + "/v1", api_key="none", max_retries=0) as client:
        for _ in range(2):
            answer = client.chat.completions.create(
                model="m", messages=messages, extra_headers=RFTContext.get_headers()
            )
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            messages.append({"role": "user", "content": "go on"})
    return {"reward": 1.0}
"""


@pytest.fixture
def start(tmp_path):
    """Start a command in a process; it is killed at the latest when the test ends."""
    file = tmp_path / "agent_file.py"
    file.write_text(HANDLER)
    processes = []

    def start(name, *arguments):
        code = f"from aws_rft_sdk.cli._worker_queues import {name}; {name}()"
        command = [sys.executable, "-c", code, *arguments, "--visibility-seconds", "2", "--wait-seconds", "1"]
        command = [f"{file}:handler" if argument == "HANDLER" else argument for argument in command]
        log = (tmp_path / f"{len(processes)}.log").open("w")
        processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        log.close()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait(10)


@pytest.fixture
def policy():
    """Answer nothing before the gate is open."""

    class Policy:
        def __init__(self):
            self.gate, self.calls = threading.Event(), 0

        def __call__(self, request):
            self.calls += 1
            assert self.gate.wait(60)
            return "four"

    policy = Policy()
    yield policy
    policy.gate.set()


def test_sqs_worker_when_killed_in_the_middle_then_another_one_finishes(aws, make_queue, start, policy):
    url = make_queue()
    with LocalRuntime(policy, auth="none") as runtime:
        aws.send(url, *[runtime.new_rollout(f"{n}") for n in range(4)])
        first = start("sqs", url, "HANDLER")
        eventually(lambda: policy.calls == 4)

        first.kill()
        first.wait(10)
        policy.gate.set()
        start("sqs", url, "HANDLER")

        eventually(lambda: aws.count(url) == 0, 60)
        assert rewards(runtime) == [(1.0,)] * 4
        assert runtime.problems() == []


def test_sqs_worker_when_terminated_then_it_finishes_first(aws, make_queue, start, policy):
    url = make_queue()
    with LocalRuntime(policy, auth="none") as runtime:
        aws.send(url, runtime.new_rollout("q"), runtime.new_rollout("q"))
        worker = start("sqs", url, "HANDLER", "--max-rollouts", "1")
        eventually(lambda: policy.calls == 1)

        worker.send_signal(signal.SIGTERM)
        policy.gate.set()

        assert worker.wait(30) == 0
        assert rewards(runtime).count((1.0,)) == 1
        assert len(eventually(lambda: aws.take(url))) == 1


def test_sqs_worker_when_it_ends_then_the_outbox_is_flushed(aws, make_queue, start, tmp_path):
    with LocalRuntime(auth="none") as runtime:
        client = RolloutFeedbackClient(runtime.new_rollout("q"), outbox=tmp_path / "outbox.db")
        leave_pending(client.outbox, client, (0.25,), failures=12)  # its next attempt is not due for minutes
        worker = start("sqs", make_queue(), "HANDLER", "--outbox", str(tmp_path / "outbox.db"))
        eventually(lambda: "receiving rollouts" in (tmp_path / "0.log").read_text())
        assert rewards(runtime) == [None]

        worker.send_signal(signal.SIGTERM)

        assert worker.wait(30) == 0
        assert rewards(runtime) == [(0.25,)]
        client.outbox.close()


def test_sqs_worker_when_the_runtime_hangs_then_it_ends_within_its_grace_period(aws, make_queue, start):
    url = make_queue()
    with LocalRuntime(auth="none") as runtime, socket.create_server(("127.0.0.1", 0)) as silent:
        payload = runtime.new_rollout("q")
        payload["metadata"]["endpoint"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        aws.send(url, payload)
        worker = start("sqs", url, "HANDLER", "--grace-seconds", "2")
        silent.accept()[0].close()

        worker.send_signal(signal.SIGTERM)

        assert worker.wait(20) == 0


def test_nova_forge_worker_when_killed_in_the_middle_then_another_one_goes_on(aws, make_queue, start):
    queues = NovaForgeQueues(*(make_queue(name) for name in NovaForgeQueues._fields))
    options = [part for name, url in queues._asdict().items() for part in (f"--{name.replace('_', '-')}", url)]
    options += ["--table", f"tasks-{uuid.uuid4().hex[:8]}", "--create-table"]
    samples = [f"{row}_0" for row in range(4)]
    with Trainer(aws, queues) as trainer:
        trainer.held.set()
        trainer.ask(*samples, *samples)
        first = start("nova_forge", "HANDLER", *options)
        eventually(lambda: len(trainer.asked) == 4)

        first.kill()
        first.wait(10)
        trainer.held.clear()
        start("nova_forge", "HANDLER", *options)

        eventually(lambda: len(trainer.scores) == 4 and aws.count(queues.rollout_requests) == 0, 90)

    assert Counter(item["sample_id"] for item in trainer.responses) == Counter(samples)
    assert set(trainer.scores.values()) == {1.0}
    # What the first one had asked for was answered after its end, and nobody asked again.
    assert trainer.asked == {f"{sample}_{turn}": 1 for sample in samples for turn in range(2)}


def test_lambda_package_command_when_run_then_the_zip_and_its_size(tmp_path):
    out = tmp_path / "forwarder.zip"

    result = CliRunner().invoke(main, ["worker", "lambda-package", "--out", str(out)], catch_exceptions=False)

    assert result.exit_code == 0
    assert f"{out.stat().st_size:,} bytes" in result.output
    with zipfile.ZipFile(out) as archive:
        assert "lambda_function.py" in archive.namelist()


@pytest.mark.parametrize(
    "arguments",
    [
        ["http://x/q", "nothing.py:handler"],
        ["http://x/q", "json:nothing"],
        ["http://x/q", "json:dumps", "--wait-seconds", "21"],
    ],
)
def test_sqs_command_when_used_wrongly_then_exit_status_2(aws, arguments):
    assert CliRunner().invoke(main, ["worker", "sqs", "http://x/q", *arguments]).exit_code == 2


def test_sqs_command_when_the_queue_is_missing_then_exit_status_2(aws, make_queue):
    result = CliRunner().invoke(main, ["worker", "sqs", f"{make_queue()}x", "json:dumps", "--grace-seconds", "1"])

    assert result.exit_code == 2
    assert "there is no queue" in result.output
