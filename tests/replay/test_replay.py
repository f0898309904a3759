"""The replay of rollouts of small agents: noise, order, lost turns, torn folders."""

import asyncio
import dataclasses
import itertools
import json
import sqlite3
import threading
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from strands import Agent

from aws_rft_sdk import LocalRuntime, RFTContext, RolloutResult, rft_handler
from aws_rft_sdk.context import TurnState
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.runs import ReplayStatus, read_records, replay, replay_rollouts
from aws_rft_sdk.runs.rotating_runtime import RotatingRuntime
from aws_rft_sdk.runs.transcript import TranscriptPolicy
from aws_rft_sdk.runtime import PolicyError
from tests.replay.conftest import contents
from tests.replay.recording import make_handler, model, record, write_records

KEPT = []


def statuses(report):
    return [rollout.status for rollout in report.rollouts]


def now():
    return datetime.now(timezone.utc)


def test_replay_when_nothing_changed_then_the_report_is_an_assertion(tmp_path):
    record(tmp_path, make_handler())
    before = contents(tmp_path)

    report = replay(tmp_path, make_handler())

    assert report.same, str(report)
    assert statuses(report) == [ReplayStatus.SAME] * 2
    assert contents(tmp_path) == before


def test_replay_when_nothing_was_replayed_then_it_is_not_the_same(tmp_path):
    (record_,) = record(tmp_path, make_handler(), ["a"])
    write_records(tmp_path, [dataclasses.replace(record_, trajectory_id="not-started-0-0", turns=0)])

    report = replay(tmp_path, make_handler())

    assert statuses(report) == [ReplayStatus.NOT_STARTED]
    assert not report.same
    assert not report.differing


# --- what is new in every run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look_up",
    [
        pytest.param(lambda key: f"document {uuid.uuid4()} for {key}", id="random-id"),
        pytest.param(lambda key: f"asked at {now().isoformat()}", id="time"),
        pytest.param(lambda key: f"asked at {now().timestamp()}", id="seconds"),
        # Kept, so that no two of them ever stand at one address.
        pytest.param(lambda key: KEPT.append(object()) or f"{KEPT[-1]!r}", id="address"),
    ],
)
def test_replay_when_texts_hold_what_is_new_in_every_run_then_that_counts_as_the_same_unless_strict(tmp_path, look_up):
    handler = make_handler(look_up, score=lambda answer: 1)
    record(tmp_path, handler, ["a"])

    assert replay(tmp_path, handler).same
    (rollout,) = replay(tmp_path, handler).rollouts
    assert rollout.ignored == 1
    (rollout,) = replay(tmp_path, handler, strict=True).rollouts
    assert (rollout.status, rollout.turn, rollout.steady) == (ReplayStatus.DIVERGED, 1, False)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("due 2024-05-01", "due 2024-05-02", id="a-date-that-is-not-today"),
        pytest.param(f"now {now():%Y-%m-%d}", f"now {now() + timedelta(days=40):%Y-%m-%d}", id="today-and-another-day"),
        pytest.param(f"key {uuid.uuid4()}", "key none", id="an-id-and-none"),
        pytest.param(
            "name 6fa459ea-ee8a-3ca4-894e-db77e160355e", "name 886313e1-3b8a-5372-9b90-0c9aee199e5d", id="hashed-ids"
        ),
        pytest.param("1 of 1700000000", "1 of 1700000001", id="a-great-number"),
    ],
)
def test_replay_when_texts_differ_in_what_only_looks_like_noise_then_they_differ(tmp_path, before, after):
    record(tmp_path, make_handler(lambda key: before, score=lambda answer: 1), ["a"])

    (rollout,) = replay(tmp_path, make_handler(lambda key: after, score=lambda answer: 1)).rollouts

    assert (rollout.status, rollout.turn, rollout.steady) == (ReplayStatus.DIVERGED, 1, True)
    assert (rollout.differences[0].recorded, rollout.differences[0].now) == (before, after)


def test_replay_when_an_id_of_the_task_is_replaced_by_a_random_one_then_it_differs(tmp_path):
    task = str(uuid.uuid4())
    record(tmp_path, make_handler(lambda key: f"found {task}"), [task])

    (rollout,) = replay(tmp_path, make_handler(lambda key: f"found {uuid.uuid4()}")).rollouts

    assert rollout.status is ReplayStatus.DIVERGED


def test_replay_when_the_agent_is_not_deterministic_then_that_is_said(tmp_path):
    numbers = itertools.count()
    handler = make_handler(lambda key: f"take {next(numbers)}", score=lambda answer: 1)
    record(tmp_path, handler, ["a"])

    (rollout,) = replay(tmp_path, handler).rollouts
    assert (rollout.status, rollout.steady) == (ReplayStatus.DIVERGED, False)
    assert "not deterministic" in str(rollout)
    (rollout,) = replay(tmp_path, handler, confirm=False).rollouts
    assert (rollout.status, rollout.steady) == (ReplayStatus.DIVERGED, None)


# --- order and number of turns -----------------------------------------------------------------------------------


def two_agents(order, extra=()):
    @rft_handler
    async def handler(payload):
        for part in (*extra, *order):
            await Agent(model=model(), callback_handler=None).invoke_async(part)
        return 1.0

    return handler


def echo(request):
    return f"about {request['messages'][-1]['content']}"


@pytest.mark.parametrize(
    ("order", "extra", "status", "turn", "says"),
    [
        pytest.param("ab", "", ReplayStatus.SAME, None, "", id="as-recorded"),
        pytest.param("ba", "", ReplayStatus.SAME, None, "", id="in-another-order"),
        pytest.param("b", "", ReplayStatus.STOPPED_EARLY, 0, "without turn 0 of 0 to 1", id="first-left-out"),
        pytest.param("a", "", ReplayStatus.STOPPED_EARLY, 1, "without turn 1 of 0 to 1", id="last-left-out"),
        pytest.param("abc", "", ReplayStatus.WENT_ON, 2, "to turn 2", id="one-more-at-the-end"),
        pytest.param("ab", "x", ReplayStatus.DIVERGED, 0, "this request is one more", id="one-more-before"),
    ],
)
def test_replay_when_turns_come_in_another_order_or_number_then_it_says_which(
    tmp_path, order, extra, status, turn, says
):
    record(tmp_path, two_agents("ab"), ["go"], answers=echo)

    (rollout,) = replay(tmp_path, two_agents(order, extra)).rollouts

    assert (rollout.status, rollout.turn) == (status, turn)
    assert says in str(rollout)


def test_replay_when_one_of_several_agents_changed_then_its_own_recorded_turn_is_shown(tmp_path):
    """Agents at work at the same time ask in any order: the next recorded turn may be that of another one."""

    def team(*system_prompts):
        @rft_handler
        async def handler(payload):
            for system_prompt in system_prompts:
                agent = Agent(model=model(), system_prompt=system_prompt, callback_handler=None)
                await agent.invoke_async(payload["prompt"])
            return 1.0

        return handler

    record(tmp_path, team("You plan.", "You criticise.", "You write."), ["go"], answers=echo)

    (rollout,) = replay(tmp_path, team("You write. Be brief.", "You plan.", "You criticise.")).rollouts

    assert (rollout.status, rollout.turn) == (ReplayStatus.DIVERGED, 2)
    (difference,) = rollout.differences
    assert (difference.recorded, difference.now) == ("You write.", "You write. Be brief.")
    assert (rollout.note, rollout.steady) == (None, True)


def test_replay_when_a_message_is_inserted_then_it_alone_is_new(tmp_path):
    def handler_with(*history):
        @rft_handler
        async def handler(payload):
            messages = [{"role": role, "content": [{"text": text}]} for role, text in history]
            await Agent(model=model(), messages=messages, callback_handler=None).invoke_async(payload["prompt"])
            return 1.0

        return handler

    old = [("user", "one"), ("assistant", "two")]
    record(tmp_path, handler_with(*old), ["go"], answers=echo)

    (rollout,) = replay(tmp_path, handler_with(*old, ("user", "three"), ("assistant", "four"))).rollouts

    assert [(item.kind, item.where) for item in rollout.differences] == [("new", "messages[2]"), ("new", "messages[3]")]
    assert "three" in str(rollout)


def test_replay_when_an_answer_was_lost_and_sampled_again_then_the_agent_asks_once_and_that_is_the_same(tmp_path):
    import requests

    def ask(payload, headers):
        body = {"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]}
        url = payload["metadata"]["endpoint"] + "/v1/chat/completions"
        return requests.post(url, headers=headers, json=body, timeout=30).json()["choices"][0]["message"]["content"]

    numbers = itertools.count()

    def handler_that(loses):
        @rft_handler
        def handler(payload):
            context = RFTContext.current()
            if loses:
                turn = context.begin_turn()
                ask(payload, turn.headers)
                context.end_turn(turn.span_id, TurnState.FAILED)
            return RolloutResult(reward=float(ask(payload, context.headers())))

        return handler

    record(tmp_path, handler_that(loses=True), ["a"], answers=lambda request: str(next(numbers)))

    (rollout,) = replay(tmp_path, handler_that(loses=False)).rollouts
    assert (rollout.status, rollout.rewards) == (ReplayStatus.SAME, (1.0,))


# --- rollouts that failed ----------------------------------------------------------------------------------------


def failing(error):
    def score(answer):
        raise error

    return make_handler(score=score)


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        pytest.param(failing(KeyError("at noon")), ReplayStatus.SAME, id="again-with-another-message"),
        pytest.param(failing(ValueError()), ReplayStatus.ERROR_CHANGED, id="in-another-way"),
        pytest.param(make_handler(), ReplayStatus.ERROR_CHANGED, id="no-longer"),
    ],
)
def test_replay_when_the_recorded_rollout_failed_then_the_kind_of_error_is_compared(tmp_path, handler, status):
    record(tmp_path, failing(KeyError("at dawn")), ["a"])

    assert statuses(replay(tmp_path, handler)) == [status]


def test_replay_when_an_error_quotes_another_id_then_it_is_not_shown_as_another_error(tmp_path):
    @rft_handler
    async def no_reward(payload):
        await Agent(model=model(), callback_handler=None).invoke_async(payload["prompt"] + extra)

    extra = ""
    record(tmp_path, no_reward, ["a"], answers=echo)
    extra = "!"

    (rollout,) = replay(tmp_path, no_reward).rollouts

    assert rollout.status is ReplayStatus.DIVERGED
    assert rollout.recorded_error != rollout.error
    assert "RewardError" not in str(rollout)


def test_replay_when_the_policy_failed_in_the_last_turn_then_the_turns_before_are_compared(tmp_path):
    def breaks(request):
        if any(message["role"] == "tool" for message in request["messages"]):
            raise PolicyError("out of memory", status=400)
        return {
            "content": "Let me see.",
            "tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": '{"key": "a"}'}}],
        }

    record(tmp_path, make_handler(), ["a"], answers=breaks)

    (rollout,) = replay(tmp_path, make_handler()).rollouts
    assert rollout.status is ReplayStatus.SAME
    assert "had no answer" in rollout.note


def test_replay_when_a_rollout_takes_too_long_then_that_is_its_error(tmp_path):
    never = asyncio.Event

    async def hang(payload):
        await never().wait()

    record(tmp_path, make_handler(), ["a"])

    (rollout,) = replay(tmp_path, make_handler(before=hang), deadline_seconds=0.05).rollouts

    assert rollout.status is ReplayStatus.ERROR_CHANGED
    assert rollout.error.startswith("RolloutTimeoutError")


# --- many ---------------------------------------------------------------------------------------------------------


def test_replay_when_many_run_then_as_many_as_allowed_are_in_flight_and_come_in_order(tmp_path):
    record(tmp_path, make_handler(), "abcdefgh")
    inside, most, together = [], [], asyncio.Event()

    async def meet(payload):
        inside.append(payload["prompt"])
        most.append(len(inside))
        if len(inside) == 3:
            together.set()
        await together.wait()
        inside.remove(payload["prompt"])

    async def main():
        return [rollout async for rollout in replay_rollouts(tmp_path, make_handler(before=meet), concurrency=3)]

    rollouts = asyncio.run(main())

    assert max(most) == 3
    assert [rollout.prompt_index for rollout in rollouts] == list(range(8))
    assert {rollout.status for rollout in rollouts} == {ReplayStatus.SAME}


def test_replay_when_the_consumer_stops_then_rollouts_in_flight_are_cancelled(tmp_path):
    record(tmp_path, make_handler(), "abcd")
    begun, cancelled, all_in = [], [], asyncio.Event()

    async def hang(payload):
        begun.append(payload["prompt"])
        if len(begun) == 4:
            all_in.set()
        await all_in.wait()
        if payload["prompt"] == "a":
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(payload["prompt"])
            raise

    async def main():
        rollouts = replay_rollouts(tmp_path, make_handler(before=hang), confirm=False)
        first = await anext(rollouts)
        await rollouts.aclose()
        return first

    assert asyncio.run(main()).status is ReplayStatus.SAME
    assert sorted(cancelled) == ["b", "c", "d"]


def test_rotating_runtime_when_a_runtime_has_served_its_number_then_another_follows_and_the_first_is_stopped():
    async def main():
        runtimes = RotatingRuntime(TranscriptPolicy(), turns_each=7)
        async with runtimes.runtime(3) as one, runtimes.runtime(4) as two, runtimes.runtime(1) as three:
            assert one is two
            assert three is not one
            assert one.endpoint != three.endpoint
            one.new_rollout("still running")
        with pytest.raises(RuntimeError, match="stopped"):
            one.new_rollout("stopped")
        three.new_rollout("running")
        await runtimes.aclose()
        with pytest.raises(RuntimeError, match="stopped"):
            three.new_rollout("stopped")

    threads = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() <= threads + 2  # what is left is asyncio's own pool


# --- torn, old and growing folders -----------------------------------------------------------------------------


def test_replay_when_a_run_still_writes_then_what_is_over_is_replayed(tmp_path):
    record(tmp_path, make_handler(), ["a"])
    with LocalRuntime(echo, db=tmp_path / "trajectories.db") as runtime:
        runtime.new_rollout("b")
        with (tmp_path / "rollouts.jsonl").open("a") as file:
            file.write('{"id": "half a li')

        assert statuses(replay(tmp_path, make_handler())) == [ReplayStatus.SAME]


def test_replay_when_records_are_of_an_older_version_then_they_are_read(tmp_path):
    (new,) = record(tmp_path, make_handler(), ["a"])
    fields = json.loads(new.to_json())
    old = {"id": fields["trajectory_id"], **{name: fields[name] for name in OLD_FIELDS}}
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(old) + "\n")

    assert replay(tmp_path, make_handler()).same


OLD_FIELDS = ("prompt_index", "sample_index", "reward", "turns", "seconds", "status", "error")


def test_replay_when_trajectories_are_missing_then_they_count_as_differences(tmp_path):
    records = record(tmp_path, make_handler())
    with sqlite3.connect(tmp_path / "trajectories.db") as connection:
        connection.execute("DELETE FROM trajectories WHERE trajectory_id = ?", (records[0].trajectory_id,))
    connection.close()

    report = replay(tmp_path, make_handler())

    assert statuses(report) == [ReplayStatus.MISSING, ReplayStatus.SAME]
    assert not report.same
    assert "no trajectory" in str(report)


def test_replay_when_a_turn_is_damaged_then_that_rollout_is_missing(tmp_path):
    record(tmp_path, make_handler())
    with sqlite3.connect(tmp_path / "trajectories.db") as connection:
        connection.execute("UPDATE turns SET request = x'7b' WHERE key = 0")
    connection.close()

    assert statuses(replay(tmp_path, make_handler())) == [ReplayStatus.MISSING, ReplayStatus.SAME]


def test_replay_when_pages_of_the_database_are_lost_then_nothing_is_taken_for_the_same(tmp_path):
    record(tmp_path, make_handler(), "abcdefgh", runs=3)
    database = tmp_path / "trajectories.db"
    content = bytearray(database.read_bytes())
    middle = len(content) // 2
    content[middle:-4096] = bytes(len(content) - 4096 - middle)
    database.write_bytes(content)

    report = replay(tmp_path, make_handler())

    assert not report.same
    assert ReplayStatus.MISSING in statuses(report)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "not a database of the local runtime", id="empty"),
        pytest.param(b"not a database" * 100, "cannot be used", id="something-else"),
        pytest.param(None, "cannot be used", id="cut-off"),
    ],
)
def test_replay_when_the_database_is_none_then_it_is_refused(tmp_path, content, says):
    record(tmp_path, make_handler(), ["a"])
    database = tmp_path / "trajectories.db"
    database.write_bytes(database.read_bytes()[:8192] if content is None else content)

    with pytest.raises(ConfigurationError, match=says):
        replay(tmp_path, make_handler())


def test_replay_when_there_are_no_records_then_it_is_refused(tmp_path):
    with pytest.raises(DatasetError):
        replay(tmp_path, make_handler())
    (tmp_path / "rollouts.jsonl").touch()
    with pytest.raises(ConfigurationError, match="no rollouts yet"):
        replay(tmp_path, make_handler())
    record(tmp_path, make_handler(), ["a"])
    with pytest.raises(ConfigurationError, match="which handler"):
        replay(tmp_path)


def test_replay_when_the_runtime_was_not_told_the_prompt_then_the_rollout_is_missing(tmp_path):
    record(tmp_path, make_handler(), ["a"])
    with sqlite3.connect(tmp_path / "trajectories.db") as connection:
        connection.execute("UPDATE trajectories SET prompt = 'null'")
    connection.close()

    assert statuses(replay(tmp_path, make_handler())) == [ReplayStatus.MISSING]


# --- what the agent is given -----------------------------------------------------------------------------------


def test_replay_when_the_job_asked_for_sampling_parameters_then_the_payload_has_them_again(tmp_path):
    seen = []

    async def look(payload):
        seen.append((payload["prompt"], payload["inferenceParams"], payload["metadata"]["jobArn"]))

    handler = make_handler(before=look)
    record(tmp_path, handler, ["a"], params={"temperature": 0.3, "maxTokens": 77})

    assert replay(tmp_path, handler).same
    assert seen[0] == seen[1]
    assert seen[0][1] == {"temperature": 0.3, "maxTokens": 77}


@pytest.mark.parametrize("response", [{"choices": []}, {"choices": [{"index": 0}]}, {"oh": "no"}])
def test_replay_when_no_answer_was_recorded_then_the_agent_gets_an_error(tmp_path, response):
    record(tmp_path, make_handler(), ["a"])
    with sqlite3.connect(tmp_path / "trajectories.db") as connection:
        connection.execute("UPDATE turns SET response = ? WHERE key = 1", (json.dumps(response).encode(),))
    connection.close()

    assert statuses(replay(tmp_path, make_handler(), deadline_seconds=30)) == [ReplayStatus.ERROR_CHANGED]


def test_replay_when_another_server_answered_in_its_own_way_then_the_answer_can_be_streamed(tmp_path):
    record(tmp_path, make_handler(), ["a"])
    response = {"choices": [{"message": {"role": "assistant", "content": "It is value of a."}}]}
    with sqlite3.connect(tmp_path / "trajectories.db") as connection:
        connection.execute("UPDATE turns SET response = ? WHERE key = 1", (json.dumps(response).encode(),))
    connection.close()

    report = replay(tmp_path, make_handler())

    assert report.same, str(report)
    assert len(list(read_records(tmp_path))) == 1
