"""What `benchmarks/worker.py` runs: a Strands agent with a tool, and a policy that takes its time.

The policy sleeps as a model under training samples; the sleep is most of a rollout, so that many are in flight.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import Any

from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args

TURNS = 3
"""Of a rollout: two calls of the tool, then the answer."""


async def policy(request: dict[str, Any]) -> Any:
    """Sleep for as long as the prompt says, then call the tool, or answer when it was called often enough."""
    question = str(request["messages"][-1 if len(request["messages"]) == 1 else 0]["content"])
    match = re.search(r"sleep=([\d.]+) turns=(\d+)", question)
    seconds, turns = (float(match[1]), int(match[2])) if match else (0.0, 1)
    await asyncio.sleep(seconds)
    asked = sum(message["role"] == "tool" for message in request["messages"])
    if asked + 1 >= turns:
        return "#### 42"
    function = {"name": "double", "arguments": json.dumps({"number": 21})}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call-{asked}", "type": "function", "function": function}],
    }


@tool
def double(number: int) -> str:
    """Double a number.

    Args:
        number: Any.
    """
    return str(2 * number)


@rft_handler
async def handler(payload: dict[str, Any]) -> dict[str, Any]:
    """Ask the agent; note each run, so that one that ran twice is seen."""
    context = RFTContext.current()
    if context is not None and (log := os.environ.get("RFT_BENCH_RUNS")):
        line = f"{context.trajectory_id}\n".encode()
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)  # one write, so that lines of several runs do not mix
        os.close(file)
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    agent = Agent(model=model, tools=[double], callback_handler=None)
    answer = str(await agent.invoke_async(payload["prompt"]))
    return {"answer": answer, "reward": float("42" in answer)}
