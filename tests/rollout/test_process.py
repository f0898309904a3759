"""The process engine when handlers, children and the machine misbehave: other rollouts go on, and none is lost."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sysconfig
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rollout.worlds import policy

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.lifecycle.calling import trajectory_id_of
from aws_rft_sdk.rollout import RolloutStatus, run_rollouts
from aws_rft_sdk.rollout.engines.process import ProcessEngine
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.types import InferenceParams

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, forks and limits of POSIX")

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
MIB = 2**20
HANDLERS = """
import asyncio, json, os, pathlib, resource, stat, subprocess, sys, time
from engine_handlers import infer
from aws_rft_sdk import rft_handler

HERE = pathlib.Path(__file__).parent

@rft_handler
def pid(payload):
    infer(payload)
    return {"reward": 1.0, "metrics": {"pid": os.getpid()}}

@rft_handler
def waits_for_release(payload):
    infer(payload)
    (HERE / f"began-{os.getpid()}-{payload['metadata']['rolloutId']}").touch()
    while not (HERE / "release").exists():
        time.sleep(0.01)
    return 1.0

@rft_handler
def big_metrics(payload):
    infer(payload)
    return {"reward": 1.0, "metrics": {"bytes": len(json.dumps(payload)), "text": "x" * 50 * 2**20}}

@rft_handler
async def blocks_its_loop(payload):
    await asyncio.to_thread(infer, payload)
    if payload["prompt"] == "bad":
        (HERE / "blocked").touch()
        while not (HERE / "release").exists():
            time.sleep(0.01)
    return 1.0

@rft_handler
async def ends_its_loop(payload):
    await asyncio.to_thread(infer, payload)
    if payload["prompt"] == "bad":
        asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0.01)
    return 1.0

@rft_handler
async def leaves_threads_behind(payload):
    from aws_rft_sdk.lifecycle.executor import DaemonThreads

    DaemonThreads.is_exhausted = property(lambda threads: threads.hung >= 2)
    await asyncio.to_thread(infer, payload)
    if payload["prompt"].startswith("hangs"):
        try:
            await asyncio.wait_for(asyncio.to_thread(time.sleep, 600), 0.05)
        except asyncio.TimeoutError:
            pass
    return 1.0

def ends():
    os._exit(3)

def closes_stdout():
    os.close(1)

def closes_all():
    os.closerange(0, 256)
    time.sleep(60)  # a reward that the dying process still delivers would count

def forks():
    if os.fork() == 0:
        time.sleep(600)

def forks_a_command():
    subprocess.Popen(["sleep", "600"])

def prints_megabytes():
    for _ in range(4):
        print("x" * 2**20)
        os.write(1, b"y" * 2**20)
        os.write(2, b"z" * 2**20)
        sys.stderr.write("z" * 2**20)

def eats_memory():
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 64 * 2**20,) * 2)
    eaten = []
    while True:
        eaten.append(bytearray(2**20))

def writes_between_the_messages():
    pipes = [fd for fd in range(3, 64) if is_pipe(fd)]
    for fd in pipes:
        try:
            os.write(fd, b"no message\\n")
        except OSError:
            pass
    time.sleep(600)

def is_pipe(fd):
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False

@rft_handler
def hostile(payload):
    infer(payload)
    kind, _, times = payload["prompt"].partition(" ")
    marks = [HERE / f"{kind}-{number}" for number in range(int(times or 1000)) if kind != "good"]
    if mark := next((mark for mark in marks if not mark.exists()), None):
        mark.touch()
        globals()[kind]()
    return 1.0
"""


@pytest.fixture
def handlers(world):
    """The reference of the handlers' file, up to the colon."""
    file = world / "hostile_handlers.py"
    file.write_text(HANDLERS)
    return file


def break_file(file):
    file.write_text("import no_such_dependency\n")


class Line:
    """An engine and its runtime; runs rollouts one by one, or many through the driver."""

    def __init__(self, runtime, engine):
        self.access = access_in(runtime, InferenceParams())
        self.engine = engine

    async def run(self, prompt="good", **more):
        payload = {**self.access.start(prompt), **more}
        return await self.engine.run(payload, trajectory_id_of(payload))


@asynccontextmanager
async def line_of(file, name, *, workers=4, deadline_seconds=60.0, **options):
    with LocalRuntime(policy) as runtime:
        reference = f"{file}:{name}"
        engine = ProcessEngine(reference, workers=workers, deadline_seconds=deadline_seconds, **options)
        async with engine:
            yield Line(runtime, engine)


async def records_of(file, name, prompts, *, workers=2, each=lambda record: None, **options):
    with LocalRuntime(policy) as runtime:
        access = access_in(runtime, InferenceParams())
        engine = ProcessEngine(f"{file}:{name}", workers=workers, deadline_seconds=60.0)
        records = []
        async for record in run_rollouts(engine, prompts, access.start, observe=access.observe, **options):
            records.append(record)
            each(record)
        return records


async def exists(*paths):
    while not all(path.exists() for path in paths):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)


def test_process_when_a_callback_of_a_handler_would_end_the_loop_then_all_rollouts_go_on(handlers):
    records = asyncio.run(records_of(handlers, "ends_its_loop", ["good", "bad", "good", "bad", "good"], concurrency=5))

    assert [record.error for record in records] == [None] * 5


# --- children that cannot come back ----------------------------------------------------------------------------------


def test_process_when_killed_children_cannot_reload_then_the_others_do_all_the_work(handlers):
    pids, killed = set(), 3

    def kill(record):
        pid = record.metrics["pid"] if record.metrics else None
        if pid is not None and pid not in pids and len(pids) < killed:
            break_file(handlers)
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)

    # A rollout may meet each death, so it is repeated as often as that.
    options = {"workers": 4, "each": kill, "concurrency": 16, "retries": killed}
    records = asyncio.run(records_of(handlers, "pid", ["good"] * 120, **options))

    assert len(pids) == killed
    assert {record.key for record in records if record.ended_well} == {(number, 0) for number in range(120)}
    # Only what ran in a child when it was killed may be run again.
    assert len(records) - 120 <= 16 * killed
    assert not [record.error for record in records if "cannot load" in (record.error or "")]


def test_process_when_no_child_can_reload_then_rollouts_that_wait_end_with_the_reason(handlers):
    async def main():
        async with line_of(handlers, "pid", workers=2, patience_seconds=2.0) as line:
            outcomes = await asyncio.gather(*[line.run() for _ in range(8)])
            break_file(handlers)
            for pid in {outcome.metrics["pid"] for outcome in outcomes}:
                os.kill(pid, signal.SIGKILL)
            return await asyncio.gather(*[line.run() for _ in range(8)], return_exceptions=True)

    errors = asyncio.run(main())
    assert {type(error) for error in errors} == {UnavailableError}
    assert all("for 2 s. The last failure: " in str(error) for error in errors)
    assert any("no_such_dependency" in str(error) for error in errors)


def test_process_when_no_child_can_reload_then_the_run_ends_and_what_had_ended_has_its_record(handlers):
    statuses, pids = set(), set()

    async def main():
        with LocalRuntime(policy) as runtime:
            access = access_in(runtime, InferenceParams())
            engine = ProcessEngine(f"{handlers}:pid", workers=2, patience_seconds=2.0)
            async for record in run_rollouts(engine, ["good"] * 10_000, access.start, concurrency=4):
                statuses.add(record.status)
                if record.metrics and record.metrics["pid"] not in pids:
                    break_file(handlers)
                    pids.add(record.metrics["pid"])
                    os.kill(record.metrics["pid"], signal.SIGKILL)

    with pytest.raises(UnavailableError, match="nothing has been able to run rollouts for 2 s"):
        asyncio.run(main())
    assert RolloutStatus.COMPLETED in statuses
    assert statuses <= {RolloutStatus.COMPLETED, RolloutStatus.UNREPORTED}


def test_process_when_the_file_is_mended_then_children_come_back(handlers):
    async def main():
        async with line_of(handlers, "pid", workers=1) as line:
            before = await line.run()
            break_file(handlers)
            os.kill(before.metrics["pid"], signal.SIGKILL)
            waiting = asyncio.create_task(line.run())
            await asyncio.wait([waiting], timeout=1.0)
            handlers.write_text(HANDLERS)
            return before, await waiting

    before, after = asyncio.run(main())
    assert after.status is RolloutStatus.COMPLETED
    assert after.metrics["pid"] != before.metrics["pid"]


def test_process_when_all_children_are_killed_at_once_then_only_what_ran_is_lost(handlers):
    async def main():
        async with line_of(handlers, "waits_for_release", workers=3) as line:
            first = [asyncio.create_task(line.run()) for _ in range(6)]
            began = []
            while len(began) < 6:
                began = [*handlers.parent.glob("began-*")]
                await asyncio.sleep(0.01)
            for pid in {int(path.name.split("-")[1]) for path in began}:
                os.kill(pid, signal.SIGKILL)
            (handlers.parent / "release").touch()
            lost = await asyncio.gather(*first)
            return lost, await asyncio.gather(*[line.run() for _ in range(6)])

    lost, after = asyncio.run(main())
    assert [outcome.lost for outcome in lost] == [True] * 6
    assert [outcome.status for outcome in after] == [RolloutStatus.COMPLETED] * 6


def test_process_when_a_child_is_stopped_then_it_is_killed_and_what_it_did_not_take_runs_elsewhere(handlers):
    async def main():
        async with line_of(handlers, "pid", workers=2, overtime_seconds=3.0) as line:
            stopped = (await line.run()).metrics["pid"]
            os.kill(stopped, signal.SIGSTOP)
            return stopped, await asyncio.gather(*[line.run(padding="x" * MIB) for _ in range(20)])

    stopped, outcomes = asyncio.run(main())
    assert [outcome.status for outcome in outcomes] == [RolloutStatus.COMPLETED] * 20
    assert stopped not in {outcome.metrics["pid"] for outcome in outcomes}


def test_process_when_a_handler_blocks_the_loop_of_its_child_then_the_child_is_not_taken_for_dead(handlers):
    async def main():
        async with line_of(handlers, "blocks_its_loop", workers=1, overtime_seconds=3.0) as line:
            bad = asyncio.create_task(line.run("bad"))
            await exists(handlers.parent / "blocked")
            good = [asyncio.create_task(line.run()) for _ in range(4)]
            await asyncio.wait(good, timeout=4.0)  # longer than a child may be silent
            (handlers.parent / "release").touch()
            return await asyncio.gather(bad, *good)

    assert [outcome.status for outcome in asyncio.run(main())] == [RolloutStatus.COMPLETED] * 5


def test_process_when_a_thread_of_a_child_hangs_then_the_engine_counts_it(handlers):
    async def main():
        async with line_of(handlers, "leaves_threads_behind", workers=1) as line:
            before = line.engine.hung
            await line.run("hangs 1")
            await line.run()  # the thread of the first one hangs once that rollout is over
            return before, line.engine.hung

    assert asyncio.run(main()) == (0, 1)


def test_process_when_too_many_threads_of_a_child_hang_then_another_child_takes_over(handlers):
    prompts = ["hangs 1", "hangs 2", "hangs 3", *[f"good {number}" for number in range(5)]]

    options = {"workers": 1, "concurrency": 1, "retries": {"infrastructure": 1}}
    records = asyncio.run(records_of(handlers, "leaves_threads_behind", prompts, **options))

    last = {record.prompt_index: record for record in records}
    assert [(record.status, record.error) for record in last.values()] == [(RolloutStatus.COMPLETED, None)] * 8


def test_process_when_children_die_of_a_payload_before_they_take_it_then_it_is_given_up_and_others_run(handlers):
    with handlers.open("a") as file:
        file.write(
            "loads = json.loads\n"
            "json.loads = lambda text, *a, **k: os._exit(9) if 'poison' in str(text) else loads(text, *a, **k)\n"
        )

    async def main():
        async with line_of(handlers, "pid", workers=2) as line:
            poison = await line.engine.run({"prompt": "poison"}, "t")
            return poison, await asyncio.gather(*[line.run() for _ in range(4)])

    poison, others = asyncio.run(main())
    assert (poison.status, poison.lost) == (RolloutStatus.UNREPORTED, False)
    assert "ended with status 9" in poison.error
    assert [outcome.status for outcome in others] == [RolloutStatus.COMPLETED] * 4


# --- the start -------------------------------------------------------------------------------------------------------


def test_process_when_only_some_children_can_load_the_handler_at_the_start_then_they_do_the_work(handlers, caplog):
    with handlers.open("a") as file:
        file.write("os.close(os.open(HERE / 'taken', os.O_CREAT | os.O_EXCL))\n")

    with caplog.at_level(logging.WARNING):
        records = asyncio.run(records_of(handlers, "pid", ["good"] * 20, workers=3))

    assert [record.status for record in records] == [RolloutStatus.COMPLETED] * 20
    assert len({record.metrics["pid"] for record in records}) == 1
    assert "<2 of 3>, error=<a process cannot load the handler: FileExistsError" in caplog.text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param("raise MemoryError('short')", "MemoryError: short", id="error"),
        pytest.param("sys.exit('not like that')", "SystemExit: not like that", id="exit"),
        pytest.param("os._exit(1)", "it died while it was started", id="death"),
    ],
)
def test_process_when_no_child_can_load_the_handler_at_the_start_then_that_is_told(handlers, line, says):
    with handlers.open("a") as file:
        file.write(line + "\n")

    with pytest.raises(UnavailableError, match=says):
        asyncio.run(records_of(handlers, "pid", ["good"]))


def test_process_when_the_reference_names_no_handler_then_that_is_bad_usage(handlers):
    with pytest.raises(ConfigurationError, match="no_such_handler"):
        asyncio.run(records_of(handlers, "no_such_handler", ["good"]))


# --- hostile handlers ------------------------------------------------------------------------------------------------

KILLS = ("ends", "closes_all", "writes_between_the_messages")
ENDED_WELL = {
    **dict.fromkeys(("closes_stdout", "forks", "forks_a_command", "prints_megabytes"), (True,)),
    "eats_memory": (False, False, False, False),
    **dict.fromkeys(KILLS, (False, False, True)),
}
"""For each kind: how each attempt of the hostile rollout ends. It kills its process twice."""


@pytest.mark.parametrize("kind", ENDED_WELL)
def test_process_when_a_handler_is_hostile_then_all_other_rollouts_complete(handlers, kind):
    prompts = ["good"] * 16
    prompts[3] = f"{kind} 2" if kind in KILLS else kind

    # A neighbour may meet each death, so there are fewer of them than repetitions.
    records = asyncio.run(records_of(handlers, "hostile", prompts, concurrency=6, retries=3))

    attempts = [record for record in records if record.prompt_index == 3]
    assert {record.prompt_index for record in records if record.reward == 1.0} >= {*range(16)} - {3}
    assert tuple(record.ended_well for record in attempts) == ENDED_WELL[kind]
    if kind in KILLS:
        assert [record.reward for record in attempts] == [None, None, 1.0]


def test_process_when_payload_and_metrics_have_fifty_megabytes_then_they_arrive(handlers):
    async def main():
        async with line_of(handlers, "big_metrics", workers=1) as line:
            return (await line.run(padding="x" * 50 * MIB)).metrics

    metrics = asyncio.run(main())
    assert metrics["bytes"] > 50 * MIB
    assert len(metrics["text"]) == 50 * MIB


def test_process_when_handlers_print_megabytes_then_the_command_goes_on_and_its_stdout_stays_clean(world, handlers):
    prompts = ["prints_megabytes" if number % 4 == 0 else f"good {number}" for number in range(16)]
    (world / "data.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    command = [AWS_RFT, "rollout", f"{handlers}:hostile", str(world / "data.jsonl"), "--engine", "process"]

    result = subprocess.run([*command, "--workers", "2", "--out", str(world / "out")], capture_output=True, timeout=100)

    assert result.returncode == 0, result.stderr[-2000:]
    assert len(result.stdout) < 10_000
    assert len(result.stderr) > 64 * MIB
