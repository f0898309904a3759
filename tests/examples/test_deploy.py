"""What examples/deploy promises: its command runs, its manifest fits the worker, its app answers as AgentCore asks."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
import yaml
from click.testing import CliRunner
from extras import needs

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.cli import main
from aws_rft_sdk.cli.worker import command as worker_command
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS
from aws_rft_sdk.runtime import CallablePolicy
from aws_rft_sdk.settings import OUTBOX_VARIABLE, WORKER_KEY_VARIABLE
from aws_rft_sdk.types import TrajectoryStatus
from aws_rft_sdk.workers.command import PORT
from aws_rft_sdk.workers.pool import MAX_ROLLOUTS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
AGENT = ROOT / "examples" / "gsm8k_calculator"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMMAND = json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
CELLS = [json.loads(line)["prompt"] for line in (AGENT / "problems.jsonl").read_text().splitlines()]
WAIT = 60


@pytest.fixture(scope="module")
def runtime():
    with LocalRuntime(CallablePolicy(load_callable(f"{AGENT / 'policy.py'}:policy"))) as runtime:
        yield runtime


@contextlib.contextmanager
def process(command, **variables):
    environment = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true", **variables}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate(timeout=WAIT)


def until(condition, rounds=600):
    pause = threading.Event()
    return any(condition() or pause.wait(0.1) for _ in range(rounds))


def rewarded(runtime, count):
    statuses = [trajectory.status for trajectory in runtime.trajectories()]
    return statuses == [TrajectoryStatus.REWARD_RECEIVED] * count


# --- Dockerfile


def test_dockerfile_when_built_for_any_platform_then_nothing_in_it_names_one():
    assert re.search(r"^FROM python:3\.\d+-slim$", DOCKERFILE, re.MULTILINE)
    assert "--platform" not in re.sub(r"^#.*$", "", DOCKERFILE, flags=re.MULTILINE)
    assert re.search(r"^USER (?!root|0$)\w+$", DOCKERFILE, re.MULTILINE)
    assert f"EXPOSE {PORT}" in DOCKERFILE
    assert COMMAND[COMMAND.index("--port") + 1] == str(PORT)
    assert f"ENV {OUTBOX_VARIABLE}=" in DOCKERFILE
    for source in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


def test_dockerfile_when_its_command_runs_then_rollouts_are_rewarded_and_it_ends_in_good_order(runtime, tmp_path):
    runtime.reset()
    command = [word.replace("/app", str(AGENT)) for word in COMMAND[1:]]
    command[command.index("--port") + 1] = "0"
    run = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()", *command, "--host", "127.0.0.1"]
    with process(run, **{OUTBOX_VARIABLE: str(tmp_path / "outbox.db")}) as worker:
        url = re.search(r"http://\S+", worker.stdout.readline())[0]
        for cell in CELLS[:4]:
            assert requests.post(f"{url}/rollout", json=runtime.new_rollout(cell), timeout=WAIT).status_code == 202
        answer = requests.post(f"{url}/invocations", json=runtime.new_rollout(CELLS[4]), timeout=WAIT)
        assert answer.json()["reward"] in (0.0, 1.0)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(WAIT) == 0
    assert rewarded(runtime, 5)


# --- EKS


@pytest.fixture(scope="module")
def manifest():
    return {item["kind"]: item for item in yaml.safe_load_all((DEPLOY / "eks.yaml").read_text())}


@pytest.fixture(scope="module")
def pod(manifest):
    return manifest["Deployment"]["spec"]["template"]["spec"]


def parsed(arguments):
    """Parse the arguments as the command does, without running it."""
    assert arguments[:3] == ["aws-rft", "worker", "http"]
    http = worker_command.commands["http"]
    return http.make_context("http", [*arguments[3:]], help_option_names=["-h", "--help"]).params


def test_manifest_when_its_arguments_are_parsed_then_the_times_fit_each_other(pod):
    options = parsed(pod["containers"][0]["args"])

    assert pod["terminationGracePeriodSeconds"] > options["grace_seconds"] > options["deadline_seconds"]
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS
    # Nothing is cut short: what is kept for reports and the outbox leaves a rollout its deadline.
    assert options["grace_seconds"] - 40 >= options["deadline_seconds"] == DEADLINE_SECONDS
    assert options["max_rollouts"] == MAX_ROLLOUTS


def test_manifest_when_ports_and_probes_are_followed_then_they_lead_to_routes_of_the_worker(manifest, pod):
    container = pod["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": parsed(container["args"])["port"]}]
    assert manifest["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    assert manifest["Service"]["spec"]["selector"] == manifest["Deployment"]["spec"]["template"]["metadata"]["labels"]
    # A worker that drains must not be killed for it, and must get no more payloads.
    assert container["livenessProbe"]["httpGet"] == {"path": "/ping", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    annotations = manifest["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == "/metrics"


def test_manifest_when_the_container_starts_then_it_is_nobody_special_and_may_write_its_outbox(manifest, pod):
    container = pod["containers"][0]
    variables = {item["name"]: item for item in container["env"]}
    user = re.search(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)[1]

    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(user)
    assert "secretKeyRef" in variables[WORKER_KEY_VARIABLE]["valueFrom"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(Path(variables[OUTBOX_VARIABLE]["value"]).parent) in mounted
    assert "memory" in container["resources"]["limits"]
    assert manifest["ServiceAccount"]["metadata"]["name"] == pod["serviceAccountName"]


# --- AgentCore


@needs("agentcore")
def test_agentcore_app_when_driven_as_the_service_does_then_rollouts_are_rewarded(runtime):
    runtime.reset()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    run = [sys.executable, "-m", "uvicorn", "agentcore_app:app", "--app-dir", str(DEPLOY), "--port", str(port)]
    session = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 33}
    with process(run, PYTHONPATH=str(AGENT)) as app:

        def ping():
            try:
                return requests.get(f"{url}/ping", timeout=WAIT).json()["status"]
            except requests.ConnectionError:
                assert app.poll() is None, app.communicate()[1]
                return None

        assert until(lambda: ping() == "Healthy")
        for cell in CELLS[:6]:
            answer = requests.post(f"{url}/invocations", json=runtime.new_rollout(cell), headers=session, timeout=WAIT)
            assert (answer.status_code, answer.json()["repeated"]) == (200, False)
        assert until(lambda: rewarded(runtime, 6))
        assert until(lambda: ping() == "Healthy")


def test_readme_when_its_commands_are_read_then_the_command_line_knows_them():
    text = (DEPLOY / "README.md").read_text()
    for name in re.findall(r"^aws-rft (\w+(?: http)?)", text, re.MULTILINE):
        assert CliRunner().invoke(main, [*name.split(), "--help"]).exit_code == 0
    for file in re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE):
        assert (DEPLOY / file).exists()
