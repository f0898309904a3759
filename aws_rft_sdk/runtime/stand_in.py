"""The policy that is no model: it can talk to any agent, so that a first rollout needs nothing else."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Collection, Mapping
from random import Random
from typing import Any

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime._plausible import plausible_value
from aws_rft_sdk.runtime._recent import Recent
from aws_rft_sdk.runtime.chat import read_answer
from aws_rft_sdk.runtime.policies import Call, Policy

_MAX_TOOL_TURNS = 16
"""Turns of a rollout that call tools. An agent that forgets its conversation would have them called for ever."""
_MAX_CALLS = 4
"""Tools called in one turn."""
_END_PROBABILITY = 1 / 3
_OTHER_AGENT = re.compile(r"^Agent name: (.+?)\.(?:\s|$)", re.MULTILINE)
_EARLIER_AGENTS = re.compile(r"^Previous agents who worked on this: (.+)$", re.MULTILINE)
"""What Strands tells the agents of a Swarm about each other."""


def standin(seed: int = 0) -> StandInPolicy:
    """Return a policy that answers any agent plausibly, and is no model. See `StandInPolicy`."""
    return StandInPolicy(seed)


class StandInPolicy(Policy):
    """Answers any agent plausibly: calls tools with arguments that fit their schemas, then says something.

    It calls each tool of a conversation at most once, and up to 4 in one turn. A request for structured output gets an
    object that fits. Rewards of its rollouts mean nothing, but everything else happens as with a model: your tools are
    really called, with made-up arguments.

    Args:
        seed: The same seed gives the k-th rollout of a prompt the same answers to the same requests. Different rollouts
            of a prompt differ.

    Raises:
        ConfigurationError: `seed` is no whole number.
    """

    def __init__(self, seed: int = 0) -> None:
        check_number("seed", seed, whole=True)
        self._seed = seed
        self._lock = threading.Lock()  # rollouts begin in the user's threads
        self._counts: Recent[str, int] = Recent()
        """Rollouts of each prompt."""
        self._names: Recent[str, str] = Recent()
        """Prompt and number of each trajectory."""

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Count the rollouts of each prompt."""
        cell = json.dumps(prompt)
        with self._lock:
            count = self._counts.get(cell, 0)
            self._counts[cell] = count + 1
            self._names[trajectory_id] = f"{count} {cell}"

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return the next message of a conversation."""
        with self._lock:
            name = self._names.get(call.trajectory_id or "", call.trajectory_id)
        random = Random(f"{self._seed} {call.turn} {name}")
        offered = functions_of(call.request) if call.turn < _MAX_TOOL_TURNS else ()
        tools = [str(function["name"]) for function in offered]
        text = f"example {random.randint(1, 999)}"
        return read_answer(next_message(call.request, tools, text, random), call.request)


def next_message(
    request: Mapping[str, Any], tools: Collection[str], text: str = "example", random: Random | None = None
) -> dict[str, Any]:
    """Return the stand-in's answer to a chat request.

    Args:
        request: The chat request.
        tools: Names of the tools that may be called, unless the request demands others.
        text: What the answer and free strings of arguments say.
        random: Draws the tools, arguments and numbers. None to call all tools at once with the first value that fits.
    """
    schema = _form(request)
    if schema is not None:
        return {"role": "assistant", "content": json.dumps(plausible_value(schema, text, random))}
    chosen = _tools_to_call(request, tools, random)
    if not chosen:
        number = 1 if random is None else random.randint(0, 99)
        return {"role": "assistant", "content": f"Here is an {text}.\n#### {number}"}
    calls = [_tool_call(tool, text, request, random) for tool in chosen]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _form(request: Mapping[str, Any]) -> object:
    wanted = request.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return {} if isinstance(wanted, Mapping) and wanted.get("type") == "json_object" else None
    inner = wanted.get("json_schema")
    return inner.get("schema", {}) if isinstance(inner, Mapping) else {}


def _tools_to_call(
    request: Mapping[str, Any], tools: Collection[str], random: Random | None
) -> list[Mapping[str, Any]]:
    functions = functions_of(request)
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        name = (choice.get("function") or {}).get("name")
        return [function for function in functions if function["name"] == name]
    called = {call["function"]["name"] for message in messages_of(request, "assistant") for call in _calls_of(message)}
    left = [function for function in functions if function["name"] in tools and function["name"] not in called]
    if choice in ("required", "any"):
        return left[:1] or functions[-1:]
    if choice == "none":
        return []
    left = [function for function in left if not (_hands_over(function) and _next_agent(request) == "")]
    if random is None or not left:
        return left
    if called and random.random() < _END_PROBABILITY:
        return []
    return random.sample(left, random.randint(1, min(len(left), _MAX_CALLS)))


def _tool_call(
    function: Mapping[str, Any], text: str, request: Mapping[str, Any], random: Random | None
) -> dict[str, Any]:
    arguments = plausible_value(function.get("parameters"), text, random)
    arguments = arguments if isinstance(arguments, dict) else {}
    if _hands_over(function) and _next_agent(request):
        arguments["agent_name"] = _next_agent(request)
    call = {"name": function["name"], "arguments": json.dumps(arguments)}
    return {"id": f"call-{uuid.uuid4().hex}", "type": "function", "function": call}


def _hands_over(function: Mapping[str, Any]) -> bool:
    """Whether a tool hands the task to another agent that it takes the name of, as that of a Strands Swarm does."""
    parameters = function.get("parameters")
    return isinstance(parameters, Mapping) and "agent_name" in (parameters.get("properties") or {})


def _next_agent(request: Mapping[str, Any]) -> str | None:
    """Return an agent of the Swarm that has not worked yet, "" when all have, None when the request names none."""
    text = "\n".join(_text_of(message) for message in messages_of(request, "user"))
    earlier = {name for names in _EARLIER_AGENTS.findall(text) for name in names.split(" → ")}
    others = _OTHER_AGENT.findall(text)
    return next((name for name in others if name not in earlier), "") if others else None


def functions_of(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the functions that a chat request offers."""
    offered = [tool.get("function") for tool in request.get("tools") or () if isinstance(tool, Mapping)]
    return [function for function in offered if isinstance(function, Mapping) and "name" in function]


def messages_of(request: Mapping[str, Any], role: str) -> list[Mapping[str, Any]]:
    """Return the messages of a chat request that have this role."""
    return [message for message in request.get("messages") or () if message.get("role") == role]


def _calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [call for call in message.get("tool_calls") or () if isinstance(call.get("function"), Mapping)]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    return "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))
