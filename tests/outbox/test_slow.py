"""A service that answers a byte at a time, or never: a call ends at its own time, whoever sends it."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import threading

import botocore.session
import pytest
import requests
from fakes import AT_ONCE, JOB_ARN, ONCE
from services import REWARD, SEAL, TokenlessService, Trouble

from aws_rft_sdk import AsyncRolloutFeedbackClient, RolloutFeedbackClient, rft_handler
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._decision import CallState
from aws_rft_sdk.errors import RolloutTimeoutError, ServiceTimeoutError, ThrottledError
from aws_rft_sdk.feedback import _requests
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.feedback.redrive import stop_in_background
from aws_rft_sdk.lifecycle.calling import run_handler

SLOW = {
    "head": Trouble(drip="head", applied=True),
    "body": Trouble(drip="body", applied=True),
    "never": Trouble(hang=True, applied=True),
}
each_slowness = pytest.mark.parametrize("slowness", SLOW.values(), ids=SLOW)


@pytest.fixture
def service():
    with TokenlessService().serving() as service:
        yield service


# Each of these services goes on as long as its caller waits. So each test ends only if its call does.


@each_slowness
@pytest.mark.parametrize("limit", ["timeout_seconds", "max_seconds"])
def test_call_when_the_answer_does_not_end_then_it_is_over_in_time_and_may_have_happened(service, slowness, limit):
    service.script(SEAL, slowness)
    client = RolloutFeedbackClient(service.payload(), **{"backoff": ONCE, limit: 0.2})
    with pytest.raises(ServiceTimeoutError) as caught:
        client.complete_trajectory()

    assert caught.value.may_have_happened
    assert client.holder.seen.seal is CallState.MAYBE_SENT


def test_call_when_the_service_asks_for_no_wait_again_and_again_then_it_is_not_flooded(service):
    service.script(SEAL, *[Trouble(status=429, headers=(("Retry-After", "0"),))] * 10_000)
    backoff = Backoff(base_seconds=0.2)
    with pytest.raises(ThrottledError):
        RolloutFeedbackClient(service.payload(), backoff=backoff, max_seconds=0.5).complete_trajectory()
    assert len(service.calls) <= 6  # each at least 0.1 s after the one before


def test_call_when_a_host_has_many_addresses_that_do_not_answer_then_it_is_over_in_time(monkeypatch):
    with socket.socket() as server, contextlib.ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # more than it takes: nobody else gets a connection
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", server.getsockname())
        real = socket.getaddrinfo

        def look_up(host, *args, **options):
            return [address] * 10_000 if host == "localhost" else real(host, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        endpoint = f"http://localhost:{server.getsockname()[1]}"
        payload = {"jobArn": JOB_ARN, "rolloutId": "t-1"}
        # Each address gets what is left. With the whole time for each this would take an hour.
        with pytest.raises(ServiceTimeoutError) as caught:
            RolloutFeedbackClient(payload, endpoint=endpoint, backoff=ONCE, timeout_seconds=0.3).complete_trajectory()
    assert not caught.value.may_have_happened


@each_slowness
def test_call_when_every_answer_is_slow_then_max_seconds_bounds_all_attempts(service, slowness):
    service.script(SEAL, *[slowness] * 1000)
    client = RolloutFeedbackClient(service.payload(), backoff=AT_ONCE, timeout_seconds=0.1, max_seconds=0.5)
    with pytest.raises(ServiceTimeoutError) as caught:
        client.report_complete(1.0)

    assert 2 <= caught.value.attempts < 100


@each_slowness
def test_call_when_the_session_is_the_users_own_then_it_is_bounded_too(service, slowness):
    service.script(SEAL, slowness)
    with requests.Session() as session, pytest.raises(ServiceTimeoutError):
        RolloutFeedbackClient(
            service.payload(), session=session, backoff=ONCE, timeout_seconds=0.2
        ).complete_trajectory()


@each_slowness
def test_call_when_it_goes_through_a_proxy_then_it_is_bounded_too(service, slowness, monkeypatch):
    service.script(SEAL, slowness)
    # A plain proxy gets the whole request, so any server can stand in for one.
    monkeypatch.setenv("http_proxy", service.endpoint)
    keys = botocore.session.Session()
    keys.set_credentials("AKIDEXAMPLE", "secret")
    client = RolloutFeedbackClient(
        service.payload(), endpoint="http://runtime.invalid", session=keys, backoff=ONCE, timeout_seconds=0.2
    )
    with pytest.raises(ServiceTimeoutError):
        client.complete_trajectory()
    assert service.kinds() == [SEAL]


@pytest.fixture
def certificate(tmp_path):
    """Return a PEM file with a certificate of 127.0.0.1 and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    signed = builder.add_extension(alternative, False).sign(key, hashes.SHA256())
    path = tmp_path / "certificate.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(signed.public_bytes(encoding) + key.private_bytes(encoding, form, serialization.NoEncryption()))
    return path


@each_slowness
def test_call_when_it_is_encrypted_then_it_is_bounded_too(slowness, certificate, monkeypatch):
    monkeypatch.setattr(_requests.shared_session(), "verify", str(certificate))
    with TokenlessService(certificate).serving() as service:
        service.script(SEAL, slowness)
        client = RolloutFeedbackClient(service.payload(), backoff=ONCE, timeout_seconds=0.5)
        with pytest.raises(ServiceTimeoutError):
            client.complete_trajectory()
        client.report_complete(1.0)
        assert service.kinds() == [SEAL, SEAL, REWARD]
        assert service.trajectories["t-1"].rewards == [1.0]


@each_slowness
def test_connection_when_an_answer_was_slow_then_the_next_call_is_not_hurried(service, slowness):
    service.script(SEAL, slowness)
    client = RolloutFeedbackClient(service.payload(), backoff=AT_ONCE, timeout_seconds=0.2)
    client.report_complete(1.0)
    other = RolloutFeedbackClient(service.payload("t-2"))
    other.report_complete(1.0)

    assert service.trajectories["t-2"].rewards == [1.0]


@each_slowness
def test_rollout_when_its_report_drips_then_its_deadline_ends_it_all_the_same(service, slowness):
    service.script(SEAL, *[slowness] * 1000)

    @rft_handler(
        require_turns=False,
        client=lambda request: RolloutFeedbackClient(request, backoff=AT_ONCE, timeout_seconds=0.1, max_seconds=0.5),
    )
    def handler(payload):
        release.wait(60)

    release = threading.Event()
    ended = asyncio.run(run_handler(handler, service.payload(), deadline_seconds=0.1, trajectory_id="t-1"))

    release.set()
    while ended.lingers():
        threading.Event().wait(0.01)

    assert isinstance(ended.error, RolloutTimeoutError)
    assert ended.context.outcome == "unreported"


def test_async_client_when_the_answer_drips_then_it_is_bounded_too(service):
    service.script(REWARD, SLOW["head"])

    async def report():
        client = AsyncRolloutFeedbackClient(service.payload(), backoff=ONCE, timeout_seconds=0.2)
        with pytest.raises(ServiceTimeoutError):
            await client.report_complete(reward=1.0)
        await client.update_reward(reward=1.0)
        return client.blocking.holder.seen

    assert asyncio.run(report()).reward is CallState.CONFIRMED


def test_client_when_no_time_is_named_then_it_is_less_with_an_outbox_that_goes_on(service, tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    assert RolloutFeedbackClient(service.payload())._sender.max_seconds == 60.0
    assert RolloutFeedbackClient(service.payload(), outbox=outbox)._sender.max_seconds == 10.0
    stop_in_background(outbox)
    outbox.close()
