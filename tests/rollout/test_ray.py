"""The ray engine on a cluster of several nodes on this machine. Nodes are killed and join while rollouts run."""

import asyncio
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import pytest
from extras import needs
from rollout.worlds import policy

from aws_rft_sdk import LocalRuntime, __version__
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.rollout import RolloutStatus, read_records, run_rollouts
from aws_rft_sdk.rollout.engines.choosing import EngineChoice
from aws_rft_sdk.rollout.engines.ray import RayEngine
from aws_rft_sdk.rollout.starting import access_at, access_in
from aws_rft_sdk.types import InferenceParams, TrajectoryStatus

pytestmark = [needs("ray"), pytest.mark.timeout(120)]

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
NUMBERS = itertools.count()
MEMORY_BYTES = 100 * 1024 * 1024
HELPER = """
import requests
from aws_rft_sdk import RFTContext

def infer(payload, headers=()):
    answer = requests.post(
        payload["metadata"]["endpoint"] + "/v1/chat/completions",
        headers={**RFTContext.get_headers(), **dict(headers)},
        json={"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]},
        timeout=30,
    )
    answer.raise_for_status()
"""
AGENT = """
import ctypes, os, pathlib, signal, time
import ray
from aws_rft_sdk import rft_handler
from helper import infer

def node():
    return ray.get_runtime_context().get_node_id()

@rft_handler
def says_where(payload):
    infer(payload)
    time.sleep(0.02)
    return {"reward": 1.0, "metrics": {"node": node(), "data": pathlib.Path("data.txt").read_text()}}

@rft_handler
def dies_on_the_node_in_the_prompt(payload):
    if node() in payload["prompt"]:
        os.kill(os.getpid(), signal.SIGKILL)
    infer(payload)
    time.sleep(0.02)
    return 1.0

@rft_handler
def holds_the_lock_on_b(payload):
    infer(payload)
    if payload["prompt"] == "b":
        ctypes.PyDLL(None).sleep(600)
    return 1.0

@rft_handler
async def waits(payload):
    import asyncio
    print("the handler speaks of", payload["prompt"], flush=True)
    await asyncio.to_thread(infer, payload)
    await asyncio.sleep(600)

@rft_handler
async def leaves_a_thread_behind(payload):
    import asyncio
    from aws_rft_sdk.lifecycle.executor import DaemonThreads

    DaemonThreads.is_exhausted = property(lambda threads: threads.hung >= 1)
    await asyncio.to_thread(infer, payload)
    if payload["prompt"] == "hangs":
        try:
            await asyncio.wait_for(asyncio.to_thread(time.sleep, 600), 0.05)
        except asyncio.TimeoutError:
            pass
    return 1.0

@rft_handler
def knows_the_key(payload):
    infer(payload, {"Authorization": "Bearer " + os.environ["RFT_RUNTIME_KEY"]})
    return {"reward": 1.0, "metrics": {"logs": ray._private.worker._global_node.get_logs_dir_path()}}
"""
NEEDS_MORE = """
import not_installed_on_any_node
from aws_rft_sdk import rft_handler
"""

# In a process of its own: Ray ends a process whose head node is gone after a minute.
LOSES_ITS_HEAD = """
import asyncio, sys, tempfile
from ray.cluster_utils import Cluster
from rollout.worlds import policy
from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.rollout.engines.ray import RayEngine

async def main(cluster, reference):
    engine = RayEngine(reference, address=cluster.address, patience_seconds=1.0)
    with LocalRuntime(policy) as runtime:
        async with engine:
            for prompt in range(1000):
                payload = runtime.new_rollout(str(prompt))
                outcome = await engine.run(payload, payload["metadata"]["rolloutId"])
                print(outcome.status.value, flush=True)
                if prompt == 0:
                    cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)

with tempfile.TemporaryDirectory(prefix="rft-", ignore_cleanup_errors=True) as temp:
    head = {"num_cpus": 1, "object_store_memory": 10**8, "include_dashboard": False, "temp_dir": temp}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        asyncio.run(main(cluster, sys.argv[1]))
    except UnavailableError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def head():
    """A cluster whose head runs no rollouts."""
    from ray.cluster_utils import Cluster

    on_sigterm = signal.getsignal(signal.SIGTERM)
    temp = tempfile.mkdtemp(prefix="rft-")  # not in pytest's folder: paths of Unix sockets are short
    quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    options = {"num_cpus": 0, "object_store_memory": MEMORY_BYTES, "include_dashboard": False}
    cluster = Cluster()
    try:
        cluster.add_node(**options, temp_dir=temp, _system_config=quick)
        yield cluster
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, on_sigterm)
        shutil.rmtree(temp, ignore_errors=True)


@pytest.fixture
def cluster(head):
    """The cluster without any node besides its head. Nodes that a test adds leave after it."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)


def add_node(cluster, **options):
    # Each machine has a folder of its own for what it is sent.
    folder = f"machine-{next(NUMBERS)}"
    return cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES, runtime_env_dir_name=folder, **options)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a source folder, whose agent imports its neighbour's neighbour."""
    folder = tmp_path / "project"
    (folder / "src" / "shipped").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "data.txt").write_text("beside the source")
    (folder / "src" / "shipped" / "__init__.py").write_text("")
    (folder / "src" / "shipped" / "agent.py").write_text(AGENT)
    (folder / "src" / "helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(folder / "src"))
    yield folder
    for name in ("shipped", "shipped.agent"):
        sys.modules.pop(name, None)


def run(engine, prompts, **options):
    """Run rollouts against a runtime of this process. See `run_at`."""
    with LocalRuntime(policy) as runtime:
        return run_at(runtime, access_in(runtime, InferenceParams()), engine, prompts, **options)


def run_at(runtime, access, engine, prompts, *, each=lambda record: None, **options):
    """Return the last record of each rollout, all records, and how often the runtime has a reward for each prompt."""

    async def main():
        records = []
        ended = run_rollouts(engine, prompts, access.start, observe=access.observe, retries=2, **options)
        async with aclosing(ended):
            async for record in ended:
                records.append(record)
                each(record)
        return records

    records = asyncio.run(main())
    rewarded = Counter(item.prompt for item in runtime.trajectories(TrajectoryStatus.REWARD_RECEIVED))
    return {record.key: record for record in records}, records, rewarded


async def run_one(engine, runtime, prompt):
    payload = runtime.new_rollout(prompt)
    return await engine.run(payload, payload["metadata"]["rolloutId"])


def test_cluster_when_a_node_dies_and_another_joins_then_nothing_is_lost_nor_done_twice(cluster, project):
    nodes = [add_node(cluster), add_node(cluster)]
    worked = Counter()
    most = 2000

    def prompts():
        for number in range(most):
            if joined and worked[joined[0].node_id] >= 5:
                return
            yield f"prompt {number}"

    joined = []

    def each(record):
        if node := record.metrics.get("node"):  # not of a reward that came without an answer
            worked[node] += 1
        if nodes and all(worked[node.node_id] for node in nodes):
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.clear()
        elif not nodes and not joined:
            joined.append(add_node(cluster))

    engine = RayEngine(f"{project}/src/shipped/agent.py:says_where", address=cluster.address, concurrency=8)
    last, records, rewarded = run(engine, prompts(), each=each, concurrency=8)

    assert {(record.status, record.error) for record in last.values()} == {(RolloutStatus.COMPLETED, None)}
    assert {record.metrics.get("data") for record in last.values()} <= {"beside the source", None}
    assert len(rewarded) == len(last) < most
    assert set(rewarded.values()) == {1}
    assert len(worked) == 3
    failed = [record for record in records if not record.ended_well]
    assert all("node" in record.error for record in failed)
    assert len(failed) <= 8


def test_actor_when_it_dies_at_once_again_and_again_then_it_attracts_no_work(cluster, project):
    bad = add_node(cluster)
    add_node(cluster)
    prompts = [f"{bad.node_id} {number}" for number in range(60)]

    engine = RayEngine(
        "shipped.agent:dies_on_the_node_in_the_prompt",
        address=cluster.address,
        workers=3,  # one of them waits for a free CPU all the time
        concurrency=4,
    )
    last, records, rewarded = run(engine, prompts, concurrency=4)

    assert {(record.status, record.error) for record in last.values()} == {(RolloutStatus.COMPLETED, None)}
    assert set(rewarded.values()) == {1}
    assert len(rewarded) == 60
    assert 0 < len(records) - len(last) <= 20


def test_cluster_when_all_nodes_are_gone_then_the_run_ends_and_says_why(cluster, project):
    add_node(cluster)

    engine = RayEngine(f"{project}/src/shipped/agent.py:says_where", address=cluster.address, patience_seconds=1.0)

    async def run_until_it_ends(runtime):
        while True:  # the first rollouts may have been on their way
            await run_one(engine, runtime, "next")

    async def main():
        with LocalRuntime(policy) as runtime:
            async with engine:
                before = await run_one(engine, runtime, "first")
                cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
                with pytest.raises(UnavailableError) as raised:
                    await run_until_it_ends(runtime)
        return before, str(raised.value)

    before, message = asyncio.run(main())

    assert before.status is RolloutStatus.COMPLETED
    assert message.startswith("nothing has been able to run rollouts for 1 s. The last failure: the actor on node")


def test_cluster_when_its_head_is_gone_then_the_run_ends_and_says_why(project):
    command = [sys.executable, "-c", LOSES_ITS_HEAD, f"{project}/src/shipped/agent.py:says_where"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": paths}
    )

    assert result.stdout.startswith("completed\n"), result.stderr
    assert "nothing has been able to run rollouts for 1 s" in result.stdout


def test_actor_when_it_does_not_report_then_it_is_killed_and_replaced(cluster, project):
    add_node(cluster)
    engine = RayEngine(
        f"{project}/src/shipped/agent.py:holds_the_lock_on_b",
        address=cluster.address,
        deadline_seconds=1.0,
        overtime_seconds=1.0,
        concurrency=1,
    )

    async def main(runtime):
        async with engine:
            return [await run_one(engine, runtime, prompt) for prompt in "abc"]

    with LocalRuntime(policy) as runtime:
        outcomes = asyncio.run(main(runtime))

    assert [outcome.status.value for outcome in outcomes] == ["completed", "unreported", "completed"]
    assert outcomes[1].lost
    assert "did not report at its deadline, and was killed" in outcomes[1].error


def test_actor_when_too_many_of_its_threads_hang_then_it_is_replaced(cluster, project):
    add_node(cluster)

    engine = RayEngine(f"{project}/src/shipped/agent.py:leaves_a_thread_behind", address=cluster.address, workers=1)
    last, _, rewarded = run(engine, ["hangs", "a", "b"], concurrency=1)

    assert [(record.status, record.error) for record in last.values()] == [(RolloutStatus.COMPLETED, None)] * 3
    assert set(rewarded.values()) == {1}


def test_rollout_when_cancelled_then_it_is_over_in_its_actor_and_its_output_was_shown(cluster, project, capfd):
    add_node(cluster)
    engine = RayEngine(f"{project}/src/shipped/agent.py:waits", address=cluster.address, show_output=True)

    async def main(runtime):
        async with engine:
            payload = runtime.new_rollout("tea")
            trajectory_id = payload["metadata"]["rolloutId"]
            task = asyncio.create_task(engine.run(payload, trajectory_id))
            shown = ""
            while "the handler speaks of tea" not in shown or not runtime.observe(trajectory_id)["turns"]:
                await asyncio.sleep(0.05)
                shown += "".join(capfd.readouterr())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return runtime.observe(trajectory_id)["status"]

    with LocalRuntime(policy) as runtime:
        status = asyncio.run(main(runtime))

    assert status in ("FAILED", "REWARD_RECEIVED")


def test_runtime_when_it_has_a_key_then_actors_report_with_it_and_no_log_has_it(cluster, project, monkeypatch):
    add_node(cluster)
    key = "an-unusual-key-4711"
    monkeypatch.setenv("RFT_RUNTIME_KEY", key)

    with LocalRuntime(policy, host="0.0.0.0", key=key) as runtime:
        access = access_at(runtime.endpoint, InferenceParams())
        engine = EngineChoice.of("ray", f"{project}/src/shipped/agent.py:knows_the_key", address=cluster.address).make(
            None, access
        )
        last, _, rewarded = run_at(runtime, access, engine, ["a"])

    (record,) = last.values()
    assert (record.status, record.error) == (RolloutStatus.COMPLETED, None)
    assert rewarded == {"a": 1}
    logs = [path for path in Path(record.metrics["logs"]).rglob("*") if path.is_file()]
    assert logs
    assert not [path for path in logs if key.encode() in path.read_bytes()]
    assert key not in repr(engine)


def test_node_when_it_lacks_a_module_then_the_error_names_node_and_module(cluster, project):
    add_node(cluster)
    (project / "src" / "needy.py").write_text(NEEDS_MORE)
    engine = RayEngine(f"{project}/src/needy.py:fn", address=cluster.address)

    with pytest.raises(
        ConfigurationError, match=r"node [\d.]+ cannot .*No module named 'not_installed_on_any_node'.*--requ"
    ):
        run(engine, ["a"])


def test_node_when_it_has_another_version_then_the_error_names_node_and_both(cluster, project, tmp_path):
    (tmp_path / "old" / "aws_rft_sdk").mkdir(parents=True)
    (tmp_path / "old" / "aws_rft_sdk" / "__init__.py").write_text("__version__ = '0.0.1'")
    add_node(cluster, env_vars={"PYTHONPATH": str(tmp_path / "old")})
    engine = RayEngine(f"{project}/src/shipped/agent.py:says_where", address=cluster.address)

    with pytest.raises(
        ConfigurationError, match=rf"node [\d.]+ .*has aws-rft-sdk 0\.0\.1, and this .* has {__version__}"
    ):
        run(engine, ["a"])


def test_command_when_there_is_no_cluster_then_one_is_started_here(world):
    command = [AWS_RFT, "rollout", f"{world}/engine_handlers.py:dies_on_b", str(world / "data.jsonl")]
    command += ["--engine", "ray", "--workers", "1", "--concurrency", "1", "--out", str(world / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)

    assert (world / "out" / "rollouts.jsonl").exists(), result.stderr
    last = {record.key: record for record in read_records(world / "out")}
    records = [last[key] for key in sorted(last)]
    assert [record.status.value for record in records] == ["completed", "unreported", "completed"]
    assert "the actor on node" in records[1].error


# --- without a cluster -----------------------------------------------------------------------------------------------


def test_cluster_when_nothing_listens_then_it_is_unavailable_at_once(project):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    engine = RayEngine(f"{project}/src/shipped/agent.py:says_where", address=address)

    with pytest.raises(UnavailableError, match=f"no Ray cluster answers at {address}"):
        run(engine, ["a"])


@pytest.mark.parametrize("address", ["head", "http://head:1", "head:port", ":6379"])
def test_address_when_it_has_no_known_form_then_it_is_refused(address):
    with pytest.raises(ConfigurationError, match="host:port"):
        RayEngine("module:fn", address=address)


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:8080", "http://localhost:1"])
def test_choice_when_cluster_is_elsewhere_and_runtime_on_loopback_then_it_says_what_to_type(endpoint):
    choice = EngineChoice.of("ray", "module:fn", address="203.0.113.7:6379")

    with pytest.raises(
        ConfigurationError, match=r"aws-rft runtime --host 0\.0\.0\.0 --key KEY.*--endpoint http://.*:8080"
    ):
        choice.check_reach(endpoint)

    choice.check_reach("http://10.0.0.1:8080")


@pytest.mark.parametrize("address", [None, "local", "auto", "127.0.0.1:6379", "ray://localhost:10001"])
def test_choice_when_cluster_is_here_then_any_runtime_will_do(address):
    EngineChoice.of("ray", "module:fn", address=address).check_reach(None)


def test_choice_when_the_cluster_is_in_the_environment_then_it_counts(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6379")

    with pytest.raises(ConfigurationError, match=r"203\.0\.113\.7 cannot reach"):
        EngineChoice.of("ray", "module:fn").check_reach(None)


@pytest.mark.parametrize(
    "option", [{"address": "h:1"}, {"requirements": Path("r.txt")}, {"show_output": True}], ids=lambda o: next(iter(o))
)
def test_choice_when_an_option_is_for_ray_then_other_engines_refuse_it(option):
    with pytest.raises(ConfigurationError, match="is for the engine ray, not for local"):
        EngineChoice.of("local", "module:fn", **option)
