"""Handlers, clients and re-drive over an outbox, against a real runtime that fails when it is told to."""

import asyncio
import logging
import os
import sqlite3
import threading
from dataclasses import replace

import pytest
import requests
from fakes import ONCE, TWICE, leave_pending, refused_endpoint

from aws_rft_sdk import LocalRuntime, RFTContext, RolloutFeedbackClient, RolloutResult, rft_handler
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._decision import Decision, TrajectoryOutcome
from aws_rft_sdk.client import AsyncRolloutFeedbackClient
from aws_rft_sdk.errors import (
    DecisionConflictError,
    OutboxError,
    ServiceConnectionError,
    ServiceFaultError,
    TrajectoryConflictError,
    TrajectoryNotFoundError,
)
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.feedback.redrive import Delivered, Redriver, deliver_pending, stop_in_background
from aws_rft_sdk.runtime import Fault, Faults
from aws_rft_sdk.types import TrajectoryStatus

NOW = Backoff(base_seconds=0.0)


@pytest.fixture
def outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    yield outbox
    stop_in_background(outbox)
    outbox.close()


@pytest.fixture
def runtime():
    with LocalRuntime(policy=lambda request: "4") as runtime:
        yield runtime


def client_of(payload, outbox, **options):
    return RolloutFeedbackClient(payload, outbox=outbox, **{"backoff": NOW, **options})


def infer(payload):
    answer = requests.post(
        f"{payload['metadata']['endpoint']}/v1/chat/completions",
        headers=RFTContext.get_headers(),
        json={"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]},
        timeout=10,
    )
    assert answer.ok


def handler_for(outbox, result=1.0, **options):
    """Return a handler that counts its runs, tracks one turn for each reward, and returns or raises `result`."""

    @rft_handler(client=lambda request: client_of(request, outbox, backoff=TWICE), **options)
    def handler(payload):
        handler.runs += 1
        for _ in result if isinstance(result, list) else [result]:
            infer(payload)
        if isinstance(result, BaseException):
            raise result
        return {"reward": result}

    handler.runs = 0
    return handler


def status_of(runtime, payload):
    trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])
    return trajectory.status, trajectory.rewards


REWARDED = TrajectoryStatus.REWARD_RECEIVED


def test_handler_when_delivered_then_the_ledger_says_rewarded(runtime, outbox):
    payload = runtime.new_rollout("p")

    handler_for(outbox)(payload)

    assert status_of(runtime, payload) == (REWARDED, (1.0,))
    assert outbox.ledger() == (1, 1, 0, 0, 0)


def test_handler_when_it_fails_without_reward_then_the_ledger_says_failed(runtime, outbox):
    payload = runtime.new_rollout("p")
    with pytest.raises(LookupError):
        handler_for(outbox, LookupError("no"), on_error="failed")(payload)

    assert outbox.ledger() == (1, 0, 1, 0, 0)


def test_handler_when_the_service_is_down_then_the_reward_stays_and_is_delivered_later(outbox, caplog):
    faults = Faults(Fault("status", route="feedback", status=503, attempts=range(1, 5)))
    with (
        LocalRuntime(policy=lambda request: "4", faults=faults) as runtime,
        caplog.at_level(logging.WARNING, "aws_rft_sdk"),
    ):
        payload = runtime.new_rollout("p")
        assert handler_for(outbox)(payload) == {"reward": 1.0}
        assert "stays in the outbox" in caplog.text
        (entry,) = outbox.entries()
        assert (entry.outcome, entry.rewards, entry.attempts) == (TrajectoryOutcome.PENDING, (1.0,), 1)
        assert "ServiceFaultError" in entry.last_error

        results = [deliver_pending(outbox) for _ in range(8)]

        assert results[-1] == Delivered(0, 0)
        assert sum(result.delivered for result in results) == 1
        assert status_of(runtime, payload) == (REWARDED, (1.0,))
    assert outbox.ledger() == (1, 1, 0, 0, 0)


def test_client_when_the_service_is_down_then_the_caller_hears_it_and_the_outbox_holds_it(outbox):
    with (
        LocalRuntime(
            policy=lambda request: "4", faults=Faults(Fault("status", route="complete", status=500))
        ) as runtime,
        pytest.raises(ServiceFaultError),
    ):
        client_of(runtime.new_rollout("p"), outbox, backoff=ONCE).report_complete(0.5)

    assert [entry.rewards for entry in outbox.entries()] == [(0.5,)]


def test_handler_when_delivered_twice_then_it_runs_once_and_the_decision_comes_back(runtime, outbox):
    payload = runtime.new_rollout("p")
    handler = handler_for(outbox, [0.25, 0.75])
    handler(payload)

    again = handler(payload)

    assert handler.runs == 1
    assert again == RolloutResult(rewards=(0.25, 0.75))
    assert status_of(runtime, payload) == (REWARDED, (0.25, 0.75))


@pytest.mark.parametrize("kind", ["coroutine", "generator", "async_generator"])
def test_handler_of_any_kind_when_delivered_twice_then_it_runs_once(runtime, outbox, kind):
    runs = []

    def one(payload):
        runs.append(RFTContext.get_headers())
        return {"reward": 1.0}

    async def coroutine(payload):
        return one(payload)

    def generator(payload):
        yield one(payload)

    async def async_generator(payload):
        yield one(payload)

    async def consume(items):
        return [item async for item in items]

    handler = rft_handler(outbox=outbox)(locals()[kind])
    payload = runtime.new_rollout("p")
    collect = {
        "coroutine": lambda: [asyncio.run(handler(payload))],
        "generator": lambda: list(handler(payload)),
        "async_generator": lambda: asyncio.run(consume(handler(payload))),
    }[kind]

    assert collect() == [{"reward": 1.0}]
    assert collect() == [RolloutResult(reward=1.0)]
    assert len(runs) == 1
    assert outbox.ledger() == (1, 1, 0, 0, 0)


def test_handler_when_delivered_again_while_pending_then_the_second_delivery_delivers(outbox):
    faults = Faults(Fault("status", route="complete", status=503, attempts=range(1, 3)))
    with LocalRuntime(policy=lambda request: "4", faults=faults) as runtime:
        payload = runtime.new_rollout("p")
        handler = handler_for(outbox)
        handler(payload)
        assert outbox.ledger().pending == 1
        handler(payload)

        assert handler.runs == 1
        assert status_of(runtime, payload) == (REWARDED, (1.0,))


def test_client_when_another_decision_comes_then_nothing_is_sent_and_both_are_shown(runtime, outbox):
    payload = runtime.new_rollout("p")
    client_of(payload, outbox).report_complete(1.0)

    with pytest.raises(DecisionConflictError, match=r"\[1\.0\].*\[0\.0\]"):
        client_of(payload, outbox).report_complete(0.0)

    assert status_of(runtime, payload) == (REWARDED, (1.0,))


def test_handler_when_the_outbox_cannot_be_written_then_it_does_not_run(runtime, tmp_path):
    broken = Outbox(tmp_path / "missing" / "outbox.db")
    handler = handler_for(broken)

    with pytest.raises(OutboxError):
        handler(runtime.new_rollout("p"))

    assert handler.runs == 0


def test_deferred_handler_when_rewarded_later_by_another_client_then_the_ledger_balances(runtime, outbox):
    payload = runtime.new_rollout("p")

    @rft_handler(reward="deferred", outbox=outbox)
    def handler(payload):
        return None

    handler(payload)
    assert outbox.ledger() == (1, 0, 0, 0, 1)
    RolloutFeedbackClient(payload).complete_trajectory()  # somewhere else, without an outbox
    client_of(payload, outbox).update_reward(0.5)

    assert status_of(runtime, payload) == (REWARDED, (0.5,))
    assert outbox.ledger() == (1, 1, 0, 0, 0)


def test_handler_when_the_answer_is_lost_after_commit_then_the_repetition_counts_as_done(outbox):
    faults = Faults(Fault("reset", route="feedback", after=True, attempts=[1]))
    with LocalRuntime(policy=lambda request: "4", faults=faults) as runtime:
        payload = runtime.new_rollout("p")
        handler_for(outbox)(payload)

        assert status_of(runtime, payload) == (REWARDED, (1.0,))
    assert outbox.ledger() == (1, 1, 0, 0, 0)


def test_outbox_of_the_environment_is_used_when_no_argument_names_one(runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_OUTBOX", str(tmp_path / "env.db"))
    client = RolloutFeedbackClient(runtime.new_rollout("p"))
    client.report_complete(1.0)

    assert client.outbox.ledger() == (1, 1, 0, 0, 0)
    client.outbox.close()


def test_redriver_when_something_is_due_then_it_is_delivered_in_the_background(outbox):
    delivered = threading.Event()
    now = [1_000.0]
    outbox._clock = lambda: now[0]
    with LocalRuntime(
        policy=lambda request: "4", faults=Faults(Fault("status", route="complete", status=500, attempts=[1]))
    ) as runtime:
        payload = runtime.new_rollout("p")
        with pytest.raises(ServiceFaultError):
            client_of(payload, outbox, backoff=ONCE).report_complete(1.0)
        now[0] += 3600.0

        def deliver(box, entry):
            client_of(payload, box).deliver_outstanding()
            delivered.set()

        redriver = Redriver(outbox, poll_seconds=0.01, deliver=deliver).start()
        assert delivered.wait(30)
        redriver.stop()

        assert status_of(runtime, payload) == (REWARDED, (1.0,))
    assert outbox.ledger() == (1, 1, 0, 0, 0)


def test_drain_when_some_cannot_be_delivered_then_the_others_are(runtime, outbox):
    with LocalRuntime() as gone:
        lost = gone.new_rollout("lost")
        leave_pending(outbox, client_of(lost, None))
    payload = runtime.new_rollout("p")
    good = client_of(payload, None)
    leave_pending(outbox, good, (0.5,))

    assert deliver_pending(outbox) == Delivered(delivered=1, postponed=1)
    assert status_of(runtime, payload) == (REWARDED, (0.5,))


def test_async_client_when_awaited_then_the_loop_goes_on_meanwhile(runtime):
    payload = runtime.new_rollout("p")

    async def main():
        client = AsyncRolloutFeedbackClient(payload)
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await client.report_complete([1.0])
        ticking.cancel()
        return ticks

    assert asyncio.run(main()) > 1
    assert status_of(runtime, payload) == (REWARDED, (1.0,))


def test_drain_when_someone_else_decided_then_it_is_refused_and_not_taken_for_done(runtime, outbox):
    payload = runtime.new_rollout("p")
    RolloutFeedbackClient(payload).report_complete(0.0)  # somebody else, without the outbox
    with pytest.raises(TrajectoryConflictError):
        client_of(payload, outbox).report_complete(1.0)

    assert outbox.ledger() == (1, 0, 1, 0, 0)
    assert deliver_pending(outbox) == Delivered(0, 0)
    assert status_of(runtime, payload) == (REWARDED, (0.0,))
    assert "TrajectoryConflictError" in outbox.entries()[0].last_error


def test_drain_when_the_trajectory_is_gone_then_it_is_given_up_loudly(runtime, outbox, caplog):
    payload = runtime.new_rollout("p")
    payload["metadata"]["rolloutId"] = "deleted"
    client = client_of(payload, None)
    leave_pending(outbox, client)

    assert deliver_pending(outbox) == Delivered(delivered=0, postponed=0, refused=1)
    assert "refuses the feedback for good" in caplog.text
    assert outbox.ledger().failed == 1
    with pytest.raises(TrajectoryNotFoundError):  # whoever reports it again hears it again
        client_of(payload, outbox).report_complete(1.0)


def test_drain_when_the_process_was_killed_after_sending_then_already_done_counts_as_done(runtime, outbox, caplog):
    payload = runtime.new_rollout("p")
    client = client_of(payload, None, api="ga")
    leave_pending(outbox, client)
    for _ in range(2):  # both calls are on their way, and nobody noted their answers
        outbox.update(client.metadata, client.endpoint, "sigv4", Decision.begin, lambda before: before)
        outbox.update(client.metadata, client.endpoint, "sigv4", lambda before: replace(before, reward=before.seal))
    # They took effect under other tokens, as those of a process of another version would.
    RolloutFeedbackClient(payload, api="alpha").report_complete(1.0)

    assert deliver_pending(outbox) == Delivered(delivered=1, postponed=0)
    assert outbox.ledger() == (1, 1, 0, 0, 0)
    assert "counts as delivered" in caplog.text  # nothing on the wire says whose reward it is


def test_handler_when_killed_between_seal_and_reward_then_the_next_delivery_gives_a_reward(runtime, outbox):
    payload = runtime.new_rollout("p")
    client_of(payload, outbox).complete_trajectory()

    @rft_handler(require_turns=False, outbox=outbox)
    def handler(payload):
        return 0.5

    assert handler(payload) == 0.5
    assert status_of(runtime, payload) == (REWARDED, (0.5,))


def test_drain_when_the_endpoint_was_trusted_in_code_then_it_is_deliverable_later(runtime, outbox):
    payload = runtime.new_rollout("p")
    with refused_endpoint() as nobody:
        host = nobody.removeprefix("http://")
        payload["metadata"]["endpoint"] = f"https://{host}"
        client = client_of(payload, outbox, trusted_endpoints=[host], backoff=ONCE)
        with pytest.raises(ServiceConnectionError):
            client.report_complete(1.0)
    # The same name leads to a runtime that answers now.
    elsewhere = client.endpoint._replace(url=runtime.endpoint)
    with sqlite3.connect(outbox.path) as connection:
        connection.execute("UPDATE feedback SET url = ?", (elsewhere.url,))
    connection.close()

    assert deliver_pending(outbox) == Delivered(delivered=1, postponed=0)


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_outbox_when_made_then_only_its_owner_may_read_it(outbox):
    outbox.entries()

    assert outbox.path.stat().st_mode & 0o077 == 0


def test_decorating_when_an_earlier_process_left_something_then_it_is_delivered_without_a_rollout(runtime, outbox):
    payload = runtime.new_rollout("p")
    client = client_of(payload, None)
    now = [1_000.0]
    outbox._clock = lambda: now[0]
    leave_pending(outbox, client)
    now[0] += 3600.0

    rft_handler(outbox=outbox)(lambda payload: None)

    for _ in range(6000):
        if status_of(runtime, payload)[0] is REWARDED:
            break
        threading.Event().wait(0.01)
    assert status_of(runtime, payload) == (REWARDED, (1.0,))
