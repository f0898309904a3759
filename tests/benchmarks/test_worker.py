"""The load benchmark of the worker in small. Counts only: how fast it is depends on the machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "worker.py"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_worker_when_under_load_with_faults_and_a_restart_then_no_reward_is_lost_and_nothing_runs_twice():
    load = ["--minutes", "0.1", "--in-flight", "12", "--rate", "12", "--grace-seconds", "20"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *load, "--counts-only", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert counts["breaches"] == []
    assert counts["rewarded"] == counts["accepted"] >= 20
    assert (counts["lost"], counts["run_twice"], counts["exit_status_after_sigterm"]) == (0, 0, 0)
    # It proves something only if there was trouble.
    answers = counts["answers"]
    assert answers["malformed: 400"] >= 1
    assert answers["oversized: 413"] >= 1
    assert answers["repeated: 202"] >= 3
    assert answers["proper: 503"] + answers.get("proper: no connection", 0) >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
@pytest.mark.parametrize("part", ["restart", "killed"])
def test_worker_when_it_ends_and_comes_back_then_no_rollout_is_lost_and_none_runs_twice(part):
    load = ["--rollouts", "20", "--in-flight", "12", "--down-seconds", "0.5"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--part", part, *load, "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert (counts["rollouts"], counts["lost"], counts["run_twice"]) == (20, 0, 0)
    assert part == "killed" or counts["repeated"] == 0
