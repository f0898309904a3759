"""Whatever a handler raises is an outcome of its rollout. It ends neither the run nor the event loop."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from aws_rft_sdk import LocalRuntime, rft_handler
from aws_rft_sdk.lifecycle import calling, loops
from aws_rft_sdk.rollout import run_rollouts
from aws_rft_sdk.workers import RolloutPool

WAIT = 60


class Mine(BaseException):
    """Like the exceptions of frameworks that no `except Exception` shall catch."""


def _group():
    if sys.version_info < (3, 11):
        pytest.skip("there are no groups yet")
    return BaseExceptionGroup("two", [Mine("a"), ValueError("b")])  # noqa: F821 - of Python 3.11


ERRORS = {
    "pytest.fail": lambda: pytest.fail.Exception("no"),
    "pytest.skip": lambda: pytest.skip.Exception("no"),
    "group": _group,
    "interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "exit": lambda: SystemExit(3),
    "cancelled": asyncio.CancelledError,
    "own": lambda: Mine("no"),
}


def coroutine(make_error, **options):
    @rft_handler(require_turns=False, **options)
    async def handler(payload):
        await asyncio.sleep(0)
        if payload["prompt"] == "bad":
            raise make_error()
        return 1.0

    return handler


def async_generator(make_error):
    @rft_handler(require_turns=False)
    async def handler(payload):
        yield "begun"
        await asyncio.sleep(0)
        if payload["prompt"] == "bad":
            raise make_error()
        yield {"reward": 1.0}

    return handler


def function(make_error):
    @rft_handler(require_turns=False)
    def handler(payload):
        if payload["prompt"] == "bad":
            raise make_error()
        return 1.0

    return handler


SHAPES = pytest.mark.parametrize("shape", [coroutine, async_generator, function], ids=lambda shape: shape.__name__)
RAISED = pytest.mark.parametrize("error", ERRORS)


@pytest.fixture(scope="module")
def _runtime():
    with LocalRuntime() as runtime:
        yield runtime


@pytest.fixture
def runtime(_runtime):
    _runtime.reset()
    return _runtime


def drive(runtime, handler, prompts, **options):
    async def records():
        return [record async for record in run_rollouts(handler, prompts, runtime.new_rollout, **options)]

    return asyncio.run(records())


@SHAPES
@RAISED
def test_driver_when_a_handler_raises_anything_then_it_is_one_failed_record(runtime, shape, error):
    make_error = ERRORS[error]
    records = drive(runtime, shape(make_error), ["good", "bad", "good"], concurrency=2)

    by_prompt = {record.prompt_index: record for record in records}
    assert [by_prompt[n].status.value for n in range(3)] == ["completed", "failed", "completed"]
    assert by_prompt[1].error.startswith(type(make_error()).__name__)
    assert sorted(t.rewards for t in runtime.trajectories()) == [(0.0,), (1.0,), (1.0,)]


@SHAPES
@RAISED
def test_pool_when_a_handler_raises_anything_then_it_fails_and_the_pool_goes_on(runtime, shape, error):
    make_error = ERRORS[error]
    with RolloutPool(shape(make_error), max_rollouts=2) as pool:
        bad = pool.submit(runtime.new_rollout("bad")).ended.result(WAIT)
        good = pool.submit(runtime.new_rollout("good")).ended.result(WAIT)

    assert type(bad.error) is type(make_error())
    assert (good.error, pool.figures().ended["failed"], pool.figures().ended["completed"]) == (None, 1, 1)


@RAISED
def test_driver_when_on_error_raises_anything_then_the_run_goes_on(runtime, error):
    def on_error(raised):
        raise ERRORS[error]()

    records = drive(runtime, coroutine(lambda: ValueError("no"), on_error=on_error), ["bad", "good"], concurrency=1)

    assert [record.status.value for record in records] == ["unreported", "completed"]


def test_driver_when_on_error_raises_at_the_deadline_then_the_run_goes_on(runtime):
    def on_error(raised):
        raise KeyboardInterrupt

    @rft_handler(require_turns=False, on_error=on_error)
    async def handler(payload):
        if payload["prompt"] == "hangs":
            await asyncio.Event().wait()
        return 1.0

    records = drive(runtime, handler, ["hangs", "good"], concurrency=1, deadline_seconds=1)

    assert [record.status.value for record in records] == ["unreported", "completed"]


def in_a_task(make_error):
    @rft_handler(require_turns=False)
    async def handler(payload):
        async def work():
            await asyncio.sleep(0)
            if payload["prompt"] == "bad":
                raise make_error()

        await asyncio.gather(work())
        return 1.0

    return handler


@pytest.mark.parametrize("error", ["interrupt", "exit", "generator exit"])
def test_driver_when_a_task_of_a_handler_would_end_the_loop_then_it_is_one_failed_record(runtime, error):
    records = drive(runtime, in_a_task(ERRORS[error]), ["good", "bad", "good"], concurrency=1)

    assert [record.status.value for record in records] == ["completed", "failed", "completed"]
    assert records[1].error.startswith(f"HandlerError: {type(ERRORS[error]()).__name__}")


def test_driver_when_tasks_of_a_handler_are_cancelled_then_they_are_as_ever(runtime, recwarn):
    seen = []

    @rft_handler(require_turns=False)
    async def handler(payload):
        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("ended")

        unbegun, begun = asyncio.create_task(work()), asyncio.create_task(work(), name="begun")
        unbegun.cancel()
        await asyncio.sleep(0)
        begun.cancel()
        seen.append(begun.get_name())
        seen.append(begun.get_coro().cr_code.co_name)
        ended = await asyncio.gather(unbegun, begun, return_exceptions=True)
        seen.append([type(error) for error in ended])
        return 1.0

    [record] = drive(runtime, handler, ["p"])

    assert record.reward == 1.0
    assert seen == ["begun", "work", "ended", [asyncio.CancelledError] * 2]
    assert [warning for warning in recwarn if "never awaited" in str(warning.message)] == []


COMMANDS_LOOP = """
    import asyncio, sys
    from aws_rft_sdk.lifecycle.loops import run

    async def ends(error):
        raise error

    async def main():
        for error in (SystemExit(3), KeyboardInterrupt()):
            await asyncio.wait([asyncio.ensure_future(ends(error))])
        print("goes on", flush=True)
        if sys.argv[1] == "blocks":
            while True:
                pass
        try:
            await asyncio.Event().wait()
        finally:
            print("cancelled", flush=True)

    run(main())
"""


@pytest.mark.parametrize("does", ["waits", "blocks"])
def test_commands_when_a_task_would_end_the_loop_then_it_goes_on_and_ctrl_c_still_works(does):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(COMMANDS_LOOP), does],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout.readline() == "goes on\n"
        process.send_signal(signal.SIGINT)
        pause = threading.Event()
        while does == "blocks" and process.poll() is None:
            pause.wait(0.2)  # two signals that come at once are one
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    assert output == ("cancelled\n" if does == "waits" else "")
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0


@pytest.mark.parametrize("shape", ["coroutine", "plain"])
def test_on_error_when_it_hangs_then_its_rollout_ends_after_the_deadline_and_others_go_on(shape, monkeypatch, caplog):
    monkeypatch.setattr(calling, "_REPORT_SECONDS", 0.5)
    monkeypatch.setattr(calling, "_CANCEL_SECONDS", 0.5)
    let_go = threading.Event()

    async def loses(payload):
        if payload["prompt"] == "bad":
            raise ValueError("no")
        return 1.0

    def loses_in_a_thread(payload):
        return asyncio.run(loses(payload))

    options = {"require_turns": False, "on_error": lambda error: let_go.wait(WAIT) and 0.0}
    handler = rft_handler(**options)(loses if shape == "coroutine" else loses_in_a_thread)

    async def main(runtime):
        attempts = run_rollouts(handler, ["bad", "good"], runtime.new_rollout, deadline_seconds=3.0)
        return {record.prompt_index: record async for record in attempts}

    with LocalRuntime() as runtime:
        try:
            records = loops.run(main(runtime))  # leaves what hangs, as the command does
        finally:
            let_go.set()
        # What was left behind still reports. It must not do so to a runtime that is gone.
        while runtime.observe(records[0].trajectory_id)["status"] != "REWARD_RECEIVED":
            time.sleep(0.01)

    assert [records[0].status.value, records[0].failure.value] == ["unreported", "timeout"]
    assert records[1].reward == 1.0
    assert f"trajectory_id=<{records[0].trajectory_id}> | not reported" in caplog.text
