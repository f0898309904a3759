"""Jobs of `LocalJobs` from CreateJob to their end, with real agents."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
import requests
from workers.web import until, worker_of

from aws_rft_sdk import rft_handler
from aws_rft_sdk.agent_rft import EVALUATION, MODELS, TRAINING
from aws_rft_sdk.runtime import Fault, Faults, LocalJobs
from aws_rft_sdk.runtime.bedrock.trainers import TrainingStep, Update
from aws_rft_sdk.runtime.sagemaker import rollouts
from aws_rft_sdk.runtime.sagemaker.objects import Objects
from aws_rft_sdk.runtime.sagemaker.prompts import ChannelError, read_channel
from aws_rft_sdk.runtime.sagemaker.store import Store
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
        return [row.rollout for row in store.traces([store.job(category, name)])]

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
    """Return prompts of problems with one event each, which a policy learns from few rollouts."""
    problems = arithmetic.problems(8 * count, random.Random(seed))
    return [arithmetic.prompt_cell(*problem) for problem in problems if len(problem[0]) < 75][:count]


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
        (wrong_metadata, "no sampling requests were received for it, since the call of the agent failed"),
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


@pytest.mark.parametrize(("busy", "status", "calls"), [(2, "Completed", 3), (99, "Failed", 6)])
def test_job_when_its_agent_is_busy_then_the_call_is_made_three_times(busy: int, status: str, calls: int) -> None:
    asked: list[int] = []

    class Agent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(429 if len(asked) < busy else 200)
            if asked[-1] == 200:
                plain(payload)
            self.send_response(asked[-1])
            self.send_header("Retry-After", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with twin(agent_url=f"http://127.0.0.1:{server.server_port}") as running:
        running.upload(["a"], "eval.jsonl")
        job = ended(running.evaluate())
    server.shutdown()
    server.server_close()

    assert (job["JobStatus"], len(asked)) == (status, calls)
    assert ("the agent answered 429" in job.get("FailureReason", "")) is (status == "Failed")


NAMES = """
training/epoch training/global_step training/num_groups training/num_trajectories training/total_tokens
training/num_datums training/datums_per_trajectory training/action_tokens_mean training/obs_tokens_mean
training/trainable_token_positions training/nontrainable_token_positions training/trainable_token_ratio
timing_s/step timing_s/training timing_s/policy_update timing_s/save_checkpoint timing_s/eval
rollout/reward/mean rollout/reward/valid_mean rollout/reward/std rollout/reward/min rollout/reward/max
rollout/reward/zero_frac rollout/turns/mean rollout/turns/min rollout/turns/max rollout/tokens/prompt_mean
rollout/tokens/response_mean rollout/tokens/response_std rollout/tokens/response_min rollout/tokens/response_max
rollout/logprob/zero_count rollout/logprob/zero_frac rollout/logprob/zero_per_group rollout/logprob/nz_mean
rollout/logprob/nz_std rollout/logprob/nz_min rollout/logprob/nz_max rollout/advantage/mean rollout/advantage/std
rollout/advantage/min rollout/advantage/max rollout/advantage/n_positive rollout/advantage/n_negative
analysis/batch_completion_ratio analysis/batch_valid_ratio analysis/zero_adv_groups analysis/zero_adv_nonzero_reward
analysis/zero_adv_zero_reward analysis/reward_variance_across_groups analysis/mean_group_reward_spread
val/reward/mean val/reward/succeeded_rollouts val/reward/failed_rollouts val/reward/pass_at_1 val/reward/pass_power_1
val/turns/mean val/tokens/prompt_mean val/logprob/zero_frac trainer/entropy trainer/grad_norm
"""
"""Metrics that the service documents for training, and those of the trainer."""


# --- what happens when all is well -----------------------------------------------------------------------------------


def test_training_when_the_agent_is_a_real_one_then_success_rises_in_spite_of_faults() -> None:
    faults = Faults(
        *(Fault("status", route=route, probability=0.05, status=503) for route in ("inference", "feedback"))
    )
    trainer = SoftmaxTrainer(arithmetic.decide, arithmetic.untrained(), learning_rate=60.0)
    with (
        worker_of(arithmetic.handler) as worker,
        twin(agent_url=worker.url, trainer=trainer, policy=None, faults=faults) as running,
    ):
        running.upload(cells(17))
        held_out = running.upload(cells(12, seed=2), "eval.jsonl")
        values = {"group_size": "8", "val_every": "0"}
        job = ended(running.train(validation=held_out, hyperparameters=values))
        assert job["JobStatus"] == "Completed", job["FailureReason"]
        (first, before), (last, after) = running.metrics()["val/reward/mean"]
        assert (first, last) == (0, 3)
        assert after > before + 0.5
        assert set(NAMES.split()) <= set(running.metrics())
        tuned = ended(running.evaluate(model_package=output(job)["OutputModelPackageArn"]))
        assert output(tuned)["EvaluationMetrics"]["eval/reward/mean"] > before + 0.5
        assert faults.injected


@pytest.mark.parametrize("place", ["in process", "accepted at once", "forwarder"])
def test_rollout_when_the_agent_answers_before_its_reward_then_the_reward_ends_it(place: str) -> None:
    gate, threads = threading.Event(), []

    def later(payload: Any) -> None:
        assert gate.wait(60)
        plain(payload)

    def accept(payload: Any, context: Any = None) -> Any:
        threads.append(threading.Thread(target=later, args=(payload,)))
        threads[-1].start()
        return {}

    with worker_of(rft_handler(reward="deferred")(later), invocations="async") as worker:
        agents = {
            "in process": {"handler": accept},
            "forwarder": {"forwarder": accept},
            "accepted at once": {"agent_url": worker.url},
        }
        with twin(**agents[place], speed=1.0) as running:
            running.upload(["a"], "eval.jsonl")
            describe = running.evaluate()
            assert until(running.jobs.runtime.trajectories)
            assert describe()["JobStatus"] == "InProgress"
            gate.set()
            assert output(ended(describe))["EvaluationMetrics"]["eval/reward/mean"] == 1.0
    for thread in threads:
        thread.join()


def test_rollout_when_an_attempt_fails_then_a_new_one_with_a_new_id_counts() -> None:
    seen: list[str] = []

    def flaky(payload: Any) -> None:
        seen.append(payload["metadata"]["rolloutId"])
        sample(payload)
        if len(seen) < 3:
            raise ConnectionError("the tool is away")
        complete(payload)
        reward(payload, 1.0)

    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    answer = {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": usage}
    with twin(flaky, policy=lambda request: answer) as running:
        running.upload(["a"], "eval.jsonl")
        job = ended(running.evaluate(hyperparameters={"rollout_max_retries": "2"}))
        assert job["JobStatus"] == "Completed"
        assert len(set(seen)) == 3
        (trace,) = running.traces("eval-1", EVALUATION)
        assert (trace["id"], trace["attempts"], trace["reward"], len(trace["turns"])) == (seen[-1], 3, 1.0, 1)
        # What failed attempts sampled is billed too.
        assert output(job)["BillableTokenUsage"] == {"PrefillTokenCount": 15, "SampleTokenCount": 6}


# --- payloads, pace and limits ---------------------------------------------------------------------------------------


def test_payloads_when_of_training_and_of_validation_then_they_are_those_of_the_service() -> None:
    payloads: list[Any] = []

    def agent(payload: Any) -> None:
        payloads.append(payload)
        plain(payload)

    with twin(agent) as running:
        running.upload([f"prompt {number}" for number in range(9)])
        held_out = running.upload(["held out"], "eval.jsonl")
        values = {"temperature": "0.7", "sampling_top_p": "0.9", "sampling_max_tokens": "600", "max_steps": "1"}
        job = ended(running.train(validation=held_out, hyperparameters=values))
        endpoint = running.jobs.runtime.endpoint
    asked = [payload["prompt"] for payload in payloads]
    assert (asked[0], asked[-1]) == ("held out", "held out")
    assert sorted(asked[1:-1]) == sorted(f"prompt {number}" for number in range(8) for _ in range(2))
    for payload in payloads:
        greedy = payload["prompt"] == "held out"
        params = {"temperature": 0.0 if greedy else 0.7, "topP": 0.9, "maxTokens": 600}
        assert payload == {"prompt": payload["prompt"], "metadata": payload["metadata"], "inferenceParams": params}
        rest = {name: value for name, value in payload["metadata"].items() if name != "rolloutId"}
        assert rest == {"jobArn": job["JobArn"], "endpoint": endpoint, "region": REGION}
    assert len({payload["metadata"]["rolloutId"] for payload in payloads}) == len(payloads)


def test_rollouts_when_started_then_no_more_run_at_once_than_allowed_and_all_of_them_may() -> None:
    running_now, most = 0, 0
    lock, full = threading.Lock(), threading.Barrier(5)

    def agent(payload: Any) -> None:
        nonlocal running_now, most
        with lock:
            running_now += 1
            most = max(most, running_now)
        full.wait(60)  # so that five run at once, or the job would not end
        plain(payload)
        with lock:
            running_now -= 1

    with twin(agent, concurrency=5) as running:
        running.upload([str(number) for number in range(20)], "eval.jsonl")
        assert ended(running.evaluate())["JobStatus"] == "Completed"
    assert most == 5


def test_rollouts_when_started_then_they_start_at_the_pace_of_the_service() -> None:
    with twin(plain, speed=4.0) as running:
        running.upload([str(number) for number in range(11)], "eval.jsonl")
        assert ended(running.evaluate())["JobStatus"] == "Completed"
        starts = sorted(trajectory.created_at for trajectory in running.jobs.runtime.trajectories())
    # 20 starts a second. A slow machine makes it longer, and nothing makes it shorter.
    assert starts[-1] - starts[0] > 10 / 20 * 0.8


def test_runtime_when_a_job_is_long_then_it_keeps_the_newest_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "_KEPT", 6)
    with twin(plain, concurrency=1) as running:
        running.upload([str(number) for number in range(9)])
        assert ended(running.train(hyperparameters={"max_steps": "2"}))["JobStatus"] == "Completed"
        kept = [trajectory.trajectory_id for trajectory in running.jobs.runtime.trajectories()]
        traced = [trace["id"] for trace in running.traces()]
    assert len(traced) == 18
    assert sorted(kept) == sorted(traced[-6:])


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        (8, "The dataset has 8 prompts. A job needs more prompts than global_batch_size, which is 8"),
        (None, "channel train: there is no object s3://bucket/train.jsonl. Upload the file first"),
    ],
)
def test_training_when_its_dataset_is_too_small_or_missing_then_no_rollout_starts(prompts: Any, reason: str) -> None:
    with twin(plain) as running:
        if prompts:
            running.upload(["a"] * prompts)
        job = ended(running.train())
        assert (job["JobStatus"], job["FailureReason"]) == ("Failed", reason)
        assert running.jobs.runtime.trajectories() == []


def test_job_when_it_runs_too_long_then_it_is_stopped() -> None:
    with twin(too_slow, speed=100.0) as running:
        running.upload(["a"], "eval.jsonl")
        job = ended(running.evaluate(max_runtime_seconds=20))
        assert (job["JobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("a.jsonl", b'{"prompt": "one"}\n{"prompt": "two"}\n'),
        ("a.json", b'[{"other": 1, "prompt": "one"}, {"prompt": "two"}]'),
        ("a.csv", b"id,prompt\n1,one\n2,two\n"),
        ("folder/", None),
    ],
)
def test_channel_when_of_any_format_then_its_prompts_are_read(key: str, body: bytes | None) -> None:
    objects = Objects(Store(":memory:"))
    if body is None:
        for number, prompt in enumerate(("one", "two")):
            objects.put(f"s3://bucket/{key}{number}.jsonl", json.dumps({"prompt": prompt}).encode())
    else:
        objects.put(f"s3://bucket/{key}", body)
    assert read_channel(evaluation(dataset=f"s3://bucket/{key}"), "evaluation", objects) == ["one", "two"]
    assert read_channel(evaluation(dataset=f"s3://bucket/{key}"), "train", objects) is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"prompt": 3}', "s3://bucket/a.jsonl, line 1: column 'prompt' holds int"),
        (b"", "s3://bucket/a.jsonl: no rows"),
        (b"{", "s3://bucket/a.jsonl, line 1: not JSON"),
    ],
)
def test_channel_when_it_cannot_be_read_then_the_reason_names_object_and_line(body: bytes, problem: str) -> None:
    objects = Objects(Store(":memory:"))
    objects.put("s3://bucket/a.jsonl", body)
    with pytest.raises(ChannelError) as caught:
        read_channel(evaluation(dataset="s3://bucket/a.jsonl"), "evaluation", objects)
    assert problem in str(caught.value)


# --- steps -----------------------------------------------------------------------------------------------------------


class Counting:
    """A trainer whose state counts the steps. It keeps what it was given."""

    def __init__(self, gate: threading.Event | None = None, blocks_in: int = 0) -> None:
        self.steps: list[TrainingStep] = []
        self.states: list[bytes | None] = []
        self.entered = threading.Event()
        self._gate, self._blocks_in = gate, blocks_in

    def policy(self, state: bytes | None) -> Any:
        return lambda request: f"state {(state or b'0').decode()}"

    def step(self, state: bytes | None, step: TrainingStep) -> Update:
        if step.step == self._blocks_in:
            self.entered.set()
            assert self._gate is not None
            assert self._gate.wait(60)
        self.steps.append(step)
        self.states.append(state)
        return Update(str(int(state or b"0") + 1).encode(), {"loss": 0.5})


def scored_by_state(payload: Any) -> None:
    """Earn what the policy knows, plus 1 in every second rollout of a prompt, in two turns."""
    known = float(sample(payload).removeprefix("state "))
    sample(payload)
    complete(payload)
    with _lock:
        number = _numbers[payload["prompt"]] = _numbers.get(payload["prompt"], -1) + 1
    reward(payload, known, number % 2)


_lock, _numbers = threading.Lock(), dict[str, int]()


def test_training_when_done_then_each_step_learnt_from_its_rollouts_turn_by_turn() -> None:
    _numbers.clear()
    trainer = Counting()
    with twin(scored_by_state, trainer=trainer, policy=None) as running:
        running.upload([f"p{number}" for number in range(12)])
        values = {"max_epochs": "2", "advantage_method": "monte_carlo", "learning_rate": "2e-5"}
        job = ended(running.train(hyperparameters=values))
        assert job["JobStatus"] == "Completed"
        metrics = running.metrics()
    assert [(step.step, step.total_steps, len(step.groups)) for step in trainer.steps] == [
        (1, 4, 8),
        (2, 4, 4),
        (3, 4, 8),
        (4, 4, 4),
    ]
    assert trainer.states == [None, b"1", b"2", b"3"]
    third = trainer.steps[2]
    assert third.hyperparameters["group_size"] == 2
    assert third.hyperparameters["learning_rate_multiplier"] == pytest.approx(2.0)
    assert [group.row for group in third.groups] == [{"prompt": f"p{number}"} for number in range(8)]
    for group in third.groups:
        assert [(s.rollout, s.turn) for s in group.samples] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert {s.message["content"] for s in group.samples} == {"state 2"}
        for rollout in (group.samples[:2], group.samples[2:]):
            last = rollout[0].reward - 2
            assert [s.advantage for s in rollout] == [2 + last, last]  # the returns from each turn on
            assert last in (0, 1)
    assert [value for _, value in metrics["trainer/loss"]] == [0.5] * 4
    assert [value for _, value in metrics["training/epoch"]] == [1, 1, 2, 2]
    assert [value for _, value in metrics["rollout/reward/mean"]] == [0.5, 1.5, 2.5, 3.5]
    assert output(job)["ProgressInfo"] == {
        "MaxEpoch": 2,
        "StepsPerEpoch": 2,
        "CurrentEpoch": 2,
        "CurrentStep": 2,
        "BatchSize": 8,
    }


@pytest.mark.parametrize(("val_every", "steps"), [("0", [0, 5]), ("2", [0, 2, 4, 5]), ("5", [0, 5])])
def test_validation_when_val_every_is_set_then_it_runs_at_the_start_in_between_and_at_the_end(
    val_every: str, steps: list[int]
) -> None:
    with twin(plain) as running:
        running.upload([str(number) for number in range(9)])
        held_out = running.upload(["a", "b"], "eval.jsonl")
        values = {"val_every": val_every, "max_steps": "5", "max_epochs": "3", "save_every": "2"}
        job = ended(running.train(validation=held_out, hyperparameters=values))
        metrics = running.metrics()
        assert [step for step, _ in metrics["val/reward/pass_at_1"]] == steps
        assert "val/reward/pass_at_2" not in metrics
        assert output(job)["ProgressInfo"] == {"MaxSteps": 5, "CurrentStep": 5, "BatchSize": 8}
        packages = running.client.list_model_packages(ModelPackageGroupName="calc")["ModelPackageSummaryList"]
        assert len(packages) == 3  # after the steps 2, 4 and 5


@pytest.mark.parametrize("answer", [Update(b"", {"loss": math.nan}), RuntimeError("no memory")], ids=["nan", "raises"])
def test_training_when_its_trainer_fails_then_the_job_does(answer: Any) -> None:
    class Broken(Counting):
        def step(self, state: bytes | None, step: TrainingStep) -> Update:
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

    with twin(scored_by_state, trainer=Broken(), policy=None) as running:
        running.upload([str(number) for number in range(9)])
        job = ended(running.train())
        assert job["JobStatus"] == "Failed"
        assert ("no memory" if isinstance(answer, Exception) else "loss is nan") in job["FailureReason"]
        assert "rollout/reward/mean" not in running.metrics()  # a step is whole or not there


# --- stop, go on, resume, iterate ------------------------------------------------------------------------------------


def test_training_when_stopped_in_the_middle_then_its_last_checkpoint_is_its_output() -> None:
    gate = threading.Event()
    trainer = Counting(gate, blocks_in=3)
    with twin(scored_by_state, trainer=trainer, policy=None) as running:
        running.upload([str(number) for number in range(40)])
        describe = running.train(hyperparameters={"save_every": "1"})
        assert trainer.entered.wait(60)
        running.client.stop_job(JobName="calc-1", JobCategory=TRAINING)
        job = ended(describe)
        gate.set()
        assert (job["JobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
        assert [step for step, _ in running.metrics()["rollout/reward/mean"]] == [1, 2]
        assert output(job)["OutputModelPackageArn"] == output(job)["ModelCheckpoint"]
        assert output(job)["OutputModelPackageArn"].endswith("/calc/2")


def test_training_when_the_server_ends_in_the_middle_then_the_next_one_goes_on_with_the_next_step(
    tmp_path: Any,
) -> None:
    db, gate = tmp_path / "jobs.db", threading.Event()
    first = Counting(gate, blocks_in=3)
    with twin(scored_by_state, trainer=first, policy=None, db=db) as running:
        running.upload([str(number) for number in range(33)])
        held_out = running.upload(["a"], "eval.jsonl")
        running.train(validation=held_out, hyperparameters={"val_every": "1"})
        assert first.entered.wait(60)
    gate.set()
    second = Counting()
    with twin(scored_by_state, trainer=second, policy=None, db=db) as running:
        job = ended(lambda: running.describe("calc-1"))
        assert job["JobStatus"] == "Completed"
        assert [step.step for step in second.steps] == [3, 4, 5]
        assert second.states == [b"2", b"3", b"4"]
        metrics = running.metrics()
        assert [step for step, _ in metrics["rollout/reward/mean"]] == [1, 2, 3, 4, 5]
        assert [step for step, _ in metrics["val/reward/mean"]] == [0, 1, 2, 3, 4, 5]
        assert "Restarting" in [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
        told = Counter((trace["phase"], trace["step"]) for trace in running.traces())
        assert {step: told["training", step] for step in range(1, 6)} == {1: 16, 2: 16, 3: 16, 4: 16, 5: 2}
        assert {told["validation", step] for step in range(6)} == {1}


def test_training_when_it_begins_from_a_checkpoint_then_it_resumes_or_iterates() -> None:
    trainer = Counting()
    with twin(scored_by_state, trainer=trainer, policy=None) as running:
        running.upload([str(number) for number in range(24)])
        values = {"save_every": "2", "max_steps": "3"}
        first = ended(running.train(hyperparameters=values))
        arn = output(first)["ResumableCheckpoint"].rpartition("/")[0]
        trainer.steps.clear()
        trainer.states.clear()
        resumed = ended(running.train(name="calc-2", input_model_package=f"{arn}/1", hyperparameters=values))
        assert resumed["JobStatus"] == "Completed"
        assert ([step.step for step in trainer.steps], trainer.states) == ([3], [b"2"])
        trainer.steps.clear()
        trainer.states.clear()
        package = output(first)["OutputModelPackageArn"]
        changed = {"max_steps": "2", "group_size": "3"}
        ended(running.train(name="calc-3", input_model_package=package, hyperparameters=changed))
        assert [(s.step, state) for s, state in zip(trainer.steps, trainer.states, strict=True)] == [
            (1, b"3"),
            (2, b"4"),
        ]


def test_jobs_when_two_run_at_once_then_each_is_answered_by_its_own_policy() -> None:
    gate = threading.Event()
    trainer = Counting(gate, blocks_in=2)
    with twin(scored_by_state, trainer=trainer, policy=None) as running:
        running.upload([str(number) for number in range(9)])
        running.upload(["a", "b"], "eval.jsonl")
        first = ended(running.train(name="calc-0", hyperparameters={"max_steps": "1"}))
        describe = running.train()
        assert trainer.entered.wait(60)
        tuned = ended(running.evaluate(model_package=output(first)["OutputModelPackageArn"]))
        base = ended(running.evaluate(name="eval-2"))
        gate.set()
        assert ended(describe)["JobStatus"] == "Completed"
        first_turns = [
            {trace["turns"][0]["response"]["choices"][0]["message"]["content"] for trace in running.traces(*job)}
            for job in (("eval-1", EVALUATION), ("eval-2", EVALUATION), ("calc-1", TRAINING))
        ]
    assert (tuned["JobStatus"], base["JobStatus"]) == ("Completed", "Completed")
    assert first_turns == [{"state 1"}, {"state 0"}, {"state 0", "state 1"}]


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_when_prompts_succeed_in_part_then_its_figures_are_the_unbiased_estimates() -> None:
    passes = {"never": 0, "once": 1, "twice": 2, "always": 4}

    def agent(payload: Any) -> None:
        sample(payload)
        complete(payload)
        with _lock:
            number = _numbers[payload["prompt"]] = _numbers.get(payload["prompt"], -1) + 1
        reward(payload, float(number < passes[payload["prompt"]]))

    _numbers.clear()
    with twin(agent) as running:
        running.upload(list(passes), "eval.jsonl")
        job = ended(running.evaluate(hyperparameters={"eval_group_size": "4", "pass_k_values": "1,2,8"}))
        found = output(job)["EvaluationMetrics"]
        logged = {name: values[0][1] for name, values in running.metrics("eval-1", EVALUATION).items()}
        traces = running.traces("eval-1", EVALUATION)
    assert found == {name: value for name, value in logged.items() if name != "timing_s/eval"}
    expected = {
        "reward/mean": 7 / 16,
        "reward/zero_frac": 9 / 16,
        "reward/succeeded_rollouts": 7,
        "reward/failed_rollouts": 9,
        "reward/num_prompts": 4,
        "reward/rollouts_per_prompt": 4,
        "reward/success_threshold": 1.0,
        "reward/pass_at_1": 7 / 16,
        "reward/pass_at_2": (0 + 3 / 6 + 5 / 6 + 1) / 4,
        "reward/pass_power_1": 7 / 16,
        "reward/pass_power_2": (0 + 0 + 1 / 6 + 1) / 4,
        "reward/min_within_groups": 1 / 4,
        "reward/max_within_groups": 3 / 4,
        "turns/mean": 1,
    }
    assert {name: found[f"eval/{name}"] for name in expected} == pytest.approx(expected)
    assert "eval/reward/pass_at_8" not in found
    assert sorted((trace["prompt"], trace["reward"]) for trace in traces) == sorted(
        (prompt, float(number < count)) for prompt, count in passes.items() for number in range(4)
    )
    assert {trace["phase"] for trace in traces} == {"evaluation"}
