"""Rows as verl, TRL and ShareGPT have them, turned into rows of `messages` and `reference_answer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aws_rft_sdk.errors import DatasetError

_ANSWERS = ("ground_truth", "reference_answer", "answer", "solution", "completion")
_SHAREGPT_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model"), "assistant"),
}


def foreign_shape(row: Mapping[str, Any]) -> str | None:
    """Return "sharegpt", "verl" or "trl" if the keys of a row tell so, else None."""
    if "messages" in row:
        return None
    if isinstance(row.get("conversations"), list):
        return "sharegpt"
    if isinstance(row.get("reward_model"), Mapping) and "prompt" in row:
        return "verl"
    return "trl" if isinstance(row.get("prompt"), list) else None


def chat_row(row: Mapping[str, Any], shape: str | None = None) -> Mapping[str, Any]:
    """Return a row of `messages`, `reference_answer` if there is an answer, and all the other columns.

    Args:
        row: The row. It is returned as it is if it has none of the three shapes.
        shape: One of the names that `foreign_shape` returns. None: what the keys tell.

    Raises:
        DatasetError: The row has not the shape.
    """
    shape = shape or foreign_shape(row)
    if shape is None:
        return row
    columns = dict(row)
    try:
        messages, answer = _READERS[shape](columns)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise DatasetError(f"no {error}" if isinstance(error, KeyError) else str(error)) from error
    return {"messages": messages, **({} if answer is None else {"reference_answer": answer}), **columns}


def take_answer(columns: dict[str, Any]) -> Any:
    """Take what a prompt's answers are compared with out of the columns beside it: the first known one with a value.

    0, false and {} are values. None, and an empty text as an empty csv cell has it, are none: they are taken out too.
    """
    for name in _ANSWERS:
        if name in columns and columns[name] in (None, ""):
            del columns[name]
    name = next((name for name in _ANSWERS if name in columns), "")
    answer = columns.pop(name, None)
    return answer[-1]["content"] if name == "completion" and isinstance(answer, list) and answer else answer


# Each reader takes what it uses out of the columns.


def _verl(columns: dict[str, Any]) -> tuple[list[Any], Any]:
    spec = dict(columns.pop("reward_model"))
    answer = spec.pop("ground_truth", None)
    if spec:
        columns["reward_model"] = spec
    return _messages(columns.pop("prompt")), take_answer(columns) if answer is None else answer


def _trl(columns: dict[str, Any]) -> tuple[list[Any], Any]:
    return _messages(columns.pop("prompt")), take_answer(columns)


def _sharegpt(columns: dict[str, Any]) -> tuple[list[Any], Any]:
    messages = [_turn(turn, index) for index, turn in enumerate(columns.pop("conversations"))]
    if isinstance(columns.get("system"), str):
        messages.insert(0, {"role": "system", "content": columns.pop("system")})
    if messages and messages[-1]["role"] == "assistant":
        columns.setdefault("completion", messages.pop()["content"])
    return messages, take_answer(columns)


def _turn(turn: Any, index: int) -> dict[str, Any]:
    speaker = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else turn
    if not isinstance(speaker, str) or speaker not in _SHAREGPT_ROLES:
        raise DatasetError(
            f"conversations[{index}] is from {speaker!r}; it must be one of {', '.join(_SHAREGPT_ROLES)}"
        )
    return {"role": _SHAREGPT_ROLES[speaker], "content": turn["value"] if "value" in turn else turn["content"]}


def _messages(prompt: Any) -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else without_nulls(prompt)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            raise DatasetError(f"prompt[{index}] is no message of role and content")
    return messages


def without_nulls(value: Any) -> Any:
    """Return a value of a table without the fields that only other rows have: in a table they are null."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


_READERS: dict[str, Callable[[dict[str, Any]], tuple[list[Any], Any]]] = {
    "verl": _verl,
    "trl": _trl,
    "sharegpt": _sharegpt,
}
