"""The benchmark of hostile agents in small, where each of its tools does its worst at least once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "hostile.py"
# Prompts of this seed hang, raise, print, fork and, where processes isolate, eat memory.
SIZE = ["--rollouts", "60", "--seed", "15", "--concurrency", "8", "--deadline-seconds", "15"]


@pytest.mark.skipif(os.name != "posix", reason="forks, and is killed by a signal")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        pytest.param(["--engine", "local", "--handler", "coroutine"], set(), id="local"),
        pytest.param(["--engine", "process", "--workers", "2"], {"eats"}, id="process"),
    ],
)
def test_hostile_when_tools_do_their_worst_then_it_costs_no_neighbour_its_reward(options, kinds):
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options, *SIZE, "--timeout-seconds", "250", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    figures = json.loads(done.stdout)
    assert figures["breaches"] == []
    assert figures["rewarded right"] == figures["healthy"] >= 50
    assert (figures["floored by neighbours"], figures["lost"], figures["twice"]) == (0, 0, 0)
    assert figures["ends"].keys() == {"answers", "forks", "hangs", "prints", "raises"} | kinds
    assert "completed" not in figures["ends"]["hangs"]
