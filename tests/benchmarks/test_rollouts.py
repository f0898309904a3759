"""The benchmark of rollouts at a size that tells whether it works, not how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = "175b_verification"


@pytest.mark.timeout(300)
def test_benchmark_when_a_run_is_killed_and_resumed_then_it_finds_nothing_lost_or_run_twice(tmp_path):
    rows = [
        {
            "question": f"What is {number} + 1?",
            "ground_truth": f"A: {number + 1}",
            MODEL: {"solution": f"It is <<{number}+1={number + 1}>>{number + 1}\nA: {number + 1}"},
        }
        for number in range(40)
    ]
    (tmp_path / "solutions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(ROOT / "benchmarks" / "rollouts.py"), str(tmp_path / "solutions.jsonl")]
    options = ["--rollouts", "80", "--part", "crash", "--part", "throughput", "--rounds", "2"]

    result = subprocess.run(
        [*command, *options, "--json", str(tmp_path / "figures.json")], capture_output=True, text=True, timeout=280
    )

    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["crash"]["records"], figures["crash"]["lost"], figures["crash"]["run_twice"]) == (80, 0, 0)
    assert figures["throughput"]["rollouts_per_second"].keys() == {"bare", "pooled", "sdk"}
