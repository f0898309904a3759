"""A handler that hangs is reported at its deadline, with the place where it waits, and ends nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool

from aws_rft_sdk import RFTContext, rft_handler
from aws_rft_sdk.proof import CauseKind, Proof, Trial, proof_lines, prove_handler

from .production import agent, answers, policy

SHORT = Trial(rollouts=8, threads=4, faults=False, deadline_seconds=4)
LONG = Trial(rollouts=8, threads=4, faults=False, deadline_seconds=120)
never = threading.Event()


@pytest.fixture(autouse=True, scope="module")
def _warm_up_and_let_go() -> Iterator[None]:
    # What the first rollout of a process imports is not to count against a short deadline.
    prove_handler(answers(lambda prompt: agent()(prompt)), trial=Trial(1, 1, faults=False))
    yield
    never.set()


@tool
def wait_for_ever(text: str) -> str:
    """Wait.

    Args:
        text: For what.
    """
    never.wait()
    return "woken"


def in_the_handler(prompt: str) -> None:
    agent()(prompt)
    never.wait()


def in_a_tool(prompt: str) -> None:
    agent(policy, wait_for_ever)(prompt)


@rft_handler
async def suspended(payload: dict[str, Any]) -> float:
    await Agent(model=policy, callback_handler=None).invoke_async(payload["prompt"])
    await asyncio.Event().wait()
    return 1.0


@rft_handler
async def blocking_its_loop(payload: dict[str, Any]) -> float:
    await Agent(model=policy, callback_handler=None).invoke_async(payload["prompt"])
    never.wait()
    return 1.0


@rft_handler
async def in_a_tool_of_a_coroutine(payload: dict[str, Any]) -> float:
    await Agent(model=policy, tools=[wait_for_ever], callback_handler=None).invoke_async(payload["prompt"])
    return 1.0


@pytest.mark.parametrize(
    ("handler", "place"),
    [
        pytest.param(answers(in_the_handler), "in in_the_handler", id="function"),
        pytest.param(answers(in_a_tool), "in wait_for_ever", id="tool"),
        pytest.param(suspended, "in suspended", id="coroutine"),
        pytest.param(blocking_its_loop, "in blocking_its_loop", id="coroutine that blocks its loop"),
        pytest.param(in_a_tool_of_a_coroutine, "in wait_for_ever", id="tool of a coroutine"),
    ],
)
def test_handler_that_hangs_is_reported_with_the_place(handler, place):
    proof = prove_handler(handler, trial=SHORT)

    (cause,) = proof.causes
    assert cause.kind is CauseKind.HUNG
    assert "did not return within 4 s" in cause.what
    assert place in cause.what
    assert ("tool wait_for_ever of agent" in cause.what) == ("wait_for_ever" in place)
    assert proof_lines(proof)[-1] == "not proved: the handler did not return within 4 s"
    assert len(proof.outcomes) == 1  # no further rollouts were started


def test_handler_that_hangs_only_when_others_run_is_reported():
    count, lock = [0], threading.Lock()

    def work(prompt: str) -> None:
        with lock:
            count[0] += 1
            number = count[0]
        agent()(prompt)
        if number == 3:
            never.wait()

    proof: Proof = prove_handler(answers(work), trial=SHORT)

    (cause,) = proof.causes
    assert (cause.kind, cause.count) == (CauseKind.HUNG, 1)
    assert "in work" in cause.what


@rft_handler
async def blocking_its_loop_in_production(payload: dict[str, Any]) -> float:
    if RFTContext.current() is None:
        never.wait()
    await Agent(model=policy, callback_handler=None).invoke_async(payload["prompt"])
    return 1.0


def test_call_outside_rollouts_that_blocks_its_loop_is_noted():
    proof = prove_handler(blocking_its_loop_in_production, trial=replace(SHORT, outside=1))

    assert proof.is_passed
    (note,) = proof.notes
    assert "1 of 1 calls outside rollouts raised, the first one RolloutTimeoutError: it blocks its event loop" in note
    assert "in blocking_its_loop_in_production" in note


def test_handler_that_is_slow_but_in_time_is_proved():
    assert prove_handler(answers(lambda prompt: agent()(prompt)), trial=LONG).is_passed


def test_command_ends_although_a_thread_hangs(tmp_path):
    (tmp_path / "hangs.py").write_text(
        "from tests.proof.production import agent, answers, policy\n"
        "from tests.proof.test_deadline import wait_for_ever\n"
        "handler = answers(lambda prompt: agent(policy, wait_for_ever)(prompt))\n"
    )

    run = "from aws_rft_sdk.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", run, "prove", f"{tmp_path}/hangs.py:handler", "--deadline", "8", "--no-faults"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert done.returncode == 1, done.stderr
    assert done.stdout.rstrip().endswith("\nnot proved: the handler did not return within 8 s")
