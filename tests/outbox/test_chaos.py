"""The chaos benchmark in small: workers killed between their writes, a third of all feedback calls failing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_chaos_when_workers_are_killed_then_no_reward_is_lost_doubled_or_changed():
    done = subprocess.run(
        [sys.executable, str(CHAOS), "--rollouts", "300", "--kills", "0.005"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert (counts["lost"], counts["doubled"], counts["changed"]) == (0, 0, 0)
    assert counts["ledger_balances"]
    assert counts["ledger_equals_runtime"]
    # It proves something only if there was trouble.
    assert counts["kills"] >= 1
    assert counts["faults_injected"] > 100
