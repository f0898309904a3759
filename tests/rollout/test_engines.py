"""Every engine, the same rollouts, the same records."""

import asyncio
import json
import math
import os
import select
import subprocess
import sys
import sysconfig
import time
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path

import pytest
from rollout.worlds import PROMPTS, policy, worker

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import describe_error
from aws_rft_sdk.lifecycle.outcomes import metrics_of, state_of
from aws_rft_sdk.rollout import RolloutStatus, load_callable, run_rollouts
from aws_rft_sdk.rollout.engines import LocalEngine
from aws_rft_sdk.rollout.engines.http import HttpEngine
from aws_rft_sdk.rollout.engines.process import ProcessEngine
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.types import InferenceParams, RolloutResult

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
REWARDS = {"plain": ([0.1, 0.1, 0.2], 1), "coroutine": ([0.1, 0.1, 0.2], 1), "by_turn": ([0.2, 0.2, 0.4], 2)}
# The worker of these tests runs plain functions. The ray engine has tests of its own.
CASES = [
    *((engine, handler) for engine in ("local", "process") for handler in REWARDS),
    *((engine, handler) for engine in ("http", "http-invocations") for handler in ("plain", "by_turn")),
]


def run_on(engine, world, name, *, prompts=PROMPTS, deadline_seconds=60.0, **options):
    """Return the records of one handler on one engine, by prompt and sample."""
    reference = f"{world}/engine_handlers.py:{name}"

    async def main(made):
        records = run_rollouts(made, prompts, access.start, observe=access.observe, **options)
        async with aclosing(records):
            return [record async for record in records]

    with ExitStack() as stack:
        runtime = stack.enter_context(LocalRuntime(policy))
        access = access_in(runtime, InferenceParams())
        if engine == "local":
            made = LocalEngine(load_callable(reference), deadline_seconds=deadline_seconds)
        elif engine == "process":
            made = ProcessEngine(reference, workers=2, deadline_seconds=deadline_seconds)
        else:
            url, _ = stack.enter_context(worker(load_callable(reference)))
            url += "/invocations" if engine == "http-invocations" else ""
            made = HttpEngine(url, access.observe, deadline_seconds=deadline_seconds)
        return sorted(asyncio.run(main(made)), key=lambda record: (record.key, record.attempts))


@pytest.mark.parametrize(("engine", "handler"), CASES)
def test_engine_when_handler_succeeds_then_records_are_those_of_any_other(world, engine, handler):
    rewards, turns = REWARDS[handler]

    records = run_on(engine, world, handler)

    assert [(r.reward, r.turns, r.status, r.error, r.attempts) for r in records] == [
        (reward, turns, RolloutStatus.COMPLETED, None, 1) for reward in rewards
    ]
    assert [r.prompt_tokens for r in records] == [(1,) * turns, (1,) * turns, (2,) * turns]
    assert [r.response_tokens for r in records] == [(2,) * turns, (2,) * turns, (4,) * turns]
    assert all((r.rewards is None) == (turns == 1) for r in records)
    if handler == "plain" and engine != "http":  # /rollout answers before there are any
        assert [r.metrics for r in records] == [{"length": 1}, {"length": 1}, {"length": 2}]
        assert [r.state for r in records] == [{"rows": [prompt, None]} for prompt in PROMPTS]
    assert all(r.seconds > 0 for r in records)


@pytest.mark.parametrize("engine", ["local", "process", "http-invocations"])
def test_engine_when_handler_fails_then_the_others_go_on(world, engine):
    records = run_on(engine, world, "fails_on_b")

    assert [(r.status.value, r.reward) for r in records] == [("completed", 1.0), ("failed", 0.0), ("completed", 1.0)]
    assert records[1].error.endswith("LookupError: b is not for us")


@pytest.mark.parametrize("engine", ["local", "process"])
def test_engine_when_a_rollout_passes_its_deadline_then_it_is_a_failure_and_the_others_go_on(world, engine):
    records = run_on(engine, world, "hangs_on_b", deadline_seconds=2.0)

    assert [(r.status.value, r.reward) for r in records] == [("completed", 1.0), ("failed", 0.0), ("completed", 1.0)]
    assert records[1].error == "RolloutTimeoutError: the rollout was not over after 2 s, its deadline"


@pytest.mark.parametrize("engine", ["local", "process", "http-invocations"])
def test_engine_when_failed_rollouts_are_repeated_then_each_attempt_is_a_record_of_its_own(world, engine):
    records = run_on(engine, world, "fails_once", retries=2, concurrency=1)

    assert [(r.prompt_index, r.attempts, r.status.value) for r in records] == [
        (prompt, attempt, status) for prompt in range(3) for attempt, status in ((1, "failed"), (2, "completed"))
    ]
    assert len({r.trajectory_id for r in records}) == 6


def test_outcome_when_a_handler_gives_what_no_file_takes_then_its_record_is_text_and_json_all_the_same():
    assert metrics_of({"metrics": {"loss": math.nan, "ratio": -math.inf, "steps": 2}}) == {
        "loss": "NaN",
        "ratio": "-Infinity",
        "steps": 2,
    }

    class Unprintable(Exception):
        def __str__(self):
            raise LookupError("no text")

    assert "LookupError: no text" in metrics_of({"metrics": {"odd": Unprintable()}})["error"]
    assert state_of({"state": [math.inf, {1}, 0]}) == ["Infinity", "{1}", 0]
    assert "the state cannot be written" in state_of(RolloutResult(1, state=Unprintable()))["error"]
    assert state_of(1.0) is None
    assert describe_error(Unprintable()) == "Unprintable: no message, since that raised LookupError"
    assert describe_error(ValueError("half a pair: \ud83d")).encode() == rb"ValueError: half a pair: \ud83d"


# --- processes -------------------------------------------------------------------------------------------------------


def test_process_when_a_child_is_killed_then_only_its_rollouts_fail_and_it_is_replaced(world):
    records = run_on("process", world, "dies_on_b", group_size=2, concurrency=1)

    assert [(r.key, r.status.value) for r in records] == [
        ((0, 0), "completed"),
        ((0, 1), "completed"),
        ((1, 0), "unreported"),
        ((1, 1), "unreported"),
        ((2, 0), "completed"),
        ((2, 1), "completed"),
    ]
    assert "was killed (SIGKILL)" in records[2].error
    assert [r.turns for r in records] == [1] * 6


def test_process_when_a_child_holds_its_lock_past_the_deadline_then_it_is_killed_and_replaced(world):
    reference = f"{world}/engine_handlers.py:holds_the_lock_on_b"

    async def main():
        with LocalRuntime(policy) as runtime:
            engine = ProcessEngine(reference, workers=1, deadline_seconds=3.0, overtime_seconds=0.5)
            return [r async for r in run_rollouts(engine, PROMPTS, runtime.new_rollout, concurrency=1)]

    records = asyncio.run(main())
    assert [r.status.value for r in records] == ["completed", "unreported", "completed"]
    assert "was killed (SIGKILL)" in records[1].error


def test_process_when_a_child_dies_after_its_reward_was_delivered_then_the_runtime_tells(world):
    records = run_on("process", world, "dies_after_reporting", concurrency=1)

    assert [(r.status.value, r.reward, r.turns) for r in records] == [
        ("completed", 1.0, 1),
        ("completed", 0.25, 1),
        ("completed", 1.0, 1),
    ]


@contextmanager
def fifo_of(world):
    """Make what handlers hold open. Yields a function that waits until the last of their processes is gone."""
    os.mkfifo(world / "alive")
    end = os.open(world / "alive", os.O_RDONLY | os.O_NONBLOCK)

    def gone():
        return bool(select.select([end], [], [], 60)[0]) and os.read(end, 1) == b""

    try:
        yield gone
    finally:
        os.close(end)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_process_when_a_handler_has_forked_then_what_it_forked_keeps_nobody_and_ends_with_the_child(world):
    with fifo_of(world) as gone:
        records = run_on("process", world, "forks_and_dies_on_b", concurrency=1)

        assert [r.status.value for r in records] == ["completed", "unreported", "completed"]
        assert (world / "begun").exists()
        assert gone()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child ends when it gets its lock back")
def test_process_when_the_command_is_killed_then_a_child_that_holds_its_lock_ends_too(world):
    command = [AWS_RFT, "rollout", f"{world}/engine_handlers.py:never_lets_go", str(world / "data.jsonl")]
    with fifo_of(world) as gone:
        options = ["--engine", "process", "--workers", "1", "--out", str(world / "out")]
        process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
        while not (world / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()

        assert gone()


def test_process_when_a_file_of_the_working_directory_has_a_librarys_name_then_it_is_not_taken_for_it(
    world, monkeypatch
):
    (world / "elsewhere").mkdir()
    monkeypatch.chdir(world / "elsewhere")
    Path("json.py").write_text("raise ImportError('the wrong one')")

    assert [r.reward for r in run_on("process", world, "plain")] == [0.1, 0.1, 0.2]


def test_process_when_the_handler_cannot_be_loaded_then_the_engine_does_not_start(world, capfd):
    (world / "engine_handlers.py").write_text("import no_such_dependency\n")

    with pytest.raises(ConfigurationError, match="no_such_dependency"):
        run_on("process", world, "plain")


def test_process_when_cancelled_then_handlers_report_and_children_end(world):
    async def main():
        with LocalRuntime(policy) as runtime:
            access = access_in(runtime, InferenceParams())
            engine = ProcessEngine(f"{world}/engine_handlers.py:waits", workers=1)

            async def consume():
                return [r async for r in run_rollouts(engine, ["a"], access.start)]

            task = asyncio.create_task(consume())
            while not (world / "started").exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled(), [t.rewards for t in runtime.trajectories()]

    assert asyncio.run(main()) == (True, [(0.0,)])


def test_process_when_cancelled_while_it_starts_then_children_end(world):
    with (world / "engine_handlers.py").open("a") as file:
        file.write("pathlib.Path(__file__).with_name(f'loaded-{os.getpid()}').touch()\n")

    def loaded():
        return [int(path.name.partition("-")[2]) for path in world.glob("loaded-*")]

    async def main():
        engine = ProcessEngine(f"{world}/engine_handlers.py:plain", workers=3)
        entering = asyncio.create_task(engine.__aenter__())
        while not loaded():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.001)
        entering.cancel()
        await asyncio.wait([entering])
        return entering.cancelled()

    assert asyncio.run(main())
    for child in loaded():
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


@pytest.mark.parametrize("engine", ["local", "process", "http", "http-invocations"])
def test_engine_when_a_prompt_holds_half_a_pair_of_surrogates_then_it_arrives_as_it_is(world, engine):
    records = run_on(engine, world, "plain", prompts=["half \ud83d", "\u2028\x00 \U0001f600"])

    assert [(r.reward, r.status) for r in records] == [(0.6, RolloutStatus.COMPLETED), (0.4, RolloutStatus.COMPLETED)]


def test_engines_when_imported_then_optional_packages_are_not():
    code = "import aws_rft_sdk.rollout.engines.choosing, json, sys; print(json.dumps([*sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"ray", "boto3"} & set(json.loads(result.stdout))
