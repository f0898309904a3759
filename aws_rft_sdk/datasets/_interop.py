"""Rows of every known kind told apart; those of verl, TRL and ShareGPT made into `messages` and `reference_answer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aws_rft_sdk.errors import DatasetError

_KINDS: tuple[tuple[str, str, dict[str, type]], ...] = (
    ("nova", "nova", {"id": object, "messages": object}),
    ("bedrock", "bedrock", {"messages": object}),
    ("ShareGPT", "sharegpt", {"conversations": object}),
    ("verl", "verl", {"prompt": object, "reward_model": Mapping}),
    ("preference", "", {"chosen": object, "rejected": object}),
    ("TRL", "trl", {"prompt": list}),
    ("question/answer", "qa", {"question": object, "answer": object}),
    ("Alpaca instruction/output", "", {"instruction": object, "output": object}),
    ("prompt/completion", "", {"prompt": object, "completion": object}),
    ("problem/solution", "", {"problem": object, "solution": object}),
    ("problem/answer", "", {"problem": object, "answer": object}),
    ("nova-multiturn", "nova-multiturn", {"id": object, "metadata": object}),
    ("mtrl", "mtrl", {"prompt": object}),
)
"""What a row is called, the `Shape` that reads it (empty: a later one), and the fields that it has, with their types.
The first kind that fits counts."""

_ANSWERS = ("ground_truth", "reference_answer", "answer", "solution", "completion")
_SHAREGPT_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model"), "assistant"),
}


def _kinds(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, shape, fields in _KINDS:
        if fields.keys() <= row.keys() and all(isinstance(row[key], held) for key, held in fields.items()):
            yield name, shape


def kind_of(row: Mapping[str, Any]) -> str:
    """Return what a row is called, such as "verl" or "question/answer"; empty if its keys tell nothing."""
    return next((name for name, _ in _kinds(row)), "")


def shape_of(row: Mapping[str, Any]) -> str:
    """Return the name of the shape that a row's keys tell of; anything with a first column may be mtrl."""
    return next((shape for _, shape in _kinds(row) if shape), "mtrl")


def chat_row(row: Mapping[str, Any], shape: str | None = None) -> Mapping[str, Any]:
    """Return a row of `messages`, `reference_answer` if there is an answer, and all the other columns.

    A row of another shape than verl, trl and sharegpt is returned as it is. If `shape` is None, the keys tell which it
    is. A row that has not the shape is a DatasetError.
    """
    reader = _READERS.get(shape or shape_of(row))
    if reader is None:
        return row
    columns = dict(row)
    try:
        messages, answer = reader(columns)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
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


# Each reader takes what it uses out of the columns, and returns the messages and the answer.


def _verl(columns: dict[str, Any]) -> tuple[list[Any], Any]:
    spec = dict(columns.pop("reward_model"))
    answer = spec.pop("ground_truth", None)
    if spec:
        columns["reward_model"] = spec
    return _messages(columns), take_answer(columns) if answer in (None, "") else answer


def _sharegpt(columns: dict[str, Any]) -> tuple[list[Any], Any]:
    messages = [_turn(turn, index) for index, turn in enumerate(columns.pop("conversations"))]
    if isinstance(columns.get("system"), str):
        messages.insert(0, {"role": "system", "content": columns.pop("system")})
    if messages and messages[-1]["role"] == "assistant":
        columns.setdefault("completion", messages.pop()["content"])
    return messages, take_answer(columns)


_READERS: dict[str, Callable[[dict[str, Any]], tuple[list[Any], Any]]] = {
    "verl": _verl,
    "trl": lambda columns: (_messages(columns), take_answer(columns)),
    "sharegpt": _sharegpt,
}


def _turn(turn: Any, index: int) -> dict[str, Any]:
    speaker = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else turn
    if not isinstance(speaker, str) or speaker not in _SHAREGPT_ROLES:
        roles = ", ".join(_SHAREGPT_ROLES)
        raise DatasetError(f"conversations[{index}] is from {speaker!r}; it must be one of {roles}")
    return {"role": _SHAREGPT_ROLES[speaker], "content": turn["value"] if "value" in turn else turn["content"]}


def _messages(columns: dict[str, Any]) -> list[Any]:
    prompt = columns.pop("prompt")
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
