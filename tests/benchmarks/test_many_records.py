"""The benchmark of records at a size that tells whether it works, not how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_benchmark_when_run_then_every_command_succeeds_and_the_resumed_run_is_whole(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "records.py"), "--records", "400", "--missing", "10"]

    result = subprocess.run([*command, "--json", str(tmp_path / "figures.json")], capture_output=True, text=True)

    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(row["command"], row["status"]) for row in figures] == [("metrics", 0), ("compare", 0), ("resume", 0)]
    assert "| resume |" in result.stdout
