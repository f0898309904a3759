"""`watch`, with a service of our own and with the local stand-in of Bedrock."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError, ServiceConnectionError
from aws_rft_sdk.jobs import BedrockJobs, Checkpoint, Event, Job, Step, Watched, watch
from aws_rft_sdk.rewards import gsm8k, reward_lambda
from aws_rft_sdk.runtime import LocalBedrock
from aws_rft_sdk.training import arithmetic
from aws_rft_sdk.training.softmax import SoftmaxTrainer
from tests.jobs.streams import COLLAPSE, run

GRADER = "arn:aws:lambda:us-west-2:123456789012:function:gsm8k"
QUICK = ("--poll-seconds", "0.05")


def metrics(step: Step) -> Event:
    raw = {
        "id": f"e-{step.step}-{step.reward_mean}",
        "type": "metrics",
        "created_at": 1764000000 + 10 * step.step,
        "data": {
            "step": step.step,
            "total_steps": 100,
            "critic_rewards_mean": step.reward_mean,
            "actor_entropy": step.entropy,
        },
    }
    return Event(raw, raw["id"])


def said(text: str) -> Event:
    return Event({"id": text, "message": text}, text, message=text)


class Service:
    """A job that says what it is given. Some events are past when it is first asked; then it goes on."""

    def __init__(self, past: list[Event], future: list[Event], *, outage: bool = False) -> None:
        self.past, self.future, self.outage = past, future, outage
        self.saved: list[Checkpoint] = []
        self.status = "running"

    def get(self, job: str) -> Job:
        return Job({"id": job, "status": self.status}, job, status=self.status, state=self.status)

    def checkpoints(self, job: str) -> list[Checkpoint]:
        if self.outage and len(self.saved) == 1:
            raise ServiceConnectionError("gone")
        return list(self.saved)

    def events(self, job: str, *, follow: bool = False, poll_seconds: float = 10) -> Iterator[Event]:
        if not follow and self.outage:
            raise ServiceConnectionError("gone")
        yield from self.past
        for event in self.future if follow else ():
            if event.message:
                self.saved.append(Checkpoint({}, event.message, step=1, model=event.message))
            yield event
        self.status = "succeeded" if follow else self.status


def kinds(seen: list[Watched]) -> list[str]:
    return [alarm.kind for now in seen for alarm in now.new_alarms]


@pytest.mark.parametrize("outage", [False, True])
def test_watch_when_a_job_collapses_then_the_alarm_comes_once_and_before_the_end(outage: bool) -> None:
    events = [metrics(step) for step in run(random.Random(3), 60, entropy=COLLAPSE)]
    seen = list(watch(Service(events[:5], [*events[5:], said("one"), said("two")], outage=outage), "j"))
    assert kinds(seen) == ["entropy_collapse"]
    (at,) = [now.step.step for now in seen if now.new_alarms and now.step]
    assert 8 <= at < 30
    assert [now.step.step for now in seen if now.step] == list(range(1, 61))
    assert [c.model for now in seen for c in now.new_checkpoints] == ["one", "two"]
    assert (seen[0].job.status, seen[-1].job.status) == ("running", "succeeded")
    assert seen[40].seconds_left == pytest.approx(10 * (100 - 40))


def test_watch_when_the_past_was_worse_than_the_present_then_only_the_present_counts() -> None:
    dip = run(random.Random(3), 67, reward=lambda x: 0.6 - 2 * x if x < 0.2 else 0.2 + 0.8 * x)
    events = [metrics(step) for step in dip]
    assert kinds(list(watch(Service(events, []), "j"))) == []
    assert "reward_falling" in kinds(list(watch(Service([], events), "j")))


def test_watch_when_events_come_late_then_a_gap_is_an_alarm_at_the_end_only() -> None:
    events = [metrics(step) for step in run(random.Random(3), 30)]
    late = [*events[:10], *events[12:20], events[10], *events[20:]]
    seen = list(watch(Service([], late), "j"))
    assert [now.alarms[0].evidence for now in seen if now.new_alarms] == ["no record of step 12"]
    assert seen[-1].new_alarms
    assert [step.step for step in seen[-1].steps] == [n for n in range(1, 31) if n != 12]


def test_watch_when_the_service_tells_no_events_then_each_change_of_the_job_is_told() -> None:
    raws: list[dict[str, Any]] = [
        {"status": "InProgress", "statusDetails": {"trainingDetails": {"status": "NotStarted"}}},
        {"status": "InProgress", "statusDetails": {"trainingDetails": {"status": "NotStarted"}}},
        {"status": "InProgress", "statusDetails": {"trainingDetails": {"status": "InProgress"}}},
        {"status": "Failed", "failureMessage": "bad data"},
    ]
    left = [
        Job(raw, "arn", status=raw["status"], state="failed" if raw["status"] == "Failed" else "running")
        for raw in raws
    ]

    class Nova:
        def get(self, job: str) -> Job:
            return left.pop(0)

    waits: list[float] = []
    seen = list(watch(Nova(), "arn", sleep=waits.append))
    assert [dict(now.job) for now in seen] == [raws[0], raws[2], raws[3]]
    assert waits == [10.0] * 3
    with pytest.raises(ConfigurationError, match="poll_seconds is 0"):
        next(watch(Nova(), "arn", poll_seconds=0))


@pytest.fixture
def training_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    rows = ({"messages": [{"role": "user", "content": f"{n}+1"}], "reference_answer": str(n + 1)} for n in range(100))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def started(server: LocalBedrock, training_file: Path, batch_size: int = 20) -> tuple[str, list[str]]:
    """Start a job, and return its id and the arguments that name it."""
    jobs = BedrockJobs("us-west-2", base_url=server.base_url)
    file = jobs.upload(training_file)
    job = jobs.create("openai.gpt-oss-20b", file, GRADER, hyperparameters={"n_epochs": 1, "batch_size": batch_size})
    return job.id, [job.id, "--on", "bedrock", "--endpoint", server.endpoint]


def grade(event: Any, context: object) -> list[dict[str, Any]]:
    return [{"id": row["id"], "aggregate_reward_score": 1.0} for row in event]


def test_command_when_a_job_runs_then_json_has_a_record_for_each_step(training_file: Path) -> None:
    with LocalBedrock(lambda request: "4", functions={GRADER: grade}, group=2) as server:
        job, named = started(server, training_file, batch_size=5)
        result = CliRunner().invoke(main, ["job", "watch", *named, *QUICK, "--json"])
        assert result.exit_code == 0, result.output
        records = [json.loads(line) for line in result.stdout.splitlines()]
        assert [record["step"] for record in records] == list(range(1, 21))
        assert records[0].keys() == Step(1).to_json().keys()
        assert (records[0]["total_steps"], records[0]["reward_mean"], records[0]["entropy"]) == (20, 1.0, None)
        assert "ALARM reward_saturated" in result.stderr

        lines = CliRunner().invoke(main, ["job", "watch", *named, *QUICK]).stdout.splitlines()
        assert any(line.startswith("step 20 of 20: reward 1, length 1, advantage 0") for line in lines)
        assert sum("ALARM reward_saturated" in line for line in lines) == 1
        assert any(line.startswith("checkpoint of step 20: ft:") for line in lines)
        assert lines[-1] == f"job {job} is succeeded"

        result = CliRunner().invoke(main, ["job", "report", *named, "--json"])
        assert [alarm["kind"] for alarm in json.loads(result.stdout)["alarms"]] == ["reward_saturated", "dead_groups"]


def test_command_when_the_job_fails_then_it_says_why(training_file: Path) -> None:
    def broken(event: Any, context: object) -> None:
        raise ValueError("no grades today\x1b[31m")

    with LocalBedrock(lambda request: "4", functions={GRADER: broken}, group=2) as server:
        job, named = started(server, training_file)
        result = CliRunner().invoke(main, ["job", "watch", *named, *QUICK])
    assert result.exit_code == 1
    assert f"job {job} is failed: " in result.stderr
    assert "no grades today" in result.stderr
    assert "\x1b" not in result.output


def test_command_when_interrupted_then_the_job_goes_on(training_file: Path) -> None:
    go_on = threading.Event()

    def policy(request: object) -> str:
        go_on.wait(100)
        return "4"

    with LocalBedrock(policy, functions={GRADER: grade}, group=2) as server:
        _, named = started(server, training_file)
        command = [sys.executable, "-m", "aws_rft_sdk", "job", "watch", *named, *QUICK]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("job ")
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=100)
            assert process.returncode == 130
        again = f"aws-rft job watch {' '.join(named)}"
        assert told == f"The job goes on. Watch it again with: {again}\n"
        go_on.set()
        assert CliRunner().invoke(main, [*again.split()[1:], *QUICK]).exit_code == 0


def test_command_when_on_a_terminal_then_the_view_is_live(training_file: Path) -> None:
    with LocalBedrock(lambda request: "4", functions={GRADER: grade}, group=2) as server:
        _, named = started(server, training_file, batch_size=5)
        terminal, its_end = pty.openpty()
        command = [sys.executable, "-m", "aws_rft_sdk", "job", "watch", *named, *QUICK]
        with subprocess.Popen(
            command, stdout=its_end, env={**os.environ, "TERM": "xterm", "COLUMNS": "200"}
        ) as process:
            os.close(its_end)
            shown = b""
            try:
                while part := os.read(terminal, 65536):
                    shown += part
            except OSError:
                pass  # how Linux says that the other end is closed
            assert process.wait(100) == 0
        os.close(terminal)
    text = shown.decode(errors="replace")
    for part in ("20 of 20", "reward", "▁▁▁", "reward_saturated", "checkpoints", "step 20"):
        assert part in text


def test_report_when_a_job_really_learns_then_it_raises_no_alarm(tmp_path: Path) -> None:
    rows = (
        {"messages": [{"role": "user", "content": question}], "reference_answer": {"text": answer}}
        for question, answer in arithmetic.problems(120, random.Random(2))
    )
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = SoftmaxTrainer(arithmetic.decide, arithmetic.untrained(), learning_rate=6.0)
    with LocalBedrock(trainer=trainer, functions={GRADER: reward_lambda(gsm8k)}) as server:
        _, named = started(server, file, batch_size=4)
        assert CliRunner().invoke(main, ["job", "watch", *named, *QUICK]).exit_code == 0
        found = json.loads(CliRunner().invoke(main, ["job", "report", *named, "--json"]).stdout)
    assert found == {"steps": 30, "alarms": []}
