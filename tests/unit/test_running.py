"""One run of a handler of any kind: what it returned or raised, and what its deadline does."""

import asyncio
import threading

import pytest
from fakes import ga_payload

from aws_rft_sdk import LocalRuntime, rft_handler
from aws_rft_sdk.errors import PayloadError, RolloutTimeoutError
from aws_rft_sdk.lifecycle.calling import run_handler, runs_in_loop, trajectory_id_of
from aws_rft_sdk.types import TrajectoryStatus

DEADLINE = 0.2


@pytest.fixture(scope="module")
def _runtime():
    with LocalRuntime() as runtime:
        yield runtime


@pytest.fixture
def runtime(_runtime):
    _runtime.reset()
    return _runtime


@pytest.fixture
def release():
    """Let functions go that hang on purpose, so that no thread is left behind."""
    event = threading.Event()
    yield event
    event.set()


def run(handler, payload, deadline_seconds=None):
    return asyncio.run(
        run_handler(handler, payload, deadline_seconds=deadline_seconds, trajectory_id=trajectory_id_of(payload))
    )


def rewards(runtime, payload):
    return runtime.trajectory(payload["metadata"]["rolloutId"]).rewards


def plain(payload):
    return {"reward": 1.0}


async def coroutine(payload):
    return {"reward": 1.0}


def generator(payload):
    yield "a"
    yield {"reward": 1.0}
    yield "z"


async def async_generator(payload):
    yield "a"
    yield {"reward": 1.0}
    yield "z"


def hands_out_a_coroutine(payload):
    return coroutine(payload)


def hands_out_an_async_generator(payload):
    return async_generator(payload)


class Callable:
    async def __call__(self, payload):
        return {"reward": 1.0}


KINDS = [plain, coroutine, generator, async_generator, hands_out_a_coroutine, hands_out_an_async_generator, Callable()]
each_kind = pytest.mark.parametrize("fn", KINDS, ids=lambda fn: getattr(fn, "__name__", "object"))


@each_kind
def test_run_when_a_handler_of_any_kind_ends_then_its_result_and_rollout_are_told(runtime, fn):
    payload = runtime.new_rollout("p")

    ended = run(rft_handler(require_turns=False)(fn), payload, deadline_seconds=60)

    assert ended.result == {"reward": 1.0}
    assert ended.error is None
    assert ended.context.rewards == (1.0,)
    assert ended.context.outcome == "completed"
    assert not ended.lingers()
    assert rewards(runtime, payload) == (1.0,)


@each_kind
def test_run_when_it_is_production_traffic_then_there_is_no_rollout(fn):
    ended = run(rft_handler(fn), {"prompt": "hello"})

    assert ended.context is None
    assert ended.error is None


@pytest.mark.parametrize(("fn", "expected"), [(plain, False), (generator, False), (coroutine, True)])
def test_runs_in_loop_when_asked_then_it_tells_by_kind(fn, expected):
    assert runs_in_loop(fn) is expected


def test_run_when_a_thread_misses_its_deadline_then_it_is_reported_and_lingers(runtime, release):
    payload = runtime.new_rollout("p")
    finished = threading.Event()

    @rft_handler(require_turns=False, floor_reward=-1.0)
    def handler(payload):
        release.wait(60)
        finished.set()
        return 1.0

    ended = run(handler, payload, DEADLINE)

    assert isinstance(ended.error, RolloutTimeoutError)
    assert ended.context.outcome == "failed"
    assert ended.lingers()
    assert rewards(runtime, payload) == (-1.0,)
    release.set()
    assert finished.wait(60)
    assert wait_until(lambda: not ended.lingers())
    assert rewards(runtime, payload) == (-1.0,)


def wait_until(condition, rounds=600):
    pause = threading.Event()
    return any(condition() or pause.wait(0.1) for _ in range(rounds))


def test_run_when_a_coroutine_misses_its_deadline_then_it_is_cancelled_and_reported(runtime):
    payload = runtime.new_rollout("p")
    cancelled = []

    @rft_handler(require_turns=False)
    async def handler(payload):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    ended = run(handler, payload, DEADLINE)

    assert isinstance(ended.error, RolloutTimeoutError)
    assert cancelled == [True]
    assert not ended.lingers()
    assert rewards(runtime, payload) == (0.0,)


def test_run_when_an_async_generator_misses_its_deadline_then_it_is_closed_and_reported(runtime):
    payload = runtime.new_rollout("p")
    closed = []

    @rft_handler(require_turns=False)
    async def handler(payload):
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    ended = run(handler, payload, DEADLINE)

    assert isinstance(ended.error, RolloutTimeoutError)
    assert closed == [True]
    assert rewards(runtime, payload) == (0.0,)


def test_run_when_the_reward_is_being_delivered_at_the_deadline_then_the_reward_counts(runtime, release):
    payload = runtime.new_rollout("p")
    delivering = threading.Event()

    class Slow:
        """A client that takes longer than the deadline."""

        def __init__(self, request):
            self.request = request

        def report_complete(self, reward):
            delivering.set()
            release.wait(60)

        def update_reward(self, reward):
            raise AssertionError("nothing else is reported")

        report_error = update_reward

    @rft_handler(require_turns=False, client=Slow)
    def handler(payload):
        return 1.0

    def let_go():
        assert delivering.wait(60)
        # The deadline passes while the reward is on its way.
        threading.Event().wait(2 * DEADLINE)
        release.set()

    helper = threading.Thread(target=let_go)
    helper.start()
    ended = run(handler, payload, DEADLINE)
    helper.join()

    assert ended.error is None
    assert ended.result == 1.0


def test_run_when_the_caller_is_cancelled_then_the_rollout_is_reported(runtime):
    payload = runtime.new_rollout("p")

    async def main():
        begun = asyncio.Event()

        @rft_handler(require_turns=False)
        async def handler(payload):
            begun.set()
            await asyncio.Event().wait()

        work = asyncio.ensure_future(run_handler(handler, payload, trajectory_id=trajectory_id_of(payload)))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(main())

    assert runtime.trajectories()[0].status is TrajectoryStatus.REWARD_RECEIVED
    assert rewards(runtime, payload) == (0.0,)


@pytest.mark.parametrize(
    "error", [SystemExit(3), ValueError("no"), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_run_when_a_thread_handler_raises_then_that_is_part_of_the_answer(runtime, error):
    payload = runtime.new_rollout("p")

    @rft_handler(require_turns=False)
    def handler(payload):
        raise error

    ended = run(handler, payload)

    assert ended.error is error
    assert rewards(runtime, payload) == (0.0,)


def test_run_when_a_coroutine_raises_system_exit_then_the_loop_survives(runtime):
    payload = runtime.new_rollout("p")

    @rft_handler(require_turns=False)
    async def handler(payload):
        raise SystemExit(3)

    ended = run(handler, payload)

    assert isinstance(ended.error, SystemExit)
    assert rewards(runtime, payload) == (0.0,)


def test_run_when_it_misses_its_deadline_without_a_rollout_then_it_is_ended(release):
    def handler(payload):
        release.wait(60)

    ended = run(handler, {"prompt": "production"}, DEADLINE)

    assert isinstance(ended.error, RolloutTimeoutError)
    assert ended.context is None


def test_trajectory_id_when_metadata_is_malformed_then_it_is_refused():
    assert trajectory_id_of(ga_payload("t-1")) == "t-1"
    assert trajectory_id_of({"prompt": "p"}) is None
    with pytest.raises(PayloadError):
        trajectory_id_of(ga_payload(""))
