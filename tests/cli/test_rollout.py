"""`aws-rft rollout` as a user runs it: a real process, a real agent, a real runtime."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.cli import main
from aws_rft_sdk.rollout import RolloutStatus, load_callable, read_records, run_rollouts
from aws_rft_sdk.runtime import read_trajectories

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gsm8k_calculator"
AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")

# Handlers that infer with one plain request, so that a test is about the command and not about an agent.
HANDLERS = """
import asyncio, json, os, pathlib, sys, threading, time
import requests
from aws_rft_sdk import RFTContext, RolloutResult, rft_handler
from aws_rft_sdk.context import TurnState

def infer(payload):
    answer = requests.post(
        payload["metadata"]["endpoint"] + "/v1/chat/completions",
        headers=RFTContext.get_headers(),
        json={"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]},
        timeout=30,
    )
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]["content"]

@rft_handler
def echo(payload):
    return {"reward": len(infer(payload)) / 10, "metrics": {"length": len(payload["prompt"])}}

@rft_handler
async def echo_async(payload):
    return {"rewards": [len(infer(payload)) / 10]}

@rft_handler
def stream(payload):
    yield "chunk"
    yield RolloutResult(reward=len(infer(payload)) / 10)
    yield "chunk"

@rft_handler
async def stream_async(payload):
    yield {"reward": len(infer(payload)) / 10}

@rft_handler
def fails_on_b(payload):
    text = infer(payload)
    if payload["prompt"] == "b":
        raise LookupError("b is not for us")
    return len(text) / 10

@rft_handler(on_error="failed")
def seals_as_failed(payload):
    infer(payload)
    raise LookupError("never")

@rft_handler
def no_reward_for_b(payload):
    infer(payload)
    return {"reward": None if payload["prompt"] == "b" else 1}

@rft_handler
def samples_twice(payload):
    context = RFTContext.current()
    turn = context.begin_turn()
    body = {"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]}
    url = payload["metadata"]["endpoint"] + "/v1/chat/completions"
    requests.post(url, headers=turn.headers, json=body, timeout=30)
    context.end_turn(turn.span_id, TurnState.FAILED)  # the answer was lost, so the call is made again
    return {"reward": len(infer(payload)) / 10}

@rft_handler
def stops_iteration(payload):
    infer(payload)
    if payload["prompt"] == "b":
        next(iter(()))
    return 1.0

@rft_handler
async def cancels(payload):
    infer(payload)
    if payload["prompt"] == "b":
        raise asyncio.CancelledError
    return 1.0

@rft_handler
def exits(payload):
    infer(payload)
    if payload["prompt"] == "b":
        sys.exit(3)
    return 1.0

@rft_handler
async def ignores_its_end(payload):
    await asyncio.to_thread(infer, payload)
    while payload["prompt"] == "b":
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    return 1.0

@rft_handler
async def hangs_in_a_pool(payload):
    await asyncio.to_thread(infer, payload)
    if payload["prompt"] == "b":
        await asyncio.to_thread(threading.Event().wait)
    return 1.0

@rft_handler
def untracked(payload):
    return 1.0

def plain(payload):
    return {"reward": 1.0}

@rft_handler
def slow(payload):
    infer(payload)
    started, release = (pathlib.Path(os.environ["TEST_FOLDER"]) / name for name in ("started", "release"))
    started.open("a").write(payload["prompt"] + "\\n")
    for _ in range(6000):
        if release.exists():
            return 1.0
        time.sleep(0.01)
"""
POLICY = "def policy(request):\n    return 'x' * len(request['messages'][-1]['content'])\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "cli_handlers.py").write_text(HANDLERS)
    (tmp_path / "policy.py").write_text(POLICY)
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "cc"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name in ("cli_handlers", "policy") or name.startswith("policy_"):
            del sys.modules[name]


def rollout(folder, handler, *options):
    arguments = ["rollout", f"{folder}/cli_handlers.py:{handler}", str(folder / "data.jsonl"), *options]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def records_of(folder):
    return sorted(read_records(folder / "out"), key=lambda r: (r.prompt_index, r.sample_index))


@pytest.mark.parametrize("handler", ["echo", "echo_async", "stream", "stream_async"])
def test_rollout_when_handler_is_of_any_kind_then_every_reward_is_recorded(folder, handler):
    result = rollout(folder, handler, "--out", str(folder / "out"), "--group-size", "2")

    assert result.exit_code == 0, result.output
    records = records_of(folder)
    assert [(r.prompt_index, r.sample_index) for r in records] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert [r.reward for r in records] == [0.1, 0.1, 0.1, 0.1, 0.2, 0.2]
    assert {(r.status, r.turns, r.error) for r in records} == {(RolloutStatus.COMPLETED, 1, None)}


def test_rollout_when_records_are_kept_then_the_runtimes_turns_are_kept_too(folder):
    rollout(folder, "echo", "--out", str(folder / "out"))

    trajectories = read_trajectories(folder / "out" / "trajectories.db")
    assert {t.trajectory_id: t.rewards for t in trajectories} == {
        r.trajectory_id: (r.reward,) for r in records_of(folder)
    }
    assert [len(t.turns) for t in trajectories] == [1, 1, 1]


def test_rollout_when_a_turn_may_have_been_sampled_twice_then_record_table_and_runtime_say_so(folder):
    result = rollout(folder, "samples_twice", "--out", str(folder / "out"))

    assert result.exit_code == 0
    assert [(r.turns, r.unsure_turns) for r in records_of(folder)] == [(2, 1)] * 3
    assert "perhaps sampled twice" in result.output
    trajectories = read_trajectories(folder / "out" / "trajectories.db")
    assert [t.repeated_turns for t in trajectories] == [(1,)] * 3


def test_rollout_when_handler_returns_metrics_then_they_are_recorded(folder):
    rollout(folder, "echo", "--out", str(folder / "out"), "--limit", "1")

    assert [r.metrics for r in records_of(folder)] == [{"length": 1}]


def test_rollout_when_one_fails_then_the_others_go_on_and_all_are_reported(folder):
    result = rollout(folder, "fails_on_b", "--out", str(folder / "out"))

    assert result.exit_code == 1
    assert "1 of 3 rollouts failed; --fail-over allows 0" in result.stderr
    assert [(r.status.value, r.reward) for r in records_of(folder)] == [
        ("completed", 0.1),
        ("failed", 0.0),
        ("completed", 0.2),
    ]
    assert "1 x LookupError: b is not for us" in result.output
    assert "33.33 %" in result.output


@pytest.mark.parametrize("handler", ["stops_iteration", "cancels", "exits"])
def test_rollout_when_one_raises_what_ends_loops_and_processes_then_the_others_go_on(folder, handler):
    result = rollout(folder, handler, "--out", str(folder / "out"), "--fail-over", "34%")

    assert result.exit_code == 0, result.output
    assert [(r.status.value, r.floor if r.reward is None else r.reward) for r in records_of(folder)] == [
        ("completed", 1.0),
        ("failed", 0.0),
        ("completed", 1.0),
    ]


def test_rollout_when_some_cannot_be_started_then_they_are_recorded_and_the_others_go_on(folder):
    async def main():
        with LocalRuntime(policy=lambda request: "x") as runtime:

            def start(prompt):
                if prompt == "b":
                    raise ConnectionError("the runtime is away")
                return runtime.new_rollout(prompt)

            handler = load_callable(f"{folder}/cli_handlers.py:echo")
            return [record async for record in run_rollouts(handler, ["a", "b", "cc"], start)]

    records = sorted(asyncio.run(main()), key=lambda r: r.prompt_index)
    assert [r.status.value for r in records] == ["completed", "unreported", "completed"]
    assert records[1].error == "ConnectionError: the runtime is away"
    assert records[1].trajectory_id == "not-started-1-0"


@pytest.mark.parametrize(
    ("source", "says"), [("import no_such_dependency\n", "no_such_dependency"), ("raise SystemExit(0)\n", "SystemExit")]
)
def test_rollout_when_the_handlers_module_cannot_be_imported_then_usage_error_shows_why(folder, source, says):
    (folder / "cli_handlers.py").write_text(source)

    result = rollout(folder, "echo")

    assert result.exit_code == 2
    assert says in result.output


def test_rollout_when_sealed_as_failed_at_an_alpha_endpoint_then_it_counts_as_reported(folder):
    result = rollout(folder, "seals_as_failed", "--out", str(folder / "out"), "--limit", "1", "--fail-over", "1")

    assert result.exit_code == 0
    assert [(r.status.value, r.reward) for r in records_of(folder)] == [("failed", None)]


@pytest.mark.parametrize(
    ("handler", "unreported", "says"),
    [
        pytest.param("no_reward_for_b", 1, "RewardError", id="no-reward"),
        pytest.param("untracked", 3, "NoTrackedTurnsError", id="model-not-wrapped"),
        pytest.param("plain", 3, "decorate it with rft_handler", id="not-decorated"),
    ],
)
def test_rollout_when_some_are_not_reported_then_exit_status_is_one(folder, handler, unreported, says):
    result = rollout(folder, handler, "--out", str(folder / "out"))

    assert result.exit_code == 1
    assert sum(r.status is RolloutStatus.UNREPORTED for r in records_of(folder)) == unreported
    assert f"{unreported} x" in result.output
    assert says in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["echo_nothing", "data.jsonl"], "has no 'echo_nothing'", id="unknown-handler"),
        pytest.param(["echo", "nowhere.jsonl"], "does not exist", id="no-dataset"),
        pytest.param(["echo", "bad.jsonl"], "line 1: not JSON", id="bad-dataset"),
        pytest.param(["echo", "data.jsonl", "--group-size", "0"], "group-size", id="group-size"),
        pytest.param(["echo", "data.jsonl", "--policy", "magic"], "has none of the forms", id="policy-form"),
        pytest.param(["echo", "data.jsonl", "--policy", "replay:nowhere.jsonl"], "nowhere.jsonl", id="no-recording"),
        pytest.param(
            ["echo", "data.jsonl", "--policy", "replay:x", "--endpoint", "http://127.0.0.1:9"], "--policy", id="both"
        ),
        pytest.param(["echo", "data.jsonl", "--job-arn", "my-job"], "'my-job', not a job ARN", id="job-arn"),
    ],
)
def test_rollout_when_used_wrongly_then_exit_status_is_two_before_anything_is_written(
    folder, monkeypatch, arguments, says
):
    monkeypatch.chdir(folder)
    (folder / "bad.jsonl").write_text("{")
    handler, *rest = arguments

    result = CliRunner().invoke(main, ["rollout", f"cli_handlers.py:{handler}", *rest, "--out", "out"])

    assert result.exit_code == 2, result.output
    assert says in " ".join(result.output.split())
    assert not (folder / "out").exists()


def test_rollout_when_nobody_answers_inference_then_usage_error_names_the_ways(folder):
    (folder / "policy.py").unlink()

    result = rollout(folder, "echo")

    assert result.exit_code == 2
    assert "--policy" in result.output


def test_rollout_when_the_folder_holds_records_then_they_are_not_touched(folder):
    rollout(folder, "echo", "--out", str(folder / "out"))
    before = (folder / "out" / "rollouts.jsonl").read_text()

    result = rollout(folder, "echo", "--out", str(folder / "out"))

    assert result.exit_code == 2
    assert (folder / "out" / "rollouts.jsonl").read_text() == before


def test_rollout_when_given_the_endpoint_of_a_local_runtime_then_it_runs_there(folder):
    with LocalRuntime(policy=lambda request: "xxxxx") as runtime:
        result = rollout(folder, "echo", "--endpoint", runtime.endpoint, "--out", str(folder / "out"))

        assert result.exit_code == 0, result.output
        assert [t.rewards for t in runtime.trajectories()] == [(0.5,)] * 3
    assert not (folder / "out" / "trajectories.db").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_rollout_when_interrupted_then_rollouts_in_flight_are_finished_and_no_more_begin(folder):
    command = [AWS_RFT, "rollout", f"{folder}/cli_handlers.py:slow", str(folder / "data.jsonl"), "--concurrency", "1"]
    process = subprocess.Popen(
        [*command, "--out", str(folder / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TEST_FOLDER": str(folder)},
    )
    _wait_for(folder / "started", process)
    process.send_signal(signal.SIGINT)
    stopping = ""
    while "interrupt again" not in stopping:
        stopping += process.stderr.read(1)
    (folder / "release").touch()
    output, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "1 of 3" in output
    assert f"go on with: aws-rft rollout --resume {folder / 'out'}" in errors
    assert [(r.status, r.reward) for r in records_of(folder)] == [(RolloutStatus.COMPLETED, 1.0)]
    assert (folder / "started").read_text() == "a\n"


@pytest.mark.parametrize("handler", ["ignores_its_end", "hangs_in_a_pool"])
def test_rollout_when_a_handler_never_ends_then_the_command_does(folder, handler):
    command = [AWS_RFT, "rollout", f"{folder}/cli_handlers.py:{handler}", str(folder / "data.jsonl")]
    result = subprocess.run(
        [*command, "--deadline-seconds", "2", "--out", str(folder / "out")], capture_output=True, text=True, timeout=90
    )

    assert result.returncode == 1, result.stderr
    assert "1 x RolloutTimeoutError" in result.stdout
    assert "Traceback" not in result.stderr
    assert [(r.status.value, r.reward) for r in records_of(folder)] == [
        ("completed", 1.0),
        ("failed", 0.0),
        ("completed", 1.0),
    ]


def _wait_for(path, process):
    import time

    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError(f"{path} never came")


def test_example_when_run_as_the_readme_says_then_groups_differ_in_reward(tmp_path):
    command = [AWS_RFT, "rollout", f"{EXAMPLE}/agent.py:handler", f"{EXAMPLE}/problems.jsonl"]
    result = subprocess.run(
        [*command, "--limit", "6", "--group-size", "4", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert result.returncode == 0, result.stderr
    records = records_of(tmp_path)
    assert len(records) == 24
    assert {r.reward for r in records} == {0.0, 1.0}
    assert max(r.turns for r in records) > 2
