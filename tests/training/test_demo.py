"""`aws-rft demo` as a user runs it. It takes half a minute of a processor, so it has a file of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main


@pytest.mark.timeout(300)  # several times as long where other programs use the processors
def test_demo_when_run_then_other_commands_read_its_folders(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert set(report) == {"runs", "seconds"}
    assert set(report["runs"]) == {"rewarded"}
    assert report["runs"]["rewarded"]["after"] > report["runs"]["rewarded"]["before"] + 0.3
    assert report["runs"]["rewarded"]["rollouts"] == 960
    metrics = CliRunner().invoke(main, ["metrics", str(out / "rewarded" / "train"), "--json"])
    assert metrics.exit_code == 0, metrics.stderr
    steps = [json.loads(line) for line in (out / "rewarded" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 11))
