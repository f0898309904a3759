"""Real agents with a synchronous tool that hangs, meets others or ends the process, as their prompt says."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args

WAIT = 60
AT_ONCE = 60
GO_ON = threading.Event()
"""Ends all that hangs, for the end of a test."""
MEETING = threading.Barrier(AT_ONCE)


@tool
def work(what: str) -> str:
    """Do some work.

    Args:
        what: The work.
    """
    if what == "hang":
        GO_ON.wait()
    if what == "meet":
        MEETING.wait(WAIT)
    if what == "exit":
        sys.exit(3)
    if what == "next":
        return next(iter(()))
    return "done"


def policy(request: dict[str, Any]) -> dict[str, Any] | str:
    """Call the tool with the prompt, then say that it is done."""
    messages = request["messages"]
    if len(messages) > 1:
        return "done"
    content = messages[0]["content"]
    prompt = content if isinstance(content, str) else content[0]["text"]
    function = {"name": "work", "arguments": json.dumps({"what": prompt})}
    call = {"id": "c1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _agent() -> Agent:
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    return Agent(model=model, tools=[work], callback_handler=None)


@rft_handler(floor_reward=-1.0)
async def coroutine(payload: dict[str, Any]) -> float:
    """Await the agent: its tools run in threads of the loop that runs the handler."""
    await _agent().invoke_async(payload["prompt"])
    return 1.0


@rft_handler(floor_reward=-1.0)
def function(payload: dict[str, Any]) -> float:
    """Call the agent, which makes an event loop of its own for each call."""
    _agent()(payload["prompt"])
    return 1.0


HANDLERS = {"coroutine": coroutine, "function": function}
