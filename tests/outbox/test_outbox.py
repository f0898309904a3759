import multiprocessing
import os
import sqlite3
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_rft_sdk import rft_handler
from aws_rft_sdk._decision import CallState, TrajectoryOutcome
from aws_rft_sdk.errors import ConfigurationError, DecisionConflictError, OutboxError
from aws_rft_sdk.feedback.outbox import LEASE_SECONDS, Outbox
from aws_rft_sdk.settings import Endpoint
from aws_rft_sdk.types import RolloutMetadata
from aws_rft_sdk.wire import Api

UNSENT, MAYBE_SENT, CONFIRMED, REFUSED = CallState
JOB_ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/outbox"
ENDPOINT = Endpoint("http://127.0.0.1:1", Api.GA, "us-west-2", "test")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outbox(tmp_path, clock):
    outbox = Outbox(tmp_path / "outbox.db", clock=clock)
    yield outbox
    outbox.close()


def metadata(trajectory_id="t1"):
    return RolloutMetadata(JOB_ARN, trajectory_id)


def change(outbox, *steps, trajectory_id="t1", **options):
    return outbox.update(metadata(trajectory_id), ENDPOINT, "sigv4", *steps, **options)[-1:]


def decide(outbox, completion="ready", rewards=(1.0,), trajectory_id="t1"):
    (decision,) = change(
        outbox,
        lambda before: before.decide(trajectory_id, completion, rewards),
        trajectory_id=trajectory_id,
        durable=True,
    )
    return decision


def end(outbox, trajectory_id="t1", **states):
    """Note how far the calls are."""
    change(outbox, lambda before: replace(before, **states), trajectory_id=trajectory_id)


def test_receive_when_repeated_then_the_first_entry_stands(outbox, clock):
    outbox.receive(metadata(), ENDPOINT, "sigv4")
    clock.now += 5
    entry = outbox.receive(metadata(), ENDPOINT, "bearer")

    assert entry.outcome is TrajectoryOutcome.OPEN
    assert (entry.received_at, entry.auth, entry.endpoint[:3]) == (1_000.0, "sigv4", ENDPOINT[:3])


def test_decide_when_reopened_by_another_then_the_decision_is_there(outbox, tmp_path):
    decide(outbox, rewards=(0.1, 0.2))

    other = Outbox(tmp_path / "outbox.db")
    entry = other.find(metadata())
    other.close()

    assert (entry.completion, entry.rewards, entry.outcome) == ("ready", (0.1, 0.2), TrajectoryOutcome.PENDING)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5).map(tuple),
)
@settings(max_examples=50, deadline=None)  # it syncs to a disk, as fast as that is
def test_decide_keeps_every_finite_float_exactly(tmp_path_factory, rewards):
    outbox = Outbox(tmp_path_factory.mktemp("floats") / "o.db")

    assert decide(outbox, rewards=rewards).rewards == rewards
    assert decide(outbox, rewards=rewards).rewards == rewards
    outbox.close()


def test_decide_when_completed_first_and_rewarded_later_then_both_stand(outbox):
    assert decide(outbox, rewards=None).rewards is None

    assert decide(outbox, rewards=(1.0,)).rewards == (1.0,)


@pytest.mark.parametrize(
    ("completion", "rewards"),
    [
        pytest.param("ready", (2.0,), id="another-reward"),
        pytest.param("ready", (1.0, 1.0), id="another-length"),
        pytest.param("failed", None, id="another-status"),
        pytest.param("failed", (1.0,), id="another-status-same-reward"),
    ],
)
def test_decide_when_decided_in_another_way_then_error_shows_both_and_the_first_stands(outbox, completion, rewards):
    decide(outbox)

    with pytest.raises(DecisionConflictError) as raised:
        decide(outbox, completion, rewards)

    assert "ready with rewards [1.0] stands" in str(raised.value)
    assert completion in str(raised.value).split("stands;")[1]
    assert outbox.find(metadata()).rewards == (1.0,)


def test_outcome_follows_what_was_decided_and_confirmed(outbox):
    outbox.receive(metadata("open"), ENDPOINT, "sigv4")
    decide(outbox, trajectory_id="pending")
    decide(outbox, trajectory_id="half")
    end(outbox, "half", seal=CONFIRMED)
    decide(outbox, trajectory_id="rewarded")
    end(outbox, "rewarded", seal=CONFIRMED, reward=CONFIRMED)
    decide(outbox, "failed", None, trajectory_id="failed")
    end(outbox, "failed", seal=CONFIRMED)
    decide(outbox, rewards=None, trajectory_id="sealed")
    end(outbox, "sealed", seal=CONFIRMED)

    assert {entry.metadata.trajectory_id: entry.outcome.value for entry in outbox.entries()} == {
        "open": "open",
        "pending": "pending",
        "half": "pending",
        "rewarded": "rewarded",
        "failed": "failed",
        "sealed": "open",  # someone will reward it later
    }
    ledger = outbox.ledger()
    assert ledger == (6, 1, 1, 2, 2)
    assert ledger.balances


def test_claim_when_decided_just_now_then_it_is_left_to_the_one_who_decided(outbox, clock):
    decide(outbox)

    assert outbox.claim() is None
    clock.now += LEASE_SECONDS
    assert outbox.claim().metadata == metadata()
    assert outbox.claim() is None


def test_claim_when_all_are_wanted_then_each_is_given_out_once(outbox):
    for name in ("a", "b"):
        decide(outbox, trajectory_id=name)
    outbox.receive(metadata("open"), ENDPOINT, "sigv4")
    seen = set()
    due_before = outbox.make_all_due()
    while (entry := outbox.claim(due_before)) is not None:
        assert entry.metadata not in seen
        seen.add(entry.metadata)

    assert seen == {metadata("a"), metadata("b")}
    assert (outbox.count_due(), outbox.count_pending()) == (0, 2)


def test_postpone_when_deliveries_fail_then_waits_double_up_to_the_cap(outbox, clock):
    decide(outbox)
    waits = []
    for attempt in range(12):
        change(outbox, error=f"error {attempt}")
        waits.append(outbox.find(metadata()).next_attempt_at - clock.now)

    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 300.0
    assert outbox.find(metadata()).last_error == "error 11"


def test_prune_when_old_then_only_ended_trajectories_go(outbox, clock):
    decide(outbox, trajectory_id="ended")
    end(outbox, "ended", seal=CONFIRMED, reward=CONFIRMED)
    decide(outbox, trajectory_id="pending")
    clock.now += 100

    assert outbox.prune(older_than_seconds=101) == 0
    assert outbox.prune(older_than_seconds=99) == 1
    assert [entry.metadata.trajectory_id for entry in outbox.entries()] == ["pending"]


def test_outbox_when_path_is_a_folder_then_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="is a folder"):
        Outbox(tmp_path)


def test_receive_when_folder_is_missing_then_error_names_the_file(tmp_path):
    with pytest.raises(OutboxError, match=r"nowhere/o\.db cannot be used"):
        Outbox(tmp_path / "nowhere" / "o.db").receive(metadata(), ENDPOINT, "sigv4")


def test_receive_when_file_is_no_database_then_error_and_file_untouched(tmp_path):
    (tmp_path / "o.db").write_text("precious" * 1000)

    with pytest.raises(OutboxError, match="cannot be used"):
        Outbox(tmp_path / "o.db").receive(metadata(), ENDPOINT, "sigv4")

    assert (tmp_path / "o.db").read_text() == "precious" * 1000


def test_receive_when_schema_is_newer_then_refused(tmp_path):
    with sqlite3.connect(tmp_path / "o.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(OutboxError, match="schema 99"):
        Outbox(tmp_path / "o.db").receive(metadata(), ENDPOINT, "sigv4")


def test_decide_when_disk_is_full_then_error_and_usable_once_there_is_room(outbox):
    outbox.receive(metadata(), ENDPOINT, "sigv4")
    pages = outbox._connection.execute("PRAGMA page_count").fetchone()[0]
    outbox._connection.execute(f"PRAGMA max_page_count = {pages}")
    many = tuple(float(i) for i in range(50_000))
    with pytest.raises(OutboxError, match="full"):
        decide(outbox, rewards=many, trajectory_id="large")

    assert decide(outbox).rewards == (1.0,)  # a new connection has no such limit
    assert outbox.ledger().balances


def test_outbox_when_used_by_many_threads_then_every_decision_is_kept(outbox):
    start = threading.Barrier(16)

    def work(thread):
        start.wait()
        for number in range(20):
            decide(outbox, rewards=(float(number),), trajectory_id=f"{thread}-{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outbox.ledger().pending == 320


def _decide_in_process(path, name, start):
    outbox = Outbox(path)
    start.wait()
    for number in range(25):
        decide(outbox, rewards=(float(number),), trajectory_id=f"{name}-{number}")
    outbox.close()


def test_outbox_when_shared_by_processes_then_every_decision_is_kept(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [
        context.Process(target=_decide_in_process, args=(tmp_path / "o.db", name, start)) for name in ("a", "b", "c")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    outbox = Outbox(tmp_path / "o.db")
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert outbox.ledger() == (75, 0, 0, 75, 0)
    outbox.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_outbox_when_forked_then_parent_and_child_both_go_on(outbox):
    decide(outbox, trajectory_id="before")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            decide(outbox, trajectory_id="child")
            code = 0
        finally:
            os._exit(code)
    decide(outbox, trajectory_id="parent")

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {entry.metadata.trajectory_id for entry in outbox.entries()} == {"before", "child", "parent"}


@pytest.mark.parametrize("value", [5, False, b"outbox.db", ""])
def test_outbox_when_it_is_no_path_then_configuration_error_at_decoration(value):
    with pytest.raises(ConfigurationError, match=r"outbox is .* must be an Outbox or the path of a file"):
        rft_handler(outbox=value)
