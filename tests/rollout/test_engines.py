"""Every engine, the same rollouts, the same records."""

import asyncio
import dataclasses
import json
import math
import os
import re
import select
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path

import pytest
from extras import needs
from rollout.worlds import PROMPTS, policy, worker

from aws_rft_sdk import LocalRuntime, rft_handler
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout import RolloutStatus, load_callable, read_records, run_rollouts
from aws_rft_sdk.rollout.engines import LocalEngine
from aws_rft_sdk.rollout.engines.base import metrics_of
from aws_rft_sdk.rollout.engines.http import HttpEngine
from aws_rft_sdk.rollout.engines.process import ProcessEngine
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.runs.records import describe_error
from aws_rft_sdk.types import InferenceParams

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
REWARDS = {"plain": ([0.1, 0.1, 0.2], 1), "coroutine": ([0.1, 0.1, 0.2], 1), "by_turn": ([0.2, 0.2, 0.4], 2)}
# The worker of these tests runs plain functions, and a cluster takes ten seconds to start.
CASES = [
    *((engine, handler) for engine in ("local", "process") for handler in REWARDS),
    *((engine, handler) for engine in ("http", "http-invocations") for handler in ("plain", "by_turn")),
    pytest.param("ray", "plain", marks=[needs("ray"), pytest.mark.timeout(300)]),
]


def run_on(engine, world, name, *, prompts=PROMPTS, deadline_seconds=60.0, **options):
    """Return the records of one handler on one engine, by prompt and sample."""
    reference = f"{world}/engine_handlers.py:{name}"
    if engine == "ray":
        return run_on_ray(world, reference)

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


def run_on_ray(world, reference):
    command = [AWS_RFT, "rollout", reference, str(world / "data.jsonl"), "--engine", "ray", "--workers", "1"]
    result = subprocess.run([*command, "--out", str(world / "out")], capture_output=True, text=True, timeout=280)
    assert (world / "out" / "rollouts.jsonl").exists(), result.stderr
    return sorted(read_records(world / "out"), key=lambda record: record.key)


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
    assert all(r.seconds > 0 for r in records)


@pytest.mark.parametrize("engine", ["local", "process", "http-invocations"])
def test_engine_when_handler_fails_then_the_others_go_on(world, engine):
    records = run_on(engine, world, "fails_on_b")

    assert [(r.status.value, r.reward) for r in records] == [("completed", 1.0), ("failed", 0.0), ("completed", 1.0)]
    assert records[1].error.endswith("LookupError: b is not for us")


def test_engine_http_when_handler_fails_then_only_its_floor_reward_is_known(world):
    records = run_on("http", world, "fails_on_b")

    assert [(r.status.value, r.reward) for r in records] == [("completed", r) for r in (1.0, 0.0, 1.0)]


@pytest.mark.parametrize("engine", ["local", "process"])
def test_engine_when_a_rollout_passes_its_deadline_then_it_is_a_failure_and_the_others_go_on(world, engine):
    records = run_on(engine, world, "hangs_on_b", deadline_seconds=2.0)

    assert [(r.status.value, r.reward) for r in records] == [("completed", 1.0), ("failed", 0.0), ("completed", 1.0)]
    assert records[1].error == "RolloutTimeoutError: the rollout was not over after 2 s, its deadline"


def test_engine_http_when_no_reward_comes_then_the_rollout_is_unreported_at_its_deadline(world):
    async def main():
        with LocalRuntime(policy) as runtime, worker(lambda payload: None) as (url, _):
            access = access_in(runtime, InferenceParams())
            engine = HttpEngine(url, access.observe, deadline_seconds=0.5)
            return [r async for r in run_rollouts(engine, ["a"], access.start, observe=access.observe)]

    (record,) = asyncio.run(main())
    assert (record.status, record.reward) == (RolloutStatus.UNREPORTED, None)
    assert record.error == "RolloutTimeoutError: the rollout was not over after 0.5 s, its deadline"


@pytest.mark.parametrize("engine", ["local", "process", "http-invocations"])
def test_engine_when_failed_rollouts_are_repeated_then_each_attempt_is_a_record_of_its_own(world, engine):
    records = run_on(engine, world, "fails_once", retries=2, concurrency=1)

    assert [(r.prompt_index, r.attempts, r.status.value) for r in records] == [
        (prompt, attempt, status) for prompt in range(3) for attempt, status in ((1, "failed"), (2, "completed"))
    ]
    assert len({r.id for r in records}) == 6


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
            engine = ProcessEngine(reference, workers=1, deadline_seconds=1.0, overtime_seconds=0.5)
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


# --- http ------------------------------------------------------------------------------------------------------------


def test_http_when_worker_is_busy_then_it_is_called_again_after_what_it_asks_for(world):
    async def main():
        handler = load_callable(f"{world}/engine_handlers.py:plain")
        with LocalRuntime(policy) as runtime, worker(handler, busy=4, retry_after="0.1") as (url, calls):
            access = access_in(runtime, InferenceParams())
            engine = HttpEngine(url, access.observe)
            records = [r async for r in run_rollouts(engine, PROMPTS, access.start, observe=access.observe)]
            return records, calls, len(runtime.trajectories())

    records, calls, trajectories = asyncio.run(main())
    assert {r.status for r in records} == {RolloutStatus.COMPLETED}
    assert (len(calls), trajectories) == (7, 3)
    assert {path for path, _ in calls} == {"/rollout"}


def test_http_when_nobody_answers_then_rollouts_are_unreported(world):
    async def main():
        with LocalRuntime(policy) as runtime:
            access = access_in(runtime, InferenceParams())
            engine = HttpEngine("http://127.0.0.1:9", access.observe)
            return [r async for r in run_rollouts(engine, PROMPTS, access.start, observe=access.observe)]

    records = asyncio.run(main())
    assert [r.status for r in records] == [RolloutStatus.UNREPORTED] * 3
    assert records[0].error.startswith("AgentUnreachableError: http://127.0.0.1:9/rollout does not answer")


@pytest.mark.parametrize("path", ["/rollout", "/invocations"])
def test_http_when_the_answer_is_lost_then_the_reward_is_waited_for_in_the_runtime(world, path):
    """The worker may have begun, and nothing is run twice: the reward may be there already, or arrive later."""
    looked = threading.Event()
    plain = load_callable(f"{world}/engine_handlers.py:plain")

    def handler(payload):
        if path == "/rollout":
            looked.wait(30)
        return plain(payload)

    async def main():
        with LocalRuntime(policy) as runtime, worker(handler, hangs_up=True) as (url, _):
            access = access_in(runtime, InferenceParams())

            async def observe(trajectory_id):
                seen = await access.observe(trajectory_id)
                looked.set()
                return seen

            engine = HttpEngine(f"{url}{path}", observe)
            return [r async for r in run_rollouts(engine, ["a"], access.start, observe=observe, retries=1)]

    (record,) = asyncio.run(main())
    assert (record.status, record.reward, record.attempts) == (RolloutStatus.COMPLETED, 0.1, 1)


@pytest.mark.parametrize(("quiet_seconds", "status"), [(60.0, "completed"), (0.0, "unreported")])
def test_http_when_the_answer_is_lost_in_the_middle_then_it_is_waited_for_unless_nothing_happens(
    world, quiet_seconds, status
):
    """A proxy ends long calls. Without a turn nobody knows that a rollout runs, and it is waited for less long."""
    infer = load_callable(f"{world}/engine_handlers.py:infer")
    turned, looked, looks = threading.Event(), threading.Event(), []

    @rft_handler
    def handler(payload):
        infer(payload)
        turned.set()
        looked.wait(30)
        return 0.7

    async def main():
        with LocalRuntime(policy) as runtime, worker(handler, hangs_up=True) as (url, _):
            access = access_in(runtime, InferenceParams())

            async def observe(trajectory_id):
                await asyncio.to_thread(turned.wait, 30)
                looks.append(await access.observe(trajectory_id))
                if len(looks) == 3:
                    looked.set()
                return looks[-1]

            engine = HttpEngine(url, observe)
            engine.after_error_seconds, engine.quiet_seconds = 0.0, quiet_seconds
            try:
                return [r async for r in run_rollouts(engine, ["a"], access.start)]
            finally:
                looked.set()

    (record,) = asyncio.run(main())
    assert (record.status.value, record.turns) == (status, 1)


def test_http_when_a_header_cannot_be_sent_then_the_error_does_not_quote_it(world):
    async def main():
        with (
            LocalRuntime(policy) as runtime,
            worker(load_callable(f"{world}/engine_handlers.py:plain")) as (url, calls),
        ):
            access = access_in(runtime, InferenceParams())
            engine = HttpEngine(url, access.observe, headers={"Authorization": "Bearer secret\n"})
            return [r async for r in run_rollouts(engine, ["a"], access.start)], calls

    (record,), calls = asyncio.run(main())
    assert (record.status, calls) == (RolloutStatus.UNREPORTED, [])
    assert record.error.endswith("does not answer (LocalProtocolError)")


@pytest.mark.parametrize("engine", ["local", "process", "http", "http-invocations"])
def test_engine_when_a_prompt_holds_half_a_pair_of_surrogates_then_it_arrives_as_it_is(world, engine):
    records = run_on(engine, world, "plain", prompts=["half \ud83d", "\u2028\x00 \U0001f600"])

    assert [(r.reward, r.status) for r in records] == [(0.6, RolloutStatus.COMPLETED), (0.4, RolloutStatus.COMPLETED)]


@pytest.mark.parametrize(
    ("url", "says"),
    [("ftp://host", "not the URL of a worker"), ("http://127.0.0.1:1", "the runtime does not tell how it ended")],
)
def test_http_when_it_cannot_work_then_it_is_refused_at_once(url, says):
    with pytest.raises(ConfigurationError, match=says):
        HttpEngine(url, None)


def test_http_when_the_worker_is_ours_then_records_are_those_of_the_local_engine(world):
    """The worker of this package, as it is deployed: a process of its own."""
    reference = f"{world}/engine_handlers.py:fails_on_b"
    serving = subprocess.Popen(
        [AWS_RFT, "worker", "http", reference, "--port", "0", "--host", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        announced = next(re.search(r"http://127\.0\.0\.1:\d+", line) for line in serving.stdout if "http://" in line)
        with LocalRuntime(policy) as runtime:
            access = access_in(runtime, InferenceParams())

            async def main(engine):
                attempts = run_rollouts(engine, PROMPTS, access.start, observe=access.observe, group_size=2)
                return [dataclasses.replace(r, id="", seconds=0.0) async for r in attempts]

            def by_key(records):
                return sorted(records, key=lambda record: record.key)

            here = by_key(asyncio.run(main(LocalEngine(load_callable(reference)))))
            invoked = by_key(asyncio.run(main(HttpEngine(f"{announced[0]}/invocations", access.observe))))
            accepted = by_key(asyncio.run(main(HttpEngine(announced[0], access.observe))))
    finally:
        serving.terminate()
        serving.communicate(timeout=60)

    assert invoked == here
    assert [r.reward for r in accepted] == [r.reward for r in here]


# --- ray -------------------------------------------------------------------------------------------------------------


@needs("ray")
@pytest.mark.timeout(300)
def test_ray_when_an_actor_is_killed_then_only_its_rollouts_fail_and_errors_travel(world):
    command = [AWS_RFT, "rollout", f"{world}/engine_handlers.py:dies_on_b", str(world / "data.jsonl")]
    command += ["--engine", "ray", "--workers", "1", "--concurrency", "1", "--out", str(world / "out")]
    subprocess.run(command, capture_output=True, timeout=280)

    records = sorted(read_records(world / "out"), key=lambda record: record.key)
    assert [r.status.value for r in records] == ["completed", "unreported", "completed"]
    assert "ActorDied" in records[1].error


def test_engines_when_imported_then_optional_packages_are_not():
    code = "import aws_rft_sdk.rollout.engines.choosing, json, sys; print(json.dumps([*sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"ray", "boto3"} & set(json.loads(result.stdout))
