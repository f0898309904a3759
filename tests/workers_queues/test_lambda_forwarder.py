import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
import zipfile

import botocore
import pytest
from fakes import Answer, ga_payload

from aws_rft_sdk.workers import lambda_forwarder
from aws_rft_sdk.workers.lambda_forwarder import Forwarder
from aws_rft_sdk.workers.packaging import build_forwarder

from .doing import REGION

KEY = "worker-key-0123456789"


class LambdaTime:
    """A function's clock, which only sleeping moves, and the context that tells what is left of it."""

    def __init__(self, seconds):
        self.now, self.end, self.slept = 100.0, 100.0 + seconds, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def get_remaining_time_in_millis(self):
        return int((self.end - self.now) * 1000)


@pytest.fixture
def forward(service, monkeypatch):
    """Forward an event to the service of the test, in no time."""
    service.policy = lambda request: Answer(202)
    monkeypatch.setenv("RFT_WORKER_URL", service.endpoint)

    def forward(event, seconds=30.0):
        time = LambdaTime(seconds)
        reply = Forwarder(clock=lambda: time.now, sleep=time.sleep)(event, time)
        return reply, time.slept

    return forward


PAYLOAD = ga_payload("r-1", temperature=1.0)
SNAKE = {
    "instance": {"question": "2+2?"},
    "metadata": {"job_arn": PAYLOAD["metadata"]["jobArn"], "trajectory_id": "r-1"},
    "inference_params": {"max_tokens": 5},
}
BASE64 = base64.b64encode(json.dumps(PAYLOAD).encode()).decode()


@pytest.mark.parametrize(
    ("event", "sent"),
    [
        (PAYLOAD, PAYLOAD),
        (SNAKE, SNAKE),
        ({"body": json.dumps(PAYLOAD), "headers": {}}, PAYLOAD),
        ({"body": BASE64, "isBase64Encoded": True}, PAYLOAD),
    ],
)
def test_rollout_when_well_formed_then_the_worker_gets_it(forward, service, monkeypatch, event, sent):
    monkeypatch.setenv("RFT_WORKER_KEY", KEY)

    assert forward(event) == ({}, [])

    [request] = service.requests
    assert (request.path, request.json) == ("/rollout", sent)
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (None, "metadata"),
        ([], "metadata"),
        ({}, "metadata"),
        ({"body": "{"}, "metadata"),
        ({"prompt": "x", "metadata": "m"}, "metadata"),
        ({**PAYLOAD, "prompt": ""}, "prompt must be a string that is not empty"),
        ({**PAYLOAD, "prompt": "  "}, "prompt is blank"),
        ({**PAYLOAD, "prompt": 7}, "prompt must be"),
        ({**PAYLOAD, "metadata": {"rolloutId": "r"}}, "metadata.jobArn is missing"),
        ({**PAYLOAD, "metadata": {**PAYLOAD["metadata"], "rolloutId": ""}}, "metadata.rolloutId is empty"),
        ({**PAYLOAD, "inferenceParams": None}, "inferenceParams is missing"),
        ({**PAYLOAD, "inferenceParams": []}, "inferenceParams must be an object"),
        ({**PAYLOAD, "inferenceParams": {"topP": 2}}, "inferenceParams.topP"),
        ({**PAYLOAD, "seed": float("nan")}, "the event is not JSON"),
    ],
)
def test_rollout_when_malformed_then_validation_error_and_nothing_is_sent(forward, service, event, says):
    reply, slept = forward(event)

    assert reply["errorType"] == "ValidationError"
    assert says in reply["errorMessage"]
    assert (service.requests, slept) == ([], [])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "ValidationError"),
        (413, "ValidationError"),
        (401, "AccessDenied"),
        (403, "AccessDenied"),
        (302, "InternalServerError"),
    ],
)
def test_worker_when_it_refuses_then_the_answer_says_so_without_the_key(forward, service, monkeypatch, status, kind):
    monkeypatch.setenv("RFT_WORKER_KEY", KEY)
    body = json.dumps({"errorType": "x", "errorMessage": f"field metadata.x; you sent {KEY}"}).encode()
    service.script(Answer(status, body, {"Location": "http://127.0.0.1:1/"}))

    reply, slept = forward(PAYLOAD)

    assert reply == {
        "errorType": kind,
        "errorMessage": f"the worker answered {status}: field metadata.x; you sent <removed>",
    }
    assert (len(service.requests), slept) == (1, [])


def test_worker_when_busy_then_tried_again_as_it_asks(forward, service):
    service.script(Answer(429, headers={"Retry-After": "7"}), Answer(503), Answer(reset=True), Answer(200))

    reply, slept = forward(PAYLOAD)

    assert reply == {}
    assert slept[0] == 7
    assert len(slept) == 3
    assert len({request.body for request in service.requests}) == 1


@pytest.mark.parametrize("seconds", [0.2, 20.0])
def test_worker_when_never_free_then_an_error_before_the_function_ends(forward, service, seconds):
    service.policy = lambda request: Answer(429, headers={"Retry-After": "7"})

    reply, slept = forward(PAYLOAD, seconds)

    assert reply["errorType"] == "InternalServerError"
    assert "the worker answered 429" in reply["errorMessage"]
    assert sum(slept) < seconds


def test_worker_when_nobody_listens_then_an_error_that_names_no_address(forward, monkeypatch):
    monkeypatch.setenv("RFT_WORKER_URL", "http://127.0.0.1:9/rollout?secret=s")

    reply, _ = forward(PAYLOAD, 2.0)

    assert reply["errorType"] == "InternalServerError"
    assert "ConnectionRefusedError" in reply["errorMessage"]
    assert "secret" not in reply["errorMessage"]


@pytest.mark.parametrize("context", [None, {}, object()])
def test_forwarder_when_the_context_is_not_lambdas_then_it_forwards_all_the_same(forward, context):
    assert Forwarder()(PAYLOAD, context) == {}


@pytest.mark.parametrize(
    ("url", "queue", "says"),
    [
        (None, None, "set one of"),
        ("http://a", "http://b", "not both"),
        ("http://user:pw@host", None, "without user"),
        ("http://host:port", None, "must be a URL"),
        ("host/rollout", None, "must be a URL"),
    ],
)
def test_forwarder_when_not_set_up_then_internal_error(monkeypatch, url, queue, says):
    for name, value in (("RFT_WORKER_URL", url), ("RFT_WORKER_QUEUE_URL", queue)):
        if value:
            monkeypatch.setenv(name, value)

    reply = lambda_forwarder.handler(PAYLOAD, None)

    assert reply["errorType"] == "InternalServerError"
    assert says in reply["errorMessage"]
    assert "pw" not in reply["errorMessage"]


def test_key_when_it_cannot_be_sent_then_it_is_in_no_answer_and_no_log(forward, service, monkeypatch, caplog):
    monkeypatch.setenv("RFT_WORKER_KEY", KEY + "\n")  # as files hand it out

    reply, _ = forward(PAYLOAD)

    assert "RFT_WORKER_KEY must be" in reply["errorMessage"]
    assert KEY not in reply["errorMessage"] + caplog.text
    assert service.requests == []


def test_worker_when_it_has_accepted_then_its_body_is_not_awaited(forward, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RFT_WORKER_URL", f"http://127.0.0.1:{server.getsockname()[1]}/rollout")

        def answer():
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionResetError):
                connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 99\r\n\r\n{")
                while connection.recv(65536):  # until the caller leaves
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert forward(PAYLOAD) == ({}, [])
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("fifo", [False, True])
def test_rollout_when_for_a_queue_then_it_is_there_once(aws, make_queue, monkeypatch, fifo):
    url = make_queue(fifo=fifo)
    monkeypatch.setenv("RFT_WORKER_QUEUE_URL", url)
    forwarder = Forwarder()

    assert [forwarder(PAYLOAD), forwarder({"body": json.dumps(PAYLOAD)})] == [{}, {}]

    messages = aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"])["Messages"]
    assert [json.loads(message["Body"]) for message in messages] == [PAYLOAD] * (1 if fifo else 2)
    if fifo:
        attributes = messages[0]["Attributes"]
        assert (attributes["MessageGroupId"], attributes["MessageDeduplicationId"]) == ("r-1", "r-1")


def test_rollout_when_its_id_is_none_for_a_queue_then_a_digest_takes_its_place(aws, make_queue, monkeypatch):
    monkeypatch.setenv("RFT_WORKER_QUEUE_URL", make_queue(fifo=True))

    assert Forwarder()(ga_payload("with a blank" * 12, topP=1)) == {}


def test_queue_when_it_is_missing_then_internal_error_at_once(aws, make_queue, monkeypatch):
    monkeypatch.setenv("RFT_WORKER_QUEUE_URL", make_queue() + "-not")

    reply = Forwarder()(PAYLOAD)

    assert reply["errorType"] == "InternalServerError"
    assert "NonExistentQueue" in reply["errorMessage"]


def test_queue_when_it_does_not_answer_then_tried_again(aws, make_queue, monkeypatch):
    monkeypatch.setenv("RFT_WORKER_QUEUE_URL", make_queue())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    time = LambdaTime(3.0)

    reply = Forwarder(clock=lambda: time.now, sleep=time.sleep)(PAYLOAD, time)

    assert "does not answer (EndpointConnectionError)" in reply["errorMessage"]
    assert len(time.slept) >= 2


# --- the zip ---------------------------------------------------------------------------------------------------------

RUN = """
import sys, json
sys.path[:0] = sys.argv[1:3]
from lambda_function import lambda_handler
print(json.dumps(lambda_handler(json.loads(sys.argv[3]), None)))
print(sorted(name for name in sys.modules if name.startswith("aws_rft_sdk")))
"""


@pytest.fixture
def run_zip(tmp_path, moto_url):
    """Run the unpacked zip: the standard library, the zip, and for `bare=False` what Lambda's runtime brings along."""
    built = build_forwarder(tmp_path / "forwarder.zip")
    task = tmp_path / "task"
    with zipfile.ZipFile(built.path) as archive:
        archive.extractall(task)
    # Our package is installed beside botocore, so what the runtime has is linked into a folder of its own.
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    packages = botocore.__path__[0].rpartition("/")[0]
    for name in ("botocore", "urllib3", "jmespath", "dateutil", "six.py"):
        (runtime / name).symlink_to(f"{packages}/{name}")

    def run(event, bare=False, **environment):
        path = [str(task), "" if bare else str(runtime)]
        command = [sys.executable, "-I", "-S", "-c", RUN, *path, json.dumps(event)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=task, env=environment)
        reply, modules = result.stdout.splitlines()
        return json.loads(reply), modules

    return run


def test_zip_when_run_alone_then_it_forwards_over_http(run_zip, service):
    service.policy = lambda request: Answer(202)

    reply, modules = run_zip(PAYLOAD, bare=True, RFT_WORKER_URL=f"{service.endpoint}/rollout", RFT_WORKER_KEY=KEY)

    assert reply == {}
    assert [request.json for request in service.requests] == [PAYLOAD]
    assert "aws_rft_sdk.workers.lambda_forwarder" in modules
    assert "aws_rft_sdk.workers.pool" not in modules


def test_zip_when_run_alone_then_it_forwards_to_a_queue(run_zip, aws, make_queue, moto_url):
    url = make_queue(fifo=True)

    reply, _ = run_zip(
        PAYLOAD,
        RFT_WORKER_QUEUE_URL=url,
        AWS_ENDPOINT_URL=moto_url,
        AWS_REGION=REGION,
        AWS_ACCESS_KEY_ID="AKIDEXAMPLE",
        AWS_SECRET_ACCESS_KEY="secret",
    )

    assert reply == {}
    assert [json.loads(message["Body"]) for message in aws.take(url)] == [PAYLOAD]


def test_zip_when_built_twice_then_the_same_bytes_and_nothing_is_missing(tmp_path):
    first, second = (build_forwarder(tmp_path / name) for name in ("a.zip", "b.zip"))

    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.needs == ()
    assert first.zip_bytes < 100_000
