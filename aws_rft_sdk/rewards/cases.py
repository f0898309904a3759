"""The cases that a reward is tested with: one JSON object on each line of a file. docs/rewards.md has the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aws_rft_sdk._frozen import JSON, freeze
from aws_rft_sdk.errors import DatasetError, PayloadError
from aws_rft_sdk.rewards._messages import prompt_messages
from aws_rft_sdk.rewards.rollout import Rollout
from aws_rft_sdk.types import parse_reward

_FIELDS = {"prompt", "answer", "messages", "ground_truth", "expected", "kind", "group", "metadata", "state"}


@dataclass(frozen=True)
class Expected:
    """The reward that a case should get."""

    low: float | None
    """None, as `high`, when the rollout cannot be judged."""
    high: float | None

    def allows(self, reward: float | None) -> bool:
        """Say whether a reward is the expected one."""
        if self.low is None or self.high is None or reward is None:
            return self.low is None and reward is None
        return self.low - 1e-9 <= reward <= self.high + 1e-9

    def __str__(self) -> str:
        if self.low is None:
            return "null"
        return f"{self.low:g}" if self.low == self.high else f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Case:
    """One rollout with what is known about its reward."""

    line: int
    """Line of the file, from 1."""
    rollout: Rollout
    group: str
    kind: Literal["success", "failure"] | None = None
    expected: Expected | None = None
    """None when the reward is not checked."""


def read_cases(path: str | Path) -> list[Case]:
    """Return the cases of a file, in order.

    Raises:
        DatasetError: The file is not there or empty, or a line is no case; with its number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    cases = []
    for number, line in enumerate(lines, 1):
        try:
            cases += [parse_case(json.loads(line), number)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}, line {number}: {error}", line=number) from error
    if not cases:
        raise DatasetError(f"{path} has no cases")
    return cases


def parse_case(value: JSON, line: int = 1) -> Case:
    """Return an object as a case.

    Raises:
        PayloadError: A field is missing, unknown, or of another type.
        RewardError: An expected reward is no finite number.
    """
    if not isinstance(value, Mapping):
        raise PayloadError(f"a case must be an object, not {type(value).__name__}")
    if unknown := sorted(set(value) - _FIELDS):
        raise PayloadError(f"unknown field {unknown[0]!r}; a case has {', '.join(sorted(_FIELDS))}", field=unknown[0])
    kind: Any = "failure" if value.get("kind") == "honest failure" else value.get("kind")
    if kind not in ("success", "failure", None):
        raise PayloadError(f"kind must be success or failure, not {kind!r}", field="kind")
    metadata = value.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise PayloadError("metadata must be an object", field="metadata")
    prompt = freeze(value.get("prompt"))
    rollout = Rollout(_messages(value, prompt), value.get("ground_truth"), prompt, metadata, value.get("state"))
    asked = [message for message in rollout.messages if message.get("role") == "user"][:1]
    by_prompt = asked if prompt is None else prompt
    group = by_prompt if value.get("group") is None else value["group"]
    name = group if isinstance(group, str) else json.dumps(group, sort_keys=True)
    return Case(line, rollout, name, kind, _expected(value["expected"]) if "expected" in value else None)


def _messages(value: Mapping[str, Any], prompt: JSON) -> tuple[JSON, ...]:
    if ("answer" in value) == ("messages" in value):
        raise PayloadError("a case needs either answer or messages", field="answer")
    if "answer" in value:
        if not isinstance(value["answer"], str):
            raise PayloadError("answer must be a text", field="answer")
        return (*prompt_messages(prompt), {"role": "assistant", "content": value["answer"]})
    messages = value["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise PayloadError("messages must be a list of objects", field="messages")
    return tuple(messages)


def _expected(value: JSON) -> Expected:
    if value is None:
        return Expected(None, None)
    limits = [parse_reward(limit) for limit in (value if isinstance(value, list) else [value, value])]
    if len(limits) != 2 or limits[0] > limits[1]:
        raise PayloadError(f"expected must be a number, [low, high] or null, not {value!r:.80}", field="expected")
    return Expected(*limits)
