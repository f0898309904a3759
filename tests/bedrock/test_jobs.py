"""Jobs really run: files, graders, cancelling, learning, and a server that dies in the middle."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter as Counts
from pathlib import Path

import openai
import pytest

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import Fault, Faults, LocalBedrock, LocalRuntime, Policy, PolicyError, Update, UpstreamPolicy
from aws_rft_sdk.runtime.chat import read_answer
from tests.bedrock.bedrock_parts import (
    ARN,
    MODEL,
    client_of,
    create,
    ended,
    events,
    grader,
    guess,
    jsonl,
    metrics,
    rows,
    score,
    upload,
    wait_until,
)

LOCAL = functools.partial(LocalBedrock, functions={"gsm8k": grader})


def run(content=None, policy=guess, **options):
    """Return the ended job of a server of its own, and the data of its metrics events."""
    job_options = {
        name: options.pop(name) for name in ("hyperparameters", "seed", "validation_file") if name in options
    }
    with LOCAL(policy, **options) as server, client_of(server) as client:
        job = create(client, content, **job_options)
        return ended(client, job), metrics(client, job)


@pytest.mark.parametrize(
    ("count", "n_epochs", "batch_size", "steps"),
    [(100, 1, 4, 25), (101, 1, 4, 26), (100, 2, 30, 8), (100, 1, 1000, 1), (268, 1, 4, 67)],
)
def test_job_when_it_runs_then_each_epoch_takes_rows_by_batch_size_steps(count, n_epochs, batch_size, steps):
    seen = []
    lock = threading.Lock()

    def counting(request):
        with lock:
            seen.append(json.dumps(request["messages"]))
        return guess(request)

    job, data = run(
        jsonl(rows(count)), counting, group=3, hyperparameters={"n_epochs": n_epochs, "batch_size": batch_size}
    )

    assert job["status"] == "succeeded"
    assert [item["step"] for item in data] == list(range(1, steps + 1))
    assert {seen.count(prompt) for prompt in set(seen)} == {3 * n_epochs}
    assert len(set(seen)) == count


class ByTrajectory(Policy):
    """Draws by the id of the trajectory, as policies do that learn."""

    async def answer(self, call):
        return read_answer(guess({"seed": call.trajectory_id}), call.request)


@pytest.mark.parametrize("policy", [guess, ByTrajectory()], ids=["by the request's seed", "by trajectory"])
def test_job_when_run_again_then_it_is_the_same_and_another_seed_is_not(policy):
    first, again, other = run(policy=policy)[1], run(policy=policy)[1], run(policy=policy, seed=7)[1]

    assert first == again
    assert first != other


def bad(number, line):
    return jsonl(rows()).replace(json.dumps(rows()[number]).encode(), line)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (jsonl(rows(99)), "99 rows"),
        (jsonl(rows(1)) + b"\n" * 2, "line 2: the line is empty"),
        (jsonl(rows(20_001)), "20001 rows"),
        (b"\xff" * 100, "not UTF-8"),
        (bad(3, b"{"), "line 4: no JSON"),
        (bad(3, b"[]"), "line 4: a list"),
        (bad(3, b'{"prompt": "a"}'), "line 4: messages"),
        (bad(3, b'{"messages": []}'), "line 4: messages"),
        (bad(3, b'{"messages": ["a"]}'), "line 4: messages[0] is not an object"),
        (bad(3, b'{"messages": [{"role": "tool", "content": "a"}]}'), "line 4: messages[0].role"),
        (bad(3, b'{"messages": [{"role": "user", "content": null}]}'), "line 4: messages[0].content"),
        (
            bad(3, b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}'),
            "line 4: messages[0].content",
        ),
        (bad(3, b'{"messages": [{"role": "user", "content": "a"}], "x": NaN}'), "line 4: no JSON"),
        (bad(3, b'{"messages": [{"role": "user", "content": "a"}], "x": 1e400}'), "line 4: no JSON"),
    ],
)
def test_job_when_the_file_is_bad_then_it_fails_and_names_the_line(content, text):
    job, data = run(content)

    assert (job["status"], job["fine_tuned_model"], data) == ("failed", None, [])
    assert (job["error"]["code"], job["error"]["param"]) == ("invalid_training_file", "training_file")
    assert text in job["error"]["message"]


def test_job_when_the_validation_file_is_bad_then_it_fails():
    with LOCAL(guess) as server, client_of(server) as client:
        job = ended(client, create(client, validation_file=upload(client, b"{}").id))

    assert (job["status"], job["error"]["param"]) == ("failed", "validation_file")


def with_first(change):
    """Return a grader whose first result is changed."""

    def changed(event, context):
        results = grader(event, context)
        results[0] = change(results[0])
        return results

    return changed


def raising(event, context):
    raise KeyError("reference_answer")


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (raising, "failed 4 times in a row, at last with KeyError: 'reference_answer'"),
        (lambda event, context: {"statusCode": 200, "body": "[]"}, "JSON object; it must be a list"),
        (lambda event, context: None, "JSON null"),
        (lambda event, context: grader(event, context)[1:], "31 results for 32 samples"),
        (lambda event, context: [], "0 results"),
        (lambda event, context: grader(event, context)[::-1], "has the id"),
        (with_first(lambda result: 1.0), "result 0 of the grader's reply is a JSON number"),
        (with_first(lambda result: {"aggregate_reward_score": 1.0}), "has the id None"),
        *(
            (with_first(lambda result, value=value: {**result, "aggregate_reward_score": value}), "finite number")
            for value in (float("nan"), float("inf"), True, "1", None)
        ),
        (with_first(lambda result: {**result, "metrics_list": {}}), "metrics_list"),
        *(
            (with_first(lambda result, item=item: {**result, "metrics_list": [item]}), text)
            for item, text in (
                ({"name": "a", "value": 1, "type": "reward"}, "type 'reward'"),
                ({"name": "a", "value": "1", "type": "Metric"}, "the metric a of"),
            )
        ),
    ],
)
def test_job_when_the_grader_is_no_use_then_it_fails_and_says_why(handler, text):
    with LocalBedrock(guess, functions={ARN: handler}) as server, client_of(server) as client:
        job = create(client, hyperparameters={"batch_size": 4})
        failed = ended(client, job)
        said = events(client, job)

    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "grader_error"
    assert text in failed["error"]["message"]
    assert said[-1].level == "error"


def test_job_when_there_is_no_such_function_then_it_fails():
    with LocalBedrock(guess) as server, client_of(server) as client:
        assert "Function not found" in ended(client, create(client))["error"]["message"]


def test_job_when_the_grader_fails_three_times_then_the_fourth_call_counts():
    calls = itertools.count()

    def flaky(event, context):
        if next(calls) < 3:
            raise TimeoutError("the judge is busy")
        return grader(event, context)

    assert run(functions={ARN: flaky})[1] == run()[1]


def test_grader_when_a_step_is_large_then_it_is_called_in_batches_of_at_most_64_samples():
    sizes = []

    def counting(event, context):
        sizes.append(len(event))
        return grader(event, context)

    job, data = run(functions={ARN: counting}, hyperparameters={"batch_size": 100})

    assert job["status"] == "succeeded"
    assert sorted(sizes) == [800 % 64, *[64] * (800 // 64)]
    assert data[0]["critic_rewards_mean"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("form", "reference", "expected"),
    [
        ("metadata", "1", {"metadata": {"reference_answer": "1", "level": 2}}),
        ("top_level", "1", {"reference_answer": "1", "level": 2}),
        ("text", "1", {"reference_answer": {"text": "1"}, "level": 2}),
        ("text", {"n": 1}, {"reference_answer": {"n": 1}, "level": 2}),
    ],
)
def test_grader_when_it_is_called_then_it_gets_the_documented_event(form, reference, expected):
    seen = []
    parts = [{"type": "text", "text": "1 mod 2?"}]
    row = {"id": "r", "messages": [{"role": "user", "content": parts}], "reference_answer": reference, "level": 2}

    def keeping(event, context):
        seen.extend(event)
        return [{"id": item["id"], "aggregate_reward_score": 1} for item in event]

    job, _ = run(jsonl([row] * 100), functions={ARN: keeping}, grader_input=form, group=2)

    answer = {"role": "assistant", "content": seen[0]["messages"][-1]["content"]}
    assert job["status"] == "succeeded"
    assert {key: value for key, value in seen[0].items() if key not in ("id", "messages")} == expected
    assert seen[0]["messages"] == [*row["messages"], answer]
    assert [item["id"] for item in seen[:2]] == ["r-0", "r-1"]


@pytest.mark.parametrize(
    ("policy", "text"),
    [(lambda request: 3, "answer"), (lambda request: 1 / 0, "ZeroDivisionError"), (None, "no policy")],
)
def test_job_when_nobody_answers_then_it_fails(policy, text):
    job, _ = run(policy=policy)

    assert (job["status"], job["error"]["code"]) == ("failed", "server_error")
    assert text in job["error"]["message"]


@pytest.mark.parametrize(("refusals", "status"), [(3, "succeeded"), (100, "failed")])
def test_job_when_the_policy_is_busy_then_it_is_asked_again_a_few_times(refusals, status, monkeypatch):
    monkeypatch.setattr("aws_rft_sdk.runtime.bedrock.training._BACKOFF", Backoff(base_seconds=1000))
    asked = Counts()

    def busy(request):
        asked[request["seed"]] += 1
        if asked[request["seed"]] <= refusals:
            raise PolicyError("too many tokens", status=(429, 503)[refusals % 2], retry_after_seconds=0)
        return guess(request)

    job, data = run(policy=busy, group=1)

    assert job["status"] == status
    assert max(asked.values()) == (4 if status == "succeeded" else 6)
    assert status == "succeeded" or "too many tokens" in job["error"]["message"]
    assert status == "failed" or data == run(group=1)[1]


def test_job_when_the_policy_is_another_server_then_its_answers_are_sampled():
    with LocalRuntime(guess, strict=False) as upstream:
        job, _ = run(policy=UpstreamPolicy(f"{upstream.endpoint}/v1"), group=1)

    assert job["status"] == "succeeded"


# --- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["policy", "grader"])
def test_cancel_when_a_step_hangs_then_the_job_ends_at_once_and_stays_so(where):
    hangs, go_on = threading.Event(), threading.Event()

    def hang(name):
        if name == where:
            hangs.set()
            go_on.wait(30)

    def policy(request):
        hang("policy")
        return guess(request)

    def grading(event, context):
        hang("grader")
        return grader(event, context)

    with LocalBedrock(policy, functions={ARN: grading}) as server, client_of(server) as client:
        job = create(client)
        assert hangs.wait(30)
        cancelled = client.fine_tuning.jobs.cancel(job.id)
        go_on.set()
        again = client.fine_tuning.jobs.cancel(job.id)
        server.restart()
        after = client.fine_tuning.jobs.retrieve(job.id)
        said = events(client, job)

    assert cancelled.status == "cancelled"
    assert cancelled == again == after
    assert after.finished_at
    assert after.fine_tuned_model is None
    assert "cancelled" in said[-1].message
    assert not [event for event in said if event.type == "metrics"]


def test_stop_when_the_grader_hangs_then_it_is_not_called_again_and_no_thread_keeps_the_process_alive():
    began, go_on = threading.Event(), threading.Event()
    calls = []

    def stuck(event, context):
        calls.append(len(event))
        began.set()
        go_on.wait(30)
        raise TimeoutError("too late")

    with LocalBedrock(guess, functions={ARN: stuck}, group=1) as server, client_of(server) as client:
        before = set(threading.enumerate())
        create(client)
        assert began.wait(30)
        new = set(threading.enumerate()) - before
    go_on.set()

    assert new
    assert all(thread.daemon for thread in new)
    for thread in new:
        thread.join(10)
    assert calls == [10]


def test_cancel_when_the_job_has_ended_then_it_is_refused():
    with LOCAL(guess) as server, client_of(server) as client:
        job = create(client)
        ended(client, job)
        with pytest.raises(openai.BadRequestError, match="succeeded"):
            client.fine_tuning.jobs.cancel(job.id)


def test_job_when_its_file_is_deleted_meanwhile_then_it_goes_on():
    gate = threading.Event()

    def waiting(request):
        gate.wait(30)
        return guess(request)

    with LOCAL(waiting) as server, client_of(server) as client:
        job = create(client)
        client.files.delete(job.training_file)
        server.restart()
        gate.set()
        assert ended(client, job)["status"] == "succeeded"


# --- learning --------------------------------------------------------------------------------------------------------


class Counter:
    """Learns to answer right after as many steps as asked. Its state is the number of steps."""

    def __init__(self, at=5):
        self.at = at
        self.steps = []

    def policy(self, state):
        learnt = int(state or b"0") >= self.at
        return lambda request: f"#### {int(request['messages'][-1]['content'].split()[0]) % 2}" if learnt else "#### no"

    def step(self, state, step):
        self.steps.append(step)
        return Update(b"%d" % (int(state or b"0") + 1), {"entropy": 0.5, "grad_norm": 2.0, "kl": 0.1})


def test_trainer_when_it_learns_then_curve_checkpoints_and_tuned_model_show_it():
    trainer = Counter()
    with LOCAL(trainer=trainer) as server, client_of(server) as client:
        job = create(client)
        tuned = ended(client, job)["fine_tuned_model"]
        data = metrics(client, job)
        checkpoints = [item.fine_tuned_model_checkpoint for item in client.fine_tuning.jobs.checkpoints.list(job.id)]
        answers = [
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "3 mod 2?"}])
            .choices[0]
            .message.content
            for model in (MODEL, *checkpoints, tuned)
        ]

    assert [item["critic_rewards_mean"] for item in data] == [0.0] * 5 + [1.0] * 5
    assert {(item["actor_entropy"], item["actor_pg_loss"], item["kl"]) for item in data} == {(0.5, None, 0.1)}
    assert answers == ["#### no", "#### no", *["#### 1"] * 4]
    assert [len(step.groups) for step in trainer.steps] == [10] * 10


def test_trainer_when_it_gets_a_step_then_advantages_are_normalised_within_each_group():
    class Watching(Counter):
        def policy(self, state):
            return guess

    trainer = Watching()
    with LOCAL(trainer=trainer, group=4) as server, client_of(server) as client:
        ended(client, create(client, hyperparameters={"batch_size": 50, "learning_rate_multiplier": 0.5}))

    for step in trainer.steps:
        assert (step.total_steps, step.hyperparameters["learning_rate_multiplier"]) == (2, 0.5)
        for group in step.groups:
            rewards = [sample.reward for sample in group.samples]
            advantages = [sample.advantage for sample in group.samples]
            assert sum(advantages) == pytest.approx(0, abs=1e-6)
            assert sorted(rewards) == [r for _, r in sorted(zip(advantages, rewards, strict=True))]
            assert (set(advantages) == {0.0}) == (len(set(rewards)) == 1)
            shown = {"messages": [*group.row["messages"], group.samples[0].message], "metadata": group.row}
            assert score(shown) == rewards[0]


@pytest.mark.parametrize("metric", [float("nan"), "high"])
def test_trainer_when_its_figures_are_none_then_the_job_fails(metric):
    class Odd(Counter):
        def step(self, state, step):
            return Update(b"", {"entropy": metric})

    with LOCAL(trainer=Odd()) as server, client_of(server) as client:
        assert ended(client, create(client))["status"] == "failed"


# --- interruptions ---------------------------------------------------------------------------------------------------


def wait_for_steps(client, job, count):
    wait_until(lambda: len(metrics(client, job)) >= count)


def test_restart_when_a_job_runs_then_it_goes_on_with_each_step_once():
    expected = [event.data for event in undisturbed()]
    with LOCAL(slow_guess) as server, client_of(server, max_retries=5) as client:
        job = create(client)
        for steps in (2, 5, 8):
            wait_for_steps(client, job, steps)
            before = events(client, job)
            server.restart()
            assert events(client, job)[: len(before)] == before
        assert ended(client, job)["status"] == "succeeded"
        assert metrics(client, job) == expected
        assert len(list(client.fine_tuning.jobs.checkpoints.list(job.id))) == 4


def undisturbed():
    with LOCAL(guess) as server, client_of(server) as client:
        job = create(client)
        ended(client, job)
        return [event for event in events(client, job) if event.type == "metrics"]


def slow_guess(request):
    threading.Event().wait(0.005)
    return guess(request)


SERVER = """
import sys
from aws_rft_sdk.runtime import LocalBedrock
from tests.bedrock.bedrock_parts import grader
from tests.bedrock.test_jobs import slow_guess
server = LocalBedrock(slow_guess, functions={"gsm8k": grader}, db=sys.argv[1])
server.serve_forever(lambda: print(server.endpoint, flush=True))
"""


def test_kill_when_a_job_runs_then_another_server_with_its_database_ends_it(tmp_path):
    db = tmp_path / "bedrock.db"
    command = [sys.executable, "-W", "ignore", "-c", SERVER, str(db)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        endpoint = process.stdout.readline().strip()
        client = openai.OpenAI(base_url=f"{endpoint}/v1", api_key="any")
        job = create(client)
        wait_for_steps(client, job, 3)
        before = events(client, job)
        with pytest.raises(ConfigurationError, match="another server"):
            LOCAL(guess, db=db).start()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    with LOCAL(guess, db=db) as server, client_of(server) as client:
        assert ended(client, job)["status"] == "succeeded"
        after = events(client, job)

    assert after[: len(before)] == before
    assert [event.data for event in after if event.type == "metrics"] == [event.data for event in undisturbed()]


def test_db_when_the_disk_is_full_then_the_job_waits_and_goes_on_after_a_restart(caplog):
    entered, go_on = threading.Event(), threading.Event()

    def waiting(request):
        entered.set()
        go_on.wait(30)
        return guess(request)

    with LOCAL(waiting) as server, client_of(server) as client:
        job = create(client)
        assert entered.wait(30)
        store = server._serving.store
        with store.transaction() as db:
            pages = db.execute("PRAGMA max_page_count = 1").fetchone()[0]  # SQLite takes the pages that it has
        with pytest.raises(openai.InternalServerError, match="full"):
            upload(client, b"x" * 100_000)
        go_on.set()
        wait_until(lambda: "the next server goes on with the job" in caplog.text)
        assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
        with store.transaction() as db:
            assert pages < db.execute("PRAGMA max_page_count = 1000000").fetchone()[0]
        server.restart()
        assert ended(client, job)["status"] == "succeeded"
        assert metrics(client, job) == [event.data for event in undisturbed()]


def test_db_when_it_is_another_file_then_it_is_refused(tmp_path):
    other = tmp_path / "runtime.db"
    with LocalRuntime(guess, db=other):
        pass

    for db in (other, tmp_path / "none" / "bedrock.db"):
        with pytest.raises(ConfigurationError, match="db"):
            LocalBedrock(guess, db=db).start()


def test_faults_when_a_fifth_of_the_answers_is_bad_then_a_patient_client_gets_the_same_job():
    faults = Faults(
        Fault("status", probability=0.1, status=503), Fault("reset", probability=0.05), Fault("cut", probability=0.05)
    )
    with LOCAL(slow_guess, faults=faults) as server, client_of(server, max_retries=9) as client:
        job = create(client)
        wait_for_steps(client, job, 3)
        server.restart()
        assert ended(client, job)["status"] == "succeeded"
        assert metrics(client, job) == [event.data for event in undisturbed()]

    assert sum(faults.injected.values()) >= 2
    assert {route for route, _ in faults.injected} <= {"files", "jobs"}


@pytest.mark.parametrize("route", ["files", "jobs", "functions", "inference"])
def test_faults_when_they_name_a_route_then_only_its_calls_are_struck(route):
    with LOCAL(guess, faults=Faults(Fault("status", route, status=429))) as server, client_of(server) as client:
        calls = {
            "files": client.files.list,
            "jobs": client.fine_tuning.jobs.list,
            "inference": lambda: client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "1 mod 2?"}]
            ),
        }
        for name, call in calls.items():
            if name == route:
                with pytest.raises(openai.RateLimitError):
                    call()
            else:
                call()


def test_die_when_a_fault_kills_the_server_then_a_restart_brings_it_back():
    fault = Fault("die", "files", attempts=(2,))
    with LOCAL(slow_guess, faults=Faults(fault)) as server, client_of(server) as client:
        job = create(client)
        with pytest.raises(openai.APIConnectionError):
            client.files.list()
        with pytest.raises(openai.APIConnectionError):
            client.fine_tuning.jobs.list()
        server.restart()
        assert ended(client, job)["status"] == "succeeded"
        assert metrics(client, job) == [event.data for event in undisturbed()]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"auth": "bearer"}, "auth"),
        ({"group": 0}, "group"),
        ({"grader_input": "body"}, "grader_input"),
        ({"functions": {"no name!": grader}}, "functions"),
        ({"functions": {"gsm8k": "grader.py"}}, "functions"),
        ({"faults": [Fault("reset")]}, "faults"),
        ({"function_timeout_seconds": 901}, "function_timeout_seconds"),
        ({"db": 3}, "db"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_argument_when_it_is_wrong_then_the_error_names_it(options, name):
    with pytest.raises(ConfigurationError, match=name):
        LocalBedrock(guess, **options)


def test_policy_error_when_a_policy_refuses_then_its_status_is_answered():
    def refusing(request):
        raise PolicyError("too many tokens", status=429, retry_after_seconds=3)

    with (
        LOCAL(refusing) as server,
        client_of(server) as client,
        pytest.raises(openai.RateLimitError, match="too many tokens") as refused,
    ):
        client.responses.create(model=MODEL, input="1 mod 2?")

    assert refused.value.response.headers["retry-after"] == "3"
