"""Jobs of `LocalJobs` from CreateJob to their end, with real agents."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
import requests
from workers.web import until, worker_of

from aws_rft_sdk import rft_handler
from aws_rft_sdk.agent_rft import EVALUATION, MODELS, TRAINING
from aws_rft_sdk.runtime import Fault, Faults, LocalJobs
from aws_rft_sdk.runtime.bedrock.trainers import TrainingStep, Update
from aws_rft_sdk.training import SoftmaxTrainer, arithmetic
from aws_rft_sdk.wire import GA_JOB_ARN_HEADER, GA_TRAJECTORY_HEADER
from tests.sagemaker.plane import REGION, evaluation, parameters, training

NOVA = MODELS["nova-lite-2"].hub_arn(REGION)
SPEED = 50.0
"""Of jobs whose agents answer: 250 starts in a second, and rollouts may take 12 s."""
FAST = 1000.0
"""Of jobs that run into a limit of time: rollouts may take 0.3 s, and wait 0.06 s for a reward."""
CALL = {"messages": [{"role": "user", "content": "hello"}], "model": "policy"}
_sessions = threading.local()


@pytest.fixture(autouse=True)
def _generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents speak the generation of the service: on loopback nothing else would tell them."""
    monkeypatch.setenv("RFT_API", "ga")


class Twin:
    """A running `LocalJobs` and what tests ask of it."""

    def __init__(self, jobs: LocalJobs) -> None:
        self.jobs = jobs
        self.client = self._client("sagemaker")
        self._s3 = self._client("s3")

    def _client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "a-secret"}
        return boto3.client(service, region_name=REGION, endpoint_url=self.jobs.endpoint, **keys)

    def upload(self, prompts: Sequence[str], key: str = "train.jsonl") -> str:
        body = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts).encode()
        return self.put(body, key)

    def put(self, body: bytes, key: str) -> str:
        self._s3.put_object(Bucket="bucket", Key=key, Body=body)
        return f"s3://bucket/{key}"

    def train(self, train: str = "s3://bucket/train.jsonl", name: str = "calc-1", **changes: Any) -> Any:
        """Create a training job of Nova: its batches are the smallest."""
        values = {"global_batch_size": "8", "group_size": "2", **changes.pop("hyperparameters", {})}
        document = training(base_model=NOVA, train=train, hyperparameters=values, **changes)
        self.client.create_job(**parameters(document, name=name))
        return lambda: self.describe(name)

    def evaluate(self, dataset: str = "s3://bucket/eval.jsonl", name: str = "eval-1", **changes: Any) -> Any:
        values = {"rollout_max_retries": "1", **changes.pop("hyperparameters", {})}
        document = evaluation(base_model=NOVA, dataset=dataset, hyperparameters=values, **changes)
        self.client.create_job(**parameters(document, name=name, category=EVALUATION))
        return lambda: self.describe(name, EVALUATION)

    def describe(self, name: str, category: str = TRAINING) -> Any:
        return self.client.describe_job(JobName=name, JobCategory=category)

    def metrics(self, name: str = "calc-1", category: str = TRAINING) -> dict[str, list[tuple[int, float]]]:
        """Return steps and values of every metric."""
        store = self.jobs._serving.store  # type: ignore[union-attr]
        found: dict[str, list[tuple[int, float]]] = {}
        for row in store.metrics(store.job(category, name)):
            found.setdefault(row.name, []).append((row.step, row.value))
        return found

    def traces(self, name: str = "calc-1", category: str = TRAINING) -> list[dict[str, Any]]:
        store = self.jobs._serving.store  # type: ignore[union-attr]
        return [rollout for _, _, rollout in store.traces(store.job(category, name))]

    def logs(self, name: str = "calc-1", category: str = TRAINING) -> list[str]:
        store = self.jobs._serving.store  # type: ignore[union-attr]
        return [text for _, _, text in store.logs(store.job(category, name))]


@contextmanager
def twin(handler: Any = None, **options: Any) -> Iterator[Twin]:
    given = {"policy": lambda request: "hi", "speed": SPEED, "concurrency": 16, **options}
    with LocalJobs(handler, **given) as jobs:
        yield Twin(jobs)


def ended(describe: Callable[[], Any]) -> Any:
    assert until(lambda: describe()["JobStatus"] in ("Completed", "Failed", "Stopped"))
    return describe()


def output(job: Any) -> Any:
    return json.loads(job["JobConfigDocument"])["ServiceOutput"]


def cells(count: int, seed: int = 1) -> list[str]:
    return [arithmetic.prompt_cell(*problem) for problem in arithmetic.problems(count, random.Random(seed))]


# Agents that make each call by themselves, so that they can leave any of them out.


def call(payload: Any, path: str, body: Any) -> Any:
    session = _sessions.__dict__.setdefault("session", requests.Session())
    metadata = payload["metadata"]
    headers = {GA_JOB_ARN_HEADER: metadata["jobArn"], GA_TRAJECTORY_HEADER: metadata["rolloutId"]}
    return session.post(metadata["endpoint"] + path, json=body, headers=headers, timeout=30)


def sample(payload: Any) -> str:
    answer = call(payload, "/v1/chat/completions", CALL)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def complete(payload: Any, status: str = "ready") -> None:
    metadata = payload["metadata"]
    body = {"JobArn": metadata["jobArn"], "TrajectoryId": metadata["rolloutId"], "Status": status}
    call(payload, "/complete-rollout", body).raise_for_status()


def reward(payload: Any, *rewards: float) -> None:
    metadata = payload["metadata"]
    body = {"JobArn": metadata["jobArn"], "TrajectoryId": metadata["rolloutId"], "Rewards": list(rewards)}
    call(payload, "/update-reward", body).raise_for_status()


def plain(payload: Any) -> None:
    """Earn 1 if the policy says hi, which takes one turn."""
    score = float(sample(payload) == "hi")
    complete(payload)
    reward(payload, score)


def never_samples(payload: Any) -> None:
    complete(payload)
    reward(payload, 1.0)


def gives_no_reward(payload: Any) -> None:
    sample(payload)
    complete(payload)


@rft_handler(on_error="failed")
async def raises(payload: Any) -> Any:
    await arithmetic.solve("Ana has 4 figs. Ana gets 2 more.")
    raise KeyError("no such tool")


async def too_slow(payload: Any) -> None:
    await asyncio.Event().wait()


def wrong_metadata(payload: Any) -> None:
    plain({**payload, "metadata": {**payload["metadata"], "rolloutId": "another"}})


def dies(payload: Any) -> None:
    sample(payload)
    raise SystemExit(3)


def leaves_it_open(payload: Any) -> None:
    sample(payload)


def answers_in_error(event: Any, context: Any) -> Any:
    return {"errorType": "AccessDenied", "errorMessage": "the agent refused the key"}


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        (never_samples, "no sampling requests were received"),
        (gives_no_reward, "was completed, and no reward arrived within 60 s"),
        (raises, "the agent signalled that the rollout failed"),
        (too_slow, "no sampling requests were received for it within rollout_timeout, 300 s"),
        (wrong_metadata, "no sampling requests were received for it, since the call of the agent failed: the handler raised HTTPError: 404"),
        (dies, "the handler ended its process: SystemExit(3)"),
        (leaves_it_open, "did not end within rollout_timeout, 300 s, after 1 sampling requests"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_job_when_its_agent_is_broken_then_it_fails_and_says_how(agent: Any, reason: str) -> None:
    # The agents that answer need time: only those that do not run into the limits of the service's clocks.
    speed = FAST if agent in (too_slow, leaves_it_open, gives_no_reward) else SPEED
    policy = SoftmaxTrainer(arithmetic.decide, arithmetic.untrained()).policy(None)
    with twin(agent, speed=speed, policy=policy) as running:
        running.upload(["a"], "eval.jsonl")
        job = ended(running.evaluate(hyperparameters={"rollout_timeout": "300"}))
        assert (job["JobStatus"], job["SecondaryStatus"]) == ("Failed", "Failed")
        assert reason in job["FailureReason"]
        assert "failed at all of its 2 attempts" in job["FailureReason"]
        assert len(job["FailureReason"]) <= 1024
        assert job["SecondaryStatusTransitions"][-1]["StatusMessage"] == job["FailureReason"]
        assert sum("attempt 1 of 2" in line for line in running.logs("eval-1", EVALUATION)) == 1
        assert len({trajectory.trajectory_id for trajectory in running.jobs.runtime.trajectories()}) == 2


@contextmanager
def closing_server() -> Iterator[str]:
    """Serve an agent that dies while it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                peer.recv(65536)
                peer.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_job_when_the_call_of_its_agent_fails_then_the_reason_is_that_of_the_call() -> None:
    def failure(**agent: Any) -> str:
        with twin(**agent) as running:
            running.upload(["a"], "eval.jsonl")
            return str(ended(running.evaluate())["FailureReason"])

    with closing_server() as url:
        assert "the connection to the agent failed (RemoteProtocolError" in failure(agent_url=url)
    assert "the connection to the agent failed (ConnectError" in failure(agent_url=url)
    assert "answered AccessDenied: the agent refused the key" in failure(forwarder=answers_in_error)
    with worker_of(rft_handler(lambda payload: 1 / 0)) as worker:
        assert "no sampling requests" in failure(agent_url=worker.url)


# --- what happens when all is well -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["in process", "http", "accepted at once"])
def test_training_when_the_agent_is_a_real_one_then_success_rises_in_spite_of_faults(place: str) -> None:
    faults = Faults(*(Fault("status", route=route, probability=0.05, status=503) for route in ("inference", "feedback")))
    trainer = SoftmaxTrainer(arithmetic.decide, arithmetic.untrained(), learning_rate=60.0)
    options = {"trainer": trainer, "policy": None, "faults": faults}
    kind = "async" if place == "accepted at once" else "sync"
    with worker_of(arithmetic.handler, invocations=kind) as worker:
        agent = {"handler": arithmetic.handler} if place == "in process" else {"agent_url": worker.url}
        with twin(**agent, **options) as running:
            running.upload(cells(32))
            held_out = running.upload(cells(24, seed=2), "eval.jsonl")
            values = {"group_size": "4", "max_epochs": "2", "val_every": "0"}
            job = ended(running.train(validation=held_out, hyperparameters=values))
            assert job["JobStatus"] == "Completed", job["FailureReason"]
            (first, before), (last, after) = running.metrics()["val/reward/mean"]
            assert (first, last) == (0, 8)
            assert after > before + 0.2
            tuned = ended(running.evaluate(model_package=output(job)["OutputModelPackageArn"]))
            assert output(tuned)["EvaluationMetrics"]["eval/reward/mean"] == pytest.approx(after, abs=0.15)
