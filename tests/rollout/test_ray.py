"""The ray engine on a cluster of several nodes on this machine. Nodes are killed and join while rollouts run."""

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from extras import long, needs
from rollout.ray_cluster import add_node, run, run_one
from rollout.worlds import policy

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.rollout import RolloutStatus, read_records
from aws_rft_sdk.rollout.engines.ray import RayEngine

pytestmark = [needs("ray"), pytest.mark.timeout(120)]

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")

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


@long
def test_actor_when_it_dies_at_once_again_and_again_then_it_attracts_no_work(cluster, project):
    bad = add_node(cluster)
    add_node(cluster)
    given, losses = [], []

    def prompts():
        while not losses or len(given) < losses[0] + 60:  # the bad node may be the last to begin
            given.append(f"{bad.node_id} {len(given)}")
            assert len(given) < 5000
            yield given[-1]

    def each(record):
        if not record.ended_well:
            losses.append(len(given))

    engine = RayEngine(
        "shipped.agent:dies_on_the_node_in_the_prompt",
        address=cluster.address,
        workers=3,  # one of them waits for a free CPU all the time
        concurrency=4,
    )
    last, records, rewarded = run(engine, prompts(), each=each, concurrency=4)

    assert {(record.status, record.error) for record in last.values()} == {(RolloutStatus.COMPLETED, None)}
    assert set(rewarded.values()) == {1}
    assert len(rewarded) == len(given)
    assert len(records) - len(last) == len(losses) <= 20


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


@long
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
        deadline_seconds=3.0,
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


def test_command_when_there_is_no_cluster_then_one_is_started_here(world):
    command = [AWS_RFT, "rollout", f"{world}/engine_handlers.py:dies_on_b", str(world / "data.jsonl")]
    command += ["--engine", "ray", "--workers", "1", "--concurrency", "1", "--out", str(world / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)

    assert (world / "out" / "rollouts.jsonl").exists(), result.stderr
    last = {record.key: record for record in read_records(world / "out")}
    records = [last[key] for key in sorted(last)]
    assert [record.status.value for record in records] == ["completed", "unreported", "completed"]
    assert "the actor on node" in records[1].error
