"""The six steps with our own `BedrockJobs`, while a fifth of the answers is bad and the server restarts."""

from __future__ import annotations

import functools
import itertools

import pytest

from aws_rft_sdk.jobs import BedrockJobs
from aws_rft_sdk.jobs.steps import read_step
from aws_rft_sdk.runtime import Fault, Faults, LocalBedrock
from tests.bedrock.bedrock_parts import ARN, MODEL, grader, guess, jsonl, rows
from tests.bedrock.test_jobs import slow_guess

SETTINGS = {"n_epochs": 1, "batch_size": 10}
TROUBLE = functools.partial(
    Faults,
    Fault("status", probability=0.1, status=503),
    Fault("status", probability=0.05, status=429, retry_after_seconds=0),
    Fault("reset", probability=0.03),
    Fault("cut", probability=0.02),
)


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(jsonl(rows()))
    return path


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-for-tests")
    for name in ("AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)


def six_steps(server, auth, train, policy_events=()):
    """Return events, checkpoints and answer of a job. Restarts the server after as many metrics events as asked."""
    restarts = list(policy_events)
    with BedrockJobs(base_url=server.base_url, auth=auth) as jobs:
        job = jobs.create(MODEL, jobs.upload(train), ARN, hyperparameters=SETTINGS)
        events = []
        for event in jobs.events(job, follow=True, poll_seconds=0.02):
            events.append(event)
            if restarts and sum(read_step(item) is not None for item in events) >= restarts[0]:
                restarts.pop(0)
                server.restart()
        answer = jobs.chat(jobs.get(job), [{"role": "user", "content": "1 mod 2?"}], seed=1)
        return events, jobs.checkpoints(job), answer.choices[0].message.content


def metrics_in(events):
    return [event["data"] for event in events if read_step(event)]


@pytest.mark.parametrize(("auth", "seed"), [*itertools.product(["token", "sigv4"], range(3))])
def test_six_steps_when_answers_fail_and_the_server_restarts_then_the_result_is_the_same(auth, seed, train):
    options = {"functions": {"gsm8k": grader}, "auth": auth}
    with LocalBedrock(guess, **options) as server:
        calm, calm_checkpoints, calm_answer = six_steps(server, auth, train)

    with LocalBedrock(slow_guess, faults=TROUBLE(seed=seed), newest_first=True, **options) as server:
        rough, checkpoints, answer = six_steps(server, auth, train, policy_events=[2, 6])

    assert len({event.id for event in rough}) == len(rough) == len(calm)
    assert [event["data"] for event in rough if read_step(event)] == [
        event["data"] for event in calm if read_step(event)
    ]
    assert [item.step for item in checkpoints] == [item.step for item in calm_checkpoints]
    assert answer == calm_answer
