"""What a proof reached: every tool is called, and what was not reached is not called proved."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from strands import Agent, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import BeforeToolCallEvent
from strands.multiagent import GraphBuilder
from strands.types.exceptions import EventLoopException

from aws_rft_sdk import RFTContext, rft_handler
from aws_rft_sdk.proof import CauseKind, Proof, Trial, proof_lines, prove_handler

from .production import agent, answers, policy

pytestmark = pytest.mark.filterwarnings("ignore:graph has no max_node_executions:UserWarning")


def prove(work: Any, **fields: Any) -> Proof:
    return prove_handler(answers(work), trial=Trial(rollouts=4, threads=4, faults=False, **fields))


def a_tool(name: str, calls: list[str]) -> Any:
    def work(text: str) -> str:
        """Do something.

        Args:
            text: With what.
        """
        calls.append(name)
        return "done"

    return tool(name=name)(work)


def test_every_tool_is_called_however_many_there_are():
    calls: list[str] = []
    tools = [a_tool(f"tool_{number:02}", calls) for number in range(12)]

    proof = prove(lambda prompt: agent(policy, *tools)(prompt))

    assert proof.is_passed, proof.causes
    assert proof.reach.tools == tuple(sorted(set(calls))) == tuple(f"tool_{number:02}" for number in range(12))


def test_tools_of_sub_agents_are_called():
    calls: list[str] = []

    def work(prompt: str) -> None:
        reader = agent(policy, a_tool("read", calls), name="reader")
        agent(policy, reader.as_tool(description="Reads."), a_tool("write", calls))(prompt)

    proof = prove(work)

    assert proof.is_passed, proof.causes
    assert (proof.reach.tools, proof.reach.agents) == (("read", "reader", "write"), ("main", "reader"))


def test_tool_that_is_skipped_is_not_called_and_said():
    calls: list[str] = []

    proof = prove(
        lambda prompt: agent(policy, a_tool("read", calls), a_tool("delete_all", calls))(prompt),
        skip_tools=("delete*",),
    )

    assert proof.is_passed, proof.causes
    assert "delete_all" not in calls
    assert (proof.reach.tools, proof.reach.skipped_tools) == (("read",), ("delete_all",))
    assert proof_lines(proof)[-1] == "proved, except for what was skipped: delete_all"


def test_tool_that_is_offered_and_never_run_is_not_proved():
    calls: list[str] = []

    def refuse(event: BeforeToolCallEvent) -> None:
        raise PermissionError("no tool is run here")

    def work(prompt: str) -> None:
        made = agent(policy, a_tool("read", calls))
        made.hooks.add_callback(BeforeToolCallEvent, refuse)
        with contextlib.suppress(EventLoopException):
            made(prompt)

    proof = prove(work)

    (cause,) = proof.causes
    assert (cause.kind, calls) == (CauseKind.NOT_REACHED, [])
    assert cause.what == "tools that never ran: read"
    assert "--skip-tool read" in cause.fix
    assert proof_lines(proof)[-1] == "not proved: tools or agents were not reached"


def test_agent_of_a_branch_that_is_never_taken_is_not_proved():
    def work(prompt: str) -> None:
        builder = GraphBuilder()
        builder.add_node(agent(name="writer"), "writer")
        builder.add_node(agent(name="judge"), "judge")
        builder.add_edge("writer", "judge", condition=lambda state: False)
        builder.set_entry_point("writer")
        builder.build()(prompt)

    proof = prove(work)

    (cause,) = proof.causes
    assert cause.kind is CauseKind.NOT_REACHED
    assert cause.what.startswith("agents that never ran: judge (tests/proof/production.py:")
    assert cause.fix.endswith("--skip-agent judge")
    assert proof.reach.agents == ("writer",)
    assert prove(work, skip_agents=("judge",)).is_passed


def test_second_agent_of_the_same_name_is_told_from_the_first():
    def work(prompt: str) -> None:
        Agent(model=policy, callback_handler=None)(prompt)
        Agent(model=policy, callback_handler=None)

    (cause,) = prove(work).causes

    assert cause.what.startswith("agents that never ran: Strands Agents (tests/proof/test_reach.py:")


def test_agent_that_only_production_uses_need_not_be_reached():
    def work(prompt: str) -> None:
        agent(name="main" if RFTContext.current() else "production")(prompt)

    proof = prove(work, outside=2)

    assert proof.is_passed, proof.causes
    assert proof.reach.agents == ("main",)


idle = agent(policy, name="idle")


def test_agent_of_the_module_that_never_runs_is_not_proved():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        agent()(payload["prompt"])
        return 1.0

    (cause,) = prove_handler(handler, trial=Trial(rollouts=4, threads=4, faults=False)).causes

    assert cause.what == f"agents that never ran: idle ({__name__}.idle)"


def test_tool_that_only_fails_is_said():
    @tool
    def broken(text: str) -> str:
        """Break.

        Args:
            text: Anything.
        """
        raise LookupError(text)

    proof = prove(lambda prompt: agent(policy, broken)(prompt))

    assert proof.is_passed, proof.causes
    assert proof.reach.failed_tools == ("broken",)
    assert any(line.startswith("tools that failed each time") for line in proof_lines(proof))


def test_agent_that_forgets_its_conversation_ends():
    calls: list[str] = []

    def work(prompt: str) -> None:
        made = agent(policy, a_tool("read", calls), conversation_manager=SlidingWindowConversationManager(2))
        for _ in range(20):
            made(prompt)

    assert prove(work).is_passed
