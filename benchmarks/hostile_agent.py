"""What `benchmarks/hostile.py` runs: a Strands agent whose tool hangs, raises, prints, forks or eats memory.

What the tool does follows from the prompt alone, and so does the reward of a rollout whose tool answers. So a reward
that is wrong, or that a neighbour has caused, shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args

SHARES = {"hangs": 2, "raises": 5, "prints": 2, "forks": 2, "eats": 1}
"""Percent of the prompts. The tool of all others answers."""
HEALTHY = ("answers", "prints", "forks")
"""Ends of a tool after which the rollout has its reward."""
MIB = 2**20
PRINTED_MIB = 4
EATEN_MIB = 256
LIMIT_MIB = 1024
"""Of address space, beyond what the process has: the machine survives if nothing kills the process before."""


def fate(prompt: str) -> str:
    """Return what the tool does with a prompt. Only prompts that begin with `isolated` cost the process its life."""
    drawn = zlib.crc32(f"fate of {prompt}".encode()) % 100
    for kind, share in SHARES.items():
        if drawn < share:
            return kind if kind != "eats" or prompt.startswith("isolated") else "answers"
        drawn -= share
    return "answers"


def reward_of(prompt: str) -> float:
    """Return the right reward: from 0.1 to 1.0, and never the floor."""
    return (100 + zlib.crc32(prompt.encode()) % 901) / 1000


async def policy(request: dict[str, Any]) -> Any:
    """Call the tool with the prompt, then say what the tool has said."""
    await asyncio.sleep(0.05)
    last = request["messages"][-1]
    if last["role"] == "tool":
        return _text(last["content"])
    function = {"name": "look_up", "arguments": json.dumps({"prompt": _text(last["content"])})}
    call = {"id": "call-0", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@tool
def look_up(prompt: str) -> str:
    """Look up the answer.

    Args:
        prompt: The question.
    """
    kind = fate(prompt)
    if kind == "hangs":
        threading.Event().wait()
    if kind == "raises":
        raise ConnectionError("the database is away")
    if kind == "prints":
        for _ in range(PRINTED_MIB):
            sys.stdout.write("printed by the tool\n" * (MIB // 20))
    if kind == "forks":
        _fork()
    if kind == "eats":
        _eat()
    return f"the answer is {reward_of(prompt)}"


def _fork() -> None:
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(0)


def _eat() -> None:
    """Eat memory, and be killed as by the kernel when it has none left."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_MIB * MIB, hard))
    eaten = [bytearray(MIB) for _ in range(EATEN_MIB)]
    assert eaten
    os.kill(os.getpid(), signal.SIGKILL)


def _agent() -> Agent:
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    return Agent(model=model, tools=[look_up], callback_handler=None)


def _graded(answer: object) -> dict[str, float]:
    match = re.search(r"the answer is ([\d.]+)", str(answer))
    if match is None:
        raise LookupError("the agent did not answer")
    return {"reward": float(match[1])}


@rft_handler
def plain(payload: dict[str, Any]) -> dict[str, float]:
    """Ask the agent, in a thread."""
    return _graded(_agent()(payload["prompt"]))


@rft_handler
async def coroutine(payload: dict[str, Any]) -> dict[str, float]:
    """Ask the agent, in the event loop."""
    return _graded(await _agent().invoke_async(payload["prompt"]))
