import asyncio
import json
import random
import string
import threading
import uuid
from collections import Counter

import pytest
from botocore.exceptions import ReadTimeoutError

from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.errors import ConfigurationError, PayloadError
from aws_rft_sdk.runtime import PolicyError
from aws_rft_sdk.runtime.policies import Call
from aws_rft_sdk.workers._queue import Message, Queue
from aws_rft_sdk.workers.nova_forge import GenerateResponse, NovaForgeQueues, NovaForgeWorker, Task, TaskTable, cell_of
from aws_rft_sdk.workers.nova_forge.runtimes import Runtimes
from aws_rft_sdk.workers.nova_forge.tasks import Step
from aws_rft_sdk.workers.nova_forge.turns import QueuePolicy, ResponseIntake

from .doing import Agent, eventually
from .trainer import Trainer, digest_of


@pytest.fixture
def queues(make_queue):
    return NovaForgeQueues(
        make_queue("rollout-requests", fifo=True),
        make_queue("rollout-responses"),
        make_queue("generate-requests"),
        make_queue("generate-responses"),
    )


@pytest.fixture
def make_tasks(aws):
    name = f"tasks-{uuid.uuid4().hex[:8]}"

    def make(**options):
        table = TaskTable(name, aws.dynamodb, **{"lease_seconds": 10.0, **options})
        table.create()
        return table

    return make


@pytest.fixture
def trainer(aws, queues):
    with Trainer(aws, queues) as trainer:
        yield trainer


@pytest.fixture
def make_worker(aws, queues, make_tasks):
    workers = []

    def make(handler, **options):
        tasks = options.pop("tasks", None) or make_tasks()
        given = {"client": aws.sqs, "wait_seconds": 1, "visibility_seconds": 10, **options}
        workers.append(NovaForgeWorker(queues, handler, tasks, **given))
        return workers[-1].start()

    yield make
    for worker in workers:
        worker.stop(grace_seconds=5)


ANSWER = json.dumps({"sample_id": "a_0", "step_id": "a_0_0", "data": {"choices": [{"message": {"content": "four"}}]}})


def conversations(*workers):
    """Turns of all rollouts: what was answered, and what should have been."""
    turns = [turn for worker in workers for item in worker.runtime.trajectories() for turn in item.turns]
    return [(turn.message["content"], digest_of(turn.request["messages"])) for turn in turns]


def test_rollouts_when_everything_comes_twice_and_out_of_order_then_each_is_rewarded_once(
    aws, queues, trainer, make_tasks, make_worker
):
    samples = [f"{row}_{index}" for row in range(3) for index in range(2)]
    agents = [Agent(turns=3), Agent(turns=3)]
    # A short lease: the second message about a rollout comes back after it.
    workers = [
        make_worker(agent.handler, visibility_seconds=3, tasks=make_tasks(lease_seconds=3.0)) for agent in agents
    ]

    trainer.ask(*samples, *reversed(samples))

    eventually(lambda: len(trainer.scores) == len(samples) and aws.count(queues.rollout_requests) == 0, seconds=60.0)
    for worker in workers:
        worker.stop(grace_seconds=10)
    assert Counter(item["sample_id"] for item in trainer.responses) == Counter(samples)
    assert set(trainer.scores.values()) == {1.0}
    assert {item["stop_reason"] for item in trainer.responses} == {"end_of_conversation"}
    assert sorted(agents[0].runs + agents[1].runs) == sorted(samples)
    assert trainer.asked == {f"{sample}_{turn}": 1 for sample in samples for turn in range(3)}
    turns = conversations(*workers)
    assert len(turns) == 3 * len(samples)
    assert all(answer == expected for answer, expected in turns)


def test_turn_when_answered_with_tokens_then_they_are_recorded(trainer, make_worker):
    worker = make_worker(Agent().handler)

    trainer.ask("a_0")

    eventually(lambda: trainer.scores)
    [trajectory] = worker.runtime.trajectories()
    assert trajectory.turns[0].token_ids == (1, 2, 3)
    assert trajectory.turns[0].logprobs == (-0.5, -1.0, -1.5)
    assert trainer.requests == [
        {
            "version": "v0",
            "sample_id": "a_0",
            "step_id": "a_0_0",
            "messages": [{"role": "user", "content": "2 + 2?"}],
        }
    ]
    assert trainer.responses == [
        {
            "version": "v0",
            "sample_id": "a_0",
            "stop_reason": "end_of_conversation",
            "rewards": {"aggregate_score": 1.0},
        }
    ]


def test_request_when_it_was_answered_before_then_deleted_with_a_warning(aws, queues, trainer, make_worker, caplog):
    agent = Agent()
    make_worker(agent.handler)
    trainer.ask("a_0")
    eventually(lambda: trainer.scores and aws.count(queues.rollout_requests) == 0)

    trainer.ask("a_0")

    eventually(lambda: aws.count(queues.rollout_requests) == 0)
    assert "sample_id=<a_0> | it was answered before" in caplog.text
    assert agent.runs == ["a_0"]
    assert len(trainer.responses) == 1


def test_turn_when_never_answered_then_it_fails_and_is_not_asked_for_again(trainer, make_worker):
    trainer.silent.add("a_0_1")
    make_worker(Agent(turns=3, on_error="floor", floor_reward=0.25).handler, turn_seconds=0.5)

    trainer.ask("a_0")

    eventually(lambda: trainer.scores)
    assert trainer.scores == {"a_0": 0.25}
    assert trainer.asked == {"a_0_0": 1, "a_0_1": 1}


def test_handler_when_it_fails_without_a_floor_then_the_response_says_so(trainer, make_worker):
    trainer.silent.add("a_0_0")
    make_worker(Agent(on_error="failed").handler, turn_seconds=0.5)

    trainer.ask("a_0")

    eventually(lambda: trainer.scores)
    assert trainer.responses[0]["stop_reason"] == "error"
    assert trainer.scores == {"a_0": None}


@pytest.mark.parametrize(("limits", "score"), [((0.0, 1.0), 1.0), ((-1.0, 0.5), 0.5), ((2.0, 3.0), 2.0)])
def test_score_when_outside_the_range_then_its_end_and_a_warning(trainer, make_worker, caplog, limits, score):
    make_worker(Agent().handler)

    trainer.ask("a_0", limits=limits)

    eventually(lambda: trainer.scores)
    assert trainer.scores == {"a_0": score}
    assert ("outside the range" in caplog.text) == (score != 1.0)


def test_rollout_when_unreported_then_tried_again_and_then_buried(aws, queues, trainer, make_worker, make_queue):
    dead, agent = make_queue("dead"), Agent()
    agent.broken = {"once_0": 1, "never_0": 99}
    make_worker(agent.handler, max_attempts=2, dead_letter_queue_url=dead)

    trainer.ask("once_0", "never_0")
    aws.send(queues.rollout_requests, {"sample_id": "malformed_0"})

    eventually(lambda: aws.count(dead) == 2 and aws.count(queues.rollout_requests) == 0 and trainer.scores)
    assert trainer.scores == {"once_0": 1.0}
    assert Counter(agent.runs) == {"once_0": 2, "never_0": 2}
    # Its second try goes on with the answer that the first one got.
    assert trainer.asked == {"once_0_0": 1, "never_0_0": 1}
    buried = [json.loads(message["Body"])["sample_id"] for message in eventually(lambda: aws.take(dead))]
    assert sorted(buried) == ["malformed_0", "never_0"]


@pytest.mark.parametrize(
    ("service", "operation", "part"), [("sqs", "SendMessage", b"aggregate_score"), ("dynamodb", "UpdateItem", b"")]
)
def test_client_when_it_raises_what_is_not_botocores_then_the_rollout_is_still_answered(
    aws, queues, trainer, make_worker, service, operation, part
):
    raised = []

    def fail(request, **_):
        if part in request.body and not raised:
            raised.append(operation)
            raise RuntimeError("on purpose")

    getattr(aws, service).meta.events.register(f"before-send.{service}.{operation}", fail)
    make_worker(Agent().handler)

    trainer.ask("a_0")

    eventually(lambda: trainer.scores and aws.count(queues.rollout_requests) == 0)
    assert trainer.scores == {"a_0": 1.0}
    assert raised


def test_container_when_killed_then_another_goes_on_with_its_answers(aws, queues, make_tasks, make_worker, trainer):
    now = [1000.0]
    dead = make_tasks(clock=lambda: now[0])
    asked = [{"role": "user", "content": "2 + 2?"}]
    # What the first container did: it took the rollout, got one answer, asked for the next turn, and was killed.
    assert dead.claim("a_0").state == "ours"
    make_worker(Agent(turns=2).handler, tasks=make_tasks(clock=lambda: now[0]))
    trainer.ask("a_0")
    eventually(lambda: aws.count(queues.rollout_requests) == 1)
    assert trainer.requests == []

    now[0] += 11.0

    eventually(lambda: trainer.scores, 60)
    assert trainer.scores == {"a_0": 1.0}
    assert trainer.requests[0]["messages"] == asked
    assert dead.decide("a_0", "{}") is False


def test_steps_when_asked_for_again_then_known_and_never_mixed_up(make_tasks):
    first, second = make_tasks(), make_tasks()

    assert first.begin_step("a_0_0", "x").state == "new"
    assert second.begin_step("a_0_0", "x").state == "asked"
    assert not first.answer_step("a_0_1", "{}")  # nobody noted it
    assert first.answer_step("a_0_0", '{"four": 4}')
    assert second.answer_step("a_0_0", '{"five": 5}')  # there is one already
    assert second.begin_step("a_0_0", "x") == ("answered", '{"four": 4}')
    assert second.begin_step("a_0_0", "y").state == "other"
    assert second.answer_of("a_0_0") == '{"four": 4}'
    first.forget_step("a_0_0")
    assert second.begin_step("a_0_0", "y").state == "new"
    assert second.answer_of("a_0_0") is None
    noise = "".join(random.choices(string.printable, k=600_000))
    assert not second.answer_step("a_0_0", noise)  # no item holds it


def test_step_when_the_answer_to_its_note_is_lost_and_the_put_repeated_then_it_is_still_new(aws, make_tasks):
    puts = []

    def lose_the_first_answer(**_):
        puts.append(1)
        return 0 if len(puts) == 1 else None  # botocore sends it again after so many seconds

    tasks = make_tasks()
    aws.dynamodb.meta.events.register("needs-retry.dynamodb.PutItem", lose_the_first_answer)

    assert tasks.begin_step("a_0_0", "x").state == "new"
    assert len(puts) == 2
    assert tasks.begin_step("a_0_0", "x").state == "asked"


def test_turn_when_no_answer_to_its_note_came_then_asked_for_once_when_it_is_repeated(aws, queues, make_tasks):
    puts = []

    def lose_the_first_answer(**_):
        puts.append(1)
        if len(puts) == 1:
            raise ReadTimeoutError(endpoint_url="http://x")

    aws.dynamodb.meta.events.register("after-call.dynamodb.PutItem", lose_the_first_answer)
    policy = QueuePolicy(Queue(aws.sqs, queues.generate_requests), make_tasks(), turn_seconds=1)

    with pytest.raises(PolicyError, match="cannot be asked for"):
        policy._ask("a_0", 0, {"messages": []})
    assert aws.count(queues.generate_requests) == 0
    policy._ask("a_0", 0, {"messages": []})
    policy.close()

    assert aws.count(queues.generate_requests) == 1


def test_turn_when_its_stored_answer_is_delivered_again_meanwhile_then_it_is_answered_once():

    class Tasks:
        def begin_step(self, step_id, digest):
            assert policy.deliver(GenerateResponse.parse(ANSWER), ANSWER)
            return Step("answered", ANSWER)

        def answer_step(self, step_id, response):
            assert response == ANSWER
            return True

    policy = QueuePolicy(None, Tasks(), turn_seconds=1)
    step_id, future = policy._ask("a_0", 0, {"messages": []})
    policy.close()

    assert (step_id, future.result(0)) == ("a_0_0", GenerateResponse.parse(ANSWER))


def test_answer_when_the_table_fails_then_who_waits_for_it_has_it_nevertheless():
    class Tasks:
        def begin_step(self, step_id, digest):
            return Step("asked")

        def answer_step(self, step_id, response):
            raise RuntimeError("on purpose")

    policy = QueuePolicy(None, Tasks(), turn_seconds=1)
    _, future = policy._ask("a_0", 0, {"messages": []})

    assert policy.deliver(GenerateResponse.parse(ANSWER), ANSWER)
    policy.close()

    assert future.result(0) == GenerateResponse.parse(ANSWER)


def test_tasks_when_claimed_then_one_owner_at_a_time_and_one_decision(make_tasks):
    now = [1000.0]
    first, second = make_tasks(clock=lambda: now[0]), make_tasks(clock=lambda: now[0])

    assert first.claim("s") == ("ours", None, 0.0, 1)
    assert second.claim("s") == ("taken", None, 10.0, 1)
    now[0] += 6
    assert first.renew("s")
    now[0] += 6
    assert second.claim("s").state == "taken"
    now[0] += 6
    assert second.claim("s") == ("ours", None, 0.0, 2)
    assert not first.renew("s")
    assert not first.decide("s", "first")
    assert second.decide("s", "second")
    assert second.renew("s")  # until it is sent
    assert not second.decide("s", "another")
    assert first.claim("s").state == "taken"  # its owner may be sending it just now
    now[0] += 11
    assert first.claim("s")[:2] == ("decided", "second")
    assert second.claim("s").state == "taken"
    first.confirm("s")
    assert second.claim("s").state == "sent"
    assert not first.renew("s")
    assert second.claim("t").state == "ours"
    second.release("t")
    now[0] += 1
    assert first.claim("t").state == "ours"


def test_response_when_decided_and_never_sent_then_the_next_container_sends_it(trainer, make_tasks, make_worker):
    now = [1000.0]
    dead = make_tasks(clock=lambda: now[0])
    dead.claim("a_0")
    dead.decide("a_0", json.dumps({"sample_id": "a_0", "rewards": {"aggregate_score": 0.75}}))
    now[0] += 11
    agent = Agent()
    make_worker(agent.handler, tasks=make_tasks(clock=lambda: now[0]))

    trainer.ask("a_0")

    eventually(lambda: trainer.scores)
    assert trainer.scores == {"a_0": 0.75}
    assert agent.runs == []


def test_response_when_another_container_receives_it_then_it_gets_to_the_one_that_waits(aws, queues, make_tasks):
    requests = Queue(aws.sqs, queues.generate_requests)
    waiting, other = (QueuePolicy(requests, make_tasks(), turn_seconds=30) for _ in range(2))
    waiting.expect("t", "a_0")
    call = Call(request={"messages": []}, body=b"", stream=False, trajectory_id="t", turn=0)

    async def ask():
        answer = asyncio.ensure_future(waiting.answer(call))
        await asyncio.to_thread(eventually, lambda: aws.count(queues.generate_requests))
        assert await asyncio.to_thread(other.deliver, GenerateResponse.parse(ANSWER), ANSWER)
        return await answer

    assert asyncio.run(ask())["choices"][0]["message"]["content"] == "four"
    waiting.close()
    other.close()


def test_response_when_nobody_noted_its_turn_then_it_stays_for_whoever_does(
    aws, queues, trainer, make_tasks, make_worker
):
    foreign = {"version": "v0", "sample_id": "b_0", "step_id": "b_0_0", "data": {"choices": [{"message": {}}]}}
    tasks = make_tasks()
    agent = Agent()
    agent.gate.clear()
    make_worker(agent.handler, tasks=tasks)
    trainer.ask("a_0")
    eventually(lambda: agent.runs)
    receives = []
    aws.sqs.meta.events.register("after-call.sqs.ReceiveMessage", lambda parsed, **_: receives.append(parsed))

    def seen():
        return sum(message["Body"] == json.dumps(foreign) for item in receives for message in item.get("Messages", ()))

    aws.send(queues.generate_responses, foreign)
    eventually(seen)
    assert aws.count(queues.generate_responses) == 1
    other = make_tasks()
    other.begin_step("b_0_0", "x")

    eventually(lambda: aws.count(queues.generate_responses) == 0)
    assert json.loads(other.answer_of("b_0_0")) == foreign
    agent.gate.set()
    eventually(lambda: trainer.scores)


def test_response_when_it_is_left_in_the_queue_then_shown_less_and_less_often(aws, queues, make_tasks, caplog):
    policy = QueuePolicy(Queue(aws.sqs, queues.generate_requests), make_tasks(), turn_seconds=1)
    hidden = []
    aws.sqs.meta.events.register(
        "provide-client-params.sqs.ChangeMessageVisibilityBatch",
        lambda params, **_: hidden.extend(entry["VisibilityTimeout"] for entry in params["Entries"]),
    )
    answers = ResponseIntake(Queue(aws.sqs, queues.generate_responses), policy, wait_seconds=0, visibility_seconds=30)

    for receives in (1, 2, 3, 5000):
        answers._take(Message("id", "handle", ANSWER, receives))
    policy.close()

    assert hidden == [4, 16, 64, 600]
    assert caplog.text.count("nobody takes this generate response") == 1


def test_runtimes_when_one_has_served_its_share_then_it_ends_with_its_last_rollout(aws, queues, make_tasks):
    policy = QueuePolicy(Queue(aws.sqs, queues.generate_requests), make_tasks(), turn_seconds=1)
    runtimes = Runtimes(policy, None, rollouts_each=2)
    runtimes.start()
    used = [runtimes.acquire() for _ in range(5)]
    assert [used.index(runtime) for runtime in used] == [0, 0, 2, 2, 4]

    for runtime in used[:3]:
        runtime.new_rollout("q")
        runtimes.release(runtime)

    with pytest.raises(RuntimeError, match="stopped"):
        used[0].new_rollout("q")
    used[2].new_rollout("q")
    used[4].new_rollout("q")
    runtimes.stop()
    policy.close()
    with pytest.raises(RuntimeError, match="stopped"):
        used[2].new_rollout("q")


# --- messages --------------------------------------------------------------------------------------------------------

REQUEST = {"version": "v0", "sample_id": "1_2", "max_length": 9, "rewards": {"range": [0, 1]}, "data": {"prompt": "q"}}
CHOICE = {"message": {"content": "4"}, "logprobs": {"content": [{"token": "token_id:7", "logprob": -1}]}}
RESPONSE = {"sample_id": "1_2", "step_id": "1_2_0", "data": {"choices": [CHOICE]}, "finish_reason": "length"}


def test_messages_when_well_formed_then_read():
    assert Task.parse(json.dumps(REQUEST)) == Task("1_2", {"prompt": "q"}, 9, 0.0, 1.0)
    assert Task.parse(json.dumps({"sample_id": "w\u00f3z 1_0", "data": "q"})) == Task("w\u00f3z 1_0", "q")
    read = GenerateResponse.parse(json.dumps(RESPONSE)).completion["choices"][0]
    assert (read["token_ids"], read["finish_reason"]) == ([7], "length")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sample_id": ""}, "sample_id"),
        ({"sample_id": "a\n"}, "sample_id"),
        ({"sample_id": "a" * 257}, "sample_id"),
        ({"data": None}, "data"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": True}, "max_length"),
        ({"rewards": {"range": [1, 0]}}, "rewards.range"),
        ({"rewards": {"range": [0]}}, "rewards.range"),
        ({"rewards": {"range": [0, "1"]}}, "rewards.range"),
        ({"rewards": {"range": [0, 10**400]}}, "rewards.range"),
    ],
)
def test_rollout_request_when_malformed_then_the_field_is_named(change, field):
    with pytest.raises(PayloadError) as caught:
        Task.parse(json.dumps({**REQUEST, **change}))
    assert caught.value.field == field


@pytest.mark.parametrize("data", [None, [], {}, {"choices": []}, {"choices": [1]}, {"choices": [{"message": "x"}]}])
def test_generate_response_when_malformed_then_payload_error(data):
    with pytest.raises(PayloadError, match=r"data\.choices"):
        GenerateResponse.parse(json.dumps({**RESPONSE, "data": data}))
    for body in ("{", "[]"):
        with pytest.raises(PayloadError):
            GenerateResponse.parse(body)


def test_cell_when_of_a_multiturn_row_then_as_for_a_job():
    packed = unpack(cell_of({"prompt": "2+2?", "answer": "4", "info": {"level": 1}}))
    assert (packed.question, packed.ground_truth) == ("2+2?", "4")
    assert cell_of("text") == "text"
    assert json.loads(cell_of({"anything": 1})) == {"anything": 1}


@pytest.mark.parametrize("options", [{"deadline_seconds": 600}, {"visibility_seconds": 0}, {"max_attempts": 0}])
def test_worker_when_an_option_is_wrong_then_configuration_error(aws, queues, make_tasks, options):
    with pytest.raises(ConfigurationError):
        NovaForgeWorker(queues, Agent().handler, make_tasks(), client=aws.sqs, **options)


def test_worker_when_an_outbox_is_set_then_configuration_error(aws, queues, make_tasks, monkeypatch):
    monkeypatch.setenv("RFT_OUTBOX", "o.db")
    with pytest.raises(ConfigurationError, match="RFT_OUTBOX"):
        NovaForgeWorker(queues, Agent().handler, make_tasks(), client=aws.sqs)


@pytest.mark.parametrize("name", [*NovaForgeQueues._fields, "dead"])
def test_worker_when_a_queue_is_missing_then_it_says_so(aws, queues, make_tasks, name):
    agent, missing = Agent(), f"{queues.generate_requests}x"
    options = {"dead_letter_queue_url": missing} if name == "dead" else {}
    queues = queues if options else queues._replace(**{name: missing})
    aws.send(queues.rollout_requests, REQUEST) if name != "rollout_requests" else None
    worker = NovaForgeWorker(queues, agent.handler, make_tasks(), client=aws.sqs, wait_seconds=0, **options)
    with pytest.raises(ConfigurationError, match=f"there is no queue {missing}"):
        worker.run(threading.Event(), grace_seconds=1)
    assert agent.runs == []


def test_worker_when_the_table_is_missing_or_has_another_key_then_it_says_so(aws, queues, make_tasks):
    other = make_tasks().name + "-other"
    aws.dynamodb.create_table(
        TableName=other,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    for name in (other, "nowhere"):
        tasks = TaskTable(name, aws.dynamodb)
        with pytest.raises(ConfigurationError, match=f"there is no table {name}"):
            NovaForgeWorker(queues, Agent().handler, tasks, client=aws.sqs).run(threading.Event(), grace_seconds=1)
