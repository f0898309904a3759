"""The speed benchmark runs from end to end and reports what it promises. Nothing here depends on how fast it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed._load import post, send_all
from benchmarks.speed._measure import Effort, Result, difference, interleave, ratio, table
from benchmarks.speed._servers import serving

pytestmark = pytest.mark.timeout(300)  # all measurements in one process: minutes on a busy machine

ROOT = Path(__file__).parents[2]
TINY = ["--rounds", "1", "--scale", "0.01"]
RESULTS = {
    "turns": 4,
    "concurrent": 2,
    "agent": 2,
    "feedback": 3,
    "imports": 2,
    "handlers": 5,
    "memory": 2,
    "runtime": 2,
    "gateway": 0,  # compared with only where it is installed
}


def run(*arguments, **options):
    command = [sys.executable, "-m", "benchmarks.speed", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False, **options)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    done = run(*TINY, "--folder", str(folder), "--gateway", "no-such-command", "--json", str(folder / "speed.json"))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "speed.json").read_text())


@pytest.mark.parametrize("name", RESULTS)
def test_measurement_when_run_then_its_results_are_complete(name, everything):
    printed, report = everything
    results = [result for result in report["results"] if result["measurement"] == name]

    assert len(results) == RESULTS[name]
    for result in results:
        assert {"floor", "ours", "figure", "target", "met", "unit"} <= result.keys()
        for spread in (result["floor"], result["ours"], result["figure"]):
            assert spread["minimum"] <= spread["median"] <= spread["maximum"]
        assert result["name"] in printed


def test_gateway_when_it_is_not_installed_then_that_is_said(everything):
    assert "no-such-command is not installed" in everything[0]


def test_only_when_there_is_no_such_measurement_then_the_command_refuses():
    done = run("--only", "turns,luck")

    assert done.returncode == 2
    assert "there is no luck" in done.stderr


def test_interleave_when_there_are_rounds_then_contenders_take_turns_after_a_warm_up():
    order = []

    def contender(name):
        return lambda: order.append(name) or float(len(order))

    figures = interleave({"a": contender("a"), "b": contender("b")}, 3)

    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert figures == {"a": [3.0, 6.0, 7.0], "b": [4.0, 5.0, 8.0]}


def test_ratio_when_rounds_differ_then_each_is_compared_with_its_own():
    result = ratio("x", [1.0, 2.0, 4.0], [1.1, 2.2, 8.0], unit="ms", scale=1e3, target=1.15)

    assert result.figure.median == pytest.approx(1.1)
    assert result.figure.maximum == pytest.approx(2.0)
    assert result.ours.median == pytest.approx(2200.0)
    assert result.met is True


@pytest.mark.parametrize(
    ("bound", "target", "met"), [("at most", 1.0, False), ("at least", 1.0, True), ("at least", None, None)]
)
def test_result_when_there_is_a_target_then_its_side_counts(bound, target, met):
    assert ratio("x", [2.0], [4.0], unit="ms", target=target, bound=bound).met is met


def test_table_when_a_target_is_missed_then_it_says_so():
    missed = difference("import", [10.0], [50.0], unit="ms", target=30.0)

    assert "| NO" in table([missed])
    assert "at most +30.0 ms" in table([missed])
    assert isinstance(missed, Result)


def test_effort_when_scaled_down_then_something_is_still_done():
    assert [Effort(scale=scale).count(10) for scale in (0.001, 0.5, 2.0)] == [1, 5, 20]


async def _send(url, body):
    return await send_all(url, [[post(url, "/v1/chat/completions", body, {})] * 3] * 2)


def test_send_all_when_answers_come_then_it_ends_and_when_not_then_it_raises():
    import asyncio

    with serving("canned") as url:
        assert asyncio.run(_send(url, b'{"messages": []}')) > 0
        with pytest.raises(RuntimeError, match="hung up"):
            asyncio.run(_send(url, b"no JSON"))
