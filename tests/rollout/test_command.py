"""How `aws-rft rollout` ends, what it prints where, and what it leaves behind. It runs as a process."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest
from rollout.worlds import PROMPTS, policy

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.cli._progress import RunProgress
from aws_rft_sdk.rollout import read_records, run

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
MORE_HANDLERS = """
import os, signal, threading
from engine_handlers import *

@rft_handler
def always_fails(payload):
    infer(payload)
    raise LookupError("never, " + "and that for a very long time, " * 20)

@rft_handler
async def ignores_its_end(payload):
    await asyncio.to_thread(infer, payload)
    pathlib.Path("started").touch()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue

@rft_handler
async def blocks_the_loop(payload):
    infer(payload)
    pathlib.Path("started").touch()
    threading.Event().wait()
"""

HANGS = """
@rft_handler
def hangs_on_b(payload):
    infer(payload)
    if payload["prompt"] == "b":
        threading.Event().wait()
    return 1.0
"""


@pytest.fixture(autouse=True)
def here(world, monkeypatch):
    monkeypatch.chdir(world)
    (world / "more_handlers.py").write_text(MORE_HANDLERS)
    return world


def start(*arguments, **options):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([AWS_RFT, "rollout", *map(str, arguments)], **pipes, **options)


def finish(process):
    output, errors = process.communicate(timeout=90)
    return process.returncode, output, errors


def rollout(*arguments, **options):
    return finish(start(*arguments, **options))


def read_until(process, text):
    """Read stderr up to a text. Returns what was read."""
    seen = ""
    while text not in seen:
        piece = process.stderr.read(1)
        assert piece, seen
        seen += piece
    return seen


def run_folder():
    (folder,) = Path("runs").iterdir()
    return folder


# --- what is printed where -------------------------------------------------------------------------------------------


def test_json_when_the_handler_prints_then_stdout_is_json_alone_and_tells_folder_status_and_failures():
    status, output, errors = rollout("engine_handlers.py:fails_on_b", "data.jsonl", "--json")

    found = json.loads(output)
    folder = run_folder()
    assert status == 1
    assert (found["status"], found["folder"]) == ("failed", str(folder))
    assert found["metrics"]["eval/reward/num_prompts"] == 3
    assert (found["failures"], found["errors"]) == (
        {"agent": 1},
        [{"error": "LookupError: b is not for us", "count": 1}],
    )
    assert "engine_handlers.py" in found["tracebacks"][0]["traceback"]
    assert f"records go to {folder}" in errors
    assert rollout("engine_handlers.py:plain", "data.jsonl", "--json", "--discard")[0] == 0


def test_json_when_the_handler_prints_then_its_output_is_on_stderr():
    _, output, errors = rollout("engine_handlers.py:plain", "data.jsonl", "--json", "--discard")

    assert json.loads(output)["folder"] is None
    assert "handlers print" in errors
    assert not Path("runs").exists()


def test_output_when_it_is_no_terminal_then_long_lines_do_not_wrap():
    status, output, errors = rollout("more_handlers.py:always_fails", "data.jsonl")
    _, _, refused = rollout("engine_handlers.py:plain", "data.jsonl", "--policy", "magic" * 40)

    assert status == 1
    assert "Traceback (most recent call last)" in output
    assert [line for line in output.splitlines() if "and that for a very long time, " * 20 in line]
    assert [line for line in refused.splitlines() if "magic" * 40 in line and "upstream:URL" in line]
    assert "3 of 3 rollouts failed; --fail-over allows 0" in errors


def test_progress_when_there_is_no_terminal_then_it_is_a_line_now_and_then():
    stream = io.StringIO()
    shown = threading.Event()

    class Watched(io.StringIO):
        def write(self, text):
            if "of 3 rollouts" in text:
                shown.set()
            return stream.write(text)

    def slow_policy(request):
        assert shown.wait(60)
        return policy(request)

    with contextlib.redirect_stderr(Watched()), RunProgress(line_seconds=0.01) as progress:
        run("engine_handlers.py:plain", PROMPTS, policy=slow_policy, listener=progress)

    assert "0 of 3 rollouts, 0.0/s, no reward yet" in stream.getvalue()
    assert str(progress).startswith("3 of 3 rollouts, ")
    assert str(progress).endswith("/s, mean reward 0.1333")


def test_output_when_a_handler_hangs_then_it_says_so():
    Path("hanging.py").write_text(MORE_HANDLERS + HANGS)

    status, output, _ = rollout("hanging.py:hangs_on_b", "data.jsonl", "--deadline-seconds", "1")

    assert status == 1
    assert "threads in which a handler or a tool still hangs: 1" in output
    assert "1 x RolloutTimeoutError" in output


def test_progress_when_a_run_is_resumed_then_what_failed_is_counted_once():
    run("engine_handlers.py:fails_once", PROMPTS[:2], policy=policy, out="kept")
    Path("failed-a").unlink()

    with RunProgress() as progress:
        run(resume="kept", policy=policy, listener=progress)

    assert str(progress).startswith("2 of 2 rollouts, 1 failed, ")


# --- exit statuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "options", "status"),
    [
        ("plain", (), 0),
        ("fails_on_b", (), 1),
        ("fails_on_b", ("--fail-over", "1"), 0),
        ("fails_on_b", ("--fail-over", "33%"), 1),
        ("fails_on_b", ("--fail-over", "34%"), 0),
        ("fails_once", ("--retries", "1", "--retry-budget", "100%"), 0),
        ("fails_once", ("--retries", "agent=1", "--retry-budget", "100%"), 0),
        ("fails_once", ("--retries", "model=1", "--retry-budget", "100%"), 1),
        ("fails_once", ("--retries", "magic=1"), 2),
        ("plain", ("--fail-over", "many"), 2),
        ("plain", ("--engine", "magic"), 2),
        ("plain", ("--endpoint", "http://127.0.0.1:9"), 3),
    ],
)
def test_exit_status_tells_how_the_run_went(handler, options, status):
    assert rollout(f"engine_handlers.py:{handler}", "data.jsonl", *options)[0] == status
    assert Path("runs").exists() == (status < 2)


def test_breaker_when_the_first_rollouts_all_fail_alike_then_it_ends_the_run_with_status_one():
    Path("data.jsonl").write_text("".join(json.dumps({"prompt": f"p{number}"}) + "\n" for number in range(80)))

    status, _, errors = rollout("more_handlers.py:always_fails", "data.jsonl", "--concurrency", "4")

    folder = run_folder()
    assert status == 1
    assert "BreakerError: the first 32 rollouts all failed for the same reason" in errors
    assert "LookupError: never" in errors
    assert f"--resume {folder}" in errors
    assert 32 <= len(list(read_records(folder))) < 40
    status, _, errors = rollout("--resume", folder, "--no-breaker")
    assert status == 1
    assert "80 of 80 rollouts failed" in errors
    assert len(list(read_records(folder))) == 80


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_exit_status_when_the_disk_is_full_then_the_environment_is_to_blame_and_the_run_can_go_on():
    import resource

    Path("data.jsonl").write_text("".join(json.dumps({"prompt": "a"}) + "\n" for _ in range(60)))
    with LocalRuntime(policy) as runtime:
        options = ("engine_handlers.py:plain", "data.jsonl", "--endpoint", runtime.endpoint, "--out", "kept")
        full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))}
        status, _, errors = rollout(*options, **full)

        assert status == 3, errors
        assert "UnavailableError: kept/rollouts.jsonl cannot be written: File too large" in errors
        assert "go on with: aws-rft rollout --resume kept" in errors
        recorded = list(read_records("kept"))
        assert 0 < len(recorded) < 60
        assert rollout("--resume", "kept")[0] == 0
    assert len(list(read_records("kept"))) == 60


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("engine", ["local", "process"])
def test_signal_when_it_is_the_first_then_rollouts_in_flight_are_finished_in_every_engine(engine, number):
    workers = ("--workers", "1") if engine == "process" else ()
    process = start("engine_handlers.py:waits", "data.jsonl", "--engine", engine, "--concurrency", 1, *workers)
    started = Path("started")
    read_until(process, "records go to")
    wait_for(started, process)

    process.send_signal(number)
    read_until(process, "interrupt again to cancel them")
    Path("release").touch()
    status, output, errors = finish(process)

    assert status == 130
    assert "1 of 3" in output
    assert f"go on with: aws-rft rollout --resume {run_folder()}" in errors
    assert [r.reward for r in read_records(run_folder())] == [1.0]


@pytest.mark.parametrize("handler", ["ignores_its_end", "blocks_the_loop"])
def test_signal_when_it_is_the_third_then_the_command_ends_at_once(handler):
    process = start(f"more_handlers.py:{handler}", "data.jsonl", "--concurrency", "1")
    wait_for(Path("started"), process)

    if handler == "ignores_its_end":
        for says in ("interrupt again to cancel them", "interrupt again to end at once"):
            process.send_signal(signal.SIGINT)
            read_until(process, says)
    for _ in range(300):  # signals that come close together may arrive as one
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            break
    status, _, errors = finish(process)

    assert status == 130
    assert "Traceback" not in errors


def test_signal_when_nothing_has_begun_then_the_command_ends_and_leaves_nothing():
    Path("early.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n" + MORE_HANDLERS)

    status, output, errors = rollout("early.py:plain", "data.jsonl")

    assert (status, output) == (130, "")
    assert "Traceback" not in errors
    assert not Path("runs").exists()


def wait_for(path, process):
    for _ in range(9000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.01)
    raise AssertionError(f"{path} never came")


# --- going on --------------------------------------------------------------------------------------------------------


def test_resume_when_only_the_folder_is_given_then_the_settings_are_those_of_the_run(world):
    options = ("--group-size", "2", "--temperature", "0.5", "--engine", "process", "--workers", "1", "--fail-over", "1")
    assert rollout("engine_handlers.py:fails_once", "data.jsonl", *options)[0] == 1
    folder = run_folder()

    status, output, errors = rollout("--resume", folder)

    assert status == 0, errors
    assert "6, 3 prompts, 2 each" in output
    records = list(read_records(folder))
    assert sorted(r.attempts for r in records) == [1, 1, 1, 2, 2, 2]
    status, _, errors = rollout("--resume", folder, "--temperature", "0.7")
    assert status == 2
    assert "--temperature was 0.5 and is 0.7" in errors
    assert rollout("--resume", folder, "--temperature", "0.7", "--accept-changes")[0] == 0
    assert os.listdir("runs") == [folder.name]
