"""OpenAI's chat completions: made from a policy's answers, written and read as event streams, read for training.

The table "What upstream servers send" in `docs/runtime.md` lists the deviations that are understood here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import encode, new_id

MODEL_NAME = "default"

_PIECE_LENGTH = 48
# Keys of a choice or a completion that have a place of their own in chunks.
_CHOICE_KEYS = frozenset({"index", "message", "finish_reason"})
_COMPLETION_KEYS = frozenset({"id", "object", "created", "model", "choices", "usage"})
_CLOSING_MARK = re.compile(rb"(?<![^\r\n])data:[ \t]*\[DONE\]")


class AnswerError(ValueError):
    """A policy's answer is no assistant message. The message says what is wrong with it."""


class StreamError(ValueError):
    """A stream is no whole chat completion. The message says what is wrong."""


def read_answer(value: object, request: Mapping[str, Any]) -> dict[str, JSON]:
    """Return a policy's answer as a chat completion.

    Args:
        value: Text, an assistant message, or a whole chat completion (an object with `choices`). A whole completion is
            kept; only what every completion must have is filled in.
        request: The chat request. Names the model if the answer does not.

    Returns:
        A chat completion object. It has `usage` only if the policy gave it: the runtime invents no token counts.

    Raises:
        AnswerError: `value` is none of these. The text names the field.
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
    return [_choice(index, choice, may_be_empty=True) for index, choice in enumerate(choices)]


def _choice(index: int, choice: Mapping[str, Any], *, may_be_empty: bool = False) -> dict[str, JSON]:
    message = choice.get("message")
    # A model server says null where its model said nothing; in a message of a function that is a mistake.
    if may_be_empty and isinstance(message, Mapping) and not (message.get("content") or message.get("tool_calls")):
        message = {**message, "content": ""}
    message = _read_message(message)
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


# --- event streams ---------------------------------------------------------------------------------------------------


def encode_stream(completion: Mapping[str, Any], *, include_usage: bool) -> bytes:
    """Return a completion as the text of an event stream, with `[DONE]` at its end.

    Args:
        completion: A chat completion, as `chat.read_answer` returns it.
        include_usage: Whether the request asked for a last chunk with the token counts. A completion without token
            counts gets no such chunk.
    """
    events = [b"data: " + encode(chunk) + b"\n\n" for chunk in chunks(completion, include_usage=include_usage)]
    return b"".join([*events, b"data: [DONE]\n\n"])


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
        # Log probabilities and token ids travel in the closing chunk, in one piece.
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


def end_to_send(received: bytearray, sent: int) -> int:
    """Return the end of the part that may be sent before the turn is recorded.

    Only whole lines are sent, and nothing from the closing mark on: an agent that has the mark may seal at once.

    Args:
        received: The stream so far.
        sent: How many of its bytes were sent.
    """
    end = max(received.rfind(b"\n", sent), received.rfind(b"\r", sent), sent - 1) + 1
    mark = _CLOSING_MARK.search(received, sent, end)
    return end if mark is None else mark.start()


def parse_stream(stream: bytes) -> dict[str, JSON] | None:
    """Return the chat completion that an event stream of chunks adds up to, or None if the stream has no chunk.

    Data that is no JSON object is ignored.

    Raises:
        StreamError: The stream reports an error, or ends before its closing mark and before its choices are finished.
    """
    completion: dict[str, JSON] = {}
    choices: dict[int, dict[str, JSON]] = {}
    done = False
    for event, data in _read_events(stream):
        for value in _read_data(data):
            if value == "[DONE]":
                done = True
            elif isinstance(value, dict):
                _check_for_error(event, value)
                _merge_chunk(completion, choices, value)
    if not choices:
        return None
    if not done and not all(choice["finish_reason"] for choice in choices.values()):
        raise StreamError("its stream ended before the answer was complete")
    for choice in choices.values():
        for call in choice["message"].get("tool_calls") or ():
            del call["index"]
    merged = [{"index": index, **_whole(choices[index])} for index in sorted(choices)]
    return {**completion, "object": "chat.completion", "choices": merged}


def _read_events(stream: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield the name and the data lines of each event."""
    name, data = b"", list[bytes]()
    for line in [*stream.splitlines(), b""]:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"error":  # a field of llama.cpp's own
            yield b"error", [value]
        elif not line:
            if data:
                yield name, data
            name, data = b"", []


def _read_data(lines: list[bytes]) -> Iterator[JSON]:
    """Yield the value of an event's data lines. Yields one value per line if a server leaves out the blank lines."""
    for text in ([b"\n".join(lines)], lines):
        values = [_read_value(line) for line in text]
        if any(value is not None for value in values):
            yield from values
            return


def _read_value(text: bytes) -> JSON:
    if text.strip() == b"[DONE]":
        return "[DONE]"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _check_for_error(event: bytes, value: dict[str, JSON]) -> None:
    error = value.get("error") or (value if event == b"error" or value.get("object") == "error" else None)
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise StreamError(f"its stream reports an error: {message or error!s:.500}")


def _merge_chunk(completion: dict[str, JSON], choices: dict[int, dict[str, JSON]], chunk: dict[str, JSON]) -> None:
    if "choices" not in chunk:
        return
    for key, value in chunk.items():
        if key != "choices" and (value is not None or key not in completion):
            completion[key] = value
    for choice in chunk["choices"] if isinstance(chunk["choices"], list) else ():
        if isinstance(choice, dict):
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            empty = {"message": {"role": "assistant", "content": None}, "finish_reason": None}
            _merge_choice(choices.setdefault(index, empty), choice)


def _merge_choice(merged: dict[str, JSON], choice: dict[str, JSON]) -> None:
    for key, value in choice.items():
        if key not in ("index", "delta", "message") and value is not None:
            merged[key] = value if key == "finish_reason" else _joined(merged.get(key), value)
    message, delta = merged["message"], choice.get("delta")
    for key, value in delta.items() if isinstance(delta, dict) else ():
        if key == "tool_calls":
            # Null stays away from the message, as it means the same as no tool calls.
            if isinstance(value, list):
                _merge_tool_calls(message.setdefault("tool_calls", []), value)
        elif key == "role":
            message["role"] = value or "assistant"
        elif value is not None:
            message[key] = _joined(message.get(key), value)


def _merge_tool_calls(calls: list[JSON], deltas: list[JSON]) -> None:
    for delta in deltas:
        if not isinstance(delta, dict):
            continue
        call = _find_call(calls, delta)
        if call is None:
            call = {"index": delta.get("index"), "function": {"name": "", "arguments": ""}}
            calls.append(call)
        for key, value in delta.items():
            if key == "function":
                for name, piece in value.items() if isinstance(value, dict) else ():
                    call["function"][name] = _joined(call["function"].get(name), piece)
            elif key != "index" and value:  # an empty id or type after the first delta takes nothing back
                call[key] = value


def _find_call(calls: list[JSON], delta: dict[str, JSON]) -> JSON:
    """Return the call that a delta continues, or None if the delta begins a call. Some servers send no index."""
    index, call_id, function = delta.get("index"), delta.get("id"), delta.get("function")
    if isinstance(index, int):
        return next((call for call in calls if call["index"] == index), None)
    if call_id:
        return next((call for call in calls if call.get("id") == call_id), None)
    begins = not calls or (isinstance(function, dict) and bool(function.get("name")))
    return None if begins else calls[-1]


class _Text(list[str]):
    """Pieces of a text. Thousands of them join faster at the end than one by one."""


def _joined(before: JSON, piece: JSON) -> JSON:
    """Return a value with the next piece of it. Changes `before`, and holds texts as `_Text`."""
    if isinstance(piece, str):
        if not isinstance(before, _Text):
            before = _Text([before] if isinstance(before, str) else [])
        before.append(piece)
        return before
    if type(before) is list and isinstance(piece, list):
        before += piece
        return before
    if isinstance(piece, dict):
        joined = before if isinstance(before, dict) else {}
        for key, value in piece.items():
            joined[key] = _joined(joined.get(key), value)
        return joined
    return before if piece is None else piece


def _whole(value: JSON) -> JSON:
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


# --- for training ----------------------------------------------------------------------------------------------------


def read_token_ids(response: object) -> tuple[int, ...] | None:
    """Return the ids of the sampled tokens of a completion's first choice, or None if it has none."""
    return _ids(_first_choice(response).get("token_ids"))


def read_prompt_token_ids(response: object) -> tuple[int, ...] | None:
    """Return the ids of the tokens of the request as vLLM gives them for `return_token_ids`, or None."""
    return _ids(response.get("prompt_token_ids")) if isinstance(response, Mapping) else None


def read_logprobs(response: object) -> tuple[float, ...] | None:
    """Return the natural log probability of each sampled token of the first choice, or None if there are none."""
    logprobs = _first_choice(response).get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list) or not content:
        return None
    values = [item.get("logprob") if isinstance(item, Mapping) else None for item in content]
    if not all(isinstance(value, int | float) for value in values):
        return None
    return tuple(float(value) for value in values if value is not None)


def _ids(value: object) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list) and all(type(item) is int for item in value) else None


def _first_choice(response: object) -> Mapping[str, Any]:
    choices = response.get("choices") if isinstance(response, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}
