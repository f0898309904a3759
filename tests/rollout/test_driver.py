"""The driver with an engine that does what a test tells it."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections import Counter

import pytest
from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import LocalRuntime, rft_handler, wrap_model
from aws_rft_sdk.errors import BreakerError, ConfigurationError, RolloutTimeoutError, UnavailableError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.lifecycle.calling import Ended
from aws_rft_sdk.lifecycle.outcomes import outcome_of
from aws_rft_sdk.rollout import RolloutStatus, run_rollouts
from aws_rft_sdk.rollout.access import Observation
from aws_rft_sdk.rollout.driver import Progress
from aws_rft_sdk.rollout.engines import Engine, RolloutOutcome
from aws_rft_sdk.rollout.engines.process import ProcessEngine
from aws_rft_sdk.rollout.schedule import parse_retries
from aws_rft_sdk.runs.metrics import measure
from aws_rft_sdk.runs.records import latest_records
from aws_rft_sdk.types import TrajectoryStatus

ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/x"


class Script(Engine):
    """Fails prompts as often as it is told, notes the order of starts, and holds rollouts until they are released."""

    def __init__(self, failures=(), *, held=False):
        self.failures = dict(failures)
        self.began, self.running, self.most, self.finished, self.entered = [], 0, 0, 0, 0
        self.release = None
        self.held = held
        self.ids = itertools.count()

    async def __aenter__(self):
        self.entered += 1
        self.release = asyncio.Event()
        return self

    async def __aexit__(self, kind, error, traceback):
        self.entered -= 1

    def start(self, prompt):
        return {"prompt": prompt, "metadata": {"jobArn": ARN, "rolloutId": f"t{next(self.ids)}"}}

    async def run(self, payload, trajectory_id):
        prompt = payload["prompt"]
        self.began.append(prompt)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await (self.release.wait() if self.held else asyncio.sleep(0))
        finally:
            self.running -= 1
        self.finished += 1
        if prompt == "broken":
            raise ZeroDivisionError("a mistake of the engine")
        if self.failures.get(prompt, 0) > 0:
            self.failures[prompt] -= 1
            return RolloutOutcome(RolloutStatus.FAILED, rewards=(0.0,), error="LookupError: x")
        return RolloutOutcome(RolloutStatus.COMPLETED, rewards=(1.0,), turns=1)


class Journal:
    """Keeps what it is told."""

    def __init__(self):
        self.began, self.left = [], []

    def started(self, trajectory_id, planned):
        self.began.append((trajectory_id, planned[:3]))

    def given_up(self, trajectory_id):
        self.left.append(trajectory_id)


async def collect(engine, prompts, **options):
    return [record async for record in run_rollouts(engine, prompts, engine.start, **options)]


def test_driver_when_rollouts_fail_then_they_are_repeated_before_new_groups_begin():
    engine = Script({"b": 2})

    records = asyncio.run(collect(engine, ["a", "b", "c"], group_size=2, concurrency=1, retries=2))

    assert engine.began == ["a", "a", "b", "b", "b", "b", "c", "c"]
    assert [(r.key, r.attempts) for r in records if r.ended_well] == [
        ((0, 0), 1),
        ((0, 1), 1),
        ((1, 0), 3),
        ((1, 1), 1),
        ((2, 0), 1),
        ((2, 1), 1),
    ]
    assert len({r.trajectory_id for r in records}) == 8
    assert engine.entered == 0


def test_driver_when_reward_is_low_then_nothing_is_repeated_and_a_budget_ends_repetitions():
    engine = Script({"a": 9})

    records = asyncio.run(collect(engine, ["a"], group_size=3, retries=9, retry_budget=4))

    assert len(records) == 7


def test_driver_when_an_engine_makes_a_mistake_then_the_runtime_tells_what_became_of_the_rollout():
    async def observe(trajectory_id):
        return Observation(TrajectoryStatus.REWARD_RECEIVED, (0.5,), turns=2)

    (record,) = asyncio.run(collect(Script(), ["broken"], observe=observe, retries=1))

    assert (record.status, record.reward, record.turns) == (RolloutStatus.COMPLETED, 0.5, 2)


@pytest.mark.parametrize("starts_per_second", [None, 2000.0])
def test_driver_when_places_are_few_then_no_more_are_in_flight(starts_per_second):
    engine = Script()

    records = asyncio.run(collect(engine, map(str, range(50)), concurrency=3, starts_per_second=starts_per_second))

    assert len(records) == 50
    assert engine.most <= 3


def test_driver_when_engine_raises_then_it_is_a_record_and_stops_nothing():
    records = asyncio.run(collect(Script(), ["broken", "b"], concurrency=1))

    assert [r.status.value for r in records] == ["unreported", "completed"]
    assert records[0].error == "ZeroDivisionError: a mistake of the engine"


def test_driver_when_some_are_done_then_the_rest_runs_with_its_attempts_counted():
    engine, journal = Script(), Journal()
    progress = Progress(done={(0, 1), (1, 0)}, attempts={(1, 1): 4})

    records = asyncio.run(collect(engine, ["a", "b"], group_size=2, concurrency=1, progress=progress, journal=journal))

    assert [(r.key, r.attempts) for r in records] == [((0, 0), 1), ((1, 1), 5)]
    assert journal.began == [("t0", (0, 0, 1)), ("t1", (1, 1, 5))]
    assert journal.left == []


def test_driver_when_told_to_stop_then_what_is_in_flight_ends_and_no_more_begins():
    async def main():
        engine, stopping = Script({"a": 1}, held=True), asyncio.Event()
        work = asyncio.create_task(collect(engine, ["a", "b", "c"], concurrency=2, retries=3, stopping=stopping))
        while engine.running < 2:  # noqa: ASYNC110 - the threads that start rollouts are the engine's own business
            await asyncio.sleep(0.001)
        stopping.set()
        engine.release.set()
        return await work

    assert sorted(r.key for r in asyncio.run(main())) == [(0, 0), (1, 0)]


def test_driver_when_cancelled_then_the_journal_knows_who_was_given_up():
    async def main():
        engine, journal = Script(held=True), Journal()
        work = asyncio.create_task(collect(engine, ["a", "b", "c"], concurrency=2, journal=journal))
        while engine.running < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        work.cancel()
        await asyncio.wait([work])
        return work.cancelled(), engine.running, engine.entered, journal

    cancelled, running, entered, journal = asyncio.run(main())
    assert (cancelled, running, entered) == (True, 0, 0)
    assert sorted(journal.left) == sorted(item[0] for item in journal.began)
    assert len(journal.left) == 2


def test_driver_when_the_journal_cannot_note_a_cancellation_then_rollouts_are_finished_instead():
    """A floor reward without a note would pass for the rollout's own when the run is resumed."""

    class Full(Journal):
        def given_up(self, trajectory_id):
            super().given_up(trajectory_id)
            raise ConfigurationError("the disk is full")

    async def main():
        engine, journal = Script(held=True), Full()
        work = asyncio.create_task(collect(engine, ["a", "b", "c"], concurrency=2, journal=journal))
        while engine.running < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        work.cancel()
        while len(journal.left) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        running = engine.running
        engine.release.set()
        await asyncio.wait([work])
        return work.cancelled(), running, engine.finished

    assert asyncio.run(main()) == (True, 2, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 0},
        {"concurrency": 0},
        {"retries": -1},
        {"retries": {"agent": -1}},
        {"retries": {"agnet": 1}},
        {"breaker": 0},
        {"starts_per_second": 0.0},
    ],
)
def test_driver_when_a_number_is_too_low_then_it_is_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        asyncio.run(collect(Script(), ["a"], **options))


# --- what infrastructure broke, runs that cannot go on, tracebacks ---------------------------------------------------


class Told(Script):
    """Ends each attempt at a prompt as it is told: with an outcome or an exception, the last one again and again."""

    def __init__(self, **ends):
        super().__init__()
        self.ends = {prompt: list(outcomes) for prompt, outcomes in ends.items()}

    async def run(self, payload, trajectory_id):
        await super().run(payload, trajectory_id)
        ends = self.ends.get(payload["prompt"], [COMPLETED])
        end = ends.pop(0) if len(ends) > 1 else ends[0]
        if isinstance(end, Exception):
            raise end
        return end


COMPLETED = RolloutOutcome(RolloutStatus.COMPLETED, rewards=(1.0,), turns=1)


def failed(kind, error="LookupError: x", **fields):
    return RolloutOutcome(RolloutStatus.FAILED, rewards=(0.0,), failure=kind, error=error, **fields)


BROKEN, RAISED = failed(FailureKind.INFRASTRUCTURE, "ConnectionError: gone"), failed(FailureKind.AGENT)


@pytest.mark.parametrize(
    ("ends", "retries", "attempts"),
    [
        pytest.param([BROKEN], {"infrastructure": 2}, 3, id="broken-to-the-end"),
        pytest.param([BROKEN, COMPLETED], {"infrastructure": 2}, 2, id="broken-once"),
        pytest.param([RAISED], {"infrastructure": 2}, 1, id="the-agent-is-not-asked-again"),
        pytest.param([BROKEN, RAISED], {"infrastructure": 2}, 2, id="nor-after-that"),
        pytest.param([BROKEN, RAISED], {"infrastructure": 2, "agent": 1}, 2, id="each-repetition-counts"),
        pytest.param([RAISED, BROKEN], {"infrastructure": 2, FailureKind.AGENT: 1}, 3, id="up-to-the-kinds-number"),
        pytest.param([RAISED, BROKEN], 1, 2, id="one-number-for-all"),
        pytest.param([ZeroDivisionError()], {"infrastructure": 1}, 2, id="a-mistake-of-the-engine"),
        pytest.param([RolloutOutcome(RolloutStatus.FAILED)], {"agent": 1}, 2, id="an-engine-that-says-nothing"),
    ],
)
def test_driver_when_retries_are_by_kind_then_the_kind_of_the_failure_decides(ends, retries, attempts):
    records = asyncio.run(collect(Told(a=ends), ["a"], retries=retries))

    assert [record.attempts for record in records] == list(range(1, attempts + 1))


def test_driver_when_retries_are_by_kind_then_the_budget_is_still_for_all():
    records = asyncio.run(collect(Told(a=[BROKEN]), ["a"], group_size=5, retries={"infrastructure": 9}, retry_budget=3))

    assert len(records) == 8


def test_record_when_infrastructure_broke_the_rollout_then_its_floor_is_no_reward():
    (broken, raised) = asyncio.run(collect(Told(a=[BROKEN], b=[RAISED]), ["a", "b"], concurrency=1))

    assert (broken.reward, broken.rewards, broken.floor, broken.failure.value) == (None, None, 0.0, "infrastructure")
    assert (raised.reward, raised.floor, raised.failure.value) == (0.0, None, "agent")


def test_driver_when_a_rollout_cannot_be_started_then_it_is_infrastructure_and_unreported():
    """Nothing of it reached a runtime, so it has no floor."""
    engine = Script()

    def start(prompt):
        raise ConnectionResetError("the runtime is gone")

    (record,) = asyncio.run(_all(run_rollouts(engine, ["a"], start)))

    assert (record.status, record.failure) == (RolloutStatus.UNREPORTED, FailureKind.INFRASTRUCTURE)
    assert (record.reward, record.floor, record.trajectory_id) == (None, None, "not-started-0-0")
    assert engine.began == []


async def _all(records):
    return [record async for record in records]


async def until_it_ends(engine, prompts, start=None, **options):
    """Return the records, and the error that the run ended with."""
    records = []
    try:
        async for record in run_rollouts(engine, prompts, start or engine.start, **options):
            records.append(record)
    except Exception as error:
        return records, error
    return records, None


TRACE = "Traceback (most recent call last):\nConnectionError: gone"


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_breaker_when_the_first_rollouts_all_fail_for_one_reason_then_no_more_begin(concurrency):
    engine = Told(a=[dataclasses.replace(BROKEN, traceback=TRACE)])

    records, error = asyncio.run(until_it_ends(engine, ["a"] * 100, concurrency=concurrency, breaker=8))

    assert isinstance(error, BreakerError)
    assert "first 8 rollouts all failed for the same reason, infrastructure" in str(error)
    assert TRACE in str(error)
    assert 8 <= len(records) <= 8 + concurrency
    assert len(engine.began) <= 8 + 2 * concurrency
    assert (engine.running, engine.entered) == (0, 0)


def test_breaker_when_rollouts_are_repeated_then_each_counts_once():
    engine = Told(a=[BROKEN])

    records, error = asyncio.run(until_it_ends(engine, ["a"] * 9, concurrency=1, retries=2, breaker=4))

    assert isinstance(error, BreakerError)
    assert [record.prompt_index for record in records] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("prompts", "breaker"),
    [
        pytest.param(["a"] * 20, None, id="no-breaker"),
        pytest.param(["a"] * 7, 8, id="fewer-rollouts-than-that"),
        pytest.param(["a"] * 5 + ["well"] + ["a"] * 30, 8, id="one-completed"),
        pytest.param(["a"] * 5 + ["other"] + ["a"] * 30, 8, id="one-failed-for-another-reason"),
        pytest.param(["a"] * 5 + ["typed"] + ["a"] * 30, 8, id="one-error-of-another-type"),
    ],
)
def test_breaker_when_it_must_not_trip_then_all_run(prompts, breaker):
    other = failed(FailureKind.AGENT, "ConnectionError: gone")
    engine = Told(a=[BROKEN], other=[other], typed=[failed(FailureKind.INFRASTRUCTURE, "OSError: gone")])

    records, error = asyncio.run(until_it_ends(engine, prompts, concurrency=1, breaker=breaker))

    assert (len(records), error) == (len(prompts), None)


def test_driver_when_the_engine_has_nothing_left_then_the_attempt_is_a_record_and_the_run_ends():
    class Places(Script):
        """One rollout finds no place, while others run."""

        async def run(self, payload, trajectory_id):
            if payload["prompt"] == "nowhere":
                raise UnavailableError("no worker answers")
            return await super().run(payload, trajectory_id)

    async def main():
        engine, journal = Places(held=True), Journal()
        async with asyncio.timeout(30) if hasattr(asyncio, "timeout") else contextlib.AsyncExitStack():
            prompts = ["held", "held", "nowhere", *["held"] * 50]
            return engine, journal, *await until_it_ends(engine, prompts, concurrency=3, retries=2, journal=journal)

    engine, journal, records, error = asyncio.run(main())

    assert isinstance(error, UnavailableError)
    (record,) = records
    assert (record.status, record.failure, record.reward) == ("unreported", "infrastructure", None)
    assert record.error == "UnavailableError: no worker answers"
    assert (engine.running, engine.entered, engine.finished) == (0, 0, 0)
    assert len(journal.began) == 3
    assert len(journal.left) == 2


def test_driver_when_rollouts_end_at_the_same_moment_as_the_run_then_their_records_are_yielded():
    """The place is gone in the same step of the loop in which the others end."""

    class Together(Script):
        async def run(self, payload, trajectory_id):
            self.began.append(payload["prompt"])
            if len(self.began) == 3:
                self.release.set()
            await self.release.wait()
            if payload["prompt"] == "nowhere":
                raise UnavailableError("no worker answers")
            return COMPLETED

    records, error = asyncio.run(until_it_ends(Together(), ["a", "nowhere", "b"], concurrency=3))

    assert isinstance(error, UnavailableError)
    assert sorted(record.prompt_index for record in records) == [0, 1, 2]


def test_driver_when_the_runtime_is_unavailable_then_the_run_ends_too():
    def start(prompt):
        raise UnavailableError("the runtime is gone")

    records, error = asyncio.run(until_it_ends(Script(), ["a"] * 50, start, concurrency=1, retries=2))

    assert isinstance(error, UnavailableError)
    assert [record.trajectory_id for record in records] == ["not-started-0-0"]


def test_records_when_errors_are_of_one_kind_then_only_the_first_has_a_traceback():
    def of(kind, error):
        return dataclasses.replace(failed(kind, error), traceback=f"Traceback of {error}")

    engine = Told(
        a=[of(FailureKind.AGENT, "KeyError: 'a'")],
        b=[of(FailureKind.AGENT, "KeyError: 'b'")],
        c=[of(FailureKind.TOOL, "KeyError: 'c'")],
        d=[of(FailureKind.AGENT, "OSError: d")],
    )

    records = asyncio.run(collect(engine, ["a", "a", "b", "c", "d", "d", "x"], concurrency=1))

    assert [record.traceback and record.traceback[-3:] for record in records] == [
        *("'a'", None, None),
        *("'c'", ": d", None, None),
    ]


def test_traceback_when_a_handler_raises_then_it_shows_where_and_no_values():
    secret = "-".join(["hunter", "2"])

    @rft_handler(require_turns=False)
    def handler(payload):
        password = secret
        return broken_at_this_line(password)

    def broken_at_this_line(password):
        raise LookupError("no such order")

    with LocalRuntime() as runtime:
        records = asyncio.run(_all(run_rollouts(handler, ["a", "a"], runtime.new_rollout, concurrency=1)))

    first, second = records
    assert "broken_at_this_line(password)" in first.traceback
    assert first.traceback.endswith("LookupError: no such order\n")
    assert secret not in first.traceback
    assert second.traceback is None
    assert (first.failure, first.reward, second.failure) == ("agent", 0.0, "agent")


def test_traceback_when_a_handler_raises_in_a_child_then_it_crosses(tmp_path):
    (tmp_path / "agent.py").write_text(
        "from aws_rft_sdk import rft_handler\n\n\n@rft_handler(require_turns=False)\n"
        "def handler(payload):\n    raise LookupError('in the child')\n"
    )
    engine = ProcessEngine(f"{tmp_path / 'agent.py'}:handler", workers=1)

    with LocalRuntime() as runtime:
        (record,) = asyncio.run(_all(run_rollouts(engine, ["a"], runtime.new_rollout)))

    assert "raise LookupError('in the child')" in record.traceback
    assert (record.failure, record.reason) == ("agent", ("agent", "LookupError"))


def test_outcome_when_the_deadline_passed_before_the_rollout_began_then_infrastructure_and_unreported():
    outcome = outcome_of(Ended(None, RolloutTimeoutError("late"), None, 1.0))

    assert (outcome.status, outcome.failure, outcome.rewards) == ("unreported", "infrastructure", None)


# --- all of it, with a real agent over a runtime whose policy fails --------------------------------------------------


@rft_handler
async def strands_handler(payload):
    client = {"base_url": payload["metadata"]["endpoint"] + "/v1", "api_key": "k", "max_retries": 0}
    agent = Agent(model=wrap_model(OpenAIModel(model_id="m", client_args=client)), callback_handler=None)
    return 1.0 if str(await agent.invoke_async(payload["prompt"])).strip() == "4" else 0.0


class FailsAtFirst:
    """A policy that fails the first calls of each prompt. The runtime answers these with status 500."""

    def __init__(self, failures):
        self.failures, self.calls = failures, Counter()

    def __call__(self, request):
        prompt = request["messages"][-1]["content"]
        prompt = prompt if isinstance(prompt, str) else prompt[0]["text"]
        self.calls[prompt] += 1
        if self.calls[prompt] <= self.failures:
            raise RuntimeError("the GPU is gone")
        return "4"


@pytest.mark.parametrize(
    ("failures", "retries", "outcomes"),
    [
        pytest.param(2, "infrastructure=2", {"completed": 1.0}, id="repeated-until-it-works"),
        pytest.param(9, "infrastructure=2", {"failed": None}, id="broken-to-the-end"),
        pytest.param(2, "agent=2", {"failed": None}, id="no-fault-of-the-agent"),
    ],
)
def test_run_when_model_calls_meet_a_500_then_it_is_repeated_and_never_a_reward_of_zero(failures, retries, outcomes):
    prompts = [f"question {number}" for number in range(4)]
    with LocalRuntime(FailsAtFirst(failures)) as runtime:
        records = asyncio.run(
            _all(run_rollouts(strands_handler, prompts, runtime.new_rollout, retries=parse_retries(retries)))
        )
        floors = [trajectory.rewards for trajectory in runtime.trajectories()]

    last = latest_records(records)
    assert {record.status.value: record.reward for record in last} == outcomes
    assert len(last) == 4
    broken = [record for record in records if not record.ended_well]
    assert {(record.failure, record.floor, record.reward) for record in broken} == {("infrastructure", 0.0, None)}
    assert floors.count((0.0,)) == len(broken)  # the service fails a whole job over a rollout without a reward
    assert [bool(record.traceback) for record in broken].count(True) == 1
    found = measure(records)
    assert (found.zero_share, found.failures) == (
        (0.0, {}) if "completed" in outcomes else (None, {"infrastructure": 4})
    )
