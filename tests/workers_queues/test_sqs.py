import asyncio
import functools
import json
import random
import threading

import pytest
from botocore.exceptions import EndpointConnectionError
from fakes import ONCE, error

from aws_rft_sdk import Outbox, RolloutFeedbackClient, rft_handler
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import AtCapacityError, ConfigurationError, ShuttingDownError
from aws_rft_sdk.feedback.redrive import stop_in_background
from aws_rft_sdk.workers._keeper import Delete, Keeper
from aws_rft_sdk.workers._queue import Queue
from aws_rft_sdk.workers.pool import RolloutPool
from aws_rft_sdk.workers.sqs import SqsWorker

from .doing import Agent, eventually, rewards

SOON = Backoff(base_seconds=0.5, cap_seconds=1.0)
"""Rounds to a visibility of no or one second."""


@pytest.fixture
def make_worker(aws):
    workers = []

    def make(url, handler, **options):
        given = {"client": aws.sqs, "wait_seconds": 1, "visibility_seconds": 30, "retry": SOON, **options}
        workers.append(SqsWorker(url, handler, **given))
        return workers[-1].start()

    yield make
    for worker in workers:
        worker.stop(grace_seconds=5)


@pytest.mark.parametrize("fifo", [False, True])
def test_rollouts_when_duplicated_and_shuffled_then_each_is_run_and_rewarded_once(
    aws, make_queue, make_worker, runtime, fifo
):
    url, agent = make_queue(fifo=fifo), Agent()
    payloads = [runtime.new_rollout(f"{n}") for n in range(30)]
    doubled = [*payloads, *payloads]
    random.Random(7).shuffle(doubled)
    aws.send(url, *doubled)

    make_worker(url, agent.handler)

    eventually(lambda: aws.count(url) == 0)
    assert sorted(agent.runs) == sorted(payload["metadata"]["rolloutId"] for payload in payloads)
    assert rewards(runtime) == [(1.0,)] * 30
    assert runtime.problems() == []


def test_rollout_when_longer_than_the_visibility_then_nobody_else_gets_it(aws, make_queue, make_worker, runtime):
    url, agent = make_queue(), Agent()
    agent.gate.clear()
    aws.send(url, *[runtime.new_rollout(f"{n}") for n in range(12)])
    extended = []
    aws.sqs.meta.events.register(
        "provide-client-params.sqs.ChangeMessageVisibilityBatch",
        lambda params, **_: extended.append(len(params["Entries"])),
    )
    make_worker(url, agent.handler, visibility_seconds=1)
    eventually(lambda: len(agent.runs) == 12)

    eventually(lambda: sum(extended) >= 12 * 8)  # more than two seconds: it would have come back twice
    seen = aws.take(url)
    agent.gate.set()
    eventually(lambda: aws.count(url) == 0)

    assert seen == []
    assert max(extended) <= 10
    assert len(agent.runs) == 12
    assert rewards(runtime) == [(1.0,)] * 12


def test_rollout_when_unreported_then_it_is_run_again_until_it_is_reported(aws, make_queue, make_worker, runtime):
    url, agent = make_queue(), Agent()
    payload = runtime.new_rollout("q")
    agent.broken = {payload["metadata"]["rolloutId"]: 2}
    aws.send(url, payload)

    make_worker(url, agent.handler)

    eventually(lambda: aws.count(url) == 0)
    assert len(agent.runs) == 3
    assert rewards(runtime) == [(1.0,)]


@pytest.mark.parametrize("bury", ["redrive", "queue", "nowhere"])
def test_poison_when_it_comes_then_it_goes_to_the_dead_letters_or_stays(
    aws, make_queue, make_worker, runtime, caplog, bury
):
    dead, agent = make_queue("dead"), Agent()
    attributes = {}
    if bury == "redrive":
        arn = aws.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    url = make_queue(**attributes)
    never, good = runtime.new_rollout("never"), runtime.new_rollout("good")
    agent.broken = {never["metadata"]["rolloutId"]: 99}
    malformed = {**good, "metadata": {**good["metadata"], "jobArn": "no arn"}}
    poison = ["no json", {"prompt": "production traffic"}, malformed, never]
    aws.send(url, *poison, good)

    options = {"dead_letter_queue_url": dead} if bury == "queue" else {}
    make_worker(url, agent.handler, max_receives=2, **options)

    eventually(lambda: rewards(runtime)[1] == (1.0,))
    kept = url if bury == "nowhere" else dead
    eventually(lambda: aws.count(kept) == 4 and aws.count(url) == (4 if bury == "nowhere" else 0))
    if bury == "nowhere":
        eventually(lambda: caplog.text.count("there is no dead-letter queue") == 4)
    else:
        buried = [message["Body"] for message in eventually(lambda: aws.take(dead))]
        assert sorted(buried) == sorted(body if isinstance(body, str) else json.dumps(body) for body in poison)
    assert agent.runs.count(never["metadata"]["rolloutId"]) == 2
    assert rewards(runtime)[0] is None


def test_poison_when_the_dead_letter_queue_refuses_it_then_it_goes_back_and_hinders_nothing(
    aws, make_queue, make_worker, runtime, caplog
):
    url, dead, agent = make_queue(), make_queue("dead", MaximumMessageSize="1024"), Agent()
    hidden = []
    aws.sqs.meta.events.register(
        "provide-client-params.sqs.ChangeMessageVisibilityBatch",
        lambda params, **_: hidden.extend(entry["VisibilityTimeout"] for entry in params["Entries"]),
    )
    aws.send(url, "x" * 2000, "no json", runtime.new_rollout("good"))

    worker = make_worker(url, agent.handler, dead_letter_queue_url=dead)

    eventually(lambda: aws.count(url) == 1 and aws.count(dead) == 1)
    assert worker.stop(5)
    assert caplog.text.count("did not take the message") == 1
    assert hidden == [60]
    assert rewards(runtime) == [(1.0,)]


def test_poison_when_workers_die_of_it_then_it_is_buried_unrun(aws, make_queue, make_worker, runtime):
    url, dead, agent = make_queue(VisibilityTimeout="0"), make_queue("dead"), Agent()
    aws.send(url, runtime.new_rollout("deadly"))
    for _ in range(3):
        assert aws.sqs.receive_message(QueueUrl=url)["Messages"]

    make_worker(url, agent.handler, max_receives=3, dead_letter_queue_url=dead)

    eventually(lambda: aws.count(dead) == 1 and aws.count(url) == 0)
    [message] = aws.take(dead)
    assert agent.runs == []
    assert message["MessageAttributes"]["receives"]["StringValue"] == "4"


def test_message_when_there_was_no_slot_many_times_then_it_is_run_and_not_buried(aws, make_queue, make_worker, runtime):
    url, dead, agent = make_queue(), make_queue("dead"), Agent()
    payload = runtime.new_rollout("waits")
    refusals = []

    class Busy(RolloutPool):
        """What a pool looks like whose slots are taken by others as soon as messages are received."""

        def submit(self, payload):
            if len(refusals) < 4:
                refusals.append(payload)
                raise AtCapacityError("all slots are taken", retry_after_seconds=0)
            return super().submit(payload)

    agent.broken = {payload["metadata"]["rolloutId"]: 1}
    aws.send(url, payload)
    with Busy(agent.handler) as pool:
        worker = make_worker(url, pool, max_receives=2, dead_letter_queue_url=dead)

        eventually(lambda: aws.count(url) == 0)
        worker.stop(5)

    assert len(refusals) == 4
    assert len(agent.runs) == 2  # unreported at first: this receive counts
    assert rewards(runtime) == [(1.0,)]
    assert aws.count(dead) == 0


def test_message_when_it_cannot_be_taken_then_it_is_shown_again_and_the_log_says_so(
    aws, make_queue, make_worker, runtime, caplog
):
    url, agent = make_queue(), Agent()

    class Failing(RolloutPool):
        def submit(self, payload):
            attempts.append(payload)
            if len(attempts) == 1:
                raise RuntimeError("can't start new thread")
            return super().submit(payload)

    attempts = []
    aws.send(url, runtime.new_rollout("q"))
    with Failing(agent.handler) as pool:
        worker = make_worker(url, pool, visibility_seconds=600)
        eventually(lambda: aws.count(url) == 0)
        worker.stop(5)

    assert rewards(runtime) == [(1.0,)]
    assert "can't start new thread" in caplog.text


def test_worker_when_stopped_then_it_finishes_and_shows_the_rest(aws, make_queue, make_worker, runtime):
    url, agent = make_queue(), Agent()
    agent.gate.clear()
    aws.send(url, *[runtime.new_rollout(f"{n}") for n in range(5)])
    worker = make_worker(url, agent.handler, max_rollouts=2)
    eventually(lambda: len(agent.runs) == 2)
    stopping = threading.Thread(target=worker.stop, args=(20,))

    stopping.start()
    eventually(lambda: worker._stopping.is_set())
    agent.gate.set()
    stopping.join(30)

    assert len(agent.runs) == 2
    assert rewards(runtime).count((1.0,)) == 2
    assert len(eventually(lambda: aws.take(url))) == 3
    assert aws.count(url) == 0


def test_worker_when_stopped_and_rollouts_hang_then_they_are_reported(aws, make_queue, make_worker, runtime):
    url, agent = make_queue(), Agent(on_error="floor", floor_reward=-1.0)
    agent.gate.clear()
    aws.send(url, runtime.new_rollout("hangs"))
    worker = make_worker(url, agent.handler)
    eventually(lambda: len(agent.runs) == 1)

    assert worker.stop(grace_seconds=3)
    agent.gate.set()

    assert rewards(runtime) == [(-1.0,)]
    assert aws.count(url) == 0


def test_delete_when_throttled_then_tried_until_it_is_done(aws, make_queue, make_worker, runtime):
    url, agent = make_queue(), Agent()
    attempts = []

    def throttle(request, **_):
        attempts.append(request)
        if len(attempts) <= 4:
            raise ConnectionResetError("on purpose") if len(attempts) % 2 else EndpointConnectionError(endpoint_url=url)

    aws.sqs.meta.events.register("before-send.sqs.DeleteMessageBatch", throttle)
    aws.send(url, runtime.new_rollout("q"))

    make_worker(url, agent.handler)

    eventually(lambda: aws.count(url) == 0)
    assert len(attempts) > 4
    assert len(agent.runs) == 1


def test_delete_when_the_worker_stops_before_it_worked_then_the_message_is_not_shown_again(
    aws, make_queue, make_worker, runtime
):
    url, agent = make_queue(), Agent()
    refused = threading.Event()

    def refuse(request, **_):
        if not worker._keeper._stopping:
            refused.set()
            raise ConnectionResetError("on purpose")

    aws.sqs.meta.events.register("before-send.sqs.DeleteMessageBatch", refuse)
    aws.send(url, runtime.new_rollout("q"))
    worker = make_worker(url, agent.handler)
    assert refused.wait(30)

    worker.stop(3)

    assert aws.count(url) == 0
    assert rewards(runtime) == [(1.0,)]


def test_delete_when_its_next_attempt_is_far_away_then_the_end_does_not_wait_for_that(aws, make_queue):
    url, attempts = make_queue(), []

    def refuse_the_first(request, **_):
        attempts.append(request)
        if len(attempts) == 1:
            raise ConnectionResetError("on purpose")

    aws.sqs.meta.events.register("before-send.sqs.DeleteMessageBatch", refuse_the_first)
    queue = Queue(aws.sqs, url)
    keeper = Keeper(queue, visibility_seconds=600, backoff=Backoff(base_seconds=600, cap_seconds=600))
    aws.send(url, "x")
    [message] = queue.receive(1, 0, 600)
    keeper.start()
    keeper.hold(message)
    keeper.decide(message.id, Delete())
    eventually(lambda: keeper._retry_at)

    keeper.stop(30)

    assert keeper.wait(0)
    assert aws.count(url) == 0


def test_message_when_a_killed_worker_had_reported_it_then_deleted(aws, make_queue, make_worker, runtime):
    url, first, second = make_queue(), Agent(), Agent()
    payload = runtime.new_rollout("q")
    first.handler(payload)
    aws.send(url, payload)

    make_worker(url, second.handler)

    eventually(lambda: aws.count(url) == 0)
    assert len(second.runs) == 1  # its first turn is refused, and so is its floor reward
    assert rewards(runtime) == [(1.0,)]


@pytest.mark.parametrize("kept", [True, False])
def test_reward_when_it_cannot_be_delivered_then_the_message_goes_only_if_an_outbox_has_it(
    aws, make_queue, make_worker, service, tmp_path, kept
):
    answer = service.policy
    service.policy = lambda request: answer(request) if "chat" in request.path else error(503)
    outbox = Outbox(tmp_path / "outbox.db") if kept else None
    client = functools.partial(RolloutFeedbackClient, backoff=ONCE, outbox=outbox)
    url, agent = make_queue(), Agent(client=client)
    aws.send(url, service.payload())

    make_worker(url, agent.handler)

    if kept:
        eventually(lambda: aws.count(url) == 0)
        assert outbox.ledger().pending == 1
        stop_in_background(outbox)
        outbox.close()
    else:
        eventually(lambda: len(agent.runs) >= 2)
        assert aws.count(url) == 1
        service.policy = answer
        eventually(lambda: aws.count(url) == 0)
        assert service.feedback[-1] == ("/UpdateReward", [1.0])


@pytest.mark.parametrize("which", ["rollouts", "dead"])
def test_worker_when_a_queue_is_missing_then_it_says_so(aws, make_queue, which):
    url = make_queue()
    given = (f"{url}-not", None) if which == "rollouts" else (url, f"{url}-not")
    worker = SqsWorker(given[0], Agent().handler, client=aws.sqs, dead_letter_queue_url=given[1])
    with pytest.raises(ConfigurationError, match=f"there is no queue {url}-not"):
        worker.run(threading.Event(), grace_seconds=1)


def test_worker_when_as_many_tools_hang_as_it_has_slots_then_it_ends_and_leaves_the_rest(aws, make_queue, runtime):
    url, gate = make_queue(), threading.Event()

    @rft_handler(require_turns=False, floor_reward=-1.0)
    async def handler(payload):
        await asyncio.to_thread(gate.wait)

    aws.send(url, *[runtime.new_rollout(f"{n}") for n in range(3)])
    worker = SqsWorker(url, handler, client=aws.sqs, max_rollouts=2, deadline_seconds=1, wait_seconds=1)
    with pytest.raises(ShuttingDownError, match="start this worker anew"):
        worker.run(threading.Event(), grace_seconds=3)
    gate.set()

    assert rewards(runtime).count((-1.0,)) >= 2
    assert aws.count(url) == 3 - rewards(runtime).count((-1.0,))


@pytest.mark.parametrize("options", [{"visibility_seconds": 0}, {"wait_seconds": 21}, {"max_receives": 0}])
def test_worker_when_an_option_is_wrong_then_configuration_error(aws, options):
    with pytest.raises(ConfigurationError):
        SqsWorker("http://x/q", Agent().handler, client=aws.sqs, **options)
