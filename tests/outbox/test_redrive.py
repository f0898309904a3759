"""Re-drive: every entry is tried, and no failure of one stops the others or the thread."""

import logging
import threading

import botocore.exceptions
import pytest
from fakes import leave_pending
from services import REWARD, TokenlessService, Trouble

from aws_rft_sdk import RolloutFeedbackClient, credentials
from aws_rft_sdk._decision import CallState, TrajectoryOutcome
from aws_rft_sdk.errors import CredentialsError, OutboxError
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.feedback.redrive import Delivered, Redriver, deliver, deliver_pending


@pytest.fixture
def service():
    with TokenlessService().serving() as service:
        yield service


@pytest.fixture
def clock():
    class Clock:
        now = 1_000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def outbox(tmp_path, clock):
    outbox = Outbox(tmp_path / "outbox.db", clock=clock)
    yield outbox
    outbox.close()


def leave(outbox, payload, **options):
    client = RolloutFeedbackClient(payload, **options)
    leave_pending(outbox, client)
    return client.metadata


def test_deliver_when_an_entry_raises_what_nobody_expects_then_the_others_are_delivered(service, outbox, caplog):
    bad = leave(outbox, service.payload("bad"))
    for number in range(5):
        leave(outbox, service.payload(f"good-{number}"))

    def deliver_or_raise(box, entry):
        if entry.metadata.trajectory_id == bad.trajectory_id:
            raise ZeroDivisionError("of a mistake")
        deliver(box, entry)

    for _ in range(3):
        result = deliver_pending(outbox, deliver=deliver_or_raise)
    assert result == Delivered(delivered=0, postponed=1)
    assert outbox.ledger() == (6, 5, 0, 1, 0)
    entry = outbox.find(bad)
    assert (entry.attempts, entry.last_error) == (3, "ZeroDivisionError: of a mistake")
    assert caplog.text.count("error=<ZeroDivisionError: of a mistake>") == 1


def test_deliver_when_the_ca_bundle_is_missing_then_it_is_postponed(service, outbox, monkeypatch, aws_keys):
    leave(outbox, service.payload("good"))
    bad = leave(outbox, service.payload("bad"), endpoint="https://runtime.invalid")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")

    assert deliver_pending(outbox) == Delivered(delivered=1, postponed=1)
    entry = outbox.find(bad)
    assert "/nowhere/bundle.pem" in entry.last_error
    assert entry.decision.seal is CallState.UNSENT


class Broken:
    """A session whose provider of credentials fails, as a call of STS does that is denied."""

    def get_credentials(self):
        raise botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied", "Message": "hunter2"}}, "AssumeRole")


def test_deliver_when_sts_denies_the_role_then_it_is_a_credentials_error_and_postponed(service, outbox, monkeypatch):
    monkeypatch.setitem(credentials._shared, True, credentials.Credentials(Broken()))
    bad = leave(outbox, service.payload("bad"), endpoint="https://runtime.invalid")
    leave(outbox, service.payload("good"))

    assert deliver_pending(outbox) == Delivered(delivered=1, postponed=1)
    assert outbox.find(bad).last_error.startswith("CredentialsError")
    assert outbox.find(bad).decision.seal is CallState.UNSENT
    with pytest.raises(CredentialsError, match="ClientError") as caught:
        credentials.Credentials(Broken()).keys()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wait", ["Wed, 21 Oct 99999 07:28:00 GMT", "1e400", "9" * 400])
def test_deliver_when_the_service_asks_for_an_absurd_wait_then_it_is_postponed(service, outbox, wait):
    service.script(REWARD, Trouble(status=429, headers=(("Retry-After", wait),)))
    metadata = leave(outbox, service.payload())

    assert deliver_pending(outbox) == Delivered(delivered=0, postponed=1)
    assert outbox.find(metadata).decision.seal is CallState.CONFIRMED
    assert deliver_pending(outbox) == Delivered(delivered=1, postponed=0)


def test_redriver_when_a_pass_fails_in_any_way_then_the_thread_goes_on(service, outbox, clock, caplog):
    leave(outbox, service.payload())
    clock.now += 3600.0
    delivered = threading.Event()
    prune, failures = outbox.prune, [ZeroDivisionError("of a mistake")]

    def prune_or_raise(*args):
        if failures:
            raise failures.pop()
        return prune(*args)

    outbox.prune = prune_or_raise

    def deliver_and_tell(box, entry):
        deliver(box, entry)
        delivered.set()

    redriver = Redriver(outbox, poll_seconds=0.01, deliver=deliver_and_tell).start()
    assert delivered.wait(30)
    redriver.stop()
    assert "ZeroDivisionError" in caplog.text


def test_deliver_when_several_threads_deliver_then_each_trajectory_is_delivered_once(service, outbox):
    for number in range(50):
        leave(outbox, service.payload(f"t-{number}"))
    together, seen = threading.Barrier(8, timeout=30), threading.local()

    def deliver_together(box, entry):
        if not hasattr(seen, "met"):
            seen.met = True
            together.wait()  # passes only if eight deliver at once
        deliver(box, entry)

    assert deliver_pending(outbox, deliver=deliver_together, threads=8) == Delivered(delivered=50, postponed=0)
    assert len(service.calls) == 100
    assert {entry.outcome for entry in outbox.entries()} == {TrajectoryOutcome.REWARDED}


@pytest.mark.parametrize("damage", ["api = 'zz'", "rewards = '[1'", "rewards = '1'", "job_arn = 'none'", "seal = '?'"])
def test_deliver_when_an_entry_cannot_be_read_then_the_others_are_delivered(service, outbox, caplog, damage):
    bad = leave(outbox, service.payload("bad"))
    leave(outbox, service.payload("good"))
    outbox._connection.execute(f"UPDATE feedback SET {damage} WHERE trajectory_id = 'bad'")

    assert deliver_pending(outbox) == Delivered(delivered=1, postponed=0)
    assert service.trajectories["good"].rewards == [1.0]
    assert "cannot be read" in caplog.text
    assert outbox.count_pending() == 1
    assert [entry.metadata.trajectory_id for entry in outbox.entries()] == ["good"]
    assert outbox.ledger() == (2, 1, 0, 1, 0)
    if "job_arn" not in damage:  # that is a part of its name
        with pytest.raises(OutboxError, match="trajectory bad cannot be read"):
            outbox.find(bad)


def test_deliver_when_it_is_stopped_then_the_rest_stays(service, outbox):
    for number in range(5):
        leave(outbox, service.payload(f"t-{number}"))
    stopping = threading.Event()

    def deliver_and_stop(box, entry):
        deliver(box, entry)
        stopping.set()

    assert deliver_pending(outbox, deliver=deliver_and_stop, threads=1, stopping=stopping).delivered == 1
    assert outbox.count_pending() == 4


def test_claim_when_thousands_are_pending_then_an_index_finds_the_next(outbox, service):
    leave(outbox, service.payload())
    connection = outbox._connection
    for query in ("next_attempt_at <= 1 ORDER BY next_attempt_at LIMIT 1", "next_attempt_at IS NOT NULL"):
        plan = " ".join(
            row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN SELECT 1 FROM feedback WHERE {query}")
        )
        assert "INDEX pending" in plan
        assert "TEMP B-TREE" not in plan


def test_logs_when_delivery_fails_then_no_secret_is_in_them(service, outbox, caplog):
    caplog.set_level(logging.DEBUG)
    service.script(REWARD, Trouble(status=403))
    leave(outbox, service.payload())
    deliver_pending(outbox)
    assert "Signature=" not in caplog.text
