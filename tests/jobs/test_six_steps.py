"""The six steps against `LocalBedrock`: a fifth of its answers is faulty, and it restarts in the middle of the job."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.jobs import _mantle
from aws_rft_sdk.runtime import Fault, Faults, LocalBedrock
from tests.jobs.six_steps import GRADER, six_steps

OPENAI_3 = os.environ.get("RFT_TEST_PYTHON_OPENAI_3")
"""An interpreter with openai 3, which cannot be installed beside Strands. Read before a test clears the environment."""
ROOT = Path(__file__).parents[2]

A_FIFTH = (
    Fault("status", probability=0.05, status=500, after=True),
    Fault("status", probability=0.03, status=503),
    Fault("status", probability=0.03, status=429, retry_after_seconds=0.01),
    Fault("reset", probability=0.04),
    Fault("reset", probability=0.04, after=True),
    Fault("cut", probability=0.04),
)


class Grader:
    """Counts its calls. At the tenth it waits until the service has been restarted."""

    def __init__(self) -> None:
        self.calls = 0
        self.midway, self.restarted = threading.Event(), threading.Event()

    def __call__(self, event: list[dict[str, Any]], context: object) -> list[dict[str, Any]]:
        self.calls += 1
        if self.calls == 10:
            self.midway.set()
            self.restarted.wait(20)
        return [
            {"id": row["id"], "aggregate_reward_score": len(row["messages"][-1]["content"]) % 5 / 4.0} for row in event
        ]


def answer(request: dict[str, Any]) -> str:
    return f"it is {len(str(request['messages'])) + request.get('seed', 0)}"


def with_trouble(
    auth: Any, faults: Faults, db: Path, run: Callable[[str], dict[str, Any]], *, newest_first: bool = False
) -> dict[str, Any]:
    """Do the six steps while the service makes trouble, and restart it once the job is under way."""
    grader = Grader()
    options: dict[str, Any] = {"auth": auth, "faults": faults, "db": db, "newest_first": newest_first}
    with LocalBedrock(answer, functions={GRADER: grader}, group=2, **options) as service:

        def restart() -> None:
            if grader.midway.wait(60):
                service.restart()
                grader.restarted.set()

        restarting = threading.Thread(target=restart)
        restarting.start()
        try:
            return run(service.endpoint)
        finally:
            grader.midway.set()
            restarting.join()


def check(found: dict[str, Any], auth: Any, train: Path) -> None:
    grader = Grader()
    grader.restarted.set()
    with LocalBedrock(answer, functions={GRADER: grader}, auth=auth, group=2) as service:
        expected = six_steps(service.endpoint, auth, train)
    assert found == expected
    assert (found["status"], found["followed"], found["each_once"], found["jobs"]) == ("succeeded", True, True, True)
    steps = [data["step"] for _, data in found["events"] if data and "step" in data and "critic_rewards_mean" in data]
    assert steps == list(range(1, 26))
    assert found["answers"][0] == found["answers"][1]


@pytest.mark.parametrize("seed", range(3))  # each meets a fault however few calls a run takes
@pytest.mark.parametrize("auth", ["token", "sigv4"])
def test_six_steps_when_a_fifth_of_the_answers_is_faulty_then_the_result_is_the_same(
    auth: Any, seed: int, train: Path, tmp_path: Path, aws_keys: Keys, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mantle, "BACKOFF", Backoff(0.2, 2))  # five tries outlast a restart
    faults = Faults(*A_FIFTH, seed=seed)
    newest_first = seed % 2 == 1
    run = functools.partial(six_steps, auth=auth, train=train)
    found = with_trouble(auth, faults, tmp_path / "db", run, newest_first=newest_first)
    assert faults.injected
    check(found, auth, train)


@pytest.mark.skipif(OPENAI_3 is None, reason="RFT_TEST_PYTHON_OPENAI_3 names no interpreter with openai 3")
@pytest.mark.parametrize("auth", ["token", "sigv4"])
def test_six_steps_when_done_with_openai_3_then_the_result_is_the_same(
    auth: Any, train: Path, tmp_path: Path, aws_keys: Keys
) -> None:
    assert OPENAI_3 is not None
    code = "import openai; print(openai.__version__)"
    version = subprocess.run([OPENAI_3, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert version.startswith("3.")

    def run(endpoint: str) -> dict[str, Any]:
        command = [OPENAI_3, "-m", "tests.jobs.six_steps", endpoint, auth, str(train)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=100)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    check(with_trouble(auth, Faults(*A_FIFTH, seed=1), tmp_path / "db", run), auth, train)
