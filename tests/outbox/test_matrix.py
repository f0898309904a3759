"""Seal fails, reward fails, killed here: over a service that remembers nothing, the ledger says what it has."""

import functools
import multiprocessing
import os
import signal
import sys

import pytest
from fakes import AT_ONCE, ONCE
from services import GENERATIONS, REWARD, SEAL, State, TokenlessService, Trouble

from aws_rft_sdk import RolloutFeedbackClient, RolloutResult, rft_handler
from aws_rft_sdk._decision import TrajectoryOutcome
from aws_rft_sdk.errors import DecisionConflictError, RFTError, TrajectoryConflictError
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.feedback.redrive import deliver_pending, stop_in_background

FAULTS = {
    "503-before": Trouble(status=503),
    "503-after": Trouble(status=503, applied=True),
    "cut-before": Trouble(cut=True),
    "cut-after": Trouble(cut=True, applied=True),
    "429": Trouble(status=429, headers=(("Retry-After", "0"),)),
    "head-drips": Trouble(drip="head", applied=True),
    "body-drips": Trouble(drip="body", applied=True),
    "hangs": Trouble(hang=True, applied=True),
}
SLOW = ("head-drips", "body-drips", "hangs")
each_generation = pytest.mark.parametrize("api", GENERATIONS)
with_and_without_outbox = pytest.mark.parametrize("with_outbox", [True, False], ids=["outbox", "no-outbox"])


@pytest.fixture
def service():
    with TokenlessService().serving() as service:
        yield service


@pytest.fixture
def open_outbox(tmp_path):
    """Return a function that opens the outbox anew, as another process would."""
    opened = []

    def open_it():
        opened.append(Outbox(tmp_path / "outbox.db"))
        return opened[-1]

    yield open_it
    for outbox in opened:
        stop_in_background(outbox)
        outbox.close()


def client_of(service, outbox, api, **options):
    options = {"backoff": ONCE, "timeout_seconds": 0.3, **options}
    return RolloutFeedbackClient(service.payload(), outbox=outbox, api=api, **options)


def has_reward(service):
    trajectory = service.trajectories["t-1"]
    assert len(trajectory.applied) == len(set(trajectory.applied)), "a call took effect twice"
    assert trajectory.rewards in (None, [1.0]), "the reward was changed"
    return trajectory.rewards is not None


@each_generation
@with_and_without_outbox
@pytest.mark.parametrize("restart", [False, True], ids=["in-process", "restart"])
@pytest.mark.parametrize("kind", [SEAL, REWARD])
@pytest.mark.parametrize("fault", FAULTS)
def test_report_when_a_call_fails_and_is_made_again_then_the_ledger_says_what_the_service_has(
    service, open_outbox, api, with_outbox, restart, kind, fault
):
    service.script(kind, FAULTS[fault])
    # Long enough for a healthy call on a busy machine.
    patience = {"timeout_seconds": 1.0 if fault in SLOW else 30.0}
    client = client_of(service, open_outbox() if with_outbox else None, api, **patience)
    with pytest.raises(RFTError):
        client.report_complete(1.0)
    if client.outbox is not None:
        assert client.outbox.ledger().pending == 1
    if restart:
        client = client_of(service, open_outbox() if with_outbox else None, api, **patience)

    if restart and not with_outbox:
        # Nobody remembers what was sent. It is not delivered twice, and never taken for delivered when it is not.
        try:
            client.report_complete(1.0)
        except TrajectoryConflictError:
            assert client.holder.seen.outcome is TrajectoryOutcome.FAILED
        else:
            assert has_reward(service)
        has_reward(service)
        return
    client.report_complete(1.0)

    assert has_reward(service)
    assert service.trajectories["t-1"].applied == [SEAL, REWARD]
    assert client.holder.seen.outcome is TrajectoryOutcome.REWARDED
    if client.outbox is not None:
        assert client.outbox.ledger() == (1, 1, 0, 0, 0)
    before = len(service.calls)
    client.report_complete(1.0)
    assert len(service.calls) == before


@each_generation
@with_and_without_outbox
def test_report_when_every_kind_of_fault_comes_in_a_row_then_it_gets_through(service, open_outbox, api, with_outbox):
    for kind in (SEAL, REWARD):
        service.script(kind, *(trouble for trouble in FAULTS.values()))
    client = client_of(service, open_outbox() if with_outbox else None, api, backoff=AT_ONCE, max_seconds=60)
    client.report_complete(1.0)

    assert has_reward(service)


@each_generation
@with_and_without_outbox
@pytest.mark.parametrize("fault", ["503-before", "503-after", "429"])
def test_update_reward_when_the_seal_has_not_come_through_then_it_goes_first(
    service, open_outbox, api, with_outbox, fault
):
    service.script(SEAL, FAULTS[fault])
    client = client_of(service, open_outbox() if with_outbox else None, api)
    with pytest.raises(RFTError):
        client.complete_trajectory()
    client.update_reward(1.0)

    assert service.trajectories["t-1"].applied == [SEAL, REWARD]
    assert client.holder.seen.outcome is TrajectoryOutcome.REWARDED


@each_generation
@with_and_without_outbox
def test_report_when_someone_else_sealed_it_as_failed_then_it_ends_as_failed(service, open_outbox, api, with_outbox):
    service.script(SEAL, Trouble(status=503, then=functools.partial(service.seal_elsewhere, State.FAILED)))
    client = client_of(service, open_outbox() if with_outbox else None, api)
    with pytest.raises(RFTError):
        client.report_complete(1.0)
    with pytest.raises(TrajectoryConflictError):
        client.report_complete(1.0)

    assert service.trajectories["t-1"].rewards is None
    assert client.holder.seen.outcome is TrajectoryOutcome.FAILED


@each_generation
@with_and_without_outbox
def test_update_reward_when_refused_before_someone_else_seals_then_it_may_be_given_later(
    service, open_outbox, api, with_outbox
):
    client = client_of(service, open_outbox() if with_outbox else None, api)
    with pytest.raises(TrajectoryConflictError):
        client.update_reward(1.0)
    service.seal_elsewhere(State.READY)
    client.update_reward(1.0)

    assert service.kinds() == [REWARD, REWARD]
    assert client.holder.seen.outcome is TrajectoryOutcome.REWARDED


@each_generation
@with_and_without_outbox
def test_complete_when_the_reward_was_taken_then_failed_is_a_conflict_and_ready_is_a_repetition(
    service, open_outbox, api, with_outbox
):
    service.seal_elsewhere(State.READY)
    client = client_of(service, open_outbox() if with_outbox else None, api)
    client.update_reward(1.0)
    with pytest.raises(DecisionConflictError):
        client.complete_trajectory("failed")
    client.complete_trajectory()

    assert service.kinds() == [REWARD]
    assert client.holder.seen.outcome is TrajectoryOutcome.REWARDED


@each_generation
@pytest.mark.parametrize("kind", [SEAL, REWARD])
def test_report_when_another_deliverer_is_faster_then_its_conflict_is_no_error(service, open_outbox, api, kind):
    outbox = open_outbox()
    other = client_of(service, outbox, api)
    # The call of the first deliverer arrives after all calls of the second one, which began later.
    service.script(kind, Trouble(status=409, then=other.deliver_outstanding))
    client = client_of(service, outbox, api)
    client.report_complete(1.0)

    assert has_reward(service)
    assert outbox.ledger() == (1, 1, 0, 0, 0)


# --- killed here -----------------------------------------------------------------------------------------------------

WRITES = ("receive", "decide", "sealed", "rewarded")
"""What a rollout writes: its arrival, its decision, the confirmed seal, the confirmed reward."""


def _work(payload, path, write, after, api):
    """Run one rollout, and be killed before or after the outbox is written for the n-th time."""
    os.environ["RFT_API"] = api
    writes = iter(range(len(WRITES) + 1))

    def killing(change):
        @functools.wraps(change)
        def changed(self, *args, **kwargs):
            number = next(writes)
            if number == write and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = change(self, *args, **kwargs)
            if number == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return changed

    Outbox.receive, Outbox.update = killing(Outbox.receive), killing(Outbox.update)
    rft_handler(require_turns=False, outbox=path)(lambda payload: 1.0)(payload)


def _killed(service, path, api, *, write=-1, after=False, at_call=None, applied=False):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["aws_rft_sdk.handler", "aws_rft_sdk.feedback._requests"])
    worker = context.Process(target=_work, args=(service.payload(), path, write, after, api))
    if at_call is not None:
        service.script(at_call, Trouble(applied=applied, hang=True, then=lambda: os.kill(worker.pid, signal.SIGKILL)))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL


def _redeliver(service, outbox):
    runs = []

    @rft_handler(require_turns=False, outbox=outbox)
    def handler(payload):
        runs.append(payload)
        return 1.0

    result = handler(service.payload())
    return runs, result


each_recovery = pytest.mark.parametrize("recovery", ["redelivery", "redrive"])
needs_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


def recover_and_check(service, outbox, recovery, *, decided):
    if recovery == "redelivery" or not decided:
        runs, result = _redeliver(service, outbox)
        assert len(runs) == (0 if decided else 1)
        assert result == (RolloutResult.of({"reward": 1.0}) if decided else 1.0)
    else:
        deliver_pending(outbox)
    assert has_reward(service)
    assert outbox.ledger() == (1, 1, 0, 0, 0)
    assert service.trajectories["t-1"].applied == [SEAL, REWARD]


@needs_sigkill
@each_generation
@each_recovery
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(len(WRITES)), ids=WRITES)
def test_worker_when_killed_at_a_write_then_the_reward_arrives_once(
    service, open_outbox, tmp_path, monkeypatch, api, recovery, after, write
):
    monkeypatch.setenv("RFT_API", api)
    _killed(service, tmp_path / "outbox.db", api, write=write, after=after)

    recover_and_check(service, open_outbox(), recovery, decided=write > 1 or (write == 1 and after))


@needs_sigkill
@each_generation
@each_recovery
@pytest.mark.parametrize("applied", [False, True], ids=["before-effect", "after-effect"])
@pytest.mark.parametrize("kind", [SEAL, REWARD])
def test_worker_when_killed_while_a_call_is_on_its_way_then_the_reward_arrives_once(
    service, open_outbox, tmp_path, monkeypatch, api, recovery, kind, applied
):
    monkeypatch.setenv("RFT_API", api)
    _killed(service, tmp_path / "outbox.db", api, at_call=kind, applied=applied)

    recover_and_check(service, open_outbox(), recovery, decided=True)
