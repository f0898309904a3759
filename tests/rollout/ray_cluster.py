"""What tests of the ray engine share: a cluster of several nodes on this machine, a project, and how it is run."""

import asyncio
import itertools
import shutil
import signal
import sys
import tempfile
from collections import Counter
from contextlib import aclosing

import pytest
from rollout.worlds import policy

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.rollout import run_rollouts
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.types import InferenceParams, TrajectoryStatus

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
    # Until the head notices, it would place the next test's actors on the nodes that are gone.
    head.wait_for_nodes()


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
