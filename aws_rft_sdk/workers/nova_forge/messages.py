"""The four messages between a Nova Forge trainer and its rollout containers: the only place that spells them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets.shapes import Shape, convert_rows
from aws_rft_sdk.errors import DatasetError, PayloadError
from aws_rft_sdk.wire import ID_MAX_LENGTH

VERSION = "v0"
ENDED = "end_of_conversation"
FAILED = "error"

_TOKEN = re.compile(r"token_id:(\d+)")


@dataclass(frozen=True)
class Task:
    """A rollout request: what a container is asked to roll out and score."""

    sample_id: str
    data: JSON
    """The row's metadata as it is in the dataset."""
    max_length: int | None = None
    """Tokens of one generation, None when the trainer names no limit."""
    low: float = -math.inf
    high: float = math.inf
    """What the score has to be within, both included."""

    @classmethod
    def parse(cls, body: str) -> Task:
        """Read a rollout request.

        Raises:
            PayloadError: It is no rollout request; `.field` is the culprit.
        """
        message = _object(body)
        sample_id = _text(message, "sample_id")
        if len(sample_id) > ID_MAX_LENGTH or not sample_id.isprintable():
            raise PayloadError(
                f"sample_id must be printable, with at most {ID_MAX_LENGTH} characters", field="sample_id"
            )
        if "data" not in message or message["data"] is None:
            raise PayloadError("data is missing", field="data")
        length = message.get("max_length")
        if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
            raise PayloadError(
                f"max_length must be a whole number of at least 1, not {length!r:.40}", field="max_length"
            )
        return cls(sample_id, message["data"], length, *_range(message.get("rewards")))


def _range(rewards: object) -> tuple[float, float]:
    limits = rewards.get("range") if isinstance(rewards, Mapping) else None
    if limits is None:
        return -math.inf, math.inf
    if not isinstance(limits, list) or len(limits) != 2 or not all(is_number(limit) for limit in limits):
        raise PayloadError(f"rewards.range must be two numbers, not {limits!r:.80}", field="rewards.range")
    if not limits[0] <= limits[1]:
        raise PayloadError(f"rewards.range is empty: {limits!r:.80}", field="rewards.range")
    return float(limits[0]), float(limits[1])


@dataclass(frozen=True)
class GenerateResponse:
    """What the trainer's model answered in one turn."""

    sample_id: str
    step_id: str
    completion: Mapping[str, JSON]
    """A chat completion. Its choices have `token_ids`, if the trainer gave them as tokens."""

    @classmethod
    def parse(cls, body: str) -> GenerateResponse:
        """Read a generate response.

        Raises:
            PayloadError: It is none; `.field` is the culprit.
        """
        message = _object(body)
        sample_id, step_id = _text(message, "sample_id"), _text(message, "step_id")
        data = message.get("data")
        choices = data.get("choices") if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping) or not isinstance(choices, list) or not choices:
            raise PayloadError("data.choices must be a list that is not empty", field="data.choices")
        if not all(isinstance(choice, Mapping) and isinstance(choice.get("message"), Mapping) for choice in choices):
            raise PayloadError("data.choices must hold objects with a message", field="data.choices")
        finish = message.get("finish_reason")
        return cls(sample_id, step_id, {**data, "choices": [_choice(choice, finish) for choice in choices]})


def _choice(choice: Mapping[str, Any], finish: object) -> dict[str, JSON]:
    read = {**choice, "finish_reason": choice.get("finish_reason") or finish}
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if isinstance(content, list) and content and all(isinstance(item, Mapping) for item in content):
        found = [_TOKEN.fullmatch(str(item.get("token"))) for item in content]
        if all(found):
            read["token_ids"] = [int(match[1]) for match in found if match]
    return read


def generate_request(sample_id: str, step_id: str, chat: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the message that asks the trainer's model for one turn.

    `tools` of the chat request go along when it has some, although no document names the field: without it the model
    would not know of the tools.
    """
    extra = {"tools": chat["tools"]} if chat.get("tools") else {}
    return {"version": VERSION, "sample_id": sample_id, "step_id": step_id, "messages": chat["messages"], **extra}


def rollout_response(sample_id: str, score: float | None) -> dict[str, JSON]:
    """Return the message that ends a rollout; `score` is None for one that failed and has no floor."""
    return {
        "version": VERSION,
        "sample_id": sample_id,
        "stop_reason": FAILED if score is None else ENDED,
        "rewards": {"aggregate_score": score},
    }


def cell_of(data: JSON) -> JSON:
    """Return the prompt cell that a handler gets for the `data` of a rollout request.

    Rows of the dataset shape `nova-multiturn` (`prompt`, `answer`, `task`, `info`) become the cell that
    `aws-rft dataset convert` makes of them for a SageMaker job, so that one handler serves both; text stays text, and
    anything else becomes its JSON text.
    """
    if isinstance(data, str):
        return data
    if isinstance(data, Mapping) and "prompt" in data:
        try:
            row = {"id": "0", "metadata": {name: value for name, value in data.items() if name != "id"}}
            cell: JSON = next(iter(convert_rows([(1, row)], Shape.MTRL, shape=Shape.NOVA_MULTITURN)))["prompt"]
        except DatasetError:
            return json.dumps(data)
        return cell
    return json.dumps(data)


def _object(body: str) -> Mapping[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the message is no JSON: {error}", field="") from None
    if not isinstance(message, Mapping):
        raise PayloadError(f"the message must be an object, not {type(message).__name__}", field="")
    return message


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value:
        raise PayloadError(f"{name} must be a string that is not empty", field=name)
    return value
