"""OpenAI's Responses API in front of a policy that speaks chat completions: requests in, answers and events out.

What has no counterpart in chat completions is refused with a 400 that names it, never dropped: hosted tools, stored
conversations, and input items other than messages, function calls and their outputs (reasoning items are the exception:
chat requests do not carry a model's earlier reasoning).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal, encode
from aws_rft_sdk.runtime.decode import read_object

_SAME_NAME = ("model", "temperature", "top_p", "parallel_tool_calls", "top_logprobs", "user", "seed", "stop")
_TEXT_BLOCKS = ("input_text", "output_text", "text")


def read_request(body: bytes) -> dict[str, JSON]:
    """Return a request to `/v1/responses`.

    Raises:
        Refusal: 400, it is no object, has no input, or builds upon a stored conversation.
    """
    request = read_object(body)
    if not isinstance(request.get("input"), str | list) or not request["input"]:
        raise Refusal(400, "input must be text or a non-empty list")
    if request.get("previous_response_id") is not None or request.get("conversation") is not None:
        raise Refusal(400, "previous_response_id and conversation are not supported: send the whole input each time")
    for name, kind, text in (("tools", list, "a list"), ("reasoning", dict, "an object"), ("text", dict, "an object")):
        if request.get(name) is not None and not isinstance(request[name], kind):
            raise Refusal(400, f"{name} must be {text}")
    return request


def to_chat(request: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the chat request that means the same.

    Raises:
        Refusal: 400, something in it has no counterpart; the message names it.
    """
    translated: dict[str, JSON] = {name: request[name] for name in _SAME_NAME if request.get(name) is not None}
    translated["messages"] = _messages(request)
    if request.get("max_output_tokens") is not None:
        translated["max_tokens"] = request["max_output_tokens"]
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
    """Return the answer in the form of the Responses API that a chat completion amounts to.

    Args:
        completion: A chat completion; its first choice counts.
        request: What was asked, for the fields that an answer repeats.
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
        "output": list(_output(choice.get("message") or {})),
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "temperature": request.get("temperature"),
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
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


def _output(message: Mapping[str, Any]) -> Iterator[JSON]:
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        content = [{"type": "reasoning_text", "text": reasoning}]
        yield {"id": _new_id("rs"), "type": "reasoning", "summary": [], "content": content, "status": "completed"}
    if message.get("content"):
        text = {"type": "output_text", "text": message["content"], "annotations": [], "logprobs": []}
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
        yield {"type": "response.reasoning_text.delta", **place, "delta": text}
        yield {"type": "response.reasoning_text.done", **place, "text": text}
        return
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    yield {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}
