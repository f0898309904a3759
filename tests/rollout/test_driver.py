"""The driver with an engine that does what a test tells it."""

import asyncio
import itertools

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout import RolloutStatus, run_rollouts
from aws_rft_sdk.rollout.access import Observation
from aws_rft_sdk.rollout.driver import Progress
from aws_rft_sdk.rollout.engines import Engine, RolloutOutcome
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
    assert len({r.id for r in records}) == 8
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
    "options", [{"group_size": 0}, {"concurrency": 0}, {"retries": -1}, {"starts_per_second": 0.0}]
)
def test_driver_when_a_number_is_too_low_then_it_is_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        asyncio.run(collect(Script(), ["a"], **options))
