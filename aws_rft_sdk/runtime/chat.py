"""OpenAI's chat format on the answering side: completions from messages, chunks from completions, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import encode, new_id

MODEL_NAME = "default"
DONE = b"data: [DONE]\n\n"

_PIECE_LENGTH = 48
# Keys of a choice or a completion that have a place of their own in chunks.
_CHOICE_KEYS = frozenset({"index", "message", "finish_reason"})
_COMPLETION_KEYS = frozenset({"id", "object", "created", "model", "choices", "usage"})


class AnswerError(ValueError):
    """A policy's answer is no assistant message. The message says what is wrong with it."""


def read_answer(value: object, request: Mapping[str, Any]) -> dict[str, JSON]:
    """Return a policy's answer as a chat completion.

    Args:
        value: Text, an assistant message, or a whole chat completion (an object with `choices`), which is kept as it
            is apart from missing envelope fields.
        request: The chat request, for the model's name.

    Returns:
        A chat completion object. It has `usage` only if the policy gave it: the runtime does not invent token counts.

    Raises:
        AnswerError: It is none of these; the text names the field.
    """
    if isinstance(value, str):
        value = {"content": value}
    if not isinstance(value, Mapping):
        raise AnswerError(f"an answer must be text, an assistant message or a completion, not {type(value).__name__}")
    model = request.get("model")
    envelope: dict[str, JSON] = {
        "id": f"chatcmpl-{new_id()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model if isinstance(model, str) else MODEL_NAME,
    }
    if "choices" in value:
        return {**envelope, **value, "choices": _read_choices(value["choices"])}
    return {**envelope, "choices": [_choice(0, {"message": value})]}


def _read_choices(choices: object) -> list[JSON]:
    if not isinstance(choices, list) or not choices:
        raise AnswerError("choices must be a non-empty list")
    for choice in choices:
        if not isinstance(choice, Mapping):
            raise AnswerError(f"choices must hold objects, not {type(choice).__name__}")
    return [_choice(index, choice) for index, choice in enumerate(choices)]


def _choice(index: int, choice: Mapping[str, Any]) -> dict[str, JSON]:
    message = _read_message(choice.get("message"))
    finish_reason = choice.get("finish_reason") or ("tool_calls" if message.get("tool_calls") else "stop")
    return {"index": index, **choice, "message": message, "finish_reason": finish_reason}


def _read_message(message: object) -> dict[str, JSON]:
    if not isinstance(message, Mapping):
        raise AnswerError(f"message must be an object, not {type(message).__name__}")
    if message.get("role", "assistant") != "assistant":
        raise AnswerError(f"message.role must be assistant, not {message['role']!r:.80}")
    content, calls = message.get("content"), message.get("tool_calls")
    if content is None and not calls:
        raise AnswerError("message must have content or tool_calls")
    if content is not None and not isinstance(content, str):
        raise AnswerError(f"message.content must be text or null, not {type(content).__name__}")
    read: dict[str, JSON] = {"role": "assistant", "content": content, **message}
    if calls is not None:
        read["tool_calls"] = _read_tool_calls(calls)
    return read


def _read_tool_calls(calls: object) -> list[JSON]:
    if not isinstance(calls, list):
        raise AnswerError(f"message.tool_calls must be a list, not {type(calls).__name__}")
    read: list[JSON] = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise AnswerError(f"message.tool_calls[{index}].function must be an object")
        for name in ("name", "arguments"):
            if not isinstance(function.get(name), str):
                # Arguments that are not valid JSON are let through: models do that, and agents must cope.
                raise AnswerError(f"message.tool_calls[{index}].function.{name} must be a string")
        read.append({"id": f"call_{new_id()}", "type": "function", **call})
    return read


def encode_stream(completion: Mapping[str, Any], *, include_usage: bool) -> bytes:
    """Return a completion as the text of an event stream, `[DONE]` included.

    Args:
        completion: A chat completion.
        include_usage: Whether the request asked for a last chunk with the token counts. It is left out when the
            completion has none.
    """
    events = [b"data: " + encode(chunk) + b"\n\n" for chunk in chunks(completion, include_usage=include_usage)]
    return b"".join([*events, DONE])


def chunks(completion: Mapping[str, Any], *, include_usage: bool) -> Iterator[dict[str, JSON]]:
    """Yield the `chat.completion.chunk` objects that a completion is streamed as."""
    envelope = {
        "id": completion["id"],
        "object": "chat.completion.chunk",
        "created": completion["created"],
        "model": completion["model"],
    }
    extra = {key: value for key, value in completion.items() if key not in _COMPLETION_KEYS}
    for choice in completion["choices"]:
        index = choice["index"]
        for delta in _deltas(choice["message"]):
            yield {**envelope, **extra, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
            extra = {}
        # Log probabilities and token ids go with the closing chunk, in one piece.
        rest = {key: value for key, value in choice.items() if key not in _CHOICE_KEYS}
        yield {**envelope, "choices": [{"index": index, "delta": {}, "finish_reason": choice["finish_reason"], **rest}]}
    usage = completion.get("usage")
    if include_usage and usage is not None:
        yield {**envelope, "choices": [], "usage": usage}


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, JSON]]:
    known = {"role", "content", "tool_calls", "reasoning_content"}
    rest = {key: value for key, value in message.items() if key not in known}
    if message.get("content") == "":
        rest["content"] = ""  # empty is not null
    yield {"role": "assistant", **rest}
    for name in ("reasoning_content", "content"):
        for piece in _pieces(message.get(name) or ""):
            yield {name: piece}
    for index, call in enumerate(message.get("tool_calls") or ()):
        arguments = call["function"]["arguments"]
        yield {"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}
        for piece in _pieces(arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_LENGTH):
        yield text[start : start + _PIECE_LENGTH]


def parse_stream(stream: bytes) -> dict[str, JSON] | None:
    """Return the completion that an event stream of chunks amounts to.

    Returns:
        A chat completion, or None when the stream holds no chunk. Lines that are no JSON objects are passed over: what
        came over the wire is kept beside it.
    """
    completion: dict[str, JSON] = {}
    choices: dict[int, dict[str, JSON]] = {}
    for line in stream.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            chunk = json.loads(line[5:])
        except ValueError:
            continue
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            continue
        for key, value in chunk.items():
            if key != "choices" and (value is not None or key not in completion):
                completion[key] = value
        for choice in chunk["choices"]:
            if isinstance(choice, dict):
                _merge_choice(choices.setdefault(choice.get("index") or 0, _empty_choice()), choice)
    if not completion and not choices:
        return None
    merged = [{"index": index, **choices[index]} for index in sorted(choices)]
    return {**completion, "object": "chat.completion", "choices": merged}


def _empty_choice() -> dict[str, JSON]:
    return {"message": {"role": "assistant", "content": None}, "finish_reason": None}


def _merge_choice(merged: dict[str, JSON], choice: dict[str, JSON]) -> None:
    for key, value in choice.items():
        if key in ("index", "delta") or value is None:
            continue
        merged[key] = _joined(merged.get(key), value) if key != "finish_reason" else value
    message = merged["message"]
    for key, value in (choice.get("delta") or {}).items():
        if key == "tool_calls":
            _merge_tool_calls(message.setdefault("tool_calls", []), value or [])
        elif key == "role":
            message["role"] = value or "assistant"
        elif value is not None:
            message[key] = _joined(message.get(key), value)


def _merge_tool_calls(calls: list[JSON], deltas: list[JSON]) -> None:
    for delta in deltas:
        index = delta.get("index", len(calls) - 1 if not delta.get("id") else len(calls))
        while len(calls) <= index:
            calls.append({"function": {"name": "", "arguments": ""}})
        call = calls[index]
        for key, value in delta.items():
            if key == "function":
                for name, piece in (value or {}).items():
                    call["function"][name] = _joined(call["function"].get(name), piece)
            elif key != "index" and value is not None:
                call[key] = value


def _joined(before: JSON, piece: JSON) -> JSON:
    if isinstance(before, str) and isinstance(piece, str):
        return before + piece
    if isinstance(before, list) and isinstance(piece, list):
        return before + piece
    if isinstance(before, dict) and isinstance(piece, dict):
        return {key: _joined(before.get(key), piece.get(key)) for key in {**before, **piece}}
    return before if piece is None else piece


def read_token_ids(response: object) -> tuple[int, ...] | None:
    """Return the ids of the sampled tokens of a completion's first choice, None when it has none."""
    ids = _first_choice(response).get("token_ids")
    if not isinstance(ids, list) or not all(type(item) is int for item in ids):
        return None
    return tuple(ids)


def read_logprobs(response: object) -> tuple[float, ...] | None:
    """Return the natural log probability of each sampled token of a completion's first choice, None without them."""
    logprobs = _first_choice(response).get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list) or not content:
        return None
    values = [item.get("logprob") if isinstance(item, Mapping) else None for item in content]
    if not all(isinstance(value, int | float) for value in values):
        return None
    return tuple(float(value) for value in values if value is not None)


def _first_choice(response: object) -> Mapping[str, Any]:
    choices = response.get("choices") if isinstance(response, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}
