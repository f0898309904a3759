"""A runtime that other machines reach: its address, its key, TLS, and what wrong arguments get."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys

import openai
import pytest
import requests
from certificates import make_certificate
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, RolloutFeedbackClient, runtime_model, wrap_model
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError, TransportError, UnavailableError
from aws_rft_sdk.rollout.starting import access_at
from aws_rft_sdk.runtime import LocalRuntime, read_trajectories
from aws_rft_sdk.types import InferenceParams, TrajectoryStatus

from .conftest import echo, ids, tracking

KEY = "k3y-that-nobody-may-see"
PARAMS = InferenceParams()


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"strict": "no"}, "strict must be True or False, not 'no'"),
        ({"strict": 1}, "strict"),
        ({"client_tokens": 0}, "client_tokens"),
        ({"region": 3}, "region must be"),
        ({"db": 3}, "db must be"),
        ({"db": None}, "db must be"),
        ({"db": ""}, "db is empty"),
        ({"port": True}, "port must be"),
        ({"port": "80"}, "port must be"),
        ({"host": 5}, "host must be"),
        ({"host": ""}, "host is ''"),
        ({"host": "127.0.0.1:80"}, "host is"),
        ({"host": "http://x"}, "host is"),
        ({"capture": "some"}, "capture must be one of full, last, none"),
        ({"capture": True}, "capture must be one of"),
        ({"auth": True}, "auth must be one of"),
        ({"faults": 5}, "faults must be"),
        ({"credentials": 5}, "credentials must be"),
        ({"clock": 5}, "clock must be"),
        ({"key": 5}, "the runtime's key must be"),
        ({"key": ""}, "the runtime's key must be"),
        ({"key": " x"}, "the runtime's key must be"),
        ({"key": "k", "auth": "sigv4"}, "contradict"),
        ({"key": "k", "auth": "bearer"}, "contradict"),
        ({"public_url": "here"}, "public_url must be a URL"),
        ({"public_url": 5}, "public_url must be a URL"),
        ({"public_url": "http://0.0.0.0:80"}, "no other machine can reach"),
        ({"certfile": "x.pem"}, "both certfile and keyfile; give keyfile"),
        ({"keyfile": "x.key"}, "both certfile and keyfile; give certfile"),
        ({"certfile": 1, "keyfile": 2}, "certfile must be"),
        ({"certfile": "/nowhere/x.pem", "keyfile": "/nowhere/x.key"}, "certfile /nowhere/x.pem cannot be read"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_runtime_when_an_argument_has_the_wrong_type_or_value_then_it_is_named(arguments, match):
    with pytest.raises(ConfigurationError, match=match):
        LocalRuntime(**arguments).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "node-7.example"])
def test_runtime_when_off_loopback_without_a_key_then_the_error_says_how_to_give_one(host):
    with pytest.raises(ConfigurationError, match=r"--key-file FILE, --key KEY or key=, or set RFT_RUNTIME_KEY"):
        LocalRuntime(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9"])
def test_runtime_when_on_loopback_then_no_key_is_needed_and_the_environments_is_not_taken(host, monkeypatch):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    with LocalRuntime(echo, host=host) as runtime:
        assert requests.get(f"{runtime.endpoint}/local/rollouts", timeout=10).status_code == 200


def test_runtime_when_off_loopback_then_the_environments_key_counts(monkeypatch):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    with LocalRuntime(echo, host="0.0.0.0") as runtime:
        port = runtime.endpoint.rpartition(":")[2]
        assert requests.get(f"http://127.0.0.1:{port}/local/rollouts", timeout=10).status_code == 403
        assert "0.0.0.0" not in runtime.endpoint
        assert runtime.new_rollout("p")["metadata"]["endpoint"] == runtime.endpoint


def test_runtime_when_it_has_a_public_url_then_payloads_name_it():
    with LocalRuntime(echo, host="0.0.0.0", key=KEY, public_url="https://gateway.example/rft/") as runtime:
        assert runtime.new_rollout("p")["metadata"]["endpoint"] == "https://gateway.example/rft"


def test_runtime_when_the_host_is_of_another_machine_then_refused():
    with pytest.raises(ConfigurationError, match="no address of this machine"):
        LocalRuntime(host="192.0.2.7", key=KEY).start()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_runtime_when_the_port_is_taken_then_it_is_unavailable(tmp_path, secure):
    files = make_certificate(tmp_path)._asdict() if secure else {}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match=f"port {taken.getsockname()[1]} of 127.0.0.1"):
            LocalRuntime(port=taken.getsockname()[1], **files).start()


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed():
    with LocalRuntime(echo, key=KEY) as runtime:
        yield runtime


CALLS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/sample"),
    ("POST", "/invocations"),
    ("POST", "/v1/responses"),
    ("POST", "/CompleteTrajectory"),
    ("POST", "/complete-rollout"),
    ("POST", "/UpdateReward"),
    ("POST", "/update-reward"),
    ("POST", "/local/rollouts"),
    ("GET", "/local/rollouts"),
    ("GET", "/local/rollouts/some-id"),
    ("GET", "/nowhere"),
    ("DELETE", "/ping/"),
]
WRONG = {
    "none": None,
    "another": "Bearer another-key",
    "a prefix": f"Bearer {KEY[:-1]}",
    "longer": f"Bearer {KEY}x",
    "empty": "Bearer ",
    "another scheme": f"Basic {KEY}",
    "bare": KEY,
    "beyond ASCII": "Bearer k\u00e9y",
    "signed": "AWS4-HMAC-SHA256 Credential=a/20260101/us-west-2/sagemaker/aws4_request, SignedHeaders=host",
}


@pytest.mark.parametrize(("method", "path"), CALLS, ids=lambda value: value)
@pytest.mark.parametrize("presented", WRONG.values(), ids=WRONG.keys())
def test_key_when_not_presented_then_every_route_but_the_health_check_refuses(keyed, method, path, presented):
    headers = {} if presented is None else {"Authorization": presented.encode("latin-1")}
    answer = requests.request(method, keyed.endpoint + path, headers=headers, json={}, timeout=10)
    body = answer.json()
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (403, "AccessDeniedException")
    assert body["Message"] == body["error"]["message"]
    assert "RFT_RUNTIME_KEY" in body["Message"]
    assert KEY not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_key_when_presented_then_calls_pass(keyed, scheme):
    payload = keyed.new_rollout("p")
    session = requests.Session()
    session.headers["Authorization"] = f"{scheme} {KEY}"
    body = {"messages": [{"role": "user", "content": "hello"}]}
    with session:
        url = keyed.endpoint
        assert session.post(f"{url}/sample", json=body, headers=tracking(payload), timeout=10).status_code == 200
        assert session.post(f"{url}/complete-rollout", json=ids(payload), timeout=10).status_code == 200
        assert session.post(f"{url}/local/rollouts", json={"prompt": "p"}, timeout=10).status_code == 200
    assert keyed.trajectory(payload["metadata"]["rolloutId"]).status is TrajectoryStatus.READY


def test_key_when_there_is_one_then_the_health_check_is_open(keyed):
    assert requests.get(f"{keyed.endpoint}/ping", timeout=10).json() == {"status": "Healthy"}


def test_key_when_missing_then_a_large_body_is_refused_and_the_connection_survives(keyed):
    with requests.Session() as session:
        answer = session.post(f"{keyed.endpoint}/sample", data=b"x" * 5_000_000, timeout=10)
        assert answer.status_code == 403
        assert session.get(f"{keyed.endpoint}/ping", timeout=10).status_code == 200


def test_key_when_openai_presents_it_as_its_api_key_then_answered(keyed):
    payload = keyed.new_rollout("p")
    messages = [{"role": "user", "content": "hello"}]
    with openai.OpenAI(base_url=f"{keyed.endpoint}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(model="m", messages=messages, extra_headers=tracking(payload))
        assert answer.choices[0].message.content == "HELLO"
        with pytest.raises(openai.PermissionDeniedError, match="RFT_RUNTIME_KEY"):
            client.with_options(api_key="another").chat.completions.create(model="m", messages=messages)


def test_key_when_used_then_in_no_repr_log_or_database(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "runs.db"
    with LocalRuntime(echo, key=KEY, db=path) as runtime:
        payload = runtime.new_rollout("p")
        with RFTContext.bind(payload):
            Agent(model=runtime_model(), callback_handler=None)("hello")
        client = RolloutFeedbackClient(payload)
        client.report_complete(1.0)
        shown = [repr(runtime), repr(vars(runtime)), repr(client), repr(vars(client))]
        assert not [text for text in shown if KEY in text]
    assert KEY not in caplog.text
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_tls_when_the_files_do_not_fit_then_a_clear_error_before_anything_is_bound(tmp_path):
    one, other = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "other")
    locked = make_certificate(tmp_path, "locked", password=b"secret")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for certfile, keyfile in (
        (one.certfile, other.keyfile),
        (empty, one.keyfile),
        (one.certfile, empty),
        (locked.certfile, locked.keyfile),
        (one.certfile, tmp_path),
    ):
        with pytest.raises(ConfigurationError, match=r"cannot be (used for TLS|read)"):
            LocalRuntime(certfile=certfile, keyfile=keyfile)


@pytest.fixture
def secure(tmp_path):
    certificate = make_certificate(tmp_path)
    with LocalRuntime(
        lambda request: "HELLO", key=KEY, certfile=str(certificate.certfile), keyfile=certificate.keyfile
    ) as runtime:
        runtime.certfile = certificate.certfile
        yield runtime


@pytest.mark.parametrize("variable", ["RFT_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_tls_when_the_bundle_is_named_then_agent_feedback_and_driver_trust_it(secure, monkeypatch, variable):
    monkeypatch.setenv(variable, str(secure.certfile))
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    access = access_at(secure.endpoint, PARAMS)
    payload = access.start("2 + 2?")
    assert payload["metadata"]["endpoint"] == secure.endpoint
    assert secure.endpoint.startswith("https://127.0.0.1:")
    arguments = {"base_url": f"{secure.endpoint}/v1", "api_key": "unused"}
    with RFTContext.bind(payload):
        for model in (runtime_model(), wrap_model(OpenAIModel(client_args=arguments, model_id="m"))):
            assert str(Agent(model=model, callback_handler=None)("hello")).strip() == "HELLO"
    RolloutFeedbackClient(payload).report_complete(0.5)
    seen = asyncio.run(access.observe(payload["metadata"]["rolloutId"]))
    assert (seen.turns, seen.rewards) == (2, (0.5,))


def test_tls_when_the_bundle_is_not_named_then_nobody_talks_to_the_runtime(secure, monkeypatch):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    payload = secure.new_rollout("p")
    with pytest.raises(UnavailableError, match="RFT_CA_BUNDLE, AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE, SSL_CERT_FILE"):
        access_at(secure.endpoint, PARAMS)
    with pytest.raises(TransportError):
        RolloutFeedbackClient(payload, max_seconds=1).report_complete(1.0)
    monkeypatch.setattr("aws_rft_sdk.adapters._http_turns.BACKOFF", Backoff(base_seconds=0.001))
    with RFTContext.bind(payload), pytest.raises(openai.APIConnectionError):
        Agent(model=runtime_model(), callback_handler=None)("hello")


def test_tls_when_the_bundle_is_missing_then_it_is_named(secure, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    payload = secure.new_rollout("p")
    for use in (
        lambda: access_at(secure.endpoint, PARAMS),
        lambda: RolloutFeedbackClient(payload).report_complete(1.0),
        lambda: Agent(model=runtime_model(), callback_handler=None)("hello"),
    ):
        with RFTContext.bind(payload), pytest.raises(ConfigurationError, match="SSL_CERT_FILE names the CA bundle"):
            use()


def test_tls_when_the_bundle_is_a_folder_then_agents_read_it(secure, monkeypatch, tmp_path):
    folder = tmp_path / "authorities"
    folder.mkdir()
    certificate = x509.load_pem_x509_certificate(secure.certfile.read_bytes())
    # OpenSSL finds a certificate in a folder by the hash of its subject.
    command = ["openssl", "x509", "-subject_hash", "-noout", "-in", str(secure.certfile)]
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command hashes the name of the certificate")
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (folder / f"{name}.0").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("RFT_CA_BUNDLE", str(folder))
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    payload = access_at(secure.endpoint, PARAMS).start("p")
    with RFTContext.bind(payload):
        Agent(model=runtime_model(), callback_handler=None)("hello")
    RolloutFeedbackClient(payload).report_complete(0.5)
    assert secure.trajectories()[0].rewards == (0.5,)


def test_tls_when_the_bundle_is_no_certificate_then_said(secure, monkeypatch):
    monkeypatch.setenv("RFT_CA_BUNDLE", __file__)
    payload = secure.new_rollout("p")
    with RFTContext.bind(payload), pytest.raises(ConfigurationError, match=r"CA bundle .* cannot be used"):
        Agent(model=runtime_model(), callback_handler=None)("hello")
    with pytest.raises((ConfigurationError, TransportError)):
        RolloutFeedbackClient(payload, max_seconds=1).report_complete(1.0)
    with pytest.raises((ConfigurationError, UnavailableError), match="CA"):
        access_at(secure.endpoint, PARAMS)


def test_tls_when_restarted_then_served_again(secure):
    secure.restart()
    assert requests.get(f"{secure.endpoint}/ping", verify=str(secure.certfile), timeout=10).ok


# --- a driver --------------------------------------------------------------------------------------------------------


def test_access_when_nothing_answers_then_unavailable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError, match="no runtime answers"):
            access_at(f"http://127.0.0.1:{unused.getsockname()[1]}", PARAMS)
    with pytest.raises(ConfigurationError, match="must be a URL"):
        access_at("127.0.0.1:8080", PARAMS)


def test_access_when_the_key_is_missing_or_wrong_then_the_error_names_it_and_hides_it(keyed, monkeypatch):
    for arguments in ({}, {"key": "wrong-k3y"}, {"job_arn": keyed.default_job_arn, "key": "wrong-k3y"}):
        with pytest.raises(ConfigurationError, match="RFT_RUNTIME_KEY") as caught:
            access_at(keyed.endpoint, PARAMS, **arguments)
        assert "wrong-k3y" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="key must be printable"):
        access_at(keyed.endpoint, PARAMS, key="a\nb")
    assert access_at(keyed.endpoint, PARAMS, key=KEY).start("p")["prompt"] == "p"
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    assert access_at(keyed.endpoint, PARAMS).start("p")["prompt"] == "p"


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "RFT_RUNTIME_KEY"),
        (["--key", "k", "--key-file", os.devnull], "--key and --key-file"),
        (["--key", ""], "--key must be printable"),
        (["--key-file", __file__], "--key-file"),
        (["--certfile", __file__], "give keyfile (--keyfile)"),
        (["--certfile", __file__, "--keyfile", __file__], "cannot be used for TLS"),
        (["--capture", "some"], "--capture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_command_when_used_wrongly_then_a_usage_error(arguments, message):
    result = CliRunner().invoke(main, ["runtime", "--port", "0", *arguments])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("source", ["option", "file", "environment"])
def test_command_when_given_a_key_then_it_serves_other_machines_and_does_not_show_it(tmp_path, source):
    (tmp_path / "policy.py").write_text("def policy(request):\n    return 'yes'\n")
    (tmp_path / "key").write_text(f"{KEY}\n")
    certificate = make_certificate(tmp_path)
    options = {"option": ["--key", KEY], "file": ["--key-file", str(tmp_path / "key")], "environment": []}[source]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    if source == "environment":
        environment["RFT_RUNTIME_KEY"] = KEY
    command = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()", "runtime", "--host", "0.0.0.0"]
    command += ["--port", "0", "--policy", f"callable:{tmp_path}/policy.py:policy", "--db", str(tmp_path / "runs.db")]
    command += ["--certfile", str(certificate.certfile), "--keyfile", str(certificate.keyfile), "--capture", "last"]
    command += ["--public-url", "https://localhost", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        try:
            said = run.stdout.readline()
            assert "job runtime at https://localhost " in said
        finally:
            run.send_signal(signal.SIGTERM)
            said += run.stdout.read()
    assert run.returncode == 0
    assert "RFT_RUNTIME_KEY" in said
    assert KEY not in said
    assert read_trajectories(tmp_path / "runs.db") == []
