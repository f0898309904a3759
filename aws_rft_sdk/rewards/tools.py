"""Rewards for how a policy used its tools."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aws_rft_sdk._checks import check_number, check_type
from aws_rft_sdk._frozen import JSON, FrozenDict, freeze
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_names
from aws_rft_sdk.rewards._json import held, schema_text, validator
from aws_rft_sdk.rewards._messages import call_fields, is_call, objects
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, Component, RewardResult, Rollout, message_text

_CALL_AS_TEXT = re.compile(
    r"<tool_call>|<function[=_]|<\|tool|\[TOOL_CALLS\]|\"(?:name|tool|function)\"\s?:\s?\"[^\"\n]{1,80}\",\s{0,9}\"(?:arguments|parameters|input)\"\s?:"
)


class ToolCall(NamedTuple):
    """A call as the policy made it."""

    name: str
    arguments: Mapping[str, Any] | None
    """None when they are not a JSON object."""


def tool_calls(rollout: Rollout) -> tuple[ToolCall, ...]:
    """Return all calls of a rollout in order, as far as they were made and not only written as text.

    Known forms: OpenAI's `tool_calls`, `function_call` and items of Responses, Anthropic's `tool_use`, and Bedrock's
    `toolUse`.
    """
    return tuple(read_call(call) for message in rollout.messages for call in _calls(message))


def _calls(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if message.get("type") == "function_call":  # an item of Responses
        yield message
    if message.get("role") in ASSISTANT_ROLES:
        yield from objects(message.get("tool_calls")) or objects([message.get("function_call")])
        yield from filter(is_call, objects(message.get("content")))


def read_call(call: Mapping[str, Any]) -> ToolCall:
    """Return a call in any form that `tool_calls` knows. Missing, empty and null arguments are {}."""
    _, name, arguments = call_fields(call)
    is_empty = arguments is None or (isinstance(arguments, str) and arguments.strip() in ("", "null"))
    arguments = {} if is_empty else held(arguments)
    return ToolCall(name if isinstance(name, str) else "", arguments if isinstance(arguments, Mapping) else None)


@dataclass(frozen=True)
class ToolUse:
    """How well the tools were used, from 0.0 to 1.0: the right ones called, in good form, without spam.

    reward = coverage * well_formed * economy. The three are reported as metrics. A rollout without any call gets 0.0.

    - coverage: share of the required tools called in good form. Without required tools: 1 if any call was.
    - well_formed: share of all calls that name an allowed tool with a JSON object as arguments that the tool's schema
      allows. Calls written as text into the answer are in bad form, since nothing runs them.
    - economy: min(1, max_calls / (calls + repeated calls)), and 0 if this is below 0.1: spam earns nothing.

    A tool's schema is in `schemas`, or else in `tools` of the rollout's metadata or prompt: definitions in OpenAI's,
    Anthropic's or Bedrock's form. Without either, every object is good.

    Raises:
        ConfigurationError: `max_calls` is less than 1 or than the number of required tools, a required tool is not
            allowed, or a schema is none (when it is first used, if it is an object).
    """

    required: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    """Names of the tools that exist; None when any name is good."""
    max_calls: int = 10
    """How many calls a good rollout may need."""
    schemas: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """JSON Schema of the arguments, for each name of a tool."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "required", check_names("required", self.required))
        check_number("max_calls", self.max_calls, low=max(1, len(set(self.required))), whole=True)
        if self.allowed is not None:
            object.__setattr__(self, "allowed", check_names("allowed", self.allowed))
            if missing := set(self.required) - set(self.allowed):
                raise ConfigurationError(f"allowed lacks required tools: {', '.join(sorted(missing))}")
        check_type("schemas", self.schemas, Mapping, "an object with a JSON Schema for each name of a tool")
        object.__setattr__(self, "schemas", freeze(self.schemas))
        for name, schema in self.schemas.items():
            schema_text(f"schemas[{name!r}]", schema)

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the reward with its factors as metrics."""
        calls = tool_calls(rollout)
        schemas = {**_defined_schemas(rollout), **self.schemas}
        good = [call.name for call in calls if self._is_good(call, schemas.get(call.name))]
        total = len(calls) + sum(len(_CALL_AS_TEXT.findall(message_text(turn))) for turn in rollout.turns)
        distinct = {(call.name, json.dumps(call.arguments, sort_keys=True)) for call in calls}
        required = set(self.required)
        economy = min(1.0, self.max_calls / (2 * len(calls) - len(distinct))) if calls else 0.0
        factors = {
            "coverage": len(required & set(good)) / len(required) if required else float(bool(good)),
            "well_formed": len(good) / total if total else 0.0,
            "economy": economy if economy >= 0.1 else 0.0,
        }
        metrics = {**factors, "calls": total}
        components = tuple(Component(name, value, counts=False) for name, value in metrics.items())
        return RewardResult(math.prod(factors.values()), components)

    def _is_good(self, call: ToolCall, schema: JSON) -> bool:
        if not call.name or call.arguments is None or (self.allowed is not None and call.name not in self.allowed):
            return False
        return schema is None or validator(schema_text(f"the schema of {call.name!r}", schema))(call.arguments)


def _defined_schemas(rollout: Rollout) -> dict[str, JSON]:
    """Return the schema of each tool that the rollout's metadata or prompt defines."""
    sources = [source.get("tools") for source in (rollout.prompt, rollout.metadata) if isinstance(source, Mapping)]
    schemas: dict[str, JSON] = {}
    for tool in (each for source in sources for each in objects(source)):
        inner = tool.get("function") or tool.get("toolSpec")
        tool = inner if isinstance(inner, Mapping) else tool
        schema = tool.get("parameters") or tool.get("input_schema") or tool.get("inputSchema")
        schemas[str(tool.get("name"))] = schema["json"] if isinstance(schema, Mapping) and "json" in schema else schema
    return schemas
