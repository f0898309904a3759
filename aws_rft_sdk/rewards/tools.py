"""Rewards for how a policy used its tools."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_names
from aws_rft_sdk.rewards.rollout import Component, RewardResult, Rollout, message_text

_CALL_AS_TEXT = re.compile(
    r"<tool_call>|<function[=_]|<\|tool|\[TOOL_CALLS\]|\"(?:name|tool|function)\"\s?:\s?\"[^\"\n]{1,80}\",\s{0,9}\"(?:arguments|parameters|input)\"\s?:"
)


class ToolCall(NamedTuple):
    """A call as the policy made it."""

    name: str
    arguments: Mapping[str, Any] | None
    """None when they are not a JSON object."""


def tool_calls(rollout: Rollout) -> tuple[ToolCall, ...]:
    """Return all calls of a rollout in order, in OpenAI's form (`tool_calls`) and in Bedrock's (`toolUse` content)."""
    return tuple(call for turn in rollout.turns for call in _calls(turn))


def _calls(turn: Mapping[str, Any]) -> Iterator[ToolCall]:
    for call in _objects(turn.get("tool_calls")):
        function = call.get("function")
        function = function if isinstance(function, Mapping) else call
        yield ToolCall(_name(function), _arguments(function.get("arguments")))
    for part in _objects(turn.get("content")):
        if isinstance(part.get("toolUse"), Mapping):
            yield ToolCall(_name(part["toolUse"]), _arguments(part["toolUse"].get("input")))


def _objects(value: object) -> Iterable[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, Sequence) else []


def _name(function: Mapping[str, Any]) -> str:
    name = function.get("name")
    return name if isinstance(name, str) else ""


def _arguments(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else None


@dataclass(frozen=True)
class ToolUse:
    """How well the tools were used, from 0.0 to 1.0: the right ones called, in good form, without spam.

    reward = coverage * well_formed * economy, with
    coverage: share of the required tools called at least once in good form (without required tools: 1 if any call was);
    well_formed: share of all calls that name an allowed tool with a JSON object as arguments; calls written as text
    into the answer count as calls in bad form, since nothing runs them;
    economy: min(1, max_calls / (calls + repeated calls)), a repeated call being one with a name and arguments seen
    before.

    The three are reported as metrics. A rollout without any call gets 0.0.

    Raises:
        ConfigurationError: max_calls is less than 1 or than the number of required tools, or a required tool is not
            allowed.
    """

    required: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    """Names of the tools that exist; None when any name is good."""
    max_calls: int = 10
    """How many calls a good rollout may need."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "required", check_names("required", self.required))
        if self.allowed is not None:
            object.__setattr__(self, "allowed", check_names("allowed", self.allowed))
        check_number("max_calls", self.max_calls, low=1, whole=True)
        if self.max_calls < len(set(self.required)):
            raise ConfigurationError(f"max_calls {self.max_calls} does not suffice for the required tools")
        if self.allowed is not None and not set(self.required) <= set(self.allowed):
            raise ConfigurationError(f"required tools {self.required} are not all allowed")

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the reward with its factors as metrics."""
        calls = tool_calls(rollout)
        good = [call for call in calls if self._is_good(call)]
        written = sum(len(_CALL_AS_TEXT.findall(message_text(turn))) for turn in rollout.turns)
        names = {call.name for call in good}
        required = set(self.required)
        coverage = len(names & required) / len(required) if required else float(bool(good))
        distinct = {(call.name, json.dumps(call.arguments, sort_keys=True)) for call in calls}
        total = len(calls) + written
        well_formed = len(good) / total if total else 0.0
        economy = min(1.0, self.max_calls / (2 * len(calls) - len(distinct))) if calls else 0.0
        metrics = {"coverage": coverage, "well_formed": well_formed, "economy": economy, "calls": float(total)}
        components = tuple(Component(name, value, counts=False) for name, value in metrics.items())
        return RewardResult(coverage * well_formed * economy, components)

    def _is_good(self, call: ToolCall) -> bool:
        return bool(call.name) and call.arguments is not None and (self.allowed is None or call.name in self.allowed)
