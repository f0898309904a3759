"""A pool of rollouts: bounded, each trajectory once, each with a deadline, ended in good order."""

import asyncio
import functools
import gc
import json
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import ga_payload, leave_pending

from aws_rft_sdk import LocalRuntime, RolloutFeedbackClient, rft_handler
from aws_rft_sdk.errors import (
    AtCapacityError,
    ConfigurationError,
    GivenUpError,
    PayloadError,
    RolloutTimeoutError,
    ShuttingDownError,
)
from aws_rft_sdk.feedback import redrive
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.lifecycle.shutdown import Drained
from aws_rft_sdk.runtime import Fault, Faults
from aws_rft_sdk.types import RolloutResult
from aws_rft_sdk.workers import RolloutPool, is_settled
from aws_rft_sdk.workers._memory import WHOLE

WAIT = 60


@pytest.fixture(scope="module")
def _runtime():
    with LocalRuntime() as runtime:
        yield runtime


@pytest.fixture
def runtime(_runtime):
    _runtime.reset()
    return _runtime


class Gate:
    """A handler that waits until it is let go, and counts its runs."""

    def __init__(self):
        self.runs = []
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, payload):
        self.runs.append(payload["metadata"]["rolloutId"])
        self.begun.release()
        assert self.open.wait(WAIT)
        return {"reward": 1.0, "prompt": payload["prompt"]}

    def wait_for(self, count):
        for _ in range(count):
            assert self.begun.acquire(timeout=WAIT)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def decorated(fn, **options):
    return rft_handler(require_turns=False, **options)(fn)


def rewards(runtime):
    return [trajectory.rewards for trajectory in runtime.trajectories()]


def test_submit_when_called_then_it_returns_at_once_and_the_outcome_follows(runtime, gate):
    with RolloutPool(decorated(gate)) as pool:
        submitted = pool.submit(payload := runtime.new_rollout("p"))

        assert submitted.trajectory_id == payload["metadata"]["rolloutId"]
        assert not submitted.repeated
        assert (pool.running, pool.free) == (1, 95)
        gate.open.set()
        ended = submitted.ended.result(WAIT)

        assert ended.result == {"reward": 1.0, "prompt": "p"}
        assert is_settled(ended)
        assert pool.figures().ended["completed"] == 1
    assert rewards(runtime) == [(1.0,)]


def test_submit_when_the_handler_is_a_coroutine_then_it_runs_in_the_pools_own_loop(runtime):
    threads = []

    @rft_handler(require_turns=False)
    async def handler(payload):
        threads.append(threading.current_thread().name)
        await asyncio.sleep(0)
        return 1.0

    with RolloutPool(handler) as pool:
        futures = [pool.submit(runtime.new_rollout("p")).ended for _ in range(5)]
        assert [future.result(WAIT).result for future in futures] == [1.0] * 5

    assert set(threads) == {"rft-pool"}


def test_submit_when_a_thousand_deliveries_of_one_rollout_arrive_at_once_then_it_runs_once(runtime, gate):
    payload = runtime.new_rollout("p")
    with RolloutPool(decorated(gate), max_rollouts=1) as pool:
        with ThreadPoolExecutor(32) as threads:
            submitted = list(threads.map(lambda _: pool.submit(payload), range(1000)))
        gate.open.set()
        results = [item.ended.result(WAIT).result for item in submitted]
        again = pool.submit(payload)

    assert len(gate.runs) == 1
    assert [item.repeated for item in submitted].count(False) == 1
    assert results == [{"reward": 1.0, "prompt": "p"}] * 1000
    assert again.repeated
    assert again.ended.result(0).result == results[0]


def test_submit_when_one_of_many_stops_waiting_then_the_others_still_get_the_outcome(runtime, gate):
    payload = runtime.new_rollout("p")
    with RolloutPool(decorated(gate)) as pool:
        first, second = pool.submit(payload), pool.submit(payload)
        assert not first.ended.cancel()
        gate.open.set()
        assert second.ended.result(WAIT).error is None


def test_submit_when_another_job_uses_the_same_id_then_it_is_another_rollout(service, gate):
    other = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/other-job"
    with RolloutPool(decorated(gate, client=lambda request: Silent())) as pool:
        pool.submit(ga_payload("same"))
        assert not pool.submit(ga_payload("same", job_arn=other)).repeated
        gate.wait_for(2)
        gate.open.set()


class Silent:
    """A client that reports to nobody."""

    def report_complete(self, reward):
        pass

    update_reward = report_complete

    def report_error(self, error, reward=None):
        pass


def test_submit_when_all_slots_are_taken_then_it_is_refused_with_a_time(runtime, gate):
    with RolloutPool(decorated(gate), max_rollouts=2) as pool:
        pool.submit(runtime.new_rollout("p"))
        pool.submit(runtime.new_rollout("p"))
        with pytest.raises(AtCapacityError, match="all 2 slots are taken") as caught:
            pool.submit(refused := runtime.new_rollout("p"))
        assert caught.value.retry_after_seconds >= 1
        assert caught.value.retry_safe
        assert pool.free == 0
        gate.open.set()
        assert pool.drain(WAIT) == Drained(finished=2, given_up=0)
        with pytest.raises(ShuttingDownError):
            pool.submit(refused)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        pytest.param({"prompt": "p"}, "metadata", id="production"),
        pytest.param([], "metadata", id="no object"),
        pytest.param(ga_payload(""), "metadata.rolloutId", id="empty id"),
        pytest.param({"metadata": {"rolloutId": "t"}}, "metadata.jobArn", id="no job"),
        pytest.param({"metadata": ga_payload("t")["metadata"]}, "prompt", id="no prompt"),
        pytest.param({**ga_payload("t"), "prompt": None}, "prompt", id="null"),
        pytest.param({**ga_payload("t"), "prompt": " \n"}, "prompt", id="blank"),
        pytest.param({**ga_payload("t"), "prompt": 7}, "prompt", id="a number"),
        pytest.param({"instance": {}, "metadata": ga_payload("t")["metadata"]}, "instance", id="an empty object"),
        pytest.param(
            {"body": json.dumps({**ga_payload("t"), "prompt": ""})}, "prompt", id="empty, within the envelope"
        ),
    ],
)
def test_submit_when_the_payload_is_no_proper_rollout_then_the_field_is_named(payload, field):
    with RolloutPool(decorated(Gate())) as pool:
        with pytest.raises(PayloadError) as caught:
            pool.submit(payload)
        assert caught.value.field == field
        assert pool.running == 0


def test_submit_when_a_rollout_ended_unreported_then_it_may_run_again(runtime):
    runs = []

    def handler(payload):
        runs.append(1)
        return 1.0 if len(runs) > 1 else "no reward"

    with RolloutPool(decorated(handler)) as pool:
        first = pool.submit(payload := runtime.new_rollout("p")).ended.result(WAIT)
        second = pool.submit(payload)

        assert not is_settled(first)
        assert not second.repeated
        assert is_settled(second.ended.result(WAIT))
        assert pool.submit(payload).repeated
        assert pool.figures().ended == {"completed": 1, "failed": 0, "late": 0, "unreported": 1}


def test_submit_when_the_handler_raised_and_it_was_reported_then_it_does_not_run_again(runtime):
    runs = []

    def handler(payload):
        runs.append(1)
        raise ValueError("no")

    with RolloutPool(decorated(handler)) as pool:
        ended = pool.submit(payload := runtime.new_rollout("p")).ended.result(WAIT)
        assert is_settled(ended)
        assert isinstance(ended.error, ValueError)
        assert pool.submit(payload).repeated
    assert runs == [1]
    assert rewards(runtime) == [(0.0,)]


@pytest.mark.parametrize("fails", [False, True])
def test_submit_when_the_reward_is_only_in_the_outbox_then_it_is_settled(tmp_path, fails):
    def handler(payload):
        if fails:
            raise ValueError("no")
        return 0.5

    with LocalRuntime(faults=Faults(Fault("status", route="feedback"))) as runtime:
        outbox = Outbox(tmp_path / "outbox.db")
        with RolloutPool(decorated(handler, outbox=outbox)) as pool:
            ended = pool.submit(payload := runtime.new_rollout("p")).ended.result(WAIT)
            assert is_settled(ended)
            assert pool.submit(payload).repeated
        assert rewards(runtime) == [None]
    assert [entry.rewards for entry in outbox.entries()] == [(0.0 if fails else 0.5,)]
    outbox.close()


def test_submit_when_nothing_could_be_reported_and_there_is_no_outbox_then_it_is_not_settled():
    def handler(payload):
        raise ValueError("no")

    faults = Faults(Fault("status", status=403, route="feedback"))
    with LocalRuntime(faults=faults) as runtime, RolloutPool(decorated(handler)) as pool:
        ended = pool.submit(payload := runtime.new_rollout("p")).ended.result(WAIT)
        assert not is_settled(ended)
        assert not pool.submit(payload).repeated


def test_submit_when_more_ended_than_it_remembers_then_the_oldest_are_forgotten(runtime):
    payloads = [runtime.new_rollout("p") for _ in range(3)]
    with RolloutPool(decorated(lambda payload: 1.0), remember=2) as pool:
        for payload in payloads:
            pool.submit(payload).ended.result(WAIT)
        assert [pool.submit(payload).repeated for payload in reversed(payloads)] == [True, True, False]


def test_submit_when_many_ended_since_then_the_outcome_is_known_without_prompt_and_result(runtime):
    def handler(payload):
        if payload["prompt"] == "fails":
            raise ValueError("no")
        return {"reward": 0.5, "conversation": payload["prompt"]}

    old = [runtime.new_rollout("p"), runtime.new_rollout("fails")]
    with RolloutPool(decorated(handler), max_rollouts=WHOLE) as pool:
        for payload in old:
            pool.submit(payload).ended.result(WAIT)
        for future in [pool.submit(runtime.new_rollout("p")).ended for _ in range(WHOLE)]:
            future.result(WAIT)
        again = [pool.submit(payload) for payload in old]
        good, bad = (submitted.ended.result(WAIT) for submitted in again)

        assert [submitted.repeated for submitted in again] == [True, True]
        assert all(is_settled(ended) and ended.context.request.prompt is None for ended in (good, bad))
        assert good.result == RolloutResult(reward=0.5)
        assert (bad.result, str(bad.error), bad.context.rewards) == (None, "no", (0.0,))


def test_deadline_when_a_thread_hangs_then_it_is_reported_and_keeps_its_slot_until_it_ends(runtime, gate):
    with RolloutPool(decorated(gate, floor_reward=-1.0), max_rollouts=2, deadline_seconds=0.2) as pool:
        ended = pool.submit(runtime.new_rollout("p")).ended.result(WAIT)

        assert isinstance(ended.error, RolloutTimeoutError)
        assert rewards(runtime) == [(-1.0,)]
        figures = pool.figures()
        assert (figures.running, figures.hung, figures.free) == (0, 1, 1)
        assert figures.ended["late"] == 1
        assert not pool.is_stuck
        pool.submit(runtime.new_rollout("p")).ended.result(WAIT)
        assert pool.is_stuck
        with pytest.raises(ShuttingDownError, match="start this worker anew"):
            pool.submit(runtime.new_rollout("p"))
        gate.open.set()
        assert until(lambda: pool.free == 2)
        assert not pool.is_stuck


def until(condition, rounds=600):
    pause = threading.Event()
    return any(condition() or pause.wait(0.1) for _ in range(rounds))


def test_deadline_when_a_coroutine_hangs_then_it_is_cancelled_and_its_slot_is_free(runtime):
    @rft_handler(require_turns=False)
    async def handler(payload):
        await asyncio.Event().wait()

    with RolloutPool(handler, max_rollouts=1, deadline_seconds=0.2) as pool:
        ended = pool.submit(runtime.new_rollout("p")).ended.result(WAIT)
        assert isinstance(ended.error, RolloutTimeoutError)
        assert (pool.figures().hung, pool.free) == (0, 1)


def test_loop_when_a_handler_blocks_it_then_figures_say_so(runtime):
    blocked, go_on = threading.Event(), threading.Event()

    @rft_handler(require_turns=False)
    async def handler(payload):
        blocked.set()
        go_on.wait(WAIT)
        return 1.0

    with RolloutPool(handler, deadline_seconds=0.5) as pool:
        submitted = pool.submit(runtime.new_rollout("p"))
        assert blocked.wait(WAIT)
        assert until(lambda: pool.is_stuck)
        assert pool.figures().stalled_seconds > 0.5
        # It is reported all the same, and what it returns later counts for nothing.
        assert until(lambda: rewards(runtime) == [(0.0,)])
        go_on.set()
        ended = submitted.ended.result(WAIT)
        assert isinstance(ended.error, RolloutTimeoutError)
        assert ended.result is None
        assert rewards(runtime) == [(0.0,)]
        assert pool.figures().ended["late"] == 1


def test_drain_when_a_handler_blocks_the_loop_then_its_rollout_is_reported_all_the_same(runtime):
    blocked, go_on = threading.Event(), threading.Event()

    @rft_handler(require_turns=False)
    async def handler(payload):
        blocked.set()
        go_on.wait(WAIT)
        return 1.0

    with RolloutPool(handler) as pool:
        submitted = pool.submit(runtime.new_rollout("p"))
        assert blocked.wait(WAIT)
        assert pool.drain(1.0) == Drained(finished=0, given_up=1)
        assert rewards(runtime) == [(0.0,)]
        go_on.set()
        assert isinstance(submitted.ended.result(WAIT).error, RolloutTimeoutError)


def test_loop_when_a_task_of_a_handler_raises_system_exit_then_other_rollouts_go_on(runtime):
    async def vandal():
        raise SystemExit(3)

    @rft_handler(require_turns=False)
    async def handler(payload):
        task = asyncio.ensure_future(vandal())
        await asyncio.wait([task])
        task.exception()
        return 1.0

    with RolloutPool(handler) as pool:
        futures = [pool.submit(runtime.new_rollout("p")).ended for _ in range(3)]
        assert [future.result(WAIT).result for future in futures] == [1.0] * 3


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_submit_when_the_handler_tries_to_end_the_process_then_only_its_rollout_fails(runtime, error):
    def handler(payload):
        if payload["prompt"] == "bad":
            raise error
        return 1.0

    with RolloutPool(decorated(handler)) as pool:
        bad = pool.submit(runtime.new_rollout("bad")).ended.result(WAIT)
        good = pool.submit(runtime.new_rollout("good")).ended.result(WAIT)

    assert bad.error is error
    assert good.result == 1.0
    assert rewards(runtime) == [(0.0,), (1.0,)]


def test_drain_when_rollouts_are_in_progress_then_they_end_and_new_ones_are_refused(runtime, gate):
    with RolloutPool(decorated(gate)) as pool:
        running = pool.submit(payload := runtime.new_rollout("p"))
        with ThreadPoolExecutor(1) as threads:
            drained = threads.submit(pool.drain, WAIT)
            assert until(lambda: pool.figures().draining)
            with pytest.raises(ShuttingDownError):
                pool.submit(runtime.new_rollout("p"))
            assert pool.submit(payload).repeated
            gate.open.set()
            assert drained.result(WAIT) == Drained(finished=1, given_up=0)
        assert running.ended.result(0).error is None


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_drain_when_rollouts_do_not_end_in_time_then_they_are_reported(runtime, gate, kind):
    async def waiting(payload):
        await asyncio.Event().wait()

    with RolloutPool(decorated(gate if kind == "thread" else waiting)) as pool:
        futures = [pool.submit(runtime.new_rollout("p")).ended for _ in range(40)]
        assert pool.drain(1.0) == Drained(finished=0, given_up=40)
        outcomes = [future.result(WAIT) for future in futures]

    assert {type(ended.error) for ended in outcomes} == {GivenUpError}
    assert all(is_settled(ended) for ended in outcomes)
    assert rewards(runtime) == [(0.0,)] * 40


def test_close_when_rollouts_are_in_progress_then_they_are_reported(runtime, gate):
    with RolloutPool(decorated(gate)) as pool:
        future = pool.submit(runtime.new_rollout("p")).ended
        gate.wait_for(1)

    assert isinstance(future.result(WAIT).error, GivenUpError)
    assert rewards(runtime) == [(0.0,)]
    with pytest.raises(ShuttingDownError):
        pool.submit(runtime.new_rollout("p"))
    pool.close()


def test_pool_when_used_before_its_start_or_started_again_then_it_works(runtime):
    pool = RolloutPool(decorated(lambda payload: 1.0))
    assert pool.free == 96
    assert pool.submit(first := runtime.new_rollout("p")).ended.result(WAIT).result == 1.0
    for _ in range(2):
        with pool:
            assert pool.start() is pool
            assert pool.submit(first).repeated
            assert pool.submit(runtime.new_rollout("p")).ended.result(WAIT).result == 1.0
        with pytest.raises(ShuttingDownError):
            pool.submit(runtime.new_rollout("p"))
    pool.start()
    pool.drain(1.0)
    with pytest.raises(ShuttingDownError, match="draining"):
        pool.start()
    pool.close()


@pytest.mark.parametrize("result", [1.0, RolloutResult(reward=1.0)])
def test_handler_when_undecorated_then_it_is_not_settled_whatever_it_returns(runtime, result):
    with RolloutPool(lambda payload: result) as pool:
        assert not is_settled(pool.submit(runtime.new_rollout("p")).ended.result(WAIT))


def test_submit_when_an_outbox_holds_the_decision_then_it_is_settled_without_running(tmp_path, runtime):
    outbox = Outbox(tmp_path / "outbox.db")
    payload, runs = runtime.new_rollout("p"), []

    def handler(payload):
        runs.append(1)
        return 0.5

    for _ in range(2):  # two processes, as it were
        with RolloutPool(decorated(handler, outbox=outbox)) as pool:
            ended = pool.submit(payload).ended.result(WAIT)
            assert is_settled(ended)
            assert pool.figures().ended["completed"] == 1
    assert runs == [1]
    redrive.stop_in_background(outbox)
    outbox.close()


class Conversation:
    """Something large that an agent holds."""


@pytest.mark.parametrize("kind", ["raised", "chained", "waited for"])
def test_memory_when_a_rollout_is_remembered_then_nothing_that_it_used_is_kept(runtime, kind):
    held = []

    def handler(payload):
        conversation = Conversation()
        held.append(weakref.ref(conversation))
        if kind == "chained":
            try:
                raise KeyError(repr(conversation))
            except KeyError as error:
                raise ValueError("no") from error
        if kind == "raised":
            raise ValueError("no")
        return 1.0

    with RolloutPool(decorated(handler)) as pool:
        submitted = pool.submit(payload := runtime.new_rollout("p"))
        caller = Conversation()
        held.append(weakref.ref(caller))
        submitted.ended.add_done_callback(functools.partial(lambda caller, ended: None, caller))
        submitted.ended.result(WAIT)
        del submitted, caller
        assert pool.submit(payload).repeated
        gc.collect()
        assert [ref() for ref in held] == [None, None]


def test_log_when_a_handler_raises_then_it_shows_where(runtime, caplog):
    def handler(payload):
        raise ValueError("no")

    with RolloutPool(decorated(handler)) as pool:
        pool.submit(runtime.new_rollout("p")).ended.result(WAIT)

    assert "Traceback" in caplog.text
    assert "in handler" in caplog.text


@pytest.mark.parametrize(
    "arguments", [{"max_rollouts": 0}, {"deadline_seconds": 0}, {"deadline_seconds": float("nan")}, {"handler": 3}]
)
def test_pool_when_an_argument_makes_no_sense_then_it_is_refused(arguments):
    with pytest.raises(ConfigurationError):
        RolloutPool(**{"handler": print, **arguments})


def test_start_when_the_outbox_holds_feedback_of_an_earlier_process_then_it_is_delivered(tmp_path, monkeypatch):
    path = tmp_path / "outbox.db"
    monkeypatch.setenv("RFT_OUTBOX", str(path))
    with LocalRuntime() as runtime:
        payload = runtime.new_rollout("p")
        request = RolloutFeedbackClient(payload)
        leave_pending(request.outbox, request, (0.25,), failures=1)
        with RolloutPool(decorated(lambda payload: 1.0)):
            assert until(lambda: rewards(runtime) == [(0.25,)])
        redrive.stop_in_background(request.outbox)
        request.outbox.close()
