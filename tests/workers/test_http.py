"""A worker over HTTP: what each route answers, and what it does to rollouts."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import ga_payload
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from aws_rft_sdk import LocalRuntime, rft_handler
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.types import RolloutResult
from aws_rft_sdk.workers.http import create_app

from .web import WAIT, Gate, until, worker_of


@pytest.fixture(scope="module")
def _runtime():
    with LocalRuntime() as runtime:
        yield runtime


@pytest.fixture
def runtime(_runtime):
    _runtime.reset()
    return _runtime


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def decorated(fn, **options):
    return rft_handler(require_turns=False, **options)(fn)


def echo(payload):
    return {"reward": 1.0, "prompt": payload["prompt"]}


def rewards(runtime):
    return [trajectory.rewards for trajectory in runtime.trajectories()]


# --- /rollout


def test_rollout_when_posted_then_it_is_answered_at_once_and_runs_in_the_background(runtime, gate):
    with worker_of(decorated(gate)) as worker:
        payload = runtime.new_rollout("p")
        answer = worker.post("/rollout", payload)

        assert answer.status_code == 202
        assert answer.json() == {
            "status": "accepted",
            "trajectoryId": payload["metadata"]["rolloutId"],
            "repeated": False,
        }
        gate.wait_for(1)
        assert rewards(runtime) == [None]
        gate.open.set()
        assert until(lambda: rewards(runtime) == [(1.0,)])
        assert worker.post("/rollout", payload).json()["repeated"] is True
    assert len(gate.runs) == 1


def test_rollout_when_a_hundred_deliveries_arrive_at_once_then_it_runs_once(runtime, gate):
    payload = runtime.new_rollout("p")
    with worker_of(decorated(gate), max_rollouts=1) as worker, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: worker.post("/rollout", payload), range(100)))
        gate.open.set()

    assert {answer.status_code for answer in answers} == {202}
    assert [answer.json()["repeated"] for answer in answers].count(False) == 1
    assert len(gate.runs) == 1


def test_rollout_when_all_slots_are_taken_then_429_says_when_to_come_back(runtime, gate):
    with worker_of(decorated(gate), max_rollouts=1) as worker:
        worker.post("/rollout", first := runtime.new_rollout("p"))
        answer = worker.post("/rollout", runtime.new_rollout("p"))

        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["errorType"] == "Throttled"
        assert worker.post("/rollout", first).status_code == 202
        assert worker.post("/invocations", {"prompt": "production"}).status_code == 429
        gate.open.set()


@pytest.mark.parametrize("path", ["/rollout", "/invocations"])
@pytest.mark.parametrize(
    ("payload", "field"),
    [
        pytest.param({"prompt": "p", "metadata": {"rolloutId": "t"}}, "metadata.jobArn", id="no job"),
        pytest.param(ga_payload(""), "metadata.rolloutId", id="empty id"),
        pytest.param(ga_payload("t", temperature="hot"), "inferenceParams.temperature", id="parameter"),
        pytest.param(ga_payload("t\ud800"), "metadata.rolloutId", id="lone surrogate"),
        pytest.param(ga_payload("t" * 300), "metadata.rolloutId", id="long id"),
        pytest.param({"metadata": {"job_arn": 5, "trajectory_id": "t"}}, "metadata.job_arn", id="a number"),
        pytest.param({**ga_payload("t"), "prompt": ""}, "prompt", id="empty prompt"),
    ],
)
def test_rollout_when_the_payload_is_malformed_then_400_names_the_field(path, payload, field):
    with worker_of(decorated(echo)) as worker:
        answer = worker.post(path, payload)

        assert answer.status_code == 400
        assert answer.json()["errorType"] == "ValidationError"
        assert answer.json()["field"] == field
        assert worker.pool.figures().started == 0


@pytest.mark.parametrize("payload", [{}, [], "text", 3, None, {"prompt": "p"}, {"metadata": 3}, {"body": "{"}])
def test_rollout_when_the_payload_is_no_rollout_then_400_names_metadata(payload):
    with worker_of(decorated(echo)) as worker:
        answer = worker.post("/rollout", payload)

    assert (answer.status_code, answer.json()["field"]) == (400, "metadata")


# --- GET /rollout/<id>


def about(worker, payload, **query):
    return worker.session.get(f"{worker.url}/rollout/{payload['metadata']['rolloutId']}", params=query, timeout=WAIT)


def test_rollout_when_asked_about_then_it_is_running_until_it_is_over(runtime, gate):
    with worker_of(decorated(gate)) as worker, ThreadPoolExecutor(1) as threads:
        worker.post("/rollout", payload := runtime.new_rollout("p"))
        gate.wait_for(1)
        running = about(worker, payload)
        waiting = threads.submit(about, worker, payload, wait=30)
        gate.open.set()
        over = waiting.result(WAIT)
        again = about(worker, payload, jobArn=payload["metadata"]["jobArn"])

    assert (running.status_code, running.json()["status"]) == (200, "running")
    seconds = over.json().pop("seconds")
    assert seconds > 0
    assert (
        over.json()
        == again.json()
        == {
            "status": "completed",
            "trajectoryId": payload["metadata"]["rolloutId"],
            "rewards": [1.0],
            "errorType": None,
            "errorMessage": None,
            "traceback": None,
            "failure": None,
            "metrics": {},
            "state": None,
            "turns": 0,
            "seconds": seconds,
            "unsureTurns": 0,
            "refusedCalls": 0,
            "foreignCalls": 0,
        }
    )


def test_rollout_when_it_failed_then_those_who_ask_learn_why(runtime):
    def handler(payload):
        if payload["prompt"] == "unreported":
            return {"reward": "much", "metrics": {"a": 1}}
        raise LookupError("the tool: no answer")

    with worker_of(decorated(handler, floor_reward=-1.0)) as worker:
        payloads = [runtime.new_rollout(prompt) for prompt in ("failed", "unreported")]
        for payload in payloads:
            worker.post("/invocations", payload)
        failed, unreported = (about(worker, payload).json() for payload in payloads)
        worker.post("/invocations", payloads[1])
        assert worker.pool.figures().started == 3  # what was not reported runs again

    told = ("status", "rewards", "failure", "errorType", "errorMessage")
    assert [failed[name] for name in told] == ["failed", [-1.0], "agent", "LookupError", "the tool: no answer"]
    assert [unreported[name] for name in told[:4]] == ["unreported", None, "reward", "RewardError"]


def test_rollout_when_hundreds_have_ended_since_then_it_is_still_told(runtime):
    def handler(payload):
        return {"reward": 1.0, "metrics": {"text": "x" * (10_000 if payload["prompt"] == "large" else 10)}}

    with worker_of(decorated(handler)) as worker:
        payloads = [runtime.new_rollout(prompt) for prompt in ("small", "large", *["p"] * 100)]
        for payload in payloads:
            worker.pool.submit(payload).ended.result(WAIT)
        small, large = (about(worker, payload).json() for payload in payloads[:2])

    assert (small["rewards"], small["metrics"]) == ([1.0], {"text": "x" * 10})
    assert (large["rewards"], large["metrics"]) == ([1.0], {})


def test_rollout_when_two_jobs_have_the_id_then_the_job_must_be_named(runtime):
    jobs = [f"arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/{name}" for name in ("one", "two")]
    with worker_of(decorated(lambda payload: float(payload["prompt"]))) as worker:
        payload = runtime.new_rollout("0.5", job_arn=jobs[0])
        other = {**payload, "prompt": "0.25", "metadata": {**payload["metadata"], "jobArn": jobs[1]}}
        for each in (payload, other):
            worker.post("/invocations", each)
        unclear = about(worker, payload)
        named = [about(worker, payload, jobArn=job).json()["rewards"] for job in jobs]

    assert (unclear.status_code, unclear.json()["field"]) == (400, "jobArn")
    assert named[0] == [0.5]


@pytest.mark.parametrize(
    ("path", "status", "error_type"),
    [
        ("/rollout/nobody-knows-it", 404, "NotFound"),
        ("/rollout/", 404, "NotFound"),
        ("/rollout/a/b%2Fc", 404, "NotFound"),
        ("/rollout/t?wait=long", 400, "ValidationError"),
        ("/rollout/t?wait=-1", 400, "ValidationError"),
        ("/rollout/t?wait=nan", 400, "ValidationError"),
    ],
)
def test_rollout_when_it_is_unknown_or_the_question_is_wrong_then_that_is_said(path, status, error_type):
    with worker_of(decorated(echo)) as worker:
        answer = worker.get(path)

    assert (answer.status_code, answer.json()["errorType"]) == (status, error_type)


def test_rollout_when_a_key_is_set_then_those_who_ask_need_it_too(runtime):
    with worker_of(decorated(echo), api_key="s3cret") as worker:
        key = {"Authorization": "Bearer s3cret"}
        worker.post("/invocations", payload := runtime.new_rollout("p"), headers=key)
        refused = about(worker, payload)
        worker.session.headers.update(key)
        assert about(worker, payload).json()["status"] == "completed"

    assert refused.status_code == 401


# --- /invocations, synchronous


def test_invocation_when_it_is_a_rollout_then_the_answer_is_the_handlers_result(runtime):
    with worker_of(decorated(echo)) as worker:
        answer = worker.post("/invocations", runtime.new_rollout("p"))

    assert (answer.status_code, answer.json()) == (200, {"reward": 1.0, "prompt": "p"})
    assert rewards(runtime) == [(1.0,)]


def test_invocation_when_delivered_again_then_it_waits_for_the_same_outcome(runtime, gate):
    payload = runtime.new_rollout("p")
    with worker_of(decorated(gate)) as worker, ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(worker.post, "/invocations", payload) for _ in range(8)]
        gate.wait_for(1)
        gate.open.set()
        answers = [future.result(WAIT).json() for future in waiting]
        answers.append(worker.post("/invocations", payload).json())

    assert answers == [{"reward": 1.0, "prompt": "p"}] * 9
    assert len(gate.runs) == 1


def test_invocation_when_the_caller_leaves_then_the_rollout_goes_on(runtime, gate):
    with worker_of(decorated(gate)) as worker:
        body = json.dumps(payload := runtime.new_rollout("p")).encode()
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        worker.raw(head + body, then_close=True)
        gate.wait_for(1)
        gate.open.set()
        assert worker.post("/invocations", payload).json()["reward"] == 1.0
    assert len(gate.runs) == 1


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        pytest.param(ValueError("no"), "agent", id="error"),
        pytest.param(SystemExit("no"), "agent", id="exit"),
        pytest.param(KeyboardInterrupt("no"), "infrastructure", id="interrupt"),
    ],
)
def test_invocation_when_the_handler_raises_and_it_was_reported_then_that_is_no_error_of_the_call(
    runtime, error, failure
):
    def handler(payload):
        raise error

    with worker_of(decorated(handler, floor_reward=-1.0)) as worker:
        payload = runtime.new_rollout("p")
        answer = worker.post("/invocations", payload)
        assert worker.get("/ping").status_code == 200

    assert answer.status_code == 200
    assert answer.json() == {
        "rewards": [-1.0],
        "errorType": type(error).__name__,
        "errorMessage": "no",
        "failure": failure,
        "trajectoryId": payload["metadata"]["rolloutId"],
    }


def test_invocation_when_nothing_could_be_reported_then_it_is_an_error(runtime):
    with worker_of(decorated(lambda payload: "no reward")) as worker:
        answer = worker.post("/invocations", runtime.new_rollout("p"))

    assert (answer.status_code, answer.json()["errorType"]) == (500, "RewardError")


def test_invocation_when_the_handler_hangs_then_the_deadline_ends_it(runtime, gate):
    with worker_of(decorated(gate), deadline_seconds=0.2) as worker:
        answer = worker.post("/invocations", runtime.new_rollout("p"))

        assert (answer.status_code, answer.json()["errorType"]) == (200, "RolloutTimeoutError")
        assert answer.json()["rewards"] == [0.0]
        assert worker.get("/health").json()["hung"] == 1
        gate.open.set()


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        pytest.param(RolloutResult(reward=0.5, metrics={"a": 1}), {"reward": 0.5, "metrics": {"a": 1}}, id="result"),
        pytest.param(RolloutResult(rewards=(0.5,)), {"rewards": [0.5]}, id="per turn"),
        pytest.param(0.5, 0.5, id="number"),
        pytest.param({"reward": 1, "extra": {1, 2}}, None, id="object"),
        pytest.param({"reward": 1, "nan": math.nan}, None, id="nan"),
        pytest.param({"reward": 1, "text": "\ud800"}, None, id="lone surrogate"),
    ],
)
def test_invocation_when_the_result_is_not_plain_json_then_something_readable_comes(runtime, result, shown):
    with worker_of(rft_handler(lambda payload: result, require_turns=False)) as worker:
        answer = worker.post("/invocations", runtime.new_rollout("p"))

    assert answer.status_code == 200
    assert shown in (None, answer.json())
    assert answer.json() is not None


# --- /invocations, asynchronous


def test_invocation_when_asynchronous_then_it_answers_at_once_and_the_ping_is_busy(runtime, gate):
    with worker_of(decorated(gate), invocations="async") as worker:
        idle = worker.get("/ping").json()
        answer = worker.post("/invocations", payload := runtime.new_rollout("p"))
        gate.wait_for(1)
        busy = worker.get("/ping").json()

        assert (answer.status_code, answer.json()["repeated"]) == (200, False)
        assert (idle["status"], busy["status"]) == ("Healthy", "HealthyBusy")
        # The time moves while it runs, and only then.
        assert until(lambda: worker.get("/ping").json()["time_of_last_update"] > busy["time_of_last_update"])
        assert worker.post("/invocations", payload).json()["repeated"] is True
        gate.open.set()
        assert until(lambda: worker.get("/ping").json()["status"] == "Healthy")
        at_rest = worker.get("/ping").json()
        assert not until(lambda: worker.get("/ping").json() != at_rest, rounds=15)


def test_invocation_when_asynchronous_and_no_rollout_then_the_result_comes_back():
    with worker_of(decorated(echo), invocations="async") as worker:
        assert worker.post("/invocations", {"prompt": "hello"}).json() == {"reward": 1.0, "prompt": "hello"}


# --- key, health, metrics, routes


@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param(None, 401, id="none"),
        pytest.param("Bearer wrong", 401, id="wrong"),
        pytest.param("Basic s3cret", 401, id="scheme"),
        pytest.param("Bearer s3cret", 202, id="right"),
        pytest.param("bearer s3cret", 202, id="lower case"),
        pytest.param("Bearer s3cre\xfe", 401, id="not ascii"),
    ],
)
def test_key_when_set_then_posts_need_it(runtime, header, status):
    with worker_of(decorated(echo), api_key="s3cret") as worker:
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        answer = worker.post("/rollout", runtime.new_rollout("p"), headers=headers)

        assert answer.status_code == status
        assert worker.get("/ping").status_code == 200
        assert "s3cret" not in repr(vars(worker.app)) + answer.text


@pytest.mark.parametrize("key", ["", " ", "a\nb", "key\n", " key", "schl\xfcssel"])
def test_key_when_it_cannot_be_sent_then_it_is_refused(key):
    with pytest.raises(ConfigurationError) as caught:
        create_app(echo, api_key=key)
    assert not key.strip() or key not in str(caught.value)


def test_health_when_rollouts_run_then_it_tells_and_while_draining_it_is_503(runtime, gate):
    with worker_of(decorated(gate), max_rollouts=3) as worker:
        worker.post("/rollout", runtime.new_rollout("p"))
        health = worker.get("/health")
        assert (health.status_code, health.json()["running"], health.json()["free"]) == (200, 1, 2)
        with ThreadPoolExecutor(1) as threads:
            drained = threads.submit(worker.pool.drain, WAIT)
            assert until(lambda: worker.get("/health").status_code == 503)
            assert worker.get("/health").json()["status"] == "draining"
            answer = worker.post("/rollout", runtime.new_rollout("p"))
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert worker.post("/invocations", {"prompt": "p"}).status_code == 503
            assert worker.get("/ping").json()["status"] == "HealthyBusy"
            gate.open.set()
            drained.result(WAIT)


def test_ping_when_hung_functions_hold_every_slot_then_the_process_is_to_be_replaced(runtime, gate):
    with worker_of(decorated(gate), max_rollouts=1, deadline_seconds=0.2) as worker:
        worker.post("/invocations", runtime.new_rollout("p"))
        assert worker.get("/ping").status_code == 503
        assert worker.get("/health").json()["status"] == "stuck"
        gate.open.set()
        assert until(lambda: worker.get("/ping").status_code == 200)


def test_ping_when_a_handler_blocks_its_loop_then_it_is_answered_all_the_same(runtime):
    blocked, go_on = threading.Event(), threading.Event()

    @rft_handler(require_turns=False)
    async def handler(payload):
        blocked.set()
        go_on.wait(WAIT)
        return 1.0

    with worker_of(handler) as worker:
        worker.post("/rollout", runtime.new_rollout("p"))
        assert blocked.wait(WAIT)
        assert worker.get("/ping").json()["status"] == "HealthyBusy"
        assert worker.post("/rollout", runtime.new_rollout("p")).status_code == 202
        go_on.set()


def test_metrics_when_asked_then_what_happened_is_counted(runtime):
    with worker_of(decorated(echo)) as worker:
        payload = runtime.new_rollout("p")
        worker.post("/invocations", payload)
        worker.post("/invocations", payload)
        worker.post("/rollout", b"{")
        text = worker.get("/metrics").text

    lines = text.splitlines()
    assert 'rft_worker_requests_total{path="/invocations",status="200"} 2.0' in lines
    assert 'rft_worker_requests_total{path="/rollout",status="400"} 1.0' in lines
    assert "rft_worker_rollouts_started_total 1.0" in lines
    assert "rft_worker_rollouts_repeated_total 1.0" in lines
    assert 'rft_worker_rollouts_ended_total{outcome="completed"} 1.0' in lines
    assert "rft_worker_rollout_seconds_count 1.0" in lines
    assert "rft_worker_free 96.0" in lines


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/rollout", 405),
        ("PUT", "/invocations", 405),
        ("POST", "/ping", 405),
        ("GET", "/", 404),
        ("POST", "/nope", 404),
    ],
)
def test_route_when_there_is_none_then_the_answer_is_an_error_in_the_same_form(method, path, status):
    with worker_of(decorated(echo)) as worker:
        answer = worker.session.request(method, worker.url + path, timeout=WAIT)

    assert answer.status_code == status
    assert set(answer.json()) == {"errorType", "errorMessage"}


@pytest.mark.parametrize("path", ["/rollout", "/invocations"])
def test_app_when_nobody_runs_its_lifespan_then_rollouts_run_all_the_same(runtime, path):
    app = Starlette(routes=[Mount("/rft", create_app(decorated(echo)))])  # whose lifespan is not the inner one's
    with TestClient(app) as client:
        assert client.post(f"/rft{path}", json=runtime.new_rollout("p")).is_success
        assert client.post("/rft/invocations", json={"prompt": "hello"}).json()["prompt"] == "hello"
    assert until(lambda: rewards(runtime) == [(1.0,)])


def test_app_when_its_lifespan_runs_again_then_it_serves_again(runtime):
    app = create_app(decorated(echo))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.post("/invocations", json=runtime.new_rollout("p")).status_code == 200
    assert rewards(runtime) == [(1.0,), (1.0,)]


@pytest.mark.parametrize(
    "options",
    [
        *({"grace_seconds": value} for value in (0, float("inf"), "5")),
        *({"deadline_seconds": value} for value in (float("nan"), -1, True)),
        *({"invocations": "later"}, {"max_payload_bytes": 0}, {"read_seconds": -1.0}),
    ],
    ids=str,
)
def test_app_when_an_argument_makes_no_sense_then_it_is_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        create_app(echo, **options)
