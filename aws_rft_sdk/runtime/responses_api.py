"""OpenAI's Responses API in front of a policy that speaks chat completions: requests in, answers and events out.

A request that has no counterpart in chat completions gets a 400 that names the field: hosted tools, stored
conversations, background answers, and input items other than messages, function calls and their outputs. Reasoning
items are the one exception. They are left out, because chat requests do not carry a model's earlier reasoning.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal, encode
from aws_rft_sdk.runtime.decode import read_object

_SAME_NAME = ("model", "temperature", "top_p", "parallel_tool_calls", "top_logprobs", "user", "seed", "stop")
_STORED = ("previous_response_id", "conversation", "prompt")
_LOGPROBS = "message.output_text.logprobs"
_TEXT_BLOCKS = ("input_text", "output_text", "text")


def read_request(body: bytes) -> dict[str, JSON]:
    """Return a request to `/v1/responses`.

    Raises:
        Refusal: 400 if it is no object, has no input, needs something stored, or has a field of a wrong type.
    """
    request = read_object(body)
    if not isinstance(request.get("input"), str | list) or not request["input"]:
        raise Refusal(400, "input must be text or a non-empty list")
    for name in _STORED:
        if request.get(name) is not None:
            raise Refusal(400, f"{name} is not supported: the runtime stores nothing. Send the whole input each time")
    if request.get("background") not in (None, False):
        raise Refusal(400, "background is not supported: the runtime answers each call at once. Leave background out")
    types = (("tools", list, "a list"), ("include", list, "a list"), ("reasoning", dict, "an object"))
    for name, kind, text in (*types, ("text", dict, "an object")):
        if request.get(name) is not None and not isinstance(request[name], kind):
            raise Refusal(400, f"{name} must be {text}")
    top = request.get("top_logprobs")
    if top is not None and (type(top) is not int or not 0 <= top <= 20):
        raise Refusal(400, f"top_logprobs must be a whole number from 0 to 20, not {top!r:.80}")
    return request


def _wants_logprobs(request: Mapping[str, Any]) -> bool:
    return _LOGPROBS in (request.get("include") or ()) or request.get("top_logprobs") is not None


def to_chat(request: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the chat request that means the same.

    Raises:
        Refusal: 400 if a field has no counterpart. The message names the field.
    """
    translated: dict[str, JSON] = {name: request[name] for name in _SAME_NAME if request.get(name) is not None}
    translated["messages"] = _messages(request)
    if request.get("max_output_tokens") is not None:
        translated["max_tokens"] = request["max_output_tokens"]
    if _wants_logprobs(request):
        translated["logprobs"] = True
    effort = (request.get("reasoning") or {}).get("effort")
    if effort is not None:
        translated["reasoning_effort"] = effort
    if request.get("tools"):
        translated["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(request["tools"])]
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    if choice is not None:
        translated["tool_choice"] = choice
    text_format = (request.get("text") or {}).get("format") or {}
    if not isinstance(text_format, Mapping):
        raise Refusal(400, "text.format must be an object")
    if text_format.get("type") == "json_schema":
        schema = {key: value for key, value in text_format.items() if key != "type"}
        translated["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif text_format.get("type") == "json_object":
        translated["response_format"] = {"type": "json_object"}
    return translated


def _messages(request: Mapping[str, Any]) -> list[JSON]:
    messages: list[JSON] = []
    if request.get("instructions"):
        messages.append({"role": "system", "content": request["instructions"]})
    items = request["input"]
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for index, item in enumerate(items):
        where = f"input[{index}]"
        if not isinstance(item, Mapping):
            raise Refusal(400, f"{where} must be an object")
        kind = item.get("type") or "message"
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _content(item.get("content"), where)})
        elif kind == "function_call":
            _add_tool_call(messages, item)
        elif kind == "function_call_output":
            content = _content(item.get("output"), where)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            raise Refusal(400, f"{where}.type is {kind!r:.80}, which has no counterpart in chat completions")
    return messages


def _add_tool_call(messages: list[JSON], item: Mapping[str, Any]) -> None:
    # In chat format the calls of one turn, and the text before them, are one message.
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    messages[-1].setdefault("tool_calls", []).append(call)


def _content(content: object, where: str) -> JSON:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refusal(400, f"{where}.content must be text or a list of blocks")
    blocks: list[JSON] = []
    for block in content:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind in _TEXT_BLOCKS:
            blocks.append({"type": "text", "text": block.get("text")})
        elif kind == "input_image" and block.get("image_url"):
            blocks.append({"type": "image_url", "image_url": {"url": block["image_url"]}})
        elif kind == "input_file" and block.get("file_data"):
            file = {name: block[name] for name in ("filename", "file_data") if name in block}
            blocks.append({"type": "file", "file": file})
        else:
            raise Refusal(400, f"{where}.content has a block of type {kind!r:.80}, which is not supported")
    return blocks


def _tool(tool: object, where: str) -> JSON:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, Mapping) else tool
        raise Refusal(400, f"{where} is {kind!r:.80}: only function tools are supported")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def from_chat(completion: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, JSON]:
    """Return a chat completion as an answer of the Responses API.

    Args:
        completion: A chat completion, as `chat.read_answer` returns it. Only its first choice is used.
        request: The request, for the fields that an answer repeats.
    """
    choice = completion["choices"][0]
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(choice.get("finish_reason") or "")
    answer: dict[str, JSON] = {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": completion.get("created", 0),
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": cut} if cut else None,
        "instructions": request.get("instructions"),
        "metadata": request.get("metadata") or {},
        "model": completion.get("model") or request.get("model"),
        "output": list(_output(choice["message"], _logprobs(choice) if _wants_logprobs(request) else [])),
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "temperature": request.get("temperature"),
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "top_logprobs": request.get("top_logprobs"),
        "top_p": request.get("top_p"),
    }
    usage = completion.get("usage")
    if isinstance(usage, Mapping):
        answer["usage"] = _usage(usage)
    return answer


def _usage(usage: Mapping[str, Any]) -> dict[str, JSON]:
    prompt, sampled = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    prompt_details, details = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": prompt_details.get("cached_tokens") or 0},
        "output_tokens": sampled,
        "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens") or prompt + sampled,
    }


def _logprobs(choice: Mapping[str, Any]) -> list[JSON]:
    """Return the log probability of each token in the form of the Responses API, where no field is null."""
    logprobs = choice.get("logprobs")
    tokens = _objects(logprobs.get("content")) if isinstance(logprobs, Mapping) else []
    return [
        {**_token(token), "top_logprobs": [_token(top) for top in _objects(token.get("top_logprobs"))]}
        for token in tokens
    ]


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _token(token: Mapping[str, Any]) -> dict[str, JSON]:
    text = str(token.get("token") or "")
    raw = token.get("bytes")
    return {
        "token": text,
        "logprob": token.get("logprob"),
        "bytes": list(text.encode("utf-8", "replace")) if raw is None else raw,
    }


def _output(message: Mapping[str, Any], logprobs: list[JSON]) -> Iterator[JSON]:
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        content = [{"type": "reasoning_text", "text": reasoning}]
        yield {"id": _new_id("rs"), "type": "reasoning", "summary": [], "content": content, "status": "completed"}
    if message.get("content"):
        text = {"type": "output_text", "text": message["content"], "annotations": [], "logprobs": logprobs}
        yield {
            "id": _new_id("msg"),
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
    for call in message.get("tool_calls") or ():
        yield {
            "id": _new_id("fc"),
            "type": "function_call",
            "call_id": call.get("id"),
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
            "status": "completed",
        }


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def encode_stream(answer: Mapping[str, Any]) -> bytes:
    """Return an answer as the text of an event stream."""
    parts = []
    for number, event in enumerate(_events(answer)):
        data = encode({**event, "sequence_number": number})
        parts.append(b"event: " + event["type"].encode() + b"\ndata: " + data + b"\n\n")
    return b"".join(parts)


def _events(answer: Mapping[str, Any]) -> Iterator[dict[str, JSON]]:
    begun = {**answer, "status": "in_progress", "output": [], "incomplete_details": None}
    begun.pop("usage", None)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(answer["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        empty = "arguments" if item["type"] == "function_call" else "content"
        opened = {**item, "status": "in_progress", empty: "" if empty == "arguments" else []}
        yield {"type": "response.output_item.added", "output_index": index, "item": opened}
        yield from _item_events(item, place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{answer['status']}", "response": answer}


def _item_events(item: Mapping[str, Any], place: dict[str, JSON]) -> Iterator[dict[str, JSON]]:
    if item["type"] == "function_call":
        arguments, name = item["arguments"], item["name"]
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": arguments, "name": name}
        return
    part = item["content"][0]
    place = {**place, "content_index": 0}
    text = part["text"]
    if item["type"] == "reasoning":
        yield {"type": "response.reasoning_part.added", **place, "part": {**part, "text": ""}}
        yield {"type": "response.reasoning_text.delta", **place, "delta": text}
        yield {"type": "response.reasoning_text.done", **place, "text": text}
        yield {"type": "response.reasoning_part.done", **place, "part": part}
        return
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": "", "logprobs": []}}
    yield {"type": "response.output_text.delta", **place, "delta": text, "logprobs": part["logprobs"]}
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": part["logprobs"]}
    yield {"type": "response.content_part.done", **place, "part": part}
