"""A process that is told to end while rollouts are in progress."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from aws_rft_sdk import LocalRuntime, RFTContext, rft_handler
from aws_rft_sdk.errors import ConfigurationError, RolloutTimeoutError, ShuttingDownError
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.lifecycle import one_rollout
from aws_rft_sdk.lifecycle.shutdown import Drained, drain, drain_on_sigterm
from aws_rft_sdk.types import TrajectoryStatus

JOB_ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j"


@pytest.fixture
def runtime():
    with LocalRuntime() as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def open_again():
    yield
    one_rollout.begin_again()


@rft_handler(require_turns=False)
def quick(payload):
    return 1.0


def held(release, begun, **options):
    @rft_handler(require_turns=False, **options)
    def handler(payload):
        begun.set()
        assert release.wait(60)
        return 1.0

    return handler


def in_thread(fn, *args):
    results = []

    def run():
        try:
            results.append(fn(*args))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_drain_when_nothing_runs_then_it_returns_and_new_rollouts_are_refused(runtime):
    payload = runtime.new_rollout("p")

    assert drain(60) == Drained(0, 0)
    with pytest.raises(ShuttingDownError, match="shutting down"):
        quick(payload)

    assert runtime.trajectories()[0].status is TrajectoryStatus.PENDING
    assert quick({"prompt": "production"}) == 1.0


def test_drain_when_an_async_handler_is_called_then_it_is_refused_too(runtime):
    drain(60)

    @rft_handler(require_turns=False)
    async def handler(payload):
        return 1.0

    with pytest.raises(ShuttingDownError):
        asyncio.run(handler(runtime.new_rollout("p")))


def test_drain_when_a_rollout_finishes_in_time_then_its_reward_counts(runtime):
    release, begun = threading.Event(), threading.Event()
    rollout, results = in_thread(held(release, begun), runtime.new_rollout("p"))
    assert begun.wait(30)
    draining, drained = in_thread(drain, 60)
    while not one_rollout._stopping.is_set():
        pass
    release.set()
    draining.join()
    rollout.join()

    assert drained == [Drained(finished=1, given_up=0)]
    assert results == [1.0]
    assert runtime.trajectories()[0].rewards == (1.0,)


def test_drain_when_a_rollout_does_not_finish_then_the_floor_is_reported_and_its_result_ignored(runtime):
    release, begun, seen = threading.Event(), threading.Event(), []
    handler = held(release, begun, on_error=lambda error: seen.append(error) or -1.0)
    rollout, results = in_thread(handler, runtime.new_rollout("p"))
    assert begun.wait(30)

    assert drain(2.0) == Drained(finished=0, given_up=1)
    assert isinstance(seen[0], RolloutTimeoutError)
    assert runtime.trajectories()[0].rewards == (-1.0,)
    release.set()
    rollout.join()

    assert results == [1.0]
    assert runtime.trajectories()[0].rewards == (-1.0,)
    assert one_rollout.running() == []


def test_drain_on_sigterm_when_used_wrongly_then_configuration_error():
    with pytest.raises(ConfigurationError, match="grace_seconds"):
        drain_on_sigterm(0)
    thread, results = in_thread(drain_on_sigterm)
    thread.join()

    assert isinstance(results[0], ConfigurationError)


WORKER = """
import json, sys, threading
from aws_rft_sdk import RFTContext, rft_handler
from aws_rft_sdk.lifecycle.shutdown import drain_on_sigterm

ends = json.loads(sys.stdin.readline())
begun = threading.Barrier(len(ends) + 1)

@rft_handler(require_turns=False, outbox=sys.argv[1])
def handler(payload):
    begun.wait(30)
    if ends[payload["prompt"]] == "finishes":
        stopping.wait(30)
        return 0.5
    threading.Event().wait()  # never

class Stopping:
    def wait(self, timeout):
        from aws_rft_sdk.lifecycle import one_rollout
        assert one_rollout._stopping.wait(timeout)

stopping = Stopping()
payloads = [json.loads(line) for line in sys.stdin.read().splitlines()]
threads = [threading.Thread(target=handler, args=(p,), daemon=True) for p in payloads]
drain_on_sigterm(float(sys.argv[2]))
for thread in threads:
    thread.start()
begun.wait(30)
print("running", flush=True)
# In slices: Python does not run the handler of a signal that comes just before an endless wait begins.
while not threading.Event().wait(0.1):
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_process_when_sigterm_comes_then_rollouts_finish_or_are_reported_and_it_ends(runtime, tmp_path):
    ends = {"a": "finishes", "b": "hangs", "c": "finishes"}
    payloads = [runtime.new_rollout(prompt) for prompt in ends]
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path / "outbox.db"), "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    process.stdin.write("\n".join(json.dumps(item) for item in [ends, *payloads]))
    process.stdin.close()
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    process.stdout.close()

    assert process.returncode == -signal.SIGTERM
    assert [trajectory.rewards for trajectory in runtime.trajectories()] == [(0.5,), (0.0,), (0.5,)]
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.ledger() == (3, 3, 0, 0, 0)
    outbox.close()


REPLACED = """
import logging, signal
from aws_rft_sdk.lifecycle.shutdown import drain_on_sigterm
logging.basicConfig()
def of_the_server(number, frame): pass
drain_on_sigterm()
{}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("server", ["signal.signal(signal.SIGTERM, of_the_server)", "pass"])
def test_drain_on_sigterm_when_a_server_replaces_its_handler_then_the_log_says_what_to_call(server):
    code = REPLACED.format(server)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ("of_the_server" in done.stderr) == ("signal" in server)
    assert ("shutdown.drain()" in done.stderr) == ("signal" in server)


def test_rollout_when_it_has_ended_then_it_is_no_longer_among_the_running(runtime):
    seen = []

    @rft_handler(require_turns=False)
    def handler(payload):
        seen.append(len(one_rollout.running()))
        RFTContext.get_headers()
        return 1.0

    handler(runtime.new_rollout("p"))

    assert seen == [1]
    assert one_rollout.running() == []


def test_drain_when_a_reward_is_being_delivered_then_it_is_not_replaced_by_the_floor():
    answered = threading.Event()

    class Slow:
        """A client whose delivery takes its time."""

        rewards = None

        def report_complete(self, rewards):
            delivering.set()
            assert answered.wait(60)
            self.rewards = rewards

        def update_reward(self, rewards):
            raise AssertionError("it was not sealed")

        def report_error(self, error, reward=None):
            raise AssertionError("it did not fail")

    delivering, client = threading.Event(), Slow()
    handler = rft_handler(require_turns=False, client=lambda request: client)(lambda payload: 1.0)
    metadata = {"jobArn": JOB_ARN, "rolloutId": "t"}
    rollout, results = in_thread(handler, {"prompt": "p", "metadata": metadata})
    assert delivering.wait(30)
    draining, drained = in_thread(drain, 1.0)
    draining.join()
    answered.set()
    rollout.join()

    assert drained == [Drained(finished=0, given_up=1)]
    assert (results, client.rewards) == ([1.0], (1.0,))


def test_handler_when_it_returns_while_it_is_reported_as_an_error_then_it_waits_for_that_report():
    """Or whoever looks at its context next would take it for done, although nothing is reported yet."""
    reporting, answered, go_on = threading.Event(), threading.Event(), threading.Event()
    outcomes, contexts = [], []

    class Slow:
        rewards = None

        def report_complete(self, rewards):
            raise AssertionError("it was given up")

        update_reward = report_complete

        def report_error(self, error, reward=None):
            reporting.set()
            assert answered.wait(60)

    @rft_handler(require_turns=False, client=lambda request: Slow())
    def handler(payload):
        contexts.append(RFTContext.current())
        assert go_on.wait(60)
        return 1.0

    def rollout():
        handler({"prompt": "p", "metadata": {"jobArn": JOB_ARN, "rolloutId": "t"}})
        outcomes.append(contexts[0].outcome)

    running, _ = in_thread(rollout)
    while not contexts:
        running.join(0.01)
    draining, _ = in_thread(drain, 0.1)
    assert reporting.wait(30)
    go_on.set()
    running.join(0.3)  # it would be over by now
    answered.set()
    running.join()
    draining.join()

    assert outcomes == ["failed"]
