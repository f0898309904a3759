"""`aws-rft demo` as a user runs it. It takes half a minute of a processor, so it has a file of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.cli._sparkline import sparkline


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
    (curve,) = ElementTree.parse(out / "curves.svg").iter("{http://www.w3.org/2000/svg}polyline")
    assert len(curve.attrib["points"].split()) == 10
    again = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert (again.exit_code, "give another folder with --out" in again.stderr) == (2, True)


def demo(tmp_path: Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "aws_rft_sdk", "demo", "--out", str(tmp_path / "demo")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **options)


def test_demo_when_interrupted_then_it_says_where_the_records_are_and_nothing_else(tmp_path: Path) -> None:
    with demo(tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = [process.stderr.readline().decode(), process.stderr.readline().decode()]
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    lines = [*said, *rest.decode().splitlines()]
    assert [line for line in lines[1:-1] if not line.startswith("  step")] == []
    assert lines[-1] == f"stopped. What was recorded until now is in {tmp_path / 'demo'}"
    assert (tmp_path / "demo" / "rewarded" / "steps.jsonl").read_text().startswith('{"step": 1')


@pytest.mark.parametrize(("encoding", "bars"), [("utf-8", "▁▄█"), ("ascii", "_-#"), ("no-such", "_-#")])
def test_sparkline_when_the_terminal_lacks_bars_then_ascii_characters_are_drawn(encoding: str, bars: str) -> None:
    assert sparkline([0.0, 0.45, 1.0], encoding, low=0.0, high=1.0) == bars
    assert sparkline([3.0] * 50, encoding) == bars[0] * 40
    assert sparkline([], encoding) == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo terminals here")
def test_demo_when_in_a_narrow_ascii_terminal_then_a_view_is_shown_and_no_line_is_too_long(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm", "PYTHONIOENCODING": "ascii"}
    with demo(tmp_path, stderr=theirs, env=environment) as process:
        os.close(theirs)
        view = b""
        while b"step" not in view or b"rollouts/s" not in view:
            view += os.read(ours, 65536)
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(OSError):  # Linux says so at the end
            while more := os.read(ours, 65536):
                view += more
        assert process.wait(60) == 130
    os.close(ours)
    assert b"Traceback" not in view
    assert b"success" in view
    shown = [re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", line) for line in view.splitlines()[1:-1]]
    assert max(map(len, shown)) <= 60
