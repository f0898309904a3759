"""Callers that mean no good, or know no better."""

import json
import socket

import pytest
from fakes import ga_payload

from aws_rft_sdk import LocalRuntime, rft_handler

from .web import WAIT, until, worker_of

LIMIT = 10_000


@pytest.fixture(scope="module")
def runtime():
    with LocalRuntime() as runtime:
        yield runtime


@pytest.fixture(scope="module")
def worker():
    with worker_of(
        rft_handler(lambda payload: 1.0, require_turns=False), max_payload_bytes=LIMIT, read_seconds=0.5
    ) as worker:
        yield worker


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut"),
        pytest.param(b'{"a": 1} x', id="trailing"),
        pytest.param(b"\xff\xfe\x00", id="not utf-8"),
        pytest.param(b"[" * 5000, id="deep and cut"),
        pytest.param(b"[" * 4900 + b"]" * 4900, id="deep"),
        pytest.param(b'{"metadata": ' * 700 + b"1" + b"}" * 700, id="deep objects"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", id="a number without end"),
        pytest.param(json.dumps({"body": "[" * 5000}).encode(), id="deep within the envelope"),
        pytest.param(b"\x1f\x8b\x08\x00garbage", id="compressed"),
        pytest.param(b"a=1&b=2", id="a form"),
    ],
)
def test_body_when_it_cannot_be_read_then_400(worker, body):
    answer = worker.post("/rollout", body)

    assert answer.status_code == 400
    assert answer.json()["errorType"] == "ValidationError"
    assert len(answer.text) < 1000


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/octet-stream", "application/json; charset=utf-16", "x", ""]
)
def test_content_type_when_it_is_another_then_the_payload_is_read_all_the_same(worker, runtime, kind):
    answer = worker.post("/rollout", runtime.new_rollout("p"), headers={"Content-Type": kind})

    assert answer.status_code == 202


@pytest.mark.parametrize("size", [LIMIT + 1, 50 * LIMIT, 500 * LIMIT])
def test_body_when_too_large_then_413(worker, size):
    answer = worker.post("/rollout", b" " * size)

    assert answer.status_code == 413
    assert worker.get("/ping").status_code == 200


@pytest.mark.parametrize("size", [LIMIT + 1, 50 * LIMIT])
def test_body_when_too_large_and_of_untold_length_then_413(worker, size):
    chunks = (b" " * 1000 for _ in range(size // 1000 + 1))
    answer = worker.session.post(worker.url + "/rollout", data=chunks, timeout=WAIT)

    assert answer.status_code == 413


def test_body_when_a_terabyte_is_announced_then_413_without_reading_it(worker):
    answer = worker.raw(b"POST /rollout HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 413")


def test_body_when_exactly_at_the_limit_then_it_is_read(worker, runtime):
    payload = runtime.new_rollout("p")
    body = json.dumps(payload).encode()

    assert worker.post("/rollout", body + b" " * (LIMIT - len(body))).status_code == 202


def test_body_when_it_trickles_then_408_and_others_are_served_meanwhile(worker, runtime):
    host, port = worker.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=WAIT) for _ in range(50)]
    try:
        for peer in slow:
            peer.sendall(b"POST /rollout HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{")
        assert worker.post("/rollout", runtime.new_rollout("p")).status_code == 202
        assert {peer.recv(12) for peer in slow} == {b"HTTP/1.1 408"}
    finally:
        for peer in slow:
            peer.close()


def test_body_when_the_caller_leaves_in_the_middle_then_nothing_begins(worker, runtime):
    before = worker.pool.figures().started
    body = json.dumps(runtime.new_rollout("p")).encode()
    head = f"POST /rollout HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(20):
        worker.raw(head + body[:-5], then_close=True)

    assert worker.get("/ping").status_code == 200
    assert worker.pool.figures().started == before


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
        pytest.param(b"GET / HTTP/x\r\n\r\n", id="version"),
        pytest.param(b"POST /rollout HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", id="negative length"),
        pytest.param(b"POST /rollout HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"),
    ],
)
def test_bytes_when_they_are_no_request_then_the_worker_goes_on(worker, data):
    assert b" 2" not in worker.raw(data)[:12]
    assert worker.get("/ping").status_code == 200


def test_payload_when_its_endpoint_is_not_trusted_then_the_rollout_fails_and_nothing_is_sent(worker):
    answer = worker.post("/invocations", ga_payload("t-1", endpoint="http://evil.example"))

    assert answer.status_code == 500
    assert answer.json()["errorType"] == "UntrustedEndpointError"


def test_handler_when_undecorated_then_the_answer_and_the_log_say_that_nothing_was_reported(runtime, caplog):
    with worker_of(lambda payload: 1.0) as worker:
        answer = worker.post("/invocations", runtime.new_rollout("p"))
        assert answer.status_code == 500
        assert "decorate it with rft_handler" in answer.json()["errorMessage"]
        assert worker.post("/rollout", runtime.new_rollout("p")).status_code == 202
        assert until(lambda: caplog.text.count("decorate it with rft_handler") == 2, rounds=50)
