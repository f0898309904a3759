"""Runs that end before their time, and how they go on."""

import asyncio
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

import aws_rft_sdk
from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.rollout import RolloutRecord, RolloutStatus, _appending, measure, read_records
from aws_rft_sdk.rollout.access import Observation
from aws_rft_sdk.rollout.engines.choosing import EngineChoice
from aws_rft_sdk.rollout.folder import RunFolder
from aws_rft_sdk.rollout.schedule import Planned
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runtime import read_trajectories
from aws_rft_sdk.types import TrajectoryStatus

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
MANIFEST = Manifest("agent.py:handler", {"agent.py": "1"}, "data.jsonl", "2", 3, {"group-size": 1})


def rollout(world, handler, *options):
    arguments = ["rollout", f"{world}/engine_handlers.py:{handler}", str(world / "data.jsonl"), *options]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def wait_until(holds, process):
    for _ in range(12_000):
        if holds():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("it never came to this")


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["local", "process"])
def test_resume_when_killed_in_the_middle_then_no_rollout_is_lost_or_run_twice(world, engine):
    prompts = [f"{'a' * (1 + number % 7)}" for number in range(60)]
    (world / "data.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    command = [AWS_RFT, "rollout", f"{world}/engine_handlers.py:plain", str(world / "data.jsonl"), "--engine", engine]
    command += ["--group-size", "4", *(["--workers", "2"] if engine == "process" else [])]
    out = world / "out"

    first = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: len(lines(out / "rollouts.jsonl")) >= 60, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    killed_at = len(lines(out / "rollouts.jsonl"))
    second = subprocess.run([*command, "--resume", str(out)], capture_output=True, text=True, timeout=100)

    assert killed_at < 240
    assert second.returncode == 0, second.stderr
    assert "240" in second.stdout
    records = list(read_records(out, superseded=True))
    assert Counter(r.key for r in records) == {(p, s): 1 for p in range(60) for s in range(4)}
    assert [r.reward for r in sorted(records, key=lambda r: r.key)] == [len(p) / 10 for p in prompts for _ in range(4)]
    rewarded = {t.trajectory_id for t in read_trajectories(out / "trajectories.db") if t.rewards is not None}
    assert rewarded == {r.trajectory_id for r in records}


def test_resume_when_interrupted_twice_then_what_was_cancelled_runs_again(world):
    command = [AWS_RFT, "rollout", f"{world}/engine_handlers.py:waits", str(world / "data.jsonl")]
    out = world / "out"
    process = subprocess.Popen(
        [*command, "--concurrency", "1", "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: lines(world / "started"), process)
    process.send_signal(signal.SIGINT)
    seen = ""
    while "interrupt again" not in seen:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "cancelling rollouts in flight" in errors
    assert "0 of 3" in output
    # The handler has reported its floor reward, which must not count as that of the rollout.
    assert [t.rewards for t in read_trajectories(out / "trajectories.db")] == [(0.0,)]

    (world / "release").touch()
    assert rollout(world, "waits", "--resume", str(out)).exit_code == 0
    assert [r.reward for r in read_records(out)] == [1.0] * 3
    assert len(read_trajectories(out / "trajectories.db")) == 4


def test_resume_when_some_have_failed_then_only_those_run_again(world):
    out = world / "out"
    rollout(world, "fails_once", "--out", str(out))
    assert [r.status.value for r in read_records(out)] == ["failed"] * 3
    (world / "failed-b").unlink()

    result = rollout(world, "fails_once", "--resume", str(out))

    records = sorted(read_records(out), key=lambda r: r.key)
    assert result.exit_code == 1
    assert [(r.status.value, r.attempts) for r in records] == [("completed", 2), ("failed", 2), ("completed", 2)]
    rollout(world, "fails_once", "--resume", str(out), "--retries", "1")
    records = sorted(read_records(out), key=lambda r: r.key)
    assert [(r.status.value, r.attempts) for r in records] == [("completed", 2), ("completed", 3), ("completed", 2)]
    assert len(read_trajectories(out / "trajectories.db")) == 7


def test_rollout_when_failures_are_repeated_then_the_last_attempt_counts_in_the_table(world):
    result = rollout(world, "fails_once", "--retries", "1", "--retry-budget", "2", "--out", str(world / "out"))

    assert "33.33 %" in result.output  # two of three were repeated
    assert len(list(read_records(world / "out", superseded=True))) == 5


def change_dataset(world):
    (world / "data.jsonl").write_text('{"prompt": "a"}\n')
    return ()


def change_source(world):
    (world / "engine_handlers.py").write_text((world / "engine_handlers.py").read_text() + "\n# changed")
    return ()


def change_policy(world):
    (world / "policy.py").write_text((world / "policy.py").read_text() + "\n# changed")
    return ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(change_dataset, "the dataset", id="dataset"),
        pytest.param(change_source, "engine_handlers.py has changed", id="handler"),
        pytest.param(change_policy, "policy.py has changed", id="policy"),
        pytest.param(lambda world: ("--temperature", "0.5"), "--temperature was 1.0 and is 0.5", id="temperature"),
        pytest.param(lambda world: ("--group-size", "2"), "--group-size was 1 and is 2", id="group-size"),
        pytest.param(lambda world: ("--limit", "2"), "--limit was not given and is 2", id="limit"),
    ],
)
def test_resume_when_something_has_changed_then_it_is_named_and_refused_unless_accepted(world, change, named):
    out = world / "out"
    rollout(world, "plain", "--out", str(out))
    before = (out / "rollouts.jsonl").read_bytes()
    options = change(world)

    refused = rollout(world, "plain", "--resume", str(out), *options)

    assert refused.exit_code == 2
    assert named in " ".join(refused.output.split())
    assert (out / "rollouts.jsonl").read_bytes() == before
    assert rollout(world, "plain", "--resume", str(out), "--accept-changes", *options).exit_code == 0
    assert rollout(world, "plain", "--resume", str(out), *options).exit_code == 0  # now it is what it is


@pytest.mark.parametrize(
    ("handler", "changed"),
    [
        pytest.param("engine_package.inner.agent:plain", "engine_package/scale.py", id="of-a-package"),
        pytest.param("engine_thin.py:plain", "engine_thin.py", id="made-elsewhere"),
    ],
)
def test_resume_when_a_file_beside_the_handlers_own_has_changed_then_it_is_named(world, monkeypatch, handler, changed):
    package, elsewhere = world / "engine_package", world / "elsewhere"
    (package / "inner").mkdir(parents=True)
    elsewhere.mkdir()
    (package / "scale.py").write_text("SCALE = 1.0\n")
    source = (world / "engine_handlers.py").read_text()
    (package / "inner" / "agent.py").write_text(source + "from ..scale import SCALE\n")
    (elsewhere / "engine_impl.py").write_text(source)
    (world / "engine_thin.py").write_text(
        f"import sys\nsys.path.append({str(elsewhere)!r})\nfrom engine_impl import plain\n"
    )
    monkeypatch.chdir(world)
    command = ["rollout", handler, "data.jsonl", "--policy", "callable:policy.py:policy"]
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=60)
    assert run([AWS_RFT, *command, "--out", "out"]).returncode == 0

    (world / changed).write_text((world / changed).read_text() + "# changed\n")
    refused = run([AWS_RFT, *command, "--resume", "out"])

    assert refused.returncode == 2
    assert f"{Path(changed).name} has changed" in " ".join(refused.stderr.split())


def test_resume_when_the_handler_is_another_then_it_is_named(world):
    rollout(world, "plain", "--out", str(world / "out"))

    refused = rollout(world, "fails_on_b", "--resume", str(world / "out"))

    assert refused.exit_code == 2
    assert "engine_handlers.py:fails_on_b" in refused.output


def test_resume_when_engine_and_pace_are_others_then_the_run_goes_on(world):
    out = world / "out"
    rollout(world, "fails_on_b", "--out", str(out))

    result = rollout(
        *(world, "fails_on_b", "--resume", str(out), "--engine", "process", "--workers", "1", "--concurrency", "2")
    )

    assert result.exit_code == 1
    assert [r.attempts for r in sorted(read_records(out), key=lambda r: r.key)] == [1, 2, 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--resume", "nowhere"], "no run to resume"),
        (["--out", "x", "--resume", "x"], "Give one of them"),
        (["--accept-changes"], "is for --resume"),
        (["--engine", "http"], "the engine http runs the worker at a URL, not"),
        (["--engine", "agentcore"], "the engine agentcore runs the AgentCore runtime of an ARN, not"),
        (["--workers", "2"], "is for the engines process and ray"),
        (["--qualifier", "x"], "is for the engine agentcore"),
        (["--engine", "process", "--address", "auto"], "is for the engine ray"),
        (["--retry-budget", "some"], "retry-budget"),
    ],
)
def test_rollout_when_options_do_not_fit_then_exit_status_is_two(world, monkeypatch, options, says):
    monkeypatch.chdir(world)

    result = rollout(world, "plain", *options)

    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert not (world / "x").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]"])
def test_engine_choice_when_a_worker_is_on_this_machine_then_it_reaches_the_runtime(host):
    EngineChoice.of("auto", f"http://{host}:8080").check_reach(None)


@pytest.mark.parametrize(
    "handler", ["https://agent.example", "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/agent-1"]
)
def test_rollout_when_a_deployed_agent_could_not_reach_the_runtime_then_it_is_refused(world, handler):
    result = CliRunner().invoke(main, ["rollout", handler, str(world / "data.jsonl")])

    assert result.exit_code == 2
    assert "give --endpoint" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("then", "now", "change"),
    [
        ("agent.py:handler", "elsewhere/agent.py:handler", False),
        ("agent.py:handler", "agent.py:other", True),
        ("http://one:8080", "http://one:8080", False),
        ("http://one:8080", "http://two:8080", True),
        ("arn:aws:bedrock-agentcore:us-west-2:1:runtime/a", "arn:aws:bedrock-agentcore:us-east-1:1:runtime/a", True),
    ],
)
def test_manifest_when_the_handler_is_another_then_it_is_a_change_and_another_place_of_its_file_is_none(
    then, now, change
):
    manifests = [dataclasses.replace(MANIFEST, handler=handler) for handler in (then, now)]

    assert bool(manifests[0].changes_to(manifests[1])) is change


# --- the folder ------------------------------------------------------------------------------------------------------


def planned(number, attempt=1):
    return Planned(number, 0, attempt, "prompt")


def journal_of_four(folder):
    """Begin four rollouts as a run does that is killed: one is written down, one given up, two are under way."""
    with RunFolder(folder, MANIFEST) as run:
        for number in range(4):
            run.started(f"t{number}", planned(number))
        run.given_up("t1")
    record = {"id": "t0", "prompt_index": 0, "sample_index": 0, "reward": 1.0, "turns": 1, "seconds": 1.0}
    (folder / "rollouts.jsonl").write_text(json.dumps({**record, "status": "completed"}) + "\n")


async def look(trajectory_id):
    """Look at a runtime in which all but one of them have a reward."""
    if trajectory_id == "t3":
        return Observation(TrajectoryStatus.PENDING, turns=2)
    return Observation(TrajectoryStatus.REWARD_RECEIVED, (0.25, 0.5), turns=2, response_tokens=(7, 8))


def test_folder_when_resumed_then_rewards_without_a_record_are_found_and_the_rest_is_left_to_do(tmp_path):
    journal_of_four(tmp_path)

    with RunFolder(tmp_path, MANIFEST, resume=True) as run:
        (found,) = asyncio.run(run.recover(look))
        progress = run.past.progress()

    assert (found.trajectory_id, found.key, found.reward, found.rewards) == ("t2", (2, 0), 0.75, (0.25, 0.5))
    assert (found.status, found.turns, found.response_tokens) == (RolloutStatus.COMPLETED, 2, (7, 8))
    assert progress.done == {(0, 0), (2, 0)}
    assert progress.attempts == {(1, 0): 1, (3, 0): 1}
    assert [r.trajectory_id for r in read_records(tmp_path)] == ["t0", "t2"]
    with RunFolder(tmp_path, MANIFEST, resume=True) as run:
        assert asyncio.run(run.recover(look)) == []  # once


def test_folder_when_a_record_is_damaged_then_the_others_count_and_its_reward_is_found_in_the_runtime(tmp_path):
    journal_of_four(tmp_path)
    records = tmp_path / "rollouts.jsonl"
    records.write_text('{"id": "t2", "prompt_ind\n' + records.read_text())

    with RunFolder(tmp_path, MANIFEST, resume=True) as run:
        (found,) = asyncio.run(run.recover(look))
        done = run.past.progress().done

    assert (found.trajectory_id, done) == ("t2", {(0, 0), (2, 0)})
    assert run.past.table.damage.lines[0][0] == 1


def test_folder_when_many_sources_have_changed_then_the_first_are_named_and_the_others_counted(tmp_path):
    changed = dataclasses.replace(MANIFEST, sources={f"tool_{number}.py": "2" for number in range(100)})
    with RunFolder(tmp_path, MANIFEST) as run:
        run.write(RolloutRecord("t0", 0, 0, 1.0, turns=1, seconds=1.0, status=RolloutStatus.COMPLETED))

    with (
        pytest.raises(ConfigurationError, match=r"tool_1\d\.py was not used then; and 9\d more$"),
        RunFolder(tmp_path, changed, resume=True),
    ):
        pass


def test_folder_when_the_handler_has_changed_since_then_its_records_tell_which_is_of_which(tmp_path):
    changed = dataclasses.replace(MANIFEST, sources={"agent.py": "2"})
    record = RolloutRecord("t0", 0, 0, 1.0, turns=1, seconds=1.0, status=RolloutStatus.COMPLETED)

    with RunFolder(tmp_path, MANIFEST) as run:
        run.write(record)
    with RunFolder(tmp_path, changed, resume=True, accept_changes=True) as run:
        written = run.write(dataclasses.replace(record, trajectory_id="t1", prompt_index=1))

    first, second = read_records(tmp_path)
    assert (first.sdk_version, second) == (aws_rft_sdk.__version__, written)
    assert (first.handler_hash, second.handler_hash) == (MANIFEST.handler_hash, changed.handler_hash)
    assert first.handler_hash != second.handler_hash
    assert len(measure(read_records(tmp_path)).sources) == 2


@pytest.mark.parametrize("tail", ['{"id": "cut', '["t9", 9, 0, 1]', ""])
@pytest.mark.parametrize("before", [0, 3])
def test_file_when_its_last_line_is_longer_than_a_block_then_it_is_mended_too(tmp_path, monkeypatch, tail, before):
    monkeypatch.setattr(_appending, "_BLOCK_BYTES", 4)
    path = tmp_path / "lines.jsonl"
    lines = "[1, 2, 3, 4, 5]\n" * before
    path.write_text(lines + tail)

    with _appending.AppendedFile(path) as file:
        file.append("[6]")

    assert path.read_text() == lines + (tail + "\n" if tail.endswith("]") else "") + "[6]\n"


def test_folder_when_its_runtime_cannot_be_asked_then_nothing_is_found(tmp_path):
    journal_of_four(tmp_path)

    with RunFolder(tmp_path, MANIFEST, resume=True) as run:
        assert asyncio.run(run.recover(None)) == []
        assert run.past.progress().done == {(0, 0)}


def test_folder_when_the_journal_is_cut_at_any_byte_then_it_is_read_and_goes_on(tmp_path):
    journal_of_four(tmp_path)
    journal = tmp_path / "started.jsonl"
    content = journal.read_bytes()

    for length in range(len(content) + 1):
        journal.write_bytes(content[:length])
        with RunFolder(tmp_path, MANIFEST, resume=True) as run:
            begun = set(run.past.unrecorded)
            run.started("t9", planned(9))
        assert begun <= {"t1", "t2", "t3"}
        assert json.loads(lines(journal)[-1])[0] == "t9"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_folder_when_the_disk_is_full_then_the_error_says_so_and_what_is_written_can_be_read(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path; sys.path.insert(0, 'tests')\n"
        "from aws_rft_sdk.rollout.folder import RunFolder; from rollout.test_resume import MANIFEST, planned\n"
        f"with RunFolder(Path({str(tmp_path)!r}), MANIFEST) as run:\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "    for number in range(99): run.started(f't{number}', planned(number))"
    )

    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])

    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("aws_rft_sdk.errors.UnavailableError")
    assert "started.jsonl cannot be written: File too large" in process.stderr
    assert (tmp_path / "started.jsonl").stat().st_size == 100
    with RunFolder(tmp_path, MANIFEST, resume=True) as run:
        assert list(run.past.unrecorded) == [f"t{number}" for number in range(6)]


def test_folder_when_another_process_uses_it_then_it_is_refused(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests')\n"
        "from aws_rft_sdk.rollout.folder import RunFolder; from rollout.test_resume import MANIFEST\n"
        f"with RunFolder(Path({str(tmp_path)!r}), MANIFEST): print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert other.stdout.readline() == b"open\n"

    with pytest.raises(ConfigurationError, match="another process"):
        RunFolder(tmp_path, MANIFEST, resume=True)

    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    RunFolder(tmp_path, MANIFEST, resume=True).__exit__(None, None, None)


WRONG = json.dumps({"version": 1, **dataclasses.asdict(MANIFEST), "sources": {}, "settings": 5})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 99}', '{"version": 1, "odd": 2}', WRONG])
def test_manifest_when_it_is_none_then_it_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)

    with pytest.raises(ConfigurationError):
        RunFolder(tmp_path, MANIFEST, resume=True)


def test_folder_when_the_journal_is_something_else_then_it_is_refused(tmp_path):
    journal_of_four(tmp_path)
    (tmp_path / "started.jsonl").write_text("precious\n")

    with pytest.raises(DatasetError, match="not the journal"):
        RunFolder(tmp_path, MANIFEST, resume=True)


def test_rollout_when_the_runtime_of_a_run_is_elsewhere_then_it_is_asked_on_resume(world):
    with LocalRuntime(lambda request: "xx") as runtime:
        options = ("--endpoint", runtime.endpoint)
        rollout(world, "plain", *options, "--out", str(world / "out"))
        records = lines(world / "out" / "rollouts.jsonl")
        (world / "out" / "rollouts.jsonl").write_text(records[0] + "\n" + records[1][:20])

        assert rollout(world, "plain", *options, "--resume", str(world / "out")).exit_code == 0

        assert len(runtime.trajectories()) == 3
        assert {r.reward for r in read_records(world / "out")} == {0.2}
