"""Agents of every shape that Strands offers, and a policy that keeps each of them talking about its own rollout.

A shape is a generator: it yields what to call and with what, gets the result, and returns all texts that came back. So
one and the same agent is run by functions in threads and by coroutines in an event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.agent.conversation_manager import SummarizingConversationManager
from strands.hooks import AfterInvocationEvent, BeforeToolCallEvent
from strands.models import Model
from strands.multiagent import GraphBuilder, Swarm
from strands.session.file_session_manager import FileSessionManager

from aws_rft_sdk import RFTContext
from aws_rft_sdk.runtime.policies import PolicyError

MARKER = re.compile(r"rollout-\d{4}")
CONTEXT_MESSAGES = 5

Flow = Generator[tuple[Any, Any], Any, list[Any]]
Shape = Callable[[Model, str, Path], Flow]


async def policy(request: dict[str, Any]) -> dict[str, Any] | str:
    """Call every tool that is offered, all at once, with the name of the rollout; then say that name.

    A request that speaks of two rollouts is answered 500, and one that is too long as providers answer it.
    """
    messages = request["messages"]
    [marker] = set(MARKER.findall(json.dumps(messages)))
    if len(messages) > CONTEXT_MESSAGES and "short memory" in json.dumps(messages):
        raise PolicyError("this exceeds the maximum context length", status=400)
    if request.get("response_format", {}).get("type") == "json_schema":
        return json.dumps({"name": marker})
    called = {call["function"]["name"] for message in messages for call in message.get("tool_calls") or ()}
    wanted = [
        offered["function"] for offered in request.get("tools") or () if offered["function"]["name"] not in called
    ]
    calls = [_call(function, messages, marker) for function in wanted if function["name"] != "manage_background_task"]
    calls = [call for call in calls if call is not None]
    if not calls:
        return f"{marker} says {len(messages)}"
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _call(function: dict[str, Any], messages: list[dict[str, Any]], marker: str) -> dict[str, Any] | None:
    arguments = dict.fromkeys(function["parameters"].get("required", ()), marker)
    if function["name"] == "handoff_to_agent":
        following = re.search(r"hand over to (\w+)", json.dumps(messages[0]))
        if following is None:
            return None
        arguments["agent_name"] = following[1]
    return {
        "id": f"call-{function['name']}-{len(messages)}",
        "type": "function",
        "function": {"name": function["name"], "arguments": json.dumps(arguments)},
    }


class Answer(BaseModel):
    """An answer with a form."""

    name: str


class Structured(NamedTuple):
    """`agent.structured_output`, called as agents are called."""

    agent: Agent

    def __call__(self, prompt: str) -> Answer:
        return self.agent.structured_output(Answer, prompt)

    async def invoke_async(self, prompt: str) -> Answer:
        return await self.agent.structured_output_async(Answer, prompt)


def agent_of(model: Model, name: str = "agent", system_prompt: str | None = None, **options: Any) -> Agent:
    return Agent(model=model, name=name, system_prompt=system_prompt, callback_handler=None, **options)


# --- shapes ----------------------------------------------------------------------------------------------------------


def graph(model: Model, marker: str, folder: Path) -> Flow:
    """One node, then two at once, then one: 4 turns."""
    builder = GraphBuilder()
    for name in ("first", "left", "right", "last"):
        builder.add_node(agent_of(model, name), name)
    for source, target in (("first", "left"), ("first", "right"), ("left", "last"), ("right", "last")):
        builder.add_edge(source, target)
    result = yield builder.set_max_node_executions(4).build(), f"{marker}?"
    assert len(result.results) == 4
    return [node.result for node in result.results.values()]


def swarm(model: Model, marker: str, folder: Path) -> Flow:
    """Three agents, two of whom hand over: 5 turns."""
    first = agent_of(model, "first", "hand over to second")
    second = agent_of(model, "second", "hand over to third")
    result = yield Swarm([first, second, agent_of(model, "third")]), f"{marker}?"
    assert [node.node_id for node in result.node_history] == ["first", "second", "third"]
    return [result.results["third"].result]


def agents_as_tools(model: Model, marker: str, folder: Path) -> Flow:
    """Two agents that are the tools of a third, called at once: 4 turns."""
    tools = [agent_of(model, name).as_tool(description=name) for name in ("finder", "writer")]
    result = yield agent_of(model, tools=tools), f"{marker}?"
    return [result]


def parallel_tools(model: Model, marker: str, folder: Path) -> Flow:
    """Tools of every kind at once, each with agents of its own: 7 turns."""

    @tool
    def blocking(text: str) -> str:
        """Ask an agent, synchronously."""
        return str(agent_of(model)(text))

    @tool
    async def in_loop(text: str) -> str:
        """Ask an agent, in the event loop."""
        return str(await agent_of(model).invoke_async(text))

    @tool
    async def in_thread(text: str) -> str:
        """Ask an agent in a thread of asyncio's."""
        return str(await asyncio.to_thread(agent_of(model), text))

    @tool
    def in_pool(text: str) -> str:
        """Ask two agents in a pool, with the context carried: the call, and the coroutine that a call gives."""
        with ThreadPoolExecutor(2) as pool:
            plain = pool.submit(RFTContext.carry(lambda: agent_of(model)(text)))
            carried: Any = RFTContext.carry(lambda: agent_of(model).invoke_async(text))
            later = pool.submit(lambda: asyncio.run(carried()))
            return f"{plain.result()} {later.result()}"

    result = yield agent_of(model, tools=[blocking, in_loop, in_thread, in_pool]), f"{marker}?"
    return [result]


def structured_output(model: Model, marker: str, folder: Path) -> Flow:
    """Both ways to a typed answer: 2 turns."""
    asked = yield Structured(agent_of(model)), f"{marker}?"
    agent = agent_of(model, structured_output_model=Answer)
    result = yield agent, f"{marker}?"
    return [asked.name, result.structured_output.name]


def summarizing(model: Model, marker: str, folder: Path) -> Flow:
    """A conversation that becomes too long, so that the model is asked for a summary: 4 turns, and one refused call."""
    manager = SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)
    agent = agent_of(model, system_prompt="short memory", conversation_manager=manager)
    texts = []
    for _ in range(3):
        texts.append((yield agent, f"{marker}?"))
    assert len(agent.messages) < 6
    return texts


def interrupts(model: Model, marker: str, folder: Path) -> Flow:
    """A tool that a human has to approve: 2 turns, with the approval between them."""

    @tool
    def delete(text: str) -> str:
        """Delete something."""
        return f"deleted {text}"

    def approve(event: BeforeToolCallEvent) -> None:
        if event.interrupt("approval", reason=marker) != f"yes to {marker}":
            event.cancel_tool = "no"

    agent = agent_of(model, tools=[delete])
    agent.hooks.add_callback(BeforeToolCallEvent, approve)
    result = yield agent, f"{marker}?"
    assert result.stop_reason == "interrupt"
    responses = [
        {"interruptResponse": {"interruptId": interrupt.id, "response": f"yes to {interrupt.reason}"}}
        for interrupt in result.interrupts
    ]
    result = yield agent, responses
    assert f"deleted {marker}" in json.dumps(agent.messages)
    return [result]


def session_manager(model: Model, marker: str, folder: Path) -> Flow:
    """A conversation that goes on in another agent, read from disk: 2 turns."""
    texts = []
    for asked in range(2):
        agent = agent_of(
            model, session_manager=FileSessionManager(session_id=marker, storage_dir=str(folder)), agent_id="a"
        )
        assert len(agent.messages) == 2 * asked
        texts.append((yield agent, f"{marker}?"))
    return texts


def hooks(model: Model, marker: str, folder: Path) -> Flow:
    """A hook that asks another agent once the first has answered: 2 turns."""
    said: list[Any] = []

    async def judge(event: AfterInvocationEvent) -> None:
        said.append(await agent_of(model).invoke_async(f"{marker}?"))

    agent = agent_of(model)
    agent.hooks.add_callback(AfterInvocationEvent, judge)
    result = yield agent, f"{marker}?"
    return [result, *said]


def background_tools(model: Model, marker: str, folder: Path) -> Flow:
    """A tool with an agent of its own that Strands runs in its background thread: 4 turns, 3 if the tool is fast."""

    @tool
    def slow(text: str) -> str:
        """Ask an agent."""
        return str(agent_of(model)(text))

    agent = agent_of(model, tools=[slow], background_tasks={"always": [slow]})
    result = yield agent, f"{marker}?"
    return [result]


def subagent_tool(model: Model, marker: str, folder: Path) -> Flow:
    """Strands' own tool that makes an agent like its caller, which may not use it again: 4 turns."""
    vended: Any = importlib.import_module("strands.vended_tools.subagent")
    result = yield agent_of(model, tools=[vended.make_subagent(max_depth=1)]), f"{marker}?"
    return [result]


SHAPES: dict[Shape, tuple[int, ...]] = {
    graph: (4,),
    swarm: (5,),
    agents_as_tools: (4,),
    parallel_tools: (7,),
    structured_output: (2,),
    summarizing: (4,),
    interrupts: (2,),
    session_manager: (2,),
    hooks: (2,),
    background_tools: (3, 4),
    subagent_tool: (4,),
}
"""How many turns each makes."""

NEEDS = {background_tools: "strands.background_tasks", subagent_tool: "strands.vended_tools.subagent"}


def parameters() -> list[Any]:
    """One test parameter for each shape; skipped where this version of Strands lacks what it needs."""
    return [pytest.param(shape, id=shape.__name__, marks=_skip_without(NEEDS.get(shape))) for shape in SHAPES]


def _skip_without(module: str | None) -> Any:
    missing = module is not None and importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"this version of Strands has no {module}")
