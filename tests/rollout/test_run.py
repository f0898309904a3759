"""`aws_rft_sdk.rollout.run`: from Python, as a script and a notebook call it."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from rollout.worlds import PROMPTS, policy

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import ConfigurationError, DatasetError, PayloadError, UnavailableError
from aws_rft_sdk.rollout import RunListener, RunStatus, load_callable, read_records, run
from aws_rft_sdk.rollout.engines import Engine, LocalEngine
from aws_rft_sdk.rollout.folder import RunFolder
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runtime import read_trajectories

KEYED = """
from strands import Agent
from strands.models.openai import OpenAIModel
from aws_rft_sdk import rft_handler, wrap_model

@rft_handler
def keyed(payload):
    client = {"api_key": "unused", "base_url": payload["metadata"]["endpoint"] + "/v1"}
    model = wrap_model(OpenAIModel(model_id="default", client_args=client))
    Agent(model=model, callback_handler=None)(payload["prompt"])
    return 1.0
"""


@pytest.fixture(autouse=True)
def here(world, monkeypatch):
    monkeypatch.chdir(world)
    (world / "keyed_handlers.py").write_text(KEYED)
    return world


def function(world, name):
    return load_callable(f"{world}/engine_handlers.py:{name}")


UNGUARDED = """
from aws_rft_sdk import rft_handler
from aws_rft_sdk.rollout import run

@rft_handler
def handler(payload):
    return 1.0

run(handler, ["a"], policy=lambda request: "x", engine="process", workers=1, discard=True)
"""


def files(world):
    return sorted(path.name for path in world.iterdir() if path.suffix != ".py" and path.name != "__pycache__")


class Notes(RunListener):
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def begun(self, run):
        self.told.append(("begun", run.total, run.status))

    def recorded(self, record):
        self.told.append(record.key)


def test_run_when_given_a_function_and_prompts_then_all_is_in_a_new_folder_below_runs(world):
    notes = Notes()

    done = run(function(world, "plain"), ["a", "bb"], policy=policy, group_size=2, concurrency=1, listener=notes)

    assert done.status is RunStatus.COMPLETED
    assert done.folder.parent.name == "runs"
    assert [(r.key, r.reward) for r in done.records] == [((0, 0), 0.1), ((0, 1), 0.1), ((1, 0), 0.2), ((1, 1), 0.2)]
    assert done.metrics.mean_reward.value == pytest.approx(0.15)
    assert (done.total, done.failed, done.hung) == (4, 0, 0)
    assert notes.told == [("begun", 4, None), (0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(read_trajectories(done.folder / "trajectories.db")) == 4
    assert [json.loads(line) for line in (done.folder / "prompts.jsonl").read_text().splitlines()] == [
        {"prompt": "a"},
        {"prompt": "bb"},
    ]


def test_run_when_resumed_by_its_folder_alone_then_handler_prompts_and_options_are_those_of_the_run(world):
    source = f"{world}/engine_handlers.py:fails_once"
    first = run(source, iter(PROMPTS), policy=policy, group_size=2, temperature=0.5, fail_over="50%", max_tokens=7)
    assert (first.status, first.failed) == (RunStatus.COMPLETED, 3)

    again = run(resume=first.folder, policy=policy)

    assert (again.folder, again.status, again.failed) == (first.folder, RunStatus.COMPLETED, 0)
    assert (again.options["temperature"], again.options["max_tokens"], again.options["fail_over"]) == (0.5, 7, "50%")
    assert sorted(r.attempts for r in again.records) == [1, 1, 1, 2, 2, 2]


def test_run_when_called_in_a_notebook_then_its_running_loop_is_no_obstacle(world):
    async def cell():
        return run(function(world, "coroutine"), PROMPTS, policy=policy, discard=True)

    assert [r.reward for r in sorted(asyncio.run(cell()).records, key=lambda r: r.key)] == [0.1, 0.1, 0.2]


def test_run_when_its_script_has_no_guard_then_its_children_begin_no_runs_of_their_own(world):
    (world / "unguarded.py").write_text(UNGUARDED)

    ended = subprocess.run([sys.executable, "unguarded.py"], capture_output=True, text=True, timeout=100)

    assert ended.returncode == 1
    assert 'Put that call below if __name__ == "__main__":' in ended.stderr.splitlines()[-1]


def test_run_when_called_in_many_threads_at_once_then_each_has_a_folder_of_its_own(world):
    handler = function(world, "plain")
    together = threading.Barrier(4)

    def one(_):
        together.wait(60)
        return run(handler, ["a"], policy=policy)

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(one, range(4)))

    assert len({done.folder for done in runs}) == 4
    assert [[r.reward for r in done.records] for done in runs] == [[0.1]] * 4


def test_folder_when_runs_begin_in_the_same_second_then_their_names_differ(world):
    manifest = Manifest("agent.py:handler", {}, "data.jsonl", "2", 3)
    folders = [RunFolder(None, manifest) for _ in range(8)]

    assert len({folder.path for folder in folders}) == 8
    for folder in reversed(folders):
        folder.__exit__(None, None, None)
    assert not (world / "runs").exists()


def test_run_when_discarded_then_nothing_is_written_and_the_records_are_in_memory(world):
    done = run(function(world, "fails_once"), PROMPTS, policy=policy, retries=1, retry_budget=3, discard=True)

    assert (done.folder, done.status) == (None, RunStatus.COMPLETED)
    assert sorted((r.key, r.attempts) for r in done.records) == [((0, 0), 2), ((1, 0), 2), ((2, 0), 2)]
    assert files(world) == ["data.jsonl", "failed-a", "failed-b", "failed-cc"]


@pytest.mark.parametrize(
    ("fail_over", "status"),
    [
        (0, "failed"),
        (1, "completed"),
        ("1", "completed"),
        ("33%", "failed"),
        ("34%", "completed"),
        ("100%", "completed"),
    ],
)
def test_run_when_some_fail_then_fail_over_decides_about_the_status(world, fail_over, status):
    done = run(function(world, "fails_on_b"), PROMPTS, policy=policy, fail_over=fail_over, discard=True)

    assert (done.status, done.failed) == (status, 1)


def test_run_when_given_an_engine_then_it_runs_there(world):
    class Counting(LocalEngine):
        calls = 0

        async def run(self, payload, trajectory_id):
            self.calls += 1
            return await super().run(payload, trajectory_id)

    engine = Counting(function(world, "plain"))
    done = run(f"{world}/engine_handlers.py:plain", PROMPTS, engine=engine, policy=policy, out="kept")

    assert (engine.calls, done.status) == (3, RunStatus.COMPLETED)
    with pytest.raises(ConfigurationError, match="engine is 'Counting'"):
        run(resume="kept", policy=policy)
    assert run(resume="kept", policy=policy, engine=engine).status is RunStatus.COMPLETED


def test_run_when_the_policy_is_an_object_then_resuming_demands_it_again(world):
    class Shouting:
        def begin(self, trajectory_id, prompt):
            pass

        async def answer(self, call):
            return {
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "AAAA"}, "finish_reason": "stop"}]
            }

        async def aclose(self):
            pass

    done = run(function(world, "plain"), PROMPTS, policy=Shouting(), out="kept")

    assert {r.reward for r in done.records} == {0.4}
    with pytest.raises(ConfigurationError, match="policy 'Shouting' has none of the forms"):
        run(resume="kept")


REFUSED = {
    "no-handler": ({}, ConfigurationError, "name a HANDLER"),
    "handler-is-a-number": ({"handler": 5, "dataset": ["a"]}, ConfigurationError, "handler is 5"),
    "no-such-function": ({"handler": "engine_handlers.py:nothing", "dataset": ["a"]}, ConfigurationError, "nothing"),
    "no-such-file": ({"dataset": "nowhere.jsonl"}, DatasetError, "nowhere.jsonl"),
    "dataset-is-a-number": ({"dataset": 5}, DatasetError, "dataset is 5. Give the path of a file, or a list"),
    "dataset-is-a-mapping": ({"dataset": {"a": 1}}, DatasetError, "Give the path of a file, or a list"),
    "no-prompts": ({"dataset": []}, DatasetError, "no prompts"),
    "blank-prompt": ({"dataset": ["a", " "]}, DatasetError, "prompt 1 is ' '"),
    "prompt-is-a-row": ({"dataset": [{"prompt": "a"}]}, DatasetError, "prompt 0 is"),
    "group-size": ({"group_size": 0}, ConfigurationError, "group-size must be a whole number of at least 1"),
    "group-size-is-none": ({"group_size": None}, ConfigurationError, "group-size must be a whole number"),
    "limit": ({"limit": 0}, ConfigurationError, "limit must be"),
    "concurrency": ({"concurrency": 1.5}, ConfigurationError, "concurrency must be a whole number"),
    "deadline": ({"deadline_seconds": -1}, ConfigurationError, "deadline-seconds"),
    "deadline-is-infinite": ({"deadline_seconds": float("inf")}, ConfigurationError, "deadline-seconds must be a fin"),
    "deadline-is-a-string": ({"deadline_seconds": "3"}, ConfigurationError, "deadline-seconds must be a finite number"),
    "pace-is-true": ({"starts_per_second": True}, ConfigurationError, "starts-per-second must be a finite number"),
    "fail-over": ({"fail_over": "some"}, ConfigurationError, "fail-over is 'some'. Give a count such as 10"),
    "retries": ({"retries": "magic=1"}, ConfigurationError, "the kind 'magic'"),
    "retries-below-0": ({"retries": -1}, ConfigurationError, "retries for agent must be .* at least 0, not -1"),
    "retries-is-none": ({"retries": None}, ConfigurationError, "retries for agent must be a whole number"),
    "retries-is-a-string": (
        {"retries": {"agent": "1"}},
        ConfigurationError,
        "retries for agent must be a whole number",
    ),
    "breaker": ({"breaker": 0}, ConfigurationError, "breaker must be"),
    "retry-budget": ({"retry_budget": -1}, ConfigurationError, "retry-budget is '-1'"),
    "temperature": ({"temperature": -1}, PayloadError, "temperature"),
    "threshold": ({"success_threshold": float("nan")}, ConfigurationError, "success-threshold"),
    "engine": ({"engine": "magic"}, ConfigurationError, "engine is 'magic'"),
    "engine-does-not-fit": ({"engine": "http"}, ConfigurationError, "the engine http runs"),
    "policy": ({"policy": "magic"}, ConfigurationError, "none of the forms"),
    "policy-is-empty": ({"policy": ""}, ConfigurationError, "policy '' has none of the forms"),
    "endpoint-is-empty": ({"endpoint": "", "policy": None}, ConfigurationError, "endpoint is empty"),
    "address-is-a-number": ({"address": 5, "engine": "ray"}, ConfigurationError, "address must be a string, not 5"),
    "key-is-bytes": ({"key": b"a-key"}, ConfigurationError, "^key is no string$"),
    "out-is-empty": ({"out": ""}, ConfigurationError, "out is empty"),
    "out-is-a-number": ({"out": 5}, ConfigurationError, "out must be the path of a folder, not 5"),
    "resume-is-empty": ({"resume": ""}, ConfigurationError, "resume is empty"),
    "key-alone": ({"key": "a-key-of-tests-only"}, ConfigurationError, "Give both, or none"),
    "policy-and-endpoint": ({"endpoint": "http://127.0.0.1:9"}, ConfigurationError, "--policy is for a runtime"),
    "folders": ({"out": "x", "resume": "x"}, ConfigurationError, "Give one of them"),
    "discard-and-out": ({"out": "x", "discard": True}, ConfigurationError, "Give one of them"),
    "nothing-to-resume": ({"resume": "nowhere"}, ConfigurationError, "no run to resume"),
    "accept": ({"accept_changes": True}, ConfigurationError, "--accept-changes is for --resume"),
    "out-is-a-file": ({"out": "data.jsonl"}, ConfigurationError, "data.jsonl cannot be made"),
    "out-is-below-a-file": ({"out": "data.jsonl/x"}, ConfigurationError, "cannot be made"),
    "local-function-in-processes": (
        {"handler": lambda payload: 1.0, "engine": "process", "workers": 1},
        ConfigurationError,
        "a process cannot load the handler",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "says"), [pytest.param(*row, id=name) for name, row in REFUSED.items()])
def test_run_when_refused_then_the_error_says_why_and_nothing_is_left_behind(world, arguments, error, says):
    before = files(world)
    needed = {"handler": f"{world}/engine_handlers.py:plain", "dataset": PROMPTS, "policy": policy} if arguments else {}

    with pytest.raises(error, match=says):
        run(**{**needed, **arguments})

    assert files(world) == before


def test_run_when_an_option_has_an_unknown_name_then_type_error_names_it(world):
    with pytest.raises(TypeError, match="no option groupsize"):
        run(function(world, "plain"), PROMPTS, groupsize=2)


class Broken(Engine):
    """Cannot start."""

    async def __aenter__(self):
        raise UnavailableError("the cluster is away")

    async def run(self, payload, trajectory_id):
        raise NotImplementedError


@pytest.mark.parametrize("out", [None, "a/b/c", "there"])
def test_run_when_the_engine_cannot_start_then_no_folder_is_left_behind_and_no_file_of_others_is_lost(world, out):
    (world / "there").mkdir()
    (world / "there" / "mine.txt").write_text("mine")
    before = files(world)

    with pytest.raises(UnavailableError, match="the cluster is away"):
        run(f"{world}/engine_handlers.py:plain", PROMPTS, engine=Broken(), policy=policy, out=out)

    assert files(world) == before
    assert files(world / "there") == ["mine.txt"]


def test_run_when_a_runtime_has_recorded_into_the_folder_then_it_is_not_touched(world):
    with LocalRuntime(policy, db=world / "trajectories.db") as runtime:
        runtime.new_rollout("a")

    with pytest.raises(ConfigurationError, match=r"trajectories\.db exists already"):
        run(function(world, "plain"), PROMPTS, policy=policy, out=world)

    assert len(read_trajectories(world / "trajectories.db")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root can write to")
def test_run_when_the_folder_cannot_be_written_then_the_environment_is_to_blame(world):
    with pytest.raises(UnavailableError, match="cannot be made"):
        run(function(world, "plain"), PROMPTS, policy=policy, out="/proc/self/runs")


def test_run_when_endpoint_and_policy_are_exchanged_on_resume_then_the_other_one_is_dropped(world):
    done = run(function(world, "fails_once"), PROMPTS, policy=policy, out="kept")
    assert done.failed == 3

    with LocalRuntime(policy) as runtime:
        again = run(resume="kept", endpoint=runtime.endpoint, accept_changes=True)

    assert (again.options["policy"], again.failed) == (None, 0)


def test_run_when_the_runtime_asks_for_a_key_then_the_clients_of_handlers_have_it_and_the_folder_does_not(world):
    with LocalRuntime(policy, key="a-key-of-tests-only") as runtime:
        here = {"endpoint": runtime.endpoint, "key": "a-key-of-tests-only"}
        done = run(f"{world}/keyed_handlers.py:keyed", PROMPTS, out="kept", **here)
        with pytest.raises(ConfigurationError, match="asks for its key"):
            run(resume="kept")

    assert done.status is RunStatus.COMPLETED, done.records
    assert "a-key-of-tests-only" not in "".join(path.read_text() for path in (world / "kept").glob("*.json*"))
    assert "RFT_RUNTIME_KEY" not in os.environ


def test_run_when_the_manifest_is_of_an_older_version_then_it_is_resumed(world):
    run(f"{world}/engine_handlers.py:plain", "data.jsonl", out="kept")
    fields = json.loads((world / "kept" / "run.json").read_text())
    del fields["execution"]
    (world / "kept" / "run.json").write_text(json.dumps({**fields, "from_the_future": 1}))

    assert run(resume="kept").status is RunStatus.COMPLETED
    assert len(list(read_records("kept"))) == 3
