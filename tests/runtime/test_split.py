"""One dataset, two runtimes: each serves a part of the prompts and keeps a ledger of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.runtime import LocalRuntime, read_trajectories

AGENT = """
from aws_rft_sdk import rft_handler, runtime_model
from strands import Agent

MODEL = runtime_model()

@rft_handler
def handler(payload):
    agent = Agent(model=MODEL, callback_handler=None)
    agent(payload["prompt"])
    return float(len(str(agent("again"))))
"""
COMMAND = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()"]


def policy(request):
    return "x" * len(request["messages"])


@pytest.mark.timeout(300)
def test_two_runtimes_when_each_serves_half_of_a_dataset_then_every_command_works_on_each_half(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "agent.py").write_text(AGENT)
    rows = [json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(6)]
    halves = {"a": rows[:3], "b": rows[3:]}
    runs = {}
    with contextlib.ExitStack() as runtimes:
        for name, half in halves.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(half))
            runtime = runtimes.enter_context(LocalRuntime(policy, db=tmp_path / f"{name}.db"))
            arguments = [f"{tmp_path}/agent.py:handler", f"{tmp_path}/{name}.jsonl", "--out", f"{tmp_path}/{name}"]
            runs[name] = subprocess.Popen(
                [*COMMAND, "rollout", *arguments, "--group-size", "2", "--endpoint", runtime.endpoint],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
        for run in runs.values():
            said, _ = run.communicate(timeout=240)
            assert run.returncode == 0, said
    prompts = []
    for name in halves:
        folder, db = tmp_path / name, tmp_path / f"{name}.db"
        trajectories = read_trajectories(db)
        prompts += [trajectory.prompt for trajectory in trajectories]
        assert all(len(trajectory.turns) == 2 and trajectory.rewards for trajectory in trajectories)
        for arguments in (
            ["metrics", folder, "--json"],
            ["replay", folder, "--db", db],
            ["export", db, tmp_path / f"{name}-recording.jsonl"],
        ):
            result = CliRunner().invoke(main, [str(argument) for argument in arguments])
            assert result.exit_code == 0, result.output
        assert len((tmp_path / f"{name}-recording.jsonl").read_text().splitlines()) == 6
    assert sorted(prompts) == sorted(f"question {number}" for number in range(6) for _ in range(2))
