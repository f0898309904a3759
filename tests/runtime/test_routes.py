"""What goes over the wire: decoding, tracking, answers, errors, repetitions, concurrency."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aws_rft_sdk.errors import PayloadError, TrajectoryNotFoundError
from aws_rft_sdk.runtime import LocalRuntime, PolicyError
from aws_rft_sdk.types import InferenceParams, TrajectoryStatus

from .conftest import echo, ids, tracking

ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/one"


def test_rollout_when_played_in_alpha_then_recorded_and_rewarded(runtime, wire):
    payload = runtime.new_rollout("p", job_arn=ARN)
    assert wire.chat(payload, path="/sample", span="s1").json()["choices"][0]["message"]["content"] == "HELLO"
    assert wire.post("/CompleteTrajectory", ids(payload)).status_code == 200
    assert wire.post("/UpdateReward", {**ids(payload), "Rewards": [0.5]}).status_code == 200
    trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])
    assert trajectory.status is TrajectoryStatus.REWARD_RECEIVED
    assert trajectory.rewards == (0.5,)
    assert trajectory.prompt == "p"
    assert trajectory.messages == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "HELLO"},
    ]
    turn = trajectory.turns[0]
    assert (turn.index, turn.span_id, turn.usage) == (0, "s1", None)
    assert turn.seconds >= 0
    assert runtime.problems() == []


def test_payload_when_parameters_come_in_any_spelling_then_ga(runtime):
    expected = {"temperature": 0.5, "topP": 0.9, "maxTokens": 7}
    for given in ({"temperature": 0.5, "top_p": 0.9, "max_tokens": 7}, expected, InferenceParams(0.5, 0.9, 7)):
        payload = runtime.new_rollout("p", inference_params=given)
        assert payload["inferenceParams"] == expected
    assert set(payload["metadata"]) == {"jobArn", "rolloutId", "endpoint", "region"}
    assert "inferenceParams" not in runtime.new_rollout("p")
    with pytest.raises(PayloadError):
        runtime.new_rollout("p", inference_params={"topP": 2})
    with pytest.raises(PayloadError):
        runtime.new_rollout("p", job_arn="nonsense")
    with pytest.raises(PayloadError):
        runtime.new_rollout({"a": float("nan")})


@pytest.mark.parametrize("path", ["/sample", "/sample-with-response-stream", "/v1/chat/completions", "/v1/responses"])
def test_inference_when_headers_are_missing_then_400_names_them_and_counts(runtime, wire, path):
    answer = wire.post(path, {"messages": [{"role": "user", "content": "x"}], "input": "x"})
    assert answer.status_code == 400
    assert "X-Rft-Job-Arn" in answer.json()["Message"]
    assert "X-Amzn-SageMaker-Trajectory-Id" in answer.json()["error"]["message"]
    assert answer.headers["x-amzn-ErrorType"] == "ValidationException"
    assert answer.headers["x-amzn-RequestId"]
    assert runtime.untracked_calls == 1


def test_inference_when_both_generations_agree_then_answered(runtime, wire):
    payload = runtime.new_rollout("p")
    ga = {
        "X-Amzn-SageMaker-Job-Arn": payload["metadata"]["jobArn"],
        "X-Amzn-SageMaker-Trajectory-Id": payload["metadata"]["rolloutId"],
    }
    assert wire.chat(payload, headers=ga).status_code == 200
    body = {"messages": [{"role": "user", "content": "x"}]}
    assert wire.post("/sample", body, ga).status_code == 200
    assert wire.chat(payload, headers={"X-Amzn-SageMaker-Trajectory-Id": "other"}).status_code == 400
    assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"{", "JSON", id="not-json"),
        pytest.param(b"\xff\xfe\x00", "JSON", id="not-utf8"),
        pytest.param(b"[" * 100_000, "JSON", id="too-deep"),
        pytest.param(b"[]", "object", id="no-object"),
        pytest.param({}, "messages", id="no-messages"),
        pytest.param({"messages": []}, "messages", id="empty"),
        pytest.param({"messages": "x"}, "messages", id="text"),
        pytest.param({"messages": [1]}, "messages[0]", id="number"),
        pytest.param({"messages": [{}], "stream": "yes"}, "stream", id="stream"),
    ],
)
def test_inference_when_the_body_is_malformed_then_400_names_the_field(runtime, wire, body, field):
    payload = runtime.new_rollout("p")
    answer = wire.post("/sample", body, tracking(payload))
    assert answer.status_code == 400
    assert field in answer.json()["Message"]
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns == ()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"Rewards": None}, "Rewards"),
        ({"Rewards": 1.0}, "Rewards"),
        ({"Rewards": []}, "Rewards"),
        ({"Rewards": [True]}, "Rewards[0]"),
        ({"Rewards": [0.5, "1"]}, "Rewards[1]"),
        ({"Rewards": [float("nan")]}, "Rewards[0]"),
        ({"Rewards": [float("inf")]}, "Rewards[0]"),
        ({"Rewards": [10**400]}, "Rewards[0]"),
        ({"Rewards": [1.0, 2.0]}, "Rewards has 2 numbers"),
        ({"JobArn": None}, "JobArn"),
        ({"JobArn": 5}, "JobArn"),
        ({"JobArn": "nonsense"}, "JobArn"),
        ({"TrajectoryId": None}, "TrajectoryId"),
        ({"TrajectoryId": ""}, "TrajectoryId"),
        ({"TrajectoryId": "x" * 257}, "TrajectoryId"),
        ({"TrajectoryId": "a\nb"}, "TrajectoryId"),
        ({"ClientToken": 5}, "ClientToken"),
    ],
)
@pytest.mark.parametrize("path", ["/UpdateReward", "/update-reward"])
def test_reward_when_malformed_then_400_names_the_field(runtime, wire, changes, text, path):
    payload = runtime.new_rollout("p")
    assert wire.complete(payload).status_code == 200
    answer = wire.post(path, {**ids(payload), "Rewards": [1.0], **changes})
    assert answer.status_code == 400, answer.text
    assert text in answer.json()["Message"]
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).status is TrajectoryStatus.READY


def test_feedback_when_the_arn_is_in_the_header_only_then_accepted(runtime, wire):
    payload = runtime.new_rollout("p")
    arn, body = payload["metadata"]["jobArn"], {"TrajectoryId": payload["metadata"]["rolloutId"]}
    other = {"X-Rft-Job-Arn": ARN}
    assert wire.post("/complete-rollout", {**ids(payload)}, other).status_code == 400
    assert wire.post("/complete-rollout", body, {**other, "X-Amzn-SageMaker-Job-Arn": arn}).status_code == 400
    assert wire.post("/complete-rollout", body, {"X-Amzn-SageMaker-Job-Arn": arn}).status_code == 200
    assert wire.post("/UpdateReward", {**body, "Rewards": [1]}, {"X-Rft-Job-Arn": arn}).status_code == 200


def test_feedback_when_it_has_unknown_fields_then_accepted(runtime, wire):
    payload = runtime.new_rollout("p")
    assert wire.complete(payload, Reason="done").status_code == 200
    assert wire.reward(payload, Comment=None).status_code == 200


def test_feedback_when_status_is_unknown_or_not_of_the_generation_then_400(runtime, wire):
    payload = runtime.new_rollout("p")
    assert wire.complete(payload, Status="READY").status_code == 400
    assert wire.complete(payload, Status=1).status_code == 400
    assert wire.post("/CompleteTrajectory", {**ids(payload), "Status": "failed"}).status_code == 400
    assert wire.complete(payload, Status="failed").status_code == 200
    conflict = wire.reward(payload)
    assert conflict.status_code == 409
    assert conflict.headers["x-amzn-ErrorType"] == "ConflictException"


def test_feedback_when_repeated_with_its_token_then_200_and_without_409(runtime, wire):
    payload = runtime.new_rollout("p")
    assert [wire.complete(payload, ClientToken="a").status_code for _ in range(3)] == [200] * 3
    assert wire.complete(payload, ClientToken="b").status_code == 409
    assert wire.complete(payload, ClientToken="a", Status="failed").status_code == 400
    assert [wire.reward(payload, ClientToken="r").status_code for _ in range(2)] == [200] * 2
    assert wire.reward(payload, [0.0], ClientToken="r").status_code == 400
    assert wire.reward(payload).status_code == 409
    assert wire.complete(payload, ClientToken="a").status_code == 200
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).rewards == (1.0,)


OWN_OTHER = "arn:aws:sagemaker:us-west-2:000000000000:job/AgentRFT/another"
FOREIGN = "arn:aws:sagemaker:us-west-2:999999999999:job/AgentRFT/local"


@pytest.mark.parametrize("generation", ["alpha", "ga"])
@pytest.mark.parametrize(
    ("changes", "sampling", "feedback"),
    [
        pytest.param({"rolloutId": "unknown"}, 404, 404, id="trajectory-unknown"),
        pytest.param({"jobArn": OWN_OTHER}, 400, 404, id="job-of-its-own-unknown"),
        pytest.param({"jobArn": FOREIGN}, 403, 403, id="job-of-another-account"),
        pytest.param({"jobArn": FOREIGN, "rolloutId": "unknown"}, 403, 403, id="account-before-existence"),
    ],
)
def test_job_when_foreign_or_unknown_then_the_statuses_seen_live(open_wire, generation, changes, sampling, feedback):
    with LocalRuntime(echo, auth="none") as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        other = {"metadata": {**payload["metadata"], **changes}}
        arn, trajectory = other["metadata"]["jobArn"], other["metadata"]["rolloutId"]
        ga = {"X-Amzn-SageMaker-Job-Arn": arn, "X-Amzn-SageMaker-Trajectory-Id": trajectory}
        headers = tracking(other) if generation == "alpha" else ga
        paths = {"alpha": ("/CompleteTrajectory", "/UpdateReward"), "ga": ("/complete-rollout", "/update-reward")}
        body = {"messages": [{"role": "user", "content": "x"}], "input": "x"}
        codes = {400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException"}
        for path in ("/sample", "/sample-with-response-stream", "/v1/chat/completions", "/v1/responses"):
            answer = wire.post(path, body, headers)
            assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (sampling, codes[sampling])
        for path in paths[generation]:
            answer = wire.post(path, {**ids(other), "Rewards": [1.0]})
            assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (feedback, codes[feedback])
        assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns == ()
        with pytest.raises(TrajectoryNotFoundError):
            runtime.trajectory("unknown")


def test_job_when_it_has_a_trajectory_then_its_account_is_one_of_the_runtimes(open_wire, tmp_path):
    with LocalRuntime(echo, auth="none", db=tmp_path / "a.db") as runtime:
        payload = runtime.new_rollout("p", job_arn=FOREIGN)
    with LocalRuntime(echo, auth="none", db=tmp_path / "a.db") as runtime:
        wire, mine = open_wire(runtime), runtime.new_rollout("p")
        assert wire.chat(payload).status_code == 200
        unknown = {"metadata": {**payload["metadata"], "jobArn": FOREIGN + "-other"}}
        answer = wire.chat(unknown)
        assert (answer.status_code, "Could not find job" in answer.json()["Message"]) == (400, True)
        # Two known jobs, and the trajectory of one under the name of the other.
        swapped = {"metadata": {**payload["metadata"], "rolloutId": mine["metadata"]["rolloutId"]}}
        assert wire.chat(swapped).status_code == 404
        assert wire.complete(swapped).status_code == 404


@pytest.mark.parametrize("path", ["/sample", "/sample-with-response-stream", "/v1/chat/completions", "/v1/responses"])
def test_inference_when_sealed_then_400_as_sampling_knows_no_conflict_and_nothing_recorded(runtime, wire, path):
    payload = runtime.new_rollout("p")
    wire.complete(payload)
    answer = wire.chat(payload, path=path, input="x")
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (400, "ValidationException")
    assert "not in valid status" in answer.json()["Message"]
    assert {problem.kind for problem in runtime.problems()} == {"unrewarded", "no-turns"}


def test_turn_when_repeated_under_its_span_then_answered_from_the_record(runtime, wire):
    calls = []

    def count(request):
        calls.append(request)
        return f"answer {len(calls)}"

    runtime.policy = count
    payload = runtime.new_rollout("p")
    first = wire.chat(payload, span="s").json()
    assert wire.chat(payload, span="s").json() == first
    streamed = wire.chat(payload, span="s", stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert '"answer 1"' in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert wire.chat(payload, "another request", span="s").status_code == 400
    wire.complete(payload)
    assert wire.chat(payload, span="s").json() == first
    assert len(calls) == 1
    assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 1


def test_turns_when_concurrent_in_one_trajectory_then_all_recorded(runtime, wire):
    together = threading.Barrier(8)

    def meet(request):
        together.wait(30)
        return "x"

    runtime.policy = meet
    payload = runtime.new_rollout("p")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: wire.chat(payload, span=f"s{n}"), range(8)))
    turns = runtime.trajectory(payload["metadata"]["rolloutId"]).turns
    assert [turn.index for turn in turns] == list(range(8))
    assert {turn.span_id for turn in turns} == {f"s{n}" for n in range(8)}


def test_turn_when_sealed_while_sampling_then_refused_and_not_recorded(runtime, wire):
    payload = runtime.new_rollout("p")

    def seal_first(request):
        assert wire.complete(payload).status_code == 200
        return "too late"

    runtime.policy = seal_first
    assert wire.chat(payload, span="s").status_code == 400
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns == ()


def test_turn_when_the_agent_hangs_up_then_recorded_all_the_same(runtime, wire):
    begun, go_on = threading.Event(), threading.Event()

    def wait(request):
        begun.set()
        assert go_on.wait(30)
        return "nobody reads this"

    runtime.policy = wait
    payload = runtime.new_rollout("p")
    body = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()
    lines = [f"{name}: {value}" for name, value in tracking(payload, "s").items()]
    head = "\r\n".join(["POST /sample HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", int(runtime.endpoint.rsplit(":", 1)[1])), timeout=30) as agent:
        agent.sendall(head.encode() + body)
        assert begun.wait(30)
    go_on.set()
    # The same call again waits for the first one.
    assert wire.post("/sample", body, tracking(payload, "s")).status_code == 200
    (turn,) = runtime.trajectory(payload["metadata"]["rolloutId"]).turns
    assert turn.message["content"] == "nobody reads this"


def test_policy_when_it_raises_then_500_with_its_text_and_no_turn(runtime, wire, caplog):
    def broken(request):
        raise LookupError("no such thing")

    runtime.policy = broken
    payload = runtime.new_rollout("p")
    answer = wire.chat(payload, span="s")
    assert answer.status_code == 500
    assert "LookupError: no such thing" in answer.json()["Message"] or "no such thing" in answer.json()["Message"]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    runtime.policy = echo
    assert wire.chat(payload, span="s").status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        {},
        {"role": "user", "content": "x"},
        {"content": 5},
        {"choices": []},
        {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"content": "x", "score": float("nan")},
        {"content": "x", "what": object()},
    ],
)
def test_policy_when_its_answer_is_invalid_then_500_says_so(runtime, wire, value):
    runtime.policy = lambda request: value
    answer = wire.chat(runtime.new_rollout("p"))
    assert answer.status_code == 500
    assert "policy's answer" in answer.json()["Message"]


def test_policy_when_it_chooses_a_status_then_answered_with_it(runtime, wire):
    async def busy(request):
        raise PolicyError("later", 429, retry_after_seconds=2)

    runtime.policy = busy
    answer = wire.chat(runtime.new_rollout("p"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.headers["x-amzn-ErrorType"] == "ThrottlingException"
    runtime.policy = None
    assert wire.chat(runtime.new_rollout("p")).status_code == 400


def test_runtime_when_not_strict_then_unknown_trajectories_are_recorded(open_wire):
    with LocalRuntime(echo, strict=False) as runtime:
        wire = open_wire(runtime)
        payload = {"metadata": {"jobArn": "some-job", "rolloutId": "mine"}}
        assert wire.chat(payload, span="s").status_code == 200
        assert wire.chat(payload, "other", span="s").status_code == 200
        assert wire.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}).status_code == 200
        assert runtime.untracked_calls == 1
        assert wire.complete(payload, Status="failed").status_code == 200
        assert wire.reward(payload, [1.0, 2.0, 3.0]).status_code == 200
        trajectory = runtime.trajectory("mine")
        assert (trajectory.prompt, len(trajectory.turns)) == (None, 2)
        assert wire.chat({"metadata": {"jobArn": "another", "rolloutId": "mine"}}).status_code == 404


def test_view_when_reset_then_only_newer_trajectories_show(runtime, wire):
    old = runtime.new_rollout("p")
    runtime.new_rollout("q", job_arn=ARN)
    assert len(runtime.trajectories()) == 2
    assert len(runtime.trajectories(job_arn=ARN, status="PENDING")) == 1
    assert runtime.trajectories(TrajectoryStatus.READY) == []
    runtime.reset()
    assert (runtime.trajectories(), runtime.problems(), runtime.untracked_calls) == ([], [], 0)
    assert wire.chat(old).status_code == 200
    assert len(runtime.trajectory(old["metadata"]["rolloutId"]).turns) == 1
    new = runtime.new_rollout("q")
    assert [trajectory.trajectory_id for trajectory in runtime.trajectories()] == [new["metadata"]["rolloutId"]]


def test_route_when_unknown_then_404_of_another_type(runtime, wire):
    for path in ("/nothing", "/sample/"):
        answer = wire.post(path, {})
        assert answer.status_code == 404
        assert answer.headers["x-amzn-ErrorType"] == "UnknownOperationException"
    assert wire.session.get(runtime.endpoint + "/sample", timeout=30).status_code == 405
    assert wire.session.get(runtime.endpoint + "/ping", timeout=30).json() == {"status": "Healthy"}


def test_body_when_too_large_then_400(runtime, monkeypatch, wire):
    monkeypatch.setattr("aws_rft_sdk.runtime.app.MAX_BODY_BYTES", 1000)
    payload = runtime.new_rollout("p")
    assert "larger" in wire.chat(payload, "x" * 2000).json()["Message"]

    def pieces():
        yield from [b"x" * 600] * 3

    answer = wire.session.post(runtime.endpoint + "/sample", data=pieces(), headers=tracking(payload), timeout=30)
    assert answer.status_code == 400


def test_rollouts_when_two_hundred_run_at_once_then_every_turn_under_its_own(runtime):
    async def run():
        payloads = [runtime.new_rollout(f"p{n}") for n in range(200)]
        port = int(runtime.endpoint.rsplit(":", 1)[1])

        async def call(number, payload):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps({"messages": [{"role": "user", "content": f"rollout {number}"}]}).encode()
            for turn in range(3):
                headers = {**tracking(payload, f"s{turn}"), "Host": "x", "Content-Length": str(len(body))}
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"POST /sample HTTP/1.1\r\n{head}\r\n".encode() + body)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(size.split(b":")[1]))
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*[call(n, payload) for n, payload in enumerate(payloads)])
        return payloads

    payloads = asyncio.run(run())
    for number, payload in enumerate(payloads):
        turns = runtime.trajectory(payload["metadata"]["rolloutId"]).turns
        assert [turn.message["content"] for turn in turns] == [f"ROLLOUT {number}"] * 3
