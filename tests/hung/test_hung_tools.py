"""Tools that hang: rollouts beside and behind them complete, what hangs is counted, and processes end."""

import asyncio
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import ShuttingDownError
from aws_rft_sdk.rollout import read_records, run_rollouts
from aws_rft_sdk.rollout.engines import LocalEngine
from aws_rft_sdk.workers import RolloutPool

from . import agents
from .agents import AT_ONCE, WAIT

AWS_RFT = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()"]
AGENTS = Path(agents.__file__)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
SHAPES = pytest.mark.parametrize("shape", agents.HANDLERS)
HANG_SECONDS = 5.0
"""Deadline of rollouts that hang. Those that do not are over long before, also on a busy machine."""


@pytest.fixture(scope="module")
def _runtime():
    with LocalRuntime(agents.policy) as runtime:
        yield runtime


@pytest.fixture
def runtime(_runtime):
    _runtime.reset()
    agents.GO_ON.clear()
    agents.MEETING.reset()
    yield _runtime
    agents.GO_ON.set()


def until(condition, rounds=600):
    pause = threading.Event()
    return any(condition() or pause.wait(0.1) for _ in range(rounds))


def drive(runtime, engine, prompts, **options):
    async def records():
        return [record async for record in run_rollouts(engine, prompts, runtime.new_rollout, **options)]

    return asyncio.run(records())


def rewards(runtime):
    return [trajectory.rewards for trajectory in runtime.trajectories()]


# --- the driver ------------------------------------------------------------------------------------------------------


@SHAPES
def test_driver_when_many_tools_hang_then_every_other_rollout_completes(runtime, shape):
    engine = LocalEngine(agents.HANDLERS[shape], deadline_seconds=20)
    prompts = ["work", *["hang"] * 24, *["work"] * 12]

    async def records():
        ended = []
        async for record in run_rollouts(engine, prompts, runtime.new_rollout, concurrency=25):
            ended.append(record)
            if len(ended) == 13:  # all that can end, while 24 hang
                agents.GO_ON.set()
        return ended

    ended = asyncio.run(records())
    assert {record.prompt_index for record in ended[:13]} == {0, *range(25, 37)}
    assert {record.reward for record in ended} == {1.0}


@SHAPES
def test_driver_when_tools_hang_past_the_deadline_then_they_are_counted(runtime, shape):
    engine = LocalEngine(agents.HANDLERS[shape], deadline_seconds=HANG_SECONDS)
    records = drive(runtime, engine, ["hang"] * 8, concurrency=8)

    assert [(record.reward, record.failure.value) for record in records] == [(-1.0, "timeout")] * 8
    assert engine.hung == 8
    agents.GO_ON.set()
    assert until(lambda: engine.hung == 0)


@SHAPES
def test_driver_when_sixty_tools_block_then_they_do_so_at_once(runtime, shape):
    records = drive(runtime, agents.HANDLERS[shape], ["meet"] * AT_ONCE, concurrency=AT_ONCE)

    assert [record.reward for record in records] == [1.0] * AT_ONCE


def test_driver_when_a_tool_of_a_coroutine_exits_then_the_agent_is_told_and_the_run_goes_on(runtime):
    records = drive(runtime, agents.coroutine, ["exit", "work", "work"], concurrency=1)

    assert [record.reward for record in records] == [1.0] * 3
    [said] = [t.turns[-1].request["messages"][-1] for t in runtime.trajectories() if t.prompt == "exit"]
    assert "SystemExit: 3" in json.dumps(said)


def test_driver_when_a_tool_of_a_coroutine_finds_nothing_with_next_then_the_agent_is_told(runtime):
    [record] = drive(runtime, agents.coroutine, ["next"], deadline_seconds=WAIT)

    assert record.reward == 1.0


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def rollout(tmp_path):
    """Start `aws-rft rollout` over prompts, in a process of its own."""
    processes = []

    def start(shape, prompts, *options):
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        arguments = [f"{AGENTS}:{shape}", "prompts.jsonl", "--policy", f"callable:{AGENTS}:policy", "--out", "run"]
        process = subprocess.Popen(
            [*AWS_RFT, "rollout", *arguments, *options],
            cwd=tmp_path,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=WAIT)


@SHAPES
def test_command_when_tools_hang_then_it_ends_by_itself(rollout, tmp_path, shape):
    prompts = ["hang"] * 8 + ["work"] * 8
    process = rollout(shape, prompts, "--concurrency", "8", "--deadline-seconds", "5")

    output = process.communicate(timeout=WAIT)[0]
    records = sorted(read_records(tmp_path / "run"), key=lambda record: record.prompt_index)
    assert [record.reward for record in records] == [-1.0] * 8 + [1.0] * 8, output


@SHAPES
def test_command_when_tools_hang_and_it_is_told_to_end_twice_then_it_ends(rollout, tmp_path, shape):
    process = rollout(shape, ["work"] * 8 + ["hang"] * 8, "--concurrency", "8", "--deadline-seconds", "600")
    journal = tmp_path / "run"
    assert until(lambda: journal.exists() and len(list(_records(journal))) == 8)
    process.send_signal(signal.SIGTERM)
    for line in process.stdout:
        if "stopping" in line:
            break
    process.send_signal(signal.SIGTERM)

    process.communicate(timeout=WAIT)
    assert [record.reward for record in read_records(journal)] == [1.0] * 8


def _records(folder):
    try:
        yield from read_records(folder)
    except Exception:  # it is not there yet
        return


# --- the worker ------------------------------------------------------------------------------------------------------


def test_pool_when_tools_hang_then_rollouts_behind_them_complete_and_they_take_no_slot(runtime):
    with RolloutPool(agents.coroutine, max_rollouts=13, deadline_seconds=HANG_SECONDS) as pool:
        hung = [pool.submit(runtime.new_rollout("hang")) for _ in range(12)]
        assert {type(submitted.ended.result(WAIT).error).__name__ for submitted in hung} == {"RolloutTimeoutError"}
        figures = pool.figures()
        healthy = [pool.submit(runtime.new_rollout("work")) for _ in range(13)]
        assert [submitted.ended.result(WAIT).result for submitted in healthy] == [1.0] * 13

    assert (figures.hung, figures.free) == (12, 13)
    assert sorted(rewards(runtime)) == [(-1.0,)] * 12 + [(1.0,)] * 13


def test_pool_when_as_many_tools_hang_as_it_has_slots_then_it_takes_no_more_until_they_end(runtime):
    with RolloutPool(agents.coroutine, max_rollouts=2, deadline_seconds=HANG_SECONDS) as pool:
        for submitted in [pool.submit(runtime.new_rollout("hang")) for _ in range(2)]:
            submitted.ended.result(WAIT)

        assert (pool.is_stuck, pool.free) == (True, 0)
        assert pool.ending_seconds(1.0) > 1.0 + HANG_SECONDS  # what runs may reach its own deadline
        with pytest.raises(ShuttingDownError, match="start this worker anew"):
            pool.submit(runtime.new_rollout("work"))
        agents.GO_ON.set()
        assert until(lambda: not pool.is_stuck)
        assert pool.submit(runtime.new_rollout("work")).ended.result(WAIT).result == 1.0


class WorkerProcess:
    """`aws-rft worker http` in a process of its own."""

    def __init__(self, shape, *options):
        self.process = subprocess.Popen(
            [*AWS_RFT, "worker", "http", f"{AGENTS}:{shape}", "--host", "127.0.0.1", "--port", "0", *options],
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        lines = queue.SimpleQueue()
        threading.Thread(target=lambda: lines.put(self.process.stdout.readline()), daemon=True).start()
        self.url = re.search(r"http://\S+", lines.get(timeout=WAIT))[0]

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=WAIT)

    def send(self, payload):
        return requests.post(self.url + "/rollout", json=payload, timeout=WAIT)

    def get(self, path):
        return requests.get(self.url + path, timeout=WAIT)


@SHAPES
def test_worker_when_too_many_tools_hang_then_it_says_so_takes_no_more_and_ends(runtime, shape):
    with WorkerProcess(shape, "--max-rollouts", "6", "--deadline-seconds", "6") as worker:
        for _ in range(6):
            assert worker.send(runtime.new_rollout("hang")).status_code == 202
        assert until(lambda: worker.get("/ping").status_code == 503)

        assert worker.get("/ping").json()["status"] == "Unhealthy"
        assert worker.get("/health").json()["hung"] == 6
        metrics = worker.get("/metrics").text
        assert "rft_worker_hung 6.0" in metrics
        assert "rft_worker_stuck 1.0" in metrics
        refused = worker.send(runtime.new_rollout("work"))
        assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (503, True)
        assert worker.process.wait(WAIT) == 1
    assert rewards(runtime) == [(-1.0,)] * 6 + [None]
