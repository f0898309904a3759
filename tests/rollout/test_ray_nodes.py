"""What reaches the nodes of a Ray cluster, what they answer, and which arguments are refused without a cluster."""

import asyncio
from pathlib import Path

import pytest
from extras import needs
from fakes import refused_endpoint
from rollout.ray_cluster import add_node, run, run_at
from rollout.worlds import policy

from aws_rft_sdk import LocalRuntime, __version__
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.rollout import RolloutStatus
from aws_rft_sdk.rollout.engines.choosing import EngineChoice
from aws_rft_sdk.rollout.engines.ray import RayEngine
from aws_rft_sdk.rollout.starting import access_at
from aws_rft_sdk.types import InferenceParams

pytestmark = [needs("ray"), pytest.mark.timeout(120)]

DIES_ONCE = """
import os, pathlib
from aws_rft_sdk import rft_handler
from helper import infer

if not pathlib.Path({marker!r}).exists():
    pathlib.Path({marker!r}).touch()
    os._exit(1)

@rft_handler
def fn(payload):
    infer(payload)
    return 1.0
"""
NEEDS_MORE = """
import not_installed_on_any_node
from aws_rft_sdk import rft_handler
"""


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


def test_actor_when_too_many_of_its_threads_hang_then_it_is_replaced(cluster, project):
    add_node(cluster)

    engine = RayEngine(f"{project}/src/shipped/agent.py:leaves_a_thread_behind", address=cluster.address, workers=1)
    last, _, rewarded = run(engine, ["hangs", "a", "b"], concurrency=1)

    assert [(record.status, record.error) for record in last.values()] == [(RolloutStatus.COMPLETED, None)] * 3
    assert set(rewarded.values()) == {1}


def test_actor_when_its_process_dies_while_it_starts_then_another_is_started(cluster, project, tmp_path):
    add_node(cluster)
    (project / "src" / "dies_once.py").write_text(DIES_ONCE.format(marker=str(tmp_path / "died")))

    engine = RayEngine(f"{project}/src/dies_once.py:fn", address=cluster.address, workers=1)
    last, _, rewarded = run(engine, ["a"])

    assert (tmp_path / "died").exists()
    assert [(record.status, record.error) for record in last.values()] == [(RolloutStatus.COMPLETED, None)]
    assert rewarded == {"a": 1}


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


# --- without a cluster -----------------------------------------------------------------------------------------------


def test_cluster_when_nothing_listens_then_it_is_unavailable_at_once(project):
    with refused_endpoint() as url:
        address = url.removeprefix("http://")
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
