"""The rehearsal of a multi-turn RL job, run as its user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from extras import long

pytestmark = pytest.mark.timeout(320)  # seven jobs, each with a worker of its own
EXAMPLE = Path(__file__).parents[2] / "examples" / "mtrl_rehearsal"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLE / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_example_when_one_call_in_twenty_fails_then_the_job_completes_and_the_tuned_model_is_better():
    result = run()

    assert result.returncode == 0, result.stdout + result.stderr
    rewards = [float(reward) for reward in re.findall(r"^step \d of 8: reward ([\d.]+).* left$", result.stdout, re.M)]
    assert len(rewards) >= 7
    assert "job calculator-1 is Completed" in result.stdout
    gained, low = re.findall(r"^pass_at_1: B is better by ([\d.]+) points \[([\d.]+), ", result.stdout, re.M)[0]
    assert float(gained) > 15
    assert float(low) > 0
    assert '"JobConfigDocument"' in result.stdout  # of `job plan`
    assert "Traceback" not in result.stderr


REASONS = {
    "never_samples": "no sampling requests were received",
    "no_reward": "it was completed, and no reward arrived",
    "raises": "the agent signalled that the rollout failed",
    "too_slow": "it did not end within rollout_timeout, 300 s, after",
    "wrong_metadata": "no sampling requests were received",
    "dies": "the call of the agent failed: the connection to the agent failed",
}


@pytest.mark.parametrize(
    "agents", [("no_reward", "dies"), pytest.param((*REASONS,), marks=long)], ids=["two_of_them", "all"]
)
def test_example_when_agents_are_broken_then_each_job_fails_and_watch_says_why(agents: tuple[str, ...]):
    result = run("--broken", *agents)

    assert result.returncode == 1, result.stdout + result.stderr
    failed = re.findall(
        r"job calculator-1 is Failed: Rollout \S+ failed at all of its 2 attempts: (.*)$", result.stderr, re.MULTILINE
    )
    for agent, said in zip(agents, failed, strict=True):
        assert REASONS[agent] in said
    assert "Traceback" not in result.stderr
